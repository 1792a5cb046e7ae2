"""The client, against the servicer fixture and, where it is on PATH, against TensorFlow Serving."""

import dataclasses
import datetime
import io
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
import tensorflow as tf
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from served_models import save, save_arrays, save_kinds, save_number
from servicer_fixture import (
    ModelServer,
    ServicerFixture,
    StatusError,
    config_of,
    reload_config,
    until,
)
from tiny_models import VOCAB_WITH_SUFFIX, save_tiny_encoder, save_tiny_task

from electra_tf import Discriminator, Predictor, Tokenizer, UserError
from electra_tf.commands import query
from electra_tf.export.loading import load_servables
from electra_tf.export.servables import IDS
from electra_tf.serving import (
    BatchTooLarge,
    Client,
    Credentials,
    DeadlineExceeded,
    InvalidRequest,
    MessageTooLarge,
    ModelNotFound,
    Regression,
    ServingError,
    Unavailable,
    VersionNotFound,
    grpc_transport,
)
from electra_tf.serving.errors import error_of
from electra_tf.serving.results import results_of
from electra_tf.serving.server import Target

ROOT = pathlib.Path(__file__).parents[1]
TRANSPORTS = ["grpc", "rest"]
# As the exporter makes them; test_export.py verifies them.
EXPORTED = [
    ("discriminator", "_text"),
    ("classification", "_text"),
    ("classification", ""),
    ("regression", ""),
    ("tagging", "_text"),
    ("qa2", "_text"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models with random weights, as they are before their export."""
    folder = tmp_path_factory.mktemp("trained")
    save_tiny_encoder(folder / "discriminator", VOCAB_WITH_SUFFIX)
    for kind in {kind for kind, _ in EXPORTED} - {"discriminator"}:
        save_tiny_task(folder / kind, kind)
    return folder


@pytest.fixture(scope="module")
def bases(trained, tmp_path_factory):
    """Dict from a model's name to its folder of versions."""
    folder = tmp_path_factory.mktemp("served")
    save_kinds(folder)
    save_arrays(folder / "arrays" / "1")
    for kind, suffix in EXPORTED:
        servables = load_servables(str(trained / kind))
        servable = servables.text() if suffix else servables.ids()
        path = str(folder / f"exported_{kind}{suffix}" / "1")
        tf.saved_model.save(servable.module, path, servable.signatures)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module", params=["servicer_fixture", "tensorflow_model_server"])
def server(request, bases, tmp_path_factory):
    if request.param == "servicer_fixture":
        server = ServicerFixture(config_of(bases))
    else:
        server = ModelServer(config_of(bases), tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(params=TRANSPORTS)
def ask(request, server):
    """Makes a `Client` of the server, over one transport."""
    return lambda model, **options: Client(getattr(server, request.param), model, **options)


@pytest.fixture
def fixture(bases):
    """A servicer fixture that a test may disturb."""
    server = ServicerFixture(
        config_of({name: bases[name] for name in ("classification", "arrays")})
    )
    yield server
    server.stop()


NUMBERS = {"numbers": np.array([1, 2], np.int32)}


def test_results(ask):
    """Values as served_models.py tells them."""

    def predict(model, inputs):
        with ask(model) as client:
            results = client.predict(inputs)
            assert client.predict(inputs[-1:]) == results[-1:]  # Without what pads the others.
            return [dataclasses.asdict(result) for result in results]

    assert predict("classification", ["Fine!", "", "naïve 北京 \x00"]) == [
        {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}},
        {"label": "no", "score": 0.75, "scores": {"no": 0.75, "yes": 0.25}},
        {"label": "no", "score": 0.75, "scores": {"no": 0.75, "yes": 0.25}},
    ]
    assert predict("multi_label", ["xbxc", "x"]) == [
        {"labels": ("b", "c"), "scores": {"a": 0.25, "b": 0.75, "c": 0.75}},
        {"labels": (), "scores": {"a": 0.25, "b": 0.25, "c": 0.25}},
    ]
    assert predict("regression", [("北京", "北京市 x"), ("long", "")]) == [
        {"value": 3.0},
        {"value": -4.0},
    ]
    assert predict("tagging", ["Это 😀 naïve", "", "x"]) == [
        {
            "words": (
                {"word": "Это", "label": "SHORT", "score": 0.5, "start": 0, "end": 3},
                {"word": "😀", "label": "SHORT", "score": 0.5, "start": 4, "end": 5},
                {"word": "naïve", "label": "LONG", "score": 0.75, "start": 6, "end": 11},
            )
        },
        {"words": ()},
        {"words": ({"word": "x", "label": "SHORT", "score": 0.5, "start": 0, "end": 1},)},
    ]
    jane = {"text": "Jane", "score": 0.75, "start": 0, "end": 4}
    austen = {"text": "Austen", "score": 0.25, "start": 5, "end": 11}
    one = {"text": "One", "score": 0.75, "start": 0, "end": 3}
    found = [("Who?", "Jane Austen wrote it"), ("None?", "Jane Austen"), ("?", "One")]
    assert predict("answers", found) == [
        {
            **{"answer": "Jane", "score": 0.75, "start": 0, "end": 4},
            **{"answers": (jane, austen), "no_answer_score": 0.125},
        },
        {
            **{"answer": "", "score": 0.0, "start": -1, "end": -1},
            **{"answers": (jane, austen), "no_answer_score": 0.875},
        },
        {
            **{"answer": "One", "score": 0.75, "start": 0, "end": 3},
            **{"answers": (one,), "no_answer_score": 0.125},
        },
    ]
    mask = ({"token": "good", "score": 0.5}, {"token": "bad", "score": 0.25})
    assert predict("filled_masks", ["a [MASK] [MASK].", "none", "[MASK]"]) == [
        {"masks": (mask, mask)},
        {"masks": ()},
        {"masks": (mask,)},
    ]
    assert predict("multiple_choice", [("t", ["a", "bbb", "cc"]), ("u", ["aaaa", "", "c"])]) == [
        {"label": "1", "choice": "bbb", "score": 0.5, "scores": {"0": 0.25, "1": 0.5, "2": 0.25}},
        {"label": "0", "choice": "aaaa", "score": 0.5, "scores": {"0": 0.5, "1": 0.25, "2": 0.25}},
    ]
    assert predict("replaced_tokens", ["a b", "北"]) == [
        {
            "pieces": (
                {"piece": "a", "start": 0, "end": 1, "replaced_probability": 0.5},
                {"piece": "b", "start": 2, "end": 3, "replaced_probability": 0.5},
            )
        },
        {"pieces": ({"piece": "北", "start": 0, "end": 1, "replaced_probability": 0.5},)},
    ]


def test_ways_to_give_inputs(ask):
    with ask("regression") as client:
        assert client.text_inputs() == ("text", "text_pair")
        assert client.predict(("a", "abc")) == Regression(2.0)
        assert client.predict(text="a", text_pair="abc") == Regression(2.0)
        columns = {"text_pair": ["abc", ""], "text": np.array(["a", "b"])}
        assert client.predict(**columns) == [Regression(2.0), Regression(-1.0)]
        assert client.predict([]) == client.predict(text=[], text_pair=[]) == []
        assert client.regress([("a", "abc"), ("b", "")]) == [Regression(2.0), Regression(-1.0)]
        assert client.regress(("a", "abc")) == Regression(2.0)
        assert client.regress({"text": "a", "text_pair": b"abc"}) == Regression(2.0)
        with pytest.raises(InvalidRequest):
            client.classify(("a", "abc"))
    with ask("multiple_choice") as client:
        assert client.predict(("t", ["a", "bb"])).choice == "bb"
        assert client.predict(text="t", choices=["a", "bb"]).choice == "bb"
    with ask("classification") as client:
        assert client.predict("!") == client.predict(["!"])[0]


def test_inputs_that_are_refused(ask):
    with ask("regression") as client:
        for inputs in (["alone"], [("a", "b", "c")], [3]):
            with pytest.raises(UserError, match=r"^input 0: .* is not \(text, text_pair\)$"):
                client.predict(inputs)
        with pytest.raises(UserError, match="input 1: text_pair 5 is not a str"):
            client.predict([("a", "b"), ("a", 5)])
        with pytest.raises(UserError, match="half of a surrogate pair"):
            client.predict(("a", "\ud800"))
        with pytest.raises(UserError, match="columns of different lengths: 1 of text, 2 of"):
            client.predict(text=["a"], text_pair=["b", "c"])
        with pytest.raises(UserError, match="not both"):
            client.predict(["a"], text=["a"])
        with pytest.raises(InvalidRequest, match="text_pair"):
            client.predict(text=["a"])
    with ask("multiple_choice") as client:
        with pytest.raises(UserError, match="input 1: 1 choices; those before it have 2"):
            client.predict([("t", ["a", "b"]), ("t", ["a"])])
        with pytest.raises(UserError, match="input 0: choices 'ab' is not a list of str"):
            client.predict([("t", "ab")])
    with ask("arrays") as client:
        with pytest.raises(UserError, match="it takes numbers, no texts; ask by Client.raw"):
            client.predict(["a"])
        with pytest.raises(InvalidRequest):
            client.raw({"numbers": np.array([0.5])})
        with pytest.raises(UserError, match="dtype complex128 cannot be sent"):
            grpc_transport.proto_of("numbers", np.array([1j]))
    with pytest.raises(UserError, match="outputs total are no known kind's"):
        results_of({"total": np.array([1])}, {})


def test_arrays(ask):
    """Scalars, single outputs, dtypes and bytes come through REST as they do through gRPC."""
    texts = [[b"\xff\x00", "é"], ["a\x00", b"b"]]
    with ask("arrays") as client:
        outputs = client.raw(NUMBERS)
        assert list(outputs) == ["total"]
        assert outputs["total"].shape == () and outputs["total"].dtype == np.int32
        assert outputs["total"] == 3
        outputs = client.raw(NUMBERS, "several")
        dtypes = {name: array.dtype.name for name, array in outputs.items()}
        assert dtypes == {
            "total": "int32", "long": "int64", "half": "float32", "double": "float64", "is_odd": "bool"
        }  # fmt: skip
        assert outputs["long"].tolist() == [1, 2]
        assert outputs["half"].tolist() == [0.5, 1.0]
        assert outputs["double"].tolist() == [1 / 3, 2 / 3]
        assert outputs["is_odd"].tolist() == [True, False]
        outputs = client.raw({"texts": texts}, "echo")
        expected = [[b"\xff\x00", "é".encode()], [b"a\x00", b"b"]]
        assert outputs["same"].tolist() == outputs["same_bytes"].tolist() == expected
        assert outputs["same"].shape == (2, 2)
        first = client.raw({"texts": texts}, "scalar_bytes")["first_bytes"]
        assert first.shape == () and first.item() == b"\xff\x00"


def test_metadata_and_status(ask):
    with ask("arrays") as client:
        metadata = client.metadata()
        assert metadata.version == 1
        assert set(metadata.signatures) == {"serving_default", "several", "echo", "scalar_bytes"}
        echo = metadata.signatures["echo"]
        assert dataclasses.asdict(echo.inputs["texts"]) == {
            "dtype": "string",
            "shape": (None, None),
        }
        assert metadata.signatures["serving_default"].outputs["total"].shape == ()
        assert metadata.signatures["several"].outputs["double"].dtype == "float64"
        (version,) = client.status()
        assert (version.version, version.state, version.error) == (1, "AVAILABLE", "")


def test_models_versions_and_labels_that_are_not_there(ask):
    for options in ({}, {"version": 1}, {"version_label": "new"}):
        with ask("nothing", **options) as client:
            with pytest.raises(ModelNotFound, match="model nothing.*no such model") as caught:
                client.raw(NUMBERS)
            assert caught.value.code == "NOT_FOUND"
    with ask("arrays", version=9) as client:
        with pytest.raises(VersionNotFound, match="version 9: .*there are 1 AVAILABLE"):
            client.raw(NUMBERS)
    with ask("arrays", version_label="new") as client:
        with pytest.raises(VersionNotFound, match="label 'new': .*there are 1 AVAILABLE"):
            client.metadata()
    with ask("nothing") as client, pytest.raises(ModelNotFound):
        client.status()
    with ask("arrays") as client, pytest.raises(InvalidRequest, match="nothing"):
        client.raw(NUMBERS, "nothing")


def test_exported_models(ask, trained):
    """Results are those of `Predictor`; ids and tf.Examples give what texts give."""
    texts = ["Good cats, bad dog", "", "red " * 50, "tree 北"]
    expected = Predictor.from_pretrained(str(trained / "classification"))(texts)
    with ask("exported_classification_text") as client:
        assert_close(client.predict(texts), expected)
        assert_close(client.classify(texts), expected)
        assert_close([client.classify({"text": texts[0]})], expected[:1])
        assert_close([client.classify(text=texts[3])], expected[3:])
    tokenizer = Tokenizer(VOCAB_WITH_SUFFIX)
    ids = [tokenizer.pack([tokenizer.tokenize([t])], 24)["input_ids"][0].numpy() for t in texts[:2]]
    with ask("exported_classification") as client:
        assert_close(client.classify(input_ids=[row[row > 0] for row in ids]), expected[:2])
        inputs = {"input_ids": np.array(ids, np.int32), "segment_ids": np.zeros((2, 24), np.int32)}
        outputs = client.raw({**inputs, "input_mask": np.ones((2, 24), np.int32)})
        scores = [list(e["scores"].values()) for e in expected[:2]]
        np.testing.assert_allclose(outputs["scores"], scores, atol=1e-5)
    pairs = [("good", "bad cats"), ("", "dog")]
    expected = Predictor.from_pretrained(str(trained / "regression"))(pairs)
    packed = tokenizer.pack([tokenizer.tokenize(list(column)) for column in zip(*pairs)], 24)
    with ask("exported_regression") as client:
        arrays = {name: packed[name].numpy() for name in IDS}
        assert_close(client.regress(**arrays), expected)
        np.testing.assert_allclose(
            client.raw(arrays)["outputs"], [e["value"] for e in expected], atol=1e-5
        )
    text = "Good cats 北 x"
    ids, starts, ends = tokenizer.tokenize_with_offsets([text])
    packed = tokenizer.pack([ids], 10)
    logits = Discriminator.from_pretrained(str(trained / "discriminator"))(packed)["logits"]
    expected = {
        "pieces": [
            {"piece": VOCAB_WITH_SUFFIX[i], "start": s, "end": e, "replaced_probability": p}
            for i, s, e, p in zip(
                *(part[0].numpy().tolist() for part in (ids, starts, ends)),
                tf.sigmoid(logits)[0, 1:-1].numpy().tolist(),
            )
        ]
    }
    assert [piece["piece"] for piece in expected["pieces"][:3]] == ["good", "cat", "##s"]
    with ask("exported_discriminator_text") as client:
        assert_close(client.predict([text, ""])[:1], [expected])


@pytest.mark.parametrize(
    "kind, inputs, not_served",
    [
        ("tagging", ["Good cats, (bad) dog.", "", "red house " * 20], "entities"),
        ("qa2", [("good", "the dog, a Cat. " * 6 + "北 red"), ("", "house")], "threshold"),
    ],
)
def test_exported_models_with_windows(ask, trained, kind, inputs, not_served):
    expected = Predictor.from_pretrained(str(trained / kind))(inputs)
    for result in expected:
        del result[not_served]
    with ask(f"exported_{kind}_text") as client:
        assert_close(client.predict(inputs), expected)


def assert_close(results, expected):
    assert len(results) == len(expected)
    for result, one in zip(results, expected):
        assert flat(dataclasses.asdict(result)) == pytest.approx(flat(one), abs=1e-5)


def flat(value, name=""):
    """Dict from path to number or str, of nested dicts and lists."""
    if not isinstance(value, (dict, list, tuple)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: one for key, part in items for path, one in flat(part, f"{name}/{key}").items()}


def test_features_that_are_refused(ask):
    with ask("exported_classification") as client:
        assert client.classify([]) == []
        with pytest.raises(UserError, match=r"input 0: feature 'input_ids': \[2, None\] is no str"):
            client.classify([{"input_ids": [2, None]}])
        with pytest.raises(UserError, match="input 1: 3 is no str"):
            client.classify(["a", 3])
        with pytest.raises(InvalidRequest):
            client.classify([{"input_ids": "text"}])


def test_protocol_buffers_of_arrays():
    arrays = [
        np.array([[1.5, -0.0], [np.inf, np.nan]], np.float32),
        np.array([2**62], np.int64), np.array(7, np.uint8), np.zeros([0, 3], np.int32),
        np.array([True, False]), np.array([[b"a\x00", b""], [b"\xff", b"b"]], object),
        np.arange(6, dtype=np.float64).reshape(2, 3).T, np.array([2**64 - 1], np.uint64),
    ]  # fmt: skip
    for array in arrays:
        ours, theirs = grpc_transport.proto_of("x", array), tf.make_tensor_proto(array)
        np.testing.assert_array_equal(tf.make_ndarray(ours), array)
        assert tf.make_ndarray(ours).dtype == array.dtype
        for proto in (ours, theirs):
            found = grpc_transport.array_of("x", proto)
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype and found.shape == array.shape
    for value in ([2.5], ["x"], [True]):  # One value for all.
        proto = tf.make_tensor_proto(value, shape=[2, 2])
        np.testing.assert_array_equal(grpc_transport.array_of("x", proto), tf.make_ndarray(proto))
    half = tf.make_tensor_proto(np.ones(2, np.float16))
    with pytest.raises(UserError, match="output 'x': dtype DT_HALF cannot be read"):
        grpc_transport.array_of("x", half)


def test_versions_roll_over_and_back(server, bases, tmp_path):
    """A new version is served when it is there; labels move; without the new one the old is back."""
    base = tmp_path / "numbers"
    save_number(base / "1", 1)
    config = config_of({**bases, "numbers": base})
    assert reload_config(server.grpc, config) == ""
    try:
        with Client(server.grpc, "numbers") as client, Client(server.rest, "numbers") as rest:
            roll_over_and_back(server, config, base, client, rest)
    finally:
        assert reload_config(server.grpc, config_of(bases)) == ""


def roll_over_and_back(server, config, base, client, rest):
    def is_served(number):
        try:
            return client.predict("") == rest.predict("") == Regression(number)
        except ModelNotFound:
            return False

    until(lambda: is_served(1))
    save_number(base.parent / "new", 2)
    (base.parent / "new").rename(base / "2")
    until(lambda: is_served(2))
    assert client.metadata().version == rest.metadata().version == 2
    until(lambda: states(client) == {1: "END", 2: "AVAILABLE"})
    assert states(rest) == states(client)
    with Client(server.rest, "numbers", version=1) as old:
        with pytest.raises(VersionNotFound, match="there are 1 END, 2 AVAILABLE"):
            old.predict("")

    (numbers,) = (one for one in config.model_config_list.config if one.name == "numbers")
    numbers.model_version_policy.all.SetInParent()
    assert reload_config(server.grpc, config) == ""
    until(lambda: states(client) == {1: "AVAILABLE", 2: "AVAILABLE"})
    for stable, canary in ((1, 2), (2, 2), (1, 1)):  # The last is the way back.
        numbers.version_labels["stable"], numbers.version_labels["canary"] = stable, canary
        assert reload_config(server.grpc, config) == ""
        for label, number in (("stable", stable), ("canary", canary)):
            for address in (server.grpc, server.rest):
                with Client(address, "numbers", version_label=label) as labelled:
                    assert labelled.predict("") == Regression(number)
                    assert labelled.metadata().version == number
    numbers.version_labels["canary"] = 3
    assert "version 3 of model numbers, which is not" in reload_config(server.grpc, config)
    with Client(server.grpc, "numbers", version=1) as pinned:
        assert pinned.predict("") == Regression(1)

    shutil.rmtree(base / "2")
    until(lambda: is_served(1))


def states(client):
    return {one.version: one.state for one in client.status()}


def test_an_output_that_another_version_renames(fixture, bases, tmp_path):
    """REST has no names of single outputs; the client asks for them anew where it notices."""
    text = {"text": tf.TensorSpec([None], tf.string)}
    save(tmp_path / "m" / "1", text, lambda text: {"outputs": tf.fill(tf.shape(text), 1.0)})
    assert reload_config(fixture.grpc, config_of({"m": tmp_path / "m"})) == ""
    with Client(fixture.rest, "m") as client:
        assert client.predict("a") == Regression(1.0)
        save(
            tmp_path / "m" / "2",
            text,
            lambda text: {"tokens": text[:, None, None], "scores": tf.ones([1, 1, 1])},
        )
        assert client.predict("a").masks[0][0].token == "a"
        save(tmp_path / "m" / "3", text, lambda text: {"outputs": tf.fill(tf.shape(text), 3.0)})
        assert client.predict("a") == Regression(3.0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_retries(fixture, transport):
    codes = grpc.StatusCode

    def calls_until_answered(*failures, **options):
        fixture.failures = [StatusError(code, "so it is") for code in failures]
        fixture.calls.clear()
        with Client(getattr(fixture, transport), "arrays", **options) as client:
            client.status()
        return len(fixture.calls)

    assert calls_until_answered() == 1
    assert calls_until_answered(codes.UNAVAILABLE, codes.UNAVAILABLE) == 3
    assert calls_until_answered(codes.RESOURCE_EXHAUSTED) == 2
    for failures, options, error, calls in (
        ([codes.UNAVAILABLE] * 9, {"retries": 2}, Unavailable, 3),
        ([codes.UNAVAILABLE], {"retries": 0}, Unavailable, 1),
        ([codes.INVALID_ARGUMENT], {}, InvalidRequest, 1),
        ([codes.NOT_FOUND], {}, ModelNotFound, 1),
        ([codes.DEADLINE_EXCEEDED], {}, DeadlineExceeded, 1),
        ([codes.INTERNAL], {}, ServingError, 1),
    ):
        with pytest.raises(error, match="so it is") as caught:
            calls_until_answered(*failures, **options)
        assert type(caught.value) is error
        assert len(fixture.calls) == calls
    start = time.monotonic()
    with pytest.raises(Unavailable):
        calls_until_answered(*[codes.UNAVAILABLE] * 1000, retries=1000, timeout=1)
    assert time.monotonic() - start > 0.3
    # Pauses of at least 0.05, 0.1, 0.2 seconds and so on: 1 second has room for four at most.
    assert 1 <= len(fixture.calls) <= 5


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_comes_later(bases, transport):
    config = config_of({"arrays": bases["arrays"]})
    first = ServicerFixture(config)
    first.stop()
    ports = [int(address.rpartition(":")[2]) for address in (first.grpc, first.rest)]
    second = []
    timer = threading.Timer(0.5, lambda: second.append(ServicerFixture(config, ports=ports)))
    with Client(getattr(first, transport), "arrays", retries=10) as client:
        timer.start()
        assert client.raw(NUMBERS)["total"] == 3
    timer.join()
    second[0].stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_deadlines(fixture, transport):
    with Client(getattr(fixture, transport), "arrays", timeout=1.5) as client:
        client.raw(NUMBERS)  # Connects.
        num_calls, fixture.delay = len(fixture.calls), 4.0
        with pytest.raises(DeadlineExceeded, match="model arrays: no result in time"):
            client.raw(NUMBERS)
    assert len(fixture.calls) == num_calls + 1
    fixture.delay = 0.0
    if transport == "grpc":  # The server is told, too.
        with Client(fixture.grpc, "arrays", timeout=7) as client:
            client.raw(NUMBERS)
        assert 6 < fixture.calls[-1][1] < 8


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_message_sizes(fixture, transport):
    texts = [["x" * 5000, "y"]]
    with Client(getattr(fixture, transport), "arrays", max_message_bytes=20000) as client:
        assert client.raw({"texts": texts}, "echo")["same"][0, 0] == b"x" * 5000
        calls = len(fixture.calls)
        with pytest.raises(MessageTooLarge, match="too large .*20000.*max_message_bytes"):
            client.raw({"texts": [["x" * 20000]]}, "echo")
        assert len(fixture.calls) == calls
        # An answer has the texts twice.
        with pytest.raises(MessageTooLarge, match="too large .*20000.*max_message_bytes"):
            client.raw({"texts": [["x" * 12000]]}, "echo")
        assert len(fixture.calls) == calls + 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Folder with root.pem, and key and certificate of a server and a client that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test root")])
    root_key, root = certificate_of(name, None, None)
    write_pem(folder / "root.pem", root)
    for who in ("server", "client"):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, who)])
        key, certificate = certificate_of(subject, name, root_key)
        write_pem(folder / f"{who}.pem", certificate)
        (folder / f"{who}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return folder


def certificate_of(subject, issuer, issuer_key):
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now()
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(issuer_key or key, hashes.SHA256())
    )
    return key, certificate


def write_pem(path, certificate):
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def test_tls(bases, certificates, tmp_path, monkeypatch):
    root, own = (
        certificates / "root.pem",
        (certificates / "client.pem", certificates / "client.key"),
    )
    tls = (certificates / "server.key", certificates / "server.pem", root)
    server = ServicerFixture(config_of({"arrays": bases["arrays"]}), tls)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own[0]))  # What is given goes before it.
    try:
        for address in (server.grpc, server.rest):
            with Client(address, "arrays", credentials=Credentials(root, *own)) as client:
                assert client.raw(NUMBERS)["total"] == 3
            for credentials in (Credentials(None, *own), Credentials(root), Credentials(*own[:1])):
                with Client(address, "arrays", credentials=credentials, retries=0) as client:
                    with pytest.raises(Unavailable, match="not reachable"):
                        client.raw(NUMBERS)
        with Client(server.grpc, "arrays", retries=0) as client, pytest.raises(Unavailable):
            client.raw(NUMBERS)
        flags = [f"--tls_root={root}", f"--tls_certificate={own[0]}", f"--tls_key={own[1]}"]
        assert (
            query.main(["", f"--server={server.grpc}", "--model=arrays", "--status", *flags]) == 0
        )
    finally:
        server.stop()
    with pytest.raises(UserError, match="a client's certificate and its key go together"):
        Credentials(root, certificate=own[0])
    with pytest.raises(UserError, match="nothing.pem: cannot read it: No such file"):
        Credentials(tmp_path / "nothing.pem")
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UserError, match="empty.pem: no certificate or key in PEM"):
        Credentials(tmp_path / "empty.pem")
    with pytest.raises(UserError, match="write https://"):
        Client("http://localhost:1", "m", credentials=Credentials(root))


def test_a_batch_that_is_too_large():
    details = "Task size 40 is larger than maximum input batch size 32"
    error = error_of(Target("localhost:8500", "m"), "INVALID_ARGUMENT", details)
    assert type(error) is BatchTooLarge and "send fewer at a time" in str(error)


def test_values_that_a_client_refuses():
    for address, options, message in (
        ("localhost", {}, "no port"),
        ("localhost:1", {"model": ""}, "the model has no name"),
        ("localhost:1", {"version": 1, "version_label": "a"}, "not both"),
        ("localhost:1", {"timeout": 0}, "timeout=0"),
        ("localhost:1", {"timeout": float("nan")}, "timeout=nan"),
        ("localhost:1", {"retries": -1}, "retries=-1"),
        ("localhost:1", {"max_message_bytes": 0}, "max_message_bytes=0"),
    ):
        with pytest.raises(UserError, match=message):
            Client(address, **{"model": "m", **options})


@pytest.mark.parametrize(
    ("code", "content", "error"),
    [
        (200, "<html>Welcome</html>", ServingError),
        (200, '{"unexpected": 1}', ServingError),
        (404, "<html>Not Found</html>", ModelNotFound),
        (413, "<html>Request Entity Too Large</html>", MessageTooLarge),
        (502, "<html>Bad Gateway</html>", ServingError),
    ],
)
def test_something_else_that_speaks_http(code, content, error):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    other = HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=other.handle_request)
    thread.start()
    said = re.escape(content)
    with Client(f"http://localhost:{other.server_port}", "m", retries=0) as client:
        with pytest.raises(error, match=f"{said}" if code == 200 else f"HTTP {code}: {said}") as e:
            client.status()
        assert type(e.value) is error
    thread.join()
    other.server_close()


def test_the_client_is_light():
    """It does without TensorFlow's Python code, which may be imported afterwards."""
    script = (
        "import sys; from electra_tf.serving import Client; from electra_tf.commands import query\n"
        "Client('localhost:1', 'm'); Client('http://localhost:1', 'm')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import tensorflow as tf\n"
        "assert tf.reduce_sum(tf.constant([1, 2])) == 3"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_without_the_official_stubs():
    script = (
        "import sys; sys.modules['tensorflow_serving'] = None\n"
        "from electra_tf.commands import query\n"
        "sys.exit(query.main(['', '--server=localhost:1', '--model=m', '--status']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'electra_tf[serving]'" in line


@pytest.fixture
def shell(server, monkeypatch, capsys):
    """Runs the command: exit code, standard output's lines, standard error."""

    def run(model, *arguments, stdin="", address=server.grpc):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = query.main(["", f"--server={address}", f"--model={model}", *arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_the_command(server, shell, tmp_path):
    code, lines, _ = shell("classification", "Fine!", "[MASK] is no markup")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert code == 0
    assert rows == [["Fine!", "yes", "0.7500"], ["[MASK] is no markup", "no", "0.7500"]]
    code, lines, _ = shell("filled_masks", "--json", "a [MASK]", "--", "--b", address=server.rest)
    assert (code, [json.loads(line) for line in lines]) == (
        0,
        [
            {"masks": [[{"token": "good", "score": 0.5}, {"token": "bad", "score": 0.25}]]},
            {"masks": []},
        ],
    )
    _, lines, _ = shell("regression", "--json", "--batch_size=2", stdin="a\tabc\n\t\nab\t北\r\n")
    assert [json.loads(line) for line in lines] == [{"value": 2}, {"value": 0}, {"value": -1}]
    (tmp_path / "in.txt").write_text("t\ta\tbb\nu\tccc\td\n")
    _, lines, _ = shell("multiple_choice", "--json", f"--input_file={tmp_path}/in.txt")
    assert [json.loads(line)["choice"] for line in lines] == ["bb", "ccc"]
    _, lines, _ = shell("classification", "--json", stdin="a\ttab!\n")
    assert [json.loads(line)["label"] for line in lines] == ["yes"]
    assert shell("classification")[:2] == (0, [])
    for model, line, words in (
        ("tagging", "Это naïve", ("Это", "SHORT", "0.5000", "naïve", "LONG")),
        ("answers", "Who?\tJane Austen", ("Who? | Jane Austen", "Jane", "0.7500")),
        ("multi_label", "ab", ("a", "b", "0.7500")),
        ("replaced_tokens", "a b", ("replaced_probability", "0.5000")),
        ("regression", "a\tabc", ("value", "2.0000")),
        ("multiple_choice", "t\ta\tbb", ("bb", "0.5000")),
        ("filled_masks", "[MASK]", ("good", "bad", "0.2500")),
    ):
        code, lines, _ = shell(model, line)
        assert code == 0 and all(word in "\n".join(lines) for word in words)
    for flags in ([], ["--json"]):
        code, lines, _ = shell("arrays", "--status", *flags)
        assert code == 0 and "AVAILABLE" in "\n".join(lines)
        code, lines, _ = shell("arrays", "--metadata", *flags)
        assert code == 0 and "scalar_bytes" in "\n".join(lines) and "float64" in "\n".join(lines)


def test_mistakes_in_the_command(server, shell, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    for model, arguments, stdin, message in (
        (
            "regression",
            ["--json"],
            "a\tb\nc\n",
            "standard input:2: 0 tabs; one is to separate text",
        ),
        ("answers", ["a", "--json"], "", "argument 1: 0 tabs; one is to separate question and con"),
        ("nothing", ["a"], "", "no such model"),
        ("classification", ["a", "--version=7"], "", "no such version"),
        ("classification", ["a", "--label=x"], "", "no such version"),
        ("classification", ["a", "--label=x", "--version=7"], "", "not both"),
        ("classification", ["a", "--status"], "", "give one of texts"),
        ("classification", ["--colour"], "", "colour"),
        ("classification", ["--timeout=0", "a"], "", "timeout=0"),
        ("classification", [f"--input_file={tmp_path}/no.txt"], "", "no.txt: cannot read it"),
        ("classification", [f"--input_file={tmp_path}/latin.txt"], "", "latin.txt: not UTF-8"),
        ("arrays", ["a"], "", "it takes numbers, no texts"),
    ):
        code, _, err = shell(model, *arguments, stdin=stdin)
        assert code == 2
        assert message in err.splitlines()[-1]
    for address in ("localhost:1", "http://localhost:1"):
        code, lines, err = shell("m", "a", "--retries=1", address=address)
        assert (code, lines) == (2, [])
        (line,) = err.splitlines()
        assert line.startswith(f"error: {address}, model m: not reachable")
        assert "refused" in line


def test_the_module(server):
    command = [sys.executable, "-m", "electra_tf.serving.query", "--server", server.grpc]
    command += ["--model", "classification", "--json", "北京!"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["label"] == "yes" and done.stderr == ""


@pytest.fixture(scope="module")
def documented(bases):
    """A servicer fixture with models in place of those that docs/serving_client.md names."""
    names = {
        "sst2_text": bases["classification"],
        "squad_text": bases["answers"],
        "sst2": bases["exported_classification"],
    }
    server = ServicerFixture(config_of(names))
    yield server
    server.stop()


def examples(language):
    page = (ROOT / "docs" / "serving_client.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", examples("python"))
def test_documented_python(documented, example):
    example = example.replace("http://localhost:8501", documented.rest)
    exec(example.replace("localhost:8500", documented.grpc), {})


def test_documented_commands(documented, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("One!\nTwo.\n")
    commands = [line for block in examples("sh") for line in block.splitlines() if "query" in line]
    assert len(commands) == 5
    for line in commands:
        line = line.replace("http://localhost:8501", documented.rest)
        _, _, module, *arguments = shlex.split(line.replace("localhost:8500", documented.grpc))
        assert module == "electra_tf.serving.query"
        if "<" in arguments:
            monkeypatch.setattr(sys, "stdin", open(arguments[-1]))
            arguments = arguments[: arguments.index("<")]
        assert query.main([module, *arguments]) == 0
        assert capsys.readouterr().out


def test_help_names_all_flags(capsys):
    assert query.main(["", "--help"]) == 0
    text = capsys.readouterr().out
    page = (ROOT / "docs" / "serving_client.md").read_text()
    for flag in set(re.findall(r"--(\w+)", page)) - {"help"}:
        assert re.search(rf"^  --(\[no\])?{flag}\b", text, re.MULTILINE), flag
