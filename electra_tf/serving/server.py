"""What is asked of a server, by when, and what it tells about itself."""

import dataclasses
import time
from typing import NamedTuple

from electra_tf.errors import UserError


class Target(NamedTuple):
    """Attributes: `address`, `model`; `version` (int), `label` (str) or both None."""

    address: str
    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self):
        version = "" if self.version is None else f", version {self.version}"
        label = "" if self.label is None else f", version label {self.label!r}"
        return f"{self.address}, model {self.model}{version}{label}"


class Deadline:
    """A point in time until which everything that a call does must be done."""

    def __init__(self, seconds):
        self._end = time.monotonic() + seconds

    @property
    def remaining(self):
        """Seconds, at least a millisecond: what is left of them is for gRPC or HTTP to judge."""
        return max(0.001, self._end - time.monotonic())

    def allows(self, seconds):
        """Whether there are more seconds than these left."""
        return time.monotonic() + seconds < self._end


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Files in PEM by which TLS trusts the server, and the server the client.

    ```python
    Client("models.example:443", model="sst2_text", credentials=Credentials("root.pem"))
    ```

    Attributes:
      root_certificate: of whom to trust; None for those that gRPC or Python's requests come with.
      certificate: the client's own, where the server asks for one.
      key: the private key to it.
    """

    root_certificate: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self):
        if (self.certificate is None) != (self.key is None):
            raise UserError("credentials: a client's certificate and its key go together")
        for path in (self.root_certificate, self.certificate, self.key):
            if path is not None:
                read_pem(path)


def read_pem(path):
    """The bytes of a file of `Credentials`.

    Raises:
      UserError: it cannot be read, or is not PEM.
    """
    try:
        with open(path, "rb") as f:
            content = f.read()
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise UserError(f"{path}: no certificate or key in PEM")
    return content


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Attributes: `dtype`, NumPy's name or "string"; `shape`, a tuple with None for free axes, or None."""

    dtype: str
    shape: tuple | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """Attributes: `inputs` and `outputs`, dicts from name to `TensorInfo`."""

    inputs: dict
    outputs: dict


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Attributes: `version`, the one that was asked; `signatures`, dict from name to `Signature`."""

    version: int
    signatures: dict


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """Attributes: `version`; `state`, such as "AVAILABLE" or "END"; `error`, or "" if all is well."""

    version: int
    state: str
    error: str


#: NumPy's dtypes by their names in TensorFlow's protocol buffers; strings are arrays of bytes.
DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "string",
}


def metadata_of(model_spec, signature_defs):
    """`Metadata` of the JSON of a ModelSpec and of a SignatureDefMap."""
    signatures = signature_defs["signature_def"]
    return Metadata(
        int(model_spec["version"]),
        {
            name: Signature(*(_tensors(signature.get(side)) for side in ("inputs", "outputs")))
            for name, signature in sorted(signatures.items())
            if not name.startswith("__")  # __saved_model_init_op
        },
    )


def _tensors(infos):
    return {name: _tensor(info) for name, info in sorted((infos or {}).items())}


def _tensor(info):
    dtype = DTYPES.get(info["dtype"], info["dtype"])
    shape = info.get("tensor_shape", {})
    if shape.get("unknown_rank"):
        return TensorInfo(dtype, None)
    sizes = (int(dim.get("size", 0)) for dim in shape.get("dim", ()))
    return TensorInfo(dtype, tuple(None if size < 0 else size for size in sizes))


def statuses_of(versions):
    """List of `VersionStatus` of the JSON of a list of ModelVersionStatus."""
    return [
        VersionStatus(
            int(one["version"]),
            one.get("state", "UNKNOWN"),
            one.get("status", {}).get("error_message", ""),
        )
        for one in sorted(versions, key=lambda one: int(one["version"]))
    ]
