"""A pre-training run from records to models, resumable at every moment."""

import contextlib
import dataclasses

import keras
import orbit
import tensorflow as tf
from absl import logging

from electra_tf import records
from electra_tf.configs import RUN_KEYS
from electra_tf.errors import RunStopped, UserError
from electra_tf.modeling.pretrainer import ElectraPretrainer
from electra_tf.optimization import create_optimizer
from electra_tf.tokenization import vocab_sha256
from electra_tf.training import flops, warm_start
from electra_tf.training.checkpoints import (
    create_checkpoint_manager,
    create_run_checkpoint,
    restore,
    save_checkpoint,
    saved_checkpoints,
)
from electra_tf.training.health import HealthMonitor
from electra_tf.training.loop import PretrainingEvaluator, PretrainingTrainer
from electra_tf.training.memory import choose_micro_batches, is_out_of_memory
from electra_tf.training.run_folder import CHECKPOINTS, RunFolder
from electra_tf.training.stopping import StopRequest
from electra_tf.training.strategies import (
    any_worker,
    check_divisible,
    compiles,
    distribute,
    is_chief,
    noticing_lost_workers,
    num_devices,
    sub_batch_rows,
)

_COUNTED_EXAMPLES = 8192  # Training examples whose tokens tell which ones are frequent.


@noticing_lost_workers()
def pretrain(
    config,
    tokenizer,
    train_data,
    output_dir,
    eval_data=None,
    init_from=None,
    continue_schedule=False,
    strategy=None,
    jit_compile=None,
    skip_corrupt=False,
    on_start=None,
    on_progress=None,
):
    """Trains, or goes on where a run on the same folder stopped.

    ```python
    pretrain(load_pretraining_config("tiny"), tokenizer, "records", "runs/tiny", "records/eval")
    ```

    At the end of a stretch of steps the metrics are written, then comes the evaluation, the export
    and last the checkpoint: what a checkpoint stands for is complete.

    Args:
      config: `configs.PretrainingConfig`; its `vocab_size` is the tokenizer's.
      tokenizer: `Tokenizer` of the records.
      train_data, eval_data: folder or glob of shards; without `eval_data` nothing is evaluated.
      output_dir: run folder.
      init_from: folder whose weights a new run begins with, see `warm_start.import_networks`; None
        for random ones. It is evaluated before its first step then.
      continue_schedule: whether the new run takes over the step and Adam's moments of `init_from`'s
        newest checkpoint, too.
      strategy: `tf.distribute.Strategy`, None for one device. In a run of several workers each one
        calls this with the same arguments, and the chief alone writes the folder.
      jit_compile: whether XLA compiles the gradients; None for `strategies.compiles`.
      skip_corrupt: leave out unreadable records instead of stopping.
      on_start: function of the step that the run begins or goes on at.
      on_progress: function of (step, metrics, epoch, number of epochs), called after each loop.

    Returns:
      the trained `ElectraPretrainer`.

    Raises:
      UserError: data, vocabulary, configuration or folder do not fit together.
      RunStopped: SIGTERM or Ctrl-C came; a checkpoint is saved.
      WorkerLost: another worker is gone.
    """
    strategy = strategy or tf.distribute.get_strategy()
    check_divisible(config, strategy)
    batches = _open(
        config, tokenizer, train_data, "--train_data", skip_corrupt, config.train_batch_size
    )
    eval_batches = None
    if eval_data:
        eval_batches = _open(
            config, tokenizer, eval_data, "--eval_data", skip_corrupt, config.eval_batch_size
        )
    else:
        logging.warning("no --eval_data: the run is not evaluated on held-out text")
    data = {
        "vocab_sha256": vocab_sha256(tokenizer.vocab),
        "num_train_examples": batches.num_examples,
        "init_from": init_from,
        "continue_schedule": continue_schedule,
    }
    if init_from and not is_begun(output_dir):
        check = warm_start.check_run if continue_schedule else warm_start.check_networks
        check(config, tokenizer, init_from)
    run = RunFolder(output_dir, config, data, RUN_KEYS, is_writer=is_chief(strategy))

    keras.utils.set_random_seed(config.seed)
    model = create_model(
        config, tokenizer.mask_id, tokenizer.special_ids, strategy, jit_compile=jit_compile
    )
    checkpoint, num_parts = create_run_checkpoint(model)
    manager = create_checkpoint_manager(
        checkpoint, run.join(CHECKPOINTS), config.keep_checkpoint_max
    )
    first_step = restore(checkpoint, manager.directory, model)
    is_new = first_step == 0
    # An earlier start may have got as far as the evaluation before the first step.
    run.cut_metrics(-1 if is_new else first_step)
    if not is_new:
        logging.info("resumed at step %d", first_step)
    elif continue_schedule:
        first_step = warm_start.restore_run(checkpoint, model, init_from)
        num_parts.assign(0)  # The other run's; `auto` measures this one.
    elif init_from:
        for note in warm_start.import_networks(model, init_from):
            logging.info("--init_from: %s", note)
    if on_start:
        on_start(first_step)
    if first_step < config.num_train_steps:
        config = model.config = _with_micro_batches(config, num_parts, model, strategy)
        evaluates_first = is_new and init_from is not None
        with _naming_records(batches, eval_batches):
            _train(
                config,
                tokenizer,
                strategy,
                model,
                batches,
                eval_batches,
                run,
                manager,
                on_progress,
                evaluates_first,
            )
    return model


def is_begun(output_dir):
    """Whether a run folder has a checkpoint: what a run began with is not needed any more."""
    return bool(saved_checkpoints(tf.io.gfile.join(output_dir, CHECKPOINTS)))


def create_model(config, mask_id, special_ids, strategy, jit_compile=None):
    """The `ElectraPretrainer` of a run, compiled in the way that is fastest on a strategy's devices.

    Args:
      config, mask_id, special_ids: of `ElectraPretrainer`.
      strategy: `tf.distribute.Strategy`.
      jit_compile: whether XLA compiles the gradients; None for `strategies.compiles`.
    """
    jit_compile = compiles(strategy) if jit_compile is None else jit_compile
    rows = config.train_batch_size // strategy.num_replicas_in_sync
    with strategy.scope():
        model = ElectraPretrainer(config, mask_id, special_ids)
        model.compile(
            create_optimizer(config),
            jit_compile=jit_compile,
            sub_batch_rows=None if jit_compile else sub_batch_rows(rows),
        )
    return model


def _with_micro_batches(config, num_parts, model, strategy):
    """Replaces `auto`: by what this run had before, so that it goes on to the same bits, or measured."""
    number = config.gradient_accumulation_steps
    if number == "auto":
        number = int(num_parts.numpy())
        rows = config.train_batch_size // strategy.num_replicas_in_sync
        if number == 0 or rows % number:
            number = choose_micro_batches(model, strategy, config.train_batch_size)
    num_parts.assign(number)
    return dataclasses.replace(config, gradient_accumulation_steps=number)


def _open(config, tokenizer, pattern, flag, skip_corrupt, batch_size):
    shards = records.read_shards(records.find_shards(pattern), skip_corrupt)
    records.check_records(shards, flag, config, tokenizer)
    return records.RecordBatches(shards, batch_size, config.max_seq_length)


class _Training:
    """The steps of a run from one checkpoint's to the last, with all that happens between them."""

    def __init__(self, config, tokenizer, strategy, model, run, manager, health, on_progress):
        self._config, self._tokenizer, self._strategy = config, tokenizer, strategy
        self._model, self._run, self._manager, self._health = model, run, manager, health
        self._on_progress = on_progress
        self._is_writer = is_chief(strategy)
        self._stop = StopRequest()
        self._phase = "training"

    @property
    def _step(self):
        return int(self._model.optimizer.iterations.value.numpy())

    def run(self, trainer, evaluator, evaluates_first):
        """Trains to the last step, or until asked to stop; raises what `pretrain` does.

        Args:
          trainer, evaluator: orbit's; None for no evaluation.
          evaluates_first: whether to evaluate before the first step, too.
        """
        config, run = self._config, self._run
        controller = orbit.Controller(
            strategy=self._strategy,
            global_step=self._model.optimizer.iterations.value,
            trainer=trainer,
            evaluator=evaluator,
            train_actions=[self._after_training],
            eval_actions=[self._after_evaluation],
            steps_per_loop=config.metrics_steps,
            summary_dir=run.join("tensorboard", "train") if self._is_writer else None,
            eval_summary_dir=run.join("tensorboard", "eval") if self._is_writer else None,
        )
        try:
            with self._stop.listening():
                if evaluator and evaluates_first:
                    self._phase = "evaluation"
                    controller.evaluate()
                while self._step < config.num_train_steps and not self._stop.is_agreed:
                    self._phase = "training"
                    controller.train(next_stop(config, self._step))
                    self._at_a_stop(controller)
        except RunStopped:
            self._save()
        except tf.errors.OpError as error:
            if is_out_of_memory(error):
                raise UserError(self._out_of_memory()) from None
            raise
        if self._step < config.num_train_steps:
            raise RunStopped(
                f"saved at step {self._step:,} of {config.num_train_steps:,}; the same command goes "
                "on from there"
            )

    def _after_training(self, metrics):
        config, step = self._config, self._step
        self._run.write_metrics(step, "train", metrics)
        self._health.after_training(step, metrics)
        if self._on_progress:
            epochs = config.train_batch_size / self._health.num_train_examples
            self._on_progress(step, metrics, step * epochs, config.num_train_steps * epochs)
        self._refuse_to_skip_on(step)
        if any_worker(self._strategy, self._stop.is_set):
            self._stop.is_agreed = True
            if step != next_stop(config, step - 1):  # Else what is due comes first.
                raise RunStopped

    def _after_evaluation(self, metrics):
        self._run.write_metrics(self._step, "eval", metrics)
        self._health.after_evaluation(self._step, metrics)

    def _at_a_stop(self, controller):
        """Evaluation, export and checkpoint, each where it is due."""
        config, run, step = self._config, self._run, self._step
        is_last = step == config.num_train_steps
        if controller.evaluator and (_divides(config.eval_steps, step) or is_last):
            self._phase = "evaluation"
            controller.evaluate()
        if config.exports_encoder_at(step):
            self._export(run.join("encoders", f"step-{step}"))
        if is_last:
            self._export(run.path)
        # A checkpoint while steps are skipped may be one of broken weights, in a good one's place.
        is_due = _divides(config.save_checkpoints_steps, step) and not self._num_skipped
        if is_due or is_last or self._stop.is_agreed:
            self._save()

    def _export(self, folder):
        if self._is_writer:
            export_models(self._model, self._tokenizer, folder)

    def _save(self):
        if self._is_writer:
            save_checkpoint(self._manager, self._step)

    @property
    def _num_skipped(self):
        return int(self._model.loss_scale.skipped_in_a_row.numpy())

    def _refuse_to_skip_on(self, step):
        config = self._config
        if self._num_skipped < config.max_skipped_steps:
            return
        saved = saved_checkpoints(self._manager.directory)
        raise UserError(
            f"step {step:,}: the gradients of the last {self._num_skipped} steps were not finite "
            f"(max_skipped_steps is {config.max_skipped_steps}), the last good checkpoint is "
            f"{saved[-1] if saved else 'none'}; lower learning_rate (now {config.learning_rate:g}) or "
            f"raise num_warmup_steps (now {config.num_warmup_steps:,}) in another --output_dir"
        )

    def _out_of_memory(self):
        config = self._config
        if self._phase == "evaluation":
            return (
                f"out of memory in evaluation; lower eval_batch_size (now {config.eval_batch_size})"
            )
        return (
            "out of memory in training; raise gradient_accumulation_steps (now "
            f"{config.gradient_accumulation_steps}; auto chooses by the memory); or in another "
            f"--output_dir lower train_batch_size (now {config.train_batch_size}) or max_seq_length "
            f"(now {config.max_seq_length}), or set mixed_precision to bfloat16 (now "
            f"{config.mixed_precision})"
        )


def _train(
    config,
    tokenizer,
    strategy,
    model,
    batches,
    eval_batches,
    run,
    manager,
    on_progress,
    evaluates_first,
):
    """Makes what a run consists of, and runs it."""
    peak_flops = config.peak_tflops * 1e12
    if not peak_flops:
        peak_flops = flops.measure_peak_flops(config.mixed_precision) * num_devices(strategy)
    logging.info("%s", flops.describe_cost(config, peak_flops))
    num_counted = max(1, _COUNTED_EXAMPLES // config.train_batch_size)
    token_counts = batches.token_counts(tokenizer.vocab_size, num_counted)
    padding_rate = token_counts[tokenizer.pad_id] / token_counts.sum()
    token_counts[tokenizer.pad_id] = 0
    health = HealthMonitor(config, batches.num_examples, has_eval_data=bool(eval_batches))
    health.before_training(padding_rate)
    first_step = int(model.optimizer.iterations.value.numpy())
    if config.generator == "unigram" and first_step == 0:
        model.generator.set_counts(token_counts)
    dataset = distribute(
        strategy, batches.training, config.seed, first_step, config.num_train_steps
    )
    evaluator = None
    with strategy.scope():
        trainer = PretrainingTrainer(strategy, model, dataset, peak_flops)
        if eval_batches:
            evaluator = PretrainingEvaluator(
                strategy,
                model,
                distribute(strategy, eval_batches.evaluation, config.num_eval_steps),
                next(iter(eval_batches.evaluation(1))),
                tokenizer.vocab,
                token_counts,
            )
    training = _Training(config, tokenizer, strategy, model, run, manager, health, on_progress)
    training.run(trainer, evaluator, evaluates_first)


@contextlib.contextmanager
def _naming_records(*readers):
    """Puts the `UserError` of a `RecordBatches` (or None) in the place of the pipeline's own."""
    try:
        yield
    except tf.errors.OpError:
        for reader in readers:
            if reader and reader.error:
                raise reader.error from None
        raise


def _divides(interval, step):
    return interval > 0 and step % interval == 0


def next_stop(config, step):
    """The next step after `step` at which something is evaluated, exported or saved."""
    last = config.num_train_steps
    intervals = [config.save_checkpoints_steps, config.eval_steps]
    exports = config.encoder_export_steps
    if isinstance(exports, list):
        stops = [wanted for wanted in exports if wanted > step]
    else:
        stops = []
        intervals.append(exports)
    stops += [(step // interval + 1) * interval for interval in intervals if interval]
    return min(last, *stops)


def export_models(model, tokenizer, folder):
    """Writes the trained networks, each with its tokenizer, below a folder by their names."""
    for network in model.networks:
        path = tf.io.gfile.join(folder, network.name)
        network.save_pretrained(path)
        tokenizer.save_pretrained(path)
