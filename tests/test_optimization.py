"""Optimizer and schedule against arithmetic by hand (the golden traces test them at length)."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from electra_tf import create_optimizer, load_pretraining_config
from electra_tf.optimization import AdamWeightDecay, LinearWarmupDecay, reduce_and_clip


def test_two_steps_by_hand():
    kernel = keras.Variable([2.0], name="kernel")
    bias = keras.Variable([2.0], name="bias")
    optimizer = AdamWeightDecay(0.1, weight_decay_rate=0.01)
    gradients = [tf.constant([3.0]), tf.constant([3.0])]
    expected_kernel = expected_bias = 2.0
    m = v = 0.0
    for _ in range(2):
        optimizer.apply(gradients, [kernel, bias])
        m, v = 0.9 * m + 0.1 * 3.0, 0.999 * v + 0.001 * 9.0
        update = m / (math.sqrt(v) + 1e-6)
        expected_kernel -= 0.1 * (update + 0.01 * expected_kernel)
        expected_bias -= 0.1 * update
    np.testing.assert_allclose(kernel.numpy(), [expected_kernel], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [expected_bias], rtol=1e-6)
    assert int(optimizer.iterations.value) == 2


def test_two_corrected_steps_by_hand():
    kernel = keras.Variable([2.0], name="kernel")
    optimizer = AdamWeightDecay(0.1, weight_decay_rate=0.01, bias_correction=True)
    expected, m, v = 2.0, 0.0, 0.0
    for step, gradient in ((1, 3.0), (2, -1.0)):
        optimizer.apply([tf.constant([gradient])], [kernel])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        # Algorithm 1 of Kingma and Ba, 2015, and the decoupled decay.
        update = (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-6)
        expected -= 0.1 * (update + 0.01 * expected)
    np.testing.assert_allclose(kernel.numpy(), [expected], rtol=1e-6)


def test_the_peak_lies_below_the_nominal_rate():
    schedule = LinearWarmupDecay(1.0, num_train_steps=1000, num_warmup_steps=100)
    rates = [float(schedule(step)) for step in range(1001)]
    assert rates[0] == 0.0 and rates[1000] == 0.0
    assert max(rates) == pytest.approx(0.9) and rates.index(max(rates)) == 100


def test_power():
    schedule = LinearWarmupDecay(1.0, num_train_steps=10, power=2.0)
    assert float(schedule(5)) == pytest.approx(0.25)


@pytest.mark.parametrize("fidelity, first", [("fixed", 1e-3), ("google2020", math.nan)])
def test_no_warmup(fidelity, first):
    config = load_pretraining_config("tiny", {"num_warmup_steps": 0, "fidelity": fidelity})
    rate = create_optimizer(config)._learning_rate
    np.testing.assert_allclose(float(rate(0)), first)
    assert float(rate(10_000)) == pytest.approx(0.5e-3)


@pytest.mark.parametrize(
    "fidelity, expected, expected_norm",
    [
        # Sum [3, 4] of norm 5, clipped to 1.
        ("fixed", [0.6, 0.8], 5.0),
        # [3, 4] clipped to [0.6, 0.8], the other one 0: their mean.
        ("google2020", [0.3, 0.4], 2.5),
    ],
)
def test_clipping_before_and_after_the_replicas_meet(
    two_devices, fidelity, expected, expected_norm
):
    """The line of SEMANTICS 13: the two values of `fidelity` differ."""
    gradients, norm = clip_on(two_devices, [[3.0, 4.0], [0.0, 0.0]], fidelity)
    np.testing.assert_allclose(gradients, [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(norm, [expected_norm] * 2, rtol=1e-6)


def clip_on(strategy, gradients_of_replicas, fidelity):
    """`reduce_and_clip` on each replica's gradient: what each one gets, and its norm."""

    @tf.function
    def run():
        gradients = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(gradients_of_replicas[context.replica_id_in_sync_group])
        )
        return strategy.run(clip, args=(gradients,))

    def clip(gradient):
        [gradient], scale, norm = reduce_and_clip([gradient], 1.0, fidelity)
        return gradient * scale, norm

    gradients, norm = run()
    return tuple(
        [x.numpy() for x in strategy.experimental_local_results(value)]
        for value in (gradients, norm)
    )


def test_a_serialized_optimizer_is_the_same():
    optimizer = create_optimizer(load_pretraining_config("tiny"))
    config = optimizer.get_config()
    assert config["weight_decay_rate"] == 0.01 and config["epsilon"] == 1e-6
    assert config["learning_rate"]["config"]["num_warmup_steps"] == 1000
