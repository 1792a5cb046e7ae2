"""Runs the signatures of a SavedModel through TensorFlow's C API, as a server does.

  python -m electra_tf.export.c_session MODEL_FOLDER REQUEST.npz RESULT.npz

Nothing of TensorFlow's Python code is imported: what loads here, and runs, does so in C++ alone. XLA is
off, as it is in a server that nobody asked for it. What is not TensorFlow's own must be an operation of
TensorFlow Text that servers have.
"""

import ctypes
import importlib.util
import json
import os
import sys

import numpy as np

_STRING = 7
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}
_TSTRING_BYTES = 24
# What a server has of TensorFlow Text since 2.12.1, as far as the tokenizer needs it: an operation, and
# the library that it is in.
TEXT_OPERATIONS = {
    "FastBertNormalize": "_fast_bert_normalizer.so",
    "FastWordpieceTokenizeWithOffsets": "_fast_wordpiece_tokenizer.so",
}
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"  # tensorflow::DisableXlaCompilation()


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class SessionError(RuntimeError):
    """What TensorFlow answered in place of a result."""


def write_arrays(file, arrays):
    """Writes arrays to a path or a file object.

    Those of bytes become JSON, since numpy's own strings lose zeros at their ends.
    """
    flat = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind in "OSU":
            texts = [_as_bytes(item).decode("latin-1") for item in array.ravel()]
            content = json.dumps({"shape": array.shape, "texts": texts}).encode()
            flat[f"strings:{name}"] = np.frombuffer(content, np.uint8)
        else:
            flat[f"numbers:{name}"] = array
    np.savez(file, **flat)


def read_arrays(file):
    """Reads what `write_arrays` wrote: dict of arrays, those of bytes of dtype object."""
    arrays = {}
    with np.load(file) as f:
        for key in f.files:
            kind, _, name = key.partition(":")
            if kind == "numbers":
                arrays[name] = f[key]
                continue
            values = json.loads(f[key].tobytes())
            array = np.empty(len(values["texts"]), object)
            array[:] = [text.encode("latin-1") for text in values["texts"]]
            arrays[name] = array.reshape(values["shape"])
    return arrays


def _as_bytes(item):
    return item.encode("utf-8") if isinstance(item, str) else bytes(item)


class CSession:
    """A SavedModel, loaded by the C API."""

    def __init__(self, folder, operations, tags=("serve",)):
        """Loads it.

        Args:
          folder: the SavedModel's.
          operations: names of all that its graph and its functions have.
          tags: of its graph.

        Raises:
          SessionError: it has operations that are neither TensorFlow's own nor of `TEXT_OPERATIONS`, or
            TensorFlow cannot load it.
        """
        root = _package_folder("tensorflow")
        ctypes.CDLL(os.path.join(root, "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
        self._c = ctypes.CDLL(os.path.join(root, "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
        for name in (
            "TF_NewStatus",
            "TF_NewBuffer",
            "TF_NewGraph",
            "TF_NewSessionOptions",
            "TF_LoadSessionFromSavedModel",
            "TF_LoadLibrary",
            "TF_GraphOperationByName",
            "TF_AllocateTensor",
            "TF_TensorData",
            "TF_StringGetDataPointer",
        ):
            getattr(self._c, name).restype = ctypes.c_void_p
        self._c.TF_Message.restype = ctypes.c_char_p
        for name in ("TF_Dim", "TF_StringGetSize", "TF_TensorByteSize"):
            getattr(self._c, name).restype = ctypes.c_int64
        getattr(self._c, _DISABLE_XLA)()
        self._status = ctypes.c_void_p(self._c.TF_NewStatus())
        self._graph = ctypes.c_void_p(self._c.TF_NewGraph())
        self._load_operations(operations)
        options = ctypes.c_void_p(self._c.TF_NewSessionOptions())
        self._session = ctypes.c_void_p(
            self._c.TF_LoadSessionFromSavedModel(
                options,
                None,
                folder.encode(),
                (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags)),
                len(tags),
                self._graph,
                None,
                self._status,
            )
        )
        self._check()

    def _load_operations(self, operations):
        """Loads the libraries of those that are not TensorFlow's own."""
        folder = os.path.join(_package_folder("tensorflow_text"), "python", "ops")
        for name in [name for name in operations if not self._is_registered(name)]:
            if name not in TEXT_OPERATIONS:
                raise SessionError(
                    f"the operation {name} is neither TensorFlow's own nor one of TensorFlow Text's "
                    f"{', '.join(TEXT_OPERATIONS)}"
                )
            library = os.path.join(folder, TEXT_OPERATIONS[name])
            self._c.TF_LoadLibrary(library.encode(), self._status)
            self._check()

    def _is_registered(self, operation):
        definition = ctypes.c_void_p(self._c.TF_NewBuffer())
        self._c.TF_GraphGetOpDef(self._graph, operation.encode(), definition, self._status)
        self._c.TF_DeleteBuffer(definition)
        return self._c.TF_GetCode(self._status) == 0

    def _check(self):
        if self._c.TF_GetCode(self._status):
            raise SessionError(self._c.TF_Message(self._status).decode("utf-8", "replace"))

    def run(self, feeds, fetches):
        """Computes tensors.

        Args:
          feeds: dict from tensor's name ("operation:0") to array.
          fetches: list of tensors' names.

        Returns:
          list of arrays, those of bytes of dtype object.

        Raises:
          SessionError: TensorFlow cannot run it.
        """
        inputs = (_Output * len(feeds))(*map(self._output, feeds))
        outputs = (_Output * len(fetches))(*map(self._output, fetches))
        values = (ctypes.c_void_p * len(feeds))(*map(self._tensor, feeds.values()))
        results = (ctypes.c_void_p * len(fetches))()
        self._c.TF_SessionRun(
            self._session,
            None,
            inputs,
            values,
            len(feeds),
            outputs,
            results,
            len(fetches),
            None,
            0,
            None,
            self._status,
        )
        for value in values:
            self._c.TF_DeleteTensor(ctypes.c_void_p(value))
        self._check()
        arrays = [self._array(ctypes.c_void_p(result)) for result in results]
        for result in results:
            self._c.TF_DeleteTensor(ctypes.c_void_p(result))
        return arrays

    def _output(self, name):
        operation, _, index = name.partition(":")
        found = self._c.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise SessionError(f"no operation {operation!r} in the graph")
        return _Output(found, int(index or 0))

    def _tensor(self, array):
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        is_text = array.dtype.kind in "OSU"
        code = _STRING
        if not is_text:
            code = next(code for code, dtype in _DTYPES.items() if dtype == array.dtype)
        num_bytes = array.size * _TSTRING_BYTES if is_text else array.nbytes
        tensor = ctypes.c_void_p(
            self._c.TF_AllocateTensor(code, dims, array.ndim, ctypes.c_size_t(num_bytes))
        )
        data = self._c.TF_TensorData(tensor)
        if not is_text:
            ctypes.memmove(data, array.ctypes.data, array.nbytes)
            return tensor.value
        for index, item in enumerate(array.ravel()):
            content = _as_bytes(item)
            place = ctypes.c_void_p(data + index * _TSTRING_BYTES)
            self._c.TF_StringInit(place)
            self._c.TF_StringCopy(place, content, ctypes.c_size_t(len(content)))
        return tensor.value

    def _array(self, tensor):
        shape = [self._c.TF_Dim(tensor, axis) for axis in range(self._c.TF_NumDims(tensor))]
        data, code = self._c.TF_TensorData(tensor), self._c.TF_TensorType(tensor)
        if code != _STRING:
            content = ctypes.string_at(data, self._c.TF_TensorByteSize(tensor))
            return np.frombuffer(content, _DTYPES[code]).reshape(shape)
        array = np.empty(int(np.prod(shape)), object)
        for index in range(array.size):
            place = ctypes.c_void_p(data + index * _TSTRING_BYTES)
            pointer, size = self._c.TF_StringGetDataPointer(place), self._c.TF_StringGetSize(place)
            array[index] = ctypes.string_at(pointer, size)
        return array.reshape(shape)


def _package_folder(name):
    """Where an installed package is, without importing it."""
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations)[0]


def main(argv):
    """Loads a model, runs what REQUEST asks for, and writes the results.

    REQUEST has `plan`, one string of JSON: `operations`, see `CSession`, and `runs`, a list of `name`,
    `feeds` (dict from tensor to array's name) and `fetches` (dict from result's name to tensor).
    """
    folder, request, result = argv
    arrays = read_arrays(request)
    plan = json.loads(arrays["plan"].item())
    session, results = CSession(folder, plan["operations"]), {}
    for run in plan["runs"]:
        feeds = {tensor: arrays[name] for tensor, name in run["feeds"].items()}
        try:
            values = session.run(feeds, list(run["fetches"].values()))
        except SessionError as error:
            raise SessionError(f"{run['name']}: {error}") from None
        results |= {f"{run['name']}/{name}": value for name, value in zip(run["fetches"], values)}
    assert "tensorflow" not in sys.modules
    write_arrays(result, results)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SessionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
