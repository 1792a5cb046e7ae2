"""Stateless random numbers that eager TensorFlow, its graphs and XLA agree on, bit by bit.

The algorithm is named (Philox), since `auto_select` gives XLA other numbers; and floats are made
here from the generator's bits, since XLA and the CPU's kernel turn the same bits into other floats.
A seed is int32 [2].
"""

import tensorflow as tf


def fold_in(seed, number):
    """The seed of one use, or of one step, of randomness."""
    return tf.random.fold_in(seed, number, alg="philox")


def split(seed, num):
    """`num` independent seeds of one, a list; Nones of None."""
    if seed is None:
        return [None] * num
    return tf.unstack(tf.random.split(seed, num, alg="philox"))


def bits(shape, seed):
    """uint32 numbers."""
    return tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg="philox")


def uniform(shape, seed):
    """float32 numbers in [0, 1), multiples of 2 ** -24."""
    return (
        tf.cast(tf.bitwise.right_shift(bits(shape, seed), tf.constant(8, tf.uint32)), tf.float32)
        * 2.0**-24
    )


def hashed_bits(shape, seed):
    """uint32 numbers that cost a few operations each, for dropout: its masks are made twice a step.

    A hashed counter; the seed's two words, hashed themselves so that seeds next to each other are
    unlike, enter before the first and before the second multiplication.
    """
    first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
    first = _hash(first + _hash(second))
    second = _hash(first + _uint(0x9E3779B1))
    counter = tf.reshape(tf.cast(tf.range(tf.reduce_prod(shape)), tf.uint32), shape)
    # The seed enters before anything else: XLA would store what depends on the counter alone.
    return _hash(counter + first, second)


def _hash(x, key=0):
    """Wellons' integer hash lowbias32, with a key in its middle."""
    x = _shift_xor(x, 16) * _uint(0x7FEB352D) + tf.cast(key, tf.uint32)
    x = _shift_xor(x, 15) * _uint(0x846CA68B)
    return _shift_xor(x, 16)


def _shift_xor(x, places):
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(places)))


def _uint(number):
    return tf.constant(number, tf.uint32)


def dropout(x, rate, seed):
    """Zeroes a share `rate` of `x` and scales up the rest; the identity where `seed` is None."""
    if seed is None or rate == 0.0:
        return x
    keep = hashed_bits(tf.shape(x), seed) >= tf.constant(round(rate * 2**32), tf.uint32)
    return tf.where(keep, x * tf.cast(1.0 / (1.0 - rate), x.dtype), tf.zeros([], x.dtype))
