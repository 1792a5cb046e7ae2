"""What lies between the matrix products: chains of elementwise operations, a formula each.

A formula is plain TensorFlow. `compiled` turns it into an island: XLA makes one pass over memory of
the chain, and one of its gradient, which computes the chain anew from the inputs instead of storing
what is in between. The products stay outside, where oneDNN (or cuBLAS) has them: on a CPU, XLA's are
slower, in bfloat16 by half. docs/performance.md has what each island gives.

Inside a formula everything is float32, and so are biases, gamma and beta; hidden states that it returns
have the dtype of its first argument. A bias is without a gradient here, it has one from the product before it
(`layers.project`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from electra_tf import masking, randomness


def plain(formula, *tensors, **options):
    """Runs a formula as it stands, in inference: for any shape, with nothing to compile."""
    return formula(*tensors, **options)


def compiled(formula, *tensors, **options):
    """Runs a formula as an island, in training, where shapes recur.

    ```python
    hidden = compiled(bias_gelu, tf.matmul(hidden, kernel), bias)
    ```

    Args:
      formula: function such as those of this module.
      *tensors: its tensors; those of floats get gradients.
      **options: its other arguments, hashable.

    Returns:
      what the formula returns.
    """
    with tf.name_scope(f"island.{formula.__name__}"):  # For profiles.
        tensors = map(tf.convert_to_tensor, tensors)
        return _island(formula, tuple(sorted(options.items())))(*tensors)


@functools.cache
def _island(formula, options):
    """The compiled formula; one for all layers, so that each shape is compiled once."""
    function = functools.partial(formula, **dict(options))
    forward = tf.function(function, jit_compile=True, autograph=False)
    by_hand = _BY_HAND.get(formula)

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def backward(kept, upstream):
        if by_hand:
            return by_hand.gradients(*kept, upstream, **dict(options))
        floats = [x for x in kept if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = function(*kept)
        gradients = iter(tape.gradient(outputs, floats, upstream))
        return [next(gradients) if x.dtype.is_floating else None for x in kept]

    @tf.custom_gradient
    def island(*tensors):
        outputs = forward(*tensors)
        kept = by_hand.keep(tensors, outputs) if by_hand else tensors
        return outputs, lambda *upstream: backward(kept, upstream[0])

    return island


def gelu(x):
    """x times the normal distribution function, by the error function (not tanh) as in the original."""
    # TensorFlow's own divides where this multiplies.
    return 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5))


def bias_gelu(x, bias):
    """gelu(x + bias), the activation of a dense layer.

    Args:
      x: [N, D].
      bias: float32 [D].
    """
    return tf.cast(gelu(_float(x) + tf.stop_gradient(bias)), x.dtype)


def layer_norm(x, gamma, beta, epsilon):
    """LayerNorm over the last axis, in float32; `epsilon` 1e-12 asks for the variance in two passes."""
    mean, inverse_deviation = _moments(x, epsilon)
    return (x - mean) * inverse_deviation * gamma + beta


def _moments(x, epsilon):
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
    return mean, tf.math.rsqrt(variance + epsilon)


def bias_gelu_layer_norm(x, bias, gamma, beta, epsilon):
    """LayerNorm(gelu(x + bias)), the masked-language-model head's."""
    activated = gelu(_float(x) + tf.stop_gradient(bias))
    return tf.cast(layer_norm(activated, gamma, beta, epsilon), x.dtype)


def dropout_add_layer_norm(x, bias, residual, gamma, beta, seed, rate, epsilon):
    """LayerNorm(residual + dropout(x + bias)), the end of both halves of a block.

    Args:
      x, residual: [N, D].
      bias, gamma, beta: float32 [D].
      seed: int32 [2], None for no dropout.
      rate: of dropout.
      epsilon: of LayerNorm.

    Returns:
      `(normalized, mean, inverse_deviation)`: [N, D] like `x`; float32 [N, 1], without a gradient.
    """
    total = _float(residual) + randomness.dropout(_float(x) + tf.stop_gradient(bias), rate, seed)
    mean, inverse_deviation = _moments(total, epsilon)
    normalized = (total - mean) * inverse_deviation * gamma + beta
    return tf.cast(normalized, x.dtype), mean, inverse_deviation


def _kept_of_layer_norm(tensors, outputs):
    x, bias, residual, gamma, _, seed = tensors
    return x, bias, residual, gamma, seed, outputs[1], outputs[2]


def _layer_norm_gradients(
    x, bias, residual, gamma, seed, mean, inverse_deviation, upstream, rate, epsilon
):
    """Ba et al., 2016; by hand, since mean and deviation are there."""
    del epsilon  # It is in the deviation.
    total = _float(residual) + randomness.dropout(_float(x) + bias, rate, seed)
    normalized = (total - mean) * inverse_deviation
    upstream = _float(upstream)
    scaled = upstream * gamma
    gradient = inverse_deviation * (
        scaled
        - tf.reduce_mean(scaled, axis=-1, keepdims=True)
        - normalized * tf.reduce_mean(scaled * normalized, axis=-1, keepdims=True)
    )
    return (
        tf.cast(randomness.dropout(gradient, rate, seed), x.dtype),
        None,
        tf.cast(gradient, x.dtype),
        tf.reduce_sum(upstream * normalized, axis=0),
        tf.reduce_sum(upstream, axis=0),
        None,
    )


def dropout_cast(x, seed, rate, dtype):
    """dropout(x) in another dtype, the end of the embeddings.

    Args:
      x: float32.
      seed, rate: as in `dropout_add_layer_norm`.
      dtype: of the output.
    """
    return tf.cast(randomness.dropout(x, rate, seed), dtype)


def softmax_dropout(scores, probabilities, seed, rate):
    """dropout(probabilities), where those are softmax(scores); the gradient goes to the scores.

    The softmax itself stays outside: oneDNN's takes less than half of the time of XLA's.

    Args:
      scores, probabilities: [B, heads, T, T].
      seed, rate: as in `dropout_add_layer_norm`.
    """
    del scores
    return tf.cast(randomness.dropout(_float(probabilities), rate, seed), probabilities.dtype)


def _softmax_dropout_gradients(probabilities, seed, upstream, rate):
    upstream = randomness.dropout(_float(upstream), rate, seed)
    mean = tf.reduce_sum(upstream * _float(probabilities), axis=-1, keepdims=True)
    gradient = _float(probabilities) * (upstream - mean)
    return tf.cast(gradient, probabilities.dtype), None, None


def masked_lm(logits, bias, ids, temperature, disallow_correct):
    """The generator's loss and what to sample by, both of one pass over the vocabulary.

    Args:
      logits: [N, V], without the bias.
      bias: float32 [V].
      ids: int32 [N], the true tokens.
      temperature, disallow_correct: of `masking.sampling_logits`.

    Returns:
      `(loss, is_restored, log_normalizer, weights)`: float32 [N], the cross entropy; float32 [N],
      whether the true token is the likeliest; float32 [N], the logarithm of the softmax's
      denominator; `masking.group_weights` of the logits to sample from.
    """
    logits = _float(logits) + tf.stop_gradient(bias)
    true_logits = tf.gather(logits, ids, batch_dims=1)
    weights, largest = masking.group_weights(logits)
    log_normalizer = largest + tf.math.log(tf.reduce_sum(weights, axis=-1))
    if temperature != 1.0 or disallow_correct:
        is_true = tf.range(tf.size(bias)) == ids[:, None]
        weights, _ = masking.group_weights(
            masking.sampling_logits(logits, is_true, temperature, disallow_correct)
        )
    return (
        log_normalizer - true_logits,
        tf.cast(true_logits >= largest, tf.float32),
        log_normalizer,
        weights,
    )


def _kept_of_masked_lm(tensors, outputs):
    return *tensors, outputs[2]


def _masked_lm_gradients(
    logits, bias, ids, log_normalizer, upstream, temperature, disallow_correct
):
    """The softmax less 1 at the true token."""
    del temperature, disallow_correct
    probabilities = tf.exp(_float(logits) + bias - log_normalizer[:, None])
    is_true = tf.range(tf.size(bias)) == ids[:, None]
    gradient = upstream[:, None] * (probabilities - tf.cast(is_true, tf.float32))
    return tf.cast(gradient, logits.dtype), None, None


class _ByHand(NamedTuple):
    """A gradient by hand, where something that the formula has computed saves time.

    Attributes:
      keep: function of the formula's `(tensors, outputs)`: what to keep for the gradient.
      gradients: function of that, of the first output's upstream gradient and of the options: a
        gradient or None for each of the formula's tensors.
    """

    keep: Callable
    gradients: Callable


_BY_HAND = {
    dropout_add_layer_norm: _ByHand(_kept_of_layer_norm, _layer_norm_gradients),
    softmax_dropout: _ByHand(lambda tensors, outputs: tensors[1:], _softmax_dropout_gradients),
    masked_lm: _ByHand(_kept_of_masked_lm, _masked_lm_gradients),
}


def _float(x):
    return tf.cast(x, tf.float32)
