"""Verifies that a SavedModel runs where there is no Python, and gives what Python gave."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.errors import UserError
from electra_tf.export import warmup
from electra_tf.export.c_session import TEXT_OPERATIONS, read_arrays, write_arrays

REFERENCE_FILE = "assets.extra/reference.npz"
TOLERANCE = 1e-5

_HALF_TYPES = (tf.float16, tf.bfloat16)
# They call Python, which a server does not have.
_PYTHON_OPERATIONS = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})


class Verified(NamedTuple):
    """Attributes: `signature`; `inputs`, their names; `outputs`, dict from name to largest difference."""

    signature: str
    inputs: list
    outputs: dict


class Report(NamedTuple):
    """Attributes: `signatures`, list of `Verified`; `num_warmup`, requests of warm-up that were run."""

    signatures: list
    num_warmup: int


def verify(folder):
    """Verifies a SavedModel.

    It is loaded, each of its signatures is run, and so is each request of its warm-up, by TensorFlow's
    C API in a process of its own, with XLA off and no operations but TensorFlow's own and the
    tokenizer's.

    Args:
      folder: `OUTPUT_DIR/NAME/VERSION`.

    Returns:
      `Report`.

    Raises:
      UserError: a file is missing or damaged, it does not load or run there, gives other numbers than it
        gave in Python (by more than 1e-5, of numbers beyond 1 by more than that share of them), has
        other operations, functions that XLA must compile, weights in half precision, or an output whose
        first axis is not the batch.
    """
    meta_graph = read_meta_graph(folder)
    _check_graph(folder, meta_graph)
    _check_weights(folder)
    reference, requests = read_reference(folder), warmup.read_logs(folder)
    results = run(folder, meta_graph, reference, requests)
    if not reference:
        raise UserError(
            f"{folder}: no {REFERENCE_FILE} to compare with; export it by electra_tf.export"
        )
    verified = [
        Verified(name, sorted(signature.inputs), compare(folder, name, reference, results))
        for name, signature in _signatures(meta_graph).items()
    ]
    return Report(verified, len(requests))


def verify_by_openvino(folder):
    """Verifies a SavedModel of ids by a second runtime.

    Args:
      folder: as of `verify`, which comes first.

    Returns:
      dict from output of `serving_default` to largest difference.

    Raises:
      UserError: it does not load or run there, or gives other numbers.
    """
    reference, prefix = read_reference(folder), "serving_default/input/"
    inputs = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
    outputs = _run_apart("openvino_session", folder, inputs, "OpenVINO")
    results = {f"serving_default/{name}": value for name, value in outputs.items()}
    return compare(folder, "serving_default", reference, results)


def why_not_by_openvino(folder):
    """Why `verify_by_openvino` cannot be asked, a str; None where it can."""
    if any(node.op in TEXT_OPERATIONS for node in _nodes(read_meta_graph(folder))):
        return "a model of strings"
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed: pip install 'electra_tf[openvino]'"
    return None


def _signatures(meta_graph):
    """Those that are there to be called, a dict."""
    return {
        name: signature
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("__")
    }


def read_meta_graph(folder):
    """The graph that is served, `meta_graph_pb2.MetaGraphDef`.

    Raises:
      UserError: there is none.
    """
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


def operations_of(meta_graph):
    """Names of the operations of a graph and its functions, sorted."""
    functions = {function.signature.name for function in meta_graph.graph_def.library.function}
    return sorted({node.op for node in _nodes(meta_graph)} - functions)


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
    calls = sorted({node.op for node in _nodes(meta_graph)} & _PYTHON_OPERATIONS)
    if calls:
        raise UserError(f"{folder}: the operation {calls[0]} calls Python, which a server lacks")
    for name, signature in meta_graph.signature_def.items():
        for key, output in signature.outputs.items():
            dims = output.tensor_shape.dim
            if not output.tensor_shape.unknown_rank and (not dims or dims[0].size != -1):
                raise UserError(f"{folder}: {name}: the first axis of {key!r} is not the batch")


def _check_weights(folder):
    variables = tf.io.gfile.join(folder, "variables", "variables")
    with files.users_mistake(f"{variables}: cannot read the weights"):
        dtypes = tf.train.load_checkpoint(variables).get_variable_to_dtype_map()
    half = sorted(name for name, dtype in dtypes.items() if dtype in _HALF_TYPES)
    if half:
        raise UserError(f"{folder}: {half[0]} is in half precision; export in float32")


def read_reference(folder):
    """Inputs and outputs in Python, dict from "signature/input|output/name" to array; empty without."""
    path = tf.io.gfile.join(folder, REFERENCE_FILE)
    if not tf.io.gfile.exists(path):
        return {}
    try:
        return read_arrays(io.BytesIO(files.read(path)))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not whole ({error}); export the model anew") from None


def run(folder, meta_graph, reference, requests=()):
    """Runs all signatures, and requests, by the C API.

    Args:
      folder: the SavedModel's.
      meta_graph: its.
      reference: dict with inputs; a signature without gets some of our own.
      requests: list of `(signature, inputs)`.

    Returns:
      the signatures' outputs, dict from "signature/name" to array.

    Raises:
      UserError: it does not load, or one of them does not run.
    """
    arrays, runs = {}, []

    def add(name, signature, inputs):
        feeds = {}
        for key, tensor in signature.inputs.items():
            if key not in inputs:
                raise UserError(f"{folder}: {name} lacks the input {key!r}")
            arrays[f"{name}/{key}"] = inputs[key]
            feeds[tensor.name] = f"{name}/{key}"
        fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
        runs.append({"name": name, "feeds": feeds, "fetches": fetches})

    signatures = _signatures(meta_graph)
    for name, signature in signatures.items():
        stored = {key: reference.get(f"{name}/input/{key}") for key in signature.inputs}
        missing = any(value is None for value in stored.values())
        anything = {key: _anything(tensor) for key, tensor in signature.inputs.items()}
        add(name, signature, anything if missing else stored)
    for number, (name, inputs) in enumerate(requests):
        if name not in signatures:
            raise UserError(f"{folder}: warm-up request {number} is of {name!r}, which it lacks")
        add(f"warm-up request {number}", signatures[name], inputs)
    plan = json.dumps({"operations": operations_of(meta_graph), "runs": runs})
    arrays["plan"] = np.array(plan, object)
    return _run_apart("c_session", folder, arrays, "TensorFlow's C++ runtime")


def _run_apart(module, folder, arrays, what):
    """Runs one of this package's modules in a process of its own; returns the arrays that it writes."""
    with tempfile.TemporaryDirectory() as work:
        request, result = (os.path.join(work, name) for name in ("request.npz", "result.npz"))
        write_arrays(request, arrays)
        done = subprocess.run(
            [sys.executable, "-m", f"electra_tf.export.{module}", folder, request, result],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            said = next((x for x in lines if x.startswith("error: ")), lines[-1])
            raise UserError(f"{folder}: does not run in {what}: {said[:400]}")
        return read_arrays(result)


def _anything(tensor):
    """An array that a signature takes: two rows."""
    dims = [2 if dim.size == -1 else dim.size for dim in tensor.tensor_shape.dim]
    dtype = tf.dtypes.as_dtype(tensor.dtype)
    if dtype == tf.string:
        return np.full(dims, b"a", object)
    return np.ones(dims, dtype.as_numpy_dtype)


def compare(folder, signature, reference, results):
    """The largest difference of each output of a signature, a dict.

    Args:
      folder: the SavedModel's.
      signature: its name.
      reference: as of `run`.
      results: as `run` gives them.

    Raises:
      UserError: one is too large.
    """
    differences = {}
    prefix = f"{signature}/output/"
    for key in results:
        owner, _, name = key.rpartition("/")
        if owner == signature and f"{prefix}{name}" not in reference:
            raise UserError(
                f"{folder}: {signature}: {REFERENCE_FILE} has no {name!r} to compare with; export the "
                "model anew"
            )
    for key, expected in reference.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        found = results.get(f"{signature}/{name}")
        if found is None or expected.shape != found.shape:
            raise UserError(
                f"{folder}: {signature}: {name!r} has the shape {np.shape(found)}, in Python "
                f"{expected.shape}"
            )
        if expected.dtype == object:
            difference = 0.0 if (expected == found).all() else np.inf
        else:
            difference = np.abs(np.subtract(expected, found, dtype=np.float64))
            difference = float(np.max(difference / np.maximum(1.0, np.abs(expected)), initial=0.0))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: {signature}: {name!r} differs from Python's by {difference:g}, more than "
                f"{TOLERANCE:g}"
            )
        differences[name] = difference
    return differences
