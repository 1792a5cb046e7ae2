"""Which positions to hide, hiding them, sampling replacements, writing them back.

Functions of tensors and of uniform noise only, so that the same noise gives the same corruption on
any number of devices (google-research/electra `pretrain/pretrain_helpers.py` for the semantics).
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MASK_RATE = 0.85  # Chosen positions that become [MASK]; the others keep their token.
_GROUP = 16  # Tokens of a group, see `group_weights`.
_BLOCK = 64  # Weights that `_invert_cdf` sums up at a time.


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


def group_weights(logits):
    """Sums of softmax weights over groups of tokens, for `sample_tokens`.

    Group `g` of `G` has the tokens g, g + G, g + 2 G, ...: a sum over slices of the vocabulary, which
    XLA makes in one pass without storing a weight of a single token.

    Args:
      logits: float32 [N, V].

    Returns:
      `(weights, largest)`: float32 [N, G], the sums of `exp(logits - largest)`, and float32 [N].
    """
    vocab_size = logits.shape[-1]
    num_groups = -(-vocab_size // _GROUP)
    slices = [logits[:, i : i + num_groups] for i in range(0, vocab_size, num_groups)]
    padding = num_groups - slices[-1].shape[-1]
    slices[-1] = tf.pad(slices[-1], [[0, 0], [0, padding]], constant_values=-np.inf)
    largest = tf.reduce_max(functools.reduce(tf.maximum, slices), axis=-1)
    return sum(tf.exp(x - largest[:, None]) for x in slices), largest


def sample_tokens(weights, logits_of, vocab_size, noise):
    """Draws one token from each softmax by inverting its distribution function.

    First a group of tokens, then one of its tokens.

    Args:
      weights: float32 [N, G], of `group_weights`.
      logits_of: function from tokens, int32 [N, K], to their logits, float32 [N, K].
      vocab_size: V.
      noise: float32 [N, 2], uniform in [0, 1).

    Returns:
      int32 [N].
    """
    num_groups = weights.shape[-1]
    group = _invert_cdf(weights, noise[:, 0])
    tokens = group[:, None] + num_groups * tf.range(-(-vocab_size // num_groups))
    logits = logits_of(tf.minimum(tokens, vocab_size - 1))
    logits = tf.where(tokens < vocab_size, logits, -np.inf)
    largest = tf.reduce_max(logits, axis=-1, keepdims=True)
    return group + num_groups * _invert_cdf(tf.exp(logits - largest), noise[:, 1])


def _invert_cdf(weights, noise):
    """The index at which the running sum of `weights` [N, K] passes `noise` [N] times their sum.

    First of blocks of weights, then in a block: sums of few terms round little, so that eager and
    XLA, one device and many find the same; and a running sum is slow.
    """
    padding = -weights.shape[-1] % _BLOCK
    blocks = tf.reshape(
        tf.pad(weights, [[0, 0], [0, padding]]),
        [-1, (weights.shape[-1] + padding) // _BLOCK, _BLOCK],
    )
    sums = tf.reduce_sum(blocks, axis=-1)
    block, rest = _pass(sums, noise * tf.reduce_sum(sums, axis=-1))
    index, _ = _pass(tf.gather(blocks, block, batch_dims=1), rest)
    return block * _BLOCK + index


def _pass(weights, target):
    """Where the running sum of `weights` [N, K] passes `target` [N], and how far before it that is."""
    cumulative = tf.cumsum(weights, axis=-1)
    passed = tf.reduce_sum(tf.cast(cumulative <= target[:, None], tf.int32), axis=-1)
    # Rounding may let the target reach the sum itself: the last index that has any weight, then.
    last = tf.reduce_sum(tf.cast(cumulative < cumulative[:, -1:], tf.int32), axis=-1)
    index = tf.minimum(passed, last)
    before = tf.gather(cumulative - weights, index, batch_dims=1)
    return index, target - before


def sampling_logits(logits, is_true, temperature, disallow_correct):
    """Logits to sample replacements from (the original's `sample_from_softmax`).

    Args:
      logits: float32 [..., K], of some tokens.
      is_true: bool [..., K], which of them is the true one.
      temperature: divides the logits.
      disallow_correct: never sample the true token.

    Returns:
      float32 [..., K], without a gradient.
    """
    logits = tf.stop_gradient(logits)
    if disallow_correct:
        logits -= 1000.0 * tf.cast(is_true, tf.float32)
    return logits if temperature == 1.0 else logits / temperature
