"""What lies between the matrix products: chains of elementwise operations, a formula each.

A formula is plain TensorFlow. `compiled` turns it into an island: XLA makes one pass over memory of
the chain, and one of its gradient, which computes the chain anew from the inputs instead of storing
what is in between. The products stay outside, where oneDNN (or cuBLAS) has them: on a CPU, XLA's are
slower, in bfloat16 by half. docs/performance.md has what each island gives.

Inside a formula everything is float32, and so are biases, gamma and beta; what it returns has the
dtype of its first argument. A bias gets its gradient from the product before it (`layers.project`).
"""

import functools

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
      formula: function of this module.
      *tensors: its tensors; those of floats get gradients.
      **options: its other arguments, hashable.

    Returns:
      what the formula returns.
    """
    return _island(formula, tuple(sorted(options.items())))(*map(tf.convert_to_tensor, tensors))


@functools.cache
def _island(formula, options):
    """The compiled formula; one for all layers, so that each shape is compiled once."""
    function = functools.partial(formula, **dict(options))
    forward = tf.function(function, jit_compile=True, autograph=False)
    by_hand = _GRADIENTS.get(formula)

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def backward(tensors, outputs, upstream):
        if by_hand:
            return by_hand(tensors, outputs, upstream, **dict(options))
        floats = [x for x in tensors if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = function(*tensors)
        gradients = iter(tape.gradient(outputs, floats, upstream, tf.UnconnectedGradients.ZERO))
        return [next(gradients) if x.dtype.is_floating else None for x in tensors]

    @tf.custom_gradient
    def island(*tensors):
        outputs = forward(*tensors)

        def gradient(*upstream):
            return backward(tensors, outputs if by_hand else None, upstream[0])

        return outputs, gradient

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
    return tf.cast(gelu(_float(x) + bias), x.dtype)


def layer_norm(x, gamma, beta, epsilon):
    """LayerNorm over the last axis, in float32; `epsilon` 1e-12 asks for the variance in two passes."""
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def bias_gelu_layer_norm(x, bias, gamma, beta, epsilon):
    """LayerNorm(gelu(x + bias)), the masked-language-model head's."""
    return tf.cast(layer_norm(gelu(_float(x) + bias), gamma, beta, epsilon), x.dtype)


def dropout_add_layer_norm(x, bias, residual, gamma, beta, seed, rate, epsilon):
    """LayerNorm(residual + dropout(x + bias)), the end of both halves of a block.

    Args:
      x, residual: [N, D].
      bias, gamma, beta: float32 [D].
      seed: int32 [2], None for no dropout.
      rate: of dropout.
      epsilon: of LayerNorm.
    """
    dropped = randomness.dropout(_float(x) + bias, rate, seed)
    return tf.cast(layer_norm(_float(residual) + dropped, gamma, beta, epsilon), x.dtype)


def dropout_cast(x, seed, rate, dtype):
    """dropout(x) in another dtype, the end of the embeddings.

    Args:
      x: float32.
      seed, rate: as in `dropout_add_layer_norm`.
      dtype: of the output.
    """
    return tf.cast(randomness.dropout(x, rate, seed), dtype)


def softmax_dropout(scores, attention_bias, seed, scale, rate):
    """dropout(softmax(scores * scale + attention_bias)) over the last axis.

    Args:
      scores: [B, heads, T, T].
      attention_bias: float32 [B, 1, 1, T].
      seed, rate: as in `dropout_add_layer_norm`.
      scale: 1 / sqrt(size of a head).

    Returns:
      `(dropped, probabilities)`, both like `scores`.
    """
    probabilities = tf.nn.softmax(_float(scores) * scale + attention_bias)
    dropped = randomness.dropout(probabilities, rate, seed)
    return tf.cast(dropped, scores.dtype), tf.cast(probabilities, scores.dtype)


def _softmax_dropout_gradient(tensors, outputs, upstream, scale, rate):
    """By hand, since to compute the softmax anew takes as long as all of this."""
    probabilities = _float(outputs[1])
    upstream = randomness.dropout(_float(upstream), rate, tensors[2])
    mean = tf.reduce_sum(upstream * probabilities, axis=-1, keepdims=True)
    return tf.cast(scale * probabilities * (upstream - mean), tensors[0].dtype), None, None


def masked_lm(logits, bias, ids, noise, temperature, disallow_correct):
    """The generator's loss and its samples, both of one softmax over the vocabulary.

    Args:
      logits: [N, V], without the bias.
      bias: float32 [V].
      ids: int32 [N], the true tokens.
      noise: float32 [N, 2] for `masking.sample_tokens`.
      temperature, disallow_correct: of `masking.sampling_logits`.

    Returns:
      `(loss, is_restored, sampled_ids, log_normalizer)`, each [N]: the cross entropy; whether the
      true token is the likeliest, float32; int32; the logarithm of the softmax's denominator.
    """
    logits = _float(logits) + bias
    true_logits = tf.gather(logits, ids, batch_dims=1)
    largest = tf.reduce_max(logits, axis=-1)
    log_normalizer = largest + tf.math.log(
        tf.reduce_sum(tf.exp(logits - largest[:, None]), axis=-1)
    )
    sampling_logits = masking.sampling_logits(logits, ids, temperature, disallow_correct)
    return (
        log_normalizer - true_logits,
        tf.cast(true_logits >= largest, tf.float32),
        masking.sample_tokens(sampling_logits, noise),
        log_normalizer,
    )


def _masked_lm_gradient(tensors, outputs, upstream, temperature, disallow_correct):
    """By hand: the softmax less 1 at the true token."""
    logits, bias, ids, _ = tensors
    probabilities = tf.exp(_float(logits) + bias - outputs[3][:, None])
    is_true = tf.range(tf.size(bias)) == ids[:, None]
    gradient = upstream[:, None] * (probabilities - tf.cast(is_true, tf.float32))
    return tf.cast(gradient, logits.dtype), tf.reduce_sum(gradient, axis=0), None, None


# Of a formula's first output; the other outputs are without a gradient.
_GRADIENTS = {softmax_dropout: _softmax_dropout_gradient, masked_lm: _masked_lm_gradient}


def _float(x):
    return tf.cast(x, tf.float32)
