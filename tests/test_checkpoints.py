"""Checkpoints that something has damaged: the one before is used."""

import shutil

import pytest
from test_commands import arguments, assert_same_run, finished, last_line  # noqa: F401

from electra_tf.commands import pretrain


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def copy(finished, tmp_path):  # noqa: F811
    """A finished run that has lost what came after step 8, and its newest checkpoint's files."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for path in (folder / "checkpoints").glob("ckpt-12*"):
        path.unlink()
    return folder


@pytest.mark.parametrize(
    "damage, pattern",
    [
        (truncate, "ckpt-8.data*"),
        pytest.param(flip_a_bit, "ckpt-8.data*", marks=pytest.mark.slow),
        pytest.param(truncate, "ckpt-8.index", marks=pytest.mark.slow),
        pytest.param(flip_a_bit, "ckpt-8.index", marks=pytest.mark.slow),
    ],
)
def test_the_one_before_is_used(data, finished, copy, caplog, damage, pattern):  # noqa: F811
    (path,) = (copy / "checkpoints").glob(pattern)
    damage(path)
    (copy / "checkpoints" / "ckpt-12_temp").mkdir()
    (copy / "config.yaml.tmp-123").write_text("half")
    command = arguments(data, copy, "--override=encoder_export_steps=[5]")
    assert pretrain.main(command) == 0
    assert not list(copy.glob("checkpoints/*_temp")) + list(copy.glob("*.tmp-*"))
    (warning,) = [r.getMessage() for r in caplog.records if "cannot restore" in r.getMessage()]
    assert "ckpt-8: cannot restore the checkpoint (" in warning
    assert warning.endswith("going on from the one of step 4")
    assert_same_run(finished, copy)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", marks=pytest.mark.slow),
        b"model_checkpoint_path: \xff",
        pytest.param(None, marks=pytest.mark.slow),
    ],
)
def test_the_list_of_checkpoints_is_lost(data, finished, copy, caplog, content):  # noqa: F811
    state = copy / "checkpoints" / "checkpoint"
    state.unlink()
    if content is not None:
        state.write_bytes(content)
    assert pretrain.main(arguments(data, copy, "--override=encoder_export_steps=[5]")) == 0
    assert "resumed at step 8" in caplog.text
    assert_same_run(finished, copy)


def test_none_is_left(data, copy, capsys):
    for path in (copy / "checkpoints").glob("*.data*"):
        truncate(path)
    before = (copy / "metrics.jsonl").read_bytes()
    assert pretrain.main(arguments(data, copy)) == 2
    line = last_line(capsys)
    assert "ckpt-4: cannot restore the checkpoint" in line and "choose another --output_dir" in line
    assert (copy / "metrics.jsonl").read_bytes() == before
