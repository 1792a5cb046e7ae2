"""Fine-tuning's inner loops for Orbit: training steps and evaluation."""

import time
import types
from typing import NamedTuple

import orbit

from electra_tf.training.loop import GradientStepTrainer, Sums
from electra_tf.training.metrics import ratio


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

    def evaluate(self, num_steps):
        del num_steps  # All examples.
        metrics = {}
        for number, (name, dev) in enumerate(self._dev_sets.items()):
            rows = self._predictor.predict(dev.batches, dev.features.lengths)
            predictions = self._task.predictions(rows.outputs, dev.examples, dev.features)
            values = {**self._task.metrics(predictions, dev.examples), "loss": rows.loss}
            suffix = f"_{name}" if number else ""
            metrics |= {f"{key}{suffix}": value for key, value in values.items()}
        return metrics
