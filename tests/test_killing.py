"""Runs that are killed at random moments, again and again, and still end in the same bits."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from test_commands import ROOT, arguments, comparable, metrics_of

pytestmark = pytest.mark.slow
STEPS = 500
LONG = [
    f"num_train_steps={STEPS}", "steps_per_loop=1", "save_checkpoints_steps=7",
    # Wide enough that writing a checkpoint takes a while.
    "intermediate_size=20000",
]  # fmt: skip


@dataclasses.dataclass
class Run:
    """A run of one or several processes on this machine, and its folder."""

    command: list
    folder: pathlib.Path
    num_workers: int
    processes: list = ()

    def start(self):
        """Starts the processes, for the first time or again."""
        self._old_metrics = inode(self.folder / "metrics.jsonl")
        self._old_files = self.unfinished_files()
        self.restored_step = self.latest_step()
        self.processes = []
        for environment, errors in zip(environments(self.num_workers), self._errors()):
            with open(errors, "w") as stderr:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, ROOT / "pretrain.py", *self.command[1:]],
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                )

    def step(self):
        """The step that these processes have come to; 0 until they have done one."""
        path = self.folder / "metrics.jsonl"
        if inode(path) == self._old_metrics:
            return 0  # Old lines, not yet cut back to the checkpoint.
        return path.read_bytes().count(b"\n")  # A line a step.

    def latest_step(self):
        """The step of the last whole checkpoint."""
        path = tf.train.latest_checkpoint(self.folder / "checkpoints")
        return int(path.rpartition("-")[2]) if path else 0

    def unfinished_files(self):
        """What there is of checkpoints that are not whole yet, with its times."""
        latest, found = self.latest_step(), set()
        for path in (self.folder / "checkpoints").glob("ckpt-*"):
            with contextlib.suppress(FileNotFoundError):  # Just renamed.
                if int(re.search(r"\d+", path.name)[0]) > latest:
                    found.add((path.name, path.stat().st_mtime_ns))
        return found

    def wait(self, condition, seconds=300.0):
        """Waits for a condition, as long as all processes live."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert all(process.poll() is None for process in self.processes), self.last_lines()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def kill(self, victim):
        """Kills a process that lives."""
        process = self.processes[victim]
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    def wait_for_survivors(self, victim):
        """Waits until the other workers have left by themselves, naming the one that is gone."""
        for worker, process in enumerate(self.processes):
            if worker != victim:
                assert process.wait(timeout=60) == 1
                line = self.last_lines()[worker]
                assert line.startswith(f"error: worker {victim} (localhost:")

    def finish(self):
        """Waits for the end of the run."""
        codes = [process.wait(timeout=600) for process in self.processes]
        assert codes == [0] * self.num_workers, self.last_lines()

    def stderr(self):
        """What each process wrote so far."""
        return [path.read_text() for path in self._errors()]

    def last_lines(self):
        return [text.strip().rpartition("\n")[2] for text in self.stderr()]

    def _errors(self):
        name = self.folder.name
        return [self.folder.with_name(f"{name}-stderr-{i}") for i in range(self.num_workers)]

    def left_a_checkpoint_unfinished(self):
        return bool(self.unfinished_files() - self._old_files)


def inode(path):
    return path.stat().st_ino if path.exists() else None


def environments(num_workers):
    if num_workers == 1:
        return [dict(os.environ)]
    cluster = {"worker": [f"localhost:{free_port()}" for _ in range(num_workers)]}
    return [
        {
            **os.environ,
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
        }
        for i in range(num_workers)
    ]


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.fixture
def new_run(data, tmp_path):
    """Makes a `Run`; what it still runs in the end is killed."""
    runs = []

    def make(name, num_workers, *flags):
        overrides = [f"--override={override}" for override in LONG]
        command = arguments(data, tmp_path / name, *overrides, "--eval_data=", *flags)
        runs.append(Run(command, tmp_path / name, num_workers))
        return runs[-1]

    yield make
    for process in (process for run in runs for process in run.processes):
        process.kill()
        process.wait()


def tensors_of(run):
    """All tensors of the last checkpoint, as bytes."""
    reader = tf.train.load_checkpoint(run.folder / "checkpoints")
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_")]
    return {name: reader.get_tensor(name).tobytes() for name in names}


@pytest.mark.parametrize("flags", [(), ("--xla",)], ids=["plain", "xla"])
@pytest.mark.parametrize("num_workers, num_kills", [(1, 20), (2, 10)])
def test_killed_runs_end_in_the_same_bits(new_run, num_workers, num_kills, flags):
    whole = new_run("whole", num_workers, *flags)
    whole.start()
    whole.finish()
    random_numbers = random.Random(num_workers)
    run = new_run("killed", num_workers, *flags)
    num_hits = 0
    for kill in range(num_kills):
        run.start()
        aims_at_checkpoint = kill % 2 == 0
        victim = 0 if aims_at_checkpoint else random_numbers.randrange(num_workers)
        wanted = run.restored_step + random_numbers.randint(1, 20)
        run.wait(lambda: run.step() >= wanted)  # noqa: B023
        if aims_at_checkpoint:
            before = run.unfinished_files()
            run.wait(lambda: run.unfinished_files() - before)  # noqa: B023
        else:
            time.sleep(random_numbers.uniform(0.0, 0.05))
        assert run.step() > run.restored_step
        run.kill(victim)
        num_hits += run.left_a_checkpoint_unfinished()
        run.wait_for_survivors(victim)
    run.start()
    run.finish()
    print(f"{num_kills} kills, {num_hits} while a checkpoint was being written")
    assert num_hits >= num_kills // 5
    assert comparable(metrics_of(run.folder)) == comparable(metrics_of(whole.folder))
    expected = tensors_of(whole)
    for part in ("adam_m", "adam_v", "step"):
        assert any(part in name for name in expected)
    assert tensors_of(run) == expected


@pytest.mark.parametrize("num_workers, victim", [(2, 0), (2, 1), (3, 0), (3, 1)])
def test_the_others_leave_when_a_worker_is_killed(new_run, num_workers, victim):
    run = new_run("run", num_workers, "--override=train_batch_size=6")
    run.start()
    run.wait(lambda: run.step() > 0)
    run.kill(victim)
    run.wait_for_survivors(victim)


def test_the_others_leave_when_a_worker_is_frozen(new_run):
    run = new_run("run", 2)
    run.start()
    run.wait(lambda: run.step() > 0)
    run.processes[1].send_signal(signal.SIGSTOP)
    run.wait_for_survivors(1)


def test_the_other_leaves_when_a_worker_is_killed_while_they_start(new_run):
    run = new_run("run", 2)
    run.start()
    # The workers know each other then, and make their models.
    run.wait(lambda: all("not evaluated on held-out text" in text for text in run.stderr()))
    run.kill(1)
    run.wait_for_survivors(1)
