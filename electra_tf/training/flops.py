"""Floating-point operations of a pre-training example, and what the machine reaches at most."""

import functools
import time

from electra_tf import schedule
from electra_tf.configs import ConvolutionalRecurrentConfig, EncoderConfig


def encoder_flops(config, length):
    """Multiplications and additions of an encoder's matrix products for one sequence, forward.

    Args:
      config: `EncoderConfig`, or `ConvolutionalRecurrentConfig` of the level of tokens.
      length: tokens of the sequence.
    """
    if isinstance(config, ConvolutionalRecurrentConfig):
        convolution = config.kernel_size * config.embedding_size * config.filters
        lstm = 4 * config.units * (config.filters + config.units)
        return 2 * length * (convolution + 2 * lstm)
    width, inner = config.hidden_size, config.intermediate_size
    projection = config.embedding_size * width if config.embedding_size != width else 0
    block = 4 * width**2 + 2 * width * inner + 2 * length * width
    return 2 * length * (projection + config.num_hidden_layers * block)


def forward_flops(config):
    """Matrix products of one example of a `PretrainingConfig`, forward through both networks."""
    return generator_flops(config) + discriminator_flops(config)


def discriminator_flops(config):
    """Of the discriminator's matrix products for one sequence, forward."""
    length, discriminator = config.max_seq_length, config.discriminator_config()
    head = discriminator.hidden_size
    if isinstance(discriminator, EncoderConfig):
        head *= discriminator.hidden_size + 1
    return encoder_flops(discriminator, length) + 2 * length * head


def generator_flops(config):
    """Of the generator's matrix products for one sequence, forward.

    The vocabulary's logits are counted where they are computed: of a masked generator at the hidden
    positions alone, of a causal one at all.
    """
    if config.generator in ("uniform", "unigram"):
        return 0
    generator, length = config.generator_config(), config.max_seq_length
    if config.generator == "causal":
        vocabulary = 2 * length * generator.embedding_size * generator.vocab_size
    else:
        head = generator.embedding_size * (generator.hidden_size + generator.vocab_size)
        vocabulary = 2 * config.max_predictions_per_seq * head
    return encoder_flops(generator, length) + vocabulary


def steps_flops(config, num_steps, backward=2):
    """Operations of one example a step in a run's first steps, by what each step's phase runs.

    Args:
      config: `configs.PretrainingConfig`.
      num_steps: int.
      backward: what backward takes in terms of forward.
    """
    generator, discriminator = generator_flops(config), discriminator_flops(config)
    cost = {
        schedule.BOTH: (1 + backward) * (generator + discriminator),
        schedule.GENERATOR: (1 + backward) * generator,
        schedule.DISCRIMINATOR: generator + (1 + backward) * discriminator,
    }
    return _in_steps(config, num_steps, cost)


def _in_steps(config, num_steps, cost):
    """Sums the cost of each phase's step, a dict, over a run's first steps."""
    return sum(cost[phase] * n for phase, n in schedule.count_steps(config, num_steps).items())


def pretraining_flops(config):
    """Operations of one training example, on the average of a run: backward takes twice what forward takes.

    ```python
    pretraining_flops(load_pretraining_config("small"))  # 8.98e9
    ```
    """
    return steps_flops(config, config.num_train_steps) // config.num_train_steps


def recomputed_flops(config):
    """What one training example takes more where Transformers' blocks run forward a second time."""
    generator, discriminator = (
        encoder_flops(encoder, config.max_seq_length) if isinstance(encoder, EncoderConfig) else 0
        for encoder in (config.generator_config(), config.discriminator_config())
    )
    cost = {
        schedule.BOTH: generator + discriminator,
        schedule.GENERATOR: generator,
        schedule.DISCRIMINATOR: discriminator,
    }
    return _in_steps(config, config.num_train_steps, cost) // config.num_train_steps


def pretraining_flops_google2020(config):
    """The same in the convention of the original's `flops_computation.py`: backward as much as forward."""
    return steps_flops(config, config.num_train_steps, backward=1) // config.num_train_steps


def describe_cost(config, peak_flops):
    """The cost of a run in words, in both conventions."""
    flops, google2020 = pretraining_flops(config), pretraining_flops_google2020(config)
    examples = config.num_train_steps * config.train_batch_size
    source = "declared" if config.peak_tflops else "measured by a matrix product"
    return (
        f"cost: {flops / 1e9:.3g} GFLOP an example, {flops * examples:.3g} FLOPs in "
        f"{config.num_train_steps:,} steps (backward = 2 x forward); {google2020 / 1e9:.3g} GFLOP and "
        f"{google2020 * examples:.3g} FLOPs as the original counts (backward = forward); peak "
        f"{peak_flops / 1e12:.3g} TFLOP/s ({source})"
    )


@functools.cache  # Once a process.
def measure_peak_flops(dtype, size=2048, repeats=3):
    """Operations a second of a square matrix product of this machine, the best of some tries."""
    import tensorflow as tf  # Here, since what only counts does without it.

    x = tf.random.stateless_normal([size, size], [0, 1], dtype=tf.as_dtype(dtype))
    product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(x, x)[:1], tf.float32)))
    product().numpy()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
