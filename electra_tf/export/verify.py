"""Verifies that a SavedModel runs where there is no Python, and gives what Python gave."""

import io
import json
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from electra_tf.errors import UserError
from electra_tf.export.c_session import read_arrays, write_arrays

REFERENCE_FILE = "assets.extra/reference.npz"
TOLERANCE = 1e-5

# The operations of TensorFlow Text that servers have since 2.12.1, as far as the tokenizer needs them.
TEXT_OPERATIONS = frozenset({"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"})
_HALF_TYPES = (tf.float16, tf.bfloat16)


class Verified(NamedTuple):
    """Attributes: `signature`; `inputs`, their names; `outputs`, dict from name to largest difference."""

    signature: str
    inputs: list
    outputs: dict


def verify(folder):
    """Verifies a SavedModel.

    It is loaded, and each of its signatures is run, by TensorFlow's C API in a process of its own, with
    XLA off and no operations but TensorFlow's own and the tokenizer's.

    Args:
      folder: `OUTPUT_DIR/NAME/VERSION`.

    Returns:
      list of `Verified`.

    Raises:
      UserError: it does not load or run there, gives other numbers than it gave in Python (by more than
        1e-5), has functions that XLA must compile, weights in half precision, or an output whose first
        axis is not the batch.
    """
    meta_graph = _read_meta_graph(folder)
    _check_graph(folder, meta_graph)
    _check_weights(folder)
    signatures = {
        name: signature
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("__")
    }
    reference = _read_reference(folder)
    results = _run(folder, meta_graph, signatures, reference)
    if not reference:
        raise UserError(
            f"{folder}: no {REFERENCE_FILE} to compare with; export it by electra_tf.export"
        )
    return [
        Verified(name, sorted(signature.inputs), _compare(folder, name, reference, results))
        for name, signature in signatures.items()
    ]


def _read_meta_graph(folder):
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = tf.io.gfile.join(folder, "saved_model.pb")
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            model = saved_model_pb2.SavedModel.FromString(f.read())
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None
    except DecodeError:
        raise UserError(f"{path}: no SavedModel") from None
    served = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not served:
        raise UserError(f"{path}: no graph with the tag 'serve' in it")
    return served[0]


def _nodes(meta_graph):
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def


def _check_graph(folder, meta_graph):
    compiled = [
        function.signature.name
        for function in meta_graph.graph_def.library.function
        if function.attr["_XlaMustCompile"].b
    ]
    if compiled:
        raise UserError(
            f"{folder}: {compiled[0]} is to be compiled by XLA, which is off in a server"
        )
    for name, signature in meta_graph.signature_def.items():
        for key, output in signature.outputs.items():
            dims = output.tensor_shape.dim
            if not output.tensor_shape.unknown_rank and (not dims or dims[0].size != -1):
                raise UserError(f"{folder}: {name}: the first axis of {key!r} is not the batch")


def _check_weights(folder):
    variables = tf.io.gfile.join(folder, "variables", "variables")
    dtypes = tf.train.load_checkpoint(variables).get_variable_to_dtype_map()
    half = sorted(name for name, dtype in dtypes.items() if dtype in _HALF_TYPES)
    if half:
        raise UserError(f"{folder}: {half[0]} is in half precision; export in float32")


def _read_reference(folder):
    path = tf.io.gfile.join(folder, REFERENCE_FILE)
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as f:
        return read_arrays(io.BytesIO(f.read()))


def _run(folder, meta_graph, signatures, reference):
    """Runs all signatures by the C API; returns the outputs, by "signature/name"."""
    arrays, runs = {}, []
    for name, signature in signatures.items():
        feeds = {}
        for key, tensor in signature.inputs.items():
            array = f"{name}/input/{key}"
            arrays[array] = reference.get(array, _anything(tensor))
            feeds[tensor.name] = array
        fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
        runs.append({"name": name, "feeds": feeds, "fetches": fetches})
    with_text = any(node.op in TEXT_OPERATIONS for node in _nodes(meta_graph))
    plan = json.dumps({"with_text": with_text, "runs": runs})
    with tempfile.TemporaryDirectory() as work:
        request, result = (os.path.join(work, name) for name in ("request.npz", "result.npz"))
        write_arrays(request, {**arrays, "plan": np.array(plan, object)})
        done = subprocess.run(
            [sys.executable, "-m", "electra_tf.export.c_session", folder, request, result],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            said = next((x for x in lines if x.startswith("error: ")), lines[-1])
            raise UserError(f"{folder}: does not run in TensorFlow's C++ runtime: {said[:400]}")
        return read_arrays(result)


def _anything(tensor):
    """An array that a signature takes: two rows."""
    dims = [2 if dim.size == -1 else dim.size for dim in tensor.tensor_shape.dim]
    dtype = tf.dtypes.as_dtype(tensor.dtype)
    if dtype == tf.string:
        return np.full(dims, b"a", object)
    return np.ones(dims, dtype.as_numpy_dtype)


def _compare(folder, signature, reference, results):
    """The largest difference of each output."""
    differences = {}
    prefix = f"{signature}/output/"
    for key, expected in reference.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        found = results[f"{signature}/{name}"]
        if expected.shape != found.shape:
            raise UserError(
                f"{folder}: {signature}: {name!r} has the shape {found.shape}, in Python {expected.shape}"
            )
        if expected.dtype == object:
            difference = 0.0 if (expected == found).all() else np.inf
        else:
            difference = float(np.max(np.abs(expected - found), initial=0.0))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: {signature}: {name!r} differs from Python's by {difference:g}, more than "
                f"{TOLERANCE:g}"
            )
        differences[name] = difference
    return differences
