"""The benchmarks of reader, data builder and scaling, on a model of one layer."""

import json
import os
import random
import types

import data_build
import input_pipeline
import pretrain_throughput
import pytest
import scaling
import serving
import variants
from tiny_models import SPECIAL

from electra_tf import Tokenizer, UserError
from electra_tf.configs import load_pretraining_config
from electra_tf.training.flops import steps_flops

CONFIG = """
preset: tiny
hidden_size: 16
embedding_size: 16
intermediate_size: 32
num_hidden_layers: 1
max_seq_length: 16
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration's path; records are built by this process alone."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    path = tmp_path / "one_layer.yaml"
    path.write_text(CONFIG)
    return path


def run(benchmark, folder, *arguments):
    """What a benchmark wrote with --json."""
    arguments = [f"--output_dir={folder}", f"--json={folder}/figures.json", *arguments]
    assert benchmark.main(["benchmark", *arguments]) == 0
    return json.loads((folder / "figures.json").read_text())


def test_variants_are_trained_for_the_same_operations():
    budget = steps_flops(load_pretraining_config(str(variants.CONFIG)), 300)
    for name, overrides in variants.VARIANTS.items():
        config = load_pretraining_config(str(variants.CONFIG), variants.configure(overrides, 300))
        flops = steps_flops(config, config.num_train_steps)
        assert flops == pytest.approx(budget, rel=0.01), name


def of_text(data):
    return f"--data={data}/text.txt", f"--vocab_file={data}/vocab.txt"


@pytest.mark.slow  # Takes 22 s.
def test_input_pipeline(data, config, tmp_path):
    figures = run(
        input_pipeline, tmp_path, *of_text(data), f"--config={config}", "--batch_size=4",
        "--rounds=2", "--steps=1", "--num_batches=20",
    )  # fmt: skip
    reader, training = figures["reader"], figures["training"]
    for ratio, key in (
        ("ratio", "examples_per_second"),
        ("cpu_ratio", "examples_per_cpu_second"),
    ):
        assert figures[ratio] == pytest.approx(reader[key] / training[key])
        assert training[key] > 0
    assert figures["max_seq_length"] == 16


def test_the_reader_counts_whole_turns():
    batches = iter(range(100))
    reader = input_pipeline.Reader(batches, 10)
    reader()
    reader()
    assert next(batches) == 30
    assert len(reader.times) == 2


def test_data_build(data, tmp_path):
    words = (data / "vocab.txt").read_text().split()[5:]
    lines = [" ".join(random.Random(i).choices(words, k=20)) for i in range(4000)]
    text = "\n\n".join(lines)
    (tmp_path / "text.txt").write_text(text)
    figures = run(
        data_build, tmp_path, f"--corpus={tmp_path}/text.txt", f"--vocab_file={data}/vocab.txt",
        "--num_workers=1", "--rounds=1",
    )  # fmt: skip
    [row] = figures["rows"]
    assert row["num_workers"] == row["rounds"] == 1
    assert row["megabytes"] == pytest.approx(len(text) / 1e6, abs=0.06)
    assert row["megabytes_per_second"] == pytest.approx(row["megabytes"] / row["wall_seconds"])
    # The command's own clock leaves its start out; it prints tenths.
    assert row["printed_megabytes_per_second"] > row["megabytes_per_second"] - 0.05
    assert row["cpu_seconds"] > 0


def test_medians_of_builds():
    builds = [{"megabytes": 6.0, "wall_seconds": seconds} for seconds in (2.0, 9.0, 3.0)]
    row = data_build.make_row(2, builds)
    assert (row["num_workers"], row["rounds"], row["megabytes_per_second"]) == (2, 3, 2.0)


def test_data_build_says_what_the_command_says(tmp_path, capsys, monkeypatch):
    script = tmp_path / "build.py"
    script.write_text("import sys; print('working'); sys.exit('error: no text')")
    monkeypatch.setattr(data_build, "SCRIPT", script)
    arguments = [f"--corpus={tmp_path}", "--vocab_file=vocab.txt", f"--output_dir={tmp_path}"]
    assert data_build.main(["benchmark", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: build.py: no text"


@pytest.fixture
def fast_training(monkeypatch):
    """Points that take no time: 100 examples a second, whatever they are, and 1 MB an example."""

    def measure_ours(values, task, log):
        return {
            "examples_per_second": 100.0,
            "cpu_seconds_per_step": 0.1,
            "first_step_seconds": 1.0,
            "peak_rss_mb": float(task["batch_size"]),
            "length": task["config"]["max_seq_length"],
        }

    monkeypatch.setattr(pretrain_throughput, "measure_ours", measure_ours)


def sweep(data, config, folder, *arguments):
    return run(
        scaling, folder, *of_text(data), f"--preset={config}", "--batch_size=4", "--length=16",
        "--batch_sizes=2,4,8", "--lengths=16,32", f"--presets={config}", *arguments,
    )  # fmt: skip


def test_scaling(data, config, tmp_path, fast_training):
    figures = sweep(data, config, tmp_path)
    points = [(row["batch_size"], row["length"]) for row in figures["rows"]]
    assert points == [(4, 16), (2, 16), (8, 16), (4, 32)]  # The base point once, and first.
    for row in figures["rows"]:
        assert row["tokens_per_second"] == 100.0 * row["length"]
        assert row["peak_rss_mb"] == row["batch_size"]
    assert figures["left_out"] == []
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_scaling_names_what_does_not_fit(data, config, tmp_path, fast_training, capsys):
    figures = sweep(data, config, tmp_path, "--minutes=0")
    assert [row["batch_size"] for row in figures["rows"]] == [4]
    assert [point["batch_size"] for point in figures["left_out"]] == [2, 8, 4]
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(lines) == 3
    assert f"{config}, 4 examples, 32 positions: takes about" in lines[2]


def test_expected_seconds():
    from electra_tf.training import flops

    values = scaling.flags.FlagValues()
    scaling.define_flags(values)
    values(["benchmark", "--rounds=2", "--steps=1"])
    # 3 steps of START and 2 others take 0.5 s each; 10 s are its start.
    base = {"preset": "tiny", "batch_size": 8, "length": 64}
    row = {**base, "examples_per_second": 16.0, "seconds": 12.5}
    assert scaling.expected_seconds(values, scaling.Point("tiny", 16, 64), row) == 15.0
    costs = [
        flops.pretraining_flops(scaling.make_config(scaling.Point(preset, 8, 64)))
        for preset in ("tiny", "small")
    ]
    expected = scaling.expected_seconds(values, scaling.Point("small", 8, 64), row)
    assert expected == pytest.approx(10.0 + 2.5 * costs[1] / costs[0])


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--batch_sizes=8,x", "train_batch_size='x'"),
        ("--batch_sizes=0", "train_batch_size='0'"),
        ("--lengths=600", "max_seq_length=600 exceeds"),
        ("--presets=huge", "huge: no such preset"),
    ],
)
def test_scaling_refuses(flag, message, tmp_path, capsys):
    assert scaling.main(["benchmark", flag, f"--output_dir={tmp_path}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow  # Takes 25 s.
def test_profile(data, config, tmp_path):
    figures = run(
        scaling, tmp_path, *of_text(data), f"--preset={config}", "--batch_size=16", "--length=16",
        "--profile", "--steps=2",
    )  # fmt: skip
    seconds = {line["group"]: line["seconds_per_step"] for line in figures["groups"]}
    shares = {line["group"]: line["share"] for line in figures["groups"]}
    assert sum(shares.values()) == pytest.approx(1.0)
    for group, share in shares.items():
        assert share == pytest.approx(seconds[group] / sum(seconds.values()))
    islands = {group.removeprefix("island ") for group in shares if group.startswith("island ")}
    assert islands == {
        "bias_gelu", "bias_gelu_layer_norm", "dropout_add_layer_norm", "dropout_cast",
        "softmax_dropout", "masked_lm", "adam_weight_decay",
    }  # fmt: skip
    assert {"matrix products", "transposes", "optimizer", "masking, sampling"} < set(shares)


@pytest.mark.parametrize(
    "name, group",
    [
        ("electra_pretrainer_1/generator_1/encoder_1/MatMul_3:_MklMatMul", "matrix products"),
        ("electra_pretrainer_1/encoder_1/BiasAdd:_MklNativeFusedMatMul", "matrix products"),
        ("gradients/discriminator_1/transpose_grad/transpose:_MklTranspose", "transposes"),
        ("electra_pretrainer_1/TopKV2:TopKV2", "masking, sampling"),
        ("electra_pretrainer_1/generator_1/GatherV2:GatherV2", "other"),
        ("clip_by_global_norm/mul_3:Mul", "optimizer"),
        ("adam_weight_decay/AssignVariableOp_2:AssignVariableOp", "optimizer"),
        ("adam_weight_decay/island.adam_weight_decay_4/PartitionedCall:PartitionedCall",
         "island adam_weight_decay"),
        ("feed_forward_1_1/island.bias_gelu/IdentityN_grad/PartitionedCall:PartitionedCall",
         "island bias_gelu"),
        ("embeddings_1/Cast_1:Cast", "casts"),
    ],
)  # fmt: skip
def test_groups_of_operations(name, group):
    assert scaling.group_of(f"while/body/_1/{name}") == group


def test_served_texts_are_of_the_length_that_is_measured(tmp_path):
    tokenizer = Tokenizer([*SPECIAL, "a", "b", "##c", "d1", "good", "bad"])
    tokenizer.save_pretrained(str(tmp_path))
    texts = serving.make_texts(str(tmp_path / "vocab.txt"), 3, 16)
    packed = tokenizer.pack([tokenizer.tokenize(texts)], 20)
    assert packed["input_mask"].numpy().sum(axis=1).tolist() == [16] * 3
    assert len(set(texts)) == 3


def test_served_answers_must_agree():
    def worker(*scores):
        return types.SimpleNamespace(name="x", answers=[{"scores": [list(scores)]}])

    serving.check_scores([worker(0.25, 0.75), worker(0.25005, 0.74995)])
    with pytest.raises(UserError, match="differs from x by 1.0e-03"):
        serving.check_scores([worker(0.25, 0.75), worker(0.251, 0.749)])
