"""A generator that is rewarded for fooling the discriminator (Clark et al., 2020, appendix F).

Sampling has no gradient, so the generator is trained by REINFORCE (Williams, 1992): each sampled token's
log probability is raised by how much the discriminator's loss on it, the reward, exceeds a baseline.
"""

import keras
import tensorflow as tf

from electra_tf import masking


class Adversary(keras.layers.Layer):
    """The generator's loss, and the baseline that it learns.

    The baseline of a hidden token is -log sigmoid(w h), with h the generator's last hidden state. The
    cross entropy between sigmoid(w h) and exp(-reward) trains w alone.
    """

    def __init__(self, hidden_size):
        """Makes the baseline's weights for a generator of a width."""
        super().__init__(name="adversary", dtype="float32")
        self.baseline = keras.layers.Dense(1, use_bias=False, name="baseline", dtype="float32")
        self.baseline.build((None, hidden_size))
        self.built = True

    def call(self, outputs):
        """The loss of each hidden token.

        Args:
          outputs: `pretrainer.PretrainingOutputs`.

        Returns:
          float32 [B, P]; its gradient reaches the generator and the baseline, not the discriminator.
        """
        losses = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=outputs.is_replaced, logits=outputs.discriminator_logits
        )
        reward = tf.stop_gradient(masking.gather_positions(losses, outputs.masked.positions))
        baseline_logits = self.baseline(tf.stop_gradient(outputs.generator_hidden))[..., 0]
        baseline = tf.stop_gradient(tf.nn.softplus(-baseline_logits))
        negative_log_probability = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=outputs.sampled_ids, logits=outputs.generator_logits
        )
        return (
            reward - baseline
        ) * negative_log_probability + tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.exp(-reward), logits=baseline_logits
        )
