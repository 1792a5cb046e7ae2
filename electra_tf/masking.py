"""Which positions to hide, hiding them, sampling replacements, writing them back.

Functions of tensors and of uniform noise only, so that the same noise gives the same corruption on
any number of devices (google-research/electra `pretrain/pretrain_helpers.py` for the semantics).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MASK_RATE = 0.85  # Chosen positions that become [MASK]; the others keep their token.
_BLOCK = 128  # Tokens that `sample_tokens` sums up at a time.


class MaskedInputs(NamedTuple):
    """A batch with hidden tokens.

    Attributes:
      input_ids: int32 [B, T], with [MASK] at most of the chosen positions.
      positions: int32 [B, P], the chosen positions; 0 in unused slots.
      ids: int32 [B, P], the original tokens there.
      weights: float32 [B, P], 1 for a chosen position, 0 for an unused slot.
    """

    input_ids: tf.Tensor
    positions: tf.Tensor
    ids: tf.Tensor
    weights: tf.Tensor


def candidates(input_ids, input_mask, special_ids):
    """Positions that may be hidden: real tokens but [CLS], [SEP] and [MASK] (SEMANTICS 6).

    Args:
      input_ids, input_mask: int32 [B, T].
      special_ids: sequence of int.

    Returns:
      bool [B, T].
    """
    is_special = tf.reduce_any(input_ids[..., None] == tf.constant(special_ids), axis=-1)
    return (input_mask > 0) & ~is_special


def num_to_predict(input_mask, mask_prob, max_predictions):
    """How many positions to hide: `max(1, min(max_predictions, round(n_tokens * mask_prob)))`, int32 [B]."""
    num_tokens = tf.cast(tf.reduce_sum(input_mask, axis=-1), tf.float32)
    return tf.clip_by_value(tf.cast(tf.round(num_tokens * mask_prob), tf.int32), 1, max_predictions)


def choose_positions(is_candidate, num, noise, max_predictions):
    """Chooses positions without replacement: the top of uniform noise (SEMANTICS 4, `fixed`).

    Args:
      is_candidate: bool [B, T].
      num: int32 [B], how many to choose.
      noise: float32 [B, T], uniform in [0, 1).
      max_predictions: P, slots an example.

    Returns:
      `(positions, weights)`, int32 and float32 [B, P]. An example with fewer candidates than `num`
      gives all it has; one without any has weight 0 everywhere.
    """
    num = tf.minimum(num, tf.reduce_sum(tf.cast(is_candidate, tf.int32), axis=-1))
    _, positions = tf.math.top_k(tf.where(is_candidate, noise, -1.0), k=max_predictions)
    is_used = tf.range(max_predictions) < num[:, None]
    return tf.where(is_used, positions, 0), tf.cast(is_used, tf.float32)


def choose_positions_with_replacement(is_candidate, num, noise, max_predictions):
    """Chooses positions as the original does: independently, so that some come twice (`google2020`).

    Takes and returns what `choose_positions` does. An example without candidates has the weight
    0 / 0, since the original divides its proposal distribution by its sum.
    """
    count = tf.cumsum(tf.cast(is_candidate, tf.int32), axis=-1)
    total = tf.cast(count[:, -1:], tf.float32)
    drawn = tf.cast(noise[:, :max_predictions] * total, tf.int32)
    positions = tf.reduce_sum(tf.cast(count[:, None, :] <= drawn[..., None], tf.int32), axis=-1)
    positions = tf.minimum(positions, tf.shape(is_candidate)[1] - 1)  # Without candidates: past it.
    is_used = tf.range(max_predictions) < num[:, None]
    return tf.where(is_used, positions, 0), tf.cast(is_used, tf.float32) * (total / total)


def hide(input_ids, positions, weights, noise, mask_id):
    """Writes [MASK] over 85 % of the chosen positions (SEMANTICS 3).

    Args:
      input_ids: int32 [B, T].
      positions, weights: [B, P] from `choose_positions`.
      noise: float32 [B, P], uniform in [0, 1).
      mask_id: id of [MASK].

    Returns:
      `MaskedInputs`.
    """
    hidden = tf.where(noise < MASK_RATE, positions, 0)
    return MaskedInputs(
        input_ids=scatter_update(input_ids, tf.fill(tf.shape(positions), mask_id), hidden),
        positions=positions,
        ids=gather_positions(input_ids, positions),
        weights=weights,
    )


def gather_positions(sequence, positions):
    """Takes `sequence` [B, T, ...] at `positions` [B, P]: [B, P, ...]."""
    return tf.gather(sequence, positions, batch_dims=1)


def scatter_update(sequence, updates, positions):
    """Writes `updates` into `sequence` at `positions`; position 0, [CLS], is never written.

    Updates of one position are averaged, rounding down: only `google2020` chooses one twice.

    Args:
      sequence: int32 [B, T].
      updates, positions: int32 [B, P].

    Returns:
      int32 [B, T].
    """
    batch, length = tf.shape(sequence)[0], tf.shape(sequence)[1]
    flat_positions = tf.reshape(positions + tf.range(batch)[:, None] * length, [-1, 1])
    shape = [batch * length]
    total = tf.scatter_nd(flat_positions, tf.reshape(updates, [-1]), shape)
    count = tf.scatter_nd(flat_positions, tf.ones_like(flat_positions[:, 0]), shape)
    total, count = (tf.reshape(x, [batch, length]) for x in (total, count))
    is_written = (count > 0) & (tf.range(length) > 0)
    return tf.where(is_written, total // tf.maximum(count, 1), sequence)


def sample_tokens(logits, noise):
    """Draws one token from each softmax by inverting its distribution function.

    In two stages, a block of 128 tokens and then a token of it: a sum over few terms rounds little,
    so that eager and XLA, one device and many draw the same tokens.

    Args:
      logits: float32 [N, V].
      noise: float32 [N, 2], uniform in [0, 1).

    Returns:
      int32 [N].
    """
    padding = -logits.shape[-1] % _BLOCK
    # The blocks' logits are kept and not their weights, which XLA then need not write down.
    blocks = tf.pad(logits, [[0, 0], [0, padding]], constant_values=-np.inf)
    blocks = tf.reshape(blocks, [-1, blocks.shape[-1] // _BLOCK, _BLOCK])
    largest = tf.reduce_max(logits, axis=-1, keepdims=True)
    block = _invert_cdf(tf.reduce_sum(tf.exp(blocks - largest[..., None]), axis=-1), noise[:, 0])
    token_logits = tf.gather(blocks, block, batch_dims=1)
    return block * _BLOCK + _invert_cdf(tf.exp(token_logits - largest), noise[:, 1])


def _invert_cdf(weights, noise):
    """The index at which the running sum of `weights` [N, K] passes `noise` [N] times their sum."""
    cumulative = tf.cumsum(weights, axis=-1)
    total = cumulative[:, -1:]
    passed = tf.cast(cumulative <= noise[:, None] * total, tf.int32)
    # Rounding may let the noise reach the sum itself: the last index that has any weight, then.
    last = tf.reduce_sum(tf.cast(cumulative < total, tf.int32), axis=-1)
    return tf.minimum(tf.reduce_sum(passed, axis=-1), last)


def sampling_logits(logits, true_ids, temperature, disallow_correct):
    """Logits to sample replacements from (the original's `sample_from_softmax`).

    Args:
      logits: float32 [..., V].
      true_ids: int32 [...].
      temperature: divides the logits.
      disallow_correct: never sample the true token.

    Returns:
      float32 [..., V], without a gradient.
    """
    logits = tf.stop_gradient(logits)
    if disallow_correct:
        logits -= 1000.0 * tf.one_hot(true_ids, logits.shape[-1])
    return logits if temperature == 1.0 else logits / temperature
