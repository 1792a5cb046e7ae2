"""What stands on top of an encoder: the heads of pre-training and of fine-tuning."""

import keras
import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling import islands
from electra_tf.modeling.layers import (
    dense,
    initializer,
    layer_norm,
    project,
    runner,
    shape_of,
    with_bias_gradient,
)


class MaskedLMHead(keras.layers.Layer):
    """Vocabulary logits: dense + gelu + LayerNorm, then the word embeddings and a bias (SEMANTICS 8)."""

    def __init__(self, config, embeddings, **kwargs):
        super().__init__(name="masked_lm_head", autocast=False, **kwargs)
        self.config = config
        self.embeddings = embeddings
        self.dense = dense(config.embedding_size, config, "dense", self.dtype_policy)
        self.LayerNorm = layer_norm(config, self.dtype_policy)

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))
        self.LayerNorm.build((None, None, self.config.embedding_size))
        self.bias = self.add_weight(
            name="bias", shape=(self.config.vocab_size,), initializer="zeros"
        )

    def call(self, hidden, training=False):
        """Gives [..., hidden_size] logits of the vocabulary, in two parts that are yet to be added.

        Returns:
          `(logits, bias)`: [..., vocab_size] in the compute dtype, and float32 [vocab_size] without a
          gradient, see `layers.with_bias_gradient`. `islands.masked_lm` adds them on its way.
        """
        # One product of two matrices: a batched one's gradient would be a table for each example.
        flat = runner(training)(
            islands.bias_gelu_layer_norm,
            *project(tf.reshape(hidden, [-1, self.config.hidden_size]), self.dense),
            self.LayerNorm.gamma,
            self.LayerNorm.beta,
            epsilon=self.config.layer_norm_eps,
        )
        table = tf.cast(tf.convert_to_tensor(self.embeddings.word_embeddings), flat.dtype)
        logits, bias = with_bias_gradient(
            tf.matmul(flat, table, transpose_b=True), tf.convert_to_tensor(self.bias)
        )
        shape = [*shape_of(hidden)[:-1], self.config.vocab_size]
        return tf.reshape(logits, shape), bias


class DiscriminatorHead(keras.layers.Layer):
    """One logit a token, "was it replaced?": dense + gelu + dense(1), no LayerNorm (SEMANTICS 8)."""

    def __init__(self, config, **kwargs):
        super().__init__(name="discriminator_head", autocast=False, **kwargs)
        self.config = config
        self.dense = dense(config.hidden_size, config, "dense", self.dtype_policy)
        # TensorFlow's default initialization, as in the original; its logits stay in float32.
        self.dense_prediction = keras.layers.Dense(1, name="dense_prediction", dtype="float32")

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))
        self.dense_prediction.build((None, None, self.config.hidden_size))

    def call(self, hidden, training=False):
        """[B, T, hidden_size] -> float32 logits [B, T]."""
        flat = tf.reshape(hidden, [-1, self.config.hidden_size])
        flat = runner(training)(islands.bias_gelu, *project(flat, self.dense))
        return tf.reshape(self.dense_prediction(flat), shape_of(hidden)[:-1])


class LogitHead(keras.layers.Layer):
    """One logit a token, "was it replaced?", by one dense layer in float32."""

    def __init__(self, config, **kwargs):
        super().__init__(name="discriminator_head", autocast=False, **kwargs)
        self.config = config
        self.dense = keras.layers.Dense(1, name="dense", dtype="float32")

    def build(self, input_shape=None):
        self.dense.build((None, None, self.config.hidden_size))

    def call(self, hidden, training=False):
        """[B, T, hidden_size] -> float32 logits [B, T]."""
        return self.dense(hidden)[..., 0]


class ClassificationHead(keras.layers.Layer):
    """Dropout and one dense layer, in float32 (SEMANTICS 19).

    Of a text it takes [CLS]'s vector, of tagged words each position's.
    """

    def __init__(self, config, num_labels, dropout=0.1, **kwargs):
        super().__init__(name="classifier", autocast=False, **kwargs)
        self.config, self.dropout = config, dropout
        # TensorFlow's default initialization, as in the original.
        self.dense = keras.layers.Dense(num_labels, name="dense", dtype="float32")

    def build(self, input_shape=None):
        self.dense.build((None, self.config.hidden_size))

    def call(self, hidden, seed=None):
        """[..., hidden_size] -> float32 logits [..., num_labels]; `seed`, int32 [2], of dropout."""
        return self.dense(randomness.dropout(tf.cast(hidden, tf.float32), self.dropout, seed))


class TwoLayerClassificationHead(keras.layers.Layer):
    """dropout + dense + gelu + dropout + dense: transformers' `ElectraClassificationHead`."""

    def __init__(self, config, num_labels, dropout=0.1, **kwargs):
        super().__init__(name="classifier", autocast=False, **kwargs)
        self.config, self.dropout = config, dropout
        self.dense = keras.layers.Dense(
            config.hidden_size,
            kernel_initializer=initializer(config),
            name="dense",
            dtype="float32",
        )
        self.out_proj = keras.layers.Dense(
            num_labels, kernel_initializer=initializer(config), name="out_proj", dtype="float32"
        )

    def build(self, input_shape=None):
        self.dense.build((None, self.config.hidden_size))
        self.out_proj.build((None, self.config.hidden_size))

    def call(self, hidden, seed=None):
        """[..., hidden_size] -> float32 logits [..., num_labels]; `seed`, int32 [2], of dropout."""
        seeds = randomness.split(seed, 2)
        hidden = randomness.dropout(tf.cast(hidden, tf.float32), self.dropout, seeds[0])
        hidden = islands.gelu(self.dense(hidden))
        return self.out_proj(randomness.dropout(hidden, self.dropout, seeds[1]))


class MultipleChoiceHead(keras.layers.Layer):
    """dense + gelu + dropout + dense(1): transformers' `ElectraForMultipleChoice`, in float32."""

    def __init__(self, config, dropout=0.1, **kwargs):
        super().__init__(name="multiple_choice", autocast=False, **kwargs)
        self.config, self.dropout = config, dropout

        def dense(units, name):
            return keras.layers.Dense(
                units, kernel_initializer=initializer(config), name=name, dtype="float32"
            )

        self.summary = dense(config.hidden_size, "summary")
        self.classifier = dense(1, "classifier")

    def build(self, input_shape=None):
        self.summary.build((None, self.config.hidden_size))
        self.classifier.build((None, self.config.hidden_size))

    def call(self, hidden, seed=None):
        """[N, hidden_size] -> float32 logits [N]; `seed`, int32 [2], of dropout."""
        hidden = islands.gelu(self.summary(tf.cast(hidden, tf.float32)))
        return self.classifier(randomness.dropout(hidden, self.dropout, seed))[:, 0]


CLASSIFICATION_HEADS = {"dense": ClassificationHead, "two_layers": TwoLayerClassificationHead}
