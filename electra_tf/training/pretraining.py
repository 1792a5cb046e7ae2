"""A pre-training run from records to models, resumable at every moment."""

import keras
import orbit
import tensorflow as tf
from absl import logging

from electra_tf import records
from electra_tf.configs import RUN_KEYS
from electra_tf.errors import RunStopped, UserError
from electra_tf.interop import huggingface
from electra_tf.modeling.pretrainer import ElectraPretrainer
from electra_tf.optimization import create_optimizer
from electra_tf.tokenization import read_vocab, vocab_sha256
from electra_tf.training import flops
from electra_tf.training.health import HealthMonitor
from electra_tf.training.loop import PretrainingEvaluator, PretrainingTrainer
from electra_tf.training.run_folder import RunFolder, save_checkpoint
from electra_tf.training.stopping import StopRequest
from electra_tf.training.strategies import any_worker, is_chief, noticing_lost_workers

# What makes two networks' weights exchangeable; that of dropout and initialization does not.
_ARCHITECTURE_KEYS = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
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
    strategy=None,
    jit_compile=False,
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
      init_from: folder with `discriminator/` and `generator/` whose weights a new run begins with;
        None for random ones.
      strategy: `tf.distribute.Strategy`, None for one device. In a run of several workers each one
        calls this with the same arguments, and the chief alone writes the folder.
      jit_compile: whether XLA compiles the gradients.
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
    }
    if init_from:
        check_models(config, tokenizer, init_from)
    run = RunFolder(output_dir, config, data, RUN_KEYS, is_writer=is_chief(strategy))

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = ElectraPretrainer(config, tokenizer.mask_id, tokenizer.special_ids)
        model.compile(create_optimizer(config), jit_compile=jit_compile)
    # Outside of the scope: the checkpoint's own counter is no variable of the workers' together.
    checkpoint = tf.train.Checkpoint(variables=checkpoint_variables(model))
    manager = tf.train.CheckpointManager(
        checkpoint, run.join("checkpoints"), max_to_keep=config.keep_checkpoint_max
    )
    first_step = _restore(checkpoint, manager, model)
    if init_from and first_step == 0:
        import_models(model, init_from)
    run.cut_metrics(first_step)
    if on_start:
        on_start(first_step)
    if first_step < config.num_train_steps:
        _train(
            config, tokenizer, strategy, model, batches, eval_batches, run, manager, first_step,
            on_progress,
        )  # fmt: skip
    return model


def check_divisible(config, strategy):
    """Refuses a batch that replicas and micro-batches cannot share evenly."""
    num_parts = strategy.num_replicas_in_sync * config.gradient_accumulation_steps
    if config.train_batch_size % num_parts:
        raise UserError(
            f"train_batch_size={config.train_batch_size} is no multiple of {num_parts}, which is "
            f"{strategy.num_replicas_in_sync} replicas times gradient_accumulation_steps="
            f"{config.gradient_accumulation_steps}; choose one that is"
        )


def _open(config, tokenizer, pattern, flag, skip_corrupt, batch_size):
    shards = records.read_shards(records.find_shards(pattern), skip_corrupt)
    records.check_records(shards, flag, config, tokenizer)
    return records.RecordBatches(shards, batch_size, config.max_seq_length)


def checkpoint_variables(model):
    """Everything a resumed run needs, by name: weights, Adam's moments, the step.

    Masks, samples, dropout and the order of the data follow from the step and the seed.
    """
    names = {}
    for network in (model.discriminator, model.generator):
        for name, (variable, _) in huggingface.model_tensors(network).items():
            names.setdefault(id(variable), f"{network.name}/{name}")
    variables = {"step": model.optimizer.iterations.value}
    for (_, (m, v)), variable in zip(model.optimizer.slots(), model.trainable_variables):
        name = names[id(variable)]
        variables |= {name: variable.value, f"{name}/adam_m": m.value, f"{name}/adam_v": v.value}
    return variables


def _restore(checkpoint, manager, model):
    """Restores the latest checkpoint, if any; returns the step to go on at."""
    path = manager.latest_checkpoint
    if path is None:
        return 0
    try:
        checkpoint.restore(path).assert_consumed()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise UserError(
            f"{path}: cannot restore the checkpoint ({str(error).splitlines()[0]}); remove it to go "
            "on from the one before"
        ) from None
    step = int(model.optimizer.iterations.value.numpy())
    logging.info("resumed at step %d", step)
    return step


def _train(
    config, tokenizer, strategy, model, batches, eval_batches, run, manager, first_step, on_progress
):
    peak_flops = config.peak_tflops * 1e12 or flops.measure_peak_flops(config.mixed_precision)
    logging.info("%s", flops.describe_cost(config, peak_flops))
    num_counted = max(1, _COUNTED_EXAMPLES // config.train_batch_size)
    token_counts = batches.token_counts(tokenizer.vocab_size, num_counted)
    padding_rate = token_counts[tokenizer.pad_id] / token_counts.sum()
    token_counts[tokenizer.pad_id] = 0
    health = HealthMonitor(config, has_eval_data=bool(eval_batches))
    health.before_training(batches.num_examples, padding_rate)
    dataset = _distribute(
        strategy, batches.training, config.seed, first_step, config.num_train_steps
    )
    evaluator = None
    with strategy.scope():
        trainer = PretrainingTrainer(strategy, model, dataset, peak_flops)
        if eval_batches:
            evaluator = PretrainingEvaluator(
                strategy,
                model,
                _distribute(strategy, eval_batches.evaluation, config.num_eval_steps),
                next(iter(eval_batches.evaluation(1))),
                tokenizer.vocab,
                token_counts,
            )

    stop = StopRequest()

    def write_training_metrics(metrics):
        step = int(model.optimizer.iterations.value.numpy())
        run.write_metrics(step, "train", metrics)
        health.after_training(step, metrics)
        if on_progress:
            epochs = config.train_batch_size / batches.num_examples
            on_progress(step, metrics, step * epochs, config.num_train_steps * epochs)
        if any_worker(strategy, stop.is_set):
            stop.is_agreed = True
            if step != next_stop(config, step - 1):  # Else what is due comes first.
                raise RunStopped

    def write_eval_metrics(metrics):
        step = int(model.optimizer.iterations.value.numpy())
        run.write_metrics(step, "eval", metrics)
        health.after_evaluation(step, metrics)

    is_writer = is_chief(strategy)
    controller = orbit.Controller(
        strategy=strategy,
        global_step=model.optimizer.iterations.value,
        trainer=trainer,
        evaluator=evaluator,
        train_actions=[write_training_metrics],
        eval_actions=[write_eval_metrics],
        steps_per_loop=config.metrics_steps,
        summary_dir=run.join("tensorboard", "train") if is_writer else None,
        eval_summary_dir=run.join("tensorboard", "eval") if is_writer else None,
    )
    step = first_step
    try:
        with stop.listening():
            while step < config.num_train_steps and not stop.is_agreed:
                step = next_stop(config, step)
                controller.train(step)
                is_last = step == config.num_train_steps
                if eval_batches and (_divides(config.eval_steps, step) or is_last):
                    controller.evaluate()
                if not is_writer:
                    continue
                if config.exports_encoder_at(step):
                    export_models(model, tokenizer, run.join("encoders", f"step-{step}"))
                if is_last:
                    export_models(model, tokenizer, run.path)
                if _divides(config.save_checkpoints_steps, step) or is_last or stop.is_agreed:
                    save_checkpoint(manager, step)
    except RunStopped:
        step = int(model.optimizer.iterations.value.numpy())
        if is_writer:
            save_checkpoint(manager, step)
    except tf.errors.OpError:
        for cause in (batches.error, eval_batches and eval_batches.error):
            if cause:
                raise cause from None
        raise
    if step < config.num_train_steps:
        raise RunStopped(
            f"saved at step {step:,} of {config.num_train_steps:,}; the same command goes on from there"
        )


def _distribute(strategy, read, *args):
    """Lets each worker read the parts of its own replicas only."""

    def read_parts(context):
        num_parts = context.num_replicas_in_sync
        size = num_parts // context.num_input_pipelines
        first = context.input_pipeline_id * size
        return read(*args, num_parts=num_parts, parts=range(first, first + size))

    return strategy.distribute_datasets_from_function(read_parts)


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


def check_models(config, tokenizer, folder):
    """Compares the models of a folder with the run that is to begin with their weights.

    Args:
      config: `configs.PretrainingConfig`.
      tokenizer: `Tokenizer` of the run.
      folder: with `discriminator/` and `generator/`.

    Raises:
      UserError: a model is missing, or it is of another architecture or vocabulary.
    """
    for name, here in (
        ("discriminator", config.discriminator_config()),
        ("generator", config.generator_config()),
    ):
        path = tf.io.gfile.join(folder, name)
        there = huggingface.read_config(path)
        differences = [
            f"{key} is {getattr(there, key)} there and {getattr(here, key)} here"
            for key in _ARCHITECTURE_KEYS
            if getattr(there, key) != getattr(here, key)
        ]
        if differences:
            raise UserError(
                f"--init_from={folder}: the {name} is of another architecture: "
                f"{'; '.join(differences)}; give the same --config and overrides as it was made with"
            )
        vocab_file = tf.io.gfile.join(path, "vocab.txt")
        if read_vocab(vocab_file) != tokenizer.vocab:
            raise UserError(
                f"--init_from={folder}: the {name} has another vocabulary; build the records with "
                f"--vocab_file={vocab_file}"
            )


def import_models(model, folder):
    """Reads the weights that `export_models` wrote; the optimizer's moments begin at 0."""
    for network in (model.generator, model.discriminator):
        path = tf.io.gfile.join(folder, network.name)
        arrays = huggingface.read_tensors(path)
        huggingface.assign_tensors(huggingface.model_tensors(network), arrays, path)


def export_models(model, tokenizer, folder):
    """Writes `discriminator/` and `generator/`, each with its tokenizer, below a folder."""
    for network in (model.discriminator, model.generator):
        path = tf.io.gfile.join(folder, network.name)
        network.save_pretrained(path)
        tokenizer.save_pretrained(path)
