"""What is different on a GPU; `make test-gpu`, where there is one."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from electra_tf.configs import load_pretraining_config
from electra_tf.training import strategies
from electra_tf.training.pretraining import create_model

CONFIG = dataclasses.replace(
    load_pretraining_config("tiny"), vocab_size=300, max_seq_length=16, train_batch_size=8
)


def test_a_cpu_does_not_compile_the_step():
    cpu = tf.distribute.OneDeviceStrategy("/cpu:0")
    assert not strategies.compiles(cpu)
    assert not create_model(CONFIG, 103, (0, 101, 102, 103), cpu).jit_compile


@pytest.mark.gpu
@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="there is no GPU here")
def test_a_gpu_compiles_the_step_and_learns_what_a_cpu_learns():
    ids = tf.random.stateless_uniform([8, 16], [0, 1], 104, 300, tf.int32)
    batch = {
        "input_ids": ids,
        "input_mask": tf.ones_like(ids),
        "segment_ids": tf.zeros_like(ids),
    }
    tf.config.experimental.enable_tensor_float_32_execution(False)

    def gradients(device):
        keras.utils.set_random_seed(1)
        strategy = tf.distribute.OneDeviceStrategy(device)
        model = create_model(CONFIG, 103, (0, 101, 102, 103), strategy)
        assert model.jit_compile == (device == "/gpu:0")
        arguments = (batch, tf.constant(0))
        step = tf.function(lambda: strategy.run(model._compute_gradients, arguments))
        return [gradient.numpy() for gradient in step()[0]]

    for cpu, gpu in zip(gradients("/cpu:0"), gradients("/gpu:0")):
        np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-3 * np.abs(cpu).max())
