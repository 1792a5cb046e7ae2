"""Optimizer and schedule against arithmetic by hand (the golden traces test them at length)."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from electra_tf import create_optimizer, load_pretraining_config
from electra_tf.optimization import AdamWeightDecay, LinearWarmupDecay


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


def test_a_serialized_optimizer_is_the_same():
    optimizer = create_optimizer(load_pretraining_config("tiny"))
    config = optimizer.get_config()
    assert config["weight_decay_rate"] == 0.01 and config["epsilon"] == 1e-6
    assert config["learning_rate"]["config"]["num_warmup_steps"] == 1000
