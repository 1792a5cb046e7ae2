"""Exported models, run through TensorFlow's C API as a server runs them."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2
from tiny_models import TASKS, save_tiny_task, tiny_config
from tiny_models import VOCAB_WITH_SUFFIX as VOCAB

from electra_tf import Discriminator, Generator, Predictor, Tokenizer, UserError
from electra_tf.commands import export as command
from electra_tf.commands import verify_export as verify_command
from electra_tf.export import server_files
from electra_tf.export.c_session import read_arrays, write_arrays
from electra_tf.export.loading import load_servables
from electra_tf.export.saved_model import write_ids
from electra_tf.export.servables import real_tokens
from electra_tf.export.tagging import find_windows
from electra_tf.export.verify import (
    REFERENCE_FILE,
    compare,
    read_meta_graph,
    read_reference,
    run,
    verify,
)
from electra_tf.export.warmup import WARMUP_FILE, read_requests
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.tasks.tagging import windows

CONFIG = tiny_config(VOCAB)


def export(folder, output_dir, name, *more):
    arguments = [f"--model_dir={folder}", f"--output_dir={output_dir}", f"--name={name}", *more]
    return command.main(["", *arguments])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports of a discriminator, of a generator and of each kind of task."""
    folder = tmp_path_factory.mktemp("served")
    keras.utils.set_random_seed(1)
    for network in (Discriminator(CONFIG), Generator(CONFIG)):
        network.save_pretrained(str(folder / "models" / network.name))
        Tokenizer(VOCAB).save_pretrained(str(folder / "models" / network.name))
    assert export(folder / "models", folder, "discriminator", "--version=7") == 0
    assert (
        export(folder / "models/generator", folder, "generator", "--top_k=3", "--warmup=none") == 0
    )
    for name in TASKS:
        save_tiny_task(folder / "models" / name, name)
        # Two windows at once, so that there are several rounds.
        assert export(folder / "models" / name, folder, name, "--max_batch_size=2") == 0
    return folder


def serve(folder, **inputs):
    """What the C API gives for `serving_default`: `verify` runs other inputs than the stored ones."""
    meta_graph = read_meta_graph(str(folder))
    for name in list(meta_graph.signature_def):
        if name != "serving_default":
            del meta_graph.signature_def[name]
    reference = {f"serving_default/input/{name}": value for name, value in inputs.items()}
    results = run(str(folder), meta_graph, reference)
    return {name.rpartition("/")[2]: value for name, value in results.items()}


def texts_of(*texts):
    """Strings as a request has them."""
    return np.array([t if isinstance(t, bytes) else t.encode() for t in texts], object)


def test_folders_and_signatures(served, capsys):
    names = {path.name for path in served.iterdir() if path.is_dir()} - {"models"}
    models = ("discriminator", "generator", *TASKS)
    assert names == {f"{name}{end}" for name in models for end in ("", "_text")}
    assert [path.name for path in (served / "discriminator").iterdir()] == ["7"]
    report = verify(str(served / "classification/1"))
    assert report.num_warmup == 4  # Two of each signature.
    signatures = {v.signature: v for v in report.signatures}
    assert signatures["serving_default"].inputs == ["input_ids", "input_mask", "segment_ids"]
    assert set(signatures["serving_default"].outputs) == {"label_id", "scores"}
    assert signatures["classify"].inputs == ["inputs"]
    assert set(signatures["classify"].outputs) == {"classes", "scores"}
    assert verify_command.main(["", str(served / "regression_text/1")]) == 0
    printed = capsys.readouterr().out
    assert "text, text_pair" in printed and "OpenVINO: skipped, a model of strings" in printed


def test_strings_give_what_the_predictor_gives(served):
    texts = ["Good cats, bad dog", "", "red " * 50, "tree 北 \x00\x01"]
    predictor = Predictor.from_pretrained(str(served / "models/classification"))
    expected = predictor(texts)
    found = serve(served / "classification_text/1", text=texts_of(*texts))
    assert [label.decode() for label in found["label"]] == [e["label"] for e in expected]
    scores = [list(e["scores"].values()) for e in expected]
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    assert found["labels"].tolist() == [[b"no", b"yes", b"maybe"]] * 4

    expected = Predictor.from_pretrained(str(served / "models/topics"))(texts)
    found = serve(served / "topics_text/1", text=texts_of(*texts))
    chosen = [
        [label.decode() for label in row[is_chosen]]
        for row, is_chosen in zip(found["labels"], found["is_predicted"])
    ]
    assert chosen == [e["labels"] for e in expected] and any(chosen)
    np.testing.assert_allclose(
        found["scores"], [list(e["scores"].values()) for e in expected], atol=1e-5
    )

    pairs = [("good", "bad cats"), ("", "dog")]
    predictor = Predictor.from_pretrained(str(served / "models/regression"))
    first, second = zip(*pairs)
    found = serve(served / "regression_text/1", text=texts_of(*first), text_pair=texts_of(*second))
    values = [prediction["value"] for prediction in predictor(pairs)]
    np.testing.assert_allclose(found["outputs"], values, atol=1e-5)


def test_choices(served):
    questions = [("good cat", ["dog", "", "red tree"]), ("", ["a", "bad " * 40, "c"])]
    expected = Predictor.from_pretrained(str(served / "models/choice"))(questions)
    found = serve(
        served / "choice_text/1",
        text=texts_of(*(text for text, _ in questions)),
        choices=np.array([[c.encode() for c in choices] for _, choices in questions], object),
    )
    assert [label.decode() for label in found["label"]] == [e["label"] for e in expected]
    np.testing.assert_allclose(
        found["scores"], [list(e["scores"].values()) for e in expected], atol=1e-5
    )


def test_words_have_labels_and_offsets(served):
    texts = ["Good cats, (bad) dog.", "", " \x00 ", "北 Naïve " + "red house, " * 40 + "cats" * 30]
    expected = Predictor.from_pretrained(str(served / "models/tagging"))(texts)
    found = serve(served / "tagging_text/1", text=texts_of(*texts))
    for row, result in enumerate(expected):
        number = len(result["words"])
        assert (found["words"][row, number:] == b"").all()
        assert (found["scores"][row, number:] == 0).all()
        for key, name in (("word", "words"), ("label", "labels")):
            values = [value.decode() for value in found[name][row, :number]]
            assert values == [word[key] for word in result["words"]]
        for key in ("score", "start", "end"):
            np.testing.assert_allclose(
                found[f"{key}s"][row, :number], [word[key] for word in result["words"]], atol=1e-5
            )
    assert len(expected[3]["words"]) == 123  # More windows than are computed at once.
    assert texts[0][found["starts"][0, 0] : found["ends"][0, 0]] == "Good"


@pytest.mark.parametrize("name", ["qa", "qa2"])
def test_answers_are_found_in_windows(served, name):
    questions = [
        ("good cat?", "the dog, a Cat. " * 12 + "北 red"),
        ("", "house"),
        ("bad " * 30, ""),
        ("tree", "naïve 🙂 trees"),
    ]
    predictor = Predictor.from_pretrained(str(served / f"models/{name}"))
    first, second = zip(*questions)
    inputs = {"question": texts_of(*first), "context": texts_of(*second)}
    found = serve(served / f"{name}_text/1", **inputs)
    for row, expected in enumerate(predictor(questions)):
        answers = expected["answers"]
        number = len(answers)
        assert [a.decode() for a in found["answers"][row, :number]] == [a["text"] for a in answers]
        assert (found["answers"][row, number:] == b"").all()
        for key in ("score", "start", "end"):
            np.testing.assert_allclose(
                found[f"{key}s"][row, :number], [a[key] for a in answers], atol=1e-5
            )
        assert found["answer"][row].decode() == expected["answer"]
        if name == "qa2":
            np.testing.assert_allclose(
                found["no_answer_score"][row], expected["no_answer_score"], atol=1e-5
            )
    assert number == predictor.task.config.n_best_size and b"" in found["answer"].tolist()


def test_windows_are_those_of_training():
    spec = tf.RaggedTensorSpec([None, None], tf.int64, ragged_rank=1)
    find = tf.function(find_windows, input_signature=[spec, tf.TensorSpec([], tf.int64)])
    generator = np.random.default_rng(0)
    for _ in range(200):
        room = int(generator.integers(3, 20))
        rows = [
            generator.integers(1, room + 1, generator.integers(0, 40)).tolist()
            for _ in range(generator.integers(1, 5))
        ]
        found = find(tf.ragged.constant(rows, dtype=tf.int64, ragged_rank=1), room)
        assert list(zip(*(values.numpy().tolist() for values in found))) == [
            (number, *window)
            for number, row in enumerate(rows)
            if row
            for window in windows(row, room)
        ]


def test_pieces_for_masks(served):
    """Against the generator itself; of two texts without as many masks, one is padded."""
    generator = Generator.from_pretrained(str(served / "models/generator"))
    tokenizer = Tokenizer.from_pretrained(str(served / "models/generator"))
    found = serve(
        served / "generator_text/1", text=texts_of("[MASK] cat[MASK]s", "a bad [MASK].", "dog")
    )
    rows = ["[CLS] [MASK] cat [MASK] [UNK] [SEP]", "[CLS] a bad [MASK] . [SEP] [PAD]"]
    places = [(0, 1), (0, 3), (1, 3)]
    ids = [[VOCAB.index(piece) for piece in row.split()] for row in rows]
    ids = np.array([row + [0] * (7 - len(row)) for row in ids])
    logits = generator({"input_ids": ids, "input_mask": (ids > 0).astype(np.int32)})["logits"]
    probabilities = tf.nn.softmax(logits).numpy()
    assert found["tokens"].shape == found["scores"].shape == (3, 2, 3)
    for (row, position), (to_row, number) in zip(places, [(0, 0), (0, 1), (1, 0)]):
        best = np.argsort(-probabilities[row, position])[:3]
        assert found["tokens"][to_row, number].tolist() == [VOCAB[i].encode() for i in best]
        np.testing.assert_allclose(
            found["scores"][to_row, number], probabilities[row, position, best], atol=1e-5
        )
    assert (found["scores"][[1, 2, 2], [1, 0, 1]] == 0).all()
    assert (found["tokens"][[1, 2, 2], [1, 0, 1]] == b"").all()
    assert tokenizer.vocab == VOCAB


def test_any_bytes_are_a_text(served):
    generator = np.random.default_rng(0)
    texts = [generator.bytes(size) for size in range(0, 200, 7)] + [
        b"\xf0\x9f",
        b"\xed\xa0\x80 cat",
    ]
    for name in ("generator", "tagging"):
        found = serve(served / f"{name}_text/1", text=np.array(texts, object))
        assert np.isfinite(found["scores"]).all()
    found = serve(
        served / "qa_text/1",
        question=np.array(texts, object),
        context=np.array(texts[::-1], object),
    )
    assert np.isfinite(found["scores"]).all()
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
    assert "--name=a b: use letters, digits, - and _" in capsys.readouterr().err
    assert export(folder, tmp_path, "a_text") == 2
    assert "a name with _text is that of a model of strings" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", "--max_seq_length=0") == 2
    assert "--max_seq_length=0: 0 is not a positive integer" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", f"--version={2**63}") == 2
    assert f"--version={2**63}" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", "--label=") == 2
    assert "--label=: an empty label" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", "--task=other") == 2
    assert "no task other in it; its task is t" in capsys.readouterr().err
    assert export(served / "models", tmp_path, "a", "--task=t") == 2
    assert "is no fine-tuned model" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", "--top_k=3") == 2
    assert "is no generator" in capsys.readouterr().err
    assert export(folder, tmp_path, "a", "--max_seq_length=64") == 2
    assert "the model has 32 positions" in capsys.readouterr().err
    assert export(served / "models/qa", tmp_path, "a", "--max_seq_length=6") == 2
    assert "give 7 to 32" in capsys.readouterr().err
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
    assert "saved_model.pb: no SavedModel" in capsys.readouterr().err
    assert verify_command.main([""]) == 2
    assert "give one folder" in capsys.readouterr().err


def requests_of(folder):
    records = tf.data.TFRecordDataset(str(folder / WARMUP_FILE)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def test_warm_up(served, tmp_path, capsys):
    """The records are what a server reads; a request that fails there fails here."""
    folder = served / "models/regression"
    requests = tmp_path / "requests.jsonl"
    requests.write_text(
        '{"text": "good", "text_pair": "bad"}\n{"text": ["a", "b"], "text_pair": ["é", ""]}\n'
    )
    assert export(folder, tmp_path, "r", f"--warmup={requests}") == 0
    logs = requests_of(tmp_path / "r_text/1")
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 2 + ["regress_log"] * 2
    request = logs[1].predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == (
        "r_text",
        "serving_default",
    )
    assert tf.make_ndarray(request.inputs["text_pair"]).tolist() == ["é".encode(), b""]
    ids = tf.make_ndarray(requests_of(tmp_path / "r/1")[0].predict_log.request.inputs["input_ids"])
    assert ids.tolist() == [[VOCAB.index(p) for p in "[CLS] good [SEP] bad [SEP]".split()]]
    [example] = logs[2].regress_log.request.input.example_list.examples
    assert example.features.feature["text"].bytes_list.value == [b"good"]

    del example.features.feature["text"]
    with tf.io.TFRecordWriter(str(tmp_path / "r_text/1" / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    assert verify_command.main(["", str(tmp_path / "r_text/1")]) == 2
    assert "warm-up request 2: " in capsys.readouterr().err
    (tmp_path / "r_text/1" / WARMUP_FILE).write_bytes(b"no record at all")
    assert verify_command.main(["", str(tmp_path / "r_text/1")]) == 2
    assert "record 0: no request" in capsys.readouterr().err

    requests.write_text('{"text": "a", "text_pair": "b"}\n' * 501)
    assert export(folder, tmp_path, "r", f"--warmup={requests}") == 2
    assert "501 requests of warm-up for 2 signatures each" in capsys.readouterr().err
    assert export(folder, tmp_path, "r", "--warmup=missing.jsonl") == 2
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["1"]
    assert not (served / "generator/1" / WARMUP_FILE).exists()  # --warmup=none


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "other keys"),
        ('{"text": "a"}', "other keys"),
        ('{"text": "a", "text_pair": 1}', "'text_pair' has what is no text"),
        ('{"text": [["a"]], "text_pair": "b"}', "'text' is of shape (1, 1)"),
        ('{"text": ["a", "b"], "text_pair": "b"}', "unlike numbers of rows"),
        ("{", "Expecting property name"),
    ],
)
def test_malformed_requests(tmp_path, text, message):
    path = tmp_path / "requests.jsonl"
    path.write_text(text + "\n")
    specs = [tf.TensorSpec([None], tf.string, name=name) for name in ("text", "text_pair")]
    with pytest.raises(UserError) as error:
        read_requests(str(path), specs, 32)
    assert str(error.value).startswith(f"{path}:1: {message}")
    assert '"text": text, "text_pair": text' in str(error.value)
    path.write_text("")
    with pytest.raises(UserError, match="0 lines; give 1 to"):
        read_requests(str(path), specs, 32)


def test_the_servers_files(served, tmp_path, capsys):
    def models():
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse((tmp_path / "models.config").read_text(), config)
        return {model.name: model for model in config.model_config_list.config}

    def add(name, version, *labels, server_dir=None):
        names = [name, f"{name}_text"]
        server_files.add_to_models(str(tmp_path), names, version, labels, server_dir)

    write = server_files.write_server_files
    add("a", 1)
    write(str(tmp_path), 8)
    assert {name: model.base_path for name, model in models().items()} == {
        "a": "/models/a",
        "a_text": "/models/a_text",
    }
    assert not models()["a"].HasField("model_version_policy")  # The newest alone.
    assert "max_batch_size { value: 8 }" in (tmp_path / "batching_parameters.txt").read_text()
    assert "/monitoring/prometheus/metrics" in (tmp_path / "monitoring.config").read_text()

    # Labels stay where they are until another version gets them.
    (tmp_path / "batching_parameters.txt").write_text("mine")
    add("a", 2, "stable")
    add("a", 3, "canary")
    add("b", 1, server_dir="/elsewhere/")
    write(str(tmp_path), 16)
    assert (tmp_path / "batching_parameters.txt").read_text() == "mine"
    model = models()["a_text"]
    assert dict(model.version_labels) == {"stable": 2, "canary": 3}
    assert list(model.model_version_policy.specific.versions) == [2, 3]
    assert model.base_path == "/models/a_text" and models()["b"].base_path == "/elsewhere/b"
    add("a", 4, "stable")
    model = models()["a"]
    assert dict(model.version_labels) == {"stable": 4, "canary": 3}
    assert list(model.model_version_policy.specific.versions) == [3, 4]
    # An older version gets a label; the newest is served as before.
    for version in (4, 5):
        (tmp_path / "a" / str(version)).mkdir(parents=True)
    add("a", 2, "old", server_dir="/there")
    model = models()["a"]
    assert list(model.model_version_policy.specific.versions) == [2, 3, 4, 5]
    assert model.base_path == "/there/a"
    shutil.rmtree(tmp_path / "a")
    # The module's exports had the same folder.
    text = (served / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert len(config.model_config_list.config) == 2 * (2 + len(TASKS))
    assert "max_batch_size { value: 32 }" in (served / "batching_parameters.txt").read_text()

    (tmp_path / "batching_parameters.txt").write_text("max_batch_size { value: 8 }\n")
    assert server_files.batch_limit(str(tmp_path)) == 8
    assert export(served / "models/discriminator", tmp_path, "a", "--max_batch_size=9") == 2
    assert "has 8 for all models" in capsys.readouterr().err
    (tmp_path / "models.config").write_text("models {")
    assert export(served / "models/discriminator", tmp_path, "a") == 2
    assert "mend or remove the file" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def save_function(folder, function, dtype=tf.float32):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.float32, name="x")
    module.serve = tf.function(function, input_signature=[spec], autograph=False)
    module.variable = tf.Variable(1.0, dtype=dtype)
    tf.saved_model.save(module, str(folder), {"serving_default": module.serve})


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("variables/variables.index", None, "variables: cannot read the weights"),
        ("variables/variables.index", 40, "variables: cannot read the weights"),
        (REFERENCE_FILE, 40, "reference.npz: not whole"),
        (REFERENCE_FILE, 3000, "reference.npz: not whole"),
    ],
)
def test_a_version_that_is_not_whole(served, tmp_path, capsys, name, size, message):
    shutil.copytree(served / "classification/1", tmp_path / "1")
    path = tmp_path / "1" / name
    content = path.read_bytes()[:size]
    path.unlink()
    if size is not None:
        path.write_bytes(content)
    assert verify_command.main(["", str(tmp_path / "1")]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_record_that_is_no_request(served, tmp_path, capsys):
    shutil.copytree(served / "classification/1", tmp_path / "1")
    with tf.io.TFRecordWriter(str(tmp_path / "1" / WARMUP_FILE)) as writer:
        writer.write(b"\xff\xff")
    assert verify_command.main(["", str(tmp_path / "1")]) == 2
    assert "record 0: no request" in capsys.readouterr().err


def test_requests_of_warm_up_fit_into_a_batch(served, tmp_path):
    """`--max_batch_size=2` there; the strings that are stored are four."""
    assert (
        len(read_reference(str(served / "classification_text/1"))["serving_default/input/text"])
        == 4
    )
    rows = [
        len(next(iter(log.predict_log.request.inputs.values())).string_val)
        for log in requests_of(served / "classification_text/1")
        if log.WhichOneof("log_type") == "predict_log"
    ]
    assert rows == [1, 2]
    path = tmp_path / "requests.jsonl"
    path.write_text('{"text": "a\u2028b"}\n{"text": ["a", "b", "c"]}\n')
    specs = [tf.TensorSpec([None], tf.string, name="text")]
    assert len(read_requests(str(path), specs, 3)) == 2
    with pytest.raises(UserError, match="requests.jsonl:2: 3 rows, more than a server joins"):
        read_requests(str(path), specs, 2)


def test_what_has_no_reference_is_refused():
    with pytest.raises(UserError, match="s: assets.extra/reference.npz has no 'y' to compare with"):
        compare("m", "s", {"s/output/x": np.zeros(1)}, {"s/x": np.zeros(1), "s/y": np.zeros(1)})


@pytest.mark.slow
def test_windows_of_warm_up_fit_into_a_batch(served, tmp_path):
    """A context of many windows is one text, and many rows of ids."""
    servables = load_servables(str(served / "models/qa"))
    servables.max_batch_size = 2
    request = {"question": texts_of("who"), "context": texts_of("cat dog " * 200)}
    write_ids(servables, str(tmp_path), "q", [request])
    [log] = requests_of(tmp_path)
    ids = tf.make_ndarray(log.predict_log.request.inputs["input_ids"])
    assert ids.shape[0] == 2


def test_differences_are_told_by_the_size_of_numbers():
    for scale, difference, is_refused in ((0.5, 2e-5, True), (1e6, 2.0, False), (1e6, 20.0, True)):
        arrays = (
            {"s/output/x": np.array([scale, -2e9])},
            {"s/x": np.array([scale + difference, -2e9])},
        )
        if is_refused:
            with pytest.raises(UserError, match="'x' differs"):
                compare("m", "s", *arrays)
        else:
            assert compare("m", "s", *arrays)["x"] == pytest.approx(difference / scale)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: {"y": tf.py_function(lambda v: v, [x], tf.float32)}, "calls Python"),
        (lambda x: {"y": tf.function(lambda v: v * 2, jit_compile=True)(x)}, "compiled by XLA"),
        (lambda x: {"y": tf.reduce_sum(x)}, "the first axis of 'y' is not the batch"),
        (
            lambda x: {"y": tf.cast(tf_text.utf8_binarize(tf.as_string(x)), tf.float32)[:, 0]},
            "neither TensorFlow's own nor",
        ),
    ],
)
def test_what_no_server_runs_is_refused(tmp_path, function, message):
    save_function(tmp_path / "1", function)
    with pytest.raises(UserError, match=message):
        verify(str(tmp_path / "1"))


def test_weights_in_half_precision_are_refused(tmp_path):
    save_function(tmp_path / "1", lambda x: {"y": 2 * x}, tf.bfloat16)
    with pytest.raises(UserError, match="variable/.* is in half precision; export in float32"):
        verify(str(tmp_path / "1"))


OPENVINO = "discriminator/7 generator/1 topics/1 tagging/1 qa/1 qa2/1 choice/1".split()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "tagging/1" else pytest.mark.slow) for n in OPENVINO],
)
def test_openvino_agrees(served, capsys, name):
    pytest.importorskip("openvino", reason="the second runtime; pip install 'electra_tf[openvino]'")
    assert verify_command.main(["", str(served / name)]) == 0
    printed = capsys.readouterr().out
    assert float(printed.split("OpenVINO: largest difference ")[1]) <= 1e-5
