"""Pre-training's inner loops for Orbit: how steps are run, not when."""

import time

import numpy as np
import orbit
import tensorflow as tf
from orbit import controller as orbit_controller

from electra_tf import masking
from electra_tf.modeling.pretrainer import AUC_BINS
from electra_tf.training import tensorboard
from electra_tf.training.examples import view_examples
from electra_tf.training.flops import pretraining_flops, pretraining_flops_google2020
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

    def __init__(self, model, dataset, peak_flops):
        """Makes the trainer.

        Args:
          model: compiled `ElectraPretrainer`.
          dataset: `tf.data.Dataset` of the remaining steps' batches.
          peak_flops: operations a second that make an mfu of 1.
        """
        super().__init__(dataset, orbit.StandardTrainerOptions(use_tf_while_loop=True))
        self._model = model
        self._sums = Sums("grad_norm", "steps", "input_wait")
        self._peak_flops = peak_flops

    def train_loop_begin(self):
        self._sums.reset()
        self._start = time.perf_counter()

    def train_step(self, iterator):
        start = tf.timestamp()
        with tf.control_dependencies([start]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch)):
            input_wait = tf.timestamp() - start
        self._sums.add({**self._model.gradient_step(batch), "input_wait": input_wait})

    def train_loop_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        config, optimizer = self._model.config, self._model.optimizer
        steps = int(optimizer.iterations.value)
        examples_so_far = steps * config.train_batch_size
        examples_per_second = float(sums["examples"]) / seconds
        return {
            **pretraining_metrics(sums, config, is_evaluation=False),
            # The rate of the last update, which was made one step ago.
            "learning_rate": float(optimizer._learning_rate(steps - 1)),
            "grad_norm": float(sums["grad_norm"] / sums["steps"]),
            "examples_per_second": examples_per_second,
            "tokens_per_second": float(sums["tokens"]) / seconds,
            "mfu": examples_per_second * pretraining_flops(config) / self._peak_flops,
            "input_wait": float(sums["input_wait"]) / seconds,
            "flops": float(pretraining_flops(config) * examples_so_far),
            "flops_google2020": float(pretraining_flops_google2020(config) * examples_so_far),
        }


class PretrainingEvaluator(orbit.StandardEvaluator):
    """Evaluates on held-out examples, with the same masks each time.

    Beside the metrics, TensorBoard gets a page of examples, accuracies by token frequency and the
    balance of the two networks.
    """

    def __init__(self, model, dataset, vocab, token_counts):
        """Makes the evaluator.

        Args:
          model: `ElectraPretrainer`.
          dataset: `tf.data.Dataset` of batches.
          vocab: list of str.
          token_counts: how often each token stands in the training text, array [vocab_size].
        """
        super().__init__(dataset)
        self._model, self._vocab, self._token_counts = model, vocab, token_counts
        self._sums = Sums()
        self._by_token = {
            name: tf.Variable(tf.zeros(len(vocab), tf.float64), trainable=False, name=name)
            for name in ("masked", "masked_lm_correct", "disc_correct")
        }
        self._batch = tf.Variable(0, trainable=False, name="evaluation_batch")
        self._examples = next(iter(dataset))
        self._is_first = True

    def eval_begin(self):
        self._sums.reset()
        for variable in self._by_token.values():
            variable.assign(tf.zeros_like(variable))
        self._batch.assign(0)
        self._start = time.perf_counter()

    def eval_step(self, iterator):
        batch = next(iterator)
        outputs = self._model(batch, training=False, step=self._batch)
        self._sums.add(self._model.statistics(batch, outputs))
        self._add_by_token(outputs)
        self._batch.assign_add(1)

    def _add_by_token(self, outputs):
        """Sums what both networks got right at the hidden positions, by the true token."""
        masked = outputs.masked
        best = tf.argmax(outputs.generator_logits, axis=-1, output_type=tf.int32)
        disc_correct = (outputs.discriminator_logits >= 0.0) == (outputs.is_replaced > 0.0)
        values = {
            "masked": tf.ones_like(masked.ids, tf.bool),
            "masked_lm_correct": best == masked.ids,
            "disc_correct": masking.gather_positions(disc_correct, masked.positions),
        }
        ids, weights = tf.reshape(masked.ids, [-1]), tf.cast(masked.weights, tf.float64)
        for name, value in values.items():
            counted = tf.reshape(tf.cast(value, tf.float64) * weights, [-1])
            self._by_token[name].assign_add(
                tf.math.unsorted_segment_sum(counted, ids, len(self._vocab))
            )

    def eval_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        metrics = pretraining_metrics(sums, self._model.config, is_evaluation=True)
        self._show(metrics)
        return {
            **metrics,
            "examples_per_second": float(sums["examples"]) / seconds,
            "tokens_per_second": float(sums["tokens"]) / seconds,
        }

    def _show(self, metrics):
        """Writes TensorBoard's pages; Orbit made its writer the default one."""
        config, step = self._model.config, self._model.optimizer.iterations.value
        if self._is_first:
            tensorboard.write_balance_layout()
            self._is_first = False
        tensorboard.write_balance(metrics, config.gen_weight, step)
        by_token = {name: variable.numpy() for name, variable in self._by_token.items()}
        bins = tensorboard.accuracy_by_frequency(by_token, self._token_counts)
        tensorboard.write_accuracy_by_frequency(bins, step)
        # About 512 tokens make a page.
        num_examples = max(1, 512 // config.max_seq_length)
        views = view_examples(self._model, self._vocab, self._examples, num_examples)
        tensorboard.write_examples(views, step)
