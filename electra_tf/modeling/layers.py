"""Embeddings and Transformer encoder, post-LayerNorm as in BERT and the original ELECTRA.

Mixed precision: matrix products and residuals run in the layer's compute dtype; what lies between
them, and the sum of the embeddings, in float32. Container layers switch Keras's autocasting off, since
it casts every float argument.

Dropout is stateless: in training a layer gets a seed, int32 [2], in inference None. In training the
chains between the products are compiled (`islands`).
"""

import functools

import keras
import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling import islands


def initializer(config):
    """Truncated normal of `config.initializer_range` (0.02)."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


def dense(units, config, name, dtype):
    """A dense layer with the original's initialization."""
    return keras.layers.Dense(units, kernel_initializer=initializer(config), name=name, dtype=dtype)


def project(x, *layers):
    """The product of `x` [N, D] with the kernels of dense layers, side by side, in the dtype of `x`.

    The biases are left to the formula that follows (`islands`), which adds them on its way; here
    they get their gradient, the column sums of the product's, by another product.

    Returns:
      `(product, bias)`: [N, sum of the layers' units], and float32 [units] without a gradient.
    """
    kernel = _side_by_side([layer.kernel for layer in layers])
    bias = _side_by_side([layer.bias for layer in layers])
    return with_bias_gradient(tf.matmul(x, tf.cast(kernel, x.dtype)), bias)


def project_apart(x, *layers):
    """As `project`, in inference: a product each, since there joining the kernels costs more than it saves."""
    kernels = [tf.convert_to_tensor(layer.kernel) for layer in layers]
    products = [tf.matmul(x, tf.cast(kernel, x.dtype)) for kernel in kernels]
    return tf.concat(products, axis=-1), _side_by_side([layer.bias for layer in layers])


def shape_of(tensor):
    """The shape as a list: an int where it is known, else a scalar tensor, which costs operations."""
    dynamic = None if tensor.shape.is_fully_defined() else tf.unstack(tf.shape(tensor))
    return [size if size is not None else dynamic[axis] for axis, size in enumerate(tensor.shape)]


def _side_by_side(variables):
    tensors = [tf.convert_to_tensor(variable) for variable in variables]
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=-1)


def with_bias_gradient(product, bias):
    """Gives a bias that is yet to be added to a product [N, units] its gradient.

    Returns:
      `(product, bias)`, the product with both gradients, the bias without.
    """
    return _with_bias_gradient(product, bias), tf.stop_gradient(bias)


@tf.custom_gradient
def _with_bias_gradient(product, bias):
    def gradient(upstream):
        ones = tf.ones([1, shape_of(upstream)[0]], upstream.dtype)
        return upstream, tf.cast(tf.matmul(ones, upstream)[0], bias.dtype)

    return tf.identity(product), gradient


def runner(training):
    """How to run the formulas of `islands`: compiled in training, else plain."""
    return islands.compiled if training else islands.plain


def layer_norm(config, dtype):
    """LayerNorm with the original's epsilon (1e-12); its statistics are float32 in any dtype."""
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_eps, name="LayerNorm", dtype=dtype
    )


def add_and_normalize(projected, residual, norm, seed, config):
    """LayerNorm(residual + dropout(a dense layer's output)), of what `project` returns."""
    return runner(seed is not None)(
        islands.dropout_add_layer_norm,
        *projected,
        residual,
        norm.gamma,
        norm.beta,
        seed,
        rate=config.hidden_dropout_prob,
        epsilon=config.layer_norm_eps,
    )[0]


class Embeddings(keras.layers.Layer):
    """Word, position and segment embeddings, summed and normalized.

    Generator and discriminator share one instance (SEMANTICS 9).
    """

    def __init__(self, config, **kwargs):
        super().__init__(name="embeddings", autocast=False, **kwargs)
        self.config = config
        self.LayerNorm = layer_norm(config, "float32")

    def build(self, input_shape=None):
        config = self.config
        for name, rows in (
            ("word_embeddings", config.vocab_size),
            ("position_embeddings", config.max_position_embeddings),
            ("token_type_embeddings", config.type_vocab_size),
        ):
            table = self.add_weight(
                name=name, shape=(rows, config.embedding_size), initializer=initializer(config)
            )
            setattr(self, name, table)
        self.LayerNorm.build((None, None, config.embedding_size))

    def call(self, input_ids, segment_ids, seed=None):
        """Embeds tokens.

        Args:
          input_ids, segment_ids: int32 [B, T].
          seed: int32 [2] or None.

        Returns:
          [B, T, embedding_size].
        """
        words = tf.gather(self.word_embeddings, input_ids)
        segments = tf.gather(self.token_type_embeddings, segment_ids)
        positions = tf.convert_to_tensor(self.position_embeddings)[: shape_of(input_ids)[1]]
        # Not an island: rounding here is what five steps of training amplify most.
        normalized = islands.layer_norm(
            words + positions + segments,
            tf.convert_to_tensor(self.LayerNorm.gamma),
            tf.convert_to_tensor(self.LayerNorm.beta),
            self.config.layer_norm_eps,
        )
        return runner(seed is not None)(
            islands.dropout_cast,
            normalized,
            seed,
            rate=self.config.hidden_dropout_prob,
            dtype=self.compute_dtype,
        )


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with its output projection, residual and LayerNorm."""

    def __init__(self, config, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.query, self.key, self.value, self.dense = (
            dense(config.hidden_size, config, name, self.dtype_policy)
            for name in ("query", "key", "value", "dense")
        )
        self.LayerNorm = layer_norm(config, self.dtype_policy)

    def build(self, input_shape=None):
        for layer in (self.query, self.key, self.value, self.dense, self.LayerNorm):
            layer.build((None, None, self.config.hidden_size))

    def call(self, hidden, attention_bias, seeds=(None, None)):
        """Attends.

        Args:
          hidden: [B * T, hidden_size].
          attention_bias: [B, 1, 1, T], added to the scores.
          seeds: two of int32 [2], of the probabilities' and of the output's dropout, or Nones.

        Returns:
          [B * T, hidden_size].
        """
        config, (attention_seed, output_seed) = self.config, seeds
        run = runner(attention_seed is not None)
        batch, _, _, length = shape_of(attention_bias)
        size = config.hidden_size // config.num_attention_heads
        project_heads = project_apart if attention_seed is None else project
        product, bias = project_heads(hidden, self.query, self.key, self.value)
        # Not an island: TensorFlow transposes faster than XLA. In this shape, since in bfloat16
        # oneDNN's product of matrices that adds a bias takes longer than a product and an addition.
        product = tf.reshape(product, [batch, length, 3 * config.hidden_size])
        heads = tf.reshape(
            tf.nn.bias_add(product, tf.cast(bias, product.dtype)),
            [batch, length, 3, config.num_attention_heads, size],
        )
        query, key, value = tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))
        # One operation of oneDNN's.
        scores = tf.matmul(query, key, transpose_b=True) * size**-0.5 + attention_bias
        probabilities = run(
            islands.softmax_dropout,
            scores,
            tf.nn.softmax(scores),
            attention_seed,
            rate=config.attention_probs_dropout_prob,
        )
        context = tf.transpose(tf.matmul(probabilities, value), [0, 2, 1, 3])
        context = tf.reshape(context, [-1, config.hidden_size])
        return add_and_normalize(
            project(context, self.dense), hidden, self.LayerNorm, output_seed, config
        )


class FeedForward(keras.layers.Layer):
    """Two dense layers with gelu between them, residual and LayerNorm."""

    def __init__(self, config, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config
        dtype = self.dtype_policy
        self.intermediate = dense(config.intermediate_size, config, "intermediate", dtype)
        self.output_dense = dense(config.hidden_size, config, "output", dtype)
        self.LayerNorm = layer_norm(config, dtype)

    def build(self, input_shape=None):
        self.intermediate.build((None, None, self.config.hidden_size))
        self.output_dense.build((None, None, self.config.intermediate_size))
        self.LayerNorm.build((None, None, self.config.hidden_size))

    def call(self, hidden, seed=None):
        """Transforms [B * T, hidden_size] position by position."""
        run = runner(seed is not None)
        intermediate = run(islands.bias_gelu, *project(hidden, self.intermediate))
        output = project(intermediate, self.output_dense)
        return add_and_normalize(output, hidden, self.LayerNorm, seed, self.config)


class Encoder(keras.layers.Layer):
    """The Transformer: a projection of the embeddings where widths differ, then the blocks."""

    def __init__(self, config, recompute_activations=False, **kwargs):
        """Makes the layers.

        Args:
          config: `configs.EncoderConfig`.
          recompute_activations: whether training keeps of each block its input alone and computes
            the block anew for its gradients (Chen et al., 2016): less memory, a third more work.
        """
        super().__init__(name="encoder", autocast=False, **kwargs)
        self.config = config
        self.recompute_activations = recompute_activations
        self.embeddings_project = None
        if config.embedding_size != config.hidden_size:
            # The original leaves this layer to TensorFlow's default, glorot (SEMANTICS 10).
            self.embeddings_project = keras.layers.Dense(
                config.hidden_size, name="embeddings_project", dtype=self.dtype_policy
            )
        self.attention = [
            SelfAttention(config, name=f"attention_{i}", dtype=self.dtype_policy)
            for i in range(config.num_hidden_layers)
        ]
        self.feed_forward = [
            FeedForward(config, name=f"feed_forward_{i}", dtype=self.dtype_policy)
            for i in range(config.num_hidden_layers)
        ]

    def build(self, input_shape=None):
        if self.embeddings_project is not None:
            self.embeddings_project.build((None, None, self.config.embedding_size))
        for layer in (*self.attention, *self.feed_forward):
            layer.build()

    @property
    def blocks(self):
        """Lists of layers, from the embeddings upwards."""
        return [list(layers) for layers in zip(self.attention, self.feed_forward)]

    def call(self, embedded, input_mask, seed=None):
        """Encodes.

        Args:
          embedded: [B, T, embedding_size].
          input_mask: int32 [B, T], 1 on real tokens.
          seed: int32 [2] or None.

        Returns:
          list of `num_hidden_layers + 1` tensors [B, T, hidden_size]: the projected embeddings and
          each block's output.
        """
        # Rows of all examples below each other: products and column sums of matrices are faster.
        batch, length, _ = shape_of(embedded)
        hidden = tf.reshape(embedded, [-1, self.config.embedding_size])
        if self.embeddings_project is not None:
            product, bias = project(hidden, self.embeddings_project)
            hidden = tf.nn.bias_add(product, tf.cast(bias, product.dtype))
        attention_bias = (1.0 - tf.cast(input_mask, hidden.dtype))[:, None, None, :] * -10000.0
        seeds = randomness.split(seed, 3 * self.config.num_hidden_layers)
        hidden_states = [hidden]
        for i in range(self.config.num_hidden_layers):
            block = functools.partial(self._block, i, attention_bias, seeds[3 * i : 3 * i + 3])
            if self.recompute_activations and seed is not None:
                block = tf.recompute_grad(block)
            hidden = block(hidden)
            hidden_states.append(hidden)
        shape = [batch, length, self.config.hidden_size]
        return [tf.reshape(hidden, shape) for hidden in hidden_states]

    def _block(self, i, attention_bias, seeds, hidden):
        # Not by `__call__`: in the backward pass, where no layer is around these, it would cast the
        # float32 variables to the compute dtype.
        attention, feed_forward = self.attention[i], self.feed_forward[i]
        with tf.name_scope(attention.name):
            hidden = attention.call(hidden, attention_bias, seeds=seeds[:2])
        with tf.name_scope(feed_forward.name):
            return feed_forward.call(hidden, seed=seeds[2])
