"""What stands on top of an encoder: the masked-language-model and the discriminator head."""

import keras
import tensorflow as tf

from electra_tf.modeling.layers import dense, layer_norm


class MaskedLMHead(keras.layers.Layer):
    """Vocabulary logits: dense + gelu + LayerNorm, then the word embeddings and a bias (SEMANTICS 8)."""

    def __init__(self, config, embeddings, **kwargs):
        super().__init__(name="masked_lm_head", autocast=False, **kwargs)
        self.config = config
        self.embeddings = embeddings
        self.dense = dense(config.embedding_size, config, "dense", self.dtype_policy, "gelu")
        self.LayerNorm = layer_norm(config, self.dtype_policy)

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))
        self.LayerNorm.build((None, None, self.config.embedding_size))
        self.bias = self.add_weight(
            name="bias", shape=(self.config.vocab_size,), initializer="zeros"
        )

    def call(self, hidden):
        """[..., hidden_size] -> float32 logits [..., vocab_size]."""
        hidden = tf.cast(self.LayerNorm(self.dense(hidden)), tf.float32)
        table = tf.convert_to_tensor(self.embeddings.word_embeddings)
        # One product of two matrices: a batched one's gradient would be a table for each example.
        flat = tf.reshape(hidden, [-1, self.config.embedding_size])
        logits = tf.matmul(flat, table, transpose_b=True) + self.bias
        return tf.reshape(logits, tf.concat([tf.shape(hidden)[:-1], [self.config.vocab_size]], 0))


class DiscriminatorHead(keras.layers.Layer):
    """One logit a token, "was it replaced?": dense + gelu + dense(1), no LayerNorm (SEMANTICS 8)."""

    def __init__(self, config, **kwargs):
        super().__init__(name="discriminator_head", autocast=False, **kwargs)
        self.config = config
        self.dense = dense(config.hidden_size, config, "dense", self.dtype_policy, "gelu")
        # TensorFlow's default initialization, as in the original; its logits stay in float32.
        self.dense_prediction = keras.layers.Dense(1, name="dense_prediction", dtype="float32")

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))
        self.dense_prediction.build((None, None, self.config.hidden_size))

    def call(self, hidden):
        """[B, T, hidden_size] -> float32 logits [B, T]."""
        return tf.squeeze(self.dense_prediction(self.dense(hidden)), axis=-1)
