"""Pre-training's inner loops for Orbit: how steps are run, not when."""

import time

import numpy as np
import orbit
import tensorflow as tf
from orbit import controller as orbit_controller

from electra_tf.modeling.pretrainer import AUC_BINS
from electra_tf.training.metrics import pretraining_metrics

# Orbit prints each loop's output; it would break the progress bar, which says the same.
orbit_controller._log = lambda message: None

_SCALARS = (
    "examples",
    "positions",
    "tokens",
    "masked",
    "masked_lm_loss",
    "masked_lm_correct",
    "sampled_correct",
    "disc_loss",
    "disc_example_loss",
    "replaced",
    "predicted",
    "true_positive",
)
_HISTOGRAMS = ("auc_positive", "auc_negative")


class Sums:
    """Statistics summed over steps on the device.

    In float64: a float32 sum of a million ones stands still at 2 ** 24.
    """

    def __init__(self, *more_scalars):
        shapes = {name: () for name in (*_SCALARS, *more_scalars)}
        shapes |= {name: (AUC_BINS,) for name in _HISTOGRAMS}
        self._variables = {
            name: tf.Variable(tf.zeros(shape, tf.float64), trainable=False, name=f"sum_{name}")
            for name, shape in shapes.items()
        }

    def reset(self):
        """Sets all sums to 0."""
        for variable in self._variables.values():
            variable.assign(tf.zeros_like(variable))

    def add(self, statistics):
        """Adds a batch's statistics (inside a `tf.function`)."""
        for name, variable in self._variables.items():
            variable.assign_add(tf.cast(statistics[name], tf.float64))

    def numpy(self):
        """The sums so far, dict of NumPy values."""
        return {name: np.array(variable.numpy()) for name, variable in self._variables.items()}


class PretrainingTrainer(orbit.StandardTrainer):
    """Runs `ElectraPretrainer.gradient_step` over batches."""

    def __init__(self, model, dataset, peak_flops, flops_per_example):
        """Makes the trainer.

        Args:
          model: compiled `ElectraPretrainer`.
          dataset: `tf.data.Dataset` of the remaining steps' batches.
          peak_flops: operations a second that make an mfu of 1.
          flops_per_example: operations of a training example.
        """
        super().__init__(dataset, orbit.StandardTrainerOptions(use_tf_while_loop=True))
        self._model = model
        self._sums = Sums("grad_norm", "steps")
        self._flops_share = flops_per_example / peak_flops

    def train_loop_begin(self):
        self._sums.reset()
        self._start = time.perf_counter()

    def train_step(self, iterator):
        self._sums.add(self._model.gradient_step(next(iterator)))

    def train_loop_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        optimizer = self._model.optimizer
        # The rate of the last update, which was made one step ago.
        learning_rate = optimizer._learning_rate(optimizer.iterations.value - 1)
        examples_per_second = float(sums["examples"]) / seconds
        return {
            **pretraining_metrics(sums, self._model.config, is_evaluation=False),
            "learning_rate": float(learning_rate),
            "grad_norm": float(sums["grad_norm"] / sums["steps"]),
            "examples_per_second": examples_per_second,
            "tokens_per_second": float(sums["tokens"]) / seconds,
            "mfu": examples_per_second * self._flops_share,
        }


class PretrainingEvaluator(orbit.StandardEvaluator):
    """Evaluates on held-out examples, with the same masks each time."""

    def __init__(self, model, dataset):
        """Makes the evaluator.

        Args:
          model: `ElectraPretrainer`.
          dataset: `tf.data.Dataset` of batches.
        """
        super().__init__(dataset)
        self._model = model
        self._sums = Sums()
        self._batch = tf.Variable(0, trainable=False, name="evaluation_batch")

    def eval_begin(self):
        self._sums.reset()
        self._batch.assign(0)
        self._start = time.perf_counter()

    def eval_step(self, iterator):
        batch = next(iterator)
        outputs = self._model(batch, training=False, step=self._batch)
        self._sums.add(self._model.statistics(batch, outputs))
        self._batch.assign_add(1)

    def eval_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        return {
            **pretraining_metrics(sums, self._model.config, is_evaluation=True),
            "examples_per_second": float(sums["examples"]) / seconds,
            "tokens_per_second": float(sums["tokens"]) / seconds,
        }
