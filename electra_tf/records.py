"""TFRecords of pre-training examples -> batches.

The order of the examples is a function of (seed, epoch) alone, so that the step tells the position
and a resumed run goes on at the same example. Uncompressed shards are read at random through an
index of record offsets beside them; GZIP ones, which have no offsets, in a stream.
"""

import functools
import io
import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import message
from tensorflow.python.lib.io import tf_record  # Random access has no public name.

from electra_tf import files
from electra_tf.errors import UserError
from electra_tf.record_file import RecordFile, compression_of
from electra_tf.tokenization import vocab_sha256

DATASET_FILE = "dataset.json"
INDEX_FILE = "index.npz"
FEATURES = ("input_ids", "input_mask", "segment_ids")

_STREAM_SHUFFLE_BUFFER = 100_000
_HEADER_BYTES, _FOOTER_BYTES = 12, 4  # Of a record: length and checksum; checksum.


def holds_records(folder):
    """Whether a folder holds a data set or shards."""
    names = (DATASET_FILE, "*tfrecord*")
    return any(files.glob(folder, name) for name in names)


def find_shards(pattern):
    """Shards of a folder, path or glob (several separated by commas), sorted.

    Raises:
      UserError: none matches.
    """
    shards = []
    for part in filter(None, pattern.split(",")):
        is_folder = tf.io.gfile.isdir(part)
        found = [
            path
            for path in (files.glob(part, "*tfrecord*") if is_folder else tf.io.gfile.glob(part))
            if not path.endswith((".json", ".npz")) and not tf.io.gfile.isdir(path)
        ]
        if not found:
            raise UserError(
                f"{part}: no TFRecords there; give a folder or glob of shards, which "
                "data/build_pretraining_data.py writes"
            )
        shards += sorted(found)
    return shards


class Shard(NamedTuple):
    """Attributes: `path`; `offsets` (int64) of its records; `is_gzip`: offsets are record numbers then."""

    path: str
    offsets: np.ndarray
    is_gzip: bool


def _scan(path, skip_corrupt):
    """Reads a shard from end to end.

    Returns:
      `(Shard, number of places with unreadable records)`.

    Raises:
      UserError: a record is corrupt and `skip_corrupt` is off.
    """
    if compression_of(path):
        return _scan_gzip(path, skip_corrupt)
    offsets, offset, corrupt = [], 0, 0
    size = tf.io.gfile.stat(path).length
    reader = tf_record.tf_record_random_reader(path)
    while offset < size:
        try:
            _, end = reader.read(offset)
            offsets.append(offset)
        except (tf.errors.DataLossError, tf.errors.OutOfRangeError, IndexError):
            if not skip_corrupt:
                raise UserError(_corrupt_message(path, f"at byte {offset}")) from None
            corrupt += 1
            end = _end_by_header(path, offset)
            reader = tf_record.tf_record_random_reader(path)  # It stays at an error otherwise.
        offset = end
    return Shard(path, np.array(offsets, np.int64), False), corrupt


def _end_by_header(path, offset):
    """Where the record after a corrupt one begins, if its header was spared; else the file's end."""
    size = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, "rb") as f:
        f.seek(offset)
        header = f.read(8)
    if len(header) == 8:
        end = offset + _HEADER_BYTES + struct.unpack("<Q", header)[0] + _FOOTER_BYTES
        if end < size:
            try:
                tf_record.tf_record_random_reader(path).read(end)
                return end
            except (tf.errors.OpError, IndexError):
                pass  # The header lied: nothing tells where the next record begins.
    return size


def _scan_gzip(path, skip_corrupt):
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(path, compression_type="GZIP"):
            count += 1
    except tf.errors.OpError:
        if not skip_corrupt:
            raise UserError(_corrupt_message(path, f"after {count} records")) from None
        return Shard(path, np.arange(count), True), 1
    return Shard(path, np.arange(count), True), 0


def _corrupt_message(path, where):
    return (
        f"{path}: truncated or corrupt {where}; copy or build the shard again, or leave such "
        "records out with --skip_corrupt, in another --output_dir where a run has begun"
    )


def _index_path(shard):
    folder, _, _ = shard.rpartition("/")
    return tf.io.gfile.join(folder or ".", INDEX_FILE)


def _name(path):
    return path.rpartition("/")[2]


def write_index(paths):
    """Scans shards of one folder and writes their offsets beside them.

    Returns:
      list of `Shard`.
    """
    shards = [_scan(path, skip_corrupt=False)[0] for path in paths]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **{
            f"{_name(shard.path)}|{tf.io.gfile.stat(shard.path).length}": shard.offsets
            for shard in shards
        },
    )
    files.write(_index_path(paths[0]), buffer.getvalue())
    return shards


def read_shards(paths, skip_corrupt=False):
    """Finds the records of shards, by the index where it is newer than they are, else by reading.

    Args:
      paths: list of files.
      skip_corrupt: leave out records that cannot be read, and say how many, instead of raising.

    Returns:
      list of `Shard`.

    Raises:
      UserError: a shard is truncated or corrupt, or there is no record at all.
    """
    shards = []
    for path in paths:
        shard = None if skip_corrupt else _read_index(path)
        if shard is None:
            shard, corrupt = _scan(path, skip_corrupt)
            if corrupt:
                logging.warning("%s: left out %d corrupt place(s)", path, corrupt)
        shards.append(shard)
    if not sum(len(shard.offsets) for shard in shards):
        raise UserError(f"{paths[0]}: no record in {len(paths)} shard(s); build them again")
    return shards


def _read_index(path):
    index = _index_path(path)
    if not tf.io.gfile.exists(index):
        return None
    shard_stat = tf.io.gfile.stat(path)
    if tf.io.gfile.stat(index).mtime_nsec <= shard_stat.mtime_nsec:
        return None
    with tf.io.gfile.GFile(index, "rb") as f, np.load(io.BytesIO(f.read())) as offsets:
        key = f"{_name(path)}|{shard_stat.length}"
        return Shard(path, offsets[key], False) if key in offsets else None


def read_dataset_file(paths):
    """The `dataset.json` beside shards as a dict, or None where none is."""
    path = tf.io.gfile.join(_index_path(paths[0]).removesuffix(INDEX_FILE), DATASET_FILE)
    if not tf.io.gfile.exists(path):
        return None
    return files.read_json_object(path)


def check_records(shards, flag, config, tokenizer):
    """Compares records with the run that is to read them.

    Args:
      shards: list of `Shard`.
      flag: that named them, for the error.
      config: `configs.PretrainingConfig`.
      tokenizer: `Tokenizer`.

    Raises:
      UserError: another length, vocabulary or casing, or no pre-training examples at all.
    """
    first_of_folder = {}
    for shard in shards:
        if len(shard.offsets):
            first_of_folder.setdefault(_index_path(shard.path), shard)
    for shard in first_of_folder.values():
        _check_shard(shard, flag, config, tokenizer)


def _check_shard(shard, flag, config, tokenizer):
    path, dataset = shard.path, read_dataset_file([shard.path]) or {}
    for key, value, remedy in (
        (
            "max_seq_length",
            config.max_seq_length,
            f"set --override=max_seq_length={dataset.get('max_seq_length')} or build them again",
        ),
        (
            "vocab_sha256",
            vocab_sha256(tokenizer.vocab),
            "give the --vocab_file that they were built with",
        ),
        (
            "do_lower_case",
            tokenizer.lowercase,
            f"set --override=do_lower_case={dataset.get('do_lower_case')} or build them again",
        ),
        (
            "strip_accents",
            tokenizer.strip_accents,
            f"set --override=strip_accents={dataset.get('strip_accents')} or build them again",
        ),
    ):
        if dataset.get(key, value) != value:
            raise UserError(
                f"{flag}: {path}: the records have {key} {dataset[key]}, this run {value}; {remedy}"
            )
    # Foreign records come without a dataset.json: the first one tells.
    try:
        features = tf.train.Example.FromString(_first_record(shard)).features.feature
    except message.DecodeError:
        raise UserError(f"{flag}: {path}: its first record is no tf.Example") from None
    except (tf.errors.OpError, ValueError):
        raise UserError(_corrupt_message(path, "in its first record")) from None
    for name in FEATURES:
        length = len(features[name].int64_list.value)
        if length != config.max_seq_length:
            raise UserError(
                f"{flag}: {path}: '{name}' has length {length}, but max_seq_length is "
                f"{config.max_seq_length}; set --override=max_seq_length to the records', or build "
                "them again"
            )
    largest = max(features["input_ids"].int64_list.value)
    if largest >= tokenizer.vocab_size:
        raise UserError(
            f"{flag}: {path}: holds token {largest}, but the vocabulary ends at "
            f"{tokenizer.vocab_size - 1}; give the --vocab_file that the records were built with"
        )


def _first_record(shard):
    if not shard.is_gzip:
        return RecordFile(shard.path).read(int(shard.offsets[0]))
    records = tf.data.TFRecordDataset(shard.path, compression_type="GZIP")
    return next(iter(records.take(1))).numpy()


def epoch_order(num_examples, seed, epoch):
    """The order of the examples in one epoch: a permutation, int64 [num_examples].

    Sorts raw Philox bits: NumPy keeps those the same in every version, its `permutation` not.
    """
    bits = np.random.Philox(key=[seed, epoch]).random_raw(num_examples)
    return np.argsort(bits, kind="stable")


class RecordReader:
    """Reads records of uncompressed shards by number, counted through all shards.

    Attributes:
      error: the `UserError` that `read` raised. Inside a `tf.data` pipeline it turns into an
        error of TensorFlow's; the caller finds the cause here.
    """

    def __init__(self, shards):
        self._shards = shards
        self._files = [RecordFile(shard.path) for shard in shards]
        self._first = np.cumsum([0] + [len(shard.offsets) for shard in shards])
        self.error = None

    def read(self, numbers):
        """The serialized examples of these numbers (int array [B]): object array of bytes [B].

        Raises:
          UserError: a record is unreadable.
        """
        shard_numbers = np.searchsorted(self._first, numbers, side="right") - 1
        batch = []
        for shard_number, number in zip(shard_numbers.tolist(), numbers.tolist()):
            path, offsets, _ = self._shards[shard_number]
            offset = int(offsets[number - self._first[shard_number]])
            try:
                batch.append(self._files[shard_number].read(offset))
            except (tf.errors.OpError, ValueError):
                self.error = UserError(_corrupt_message(path, f"at byte {offset}"))
                raise self.error from None
        return np.array(batch, object)


class ExampleOrder:
    """Which examples make up the batch of any step; epochs follow each other without a gap."""

    def __init__(self, num_examples, batch_size, seed):
        self._num_examples = num_examples
        self._batch_size = batch_size
        self._epoch_order = functools.lru_cache(maxsize=2)(
            functools.partial(epoch_order, num_examples, seed)
        )

    def numbers(self, step):
        """Numbers of the examples of a step, int64 [batch_size]."""
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, places = np.divmod(positions, self._num_examples)
        return np.concatenate(
            [
                self._epoch_order(epoch)[places[epochs == epoch]]
                for epoch in np.unique(epochs).tolist()
            ]
        )


class RecordBatches:
    """Batches of examples, for training and for evaluation.

    Attributes:
      num_examples: int.
    """

    def __init__(self, shards, batch_size, max_seq_length):
        """Opens shards.

        Args:
          shards: list of `Shard`.
          batch_size: examples of a batch.
          max_seq_length: length of the examples.
        """
        self._shards = shards
        self._batch_size = batch_size
        self._max_seq_length = max_seq_length
        self._streams = any(shard.is_gzip for shard in shards)
        self._reader = None if self._streams else RecordReader(shards)
        self.num_examples = sum(len(shard.offsets) for shard in shards)

    @property
    def error(self):
        """The `UserError` behind an error of the pipeline, or None."""
        return self._reader.error if self._reader else None

    def training(self, seed, first_step, last_step, num_parts=1, parts=range(1)):
        """The batches of the steps from `first_step` up to `last_step`, in the order of the seed.

        Args:
          seed: decides the order.
          first_step, last_step: int; `last_step` itself is not among them.
          num_parts: how many replicas share a step's batch; divides the batch size.
          parts: range of those parts of each batch that are read here; the others' rows are not.

        Returns:
          `tf.data.Dataset` of dicts of int32 [batch_size / num_parts, max_seq_length]: the parts of
          the first step, then those of the second.
        """
        size = self._batch_size // num_parts
        if self._streams:
            serialized = (
                self._shuffled_stream(seed)
                .batch(size, drop_remainder=True)
                .skip(first_step * num_parts)
                .take((last_step - first_step) * num_parts)
            )
            serialized = _only_parts(serialized, num_parts, parts)
        else:
            order = ExampleOrder(self.num_examples, self._batch_size, seed)

            def read(i):
                step, part = divmod(int(i), len(parts))
                first = parts[part] * size
                return self._reader.read(order.numbers(step)[first : first + size])

            numbers = tf.data.Dataset.range(first_step * len(parts), last_step * len(parts))
            serialized = numbers.map(lambda i: self._read(read, i, size))
        return serialized.map(self._parse).prefetch(4)

    def evaluation(self, num_steps=0, num_parts=1, parts=range(1)):
        """All examples in their order; the last batch may be smaller.

        Args:
          num_steps: most batches; 0 for all.
          num_parts, parts: of `num_parts` batches that follow each other, which ones to read here.

        Returns:
          `tf.data.Dataset` of dicts of int32 [up to batch_size, max_seq_length].
        """
        size, total = self._batch_size, self.num_examples
        num_batches = -(-total // size)
        num_batches = min(num_steps or num_batches, num_batches)
        if self._streams:
            stream = self._stream(range(len(self._shards))).batch(size).take(num_batches)
            serialized = _only_parts(stream, num_parts, parts)
        else:
            mine = [i for i in range(num_batches) if i % num_parts in parts]
            serialized = tf.data.Dataset.from_tensor_slices(tf.constant(mine, tf.int64)).map(
                lambda i: self._read(
                    lambda i: self._reader.read(np.arange(i * size, min((i + 1) * size, total))),
                    i,
                    None,
                )
            )
        return serialized.map(self._parse).prefetch(2)

    def token_counts(self, vocab_size, num_steps=0):
        """How often each token, padding included, stands in the first batches: int64 [vocab_size].

        Args:
          vocab_size: int.
          num_steps: most batches to count; 0 for all.

        Raises:
          UserError: a token is beyond the vocabulary, which no record before had.
        """
        counts = np.zeros(vocab_size, np.int64)
        for batch in self.evaluation(num_steps):
            ids = batch["input_ids"].numpy().ravel()
            if ids.max() >= vocab_size:
                raise UserError(
                    f"{self._shards[0].path}: it or a shard with it holds token {ids.max()}, but the "
                    f"vocabulary ends at {vocab_size - 1}; give the --vocab_file that the records were "
                    "built with, and another --output_dir"
                )
            counts += np.bincount(ids, minlength=vocab_size)
        return counts

    def _read(self, function, number, batch_size):
        return tf.ensure_shape(tf.numpy_function(function, [number], tf.string), [batch_size])

    def _stream(self, order):
        paths = tf.constant([shard.path for shard in self._shards])
        compressions = tf.constant(["GZIP" if shard.is_gzip else "" for shard in self._shards])
        counts = tf.constant([len(shard.offsets) for shard in self._shards], tf.int64)
        # `take` ends before what the scan found unreadable.
        return tf.data.Dataset.from_tensor_slices(tf.convert_to_tensor(order)).flat_map(
            lambda i: tf.data.TFRecordDataset(paths[i], compressions[i]).take(counts[i])
        )

    def _shuffled_stream(self, seed):
        """Epoch after epoch, shards and then records shuffled by (seed, epoch)."""

        def one_epoch(epoch):
            seeds = [seed & 0x7FFFFFFF, tf.cast(epoch, tf.int32)]
            noise = tf.random.stateless_uniform([len(self._shards)], seeds, alg="philox")
            stream = self._stream(tf.argsort(noise))
            return stream.shuffle(_STREAM_SHUFFLE_BUFFER, seed=epoch + seed * 1_000_003)

        return tf.data.Dataset.range(2**62).flat_map(one_epoch)

    def _parse(self, serialized):
        specification = {
            name: tf.io.FixedLenFeature([self._max_seq_length], tf.int64) for name in FEATURES
        }
        parsed = tf.io.parse_example(serialized, specification)
        return {name: tf.cast(parsed[name], tf.int32) for name in FEATURES}


def _only_parts(dataset, num_parts, parts):
    """Of `num_parts` elements that follow each other, those numbered in `parts`."""
    if len(parts) == num_parts:
        return dataset
    wanted = tf.constant(list(parts), tf.int64)
    numbered = dataset.enumerate().filter(lambda i, _: tf.reduce_any(i % num_parts == wanted))
    return numbered.map(lambda _, element: element)
