"""Batches of features: similar lengths together, padded to few different ones."""

import bisect

import numpy as np
import tensorflow as tf

from electra_tf.records import epoch_order

# Batches whose rows are sorted by length together: many save padding, few are random. Were an epoch a
# single pool, the same rows would meet in every epoch.
_BATCHES_A_POOL, _POOLS_AN_EPOCH = 50, 4


class FeatureBatches:
    """Reads batches of `tasks.features.Features`.

    A batch is a dict of tensors: the `tokens` int32 [B, T], padded with 0 to T, the smallest bucket
    that its longest row fits into; `input_mask` int32 [B, T]; the `rows` [B, ...]; `index` int32 [B],
    the rows' numbers; `weight` float32 [B], 0 for rows that only fill up a batch. Of features in
    groups of G a group counts as a row, and `tokens` and `input_mask` are [B, G, T].
    """

    def __init__(self, features, batch_size, max_seq_length, buckets=()):
        """Takes the features.

        Args:
          features: `Features`.
          batch_size: rows of a batch.
          max_seq_length: longest row there may be.
          buckets: ascending lengths below it; none for batches all of `max_seq_length`.
        """
        self._batch_size = batch_size
        self._buckets = [*buckets, max_seq_length]
        self._group = features.group
        self._lengths = features.lengths.reshape(-1, features.group).max(axis=1)
        # Tensors, which a graph refers to; arrays would be copied into it.
        self._tokens = {name: tf.constant(flat) for name, flat in features.tokens.items()}
        self._rows = {name: tf.constant(values) for name, values in features.rows.items()}
        self._row_splits = tf.constant(features.row_splits, tf.int64)
        self.num_rows = len(self._lengths)
        self.steps_per_epoch = -(-self.num_rows // batch_size)

    def training(self, seed, first_step, last_step, num_parts=1, parts=range(1)):
        """The batches of the steps from `first_step` up to `last_step`; each row once an epoch.

        Arguments as of `records.RecordBatches.training`.
        """
        epochs = -(-last_step // self.steps_per_epoch)
        batches = [batch for epoch in range(epochs) for batch in self._epoch(seed, epoch)]
        return self._dataset(batches[first_step:last_step], num_parts, parts)

    def evaluation(self, num_parts=1, parts=range(1)):
        """Every row once, by length; as many batches as fill `num_parts` replicas evenly."""
        size = self._batch_size
        order = np.argsort(self._lengths, kind="stable")
        batches = [order[i : i + size] for i in range(0, self.num_rows, size)]
        return self._dataset(batches, num_parts, parts)

    def _epoch(self, seed, epoch):
        """The batches of one epoch, lists of row numbers."""
        size, order = self._batch_size, epoch_order(self.num_rows, seed, epoch)
        if len(self._buckets) > 1:
            batches_a_pool = min(_BATCHES_A_POOL, max(1, self.steps_per_epoch // _POOLS_AN_EPOCH))
            rows = batches_a_pool * size
            pools = [order[i : i + rows] for i in range(0, self.num_rows, rows)]
            order = np.concatenate(
                [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools]
            )
        batches = [order[i : i + size] for i in range(0, self.num_rows, size)]
        return [batches[i] for i in epoch_order(len(batches), seed, ~epoch & 0xFFFFFFFF)]

    def _dataset(self, batches, num_parts, parts):
        """`tf.data.Dataset` of the parts of each batch that are read here."""
        size = self._batch_size // num_parts
        indices = np.full([len(batches), self._batch_size], -1, np.int32)
        lengths = np.zeros([len(batches)], np.int32)
        for row, batch in enumerate(batches):
            indices[row, : len(batch)] = batch
            longest = self._lengths[batch].max()
            lengths[row] = self._buckets[bisect.bisect_left(self._buckets, longest)]
        mine = indices.reshape(len(batches), num_parts, size)[:, list(parts)]
        dataset = tf.data.Dataset.from_tensor_slices(
            (mine.reshape(-1, size), np.repeat(lengths, len(parts)))
        )
        return dataset.map(self._gather, num_parallel_calls=2).prefetch(4)

    def _gather(self, indices, length):
        rows, splits = tf.maximum(indices, 0), self._row_splits
        members = tf.reshape(rows[:, None] * self._group + tf.range(self._group), [-1])
        shape = [indices.shape[0], *([self._group] if self._group > 1 else []), None]

        def grouped(values):
            sizes = [tf.size(rows), *shape[1:-1], length]
            return tf.ensure_shape(tf.reshape(values, tf.stack(sizes)), shape)

        def padded(flat):
            ragged = tf.RaggedTensor.from_row_splits(flat, splits, validate=False)
            padded_shape = tf.stack([tf.size(members), length])
            return grouped(tf.gather(ragged, members).to_tensor(shape=padded_shape))

        sizes = tf.gather(splits[1:] - splits[:-1], members)
        return {
            **{name: padded(flat) for name, flat in self._tokens.items()},
            **{name: tf.gather(values, rows) for name, values in self._rows.items()},
            "input_mask": grouped(tf.sequence_mask(sizes, length, tf.int32)),
            "index": indices,
            "weight": tf.cast(indices >= 0, tf.float32),
        }
