"""Fine-tuning: several trials, each resumable, the best checkpoint of each one kept."""

import dataclasses
import io
import os
import time

import keras
import numpy as np
import orbit
import tensorflow as tf
from absl import logging

from electra_tf import files
from electra_tf.configs import FINETUNING_RUN_KEYS, read_yaml
from electra_tf.errors import RunStopped, UserError
from electra_tf.interop import huggingface
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.tasks.model_folder import FinetunedModel, finetuned_tensors, save_finetuned
from electra_tf.training import pictures, statistics
from electra_tf.training.checkpoints import (
    checkpoint_variables,
    create_checkpoint_manager,
    restore,
    save_checkpoint,
)
from electra_tf.training.finetune_loop import FinetuningEvaluator, MultiTaskEvaluator
from electra_tf.training.memory import is_out_of_memory
from electra_tf.training.predictions import (
    TaskPredictions,
    metrics_of,
    set_name,
    write_predictions,
)
from electra_tf.training.row_predictor import RowPredictor, predict_examples
from electra_tf.training.run_folder import CHECKPOINTS, CONFIG_FILE, RunFolder
from electra_tf.training.stopping import StopRequest
from electra_tf.training.strategies import any_worker, is_chief, noticing_lost_workers
from electra_tf.training.task_setup import (
    FinetunedNetworks,
    Setup,
    check_eval_batch,
    create_trainer,
)

RESULT_FILE, RESULTS_FILE, OUTPUTS_FILE = "result.json", "results.json", "outputs.npz"
MODEL_FOLDER = "model"

_NEXT_ATTEMPT = 1000  # Added to the seed of a trial that is started again.
_MOST_ATTEMPTS = 5
_LENGTHS = "lengths/"  # No set's name begins so: a task's has no "/".


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
    finetune(config, [data], load_encoder("runs/small"), "runs/cola", num_trials=5)
    ```

    Args:
      config: `configs.FinetuningConfig`; trial t, from 0, has the seed `config.seed + t`.
      data: list of `task_setup.FinetuningData`, one a task. Several tasks share the encoder and are
        trained in turns; their metrics' names begin with theirs, and `score` is the mean of each
        one's own metric.
      encoder: `task_setup.Encoder`.
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
    setup = Setup(config, data, encoder, strategy, jit_compile)
    run = RunFolder(output_dir, setup.config, setup.identity, FINETUNING_RUN_KEYS, setup.is_writer)
    results, stop = [], StopRequest()
    for number in range(1, num_trials + 1):
        if stop.is_agreed:
            raise RunStopped(
                f"{number - 1} of {num_trials} trials are done; the same command goes on from there"
            )
        folder = run.join(f"trial-{number}")
        show_start = on_start and (lambda *args, number=number: on_start(number, *args))
        results.append(
            _run_trial(setup, number, folder, stop, restart_failed, show_start, on_progress)
        )
    return _summarize(run, setup, results)


def _run_trial(setup, number, folder, stop, restart_failed, on_start, on_progress):
    """The result of a trial: that of an earlier start, or a new one; a dict."""
    while True:
        attempt = _attempt(folder, setup.config.seed + number - 1)
        seed = setup.config.seed + number - 1 + attempt * _NEXT_ATTEMPT
        trial = _Trial(setup, dataclasses.replace(setup.config, seed=seed), folder, stop)
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
        any_worker(setup.strategy, False)  # All have looked at the trial that is there.
        if setup.is_writer:
            tf.io.gfile.rename(folder, f"{folder}-failed-{attempt + 1}")
        any_worker(setup.strategy, False)  # All wait for the chief.


def _attempt(folder, first_seed):
    """How often the trial in a folder was started again: by its seed, or by the folders before it."""
    config_file = tf.io.gfile.join(folder, CONFIG_FILE)
    if tf.io.gfile.exists(config_file):
        return (read_yaml(config_file, "--output_dir")["seed"] - first_seed) // _NEXT_ATTEMPT
    return len(files.glob(*os.path.split(f"{folder}-failed-*")))


class _Trial:
    """One training of a network, in a run folder of its own."""

    def __init__(self, setup, config, folder, stop):
        self._setup, self._config, self._folder, self._stop = setup, config, folder, stop
        self._run = RunFolder(folder, config, setup.identity, FINETUNING_RUN_KEYS, setup.is_writer)

    def result_there(self):
        """What a finished start of the same trial gave, or None."""
        path = self._run.join(RESULT_FILE)
        if not tf.io.gfile.exists(path):
            return None
        self._remove_what_training_needs()  # Of a start that was killed before it did.
        return files.read_json_object(path)

    def _remove_what_training_needs(self):
        if self._setup.is_writer:
            files.remove(self._run.join(CHECKPOINTS))
            self._remove_models_but()

    def _model_of(self, step):
        """Folder of the model of a step that was the best so far."""
        return self._run.join(f"{MODEL_FOLDER}-{step}")

    def _remove_models_but(self, *lines):
        """Keeps the models of some lines of metrics; a line may be None."""
        kept = {self._model_of(line["step"]) for line in lines if line}
        for path in files.glob(self._folder, f"{MODEL_FOLDER}-*"):
            if path not in kept:
                files.remove(path)

    def run(self, on_start, on_progress):
        """Trains to the last step; returns the result, a dict."""
        setup, config = self._setup, self._config
        start = time.perf_counter()
        keras.utils.set_random_seed(config.seed)
        self._model = FinetunedNetworks(setup, config.seed)
        checkpoint = tf.train.Checkpoint(variables=checkpoint_variables(self._model))
        self._manager = create_checkpoint_manager(checkpoint, self._run.join(CHECKPOINTS), 1)
        first_step = restore(checkpoint, self._manager.directory, self._model)
        if first_step:
            logging.info("resumed at step %d", first_step)
        self._lines = self._run.cut_metrics(first_step)
        self._best_at_checkpoint = self._best()
        if on_start:
            on_start(setup.num_train_steps, first_step)
        self._on_progress = on_progress
        trainer = create_trainer(setup, self._model, config.seed, first_step)
        self._predictors = [
            RowPredictor(setup.strategy, finetuner, one.task)
            for one, finetuner in zip(setup.tasks, self._model.finetuners)
        ]
        self._evaluator = self._create_evaluator()
        self._train(trainer)
        return self._finish(time.perf_counter() - start)

    def _create_evaluator(self):
        """Of the tasks with dev sets; None without any."""
        evaluators = {
            one.prefix: FinetuningEvaluator(predictor, one.task, one.dev)
            for one, predictor in zip(self._setup.tasks, self._predictors)
            if one.dev
        }
        if len(self._setup.tasks) == 1:
            return evaluators.get("")
        return MultiTaskEvaluator(evaluators) if evaluators else None

    def _train(self, trainer):
        setup, config, last = self._setup, self._config, self._setup.num_train_steps
        self._eval_steps = config.eval_steps or setup.steps_per_epoch
        self._save_steps = config.save_checkpoints_steps or self._eval_steps
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
                while self._model.step < last:
                    controller.train(self._next_stop(self._model.step))
                    step = self._model.step
                    if self._evaluator and (step % self._eval_steps == 0 or step == last):
                        controller.evaluate()
                    if step % self._save_steps == 0 or step == last:
                        self._save()
                    self._leave_if_asked_to()
        except RunStopped:
            self._save()
            raise
        except tf.errors.OpError as error:
            if is_out_of_memory(error):
                raise UserError(
                    "out of memory; raise gradient_accumulation_steps (now "
                    f"{config.gradient_accumulation_steps}), or lower eval_batch_size (now "
                    f"{config.eval_batch_size}); or in another --output_dir train_batch_size (now "
                    f"{config.train_batch_size}) or max_seq_length (now {config.max_seq_length})"
                ) from None
            raise

    def _next_stop(self, step):
        """The next step after one at which something is evaluated or saved."""
        stops = ((step // n + 1) * n for n in (self._eval_steps, self._save_steps))
        return min(self._setup.num_train_steps, *stops)

    def _leave_if_asked_to(self):
        step, last = self._model.step, self._setup.num_train_steps
        if self._stop.is_agreed and step < last:
            raise RunStopped(
                f"saved {self._folder} at step {step:,} of {last:,}; the same command goes on from there"
            )

    def _after_training(self, metrics):
        self._write("train", metrics)
        if self._on_progress:
            self._on_progress(self._model.step, metrics)
        skipped = int(self._model.loss_scale.skipped_in_a_row.numpy())
        if skipped >= self._config.max_skipped_steps:
            raise UserError(
                f"step {self._model.step:,}: the gradients of the last {skipped} steps were not finite "
                f"(max_skipped_steps is {self._config.max_skipped_steps}); lower learning_rate (now "
                f"{self._config.learning_rate:g}) in another --output_dir"
            )
        if any_worker(self._setup.strategy, self._stop.is_set):
            self._stop.is_agreed = True
            if self._model.step != self._next_stop(self._model.step - 1):
                self._leave_if_asked_to()  # Else what is due comes first.

    def _after_evaluation(self, metrics):
        self._write("eval", metrics)
        if self._best() is self._lines[-1] and self._setup.is_writer:
            save_finetuned(self._as_finetuned(metrics), self._model_of(self._model.step))
            # A start from the last checkpoint may find this step to be worse than the best one then.
            self._remove_models_but(self._lines[-1], self._best_at_checkpoint)

    def _write(self, split, metrics):
        self._run.write_metrics(self._model.step, split, metrics)
        self._lines.append({"step": self._model.step, "split": split, **metrics})

    def _save(self):
        if self._setup.is_writer:
            save_checkpoint(self._manager, self._model.step)
            self._best_at_checkpoint = self._best()
            self._remove_models_but(self._best_at_checkpoint)

    def _as_finetuned(self, metrics):
        setup = self._setup
        return [
            FinetunedModel(
                one.fitted(metrics).with_threshold(network),
                network,
                setup.encoder.tokenizer,
                one.config.max_seq_length,
            )
            for one, network in zip(setup.tasks, self._model.networks)
        ]

    def _best(self):
        """The line of the evaluation with the best metric, the first of equal ones; None without."""
        lines = [line for line in self._lines if line["split"] == "eval"]
        metric = self._setup.metric
        return max(lines, key=lambda line: statistics.goodness(metric, line[metric]), default=None)

    def _finish(self, seconds):
        """Predicts by the best checkpoint, and writes what the trial gave."""
        setup, run, best = self._setup, self._run, self._best()
        any_worker(setup.strategy, False)  # All wait for the chief's files.
        finetuned = self._as_finetuned(best or {})
        if best:
            source = self._model_of(best["step"])
            arrays = huggingface.read_tensors(source)
            huggingface.assign_tensors(finetuned_tensors(finetuned), arrays, source)
            any_worker(setup.strategy, False)  # All have read what the chief removes.
        outputs, done = {}, []
        for one, predictor, (task, *_) in zip(setup.tasks, self._predictors, finetuned):
            rows = predict_sets(predictor, one)
            done.append(TaskPredictions(one.prefix, task, predictions_of(task, one, rows)))
            if _has_outputs(one):
                outputs |= {f"{one.prefix}{name}": values for name, values in rows.items()}
        stuck = any(_is_stuck(one) for one in done)
        evaluations = [line for line in self._lines if line["split"] == "eval"]
        result = {
            "seed": self._config.seed,
            "metrics": _only_metrics(best),
            "best_step": best and best["step"],
            "final_metrics": _only_metrics(evaluations[-1] if evaluations else None),
            "test_metrics": _metrics_of_all(done, "test"),
            "num_train_steps": setup.num_train_steps,
            "is_stuck": stuck,
            "seconds": round(seconds, 1),
        }
        if setup.is_writer:
            save_finetuned(finetuned, run.join(MODEL_FOLDER))
            for one in done:
                write_predictions(self._folder, one)
            if outputs:
                _save_outputs(run.join(OUTPUTS_FILE), outputs)
            if best:
                self._draw(best, done)
            files.write_json(run.join(RESULT_FILE), result)
            self._remove_what_training_needs()
        return result

    def _draw(self, best, done):
        """TensorBoard's pictures of the finished trial: of its best checkpoint, and its course."""
        with tf.summary.create_file_writer(self._run.join("tensorboard", "eval")).as_default():
            for prefix, task, sets in done:
                examples, predictions = next(iter(sets["dev"].values()), ([], []))
                pairs = task.confusion_pairs(predictions, examples) if examples else None
                if pairs and len(task.labels) <= pictures.MOST_LABELS:
                    figure = pictures.confusion_matrix(*pairs, task.labels)
                    pictures.write_figure(f"{prefix}confusion_matrix", figure, best["step"])
            figure = pictures.learning_curve(self._lines, self._setup.metric)
            pictures.write_figure("learning_curve", figure, self._model.step)


def _is_stuck(done):
    """Whether a task's predictions are alike in each dev set whose labels are not."""
    verdicts = [
        done.task.is_stuck(predictions, examples)
        for examples, predictions in done.sets["dev"].values()
        if len({str(example.label) for example in examples}) > 1
    ]
    return bool(verdicts) and all(verdicts)


def _only_metrics(line):
    return {k: statistics.finite(v) for k, v in (line or {}).items() if k not in ("step", "split")}


def predict_sets(predictor, setup):
    """The row outputs of all dev and test sets of a `TaskSetup`, by `set_name`."""
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


def _metrics_of_all(done, split):
    return {k: v for one in done for k, v in metrics_of(one, split).items()}


def _has_outputs(one):
    """Whether a `TaskSetup` has outputs that ensembles average."""
    return one.task.averages_outputs and bool(one.dev or one.test)


def _save_outputs(path, outputs):
    """Writes row outputs, for ensembles: of each set the arrays below each other, and their lengths."""
    arrays = {}
    for name, rows in outputs.items():
        rows = [np.atleast_2d(row) for row in rows]
        arrays[name] = np.concatenate(rows)
        arrays[f"{_LENGTHS}{name}"] = np.array([len(row) for row in rows])
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write(path, content.getvalue())


def _read_outputs(path):
    with tf.io.gfile.GFile(path, "rb") as f:
        arrays = np.load(io.BytesIO(f.read()))
    return {
        name: np.split(arrays[name], np.cumsum(arrays[f"{_LENGTHS}{name}"])[:-1])
        for name in arrays.files
        if not name.startswith(_LENGTHS)
    }


def _summarize(run, setup, results):
    """Writes `results.json`, the ensemble's predictions and the best trial's model."""
    metric = setup.metric
    summary = {
        "task": ",".join(one.task.config.name for one in setup.tasks),
        "metric": metric,
        # Of several tasks, what each one's own metric is called here.
        "task_metrics": [one.prefix + one.task.metric for one in setup.tasks],
        **statistics.summarize(metric, results),
        "trials": [{"trial": number, **result} for number, result in enumerate(results, 1)],
    }
    best = summary["best"]["trial"]
    if setup.is_writer:
        good = [n for n, result in enumerate(results, 1) if not result["is_stuck"]]
        if len(good) > 1 and any(_has_outputs(one) for one in setup.tasks):
            summary["ensemble"] = _write_ensemble(run, setup, good)
        source = run.join(f"trial-{best}", MODEL_FOLDER)
        for name in tf.io.gfile.listdir(source):
            if ".tmp-" in name:
                continue  # What a process that was killed was writing.
            with tf.io.gfile.GFile(tf.io.gfile.join(source, name), "rb") as f:
                files.write(run.join(MODEL_FOLDER, name), f.read())
        files.write_json(run.join(RESULTS_FILE), summary)
    return summary


def _write_ensemble(run, setup, trials):
    """Averages the outputs of trials; returns what `results.json` says of it."""
    outputs = [_read_outputs(run.join(f"trial-{number}", OUTPUTS_FILE)) for number in trials]
    all_done = []
    for one in setup.tasks:
        if not _has_outputs(one):
            continue
        means = {}
        for name in [set_name("dev", n) for n in one.dev] + [set_name("test", n) for n in one.test]:
            same_rows = zip(*(trial[f"{one.prefix}{name}"] for trial in outputs))
            rows = [np.mean(same, axis=0) for same in same_rows]
            means[name] = rows if one.task.has_outputs_for_tokens else [row[0] for row in rows]
        done = TaskPredictions(one.prefix, one.task, predictions_of(one.task, one, means))
        write_predictions(run.join("ensemble"), done)
        all_done.append(done)
    return {
        "trials": trials,
        "metrics": _metrics_of_all(all_done, "dev"),
        "test_metrics": _metrics_of_all(all_done, "test"),
    }


def apply_model(finetuned, config, data, output_dir, split, strategy=None, prefix=""):
    """Predicts one split by a fine-tuned model, and writes the predictions.

    Args:
      finetuned: `tasks.model_folder.FinetunedModel`.
      config: `configs.FinetuningConfig`; of it `eval_batch_size` and `length_buckets` count.
      data: `task_setup.FinetuningData`.
      output_dir: where `predictions/` and `submission/` are made.
      split: "dev" or "test".
      strategy: `tf.distribute.Strategy`, None for one device.
      prefix: of the names of metrics and files.

    Returns:
      dict of the metrics where all labels are known, else empty.
    """
    strategy = strategy or tf.distribute.get_strategy()
    config = dataclasses.replace(config, max_seq_length=finetuned.max_seq_length)
    config = config.resolved(finetuned.network.config, finetuned.task.config.kind)
    check_eval_batch(config, strategy)
    task, sets = data.task, getattr(data, split)
    model = Finetuner(config, finetuned.network, task.losses, task.weights)
    predictor = RowPredictor(strategy, model, task)
    predictions = {
        name: (examples, predict_examples(predictor, task, examples, finetuned.tokenizer, config))
        for name, examples in sets.items()
    }
    done = TaskPredictions(prefix, task, {split: predictions})
    if is_chief(strategy):
        write_predictions(output_dir, done)
    return metrics_of(done, split)
