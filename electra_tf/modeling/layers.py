"""Embeddings and Transformer encoder, post-LayerNorm as in BERT and the original ELECTRA.

Mixed precision: matrix products and residuals run in the layer's compute dtype; LayerNorm, softmax
and the sum of the embeddings in float32. Container layers switch Keras's autocasting off, since it
casts every float argument.

Dropout is stateless: a layer gets a seed, int32 [2], or None for no dropout.
"""

import keras
import tensorflow as tf

from electra_tf import randomness


def initializer(config):
    """Truncated normal of `config.initializer_range` (0.02)."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


def dense(units, config, name, dtype, activation=None):
    """A dense layer with the original's initialization."""
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=initializer(config), name=name, dtype=dtype
    )


def layer_norm(config, dtype):
    """LayerNorm with the original's epsilon (1e-12); its statistics are float32 in any dtype."""
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_eps, name="LayerNorm", dtype=dtype
    )


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
        positions = tf.convert_to_tensor(self.position_embeddings)[: tf.shape(input_ids)[1]]
        # Stays in float32 until the LayerNorm has summed it up.
        embedded = tf.cast(self.LayerNorm(words + positions + segments), self.compute_dtype)
        return randomness.dropout(embedded, self.config.hidden_dropout_prob, seed)


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

    def _split_heads(self, x):
        """[B, T, hidden] -> [B, heads, T, hidden / heads]."""
        heads = self.config.num_attention_heads
        x = tf.reshape(x, [*_leading(x), heads, self.config.hidden_size // heads])
        return tf.transpose(x, [0, 2, 1, 3])

    def call(self, hidden, attention_bias, seed=None):
        """Attends.

        Args:
          hidden: [B, T, hidden_size].
          attention_bias: float32 [B, 1, 1, T], added to the scores.
          seed: int32 [2] or None.

        Returns:
          [B, T, hidden_size].
        """
        attention_seed, output_seed = randomness.split(seed, 2)
        query, key, value = (
            self._split_heads(layer(hidden)) for layer in (self.query, self.key, self.value)
        )
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        scores *= query.shape[-1] ** -0.5
        probabilities = tf.cast(tf.nn.softmax(scores + attention_bias), value.dtype)
        probabilities = randomness.dropout(
            probabilities, self.config.attention_probs_dropout_prob, attention_seed
        )
        context = tf.transpose(tf.matmul(probabilities, value), [0, 2, 1, 3])
        output = self.dense(tf.reshape(context, tf.shape(hidden)))
        return self.LayerNorm(
            hidden + randomness.dropout(output, self.config.hidden_dropout_prob, output_seed)
        )


class FeedForward(keras.layers.Layer):
    """Two dense layers with gelu between them, residual and LayerNorm."""

    def __init__(self, config, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config
        dtype = self.dtype_policy
        self.intermediate = dense(config.intermediate_size, config, "intermediate", dtype, "gelu")
        self.output_dense = dense(config.hidden_size, config, "output", dtype)
        self.LayerNorm = layer_norm(config, dtype)

    def build(self, input_shape=None):
        self.intermediate.build((None, None, self.config.hidden_size))
        self.output_dense.build((None, None, self.config.intermediate_size))
        self.LayerNorm.build((None, None, self.config.hidden_size))

    def call(self, hidden, seed=None):
        """Transforms [B, T, hidden_size] position by position."""
        output = self.output_dense(self.intermediate(hidden))
        return self.LayerNorm(
            hidden + randomness.dropout(output, self.config.hidden_dropout_prob, seed)
        )


class Encoder(keras.layers.Layer):
    """The Transformer: a projection of the embeddings where widths differ, then the blocks."""

    def __init__(self, config, **kwargs):
        super().__init__(name="encoder", autocast=False, **kwargs)
        self.config = config
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
        hidden = embedded if self.embeddings_project is None else self.embeddings_project(embedded)
        attention_bias = (1.0 - tf.cast(input_mask, tf.float32))[:, None, None, :] * -10000.0
        seeds = randomness.split(seed, 2 * self.config.num_hidden_layers)
        hidden_states = [hidden]
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward)):
            hidden = attention(hidden, attention_bias, seed=seeds[2 * i])
            hidden = feed_forward(hidden, seed=seeds[2 * i + 1])
            hidden_states.append(hidden)
        return hidden_states


def _leading(x):
    """The first two dimensions of a tensor, static where they are known."""
    static, dynamic = x.shape[:2], tf.shape(x)
    return [dynamic[i] if n is None else n for i, n in enumerate(static)]
