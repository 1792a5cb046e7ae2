"""A disk without room: exit code 1, one line, and nothing lost that was written before."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys

import numpy as np
import orbit
import pytest
import tensorflow as tf
from conftest import GOLDEN
from test_commands import arguments, assert_same_run, last_line, metrics_of

from electra_tf import Discriminator, EncoderConfig, commands, corpus, files
from electra_tf.commands import build_pretraining_data, build_vocab, convert, pretrain
from electra_tf.training import pretraining
from electra_tf.training.checkpoints import save_checkpoint
from electra_tf.training.run_folder import RunFolder

PAGE = 4096


class SmallDisk:
    """A file system of 8 MB at `path`."""

    reason = "the disk is full (No space left on device); free some space and run"

    def __init__(self, path):
        self.path = path

    def fill(self, free=0):
        """Leaves so many bytes free, or little more."""
        with open(self.path / "ballast", "wb", buffering=0) as f:
            disk = os.statvfs(self.path)
            f.write(bytes(disk.f_bavail * disk.f_bsize - free))

    def empty(self):
        """Frees what `fill` took."""
        (self.path / "ballast").unlink()


class SmallFiles:
    """Files that must not grow: what the kernel grants to everybody, not to root alone."""

    reason = "no file may grow so large (File too large); raise the limit (ulimit -f) and run"

    def __init__(self, path):
        self.path = path
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, free=0):
        """Forbids files of more than so many bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, self._limits[1]))

    def empty(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@contextlib.contextmanager
def small_disk(path):
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True).stderr
    except FileNotFoundError as error:
        refused = str(error)
    if refused:
        pytest.skip(f"no file system can be mounted here: {refused}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: TensorFlow keeps the file of an events writer open.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def small_files(path):
    path.mkdir()
    disk = SmallFiles(path)
    try:
        yield disk
    finally:
        disk.empty()


@pytest.fixture(params=[small_disk, small_files])
def disk(request, tmp_path):
    with request.param(tmp_path / "disk") as opened:
        yield opened


@pytest.fixture
def any_disk(tmp_path):
    """A small disk where one can be mounted, else small files."""
    try:
        with small_disk(tmp_path / "disk") as opened:
            yield opened
    except pytest.skip.Exception:
        with small_files(tmp_path / "files") as opened:
            yield opened


def contents(folder):
    """Every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "ballast"
    }


def assert_error(line, path, disk):
    assert line.startswith(f"error: {path}")
    assert line.endswith(
        f": {disk.reason} the same command again, which goes on from what is saved"
    )


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.ENOSPC, "", "/a b"), "/a b: the disk is full (No space left on device); "),
        (OSError(errno.ENOSPC, ""), "the disk is full (No space left on device); free some space"),
        (OSError(errno.EDQUOT, "", "/a"), "/a: the disk quota is used up (Disk quota exceeded); "),
        (
            tf.errors.UnknownError(None, None, "/a; Disk quota exceeded"),
            "/a: the disk quota is used up (Disk quota exceeded); free some space and run the same",
        ),
        (
            tf.errors.ResourceExhaustedError(
                None,
                None,
                "{{function_node __wrapped__SaveV2}} /a b/ckpt-8_temp/part-00000-of-00001.index."
                "tempstate123; No space left on device [Op:SaveV2]",
            ),
            "/a b/ckpt-8: the disk is full",
        ),
        (
            tf.errors.OutOfRangeError(
                None, None, f"/a/vocab.txt.tmp-{os.getpid()}; File too large\n\tFailed to flush"
            ),
            "/a/vocab.txt: no file may grow so large (File too large); raise the limit",
        ),
    ],
)
def test_what_is_said(error, message):
    assert files.no_room(error).startswith(message)


@pytest.mark.parametrize(
    "error, line",
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied; choose"),
        (
            tf.errors.PermissionDeniedError(None, None, "/a/b; Permission denied"),
            "/a/b; Permission denied; choose",
        ),
        (
            tf.errors.UnimplementedError(None, None, "File system scheme 's3' not implemented"),
            "File system scheme 's3' not implemented; choose",
        ),
    ],
)
def test_what_a_file_system_refuses(error, line, capsys):
    def fail(values):
        raise error

    assert commands.run(lambda values: None, fail, "", ["command"]) == 2
    assert last_line(capsys).startswith(f"error: {line}")


@pytest.mark.parametrize("text", ["short", "long" * 100_000])
def test_nobody_reads_what_is_printed(text):
    run = f"commands.run(lambda v: None, lambda v: print({text[:4]!r} * {len(text)}), '', ['c'])"
    code = f"import sys\nfrom electra_tf import commands\nsys.exit({run})"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (141, "")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]"),
        tf.errors.OutOfRangeError(None, None, "End of sequence"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    def fail(values):
        raise error

    with pytest.raises(type(error)):
        commands.run(lambda values: None, fail, "", ["command"])


def test_the_vocabulary(disk, data, capsys):  # noqa: F811
    vocab = disk.path / "vocab.txt"
    command = ["", f"--input={data}/text.txt", "--vocab_size=120", f"--output={vocab}"]
    vocab.write_text("the one before")
    disk.fill()
    assert build_vocab.main(command) == 1
    disk.empty()
    assert_error(last_line(capsys), vocab, disk)
    assert contents(disk.path) == {"vocab.txt": b"the one before"}
    assert build_vocab.main(command) == 0
    assert vocab.read_bytes() == (data / "vocab.txt").read_bytes()


def pages(folder):
    return sum(-(-len(content) // PAGE) for content in contents(folder).values())


def build_records(data, folder):  # noqa: F811
    return build_pretraining_data.main(
        [
            "", f"--input={data}/text.txt", f"--vocab_file={data}/vocab.txt",
            f"--output_dir={folder}", "--max_seq_length=16", "--num_shards=3", "--num_workers=1",
            "--eval_fraction=0.2",
        ]
    )  # fmt: skip


def test_records(disk, data, capsys):  # noqa: F811
    """Both halfway and at the very last file nothing stays behind."""
    records = disk.path / "records"
    needed = pages(data / "records")
    for free in (needed // 2, needed - 1) if isinstance(disk, SmallDisk) else (1,):
        disk.fill(free * PAGE)
        assert build_records(data, records) == 1
        disk.empty()
        assert_error(last_line(capsys), records, disk)
        assert not records.exists()
    assert build_records(data, records) == 0
    assert contents(records) == contents(data / "records")


def test_shards_that_fail_only_when_they_are_closed(disk):
    """A few records stay in each writer's buffer until then."""
    writer = corpus.ShardedWriter(str(disk.path / "records"), num_shards=3)
    writer.write(corpus.DocumentRecords([b"record"] * 3, num_tokens=3, num_packed=3))
    disk.fill()
    with pytest.raises(tf.errors.OpError) as caught:
        writer.close()
    disk.empty()
    assert files.no_room(caught.value).startswith(f"{disk.path}/records/pretrain.tfrecord-0000")


CONFIG = EncoderConfig(
    vocab_size=400, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
    intermediate_size=32, embedding_size=16,
)  # fmt: skip


def test_a_model(disk):
    Discriminator(CONFIG).save_pretrained(str(disk.path))
    before = contents(disk.path)
    disk.fill()
    with pytest.raises(tf.errors.OpError) as caught:
        Discriminator(CONFIG).save_pretrained(str(disk.path))
    disk.empty()
    assert files.no_room(caught.value).startswith(f"{disk.path}/model.safetensors: ")
    assert contents(disk.path) == before


def test_metrics(disk):
    run = RunFolder(str(disk.path), CONFIG, {}, ())
    disk.fill(free=PAGE)
    with pytest.raises(tf.errors.OpError) as caught:
        for step in range(1, 1000):
            run.write_metrics(step, "train", {"loss": 1 / step})
    disk.empty()
    assert files.no_room(caught.value).startswith(f"{disk.path}/metrics.jsonl: ")
    lines = (disk.path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= step > 10
    run.cut_metrics(step)
    assert metrics_of(disk.path) == [json.loads(line) for line in lines[: step - 1]]


def test_events(disk):
    """What Orbit writes for TensorBoard fails at the latest when it is flushed, not in silence."""
    summaries = orbit.utils.SummaryManager(
        str(disk.path / "tb"), tf.summary.scalar, tf.Variable(1, dtype=tf.int64)
    )
    summaries.write_summaries({"loss": 1.0})
    summaries.flush()
    disk.fill()
    with pytest.raises(tf.errors.OpError) as caught:
        for _ in range(100):
            summaries.write_summaries({"loss": 1.0})
            summaries.flush()
    disk.empty()
    assert files.no_room(caught.value).startswith(f"{disk.path}/tb/events.out.tfevents.")


def test_a_checkpoint(disk):
    """Wherever it fails: tensors, index, merging, the list of checkpoints."""
    variables = {f"v{i}": tf.Variable(np.random.rand(3000).astype(np.float32)) for i in range(3)}
    folder = disk.path / "checkpoints"
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(variables=variables), str(folder), max_to_keep=3
    )
    save_checkpoint(manager, 4)
    before = contents(folder)
    failed_at = set()
    for free in range(0, 100):
        disk.fill(free * PAGE)
        try:
            save_checkpoint(manager, 8)
            break
        except tf.errors.OpError as error:
            failed_at.add(files.no_room(error).split(": ")[0].removeprefix(f"{folder}/"))
        finally:
            disk.empty()
        assert contents(folder) == before
        assert tf.train.latest_checkpoint(str(folder)) == str(folder / "ckpt-4")
    assert {"ckpt-8"} <= failed_at <= {"ckpt-8", "ckpt-8.index", "checkpoint"}
    assert tf.train.latest_checkpoint(str(folder)) == str(folder / "ckpt-8")
    assert {name.split(".")[0] for name in contents(folder)} == {"ckpt-4", "ckpt-8", "checkpoint"}


def test_a_list_of_checkpoints_that_cannot_be_written(tmp_path, monkeypatch):
    """The step after the last one of `test_a_checkpoint`, for which a page nearly always is left."""
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(v=tf.Variable(1.0)), str(tmp_path), max_to_keep=3
    )
    save_checkpoint(manager, 4)
    before = contents(tmp_path)

    def full(manager):
        (tmp_path / f"checkpoint.tmp{'0' * 32}").touch()
        raise tf.errors.ResourceExhaustedError(None, None, f"{tmp_path}/checkpoint; ...")

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "_record_state", full)
        with pytest.raises(tf.errors.OpError):
            save_checkpoint(manager, 8)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_conversion(disk, tmp_path, capsys):
    path = GOLDEN / "google/pretrain_proj/trained/model.ckpt-5"
    from_google = ["", "--from=google", f"--input={path}", "--optimizer"]
    to_google = ["", "--to=google", f"--input={tmp_path}/run", "--optimizer"]
    assert convert.main([*from_google, f"--output={tmp_path}/run"]) == 0
    for command, output, free in (
        (from_google, disk.path / "run", PAGE),
        (from_google, disk.path / "run", 50 * PAGE),  # The networks fit, the checkpoint does not.
        (to_google, disk.path / "model", PAGE),
        (to_google, disk.path / "model", 50 * PAGE),
    ):
        capsys.readouterr()
        disk.fill(free)
        assert convert.main([*command, f"--output={output}"]) == 1
        disk.empty()
        assert_error(last_line(capsys), output, disk)
        assert not contents(disk.path)
    assert convert.main([*to_google, f"--output={disk.path}/model"]) == 0


@pytest.mark.slow  # What it writes, one by one, is above.
def test_a_run(any_disk, data, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Its disk fills twice; in the end it is the same run as one that had room."""
    disk, run = any_disk, any_disk.path / "run"

    def command(folder):
        flags = arguments(data, folder, "--override=num_train_steps=8", "--override=peak_tflops=1")
        return [flag for flag in flags if not flag.startswith("--eval_data")]

    def run_with_full_disk(owner, name, step):
        """Fills the disk before a function is called with a step."""
        function = getattr(owner, name)

        def fill_first(first, *args):
            if args[0] == step:
                disk.fill()
            return function(first, *args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fill_first)
            assert pretrain.main(command(run)) == 1
        return last_line(capsys)

    line = run_with_full_disk(RunFolder, "write_metrics", 6)
    assert_error(line, run, disk)
    checkpoints = contents(run / "checkpoints")
    assert {name.split(".")[0] for name in checkpoints} == {"checkpoint", "ckpt-4"}
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics[:5]] == [1, 2, 3, 4, 5]

    before = contents(run)
    assert pretrain.main(command(run)) == 1  # The disk is still full.
    assert_error(last_line(capsys), run / "data.json", disk)
    assert contents(run) == before
    disk.empty()

    line = run_with_full_disk(pretraining, "save_checkpoint", 8)
    assert_error(line, run / "checkpoints" / "ckpt-8", disk)
    assert contents(run / "checkpoints") == checkpoints
    assert [line["step"] for line in metrics_of(run)] == list(range(1, 9))
    disk.empty()

    assert pretrain.main(command(run)) == 0
    assert pretrain.main(command(tmp_path / "reference")) == 0
    assert_same_run(run, tmp_path / "reference")
    names = {name for name in contents(run) if "tensorboard" not in name}
    assert names == {n for n in contents(tmp_path / "reference") if "tensorboard" not in n}
