"""Fine-tuning's inner loops for Orbit: training steps and evaluation."""

import time
import types
from typing import NamedTuple

import numpy as np
import orbit
import tensorflow as tf

from electra_tf.training.loop import GradientStepTrainer, Sums
from electra_tf.training.metrics import ratio
from electra_tf.training.predictions import TaskPredictions, metrics_of
from electra_tf.training.statistics import goodness


class FinetuningTrainer(GradientStepTrainer):
    """Trains a `Finetuner`."""

    def __init__(self, strategy, model, dataset):
        """Makes the trainer, in the strategy's scope; arguments as of `GradientStepTrainer`."""
        names = ("loss", "weight", "examples", "tokens", "grad_norm", "steps", "skipped_steps")
        super().__init__(strategy, model, dataset, Sums({name: () for name in names}))

    def train_loop_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        return {
            "loss": ratio(sums["loss"], sums["weight"]),
            **self.loop_metrics(sums, seconds),
        }


class MultiTaskTrainer(orbit.AbstractTrainer):
    """Trains several tasks in turns: a step is a batch of one of them."""

    def __init__(self, trainers, turns):
        """Takes the trainers.

        Args:
          trainers: dict of `FinetuningTrainer`s with one optimizer, by what their metrics' names are
            to begin with.
          turns: int array, which of them each step of the run is of, from step 0 on.
        """
        # Orbit's base class would replace plain containers by wrappers.
        self._trainers, self._turns = types.MappingProxyType(trainers), turns
        self._functions = tuple(
            tf.function(trainer.train_step, autograph=False) for trainer in trainers.values()
        )
        self._iterators = tuple(iter(trainer.train_dataset) for trainer in trainers.values())

    def train(self, num_steps):
        trainers = self._trainers.values()
        for trainer in trainers:
            trainer.train_loop_begin()
        first = next(iter(trainers)).step
        turns = self._turns[first : first + int(num_steps)]
        for index in turns:
            self._functions[index](self._iterators[index])
        return self._join(
            {
                prefix: (np.sum(turns == index), trainer.train_loop_end())
                for index, (prefix, trainer) in enumerate(self._trainers.items())
                if index in turns
            }
        )

    def _join(self, results):
        """Metrics of a loop, of `(steps, metrics)` by prefix: sums, or means by steps."""
        names = next(iter(results.values()))[1]
        counts = np.array([count for count, _ in results.values()])
        joined = {f"{prefix}loss": metrics["loss"] for prefix, (_, metrics) in results.items()}
        for name in names:
            values = np.array([metrics[name] for _, metrics in results.values()])
            if name in ("loss", "grad_norm"):
                joined[name] = float(values @ counts / counts.sum())
            elif name in ("learning_rate", "loss_scale"):  # All share them.
                joined[name] = float(values[0])
            else:
                joined[name] = values.sum().item()
        return joined


class DevSet(NamedTuple):
    """Attributes: `examples`, list of `Example`; their `features`; `batches`, `FeatureBatches` of those."""

    examples: list
    features: object
    batches: object


class FinetuningEvaluator(orbit.AbstractEvaluator):
    """Computes a task's metrics on its dev sets.

    The first set's metrics have their own names, another's end in its name, as in
    `accuracy_mismatched`.
    """

    def __init__(self, predictor, task, dev_sets):
        """Takes a `RowPredictor`, a `Task` and a dict of `DevSet`s by name."""
        self._predictor, self._task = predictor, task
        # Orbit's base class would replace plain dicts, and all lists in them, by wrappers.
        self._dev_sets = types.MappingProxyType(dev_sets)

    @property
    def metric(self):
        """Name of the task's own metric."""
        return self._task.metric

    def evaluate(self, num_steps):
        del num_steps  # All examples.
        sets, losses = {}, {}
        for name, dev in self._dev_sets.items():
            rows = self._predictor.predict(dev.batches, dev.features.lengths)
            predictions = self._task.predictions(rows.outputs, dev.examples, dev.features)
            sets[name], losses[name] = (dev.examples, predictions), rows.loss
        first, *others = losses
        return {
            **metrics_of(TaskPredictions("", self._task, {"dev": sets}), "dev"),
            "loss": losses[first],
            **{f"loss_{name}": losses[name] for name in others},
        }


class MultiTaskEvaluator(orbit.AbstractEvaluator):
    """Computes the metrics of several tasks; `score` is the mean of each one's own metric."""

    def __init__(self, evaluators):
        """Takes a dict of `FinetuningEvaluator`s, by what their metrics' names are to begin with."""
        self._evaluators = types.MappingProxyType(evaluators)

    def evaluate(self, num_steps):
        metrics, scores, losses = {}, [], []
        for prefix, evaluator in self._evaluators.items():
            own = evaluator.evaluate(num_steps)
            scores.append(goodness(evaluator.metric, own[evaluator.metric]))
            losses.append(own["loss"])
            metrics |= {f"{prefix}{name}": value for name, value in own.items()}
        return {"score": float(np.mean(scores)), "loss": float(np.mean(losses)), **metrics}
