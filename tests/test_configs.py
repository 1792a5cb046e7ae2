"""Presets, YAML files, overrides, and what is refused."""

import dataclasses

import pytest

from electra_tf import UserError, load_pretraining_config
from electra_tf.configs import (
    PRETRAINING_PRESETS,
    PretrainingConfig,
    load_finetuning_config,
    parse_overrides,
)

# Clark et al. (2020), table 6, and google-research/electra's defaults.
PAPER = {
    "small": dict(
        num_hidden_layers=12, hidden_size=256, intermediate_size=1024, num_attention_heads=4,
        embedding_size=128, mask_prob=0.15, learning_rate=5e-4, train_batch_size=128,
        max_seq_length=128, num_train_steps=1_000_000, num_warmup_steps=10_000,
    ),
    "base": dict(
        num_hidden_layers=12, hidden_size=768, intermediate_size=3072, num_attention_heads=12,
        embedding_size=768, mask_prob=0.15, learning_rate=2e-4, train_batch_size=256,
        max_seq_length=512, num_train_steps=766_000, num_warmup_steps=10_000,
    ),
    "large": dict(
        num_hidden_layers=24, hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
        embedding_size=1024, mask_prob=0.25, learning_rate=2e-4, train_batch_size=2048,
        max_seq_length=512, num_train_steps=400_000, num_warmup_steps=10_000,
    ),
}  # fmt: skip
GENERATORS = {"small": (64, 1, 256), "base": (256, 4, 1024), "large": (256, 4, 1024)}


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers(name):
    config = load_pretraining_config(name)
    for key, value in PAPER[name].items():
        assert getattr(config, key) == value, key
    generator = config.generator_config()
    sizes = (generator.hidden_size, generator.num_attention_heads, generator.intermediate_size)
    assert sizes == GENERATORS[name]
    assert generator.embedding_size == config.embedding_size
    common = dict(
        weight_decay_rate=0.01, gen_weight=1.0, disc_weight=50.0, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1, clip_norm=1.0, temperature=1.0, fidelity="fixed",
    )  # fmt: skip
    for key, value in common.items():
        assert getattr(config, key) == value, key


def test_the_original_has_no_bias_correction():
    with pytest.raises(UserError, match="bias_correction=true: fidelity=google2020"):
        load_finetuning_config(overrides={"bias_correction": True, "fidelity": "google2020"})


def test_max_predictions_are_no_more_than_tokens():
    config = load_pretraining_config("tiny", {"mask_prob": 0.999, "max_seq_length": 512})
    assert config.max_predictions_per_seq == 512


def test_max_predictions():
    # int((0.15 + 0.005) * 128) = int(19.84), int(0.155 * 512) = 79, int(0.255 * 512) = 130
    expected = {"tiny": 19, "mini": 19, "small": 19, "base": 79, "large": 130}
    for name in PRETRAINING_PRESETS:
        size = name.removesuffix("_convolutional_recurrent")
        assert load_pretraining_config(name).max_predictions_per_seq == expected[size]


def test_yaml_with_a_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: mini\nlearning_rate: 3e-4\nmixed_precision: bfloat16\n")
    config = load_pretraining_config(str(file), parse_overrides(["seed=7", "temperature=0.5"]))
    expected = dataclasses.replace(
        load_pretraining_config("mini"),
        learning_rate=3e-4, mixed_precision="bfloat16", seed=7, temperature=0.5,
    )  # fmt: skip
    assert config == expected


def test_a_resolved_configuration_is_a_configuration(tmp_path):
    import yaml

    config = load_pretraining_config("small", {"encoder_export_steps": [10, 20]})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    assert load_pretraining_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "learning_rat=1",
            "unknown configuration key 'learning_rat'; did you mean 'learning_rate'",
        ),
        ("train_batch_size=abc", "train_batch_size='abc': .*valid integer"),
        ("train_batch_size=1.5", "train_batch_size=1.5: .*valid integer"),
        ("train_batch_size=0", "train_batch_size=0: .*greater than 0"),
        ("hidden_dropout_prob=1", "hidden_dropout_prob=1: .*less than 1"),
        ("mixed_precision=float8", "mixed_precision='float8': .*'float32'.*'bfloat16'"),
        ("fidelity=exact", "fidelity='exact'"),
        ("num_attention_heads=3", "num_attention_heads=3 does not divide hidden_size=128"),
        ("generator_hidden_size=2", "generator_hidden_size=2"),
        ("max_seq_length=600", "max_seq_length=600 exceeds max_position_embeddings=512"),
        ("num_warmup_steps=30000", "num_warmup_steps=30000 exceeds num_train_steps=20000"),
        ("seed=-1", "seed=-1"),
        (f"seed={2**31}", "seed=2147483648: .*less than"),
        ("seed", "no '='; write --override=key=value"),
        ("seed=[", "the value is not YAML"),
        ("seed=\x01", "the value is not YAML"),
        ("seed=2020-13-45", "the value is not YAML .month must be in 1..12"),
        ("learning_rate=.inf", "learning_rate=inf: give finite numbers"),
        ("uniform_generator=true", "is the original's; write 'generator: uniform'"),
        ("untied_generator=false", "is the original's; write 'tied: true'"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(UserError, match=message):
        load_pretraining_config("tiny", parse_overrides([override]))


def test_labels_are_as_they_are_written():
    overrides = ["labels=[no, 01]", "seed=1"]
    assert parse_overrides(overrides, as_written=("labels",)) == {"labels": ["no", "01"], "seed": 1}


def test_generator_heads_that_do_not_divide_its_width():
    # 800 * 0.25 = 200 wide, 200 // 64 = 3 heads.
    overrides = {"hidden_size": 800, "num_attention_heads": 10, "generator_hidden_size": 0.25}
    with pytest.raises(UserError, match="generator_hidden_size=0.25: .*3 does not divide .*200"):
        load_pretraining_config("tiny", overrides)


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rate: 1\n", "missing embedding_size, .*preset: small"),
        ("preset: huge\n", "preset=huge: no such preset; choose one of tiny"),
        ("a: b: c\n", r"mine.yaml:1: not YAML"),
        ("just words\n", "no 'key: value' lines"),
        ("preset: tiny\nlearning_rte: 1\n", "mine.yaml: unknown .*'learning_rte'; did you mean"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_pretraining_config(str(tmp_path / "mine.yaml"))


def test_encodings(tmp_path):
    path = tmp_path / "mine.yaml"
    for padding in range(4):  # A character on both sides of what is read at once.
        comment = "# " + "x" * padding + "ü" * 4096
        path.write_text(f"\ufeff{comment}\npreset: tiny\n", encoding="utf-8")
        assert load_pretraining_config(str(path)).hidden_size == 128
    path.write_bytes("# für\npreset: tiny\n".encode("latin-1"))
    with pytest.raises(UserError, match="mine.yaml: not UTF-8 at byte 3"):
        load_pretraining_config(str(path))


def test_missing_file_and_preset():
    with pytest.raises(UserError, match="cannot read it"):
        load_pretraining_config("nowhere.yaml")
    with pytest.raises(UserError, match="--config=smal: no such preset"):
        load_pretraining_config("smal")


def test_every_key_is_documented():
    import pathlib

    text = (pathlib.Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    for field in dataclasses.fields(PretrainingConfig):
        assert f"`{field.name}`" in text, field.name


def test_export_steps():
    every = load_pretraining_config("tiny", {"encoder_export_steps": 10})
    listed = load_pretraining_config("tiny", {"encoder_export_steps": [10, 25]})
    assert [s for s in range(1, 31) if every.exports_encoder_at(s)] == [10, 20, 30]
    assert [s for s in range(1, 31) if listed.exports_encoder_at(s)] == [10, 25]
