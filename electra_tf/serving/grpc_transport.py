"""TensorFlow Serving over gRPC, by the official stubs."""

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict

from electra_tf.errors import UserError
from electra_tf.serving import server, stubs
from electra_tf.serving.errors import error_of

# gRPC waits a second before it connects again, longer than the first retries of a call.
_RECONNECT_MS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

# Where a TensorProto has values that are not in `tensor_content`.
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "string": "string_val",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int_val"),
}
_PROTO_NAMES = {dtype: name for name, dtype in server.DTYPES.items()}


class GrpcTransport:
    """See `Client`, whose calls these are, once each; errors are those of `errors.error_of`."""

    def __init__(self, target, credentials, max_message_bytes):
        self._target = target
        options = (
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            *_RECONNECT_MS,
        )
        if credentials is None:
            self._channel = grpc.insecure_channel(target.address, options)
        else:
            files = (credentials.root_certificate, credentials.key, credentials.certificate)
            contents = (path and server.read_pem(path) for path in files)
            self._channel = grpc.secure_channel(
                target.address, grpc.ssl_channel_credentials(*contents), options
            )
        self._predictions = stubs.PredictionServiceStub(self._channel)
        self._models = stubs.ModelServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def predict(self, inputs, signature, deadline):
        """Dict of arrays for a dict of arrays, those of strings of bytes."""
        request = stubs.PredictRequest(model_spec=self._model_spec(signature))
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(proto_of(name, array))
        answer = self._ask(self._predictions.Predict, request, deadline)
        return {name: array_of(name, proto) for name, proto in answer.outputs.items()}

    def classify(self, examples, signature, deadline):
        """List of dicts from label to score, for a list of dicts of features."""
        request = stubs.ClassificationRequest(model_spec=self._model_spec(signature))
        request.input.example_list.examples.extend(map(example_of, examples))
        answer = self._ask(self._predictions.Classify, request, deadline)
        return [
            {one.label: one.score for one in row.classes} for row in answer.result.classifications
        ]

    def regress(self, examples, signature, deadline):
        """List of floats, for a list of dicts of features."""
        request = stubs.RegressionRequest(model_spec=self._model_spec(signature))
        request.input.example_list.examples.extend(map(example_of, examples))
        answer = self._ask(self._predictions.Regress, request, deadline)
        return [one.value for one in answer.result.regressions]

    def metadata(self, deadline):
        """`server.Metadata`."""
        request = stubs.GetModelMetadataRequest(
            model_spec=self._model_spec(), metadata_field=["signature_def"]
        )
        answer = self._ask(self._predictions.GetModelMetadata, request, deadline)
        signatures = stubs.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return server.metadata_of(_json(answer.model_spec), _json(signatures))

    def status(self, deadline):
        """List of `server.VersionStatus`, of all versions."""
        spec = stubs.ModelSpec(name=self._target.model)
        request = stubs.GetModelStatusRequest(model_spec=spec)
        answer = self._ask(self._models.GetModelStatus, request, deadline)
        return server.statuses_of([_json(one) for one in answer.model_version_status])

    def _model_spec(self, signature=""):
        spec = stubs.ModelSpec(name=self._target.model, signature_name=signature)
        if self._target.version is not None:
            spec.version.value = self._target.version
        if self._target.label is not None:
            spec.version_label = self._target.label
        return spec

    def _ask(self, method, request, deadline):
        try:
            return method(request, timeout=deadline.remaining)
        except grpc.RpcError as error:
            raise error_of(self._target, error.code().name, error.details() or "") from None


def _json(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def proto_of(name, array):
    """A `TensorProto` of an array.

    Args:
      name: of the input, for messages.
      array: of numbers, of bool, or of bytes (dtype object).

    Raises:
      UserError: a dtype that is none of `server.DTYPES`.
    """
    dtype = "string" if array.dtype == object else array.dtype.name
    if dtype not in _PROTO_NAMES:
        raise UserError(f"input {name!r}: dtype {dtype} cannot be sent")
    proto = stubs.TensorProto(dtype=stubs.DataType.Value(_PROTO_NAMES[dtype]))
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == "string":
        proto.string_val.extend(array.ravel())
    else:
        proto.tensor_content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return proto


def array_of(name, proto):
    """The array of a `TensorProto`, of bytes (dtype object) where it has strings.

    Raises:
      UserError: a dtype that is none of `server.DTYPES`.
    """
    proto_name = stubs.DataType.Name(proto.dtype)
    dtype = server.DTYPES.get(proto_name)
    if dtype is None:
        raise UserError(f"output {name!r}: dtype {proto_name} cannot be read")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, np.dtype(dtype).newbyteorder("<"))
        return values.astype(dtype).reshape(shape)
    values = list(getattr(proto, _FIELDS[dtype]))
    # The last value may stand for all that follow; no value at all for zeros.
    values += values[-1:] * (int(np.prod(shape)) - len(values))
    if dtype == "string":
        return np.array(values, object).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def example_of(features):
    """An `Example` of a dict from name to a list of bytes, of int or of float."""
    example = stubs.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if all(isinstance(value, bytes) for value in values):
            feature.bytes_list.value.extend(values)
        elif all(isinstance(value, int) for value in values):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example
