"""Fine-tuning: several trials, each resumable, the best checkpoint of each one kept."""

import dataclasses
import hashlib
import io
import json
import math
import time
from typing import NamedTuple

import keras
import numpy as np
import orbit
import tensorflow as tf
from absl import logging

from electra_tf import files
from electra_tf.configs import FINETUNING_RUN_KEYS
from electra_tf.errors import RunStopped, UserError
from electra_tf.interop import huggingface
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.modeling.trainable import DTYPE_POLICIES
from electra_tf.optimization import create_finetuning_optimizer
from electra_tf.tasks.model_folder import FinetunedModel, save_finetuned
from electra_tf.tasks.task import Task
from electra_tf.tokenization import Tokenizer
from electra_tf.training import pictures, statistics
from electra_tf.training.checkpoints import (
    checkpoint_variables,
    create_checkpoint_manager,
    restore,
    save_checkpoint,
)
from electra_tf.training.feature_batches import FeatureBatches
from electra_tf.training.finetune_loop import (
    DevSet,
    FinetuningEvaluator,
    FinetuningTrainer,
)
from electra_tf.training.memory import is_out_of_memory
from electra_tf.training.row_predictor import RowPredictor, predict_examples
from electra_tf.training.run_folder import RunFolder
from electra_tf.training.stopping import StopRequest
from electra_tf.training.strategies import (
    any_worker,
    check_divisible,
    compiles,
    distribute,
    is_chief,
    noticing_lost_workers,
    sub_batch_rows,
)

RESULT_FILE, RESULTS_FILE, OUTPUTS_FILE = "result.json", "results.json", "outputs.npz"
MODEL_FOLDER = "model"

_NEXT_ATTEMPT = 1000  # Added to the seed of a trial that is started again.
_MOST_ATTEMPTS = 5


class Encoder(NamedTuple):
    """What is fine-tuned.

    Attributes:
      config: `EncoderConfig`.
      arrays: dict of its tensors, by the names of `huggingface.encoder_tensors`.
      tokenizer: `Tokenizer`.
      sha256: of the tensors.
    """

    config: object
    arrays: dict
    tokenizer: Tokenizer
    sha256: str


def load_encoder(folder):
    """Reads the encoder and the tokenizer of a folder of ELECTRA or BERT.

    Args:
      folder: of a model, or of a run with `discriminator/` in it.

    Raises:
      UserError: a file is missing or malformed, or the vocabulary has another size.
    """
    folder = huggingface.find_encoder(folder)
    config, arrays, heads = huggingface.read_encoder(folder)
    if heads:
        logging.info("%s: left out %s", folder, ", ".join(sorted(heads)))
    tokenizer = Tokenizer.from_pretrained(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: vocab.txt has {tokenizer.vocab_size} pieces, the model "
            f"{config.vocab_size}; they belong to different models"
        )
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        sha256.update(name.encode() + arrays[name].tobytes())
    return Encoder(config, arrays, tokenizer, sha256.hexdigest())


class FinetuningData(NamedTuple):
    """A task and all of its examples.

    Attributes:
      task: `Task`.
      train: list of `Example`.
      dev, test: dicts from name of a set to list of `Example`.
    """

    task: Task
    train: list
    dev: dict
    test: dict

    @property
    def sha256(self):
        """Of the training examples."""
        text = json.dumps([example[2:] for example in self.train], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@noticing_lost_workers()
def finetune(
    config,
    data,
    encoder,
    output_dir,
    num_trials=1,
    restart_failed=False,
    strategy=None,
    jit_compile=None,
    on_start=None,
    on_progress=None,
):
    """Trains every trial that is not done yet, and writes `results.json` and the best model.

    ```python
    finetune(config, data, load_encoder("runs/small"), "runs/cola", num_trials=5)
    ```

    Args:
      config: `configs.FinetuningConfig`; trial t, from 0, has the seed `config.seed + t`.
      data: `FinetuningData`.
      encoder: `Encoder`.
      output_dir: run folder; a trial's own is `trial-1`, `trial-2` and so on below.
      num_trials: int.
      restart_failed: train trials again, with other seeds, that are stuck at one label.
      strategy: `tf.distribute.Strategy`, None for one device.
      jit_compile: whether XLA compiles the gradients; None for `strategies.compiles`.
      on_start: function of (trial, its number of steps, the step it begins at).
      on_progress: function of (step, metrics).

    Returns:
      what `results.json` holds, a dict.

    Raises:
      UserError: configuration, folder and data do not fit together.
      RunStopped: SIGTERM or Ctrl-C came; a checkpoint is saved.
    """
    strategy = strategy or tf.distribute.get_strategy()
    config = config.resolved(encoder.config, data.task.config.kind)
    check_divisible(config, strategy)
    _check_eval_batch(config, strategy)
    identity = {
        **data.task.identity,
        "train_sha256": data.sha256,
        "encoder_sha256": encoder.sha256,
    }
    run = RunFolder(output_dir, config, identity, FINETUNING_RUN_KEYS, is_chief(strategy))
    setup = _Setup(config, data, encoder, identity, strategy, jit_compile)
    results = []
    for number in range(1, num_trials + 1):
        folder = run.join(f"trial-{number}")
        show_start = on_start and (lambda *args, number=number: on_start(number, *args))
        results.append(_run_trial(setup, number, folder, restart_failed, show_start, on_progress))
    return _summarize(run, setup, results)


def _check_eval_batch(config, strategy):
    if config.eval_batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"eval_batch_size={config.eval_batch_size} is no multiple of "
            f"{strategy.num_replicas_in_sync} replicas; choose one that is"
        )


class _Setup:
    """What all trials of a run share.

    Attributes:
      config, data, encoder, identity, strategy, jit_compile: as of `finetune`; `identity` is for
        `RunFolder`.
      train: `FeatureBatches`.
      dev, test: dicts from a set's name to `DevSet`.
    """

    def __init__(self, config, data, encoder, identity, strategy, jit_compile):
        self.config, self.data, self.encoder, self.identity = config, data, encoder, identity
        self.strategy = strategy
        self.jit_compile = compiles(strategy) if jit_compile is None else jit_compile
        self.is_writer = is_chief(strategy)
        task, tokenizer = data.task, encoder.tokenizer
        examples = task.training_examples(data.train)
        features = task.features(examples, tokenizer, config.max_seq_length)
        self.train = self._batches(features, config.train_batch_size)
        self.dev, self.test = (
            {name: self._dev_set(examples) for name, examples in sets.items()}
            for sets in (data.dev, data.test)
        )
        epochs = config.num_train_epochs
        self.num_train_steps = max(1, math.ceil(self.train.steps_per_epoch * epochs))

    def _batches(self, features, batch_size):
        config = self.config
        return FeatureBatches(features, batch_size, config.max_seq_length, config.length_buckets)

    def _dev_set(self, examples):
        features = self.data.task.features(
            examples, self.encoder.tokenizer, self.config.max_seq_length
        )
        return DevSet(examples, features, self._batches(features, self.config.eval_batch_size))


def create_model(setup, config):
    """A compiled `Finetuner` of the encoder's weights and a random head."""
    encoder_config = dataclasses.replace(
        setup.encoder.config,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
    )
    rows = config.train_batch_size // setup.strategy.num_replicas_in_sync
    task = setup.data.task
    with setup.strategy.scope():
        network = task.create_network(
            encoder_config,
            head=config.head,
            classifier_dropout=config.classifier_dropout,
            recompute_activations=config.recompute_activations,
            dtype=DTYPE_POLICIES[config.mixed_precision],
        )
        tensors = huggingface.encoder_tensors(network)
        huggingface.assign_tensors(tensors, setup.encoder.arrays, "--init_from")
        model = Finetuner(config, network, task.losses, task.weights)
        model.compile(
            create_finetuning_optimizer(config, network, setup.num_train_steps),
            jit_compile=setup.jit_compile,
            sub_batch_rows=None if setup.jit_compile else sub_batch_rows(setup.strategy, rows),
        )
    return model


def _create_trainer(setup, config, model, first_step):
    read, last = setup.train.training, setup.num_train_steps
    with setup.strategy.scope():
        dataset = distribute(setup.strategy, read, config.seed, first_step, last)
        return FinetuningTrainer(setup.strategy, model, dataset)


def create_trainer(config, data, encoder, strategy, jit_compile=None):
    """The trainer of a new trial, without a run folder: for benchmarks; arguments as of `finetune`."""
    config = config.resolved(encoder.config, data.task.config.kind)
    setup = _Setup(config, data, encoder, {}, strategy, jit_compile)
    return _create_trainer(setup, config, create_model(setup, config), 0)


def _run_trial(setup, number, folder, restart_failed, on_start, on_progress):
    """The result of a trial: that of an earlier start, or a new one; a dict."""
    while True:
        attempt = len(tf.io.gfile.glob(f"{folder}-failed-*"))
        seed = setup.config.seed + number - 1 + attempt * _NEXT_ATTEMPT
        trial = _Trial(setup, dataclasses.replace(setup.config, seed=seed), folder)
        result = trial.result_there() or trial.run(on_start, on_progress)
        if not result["is_stuck"]:
            return result
        logging.warning(
            "trial %d (seed %d) is stuck: it predicts the same for every dev example%s",
            number,
            seed,
            "" if restart_failed else "; --restart_failed runs it again with another seed",
        )
        if not restart_failed or attempt == _MOST_ATTEMPTS:
            return result
        if setup.is_writer:
            tf.io.gfile.rename(folder, f"{folder}-failed-{attempt + 1}")
        any_worker(setup.strategy, False)  # All wait for the chief.


class _Trial:
    """One training of a network, in a run folder of its own."""

    def __init__(self, setup, config, folder):
        self._setup, self._config, self._folder = setup, config, folder
        self._run = RunFolder(folder, config, setup.identity, FINETUNING_RUN_KEYS, setup.is_writer)
        self._stop = StopRequest()

    def result_there(self):
        """What a finished start of the same trial gave, or None."""
        path = self._run.join(RESULT_FILE)
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path) as f:
            return json.load(f)

    def run(self, on_start, on_progress):
        """Trains to the last step; returns the result, a dict."""
        setup, config = self._setup, self._config
        start = time.perf_counter()
        keras.utils.set_random_seed(config.seed)
        self._model = create_model(setup, config)
        checkpoint = tf.train.Checkpoint(variables=checkpoint_variables(self._model))
        self._manager = create_checkpoint_manager(checkpoint, self._run.join("checkpoints"), 1)
        first_step = restore(checkpoint, self._manager, self._model)
        self._run.cut_metrics(first_step)
        self._lines = self._run.read_metrics()
        if on_start:
            on_start(setup.num_train_steps, first_step)
        self._on_progress = on_progress
        trainer = _create_trainer(setup, config, self._model, first_step)
        self._predictor = RowPredictor(setup.strategy, self._model, setup.data.task)
        self._evaluator = None
        if setup.dev:
            self._evaluator = FinetuningEvaluator(self._predictor, setup.data.task, setup.dev)
        self._train(trainer)
        return self._finish(time.perf_counter() - start)

    @property
    def _step(self):
        return int(self._model.optimizer.iterations.value.numpy())

    def _train(self, trainer):
        setup, config, last = self._setup, self._config, self._setup.num_train_steps
        eval_steps = config.eval_steps or setup.train.steps_per_epoch
        save_steps = config.save_checkpoints_steps or eval_steps
        summary_dir = self._run.join("tensorboard") if setup.is_writer else None
        controller = orbit.Controller(
            strategy=setup.strategy,
            global_step=self._model.optimizer.iterations.value,
            trainer=trainer,
            evaluator=self._evaluator,
            train_actions=[self._after_training],
            eval_actions=[self._after_evaluation],
            steps_per_loop=config.steps_per_loop or max(1, min(50, last // 50)),
            summary_dir=summary_dir and tf.io.gfile.join(summary_dir, "train"),
            eval_summary_dir=summary_dir and tf.io.gfile.join(summary_dir, "eval"),
        )
        try:
            with self._stop.listening():
                while self._step < last:
                    stops = ((self._step // n + 1) * n for n in (eval_steps, save_steps))
                    controller.train(min(last, *stops))
                    step = self._step
                    if self._evaluator and (step % eval_steps == 0 or step == last):
                        controller.evaluate()
                    if step % save_steps == 0 or step == last:
                        self._save()
        except RunStopped:
            self._save()
            raise
        except tf.errors.OpError as error:
            if is_out_of_memory(error):
                raise UserError(
                    "out of memory; raise gradient_accumulation_steps (now "
                    f"{config.gradient_accumulation_steps}), or lower train_batch_size (now "
                    f"{config.train_batch_size}), eval_batch_size (now {config.eval_batch_size}) or "
                    f"max_seq_length (now {config.max_seq_length})"
                ) from None
            raise

    def _after_training(self, metrics):
        self._write("train", metrics)
        if self._on_progress:
            self._on_progress(self._step, metrics)
        skipped = int(self._model.loss_scale.skipped_in_a_row.numpy())
        if skipped >= self._config.max_skipped_steps:
            raise UserError(
                f"step {self._step:,}: the gradients of the last {skipped} steps were not finite "
                f"(max_skipped_steps is {self._config.max_skipped_steps}); lower learning_rate (now "
                f"{self._config.learning_rate:g}) in another --output_dir"
            )
        if any_worker(self._setup.strategy, self._stop.is_set):
            last = self._setup.num_train_steps
            raise RunStopped(
                f"saved {self._folder} at step {self._step:,} of {last:,}; the same command goes on "
                "from there"
            )

    def _after_evaluation(self, metrics):
        self._write("eval", metrics)
        if self._best() is self._lines[-1] and self._setup.is_writer:
            save_finetuned(self._as_finetuned(metrics), self._run.join(MODEL_FOLDER))

    def _write(self, split, metrics):
        self._run.write_metrics(self._step, split, metrics)
        self._lines.append({"step": self._step, "split": split, **metrics})

    def _save(self):
        if self._setup.is_writer:
            save_checkpoint(self._manager, self._step)

    def _as_finetuned(self, metrics):
        setup = self._setup
        return FinetunedModel(
            setup.data.task.fitted(metrics),
            self._model.network,
            setup.encoder.tokenizer,
            self._config.max_seq_length,
        )

    def _best(self):
        """The line of the evaluation with the best metric, the first of equal ones; None without."""
        lines = [line for line in self._lines if line["split"] == "eval"]
        metric = self._setup.data.task.metric
        return max(lines, key=lambda line: statistics.goodness(metric, line[metric]), default=None)

    def _finish(self, seconds):
        """Predicts by the best checkpoint, and writes what the trial gave."""
        setup, run, best = self._setup, self._run, self._best()
        task = setup.data.task.fitted(best or {})
        if best is None and setup.is_writer:
            save_finetuned(self._as_finetuned({}), run.join(MODEL_FOLDER))
        any_worker(setup.strategy, False)  # All wait for the chief's files.
        tensors = huggingface.model_tensors(self._model.network)
        arrays = huggingface.read_tensors(run.join(MODEL_FOLDER))
        huggingface.assign_tensors(tensors, arrays, run.join(MODEL_FOLDER))
        outputs = predict_sets(self._predictor, setup)
        done = predictions_of(task, setup, outputs)
        stuck = any(
            task.is_stuck(predictions, examples) for examples, predictions in done["dev"].values()
        )
        evaluations = [line for line in self._lines if line["split"] == "eval"]
        result = {
            "seed": self._config.seed,
            "metrics": _only_metrics(best),
            "best_step": best and best["step"],
            "final_metrics": _only_metrics(evaluations[-1] if evaluations else None),
            "test_metrics": metrics_of(task, done["test"]),
            "num_train_steps": setup.num_train_steps,
            "is_stuck": stuck,
            "seconds": round(seconds, 1),
        }
        if setup.is_writer:
            write_predictions(self._folder, task, done)
            if task.averages_outputs:
                _save_outputs(run.join(OUTPUTS_FILE), outputs)
            if best:
                self._draw(best, done["dev"])
            files.write_json(run.join(RESULT_FILE), result)
            files.remove(run.join("checkpoints"))
        return result

    def _draw(self, best, dev_sets):
        """TensorBoard's pictures of the finished trial: of its best checkpoint, and its course."""
        task = self._setup.data.task
        examples, predictions = next(iter(dev_sets.values()))
        with tf.summary.create_file_writer(self._run.join("tensorboard", "eval")).as_default():
            pairs = task.confusion_pairs(predictions, examples)
            if pairs:
                figure = pictures.confusion_matrix(*pairs, task.labels)
                pictures.write_figure("confusion_matrix", figure, best["step"])
            figure = pictures.learning_curve(self._lines, task.metric)
            pictures.write_figure("learning_curve", figure, self._step)


def _only_metrics(line):
    return {k: v for k, v in (line or {}).items() if k not in ("step", "split")}


def set_name(split, name):
    """What a set's files are called: "dev", or "dev_mismatched"."""
    return f"{split}_{name}" if name else split


def predict_sets(predictor, setup):
    """The row outputs of all dev and test sets, by `set_name`."""
    return {
        set_name(split, name): predictor.predict(one.batches, one.features.lengths).outputs
        for split, sets in (("dev", setup.dev), ("test", setup.test))
        for name, one in sets.items()
    }


def predictions_of(task, setup, outputs):
    """Predictions by row outputs: dict from split to dict from set to `(examples, predictions)`."""
    return {
        split: {
            name: (
                one.examples,
                task.predictions(outputs[set_name(split, name)], one.examples, one.features),
            )
            for name, one in sets.items()
        }
        for split, sets in (("dev", setup.dev), ("test", setup.test))
    }


def metrics_of(task, sets):
    """The metrics of some sets, those of another than the first with its name at their ends.

    Args:
      task: `Task`.
      sets: dict from name to `(examples, predictions)`.

    Returns:
      dict of floats; of a set whose labels are not all known there are none.
    """
    metrics = {}
    for number, (name, (examples, predictions)) in enumerate(sets.items()):
        if all(example.label is not None for example in examples):
            values = task.metrics(predictions, examples)
            metrics |= {f"{k}_{name}" if number else k: v for k, v in values.items()}
    return metrics


def write_predictions(folder, task, done):
    """Writes a JSON line an example to `predictions/`, files of the kind's own, GLUE's to `submission/`.

    Args:
      folder: in which those are made.
      task: `Task`.
      done: dict from split to dict from name of a set to `(examples, predictions)`.
    """
    for split, sets in done.items():
        for name, (examples, predictions) in sets.items():
            lines = [
                json.dumps({"id": e.id, "label": e.label, **p}, ensure_ascii=False)
                for e, p in zip(examples, predictions)
            ]
            path = tf.io.gfile.join(folder, "predictions", set_name(split, name))
            files.write(f"{path}.jsonl", "\n".join(lines) + "\n")
            for end, content in task.files(predictions, examples).items():
                files.write_json(f"{path}_{end}.json", content)
            submission = task.config.submission_of(name) if split == "test" else None
            if submission:
                path = tf.io.gfile.join(folder, "submission", submission)
                files.write(path, task.submission(predictions, examples))


def _save_outputs(path, outputs):
    """Writes row outputs, for ensembles: of each set the arrays below each other, and their lengths."""
    arrays = {}
    for name, rows in outputs.items():
        rows = [np.atleast_2d(row) for row in rows]
        arrays[name] = np.concatenate(rows)
        arrays[f"{name}_lengths"] = np.array([len(row) for row in rows])
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write(path, content.getvalue())


def _read_outputs(path):
    with tf.io.gfile.GFile(path, "rb") as f:
        arrays = np.load(io.BytesIO(f.read()))
    return {
        name: np.split(arrays[name], np.cumsum(arrays[f"{name}_lengths"])[:-1])
        for name in arrays.files
        if not name.endswith("_lengths")
    }


def _summarize(run, setup, results):
    """Writes `results.json`, the ensemble's predictions and the best trial's model."""
    task = setup.data.task
    summary = {
        "task": task.config.name,
        "metric": task.metric,
        **statistics.summarize(task.metric, results),
        "trials": [{"trial": number, **result} for number, result in enumerate(results, 1)],
    }
    best = summary["best"]["trial"]
    if setup.is_writer:
        good = [n for n, result in enumerate(results, 1) if not result["is_stuck"]]
        if len(good) > 1 and task.averages_outputs:
            summary["ensemble"] = _write_ensemble(run, setup, good)
        source = run.join(f"trial-{best}", MODEL_FOLDER)
        for name in tf.io.gfile.listdir(source):
            with tf.io.gfile.GFile(tf.io.gfile.join(source, name), "rb") as f:
                files.write(run.join(MODEL_FOLDER, name), f.read())
        files.write_json(run.join(RESULTS_FILE), summary)
    return summary


def _write_ensemble(run, setup, trials):
    """Averages the outputs of trials; returns what `results.json` says of it."""
    task = setup.data.task
    outputs = [_read_outputs(run.join(f"trial-{number}", OUTPUTS_FILE)) for number in trials]
    means = {}
    for key in outputs[0]:
        rows = [np.mean(same, axis=0) for same in zip(*(one[key] for one in outputs))]
        means[key] = rows if task.has_outputs_for_tokens else [row[0] for row in rows]
    done = predictions_of(task, setup, means)
    write_predictions(run.join("ensemble"), task, done)
    return {
        "trials": trials,
        "metrics": metrics_of(task, done["dev"]),
        "test_metrics": metrics_of(task, done["test"]),
    }


def apply_model(finetuned, config, data, output_dir, split, strategy=None):
    """Predicts one split by a fine-tuned model, and writes the predictions.

    Args:
      finetuned: `tasks.model_folder.FinetunedModel`.
      config: `configs.FinetuningConfig`; of it `eval_batch_size` and `length_buckets` count.
      data: `FinetuningData`.
      output_dir: where `predictions/` and `submission/` are made.
      split: "dev" or "test".
      strategy: `tf.distribute.Strategy`, None for one device.

    Returns:
      dict of the metrics where all labels are known, else empty.
    """
    strategy = strategy or tf.distribute.get_strategy()
    config = dataclasses.replace(config, max_seq_length=finetuned.max_seq_length)
    config = config.resolved(finetuned.network.config, finetuned.task.config.kind)
    _check_eval_batch(config, strategy)
    task, sets = data.task, getattr(data, split)
    model = Finetuner(config, finetuned.network, task.losses, task.weights)
    predictor = RowPredictor(strategy, model, task)
    done = {
        name: (examples, predict_examples(predictor, task, examples, finetuned.tokenizer, config))
        for name, examples in sets.items()
    }
    if is_chief(strategy):
        write_predictions(output_dir, task, {split: done})
    return metrics_of(task, done)
