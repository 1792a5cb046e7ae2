"""Floating-point operations of a pre-training example, and what the machine reaches at most."""

import time

import tensorflow as tf


def encoder_flops(config, length):
    """Multiplications and additions of an encoder's matrix products for one sequence, forward."""
    width, inner = config.hidden_size, config.intermediate_size
    projection = config.embedding_size * width if config.embedding_size != width else 0
    block = 4 * width**2 + 2 * width * inner + 2 * length * width
    return 2 * length * (projection + config.num_hidden_layers * block)


def pretraining_flops(config):
    """Matrix products of one training example of a `PretrainingConfig`, backward = 2 x forward.

    The generator's vocabulary logits are counted at the masked positions alone.
    """
    length, predictions = config.max_seq_length, config.max_predictions_per_seq
    generator, discriminator = config.generator_config(), config.discriminator_config()
    masked_lm_head = generator.embedding_size * (generator.hidden_size + generator.vocab_size)
    discriminator_head = discriminator.hidden_size * (discriminator.hidden_size + 1)
    forward = (
        encoder_flops(generator, length)
        + encoder_flops(discriminator, length)
        + 2 * predictions * masked_lm_head
        + 2 * length * discriminator_head
    )
    return 3 * forward


def measure_peak_flops(dtype, size=2048, repeats=3):
    """Operations a second of a square matrix product of this machine, the best of some tries."""
    x = tf.random.stateless_normal([size, size], [0, 1], dtype=tf.as_dtype(dtype))
    product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(x, x)[:1], tf.float32)))
    product().numpy()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
