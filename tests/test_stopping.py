"""Runs that are asked to stop: what is saved, the exit code, and how they go on."""

import os
import signal

import pytest
from test_commands import arguments, assert_same_run, finished, metrics_of  # noqa: F401

from electra_tf.commands import pretrain
from electra_tf.training.run_folder import RunFolder


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process a signal once the metrics of a step are written."""

    def arm(number, at_step):
        write = RunFolder.write_metrics

        def write_and_signal(self, step, split, metrics):
            write(self, step, split, metrics)
            if step == at_step and split == "train":
                os.kill(os.getpid(), number)

        monkeypatch.setattr(RunFolder, "write_metrics", write_and_signal)

    yield arm
    monkeypatch.undo()


# Step 3 is one among others; at step 4 a checkpoint is due, at step 6 an evaluation.
@pytest.mark.parametrize(
    "number, step",
    [
        pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow),
        (signal.SIGINT, 4),
        pytest.param(signal.SIGTERM, 6, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(data, finished, tmp_path, capsys, signal_at, number, step):  # noqa: F811
    command = arguments(data, tmp_path / "run", "--override=encoder_export_steps=[5]")
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    signal_at(number, step)
    assert pretrain.main(command) == 75
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"stopped: saved at step {step} of 12; the same command goes on from there"
    )
    assert (tmp_path / "run" / "checkpoints" / f"ckpt-{step}.index").exists()
    assert metrics_of(tmp_path / "run")[-1]["step"] == step
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert pretrain.main(command) == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_stop_in_the_last_step_finishes(data, finished, tmp_path, signal_at):  # noqa: F811
    command = arguments(data, tmp_path / "run", "--override=encoder_export_steps=[5]")
    signal_at(signal.SIGTERM, 12)
    assert pretrain.main(command) == 0
    assert_same_run(finished, tmp_path / "run")
