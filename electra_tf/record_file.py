"""One record of a TFRecord file, wherever it stands.

TensorFlow's own random reader fetches 16 MiB for each record and keeps them for each open file.
"""

import functools
import struct

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io import _pywrap_file_io  # `tf.io.gfile` fetches 512 KiB.

_BUFFER_BYTES = 8192  # A record of 512 tokens has about 3,000.
_HEADER = struct.Struct("<QI")  # Length, checksum of the length.
_FOOTER = struct.Struct("<I")  # Checksum of the content.


class RecordFile:
    """A TFRecord file without compression, local or `gs://`.

    ```python
    RecordFile("records/train.tfrecord-00000-of-00001").read(0)
    ```
    """

    def __init__(self, path):
        self._stream = _pywrap_file_io.BufferedInputStream(path, _BUFFER_BYTES)

    def read(self, offset):
        """The content of the record at a byte, bytes.

        Raises:
          ValueError: there is no whole record whose checksums are right.
          tf.errors.OpError: the file cannot be read.
        """
        self._stream.seek(offset)
        header = self._stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError("the file ends")
        length, checksum = _HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            raise ValueError("wrong length")
        content = self._stream.read(length + _FOOTER.size)
        if len(content) < length + _FOOTER.size:
            raise ValueError("the file ends")
        if masked_crc32c(content[:length]) != _FOOTER.unpack_from(content, length)[0]:
            raise ValueError("wrong content")
        return content[:length]


def compression_of(path):
    """The `compression_type` that TensorFlow's readers of TFRecords want, by how a file begins."""
    with tf.io.gfile.GFile(path, "rb") as f:
        return "GZIP" if f.read(3) == b"\x1f\x8b\x08" else ""


def masked_crc32c(content):
    """The checksum of TFRecords: CRC-32C, turned by 15 bits, plus a constant."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content):
    """CRC-32C (Castagnoli) of bytes; 0 for none.

    The checksum is linear: each byte contributes what it would be with only zeros after it.
    """
    values = np.frombuffer(content, np.uint8).astype(np.intp)
    values[:4] ^= 0xFF  # The register begins with ones, which meet the first four bytes.
    length = len(values)
    rows = 1 << max(6, (length - 1).bit_length())
    entries = values + np.arange(256 * (length - 1), -1, -256)
    crc = int(np.bitwise_xor.reduce(_contributions(rows)[entries], initial=0))
    for missing in range(length, 4):  # The ones that met no byte.
        crc ^= 0xFF << 8 * (missing - length)
    return crc ^ 0xFFFFFFFF


@functools.cache
def _contributions(rows):
    """Of a byte value with so many zeros after it: uint32 [rows * 256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    contributions = [table]
    while len(contributions) < rows:
        before = contributions[-1]
        contributions.append((before >> 8) ^ table[before & 0xFF])
    return np.concatenate(contributions)
