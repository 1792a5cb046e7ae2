"""Warm-up: requests that a server runs before a model takes others, `assets.extra/tf_serving_warmup_requests`."""

import json

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from electra_tf.errors import UserError

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_REQUESTS = 1000  # Of more, a server refuses the model.


def prediction_log(name, signature, inputs):
    """One request.

    Args:
      name: of the model.
      signature: `serving_default`, `classify` or `regress`.
      inputs: dict of arrays; of the last two, `inputs`, serialized tf.Examples.

    Returns:
      `prediction_log_pb2.PredictionLog`.
    """
    log = prediction_log_pb2.PredictionLog()
    if signature == "serving_default":
        request = log.predict_log.request
        for key, value in inputs.items():
            dtype = tf.string if value.dtype == object else None
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
    else:
        request = getattr(log, f"{signature}_log").request
        request.input.example_list.examples.extend(
            map(tf.train.Example.FromString, inputs["inputs"])
        )
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    return log


def write_logs(folder, logs):
    """Writes requests into a SavedModel's folder."""
    path = tf.io.gfile.join(folder, WARMUP_FILE)
    with tf.io.TFRecordWriter(path) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def read_logs(folder):
    """The requests in a SavedModel's folder.

    Returns:
      list of `(signature, inputs)`, as `prediction_log` takes them.

    Raises:
      UserError: not records of requests, or more than a server takes.
    """
    path, requests = tf.io.gfile.join(folder, WARMUP_FILE), []
    if not tf.io.gfile.exists(path):
        return []
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            requests.append(_request(prediction_log_pb2.PredictionLog.FromString(record)))
    except (tf.errors.DataLossError, DecodeError, ValueError) as error:
        raise UserError(f"{path}: record {len(requests)}: no request ({error})") from None
    if len(requests) > MAX_REQUESTS:
        raise UserError(f"{path}: {len(requests)} requests; a server takes {MAX_REQUESTS} at most")
    return requests


def _request(log):
    kind = log.WhichOneof("log_type")
    if kind not in ("predict_log", "classify_log", "regress_log"):
        raise ValueError(f"of type {kind}")
    request = getattr(log, kind).request
    signature = request.model_spec.signature_name or "serving_default"
    if kind == "predict_log":
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
    else:
        examples = [e.SerializeToString() for e in request.input.example_list.examples]
        inputs = {"inputs": np.array(examples, object)}
    return signature, inputs


def read_requests(path, specs, max_batch_size):
    """Reads requests of strings: a line is a JSON object, from input to a text or a list of texts.

    Args:
      path: the file.
      specs: `tf.TensorSpec`s of the inputs of strings.
      max_batch_size: most texts of a request: a server that batches takes no more.

    Returns:
      list of dicts from input to array of bytes.

    Raises:
      UserError: the file is missing or empty, has more lines than a server takes, or a line is none
        such or has more texts.
    """
    try:
        with tf.io.gfile.GFile(path) as f:
            text = f.read()
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read it: {error}") from None
    # Not `splitlines`: JSON's strings may have other ends of lines in them.
    lines = text.removesuffix("\n").split("\n") if text else []
    if not 1 <= len(lines) <= MAX_REQUESTS:
        raise UserError(f"{path}: {len(lines)} lines; give 1 to {MAX_REQUESTS}")
    return [
        _read_request(line, f"{path}:{number}", specs, max_batch_size)
        for number, line in enumerate(lines, 1)
    ]


def _read_request(line, place, specs, max_batch_size):
    expected = {spec.name: "text" if spec.shape.rank == 1 else "list of texts" for spec in specs}
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or set(values) != set(expected):
            raise ValueError("other keys")
        arrays = {spec.name: _array(values[spec.name], spec) for spec in specs}
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("unlike numbers of rows")
    except ValueError as error:
        kinds = ", ".join(f'"{name}": {kind}' for name, kind in expected.items())
        raise UserError(
            f"{place}: {error}; a line is a JSON object {{{kinds}}}, or with lists of them"
        ) from None
    num_rows = len(next(iter(arrays.values())))
    if num_rows > max_batch_size:
        raise UserError(
            f"{place}: {num_rows} rows, more than a server joins to a batch; give {max_batch_size} at "
            "most, or raise --max_batch_size"
        )
    return arrays


def _array(value, spec):
    array = np.array(value, object)
    if array.ndim == spec.shape.rank - 1:
        array = array[None]
    if not spec.shape.is_compatible_with(array.shape) or not array.size:
        raise ValueError(f"{spec.name!r} is of shape {array.shape}")
    if not all(isinstance(text, str) for text in array.ravel()):
        raise ValueError(f"{spec.name!r} has what is no text")
    flat = np.empty(array.size, object)
    flat[:] = [text.encode("utf-8") for text in array.ravel()]
    return flat.reshape(array.shape)
