"""Forward pass and folders against transformers on PyTorch (tests/golden/hf)."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from conftest import GOLDEN

from electra_tf import Discriminator, Generator, UserError
from electra_tf.interop import huggingface
from electra_tf.modeling.electra import MultipleChoiceClassifier, QuestionAnswerer

FOLDERS = [GOLDEN / "hf" / name for name in ("proj", "noproj")]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def inputs_of(fixture):
    return {
        "input_ids": fixture["input_ids"],
        "input_mask": fixture["attention_mask"],
        "segment_ids": fixture["token_type_ids"],
    }


def test_discriminator(folder):
    fixture = np.load(folder / "fixture.npz")
    model = Discriminator.from_pretrained(str(folder / "discriminator"))
    outputs = model(inputs_of(fixture), output_hidden_states=True)
    np.testing.assert_allclose(outputs["logits"], fixture["disc_rtd_logits"], atol=1e-4)
    np.testing.assert_allclose(
        tf.stack(outputs["hidden_states"]), fixture["disc_hidden_states"], atol=1e-4
    )
    np.testing.assert_array_equal(outputs["sequence_output"], outputs["hidden_states"][-1])


def test_generator(folder):
    fixture = np.load(folder / "fixture.npz")
    model = Generator.from_pretrained(str(folder / "generator"))
    outputs = model(inputs_of(fixture), output_hidden_states=True)
    np.testing.assert_allclose(outputs["logits"], fixture["gen_mlm_logits"], atol=1e-4)
    np.testing.assert_allclose(
        tf.stack(outputs["hidden_states"]), fixture["gen_hidden_states"], atol=1e-4
    )
    positions = np.array([[1, 3], [0, 2], [5, 5], [0, 0]], np.int32)
    gathered = model({**inputs_of(fixture), "masked_positions": positions})["logits"]
    expected = np.take_along_axis(fixture["gen_mlm_logits"], positions[..., None], axis=1)
    np.testing.assert_allclose(gathered, expected, atol=1e-4)
    assert "hidden_states" not in model(inputs_of(fixture))


@pytest.mark.parametrize(
    "model_class, name", [(Discriminator, "discriminator"), (Generator, "generator")]
)
def test_round_trip_is_bit_equal(folder, tmp_path, model_class, name):
    model_class.from_pretrained(str(folder / name)).save_pretrained(str(tmp_path))
    theirs = safetensors.numpy.load_file(folder / name / "model.safetensors")
    ours = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert sorted(ours) == sorted(theirs)
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    their_config = json.loads((folder / name / "config.json").read_text())
    our_config = json.loads((tmp_path / "config.json").read_text())
    for key in our_config:
        assert our_config[key] == their_config[key], key
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as f:
        assert f.metadata() == {"format": "pt"}  # transformers refuses a file without it.


def test_every_unmatched_tensor_is_named(tmp_path):
    source = FOLDERS[0] / "discriminator"
    arrays = safetensors.numpy.load_file(source / "model.safetensors")
    del arrays["electra.embeddings.LayerNorm.bias"]
    arrays["extra.weight"] = np.zeros([2, 3], np.float32)
    arrays["discriminator_predictions.dense.bias"] = np.zeros([7], np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(UserError) as error:
        Discriminator.from_pretrained(str(tmp_path))
    for text in (
        str(tmp_path),
        "missing electra.embeddings.LayerNorm.bias (16,)",
        "unexpected extra.weight (2, 3)",
        "discriminator_predictions.dense.bias has shape (7,), not (32,)",
    ):
        assert text in str(error.value)


def test_a_generator_is_no_discriminator():
    with pytest.raises(UserError, match="missing discriminator_predictions.dense.weight"):
        Discriminator.from_pretrained(str(FOLDERS[0] / "generator"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
    ],
)
def test_unsupported_configurations(tmp_path, change, message):
    config = json.loads((FOLDERS[0] / "discriminator" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        huggingface.read_config(str(tmp_path))


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError, match="config.json: cannot read it"):
        Discriminator.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type":\n "electra",}')
    with pytest.raises(UserError, match=r"config.json:2: not JSON"):
        Discriminator.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="config.json: no JSON object"):
        Discriminator.from_pretrained(str(tmp_path))
    source = FOLDERS[0] / "discriminator"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    whole = (source / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Discriminator.from_pretrained(str(tmp_path))
    header = b'{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}'
    whole = len(header).to_bytes(8, "little") + header + b"ab"
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(UserError, match="a tensor is of type 'BF16'; save it in float32"):
        Discriminator.from_pretrained(str(tmp_path))


def test_question_answering_head():
    folder = GOLDEN / "heads" / "question_answering"
    golden = np.load(folder / "outputs.npz")
    network = QuestionAnswerer.from_pretrained(str(folder))
    inputs = {name: golden[name] for name in ("input_ids", "input_mask", "segment_ids")}
    allowed = golden["input_mask"] * golden["segment_ids"]
    logits = network({**inputs, "is_context": allowed})["logits"]
    for ours, theirs in (("start", "start_logits"), ("end", "end_logits")):
        at = allowed.astype(bool) | (np.arange(allowed.shape[1]) == 0)  # [CLS] is a candidate, too.
        np.testing.assert_allclose(logits[ours].numpy()[at], golden[theirs][at], atol=1e-4)


def test_multiple_choice_head():
    folder = GOLDEN / "heads" / "multiple_choice"
    golden = np.load(folder / "outputs.npz")
    network = MultipleChoiceClassifier.from_pretrained(str(folder))
    inputs = {name: golden[name] for name in ("input_ids", "input_mask", "segment_ids")}
    np.testing.assert_allclose(network(inputs)["logits"], golden["logits"], atol=1e-4)
