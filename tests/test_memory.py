"""Micro-batches chosen by memory, and what a run says when there is none left."""

import subprocess
import sys

import pytest
import tensorflow as tf
from test_commands import ROOT, arguments

from electra_tf import UserError
from electra_tf.commands import pretrain
from electra_tf.training import memory

MB = 2**20
ONE_DEVICE = tf.distribute.get_strategy()


class Free:
    """So much free memory; a row takes 10 MB and everything else 100."""

    def __init__(self, megabytes):
        self.megabytes = megabytes

    def free(self):
        return self.megabytes * MB

    def peak_of(self, function, rows):
        return (100 + 10 * rows) * MB


@pytest.mark.parametrize(
    "megabytes, expected",
    [
        # 0.8 of it must hold 100 + 10 * 24 / K.
        (425, 1), (424, 2), (275, 2), (274, 3), (225, 3), (137.5, 24),
    ],
)  # fmt: skip
def test_the_number_by_hand(monkeypatch, megabytes, expected):
    monkeypatch.setattr(memory, "_memory", lambda strategy: Free(megabytes))
    monkeypatch.setattr(memory, "_gradients_of_rows", lambda model: lambda rows: None)
    assert memory.choose_micro_batches(None, ONE_DEVICE, 24) == expected


@pytest.mark.parametrize(
    "most, expected",
    [
        (16, 2),  # 340 MB of 424 are usable: 24 rows need as much, and 12 a third less.
        (15, 2),  # The rows are measured by 1 and 4 then.
        (3, 24),  # A row at a time is all that is known to fit.
    ],
)
def test_rows_that_do_not_fit_to_be_measured(monkeypatch, most, expected):
    class Little(Free):
        def peak_of(self, function, rows):
            if rows > most:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return super().peak_of(function, rows)

    monkeypatch.setattr(memory, "_memory", lambda strategy: Little(424))
    monkeypatch.setattr(memory, "_gradients_of_rows", lambda model: lambda rows: None)
    assert memory.choose_micro_batches(None, ONE_DEVICE, 24) == expected


def test_not_even_one_row(monkeypatch):
    monkeypatch.setattr(memory, "_memory", lambda strategy: Free(137))
    monkeypatch.setattr(memory, "_gradients_of_rows", lambda model: lambda rows: None)
    with pytest.raises(UserError, match="one row needs about 110 MB, and 110 MB are usable"):
        memory.choose_micro_batches(None, ONE_DEVICE, 24)


# In a process of its own: what other tests have left resident would be used again.
MEASURE = """
import tensorflow as tf
from electra_tf import ElectraPretrainer, create_optimizer, load_pretraining_config
from electra_tf.training import memory
config = load_pretraining_config(
    "tiny", {"vocab_size": 2000, "num_train_steps": 10, "num_warmup_steps": 1}
)
model = ElectraPretrainer(config)
model.compile(create_optimizer(config))
compute = memory._gradients_of_rows(model)
host = memory._memory(tf.distribute.get_strategy())
compute(1)
print(*(host.peak_of(compute, rows) for rows in (32, 128)))
"""


@pytest.mark.slow  # The rule by hand is quick.
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_what_is_measured_grows_with_the_rows():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    small, large = (int(number) / MB for number in done.stdout.split())
    # At least a float32 of each row's activations that the gradients need: 2 layers of 128 tokens,
    # 4 * 128 + 2 * 512 wide; and not ten times as much.
    least = 96 * 2 * 128 * (4 * 128 + 2 * 512) * 4 / MB
    assert least < large - small < 10 * least


@pytest.mark.slow
def test_auto_runs_and_goes_on_with_its_choice(data, tmp_path, monkeypatch, caplog):
    from test_distribution import stop_after

    monkeypatch.setattr(memory, "_memory", lambda strategy: Free(162.5))  # 130 MB: 3 of 4 rows.
    command = arguments(data, tmp_path / "run", "--override=gradient_accumulation_steps=auto")
    with stop_after(4):
        pretrain.main(command)
    assert "gradient_accumulation_steps: 2 (2 rows at a time" in caplog.text
    monkeypatch.setattr(memory, "_memory", lambda strategy: Free(1000))
    assert pretrain.main(command) == 0
    saved = tf.train.load_checkpoint(str(tmp_path / "run" / "checkpoints"))
    name = "variables/gradient_accumulation_steps/.ATTRIBUTES/VARIABLE_VALUE"
    assert saved.get_tensor(name) == 2


# In a process of its own, whose address space ends 64 GB above what it has, while the activations of
# 160,000 * 16 tokens, 60,000 wide, ask for 77 GB at once, or for more.
HUNGRY = """
import resource, sys
import psutil
from electra_tf.commands import pretrain
room = psutil.Process().memory_info().vms + 64 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (room, room))
sys.exit(pretrain.main(
    [*sys.argv[1:], "--override=train_batch_size=160000", "--override=intermediate_size=60000"]
))
"""


@pytest.mark.slow  # TensorFlow's allocator tries for ten seconds before it gives up.
@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit a process's memory")
def test_out_of_memory(data, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", HUNGRY, *arguments(data, tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 2, process.stderr
    assert line.startswith("error: out of memory in training; raise gradient_accumulation_steps")
    assert "train_batch_size (now 160000)" in line
