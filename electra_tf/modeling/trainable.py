"""One step of training a network with a loss of its own: parts of a batch, gradients, clipping, update."""

import abc
from typing import NamedTuple

import keras
import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling.layers import shape_of
from electra_tf.optimization import LossScale, reduce_and_clip

DTYPE_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


_REPEATED = "repeated_tokens"  # Among the statistics of a part, for the norm.


class BatchPart(NamedTuple):
    """Which part of a step's global batch a replica or a micro-batch is.

    Randomness is drawn for the global batch, and a part takes its own rows: so N replicas of K
    micro-batches hide and sample what one device does.

    Attributes:
      index: int scalar, number of the part; decides its dropout.
      first_row: int scalar, its first row in the global batch.
      num_rows: int scalar, rows of the global batch.
    """

    index: tf.Tensor
    first_row: tf.Tensor
    num_rows: tf.Tensor


class TrainableModel(keras.Model):
    """A model that computes its gradients in parts: replicas, micro-batches, pieces side by side.

    A subclass says what is summed over a batch and which loss follows from the sums, so that parts
    give what the whole batch does.
    """

    def __init__(self, config, **kwargs):
        """Makes what every subclass needs.

        Args:
          config: with `seed`, `mixed_precision`, `gradient_accumulation_steps`, `clip_norm` and
            `fidelity`: `configs.PretrainingConfig` or `configs.FinetuningConfig`.
        """
        super().__init__(**kwargs)
        self.config = config
        self.loss_scale = LossScale(config.mixed_precision)
        self.sub_batch_rows = None

    @property
    @abc.abstractmethod
    def networks(self):
        """The `modeling.electra.ElectraModel`s that have all variables."""

    @abc.abstractmethod
    def training_statistics(self, batch, step, part):
        """Runs the networks in training on a batch.

        Args:
          batch: dict of tensors [B, ...].
          step: int scalar.
          part: `BatchPart`, None for a whole batch.

        Returns:
          dict of float32 tensors; those of batches add up to that of their union.
        """

    @abc.abstractmethod
    def totals(self, batch, step, part):
        """What the loss is divided by, before any network runs: dict of float32 scalars."""

    @abc.abstractmethod
    def loss_of(self, statistics, totals):
        """The loss, float32 scalar, from `training_statistics`.

        Args:
          statistics: of a batch, or of a part of one.
          totals: of the whole batch; None for those of the statistics.
        """

    def compile(self, optimizer, jit_compile=False, sub_batch_rows=None, **kwargs):
        """As `keras.Model.compile`; the loss is the model's own.

        Args:
          optimizer: `optimization.AdamWeightDecay`.
          jit_compile: whether XLA compiles the gradients of a replica; the update it does not.
          sub_batch_rows: training computes so many rows in one piece, and several pieces side by
            side (`training.strategies.sub_batch_rows`); None for all.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self.optimizer.build(self.trainable_variables)
        self.sub_batch_rows = sub_batch_rows
        self._compute_gradients = self.compute_gradients
        if jit_compile:
            self._compute_gradients = tf.function(self.compute_gradients, jit_compile=True)

    def seed(self, purpose, step):
        """The seed, int32 [2], of one use of randomness in one step."""
        seed = tf.stack([tf.constant(self.config.seed & 0x7FFFFFFF), tf.constant(purpose)])
        return randomness.fold_in(seed, tf.cast(step, tf.int32))

    def compute_gradients(self, batch, step, part=None, totals=None):
        """Runs a batch, or a part of one, forth and back, with dropout.

        Args:
          batch: dict of tensors [B, ...].
          step: int scalar.
          part: `BatchPart`, None for a whole batch.
          totals: what `loss_of` divides by.

        Returns:
          `(gradients, statistics)`: those of the loss times `loss_scale`, a list like
          `trainable_variables`, and `training_statistics`.
        """
        sub_batches = self._sub_batches(batch, part)
        if totals is None and len(sub_batches) > 1:
            totals = self.totals(batch, step, part)

        run = self.training_statistics
        if len(sub_batches) > 1:  # All alike: to trace one is enough.
            run = tf.function(run, autograph=False)
        losses, statistics = [], []
        with tf.GradientTape() as tape:
            for rows, rows_part in sub_batches:
                statistics.append(run(rows, step, rows_part))
                losses.append(self.loss_of(statistics[-1], totals))
            loss = self.loss_scale.scale(sum(losses))
        statistics = tf.nest.map_structure(lambda *values: sum(values), *statistics)
        variables = [variable.value for variable in self.trainable_variables]
        gradients = tape.gradient(loss, variables)
        if self.config.fidelity == "google2020":
            statistics[_REPEATED] = self._repeated_tokens(gradients)
        return [tf.convert_to_tensor(g) for g in gradients], statistics

    def _repeated_tokens(self, gradients):
        """By how much the original's squared norm exceeds that of the gradients, float32 scalar.

        Where nothing but the look-up uses the word embeddings, as in fine-tuning, their gradient
        has a row a token, and `tf.global_norm` does not add up those of the same token.
        """
        excess = tf.zeros([])
        for variable, gradient in zip(self.trainable_variables, gradients):
            if variable.name == "word_embeddings" and isinstance(gradient, tf.IndexedSlices):
                for sign, x in ((2.0, gradient.values), (-2.0, tf.convert_to_tensor(gradient))):
                    excess += sign * tf.nn.l2_loss(x)
        return excess

    def _sub_batches(self, batch, part):
        """Cuts a batch into pieces that depend on each other nowhere but in the sum of their losses.

        Returns:
          list of `(rows, BatchPart)`.
        """
        num_rows = batch["input_ids"].shape[0]
        size = self.sub_batch_rows
        if size is None or num_rows is None or num_rows <= size or num_rows % size:
            return [(batch, part)]
        number = num_rows // size
        index, first_row, global_rows = part or BatchPart(0, 0, num_rows)
        return [
            (
                {name: values[k * size : (k + 1) * size] for name, values in batch.items()},
                BatchPart(
                    *map(tf.convert_to_tensor, (index * number + k, first_row + k * size)),
                    tf.convert_to_tensor(global_rows),
                ),
            )
            for k in range(number)
        ]

    def gradient_step(self, batch):
        """One step of training: gradients of all micro-batches and replicas, clipping, update.

        Args:
          batch: this replica's rows of the global batch, dict of tensors [B, ...], `input_ids` among
            them; B is a multiple of `gradient_accumulation_steps`.

        Returns:
          `training_statistics` of the rows, with `grad_norm` before clipping, and `skipped_steps`: 1 where
          gradients were not finite, so that no weight has changed, else 0.
        """
        config, replica = self.config, tf.distribute.get_replica_context()
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        num_parts = config.gradient_accumulation_steps
        if replica.num_replicas_in_sync * num_parts == 1:
            gradients, statistics = self._compute_gradients(batch, step)
        else:
            gradients, statistics = self._accumulate_gradients(batch, step, replica, num_parts)
        gradients = self.loss_scale.unscale(gradients)
        repeated = statistics.pop(_REPEATED, None)
        if repeated is not None:
            [repeated] = self.loss_scale.unscale(self.loss_scale.unscale([repeated]))
        gradients, scale, norm = reduce_and_clip(
            gradients, config.clip_norm, config.fidelity, repeated
        )
        self.optimizer.apply_scaled(gradients, self.trainable_variables, scale)
        is_finite = tf.math.is_finite(norm)
        self.loss_scale.update(is_finite)
        return {
            **statistics,
            "grad_norm": norm,
            "skipped_steps": tf.cast(tf.logical_not(is_finite), tf.float32),
        }

    def _accumulate_gradients(self, batch, step, replica, num_parts):
        """Sums gradients and statistics over micro-batches, one after the other."""
        rows = shape_of(batch["input_ids"])[0]
        part_rows = rows // num_parts
        num_rows = tf.convert_to_tensor(rows * replica.num_replicas_in_sync)
        replica_id = tf.cast(replica.replica_id_in_sync_group, tf.int32)

        def part_of(k, size):
            index = replica_id * num_parts + k
            return BatchPart(index, replica_id * rows + k * size, num_rows)

        totals = self.totals(batch, step, part_of(0, rows))
        if self.config.fidelity == "fixed":
            totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, totals)

        # Not slices: their size must be a constant for XLA, which that between two sums is not.
        parts = {
            name: tf.reshape(values, [num_parts, part_rows, *shape_of(values)[1:]])
            for name, values in batch.items()
        }

        def gradients_of(k):
            part_batch = {name: values[k] for name, values in parts.items()}
            return self._compute_gradients(part_batch, step, part_of(k, part_rows), totals)

        def add(k, *sums):
            return k + 1, *tf.nest.map_structure(tf.add, sums, gradients_of(k))

        if num_parts == 1:
            return gradients_of(0)
        # One at a time: side by side they would need the memory that they are to save.
        _, gradients, statistics = tf.while_loop(
            lambda k, *_: k < num_parts, add, (1, *gradients_of(0)), parallel_iterations=1
        )
        return gradients, statistics
