"""A test fixture in place of TensorFlow Serving, and the real server where there is one.

`ServicerFixture` hosts the official servicer classes of tensorflow-serving-api in a gRPC server, and
the same over REST by `http.server`. TensorFlow's Python code runs the models; versions, labels and
messages are as TensorFlow Serving's C++ code has them. What the real server would do beyond that
(batching, warm-up, its own C++ runtime) is not in it.
"""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from electra_tf.serving import Client, ModelNotFound, Unavailable

REAL_SERVER = "tensorflow_model_server"
_State = get_model_status_pb2.ModelVersionStatus.State


class StatusError(Exception):
    """What the C++ code returns as a status."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def not_found(message):
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def invalid_argument(message):
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


class LoadedVersion:
    """A SavedModel and its signatures' protocol buffers."""

    def __init__(self, folder):
        self._model = tf.saved_model.load(folder)
        with open(os.path.join(folder, "saved_model.pb"), "rb") as f:
            model = saved_model_pb2.SavedModel.FromString(f.read())
        self.signature_defs = model.meta_graphs[0].signature_def

    def run(self, signature, arrays):
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            raise StatusError(list(grpc.StatusCode)[error.error_code], error.message) from None
        return {
            name: np.asarray(tensor.numpy(), object if tensor.dtype == tf.string else None)
            for name, tensor in outputs.items()
        }


class Models:
    """Models below folders of versions, by a `ModelServerConfig`."""

    def __init__(self, config):
        self._lock = threading.Lock()
        self._loaded, self._states, self._labels = {}, {}, {}
        self.configure(config)

    def configure(self, config):
        with self._lock:
            labels = {
                (one.name, label): version
                for one in config.model_config_list.config
                for label, version in one.version_labels.items()
            }
            for (name, label), version in labels.items():
                # --allow_version_labels_for_unavailable_models: new ones may be given before.
                is_moved = self._labels.get((name, label), version) != version
                if is_moved and self._states.get((name, version)) != _State.AVAILABLE:
                    raise StatusError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, which is not "
                        "currently available for inference",
                    )
            self._config, self._labels = config, labels
            self._poll()

    def _poll(self):
        """Loads and unloads versions; the real server does it each second."""
        aspired = {}
        for one in self._config.model_config_list.config:
            names = os.listdir(one.base_path) if os.path.isdir(one.base_path) else []
            there = sorted(int(name) for name in names if name.isdecimal())
            policy = one.model_version_policy
            kind = policy.WhichOneof("policy_choice") or "latest"
            if kind == "latest":
                there = there[-(policy.latest.num_versions or 1) :]
            elif kind == "specific":
                there = [version for version in there if version in policy.specific.versions]
            for version in there:
                aspired[one.name, version] = os.path.join(one.base_path, str(version))
        for key in aspired.keys() - self._loaded.keys():
            self._loaded[key] = LoadedVersion(aspired[key])
            self._states[key] = _State.AVAILABLE
        for key in self._loaded.keys() - aspired.keys():
            del self._loaded[key]
            self._states[key] = _State.END

    def find(self, spec):
        """A version's number and its `LoadedVersion`."""
        name, choice = spec.name, spec.WhichOneof("version_choice")
        with self._lock:
            self._poll()
            if choice == "version_label":
                if (name, spec.version_label) not in self._labels:
                    raise invalid_argument(
                        f"Unrecognized servable version label: {spec.version_label}"
                    )
                version = self._labels[name, spec.version_label]
            elif choice == "version":
                version = spec.version.value
            else:
                version = max((v for n, v in self._loaded if n == name), default=None)
                if version is None:
                    raise not_found(f"Servable not found for request: Latest({name})")
            if (name, version) not in self._loaded:
                raise not_found(f"Servable not found for request: Specific({name}, {version})")
            return version, self._loaded[name, version]

    def status(self, request):
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            self._poll()
            states = {
                v: state for (n, v), state in self._states.items() if n == request.model_spec.name
            }
        if not states:
            raise not_found(f"Could not find any versions of model {request.model_spec.name}")
        for version, state in sorted(states.items(), reverse=True):
            response.model_version_status.add(version=version, state=state).status.SetInParent()
        return response

    def metadata(self, request):
        version, loaded = self.find(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in loaded.signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def predict(self, spec, arrays):
        """Arrays by name for `serving_default` or the signature that is asked for."""
        _, loaded = self.find(spec)
        name = spec.signature_name or "serving_default"
        if name not in loaded.signature_defs:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        expected = loaded.signature_defs[name].inputs
        if set(arrays) != set(expected):
            extra, lacking = set(arrays) - set(expected), set(expected) - set(arrays)
            raise invalid_argument(
                f"input size does not match signature: {len(arrays)}!={len(expected)} len({{"
                f"{','.join(sorted(arrays))}}}) != len({{{','.join(sorted(expected))}}}). Sent extra: {{"
                f"{','.join(sorted(extra))}}}. Missing but required: {{{','.join(sorted(lacking))}}}."
            )
        for key, array in arrays.items():
            dtype = tf.as_dtype(expected[key].dtype)
            if tf.as_dtype(array.dtype) != dtype:
                raise invalid_argument(
                    f"Expects {key} to be {dtype.name} but {tf.as_dtype(array.dtype).name} is provided"
                )
        return loaded.run(name, arrays)

    def of_examples(self, spec, examples, names):
        _, loaded = self.find(spec)
        signature = spec.signature_name or "serving_default"
        if signature not in loaded.signature_defs:
            raise invalid_argument(f"No signature was found with the name: {signature}")
        if not names <= set(loaded.signature_defs[signature].outputs):
            raise invalid_argument("Expected classification or regression signature outputs")
        serialized = np.array([example.SerializeToString() for example in examples], object)
        return loaded.run(signature, {"inputs": serialized})

    def classify(self, spec, examples):
        outputs = self.of_examples(spec, examples, {"classes", "scores"})
        return [
            [(label.decode(), float(score)) for label, score in zip(*row)]
            for row in zip(outputs["classes"], outputs["scores"])
        ]

    def regress(self, spec, examples):
        return self.of_examples(spec, examples, {"outputs"})["outputs"].ravel().tolist()


_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


def proto_field_of(array):
    """A TensorProto with its values in a field, as the server answers (`AsProtoField`)."""
    dtype = tf.as_dtype(array.dtype)
    proto = tf.make_tensor_proto([], dtype, [0])
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


def answering(method):
    """A servicer's method whose `StatusError` becomes gRPC's."""

    def answer(self, request, context):
        self.fixture.calls.append((method.__name__, context.time_remaining()))
        try:
            self.fixture.interfere()
            return method(self, request)
        except StatusError as error:
            context.abort(error.code, str(error))

    return answer


class PredictionServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, fixture):
        self.fixture, self.models = fixture, fixture.models

    @answering
    def Predict(self, request):
        arrays = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for name, array in self.models.predict(request.model_spec, arrays).items():
            response.outputs[name].CopyFrom(proto_field_of(array))
        return response

    @answering
    def Classify(self, request):
        examples = request.input.example_list.examples
        response = classification_pb2.ClassificationResponse(model_spec=request.model_spec)
        for row in self.models.classify(request.model_spec, examples):
            classes = response.result.classifications.add().classes
            for label, score in row:
                classes.add(label=label, score=score)
        return response

    @answering
    def Regress(self, request):
        examples = request.input.example_list.examples
        response = regression_pb2.RegressionResponse(model_spec=request.model_spec)
        for value in self.models.regress(request.model_spec, examples):
            response.result.regressions.add(value=value)
        return response

    @answering
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid_argument("Metadata field is not supported")
        return self.models.metadata(request)


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, fixture):
        self.fixture, self.models = fixture, fixture.models

    @answering
    def GetModelStatus(self, request):
        return self.models.status(request)

    @answering
    def HandleReloadConfigRequest(self, request):
        response = model_management_pb2.ReloadConfigResponse()
        try:
            self.models.configure(request.config)
        except StatusError as error:
            response.status.error_code = error.code.value[0]
            response.status.error_message = str(error)
        return response


_HTTP_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"


class RestHandler(BaseHTTPRequestHandler):
    """TensorFlow Serving's REST, of `predict` the columnar format."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(_MODEL + "(/metadata)?", self._get)

    def do_POST(self):
        self._answer(_MODEL + ":(classify|regress|predict)", self._post)

    def _answer(self, pattern, method):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fixture = self.server.fixture
        fixture.calls.append((f"{self.command} {self.path}", None))
        code = 200
        try:
            fixture.interfere()
            match = re.fullmatch(pattern, self.path)
            if not match:
                raise invalid_argument(f"Malformed request: {self.command} {self.path}")
            name, version, label, verb = match.groups()
            spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name))
            if version:
                spec.version.value = int(version)
            if label:
                spec.version_label = urllib.parse.unquote(label)
            answer = method(fixture.models, spec, verb, content)
        except StatusError as error:
            answer, code = {"error": str(error)}, _HTTP_CODES[error.code]
        # Bytes are written as they are, UTF-8 or not.
        text = json.dumps(answer, ensure_ascii=False, indent=4).encode("utf-8", "surrogateescape")
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _get(self, models, spec, verb, _):
        options = {"always_print_fields_with_no_presence": True}
        if not verb:
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return MessageToDict(models.status(request), **options)
        options["preserving_proto_field_name"] = True
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec)
        response = models.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": MessageToDict(response.model_spec, **options),
            "metadata": {"signature_def": MessageToDict(signatures, **options)},
        }

    def _post(self, models, spec, verb, content):
        body = json.loads(content)
        spec.signature_name = body.get("signature_name", "")
        if verb != "predict":
            examples = [_example(features) for features in body["examples"]]
            return {"results": getattr(models, verb)(spec, examples)}
        _, loaded = models.find(spec)
        signature = spec.signature_name or "serving_default"
        if signature not in loaded.signature_defs:
            raise invalid_argument(
                f'Serving signature name: "{signature}" not found in signature def'
            )
        infos = loaded.signature_defs[signature].inputs
        lacking = [name for name in infos if name not in body["inputs"]]
        if lacking:
            raise invalid_argument(f"Missing named input: {lacking[0]} in 'inputs' object.")
        arrays = {name: _array(body["inputs"][name], info) for name, info in infos.items()}
        outputs = {
            name: _json_of(array.tolist(), name.endswith("_bytes"))
            for name, array in models.predict(spec, arrays).items()
        }
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}


def _array(value, info):
    dtype = tf.as_dtype(info.dtype)
    if dtype != tf.string:
        array = np.array(value)
        if not np.can_cast(array.dtype, dtype.as_numpy_dtype, "same_kind"):
            raise invalid_argument(f"JSON Value: {value} is not of expected type: {dtype.name}")
        return array.astype(dtype.as_numpy_dtype)
    texts = np.array(value, object)
    flat = np.empty(texts.size, object)
    flat[:] = [_bytes_of(text) for text in texts.ravel()]
    return flat.reshape(texts.shape)


def _bytes_of(text):
    return text.encode() if isinstance(text, str) else base64.b64decode(text["b64"])


def _example(features):
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, (str, dict)):
                feature.bytes_list.value.append(_bytes_of(value))
            elif isinstance(value, float):
                feature.float_list.value.append(value)
            else:
                feature.int64_list.value.append(value)
    return example


def _json_of(value, as_base64):
    if isinstance(value, list):
        return [_json_of(item, as_base64) for item in value]
    if not isinstance(value, bytes):
        return value
    if as_base64:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "surrogateescape")


class ServicerFixture:
    """The servicers behind gRPC and REST; see the module.

    Attributes:
      grpc, rest: addresses for `Client`.
      calls: list of pairs of a method's name and the seconds until the caller's deadline.
      failures: list of `StatusError` that the next calls get.
      delay: seconds before each answer.
    """

    def __init__(self, config, tls=None, ports=(0, 0)):
        """Starts it.

        Args:
          config: `ModelServerConfig`.
          tls: triple of files: the server's key, its certificate, and the clients' root.
          ports: of gRPC and REST; 0 for any.
        """
        self.calls, self.failures, self.delay = [], [], 0.0
        self.models = Models(config)
        self._grpc = grpc.server(futures.ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionServicer(self), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(self), self._grpc)
        self._rest = ThreadingHTTPServer(("localhost", ports[1]), RestHandler)
        self._rest.fixture = self
        scheme = "http" if tls is None else "https"
        if tls is None:
            port = self._grpc.add_insecure_port(f"localhost:{ports[0]}")
        else:
            key, certificate, root = (path.read_bytes() for path in tls)
            port = self._grpc.add_secure_port(
                f"localhost:{ports[0]}",
                grpc.ssl_server_credentials([(key, certificate)], root, True),
            )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls[1], tls[0])
            context.load_verify_locations(tls[2])
            context.verify_mode = ssl.CERT_REQUIRED
            self._rest.socket = context.wrap_socket(self._rest.socket, server_side=True)
        self.grpc, self.rest = f"localhost:{port}", f"{scheme}://localhost:{self._rest.server_port}"
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()

    def interfere(self):
        if self.failures:
            raise self.failures.pop(0)
        time.sleep(self.delay)

    def stop(self):
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()


class ModelServer:
    """TensorFlow Serving itself. Attributes: `grpc`, `rest`, addresses for `Client`."""

    def __init__(self, config, folder):
        if not shutil.which(REAL_SERVER):
            pytest.skip(f"{REAL_SERVER} is not on PATH")
        (folder / "models.config").write_text(text_format.MessageToString(config))
        ports = [_free_port() for _ in range(2)]
        self.grpc, self.rest = f"localhost:{ports[0]}", f"http://localhost:{ports[1]}"
        self._log = open(folder / "server.log", "w")
        self._process = subprocess.Popen(
            [
                REAL_SERVER,
                f"--port={ports[0]}",
                f"--rest_api_port={ports[1]}",
                f"--model_config_file={folder}/models.config",
                "--allow_version_labels_for_unavailable_models=true",
                "--file_system_poll_wait_seconds=1",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        for one in config.model_config_list.config:
            until(lambda name=one.name: _is_available(self.grpc, name), seconds=120)

    def stop(self):
        self._process.terminate()
        self._process.wait()
        self._log.close()


def _free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def _is_available(address, name):
    with Client(address, name, retries=0) as client:
        try:
            return any(one.state == "AVAILABLE" for one in client.status())
        except (ModelNotFound, Unavailable):
            return False


def until(condition, seconds=30):
    """Waits for a condition; the real server looks at its folders once a second."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def config_of(base_paths):
    """A `ModelServerConfig` for a dict from name to folder of versions."""
    config = model_server_config_pb2.ModelServerConfig()
    for name, path in base_paths.items():
        config.model_config_list.config.add(
            name=name, base_path=str(path), model_platform="tensorflow"
        )
    return config


def reload_config(address, config):
    """Gives a server another configuration; returns its status' message, "" if all is well."""
    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest(config=config)
        return stub.HandleReloadConfigRequest(request, timeout=60).status.error_message
