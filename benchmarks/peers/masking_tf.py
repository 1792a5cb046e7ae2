"""The original's dynamic masking in TensorFlow's operations, for the contestants that bring none."""

import numpy as np
import tensorflow as tf

MASK_RATE = 0.85  # Chosen positions that become [MASK]; the others keep their token.


def read_batches(task):
    """An iterator over dicts of int32 [batch_size, T], without an end."""
    arrays = dict(np.load(task["batches"]))
    dataset = tf.data.Dataset.from_tensor_slices(arrays).repeat()
    return iter(dataset.batch(task["batch_size"], drop_remainder=True).prefetch(4))


def hide(batch, task):
    """Hides 15 % of each example's tokens, chosen without replacement.

    Returns:
      `(input_ids, positions, ids, weights)`: what the generator reads [B, T]; the chosen positions,
      the tokens there, and 1.0 for a position that is used [B, P].
    """
    input_ids, input_mask = batch["input_ids"], batch["input_mask"]
    max_predictions = task["max_predictions"]
    is_special = tf.reduce_any(input_ids[..., None] == tf.constant(task["special_ids"]), -1)
    noise = tf.random.uniform(tf.shape(input_ids))
    noise = tf.where((input_mask > 0) & ~is_special, noise, -1.0)
    best, positions = tf.math.top_k(noise, max_predictions)
    num_tokens = tf.cast(tf.reduce_sum(input_mask, -1, keepdims=True), tf.float32)
    num = tf.maximum(tf.cast(tf.round(num_tokens * task["config"]["mask_prob"]), tf.int32), 1)
    is_used = (tf.range(max_predictions) < num) & (best >= 0.0)
    positions = tf.where(is_used, positions, 0)
    is_hidden = tf.random.uniform(tf.shape(positions)) < MASK_RATE
    ids = tf.gather(input_ids, positions, batch_dims=1)
    masked_ids = write(input_ids, tf.where(is_hidden, task["mask_id"], ids), positions)
    return masked_ids, positions, ids, tf.cast(is_used, tf.float32)


def write(input_ids, updates, positions):
    """`input_ids` [B, T] with `updates` at `positions` [B, P]; position 0, [CLS], is never written."""
    rows = tf.range(tf.shape(positions)[0])[:, None] + tf.zeros_like(positions)
    written = tf.tensor_scatter_nd_update(input_ids, tf.stack([rows, positions], -1), updates)
    return tf.where(tf.range(tf.shape(input_ids)[1]) > 0, written, input_ids)
