"""Exported models, run through TensorFlow's C API as a server runs them."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    TASKS,
    VOCAB_WITH_SUFFIX,
    save_tiny_encoder,
    save_tiny_task,
    tiny_config,
)

from electra_tf import Predictor, UserError
from electra_tf.commands import export as command
from electra_tf.commands import verify_export as verify_command
from electra_tf.export.c_session import read_arrays, write_arrays
from electra_tf.export.servables import real_tokens
from electra_tf.export.verify import REFERENCE_FILE, verify
from electra_tf.modeling.electra import SequenceClassifier

CONFIG = tiny_config(VOCAB_WITH_SUFFIX)


def export(folder, output_dir, name, *more):
    arguments = [f"--model_dir={folder}", f"--output_dir={output_dir}", f"--name={name}", *more]
    return command.main(["", *arguments])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports of a discriminator, of a classifier and of a regression of pairs."""
    folder = tmp_path_factory.mktemp("served")
    save_tiny_encoder(folder / "models/discriminator", VOCAB_WITH_SUFFIX)
    assert export(folder / "models", folder, "discriminator", "--version=7") == 0
    for kind in TASKS:
        save_tiny_task(folder / "models" / kind, kind)
        assert export(folder / "models" / kind, folder, kind) == 0
    return folder


def serve(folder, **inputs):
    """What the C API gives for `serving_default`: `verify` runs other inputs than the stored ones."""
    from electra_tf.export.verify import _read_meta_graph, _run

    meta_graph = _read_meta_graph(str(folder))
    signature = {"serving_default": meta_graph.signature_def["serving_default"]}
    reference = {f"serving_default/input/{name}": value for name, value in inputs.items()}
    results = _run(str(folder), meta_graph, signature, reference)
    return {name.rpartition("/")[2]: value for name, value in results.items()}


def test_folders_and_signatures(served, capsys):
    names = {path.name for path in served.iterdir()} - {"models"}
    assert names == {f"{n}{s}" for n in ("discriminator", *TASKS) for s in ("", "_text")}
    assert [path.name for path in (served / "discriminator").iterdir()] == ["7"]
    signatures = {v.signature: v for v in verify(str(served / "classification/1"))}
    assert signatures["serving_default"].inputs == ["input_ids", "input_mask", "segment_ids"]
    assert set(signatures["serving_default"].outputs) == {"label", "labels", "scores"}
    assert signatures["classify"].inputs == ["inputs"]
    assert set(signatures["classify"].outputs) == {"classes", "scores"}
    assert verify_command.main(["", str(served / "regression_text/1")]) == 0
    assert "text, text_pair" in capsys.readouterr().out


def test_strings_give_what_the_predictor_gives(served):
    texts = ["Good cats, bad dog", "", "red " * 50, "tree 北 \x00\x01"]
    predictor = Predictor.from_pretrained(str(served / "models/classification"))
    expected = predictor(texts)
    found = serve(
        served / "classification_text/1", text=np.array([t.encode() for t in texts], object)
    )
    assert [label.decode() for label in found["label"]] == [e["label"] for e in expected]
    scores = [list(e["scores"].values()) for e in expected]
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    pairs = [("good", "bad cats"), ("", "dog")]
    values = [
        p["value"] for p in Predictor.from_pretrained(str(served / "models/regression"))(pairs)
    ]
    columns = {
        name: np.array([pair[i].encode() for pair in pairs], object)
        for i, name in enumerate(("text", "text_pair"))
    }
    found = serve(served / "regression_text/1", **columns)
    np.testing.assert_allclose(found["outputs"], values, atol=1e-5)


def test_any_bytes_are_a_text(served):
    generator = np.random.default_rng(0)
    texts = [generator.bytes(size) for size in range(0, 200, 7)] + [
        b"\xf0\x9f",
        b"\xed\xa0\x80 cat",
    ]
    found = serve(served / "discriminator_text/7", text=np.array(texts, object))
    assert found["pieces"].shape == found["replaced_probabilities"].shape
    assert np.isfinite(found["replaced_probabilities"]).all()
    [pieces] = serve(served / "discriminator_text/7", text=np.array([b"Good cats"], object))[
        "pieces"
    ]
    assert [p.decode() for p in pieces] == ["good", "cat", "##s"]


def test_padding_by_the_server_changes_nothing(served):
    """It repeats each input's first value: [CLS], the mask's 1, the segment's 0."""
    ids = np.array([[2, 14, 16, 3]], np.int32)
    inputs = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    padded = {
        name: np.concatenate([values, np.repeat(values[:, :1], 5, axis=1)], axis=1)
        for name, values in inputs.items()
    }
    assert padded["input_ids"].tolist() == [[2, 14, 16, 3, 2, 2, 2, 2, 2]]
    short, long = (serve(served / "discriminator/7", **x) for x in (inputs, padded))
    for name in ("replaced_probabilities", "sequence_output"):
        np.testing.assert_allclose(long[name][:, :4], short[name], atol=1e-5)
    assert (long["replaced_probabilities"][:, 4:] == 0).all()
    np.testing.assert_allclose(long["pooled_output"], short["pooled_output"], atol=1e-5)


def test_real_tokens():
    ids = tf.constant([[2, 7, 3, 2, 2], [2, 7, 2, 3, 0], [2, 2, 2, 2, 2], [2, 7, 3, 0, 2]])
    # [CLS] within a text is a token; nothing but [CLS] is an empty sequence.
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert real_tokens(ids, 0).numpy().tolist() == expected


def test_versions(served, tmp_path, capsys):
    folder = served / "models/classification"
    assert export(folder, served, "classification", "--version=1") == 2
    assert "this version is there" in capsys.readouterr().err
    assert export(folder, tmp_path, "a b") == 2
    assert export(folder, tmp_path, "a", "--max_seq_length=64") == 2
    assert "the model has 32 positions" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_keras_model_saved_plainly_is_refused(tmp_path):
    """Python runs it; no server does."""
    network = SequenceClassifier(CONFIG)

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="input_ids")])
        def serve(self, input_ids):
            return {"logits": self.network({"input_ids": input_ids})["logits"]}

    module = Module()
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.serve})
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert loaded(input_ids=tf.ones([2, 2], tf.int32))["logits"].shape == (2, 2)
    with pytest.raises(UserError, match=r"does not run in TensorFlow's C\+\+ runtime"):
        verify(str(tmp_path))


def test_other_numbers_than_pythons_are_refused(served, tmp_path, capsys):
    folder = tmp_path / "1"
    shutil.copytree(served / "classification/1", folder)
    arrays = read_arrays(str(folder / REFERENCE_FILE))
    arrays["serving_default/output/scores"][0, 0] += 2e-5
    write_arrays(str(folder / REFERENCE_FILE), arrays)
    assert verify_command.main(["", str(folder)]) == 2
    assert "'scores' differs from Python's by" in capsys.readouterr().err
    folder = tmp_path / "2"
    shutil.copytree(served / "discriminator_text/7", folder)
    (folder / REFERENCE_FILE).unlink()
    assert verify_command.main(["", str(folder)]) == 2
    assert "to compare with" in capsys.readouterr().err
    (folder / "saved_model.pb").write_bytes(b"nothing")
    assert verify_command.main(["", str(folder)]) == 2
    assert verify_command.main([""]) == 2
    assert "give one folder" in capsys.readouterr().err
