"""What a run will need: the arithmetic by hand, against built models and against measured memory."""

import json
import math
import subprocess
import sys

import pytest
from test_commands import ROOT

from electra_tf import ElectraPretrainer, load_pretraining_config
from electra_tf.commands import plan
from electra_tf.training import footprint


@pytest.mark.parametrize(
    "preset, overrides",
    [
        ("tiny", {}),
        ("small", {"generator_layers": 0.5, "max_position_embeddings": 128}),
        ("base", {"vocab_size": 1000, "num_hidden_layers": 2}),  # No projection.
        ("tiny", {"untied_generator_embeddings": True}),
        ("tiny", {"tied": True, "generator_hidden_size": 1.0}),
    ],
)
def test_parameters_are_those_of_a_built_model(preset, overrides):
    config = load_pretraining_config(preset, overrides)
    model = ElectraPretrainer(config)

    def size(variables):
        return sum(math.prod(variable.shape) for variable in variables)

    counts = footprint.parameters(config)
    assert sum(counts.values()) == size(model.trainable_variables)
    assert counts["embeddings"] == size(model.discriminator.embeddings.trainable_variables)
    discriminator = size(model.discriminator.trainable_variables)
    assert counts["embeddings"] + counts["discriminator"] == discriminator


def test_parameters_of_the_paper():
    # By hand: 30522 + 512 + 2 rows and LayerNorm; projection; blocks; head.
    small = footprint.parameters(load_pretraining_config("small"))
    assert small["embeddings"] == (30522 + 512 + 2 + 2) * 128
    block = 4 * (256 * 256 + 256) + 2 * 256 * 1024 + 1024 + 256 + 4 * 256
    assert small["discriminator"] == 128 * 256 + 256 + 12 * block + 256 * 256 + 256 + 257
    assert small["embeddings"] + small["discriminator"] == 13_549_057
    base = footprint.parameters(load_pretraining_config("base"))
    assert base["embeddings"] + base["discriminator"] == 109_483_009


def test_activations_of_a_block_by_hand():
    encoder = load_pretraining_config("small").discriminator_config()
    # 128 tokens in bfloat16: eight tensors 256 wide, two 1024 wide, two of 4 heads; four moments.
    expected = 2 * 128 * (8 * 256 + 2 * 1024 + 2 * 4 * 128) + 4 * 128 * 4
    assert sum(footprint.block_activations(encoder, 128, 2).values()) == expected


def test_state_by_hand():
    config = load_pretraining_config("small", {"gradient_accumulation_steps": 4})
    state = footprint.state_bytes(config)
    assert state.pop("weight_copies") == 4 * 12 * 3 * (256**2 + 64**2)
    assert sum(state.values()) == (4 + 4 + 8 + 4) * 14_196_219


@pytest.mark.parametrize("recompute", [False, True])
def test_the_largest_batch_fits_and_one_more_does_not(recompute):
    config = load_pretraining_config("base", {"mixed_precision": "bfloat16"})
    rows = footprint.largest_batch(config, 80e9, recompute)
    usable = footprint.USABLE_SHARE * 80e9
    assert footprint.device_bytes(config, rows, recompute) <= usable
    assert footprint.device_bytes(config, rows + 1, recompute) > usable
    assert footprint.largest_batch(config, 1e9, recompute) == 0


def test_recomputed_blocks_take_less_and_longer():
    config = load_pretraining_config("base")
    figures = plan.plan(config, devices=8, peak_tflops=312.0, mfu=0.5, tokens=512e6)
    kept, again = figures["kept"], figures["recomputed"]
    assert again["activation_bytes_per_example"] < kept["activation_bytes_per_example"] / 4
    assert kept["hours"] == pytest.approx(1e6 * figures["flops_per_example"] / 1.248e15 / 3600)
    assert 1.3 < again["hours"] / kept["hours"] < 4 / 3


def test_published_speed_of_base_is_believable():
    # NVIDIA: 955 sequences of 128 tokens a second on one A100.
    config = load_pretraining_config("base", {"max_seq_length": 128})
    figures = plan.plan(config, peak_tflops=312.0, mfu=1.0)
    assert 955 / figures["kept"]["examples_per_second"] == pytest.approx(0.239, abs=0.001)


def test_the_command(tmp_path, capsys):
    arguments = ["--config=base", "--devices=8", "--memory_gb=80", "--peak_tflops=312"]
    path = tmp_path / "plan.json"
    assert plan.main(["", *arguments, "--tokens=1e11", f"--json={path}"]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(path.read_text())
    assert f"{figures['kept']['largest_batch']:,}" in printed
    assert figures["rows_per_device"] == 32 and figures["tokens"] == 1e11


def test_tensorflow_is_not_imported():
    code = (
        "import sys; from electra_tf import plan; assert not plan.main(['', '--config=tiny']);"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "largest batch a device" not in done.stdout and "hours" not in done.stdout


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--devices=0", "--devices=0"),
        ("--devices=7", "--devices=7: with gradient_accumulation_steps=1 it does not divide"),
        ("--memory_gb=-1", "--memory_gb=-1: must be a number above 0"),
        ("--peak_tflops=inf", "--peak_tflops=inf: give a finite number"),
        ("--tokens=nan", "--tokens=nan: give a finite number"),
        ("--mfu=1.5", "--mfu=1.5: a share of the peak; must be at most 1"),
        ("--config=bse", "--config=bse: no such preset"),
        ("--override=hiden_size=1", "did you mean 'hidden_size'"),
        ("--what=1", "'what'"),
    ],
)
def test_errors_are_one_line(flag, message, capsys):
    assert plan.main(["", "--config=base", flag]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


# Peaks of TensorFlow's allocator in a process of its own, in bytes.
MEASURE = """
import sys
import tensorflow as tf
from electra_tf import ElectraPretrainer, create_optimizer, load_pretraining_config
from electra_tf.training import memory

preset, dtype, variant, *sizes = sys.argv[1:]
config = load_pretraining_config(
    preset, {"mixed_precision": dtype, "recompute_activations": variant == "recomputed"}
)
model = ElectraPretrainer(config)
model.compile(create_optimizer(config))
compute = memory._gradients_of_rows(model)


def peak_of(rows):
    tf.config.experimental.reset_memory_stats("CPU:0")
    compute(rows)
    return tf.config.experimental.get_memory_info("CPU:0")["peak"]


for rows in map(int, sizes):
    compute(rows)  # Compiles.
    print("peak", min(peak_of(rows) for _ in range(3)))
"""


@pytest.mark.slow
# So many rows that a chunk of the allocator that is larger than its tensor matters little.
@pytest.mark.parametrize(
    "preset, dtype, variant, small, large",
    [
        ("tiny", "float32", "kept", 8, 128),
        ("tiny", "bfloat16", "kept", 8, 128),
        ("small", "float32", "kept", 8, 32),
        ("small", "bfloat16", "kept", 8, 32),
        ("small", "float32", "recomputed", 8, 32),
        ("tiny_convolutional_recurrent", "float32", "kept", 8, 128),
        ("tiny_convolutional_recurrent", "bfloat16", "kept", 8, 128),
    ],
)
def test_activations_are_those_measured(preset, dtype, variant, small, large):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, preset, dtype, variant, str(small), str(large)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "Allocator stats not available" in done.stderr:
        pytest.skip("this TensorFlow's CPU allocator keeps no count (no oneDNN)")
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak")]
    assert len(peaks) == 2, done.stderr
    config = load_pretraining_config(preset, {"mixed_precision": dtype})
    measured = (peaks[1] - peaks[0]) / (large - small)
    planned = footprint.activation_bytes(config, recompute=variant == "recomputed")
    print(
        f"{preset} {dtype} {variant}: {measured / 2**20:.2f} MiB a row, {planned / 2**20:.2f} planned"
    )
    assert planned == pytest.approx(measured, rel=0.15)
