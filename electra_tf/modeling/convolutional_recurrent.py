"""An encoder of a convolution and an LSTM, in the Transformer's place.

Keras's own layers. Padding has no effect: to the convolution it is what lies beyond the edges of a
text, zeros, and the LSTM skips it.
"""

import keras
import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling import islands
from electra_tf.modeling.layers import runner, shape_of


class ConvolutionalRecurrentEncoder(keras.layers.Layer):
    """Conv1D and two LSTMs side by side, or for texts Conv1D, MaxPooling1D and one LSTM."""

    def __init__(self, config, **kwargs):
        """Makes the layers.

        Args:
          config: `configs.ConvolutionalRecurrentConfig`.
        """
        super().__init__(name="encoder", autocast=False, **kwargs)
        self.config = config
        self.conv = keras.layers.Conv1D(
            config.filters,
            config.kernel_size,
            padding="same",
            activation="relu",
            name="conv",
            dtype=self.dtype_policy,
        )
        # In float32: in half precision Keras would cast the weights anew in each time step, and keep
        # every copy. Without cuDNN, whose operation XLA does not compile and a CPU does not have.
        lstm = keras.layers.LSTM(
            config.units,
            return_sequences=config.pool_size is None,
            use_cudnn=False,
            name="lstm",
            dtype="float32",
        )
        if config.pool_size is None:
            self.lstm = keras.layers.Bidirectional(lstm, name="lstm", dtype="float32")
        else:
            self.pooling = keras.layers.MaxPooling1D(config.pool_size, dtype=self.dtype_policy)
            self.lstm = lstm

    def build(self, input_shape=None):
        self.conv.build((None, None, self.config.embedding_size))
        self.lstm.build((None, None, self.config.filters))

    @property
    def lstms(self):
        """The LSTM of each direction, list of `keras.layers.LSTM`."""
        if self.config.pool_size is None:
            return [self.lstm.forward_layer, self.lstm.backward_layer]
        return [self.lstm]

    @property
    def blocks(self):
        """Lists of layers, from the embeddings upwards."""
        return [[self.conv], [self.lstm]]

    def call(self, embedded, input_mask, seed=None):
        """Encodes.

        Args:
          embedded: [B, T, embedding_size].
          input_mask: int32 [B, T], 1 on real tokens, which are a row's first.
          seed: int32 [2] or None.

        Returns:
          list of two tensors, the convolution's and the LSTM's output: [B, T, filters] and
          [B, T, 2 * units]; of a network for texts [B, ceil(T / pool_size), filters] and
          [B, 1, units].
        """
        conv_seed, lstm_seed = randomness.split(seed, 2)
        is_real = tf.cast(input_mask, embedded.dtype)[..., None]
        convolved = self.conv(embedded * is_real)
        if self.config.pool_size is None:
            convolved = self._dropout(convolved, conv_seed)
            encoded = self._run_lstm(convolved, input_mask)
        else:
            convolved = self._dropout(self._pool(convolved * is_real), conv_seed)
            # A window has a real token exactly if its first one is real.
            input_mask = input_mask[:, :: self.config.pool_size]
            encoded = self._run_lstm(convolved, input_mask)[:, None]
        return [convolved, self._dropout(encoded, lstm_seed)]

    def _pool(self, convolved):
        """Pools what no activation is below: zeros fill the last window up, and are padding's values."""
        missing = -shape_of(convolved)[1] % self.config.pool_size
        return self.pooling(tf.pad(convolved, [[0, 0], [0, missing], [0, 0]]))

    def _run_lstm(self, convolved, input_mask):
        """Runs the LSTM with weights that are read before its loop.

        Those that are read in it are kept for the gradients in each time step, by XLA as copies.
        """
        encoded, _ = self.lstm.stateless_call(
            [tf.convert_to_tensor(variable) for variable in self.lstm.trainable_variables],
            self.lstm.non_trainable_variables,
            convolved,
            mask=input_mask > 0,
        )
        # A tensor without the mask that Keras hangs on it, and that the next layer would warn of.
        return tf.identity(encoded)

    def _dropout(self, hidden, seed):
        return runner(seed is not None)(
            islands.dropout_cast,
            hidden,
            seed,
            rate=self.config.hidden_dropout_prob,
            dtype=self.compute_dtype,
        )
