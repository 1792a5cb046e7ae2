"""KerasHub's presets, both ways, against what KerasHub itself writes, loads and computes."""

import json
import os
import pathlib
import random
import sys

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from test_commands import last_line
from test_convert_google import randomize
from tiny_models import SPECIAL, VOCAB, save_tiny_encoder, tiny_config

from electra_tf import Discriminator, EncoderConfig, Generator, Tokenizer, UserError
from electra_tf.commands import convert
from electra_tf.interop import huggingface, keras_hub, runs
from electra_tf.training import warm_start
from electra_tf.training.task_setup import load_encoder

NO_HEAD = "discriminator_predictions.*"
WEIGHTS = "model.weights.h5"
QUERY = "layers/transformer_encoder_1/_self_attention_layer/query_dense/vars/0"


@pytest.fixture(scope="module")
def hub():
    """KerasHub's classes."""
    return pytest.importorskip("keras_hub").models


def to_run(preset, run, *more):
    return convert.main(["", "--from=keras_hub", f"--input={preset}", f"--output={run}", *more])


def to_preset(run, preset, *more):
    return convert.main(["", "--to=keras_hub", f"--input={run}", f"--output={preset}", *more])


def backbone_of(hub, embedding_dim=16):
    """A backbone whose tensors are all random."""
    backbone = hub.ElectraBackbone(
        vocab_size=len(VOCAB),
        num_layers=3,
        num_heads=4,
        hidden_dim=16,
        embedding_dim=embedding_dim,
        intermediate_dim=24,
        dropout=0.2,
        max_sequence_length=11,
        num_segments=3,
        name="electra_backbone",
    )
    generator = np.random.default_rng(embedding_dim)
    for variable in backbone.trainable_variables:
        variable.assign(generator.normal(0, 0.5, variable.shape))
    return backbone


@pytest.fixture(scope="module", params=[16, 8], ids=["equal", "projected"])
def theirs(hub, tmp_path_factory, request):
    """A preset that KerasHub has written, and its backbone."""
    folder = tmp_path_factory.mktemp("theirs") / "preset"
    backbone = backbone_of(hub, request.param)
    backbone.save_to_preset(str(folder))
    tokenizer = hub.ElectraTokenizer(VOCAB, lowercase=True, name="electra_tokenizer")
    tokenizer.save_to_preset(str(folder))
    return folder, backbone


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A preset that was made of ours, for which KerasHub need not be there."""
    folder = tmp_path_factory.mktemp("whole")
    save_tiny_encoder(folder / "ours", VOCAB)
    keras_hub.from_run(str(folder / "ours"), str(folder / "preset"))
    return folder / "preset"


@pytest.fixture
def preset(whole, tmp_path):
    """A copy of `whole` to damage."""
    for path in whole.rglob("*"):
        if path.is_file():
            copy = tmp_path / "preset" / path.relative_to(whole)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path / "preset"


def arrays_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def batch():
    generator = np.random.default_rng(5)
    mask = np.arange(9) < np.array([[9], [4], [6]])
    return {
        "token_ids": generator.integers(0, len(VOCAB), (3, 9)) * mask,
        "segment_ids": generator.integers(0, 3, (3, 9)) * mask,
        "padding_mask": mask.astype(int),
    }


def ours_of(inputs):
    names = {"token_ids": "input_ids", "segment_ids": "segment_ids", "padding_mask": "input_mask"}
    return {names[name]: array for name, array in inputs.items()}


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def gelu_by_tanh(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def encode(backbone, inputs, activation):
    """ELECTRA's encoder in NumPy, by the paths of KerasHub's variables, in float64: [B, T, H]."""
    weights = {v.path: v.numpy().astype(np.float64) for v in backbone.trainable_variables}

    def dense(x, name):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        inputs = kernel.ndim - bias.ndim
        return np.tensordot(x, kernel, inputs) + bias

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    x = weights["token_embedding/embeddings"][inputs["token_ids"]]
    x = x + weights["segment_embedding/embeddings"][inputs["segment_ids"]]
    x = norm(x + weights["position_embedding/embeddings"][: x.shape[1]], "embeddings_layer_norm")
    if "embeddings_projection/kernel" in weights:
        x = dense(x, "embeddings_projection")
    for i in range(backbone.num_layers):
        block = f"transformer_layer_{i}"
        attention = f"{block}/self_attention_layer"
        query, key, value = (dense(x, f"{attention}/{n}") for n in ("query", "key", "value"))
        scores = np.einsum("bqhs,bkhs->bhqk", query, key) / np.sqrt(query.shape[-1])
        scores = np.where(inputs["padding_mask"][:, None, None] == 1, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = np.einsum("bhqk,bkhs->bqhs", scores / scores.sum(-1, keepdims=True), value)
        x = norm(x + dense(context, f"{attention}/attention_output"), f"{attention}_norm")
        inner = activation(dense(x, f"{block}/feedforward_intermediate_dense"))
        inner = dense(inner, f"{block}/feedforward_output_dense")
        x = norm(x + inner, f"{block}/feedforward_layer_norm")
    return x


def assert_close(found, expected, inputs):
    is_real = inputs["padding_mask"] == 1
    np.testing.assert_allclose(np.asarray(found)[is_real], expected[is_real], atol=2e-5)


# What is computed.


def test_the_encoder_of_a_preset(theirs, tmp_path):
    folder, backbone = theirs
    assert to_run(folder, tmp_path / "run") == 0
    inputs = batch()
    network = huggingface.load_model(
        Discriminator, str(tmp_path / "run/discriminator"), allow_missing=NO_HEAD
    )
    exact, by_tanh = (encode(backbone, inputs, function) for function in (gelu, gelu_by_tanh))
    assert_close(network(ours_of(inputs))["sequence_output"], exact, inputs)
    # That KerasHub's gelu is another one is all the difference.
    assert_close(backbone(inputs)["sequence_output"], by_tanh, inputs)
    assert 1e-4 < np.abs(exact - by_tanh).max() < 0.02


def test_a_preset_of_ours_in_keras_hub(hub, tmp_path):
    save_tiny_encoder(tmp_path / "run/discriminator", VOCAB)
    network = Discriminator.from_pretrained(str(tmp_path / "run/discriminator"))
    randomize_normally(network.trainable_variables)
    network.save_pretrained(str(tmp_path / "run/discriminator"))
    assert to_preset(tmp_path / "run", tmp_path / "preset") == 0
    backbone = hub.ElectraBackbone.from_preset(str(tmp_path / "preset"))
    inputs = batch()
    inputs["segment_ids"] = np.minimum(inputs["segment_ids"], 1)
    expected = encode(backbone, inputs, gelu)
    assert_close(network(ours_of(inputs))["sequence_output"], expected, inputs)
    outputs = backbone(inputs)
    assert_close(outputs["sequence_output"], encode(backbone, inputs, gelu_by_tanh), inputs)
    # The pooler is the identity, and tanh.
    np.testing.assert_allclose(
        outputs["pooled_output"], np.tanh(outputs["sequence_output"][:, 0]), atol=1e-6
    )


def randomize_normally(variables):
    generator = np.random.default_rng(7)
    for variable in variables:
        variable.assign(generator.normal(0, 0.5, variable.shape))


# Files.


def test_there_and_back_in_keras_hub(hub, theirs, tmp_path, capsys):
    folder, backbone = theirs
    assert to_run(folder, tmp_path / "run") == 0
    rows = table(capsys)
    with h5py.File(folder / WEIGHTS) as file:
        shapes = {}
        file.visititems(lambda name, item: shapes.update({name: getattr(item, "shape", None)}))
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    assert {name: row[1] for name, row in rows.items()} == {
        name: " x ".join(map(str, shape)) for name, shape in shapes.items()
    }
    ours = {row[0]: row[2] for row in rows.values() if row[0] != "-"}
    arrays = arrays_of(tmp_path / "run/discriminator")
    assert sorted(ours) == sorted(arrays)
    kernels = {n for n in ours if arrays[n].ndim == 2 and "_embeddings." not in n}
    assert {name for name, transposed in ours.items() if transposed == "yes"} == kernels
    left_out = [name for name, row in rows.items() if row[0] == "-"]
    pooler = "dense" if backbone.embedding_dim == 16 else "dense_1"
    assert left_out == [f"layers/{pooler}/vars/0", f"layers/{pooler}/vars/1"]
    assert all(row[3] == ("" if row[0] == "-" else "0") for row in rows.values())
    assert to_preset(tmp_path / "run", tmp_path / "back") == 0
    back = hub.ElectraBackbone.from_preset(str(tmp_path / "back"))
    for one, other in zip(backbone.trainable_variables, back.trainable_variables):
        assert one.path == other.path
        if "pooled_dense" not in one.path:
            np.testing.assert_array_equal(one, other)
    # What KerasHub makes of ours, and writes, is what was written.
    back.save_to_preset(str(tmp_path / "again"))
    hub.ElectraTokenizer.from_preset(str(tmp_path / "back")).save_to_preset(str(tmp_path / "again"))
    for name in ("config.json", "tokenizer.json"):
        one, other = (json.loads((tmp_path / f / name).read_text()) for f in ("back", "again"))
        assert one == other
        assert other == json.loads((folder / name).read_text())
    vocab = "assets/tokenizer/vocabulary.txt"
    assert (tmp_path / "back" / vocab).read_bytes() == (folder / vocab).read_bytes()
    counts = (json.loads((f / "metadata.json").read_text()) for f in (folder, tmp_path / "back"))
    assert len({count["parameter_count"] for count in counts}) == 1


def table(capsys):
    """Rows of the last table by their first cell."""
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows if row}


def test_configuration(theirs, tmp_path, capsys):
    folder, backbone = theirs
    assert to_run(folder, tmp_path / "run") == 0
    found = huggingface.read_config(str(tmp_path / "run/discriminator"))
    assert found == EncoderConfig(
        vocab_size=len(VOCAB),
        embedding_size=backbone.embedding_dim,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=24,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.2,
        max_position_embeddings=11,
        type_vocab_size=3,
    )
    assert huggingface.architectures(str(tmp_path / "run/discriminator")) == ["ElectraModel"]
    out = capsys.readouterr().out
    for note in (
        "the pooler (layers/dense",
        "finetune.py and pretrain.py take it",
        "accents are kept",
    ):
        assert note in out
    # finetune.py takes it.
    encoder = load_encoder(str(tmp_path / "run"))
    assert sorted(encoder.arrays) == sorted(arrays_of(tmp_path / "run/discriminator"))
    assert encoder.tokenizer.vocab == VOCAB


def test_pretraining_begins_with_a_preset(preset, tmp_path):
    """It takes the folder as --init_from, and not as its own."""
    assert to_run(preset, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run/data.json").read_text())["init_from"] == str(preset)
    values = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    model = runs.create_pretrainer(runs.pretraining_config(values, ""))
    run = str(tmp_path / "run")
    warm_start.check_networks(model.config, Tokenizer(VOCAB), run)
    notes = warm_start.import_networks(model, run)
    assert notes[0].startswith("generator: none there; new and random")
    assert "discriminator: new and random: discriminator_predictions.dense.weight" in notes[2]
    arrays = arrays_of(tmp_path / "run/discriminator")
    for name, (variable, transposed) in huggingface.encoder_tensors(model.discriminator).items():
        array = variable.numpy()
        np.testing.assert_array_equal(array.T if transposed else array, arrays[name])


@st.composite
def random_configs(draw):
    small, heads = st.integers(1, 9), draw(st.integers(1, 3))
    hidden_size = heads * draw(st.integers(1, 4))
    return EncoderConfig(
        vocab_size=draw(small),
        embedding_size=draw(st.sampled_from([hidden_size, draw(small)])),
        hidden_size=hidden_size,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(small),
        hidden_dropout_prob=draw(st.sampled_from([0.0, 0.1])),
        attention_probs_dropout_prob=draw(st.sampled_from([0.0, 0.1])),
        max_position_embeddings=draw(small),
        type_vocab_size=draw(st.integers(1, 3)),
    )


@settings(max_examples=5, deadline=None)
@given(random_configs(), st.integers(0, 2**32 - 1), st.sampled_from([Discriminator, Generator]))
def test_any_encoder_comes_back_bit_for_bit(tmp_path_factory, config, seed, network_class):
    folder = tmp_path_factory.mktemp("any")
    keras.backend.clear_session()
    network = network_class(config)
    randomize(network.trainable_variables, seed)
    network.save_pretrained(str(folder / "ours"))
    rows, notes = keras_hub.from_run(str(folder / "ours"), str(folder / "preset"))
    assert {row.difference for row in rows} == {0.0, None}
    assert "left out, which a backbone lacks: " in notes[0]
    named = {name for row in rows for name in row.ours}
    assert named == set(arrays_of(folder / "ours"))
    dropouts = config.hidden_dropout_prob, config.attention_probs_dropout_prob
    assert any("one dropout" in note for note in notes) == (dropouts[0] != dropouts[1])
    keras_hub.to_run(str(folder / "preset"), str(folder / "back"))
    ours, back = arrays_of(folder / "ours"), arrays_of(folder / "back/discriminator")
    heads = ("discriminator_predictions.", "generator_predictions.", "generator_lm_head.")
    assert sorted(back) == sorted(name for name in ours if not name.startswith(heads))
    for name, array in back.items():
        assert array.shape == ours[name].shape
        assert array.tobytes() == ours[name].tobytes(), name
    there, here = (
        json.loads((folder / f / "config.json").read_text()) for f in ("ours", "back/discriminator")
    )
    changed = {key for key in there if there[key] != here[key]}
    assert changed <= {"architectures", "attention_probs_dropout_prob"}
    assert here["attention_probs_dropout_prob"] == config.hidden_dropout_prob


# Tokenizers.

TEXTS = ["A good dog.", "Häuser, naïve bad cats!", "house北tree  (red)\tblue's", "", "xyz [MASK]"]


@pytest.mark.parametrize("lowercase, strip_accents", [(True, None), (True, False), (False, None)])
def test_tokenizers_agree(hub, tmp_path, lowercase, strip_accents):
    vocab = [*SPECIAL, *"abdeghilnortuvAH.!,()'[]北", "##s", "##a", "##u", "##ser", "dog", "##o"]
    vocab += ["##ï", "##ä", "good", "cat", "naive", "na", "hauser", "h", "##ive", "red", "mask"]
    vocab = list(dict.fromkeys(vocab))
    config = tiny_config(vocab)
    Discriminator(config).save_pretrained(str(tmp_path / "ours"))
    ours = Tokenizer(vocab, lowercase, strip_accents)
    ours.save_pretrained(str(tmp_path / "ours"))
    assert to_preset(tmp_path / "ours", tmp_path / "preset") == 0
    tokenizer = hub.ElectraTokenizer.from_preset(str(tmp_path / "preset"))
    ids = ours.tokenize(TEXTS).to_list()
    assert tokenizer(TEXTS) == ids
    assert len({ours.unk_id, *sum(ids, [])}) > 12
    assert to_run(tmp_path / "preset", tmp_path / "run") == 0
    back = Tokenizer.from_pretrained(str(tmp_path / "run/discriminator"))
    assert (back.vocab, back.lowercase, back.strip_accents) == (
        ours.vocab,
        ours.lowercase,
        ours.strip_accents,
    )


def test_what_the_tokenizers_do_otherwise(hub):
    """As docs/migrate.md says."""
    vocab = [*SPECIAL, "ß", "s", "##s", "a" * 60, "##" + "a" * 60]
    ours, theirs = Tokenizer(vocab), hub.ElectraTokenizer(vocab, lowercase=True, strip_accents=True)
    for text, our_pieces, their_pieces in (
        ("ß", ["ß"], ["s", "##s"]),  # str.lower and Unicode's case folding.
        ("a" * 120, ["a" * 60, "##" + "a" * 60], ["[UNK]"]),  # Words of more than 100 bytes.
    ):
        assert [vocab[i] for i in ours.tokenize([text])[0]] == our_pieces
        assert [vocab[i] for i in theirs([text])[0]] == their_pieces


def test_vocabularies(preset, tmp_path, capsys):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, "B"]))
    flags = [f"--vocab_file={vocab}", "--nolower_case"]
    assert to_run(preset, tmp_path / "run", *flags) == 0
    tokenizer = Tokenizer.from_pretrained(str(tmp_path / "run/discriminator"))
    assert tokenizer.tokenize(["B b"]).to_list() == [[5, 1]]
    vocab.write_text("\n".join([*VOCAB, "more"]))
    assert to_run(preset, tmp_path / "other", *flags[:1]) == 2
    assert "embeddings of 21 tokens, but 22 pieces in the vocabulary" in last_line(capsys)
    (preset / "tokenizer.json").unlink()
    assert to_run(preset, tmp_path / "other") == 0
    assert "no tokenizer in the preset; training needs one" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "other/discriminator").iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    assert to_preset(tmp_path / "other", tmp_path / "again") == 0
    assert not (tmp_path / "again/tokenizer.json").exists()


# Names and handles, which KerasHub finds.


def test_a_preset_that_keras_hub_finds(hub, theirs, tmp_path, monkeypatch, capsys):
    """By a URL of a local file, the one kind that needs no network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    folder, _ = theirs
    assert to_run(f"file://{folder}", tmp_path / "run") == 0
    assert to_run(folder, tmp_path / "same") == 0
    for name in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"):
        one, other = (tmp_path / run / "discriminator" / name for run in ("run", "same"))
        assert one.read_bytes() == other.read_bytes()
    assert to_run(f"file://{tmp_path}/none", tmp_path / "other") == 2
    assert f"file://{tmp_path}/none: KerasHub cannot load it (" in last_line(capsys)
    assert to_run(tmp_path / "none", tmp_path / "other") == 2
    line = last_line(capsys)
    assert f"{tmp_path}/none: no such folder, and no preset of KerasHub's" in line
    assert "electra_small_discriminator_uncased_en" in line
    assert not (tmp_path / "other").exists()


def test_without_keras_hub(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert to_run(preset, tmp_path / "run") == 0
    assert to_preset(tmp_path / "run", tmp_path / "back") == 0
    assert to_run("kaggle://keras/electra/keras/small", tmp_path / "other") == 2
    assert "pip install 'electra_tf[keras_hub]'" in last_line(capsys)


# What does not match.


def refused(preset, tmp_path, capsys, *flags):
    """The line that refuses a preset, of which nothing is written."""
    capsys.readouterr()
    assert to_run(preset, tmp_path / "refused", *flags) == 2
    error = capsys.readouterr().err.strip()
    line = error.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in error
    assert not list(tmp_path.glob("refused*"))
    return line


def test_every_tensor_that_does_not_match_is_named(preset, tmp_path, capsys):
    with h5py.File(preset / WEIGHTS, "r+") as file:
        del file[QUERY], file["layers/embedding/vars/0"]
        file["layers/more"] = np.zeros([2, 3], np.float32)
        del file["layers/layer_normalization/vars/1"]
        file["layers/layer_normalization/vars/1"] = np.zeros([7], np.float32)
    line = refused(preset, tmp_path, capsys)
    for problem in (
        f"{preset}/{WEIGHTS}: the tensors do not match the model: ",
        f"missing {QUERY} (16, 2, 8)",
        "missing layers/embedding/vars/0 (2, 8)",
        "unexpected layers/more (2, 3)",
        "layers/layer_normalization/vars/1 has shape (7,), not (8,)",
    ):
        assert problem in line
    with h5py.File(preset / WEIGHTS, "r+") as file:
        del file["layers/layer_normalization/vars/1"]
        file["layers/layer_normalization/vars/1"] = np.full([8], 3, np.float32)
    assert f"missing {QUERY}" in refused(
        preset, tmp_path, capsys, "--allow_missing=layers/(more|embedding/.*)"
    )
    flag = f"--allow_missing={QUERY}|layers/(more|embedding/.*)"
    assert to_run(preset, tmp_path / "run", flag) == 0
    rows = table(capsys)
    assert rows["layers/more"][:2] == ["-", "2 x 3"]
    assert rows["-"][0].startswith("electra.e") and rows["-"][3] == ""
    arrays = arrays_of(tmp_path / "run/discriminator")
    np.testing.assert_array_equal(arrays["electra.embeddings.LayerNorm.bias"], np.full(8, 3))


def test_tensors_of_a_model_that_do_not_match(tmp_path, capsys):
    save_tiny_encoder(tmp_path / "ours", VOCAB)
    file = tmp_path / "ours/model.safetensors"
    arrays = arrays_of(tmp_path / "ours")
    arrays["electra.more"] = np.zeros([2], np.float32)
    bias = arrays.pop("electra.encoder.layer.1.output.dense.bias")
    safetensors.numpy.save_file(arrays, file)
    assert to_preset(tmp_path / "ours", tmp_path / "preset") == 2
    line = last_line(capsys)
    assert "missing electra.encoder.layer.1.output.dense.bias (16,)" in line
    assert "unexpected electra.more (2,)" in line
    flag = "--allow_missing=electra.more|.*layer.1.output.dense.bias"
    assert to_preset(tmp_path / "ours", tmp_path / "preset", flag) == 0
    arrays["electra.encoder.layer.1.output.dense.bias"] = np.where(bias == 0, np.inf, bias)
    safetensors.numpy.save_file(arrays, file)
    assert to_preset(tmp_path / "ours", tmp_path / "other", "--allow_missing=.*more") == 2
    assert "layer.1.output.dense.bias[0] is inf" in last_line(capsys)
    assert not (tmp_path / "other").exists()


# Damaged and malicious presets.


def change_json(path, **changes):
    values = json.loads(path.read_text())
    for key, value in changes.items():
        where = values if key in values else values["config"]
        where[key] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": "two"}, "num_layers='two': "),
        ({"hidden_dim": -16}, "hidden_dim=-16: "),
        ({"hidden_dim": [16]}, "hidden_dim=[16]: "),
        ({"vocab_size": None}, "vocab_size=None: "),
        ({"dropout": 1.5}, "dropout=1.5: "),
        ({"num_heads": 3}, "num_attention_heads=3 does not divide"),
        ({"layer_norm_epsilon": 1e-5}, "unknown configuration key 'layer_norm_epsilon'"),
        ({"num_layers": 10**9}, "bytes; the two belong to different models"),
        ({"vocab_size": 10**12}, "bytes; the two belong to different models"),
        ({"num_layers": 3}, f"{WEIGHTS}: the tensors do not match the model: missing layers/"),
        ({"config": []}, "no object 'config'"),
        ({"config": {}}, "missing vocab_size, num_layers"),
        ({"registered_name": "keras_hub>BertBackbone"}, "is 'keras_hub>BertBackbone'; only"),
        ({"registered_name": {"a": 1}}, "registered_name is {'a': 1}; only 'keras_hub>Electra"),
    ],
)
def test_malformed_configurations(preset, tmp_path, capsys, changes, message):
    change_json(preset / "config.json", **changes)
    line = refused(preset, tmp_path, capsys)
    assert line.startswith(f"error: {preset}/") and message in line


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.json", None, "config.json: cannot read it"),
        ("config.json", b"", "config.json:1: not JSON"),
        ("config.json", b"\xff", "config.json: not UTF-8 at byte 0"),
        ("config.json", b"[]", "config.json: no JSON object"),
        (
            "config.json",
            b"[" * 100_000,
            "config.json: nested too deeply, or with too long a number",
        ),
        ("config.json", b'{"a": 1' + b"0" * 5000 + b"}", "config.json: nested too deeply"),
        ("config.json", b'{"model_type": "electra"}', "config.json: registered_name is None"),
        (WEIGHTS, None, f"{WEIGHTS}: no such file"),
        (WEIGHTS, b"", f"{WEIGHTS}: cannot read it, the file is truncated or damaged"),
        (WEIGHTS, b"PK\3\4", f"{WEIGHTS}: cannot read it"),
        ("tokenizer.json", b"{", "tokenizer.json:1: not JSON"),
        ("tokenizer.json", b"{}", "tokenizer.json: registered_name is None"),
        ("assets/tokenizer/vocabulary.txt", None, "vocabulary.txt: cannot read the vocabulary"),
        ("assets/tokenizer/vocabulary.txt", b"[PAD]\n", "has no [UNK], [CLS], [SEP], [MASK]"),
    ],
)
def test_malformed_files(preset, tmp_path, capsys, name, content, message):
    (preset / name).unlink()
    if content is not None:
        (preset / name).write_bytes(content)
    line = refused(preset, tmp_path, capsys)
    assert line.startswith(f"error: {preset}/") and message in line


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lowercase": "yes"}, "lowercase and strip_accents must be true or false"),
        ({"split": False}, "split is False; only True is supported"),
        ({"suffix_indicator": "@@"}, "suffix_indicator is '@@'; only '##' is supported"),
        ({"oov_token": ["a"]}, "oov_token is ['a']; only '[UNK]' is supported"),
        ({"registered_name": "keras_hub>BertTokenizer"}, "only 'keras_hub>ElectraTokenizer'"),
    ],
)
def test_malformed_tokenizers(preset, tmp_path, capsys, changes, message):
    change_json(preset / "tokenizer.json", **changes)
    line = refused(preset, tmp_path, capsys)
    assert line.startswith(f"error: {preset}/tokenizer.json: ") and message in line


def external(file, name, array):
    path = pathlib.Path(file.filename).parents[1] / "outside.bin"
    path.write_bytes(array.tobytes())
    file.create_dataset(name, array.shape, array.dtype, external=[(str(path), 0, array.nbytes)])


def external_link(file, name, array):
    path = pathlib.Path(file.filename).parents[1] / "outside.h5"
    with h5py.File(path, "w") as outside:
        outside["secret"] = array
    file[name] = h5py.ExternalLink("../outside.h5", "secret")


def virtual(file, name, array):
    external_link(file, "link", array)
    del file["link"]
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[...] = h5py.VirtualSource("../outside.h5", "secret", array.shape)
    file.create_virtual_dataset(name, layout)


def soft_link(file, name, array):
    file["elsewhere"] = array
    file[name] = h5py.SoftLink("/elsewhere")


def cycle(file, name, array):
    file[name] = file["layers"]


def other_type(file, name, array):
    file[name] = array.astype(np.float16)


def not_finite(file, name, array):
    array = array.copy()
    array[2, 1, 3] = np.nan
    file[name] = array


def huge(file, name, array):
    file.create_dataset(name, (2**40, 8), np.float32, chunks=(1024, 8))


def compressed(file, name, array):
    file.create_dataset(name, data=np.zeros(10**6, np.float32), compression="gzip")


@pytest.mark.parametrize(
    "put, message",
    [
        (external, f"{QUERY} lies in another file"),
        (virtual, f"{QUERY} lies in another file"),
        (external_link, f"missing {QUERY} (16, 2, 8)"),
        (soft_link, f"missing {QUERY} (16, 2, 8); unexpected elsewhere (16, 2, 8)"),
        (cycle, f"missing {QUERY} (16, 2, 8)"),
        (other_type, f"{QUERY} is of type float16, not float32; load the preset with dtype="),
        (not_finite, f"{QUERY}[2, 1, 3] is nan"),
        (huge, f"{QUERY} (1099511627776, 8) is larger than the file; it is damaged"),
        (compressed, f"{QUERY} (1000000,) is larger than the file; it is damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_malicious_weights(preset, tmp_path, capsys, put, message):
    with h5py.File(preset / WEIGHTS, "r+") as file:
        array = file[QUERY][()]
        del file[QUERY]
        put(file, QUERY, array)
    line = refused(preset, tmp_path, capsys)
    assert line.startswith(f"error: {preset}/{WEIGHTS}: ") and message in line


def test_shards(preset, tmp_path, capsys):
    """An index of shards could name files outside of the folder; it is not opened."""
    (preset / WEIGHTS).rename(tmp_path / WEIGHTS)
    index = {"weight_map": {"/layers/dense/vars": f"../{WEIGHTS}"}}
    (preset / "model.weights.json").write_text(json.dumps(index))
    line = refused(preset, tmp_path, capsys)
    assert f"{preset}/model.weights.json: weights in shards; save the preset anew" in line


def test_a_tokenizer_leads_nowhere_else(preset, tmp_path):
    change_json(preset / "tokenizer.json", config_file="../../other.json", vocabulary="/etc/passwd")
    assert to_run(preset, tmp_path / "run") == 0
    assert Tokenizer.from_pretrained(str(tmp_path / "run/discriminator")).vocab == VOCAB


def test_damaged_weights(preset):
    """Cut short, or with other bytes, at random: read, or one line."""
    path, generator = preset / WEIGHTS, random.Random(11)
    content, refusals = path.read_bytes(), 0
    for case in range(80):
        damaged = bytearray(content)
        place = generator.randrange(len(content))
        if case % 4 == 0:
            damaged = damaged[:place]
        else:
            size = generator.choice([1, 4, 8])
            damaged[place : place + size] = generator.randbytes(size)
        path.write_bytes(damaged)
        try:
            weights = keras_hub.Weights(str(path))
            for name in weights.shapes:
                weights.read(name)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refusals += 1
    assert refusals >= 20  # All that are cut short.


# The command.


def test_what_is_there_is_left_alone(preset, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert to_run(preset, tmp_path / "run") == 2
    assert "run: is there already; choose another --output" in last_line(capsys)
    save_tiny_encoder(tmp_path / "ours", VOCAB)
    before = {path: path.read_bytes() for path in preset.rglob("*") if path.is_file()}
    assert to_preset(tmp_path / "ours", preset) == 2
    assert "preset: is there already; choose another --output" in last_line(capsys)
    assert {path: path.read_bytes() for path in preset.rglob("*") if path.is_file()} == before
    assert to_preset(tmp_path / "ours", tmp_path / "ours/vocab.txt/preset") == 2
    assert "cannot make this folder" in last_line(capsys)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--optimizer"], "--optimizer: --from=keras_hub has no such thing"),
        (["--num_attention_heads=2"], "--num_attention_heads: --from=keras_hub has no such thing"),
        (["--allow_missing=("], "--allow_missing=(: no regular expression"),
    ],
)
def test_mistakes(preset, tmp_path, capsys, flags, message):
    assert message in refused(preset, tmp_path, capsys, *flags)


def test_what_keras_hub_cannot_have(tmp_path, capsys):
    save_tiny_encoder(tmp_path / "ours", VOCAB)
    assert to_preset(tmp_path / "ours", "gs://bucket/preset") == 2
    assert "gs://bucket/preset: presets are written to local folders alone" in last_line(capsys)
    assert to_preset(tmp_path / "none", tmp_path / "preset") == 2
    assert f"{tmp_path}/none/config.json: cannot read it" in last_line(capsys)
    change = json.loads((tmp_path / "ours/config.json").read_text())
    (tmp_path / "ours/config.json").write_text(json.dumps({**change, "layer_norm_eps": 1e-5}))
    assert to_preset(tmp_path / "ours", tmp_path / "preset") == 2
    assert "layer_norm_eps is 1e-05; KerasHub's is 1e-12" in last_line(capsys)
    assert sorted(os.listdir(tmp_path)) == ["ours"]
