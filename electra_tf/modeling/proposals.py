"""What generators have in common: they propose tokens in the place of hidden ones.

A generator has a method `propose(batch, masked, noise, sampling, training, dropout_seed)` that
returns `Proposals`, and a method `totals(batch)`. A masked one is in `electra`, a causal one in
`causal`, uniform and unigram ones in `counting`.
"""

from typing import NamedTuple

import tensorflow as tf

from electra_tf import masking
from electra_tf.modeling import islands
from electra_tf.modeling.layers import runner


class Sampling(NamedTuple):
    """How to draw from a generator's distribution.

    Attributes:
      temperature: divides the logits.
      disallow_correct: never draw the true token.
    """

    temperature: float = 1.0
    disallow_correct: bool = False


class Proposals(NamedTuple):
    """What a generator makes of the hidden tokens of a batch.

    Attributes:
      logits: float32 [B, P, V]; its distribution is their softmax.
      hidden: [B, P, H], the last hidden states behind the logits; None without a network.
      sampled_ids: int32 [B, P], drawn from it; without a gradient.
      masked_lm_loss: float32 [B, P], the cross entropy of the true tokens.
      is_restored: float32 [B, P], 1 where the likeliest token is the true one.
      sums: dict of float32 scalars, sums over the batch from which a loss other than
        `masked_lm_loss` follows: `configs.PretrainingConfig.generator_loss` names them.
    """

    logits: tf.Tensor
    hidden: tf.Tensor
    sampled_ids: tf.Tensor
    masked_lm_loss: tf.Tensor
    is_restored: tf.Tensor
    sums: dict


def sample(unbiased_logits, bias, masked, noise, sampling, training):
    """Draws replacements from a softmax, and gives its loss, which takes the same pass.

    Args:
      unbiased_logits: [B, P, V] in any float dtype.
      bias: float32 [V], to be added to them; it gets no gradient here.
      masked: `masking.MaskedInputs`.
      noise: float32 [B, P, 2], uniform in [0, 1).
      sampling: `Sampling`.
      training: whether to compile the formula.

    Returns:
      `(sampled_ids, masked_lm_loss, is_restored)`, as of `Proposals`.
    """
    shape, vocab_size = tf.shape(masked.ids), unbiased_logits.shape[-1]
    logits, ids = tf.reshape(unbiased_logits, [-1, vocab_size]), tf.reshape(masked.ids, [-1])
    options = sampling._asdict()
    loss, is_restored, _, weights = runner(training)(
        islands.masked_lm, logits, bias, ids, **options
    )

    def sampling_logits_of(tokens):
        chosen = tf.cast(tf.gather(logits, tokens, batch_dims=1), tf.float32)
        chosen += tf.gather(bias, tokens)
        return masking.sampling_logits(chosen, tokens == ids[:, None], **options)

    sampled_ids = masking.sample_tokens(
        weights, sampling_logits_of, vocab_size, tf.reshape(noise, [-1, 2])
    )
    return tuple(tf.reshape(x, shape) for x in (sampled_ids, loss, is_restored))
