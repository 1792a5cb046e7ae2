"""A generator that does not look at the text: every token at the same rate, or at its own.

No network, and nothing to train: the unigram generator of Clark et al. (2020, section 3.2), and the
original's `uniform_generator`.
"""

import keras
import numpy as np
import tensorflow as tf

from electra_tf.modeling.proposals import Proposals


class CountingGenerator(keras.layers.Layer):
    """Proposes tokens by their counts alone, special ones never.

    ```python
    generator = CountingGenerator(vocab_size=30522, special_ids=(0, 101, 102, 103))  # uniform
    generator.set_counts(counts)  # unigram
    ```
    """

    def __init__(self, vocab_size, special_ids):
        """Makes the counts, 1 of each token.

        Args:
          vocab_size: V.
          special_ids: sequence of int, the tokens that are never proposed.
        """
        super().__init__(name="generator", autocast=False, dtype="float32")
        self._is_ordinary = np.ones(vocab_size, np.float32)
        self._is_ordinary[list(special_ids)] = 0.0
        # Floats, since a GPU keeps no whole numbers in its variables; whole ones nevertheless.
        self.token_counts = self.add_weight(
            name="token_counts",
            shape=(vocab_size,),
            initializer=lambda shape, dtype=None: tf.constant(self._is_ordinary),
            trainable=False,
        )
        self.built = True

    def set_counts(self, counts):
        """Proposes each token in proportion to one more than its count, so that none is impossible.

        Args:
          counts: array of int [V], whose sum is below 2 ** 24 - V.
        """
        self.token_counts.assign(self._is_ordinary * (counts + 1))

    def totals(self, batch):
        """Nothing is trained, so there is nothing to divide by."""
        del batch
        return {}

    def propose(self, batch, masked, noise, sampling, training=False, dropout_seed=None):
        """Draws replacements.

        Args:
          batch, training, dropout_seed: of no matter.
          masked: `masking.MaskedInputs`.
          noise: float32 [B, P, 2], uniform in [0, 1); the first half is used.
          sampling: `proposals.Sampling`, of temperature 1.

        Returns:
          `proposals.Proposals`.
        """
        del batch, training, dropout_seed
        # In whole numbers: sums of floats would depend on the order, and so on the device.
        counts = tf.cast(self.token_counts, tf.int32)
        cumulative = tf.cumsum(counts)
        own = tf.gather(counts, masked.ids)
        left_out = own if sampling.disallow_correct else tf.zeros_like(own)
        total = cumulative[-1] - left_out
        number = tf.cast(noise[..., 0] * tf.cast(total, tf.float32), tf.int32)
        number = tf.minimum(number, total - 1)  # Rounding may reach the total itself.
        is_behind = number >= tf.gather(cumulative, masked.ids) - own
        number += tf.where(is_behind, left_out, 0)
        sampled_ids = tf.searchsorted(cumulative, tf.reshape(number, [-1]), side="right")
        logits = tf.math.log(tf.cast(counts, tf.float32))
        shape = tf.shape(masked.ids)
        return Proposals(
            logits=tf.broadcast_to(logits, tf.concat([shape, tf.shape(logits)], axis=0)),
            hidden=None,
            sampled_ids=tf.reshape(sampled_ids, shape),
            masked_lm_loss=tf.reduce_logsumexp(logits) - tf.gather(logits, masked.ids),
            is_restored=tf.cast(masked.ids == tf.argmax(counts, output_type=tf.int32), tf.float32),
            sums={},
        )
