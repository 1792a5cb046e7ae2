"""Gradients that are not finite: nothing changes, it is counted, and a run stops in time."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from test_commands import arguments, last_line, metrics_of
from test_pretrainer import CONFIG, batch_of, make, weights

from electra_tf.commands import pretrain
from electra_tf.optimization import LossScale

FLOAT16 = dataclasses.replace(CONFIG, mixed_precision="float16")


def state_of(model):
    slots = [variable.numpy() for _, pair in model.optimizer.slots() for variable in pair]
    return [*weights(model), *slots]


@pytest.fixture
def overflowing(monkeypatch):
    """Makes the loss of some steps infinite."""
    from electra_tf import ElectraPretrainer

    losses_of = ElectraPretrainer.losses_of

    def arm(*steps):
        def infinite_losses_of(self, statistics, totals=None):
            step = self.optimizer.iterations.value
            is_infinite = tf.reduce_any(step == tf.constant(steps, step.dtype))
            loss, *others = losses_of(self, statistics, totals)
            return loss * tf.where(is_infinite, np.inf, 1.0), *others

        monkeypatch.setattr(ElectraPretrainer, "losses_of", infinite_losses_of)

    return arm


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_skipped_step_changes_nothing_and_counts(overflowing, two_devices, replicas):
    overflowing(1, 2)
    strategy = two_devices if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = make()
    step = tf.function(lambda batch: strategy.run(model.gradient_step, args=(batch,)))
    states, skipped, in_a_row = [], [], []
    for i in range(4):
        statistics = step(batch_of(i))
        skipped.append(float(strategy.experimental_local_results(statistics["skipped_steps"])[0]))
        in_a_row.append(int(model.loss_scale.skipped_in_a_row.numpy()))
        states.append(state_of(model))
    assert skipped == [0, 1, 1, 0] and in_a_row == [0, 1, 2, 0]
    assert int(model.optimizer.iterations.value.numpy()) == 4
    for first, second, third, fourth in zip(*states):
        assert first.tobytes() == second.tobytes() == third.tobytes()
        assert np.isfinite(fourth).all()
    assert any(third.tobytes() != fourth.tobytes() for _, _, third, fourth in zip(*states))


def test_the_loss_scale_by_hand():
    scale = LossScale("float16")
    values = []
    for i in range(2003):
        scale.update(tf.constant(i not in (0, 1)))
        values.append(float(scale.value.numpy()))
    assert values[:3] == [2.0**14, 2.0**13, 2.0**13]
    assert values[2000:] == [2.0**13, 2.0**14, 2.0**14]  # After 2,000 steps without overflow.
    for _ in range(20):
        scale.update(tf.constant(False))
    assert float(scale.value.numpy()) == 1.0 and int(scale.skipped_in_a_row.numpy()) == 20
    assert not LossScale("bfloat16").is_dynamic


@pytest.mark.slow  # test_float16_finds_a_scale is the quick one.
@pytest.mark.parametrize("num_parts", [1, 2])
def test_float16_learns_what_float32_does(num_parts):
    losses = {}
    for config in (CONFIG, FLOAT16):
        config = dataclasses.replace(config, gradient_accumulation_steps=num_parts)
        model = make(config)
        if model.loss_scale.is_dynamic:
            model.loss_scale.value.assign(1024.0)  # It would find that at the cost of some steps.
        step = tf.function(model.gradient_step)
        statistics = [step(batch_of(i)) for i in range(8)]
        assert sum(float(s["skipped_steps"]) for s in statistics) == 0
        losses[config.mixed_precision] = [float(model.losses_of(s)[0]) for s in statistics]
        norms = [float(s["grad_norm"]) for s in statistics]
    assert model.discriminator.encoder.compute_dtype == "float16"
    np.testing.assert_allclose(losses["float16"], losses["float32"], rtol=0.01)
    assert max(norms) < 100  # Unscaled.


def test_float16_finds_a_scale():
    model = make(FLOAT16)
    model.loss_scale.value.assign(2.0**40)
    step = tf.function(model.gradient_step)
    skipped = [float(step(batch_of(i))["skipped_steps"]) for i in range(40)]
    assert 0 < sum(skipped) < 40 and skipped[0] == 1 and skipped[-1] == 0
    assert float(model.loss_scale.value.numpy()) == 2.0 ** (40 - sum(skipped))


def test_a_run_that_cannot_be_saved_stops(data, tmp_path, capsys, overflowing):
    overflowing(5, *range(8, 12))
    command = arguments(data, tmp_path / "run", "--override=max_skipped_steps=3")
    assert pretrain.main([*command, "--override=save_checkpoints_steps=2"]) == 2
    line = last_line(capsys)
    assert line.startswith("error: step 11: the gradients of the last 3 steps were not finite")
    assert "lower learning_rate (now 0.001)" in line and "ckpt-8;" in line
    lines = [line for line in metrics_of(tmp_path / "run") if line["split"] == "train"]
    assert [line["skipped_steps"] for line in lines] == [0] * 5 + [1] + [0] * 2 + [1] * 3
    assert lines[5]["loss"] is None and lines[6]["loss"] is not None
    names = {path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.index")}
    assert names == {"ckpt-2", "ckpt-4", "ckpt-8"}  # After step 6 the weights were not trusted.


@pytest.mark.slow
def test_float16_goes_on_to_the_same_bits(data, tmp_path):
    options = ("--override=mixed_precision=float16", "--override=num_train_steps=8")
    for name, stops in (("once", []), ("twice", ["--override=save_checkpoints_steps=4"])):
        if stops:
            from test_distribution import stop_after

            with stop_after(4):
                pretrain.main(arguments(data, tmp_path / name, *options))
        assert pretrain.main(arguments(data, tmp_path / name, *options)) == 0
    once, twice = (
        tf.train.load_checkpoint(str(tmp_path / name / "checkpoints")) for name in ("once", "twice")
    )
    names = once.get_variable_to_shape_map()
    assert any("loss_scale" in name for name in names)
    for name in names:
        if "save_counter" not in name:
            assert np.array_equal(once.get_tensor(name), twice.get_tensor(name)), name
