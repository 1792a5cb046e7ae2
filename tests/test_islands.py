"""Each island against its plain formula, and hand-written gradients against TensorFlow's."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling import islands, layers
from electra_tf.optimization import adam_weight_decay

SEED = tf.constant([3, -4])


def normal(*shape):
    rng = np.random.default_rng(sum(shape))
    return tf.constant(rng.normal(size=shape), tf.float32)


SCORES = normal(2, 2, 6, 6)
CASES = {
    "bias_gelu": (islands.bias_gelu, [normal(12, 8), normal(8)], {}),
    "bias_gelu_layer_norm": (
        islands.bias_gelu_layer_norm,
        [normal(12, 8), normal(8), normal(8) + 2, normal(8)],
        {"epsilon": 1e-12},
    ),
    "dropout_add_layer_norm": (
        islands.dropout_add_layer_norm,
        [normal(12, 8), normal(8), normal(12, 8) + 1, normal(8) + 2, normal(8), SEED],
        {"rate": 0.1, "epsilon": 1e-12},
    ),
    "dropout_cast": (islands.dropout_cast, [normal(3, 4, 8), SEED], {"rate": 0.1, "dtype": "float32"}),
    "softmax_dropout": (
        islands.softmax_dropout,
        [SCORES, tf.nn.softmax(SCORES), SEED],
        {"rate": 0.2},
    ),
    "masked_lm": (
        islands.masked_lm,
        [normal(5, 300), normal(300), tf.constant([0, 7, 299, 7, 128])],
        {"temperature": 0.7, "disallow_correct": True},
    ),
    "adam_weight_decay": (
        adam_weight_decay,
        [normal(7, 3), normal(7, 3) / 3, tf.square(normal(7, 3)), normal(7, 3), tf.constant(0.1),
         tf.constant(0.3), tf.constant(0.1), tf.constant(0.001)],
        {"weight_decay_rates": (0.01,), "multipliers": (0.8,), "beta_1": 0.9, "beta_2": 0.999,
         "epsilon": 1e-6},
    ),
}  # fmt: skip


def first(outputs):
    return outputs if tf.is_tensor(outputs) else outputs[0]


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    formula, tensors, options = CASES[name]
    compiled = tf.nest.flatten(islands.compiled(formula, *tensors, **options))
    plain = tf.nest.flatten(islands.plain(formula, *tensors, **options))
    assert len(compiled) == len(plain)
    for ours, expected in zip(compiled, plain):
        assert ours.dtype == expected.dtype
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name != "adam_weight_decay"])
def test_gradients(name):
    formula, tensors, options = CASES[name]
    floats = [x for x in tensors if x.dtype == tf.float32]
    gradients = []
    for run in (islands.compiled, islands.plain):
        with tf.GradientTape() as tape:
            tape.watch(floats)
            if name == "softmax_dropout":  # It takes the gradient past the softmax.
                tensors = [SCORES, tf.nn.softmax(SCORES), SEED]
            output = first(run(formula, *tensors, **options))
            weights = tf.reshape(tf.cos(tf.range(float(tf.size(output)))), output.shape)
            weighted = tf.reduce_sum(output * weights)
        gradients.append(tape.gradient(weighted, floats))
    # A bias gets its gradient elsewhere, softmax's result is no variable of its own.
    without = {
        "bias_gelu": 1,
        "bias_gelu_layer_norm": 1,
        "dropout_add_layer_norm": 1,
        "masked_lm": 1,
    }
    for i, (ours, expected) in enumerate(zip(*gradients)):
        if i == without.get(name):
            assert ours is None and expected is None
        elif not (name == "softmax_dropout" and i == 1):
            assert np.abs(expected).max() > 0.01
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bias_gelu", "dropout_add_layer_norm", "softmax_dropout"])
def test_bfloat16_is_float32_inside(name):
    formula, tensors, options = CASES[name]
    # Activations have the shape of the first tensor; biases, gamma and beta stay float32.
    mixed = [tf.cast(x, tf.bfloat16) if x.shape == tensors[0].shape else x for x in tensors]
    rounded = [tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x for x in mixed]
    output = first(islands.compiled(formula, *mixed, **options))
    expected = first(islands.plain(formula, *rounded, **options))
    assert output.dtype == tf.bfloat16
    # One rounding, that of the result: 8 bits.
    np.testing.assert_allclose(tf.cast(output, tf.float32), expected, rtol=2**-8, atol=1e-6)


def test_gelu_by_scipy():
    x = np.linspace(-6, 6, 101)
    expected = x * scipy.special.ndtr(x)
    np.testing.assert_allclose(islands.gelu(tf.constant(x, tf.float32)), expected, atol=1e-6)


def test_a_projection_has_the_gradients_of_a_dense_layer():
    dense = [keras.layers.Dense(4) for _ in range(3)]
    x = normal(6, 5)
    for i, layer in enumerate(dense):
        layer.build((None, 5))
        layer.bias.assign(normal(4) + i)
    variables = [v.value for layer in dense for v in (layer.kernel, layer.bias)]
    results = []
    for side_by_side in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            if side_by_side:
                product, bias = layers.project(x, *dense)
                output = product + bias
            else:
                output = tf.concat([layer(x) for layer in dense], -1)
            loss = tf.reduce_sum(tf.sin(output))
        results.append([output, *tape.gradient(loss, [x, *variables])])
    for ours, expected in zip(*results):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_hashed_bits_are_uniform_and_differ_by_seed():
    streams = np.stack(
        [
            randomness.hashed_bits([1 << 16], tf.constant(seed)).numpy() / 2**32
            for seed in ([0, 0], [0, 1], [1, 0], [-5, 7])
        ]
    )
    num = streams.shape[1]
    # Mean and variance of a uniform number: 1/2 and 1/12; five standard errors.
    assert np.abs(streams.mean(axis=1) - 0.5).max() < 5 * (1 / 12 / num) ** 0.5
    assert np.abs(streams.var(axis=1) - 1 / 12).max() < 5 * (1 / 180 / num) ** 0.5
    # Neither neighbours nor streams, one shifted against the other or not, go together.
    for lag in (0, 1, 2, 128):
        correlations = np.corrcoef(streams[:, : num - lag], streams[:, lag:])[:4, 4:]
        if lag == 0:
            correlations -= np.eye(4)
        assert np.abs(correlations).max() < 5 / num**0.5


def test_dropout_keeps_the_mean_and_eager_and_xla_agree():
    x = tf.ones([200, 500])
    plain = randomness.dropout(x, 0.1, SEED)
    compiled = tf.function(lambda: randomness.dropout(x, 0.1, SEED), jit_compile=True)()
    np.testing.assert_array_equal(plain, compiled)
    dropped = float(tf.reduce_mean(tf.cast(plain == 0.0, tf.float32)))
    assert abs(dropped - 0.1) < 5 * (0.09 / 100_000) ** 0.5
    assert set(np.unique(plain)) == {np.float32(0.0), np.float32(1.0) * np.float32(1 / 0.9)}


def test_islands_are_shared_by_layers():
    before = islands._island.cache_info().misses
    for _ in range(2):
        islands.compiled(islands.bias_gelu, normal(3, 5), normal(5))
    assert islands._island.cache_info().misses <= before + 1
