"""Parameters of a pre-training model, and bytes of its step on one device, by arithmetic alone.

Bytes are counted tensor by tensor, by the layers' names: what `modeling.layers` and
`modeling.islands` keep for the backward pass. Nothing here imports TensorFlow.
"""

from typing import NamedTuple

from electra_tf.configs import ConvolutionalRecurrentConfig, EncoderConfig
from electra_tf.training.flops import encoder_flops, forward_flops

# Of a device's memory; the rest is for the update, the evaluation and the system.
USABLE_SHARE = 0.8

_FLOAT32 = 4
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def _dense(inputs, outputs):
    return inputs * outputs + outputs


def encoder_parameters(encoder):
    """Parameters of an encoder, without embeddings; arguments as of `flops.encoder_flops`."""
    if isinstance(encoder, ConvolutionalRecurrentConfig):
        convolution = _dense(encoder.kernel_size * encoder.embedding_size, encoder.filters)
        return convolution + 2 * _dense(encoder.filters + encoder.units, 4 * encoder.units)
    width, inner = encoder.hidden_size, encoder.intermediate_size
    block = 4 * _dense(width, width) + _dense(width, inner) + _dense(inner, width) + 4 * width
    project = encoder.embedding_size != width
    return encoder.num_hidden_layers * block + project * _dense(encoder.embedding_size, width)


def parameters(config):
    """Trained parameters of an `ElectraPretrainer`.

    ```python
    sum(parameters(load_pretraining_config("small")).values())  # 14_196_219
    ```

    Args:
      config: `PretrainingConfig`.

    Returns:
      dict of int: the `embeddings` that are shared, or the discriminator's, and what `discriminator`
      and `generator` have besides.
    """
    discriminator, generator = config.discriminator_config(), config.generator_config()
    width, embedding = discriminator.hidden_size, discriminator.embedding_size
    rows = config.vocab_size + config.max_position_embeddings + discriminator.type_vocab_size
    masked_lm_head = _dense(generator.hidden_size, embedding) + 2 * embedding + config.vocab_size
    head = _dense(width, 1)
    if isinstance(discriminator, EncoderConfig):
        head += _dense(width, width)
    embeddings = (rows + 2) * embedding
    own = 0 if config.tied else encoder_parameters(generator)
    if config.untied_generator_embeddings:
        own += embeddings
    return {
        "embeddings": embeddings,
        "discriminator": encoder_parameters(discriminator) + head,
        "generator": own + masked_lm_head,
    }


def state_bytes(config):
    """Bytes on each device that do not depend on the batch.

    Returns:
      dict of int: `weights`, `gradients`, `adam_moments`, in float32; `weight_copies`, what the
      products read instead of the variables; `gradient_sums` of the micro-batches before.
    """
    float32 = _FLOAT32 * sum(parameters(config).values())
    is_accumulated = config.gradient_accumulation_steps not in (1, "auto")
    return {
        "weights": float32,
        "gradients": float32,
        "adam_moments": 2 * float32,
        "weight_copies": _weight_copies(config),
        "gradient_sums": float32 if is_accumulated else 0,
    }


def _weight_copies(config):
    """In the compute dtype, those that are never multiplied too; in float32 query, key, value side by side."""
    if config.mixed_precision != "float32":
        return _BYTES[config.mixed_precision] * sum(parameters(config).values())
    encoders = config.discriminator_config(), config.generator_config()
    return _FLOAT32 * sum(
        3 * encoder.num_hidden_layers * encoder.hidden_size**2
        for encoder in encoders
        if isinstance(encoder, EncoderConfig)
    )


def block_activations(encoder, length, size):
    """What one block keeps of one example, apart from its input.

    Args:
      encoder: `EncoderConfig`.
      length: tokens of the example.
      size: bytes of a number of the compute dtype.

    Returns:
      dict of bytes by layer.
    """
    hidden = length * encoder.hidden_size * size
    intermediate = length * encoder.intermediate_size * size
    scores = encoder.num_attention_heads * length**2 * size
    moments = 2 * length * _FLOAT32  # Mean and deviation of each token.
    return {
        "attention query, key, value": 3 * hidden,
        "attention probabilities": scores,
        "attention probabilities after dropout": scores,
        "attention context": hidden,
        "attention dense": hidden,
        "attention LayerNorm": hidden + moments,
        "feed_forward intermediate": intermediate,
        "feed_forward gelu": intermediate,
        "feed_forward output": hidden,
        "feed_forward LayerNorm": hidden + moments,
    }


def encoder_activations(encoder, length, size, recompute=False):
    """What embeddings and blocks keep of one example; with `recompute` of a block its output only.

    Args and returns: as `block_activations`.
    """
    hidden = length * encoder.hidden_size * size
    block = block_activations(encoder, length, size)
    if recompute:
        block = {"blocks' outputs": hidden}
    return {
        **_embeddings_activations(encoder, length, size),
        "embeddings_project": hidden if encoder.embedding_size != encoder.hidden_size else 0,
        **{name: encoder.num_hidden_layers * count for name, count in block.items()},
    }


def _embeddings_activations(encoder, length, size):
    embedded = length * encoder.embedding_size
    return {
        # x - mean, the same times 1 / deviation, and LayerNorm's output.
        "embeddings LayerNorm": 3 * embedded * _FLOAT32,
        "embeddings": embedded * size,
    }


def convolutional_recurrent_activations(encoder, length, size):
    """What embeddings, convolution and LSTMs keep of one example.

    Args:
      encoder: `ConvolutionalRecurrentConfig` of the level of tokens.
      length, size, and returns: as `block_activations`.
    """
    convolved = length * encoder.filters
    states = length * encoder.units
    return {
        **_embeddings_activations(encoder, length, size),
        "conv input": length * encoder.embedding_size * size,
        "conv": convolved * size,
        "conv after dropout": convolved * size,
        # In each direction, of each time step: its input; output and cell before it; the gates
        # input, forget, output and candidate; the cell's tanh.
        "lstm": 2 * (convolved + 7 * states) * _FLOAT32,
        "lstm output": 2 * states * _FLOAT32,
        "lstm output after dropout": 2 * states * size,
    }


class Activations(NamedTuple):
    """Bytes of one example in one network.

    Attributes:
      kept: dict by layer, what the forward pass leaves for the backward pass.
      transient: the most that loss and backward pass have on top of it.
    """

    kept: dict
    transient: int

    @property
    def total(self):
        """All that is kept."""
        return sum(self.kept.values())


def _backward_of_block(encoder, length, size, recompute):
    """Gradients of a block's second half, whose tensors are wider; the block's own if made anew."""
    again = sum(block_activations(encoder, length, size).values()) if recompute else 0
    return again + 2 * length * (encoder.hidden_size + encoder.intermediate_size) * size


def discriminator_activations(config, recompute=False):
    """The discriminator's `Activations`."""
    encoder, length = config.discriminator_config(), config.max_seq_length
    size = _BYTES[config.mixed_precision]
    numbers = length * encoder.hidden_size
    # Its last layer is float32 and keeps a copy of its input, unless that is float32 itself.
    copy = numbers * _FLOAT32 if size != _FLOAT32 else 0
    if isinstance(encoder, ConvolutionalRecurrentConfig):
        kept = convolutional_recurrent_activations(encoder, length, size)
        # In both directions the gradients of what the LSTM gives and takes.
        transient = 2 * length * (encoder.units + encoder.filters) * _FLOAT32
        return Activations({**kept, "discriminator_head dense": copy}, transient)
    kept = {
        **encoder_activations(encoder, length, size, recompute),
        "discriminator_head dense": numbers * size,
        "discriminator_head gelu": numbers * size,
        "discriminator_head dense_prediction": copy,
    }
    return Activations(kept, _backward_of_block(encoder, length, size, recompute))


def generator_activations(config, recompute=False):
    """The generator's `Activations`."""
    encoder, length = config.generator_config(), config.max_seq_length
    size = _BYTES[config.mixed_precision]
    predictions = config.max_predictions_per_seq
    logits = predictions * config.vocab_size * size
    kept = {
        **encoder_activations(encoder, length, size, recompute),
        "masked_lm_head masked positions": predictions * encoder.hidden_size * size,
        "masked_lm_head dense": predictions * encoder.embedding_size * size,
        "masked_lm_head LayerNorm": predictions * encoder.embedding_size * size,
        "masked_lm_head logits": logits,
    }
    # XLA writes the logits with their bias down in float32, and three slices of a sixteenth; in the
    # backward pass the logits have a gradient. They are gone when the blocks' begins.
    loss = max(logits, predictions * config.vocab_size * _FLOAT32 * 19 // 16)
    block = _backward_of_block(encoder, length, size, recompute)
    return Activations(kept, max(loss, block - logits))


def activation_bytes(config, recompute=False):
    """Bytes that one more example adds to the peak of a step.

    The generator's backward pass needs nothing of the discriminator: it begins as soon as its loss is
    there, beside the discriminator's forward pass. It is over before that, and its activations gone,
    where it has fewer operations; else both networks' are there together.

    Args:
      config: `PretrainingConfig`.
      recompute: whether each block keeps its input only and computes the rest anew.
    """
    generator = generator_activations(config, recompute)
    discriminator = discriminator_activations(config, recompute)
    moments = [part.total + part.transient for part in (generator, discriminator)]
    if not _generator_ends_first(config):
        # By then the logits' gradient has taken the logits' place.
        moments.append(generator.total + discriminator.total)
    return max(moments)


def _generator_ends_first(config):
    discriminator = encoder_flops(config.discriminator_config(), config.max_seq_length)
    return 2 * (forward_flops(config) - discriminator) < discriminator


def device_bytes(config, rows, recompute=False):
    """Bytes of a step of so many rows on one device."""
    return sum(state_bytes(config).values()) + rows * activation_bytes(config, recompute)


def largest_batch(config, memory_bytes, recompute=False):
    """The most rows that `USABLE_SHARE` of a device's memory holds at a time; 0 for not even one."""
    free = USABLE_SHARE * memory_bytes - sum(state_bytes(config).values())
    return max(0, int(free // activation_bytes(config, recompute)))
