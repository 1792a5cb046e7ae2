"""Host memory and open files stay flat: over 5,000 steps, and over 10 GB of records.

  python -m pytest -m slow -s tests/test_flatness.py

prints what was measured.
"""

import concurrent.futures
import ctypes
import gc
import multiprocessing
import os
import shutil
import time
from typing import NamedTuple

import numpy as np
import psutil
import pytest

NUM_STEPS, WARM_UP_STEPS, SAMPLE_STEPS = 5_000, 1_000, 25
NUM_BYTES, SHARD_BYTES, MAX_SEQ_LENGTH, BATCH_SIZE = 10.2e9, 300e6, 512, 128
CHUNKS = 8  # That the samples after the warm-up are cut into for the table.


# What grows for each loop, evaluation or batch shows in the bytes in use: 1 MB is 250 bytes a step.
# The resident memory swings by some 10 MB, as buffers of evaluations and checkpoints find other gaps.
MAX_IN_USE_GROWTH, MAX_RSS_GROWTH = 1.0, 8.0


class MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def malloc_info():
    """What the GNU C library has allocated, or None where there is another one."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        return None
    function.restype = MallocInfo
    return function()


needs_glibc = pytest.mark.skipif(
    malloc_info() is None, reason="needs the GNU C library's mallinfo2"
)


class Sample(NamedTuple):
    """Attributes: `done` (steps or bytes so far), `seconds`, `rss` (resident, MB), `in_use` (allocated
    and not freed, MB), `files` that are open."""

    done: float
    seconds: float
    rss: float
    in_use: float
    files: int


class Sampler:
    """Samples of this process."""

    def __init__(self):
        self._process, self._start, self.samples = psutil.Process(), time.perf_counter(), []

    def __call__(self, done):
        gc.collect()  # What awaits Python's collector is not lost,
        time.sleep(0.1)  # and batches in the making, of some MB, are made.
        malloc = malloc_info()
        self.samples.append(
            Sample(
                done,
                time.perf_counter() - self._start,
                self._process.memory_info().rss / 1e6,
                (malloc.uordblks + malloc.hblkhd) / 1e6,
                self._process.num_fds(),
            )
        )


def in_fresh_process(function, *args):
    """Calls a function in a process that has no memory of other tests to fill first."""
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(function, *args).result()


def train(data, folder):
    """A run with all that a run does now and then; returns its samples."""
    from test_commands import SMALL

    from electra_tf import Tokenizer, load_pretraining_config
    from electra_tf.configs import parse_overrides
    from electra_tf.training.pretraining import pretrain

    now_and_then = [
        f"num_train_steps={NUM_STEPS}", "save_checkpoints_steps=100", "eval_steps=100",
        "encoder_export_steps=500",
    ]  # fmt: skip
    tokenizer = Tokenizer.from_vocab(f"{data}/vocab.txt")
    overrides = {**parse_overrides([*SMALL, *now_and_then]), "vocab_size": tokenizer.vocab_size}
    sample = Sampler()
    pretrain(
        load_pretraining_config("tiny", overrides),
        tokenizer,
        f"{data}/records",
        f"{folder}/run",
        eval_data=f"{data}/records/eval",
        on_progress=lambda step, *_: sample(step) if step % SAMPLE_STEPS == 0 else None,
    )
    return sample.samples


def write_shards(folder):
    """Copies of one shard of random tokens; returns a list of `Shard`."""
    import tensorflow as tf

    from electra_tf import records

    rng = np.random.default_rng(0)
    examples = []
    for _ in range(1_000):
        values = {name: np.ones(MAX_SEQ_LENGTH, np.int64) for name in records.FEATURES}
        values["input_ids"] = rng.integers(30_522, size=MAX_SEQ_LENGTH)
        features = {
            name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
            for name, value in values.items()
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        examples.append(example.SerializeToString())
    first = os.path.join(folder, "0.tfrecord")
    with tf.io.TFRecordWriter(first) as writer:
        for _ in range(int(SHARD_BYTES / sum(map(len, examples)))):
            for example in examples:
                writer.write(example)
    (shard,) = records.read_shards([first])
    shards = [shard]
    while len(shards) * os.path.getsize(first) < NUM_BYTES:
        shards.append(shard._replace(path=os.path.join(folder, f"{len(shards)}.tfrecord")))
        shutil.copyfile(first, shards[-1].path)
    return shards


def read(folder):
    """Reads all records once, in a run's order; returns samples."""
    from electra_tf import records

    shards = write_shards(folder)
    size = sum(os.path.getsize(shard.path) for shard in shards)
    batches = records.RecordBatches(shards, BATCH_SIZE, MAX_SEQ_LENGTH)
    num_steps = batches.num_examples // BATCH_SIZE
    sample = Sampler()
    for step, batch in enumerate(batches.training(0, 0, num_steps), 1):
        assert batch["input_ids"].shape == [BATCH_SIZE, MAX_SEQ_LENGTH]
        if step % 300 == 0 or step == num_steps:
            sample(size * step / num_steps)
    return sample.samples


def assert_flat(title, unit, scale, samples, warm_up):
    """Prints a table, and compares the first and the last chunk of the samples after the warm-up.

    Memory is a chunk's least: single samples see buffers that are freed a moment later.
    """
    first, last = samples[0], samples[-1]
    chunks = np.array_split([s for s in samples if s.done > warm_up], CHUNKS)
    rows = [first] + [
        Sample(*c[-1, :2], c[:, 2].min(), c[:, 3].min(), c[:, 4].max()) for c in chunks
    ]
    print(f"\n{title}: {last.done / scale:,.1f} {unit} in {last.seconds:.0f} s")
    print(f"{'up to ' + unit:>12} {'resident, MB':>13} {'in use, MB':>11} {'open files':>11}")
    for row in rows:
        print(f"{row.done / scale:>12,.1f} {row.rss:>13.1f} {row.in_use:>11.2f} {row.files:>11.0f}")
    before, after = rows[1], rows[-1]
    print(
        f"after {warm_up / scale:,.1f} {unit}: resident {after.rss - before.rss:+.1f} MB, in use "
        f"{after.in_use - before.in_use:+.2f} MB, files {after.files - before.files:+.0f}"
    )
    assert after.in_use - before.in_use < MAX_IN_USE_GROWTH
    assert after.rss - before.rss < MAX_RSS_GROWTH
    assert after.files <= before.files


@needs_glibc
@pytest.mark.slow
def test_a_long_run(data, tmp_path):
    samples = in_fresh_process(train, str(data), str(tmp_path))
    assert samples[-1].done == NUM_STEPS
    assert_flat("training", "steps", 1, samples, WARM_UP_STEPS)


@needs_glibc
@pytest.mark.slow
def test_many_records(tmp_path):
    try:
        samples = in_fresh_process(read, str(tmp_path))
    finally:
        shutil.rmtree(tmp_path)
    assert samples[-1].done >= 10e9
    assert_flat("reading", "GB", 1e9, samples, samples[-1].done / 10)
