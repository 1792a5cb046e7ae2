"""Text -> documents -> examples -> TFRecords.

A corpus is text files in which blank lines separate documents, JSON lines with one document each,
or data sets of TensorFlow Datasets with one document an example (`tfds_corpus`). A line is a
"sentence": the unit that goes to one of an example's two segments (the original's
`build_pretraining_dataset.py`). The output is a function of the inputs and the seed alone.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import itertools
import json
import os
import random
import zlib
from collections import deque
from typing import NamedTuple

import tensorflow as tf

from electra_tf import files, records, tfds_corpus, worker_pool
from electra_tf.errors import UserError
from electra_tf.tokenization import Tokenizer, strips_accents, vocab_sha256
from electra_tf.version import __version__

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
RECORDS_NAME = "pretrain.tfrecord"

MAX_DOCUMENT_BYTES = 16 << 20  # A longer document is cut, to keep memory flat.
_READ_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 19  # Text that a worker takes at a time.

# Clark et al. do not say; the original's ExampleBuilder has these.
ONE_SEGMENT_PROB = 0.1
RANDOM_LENGTH_PROB = 0.05
MIN_LENGTH = 5


class Document(NamedTuple):
    """Attributes: `lines` (bytes, without blank ones), valid UTF-8; `digest`, 16 bytes of their hash."""

    lines: list
    digest: bytes


@dataclasses.dataclass
class ReadReport:
    """What was found while reading: counts, and the first place with invalid UTF-8."""

    num_source_bytes: int = 0  # As the files hold them, compressed or not.
    num_bytes: int = 0
    num_documents: int = 0
    num_duplicates: int = 0
    num_cut_documents: int = 0
    num_invalid_lines: int = 0
    first_invalid: str = ""


def find_files(pattern):
    """Sources of a corpus: its files, sorted by name, and what is of TensorFlow Datasets.

    Args:
      pattern: paths, globs, folders or `tfds:NAME[:SPLIT][:FIELD]`, separated by commas. Of a
        folder, all files below it that end in .txt, .txt.gz, .jsonl or .jsonl.gz.

    Returns:
      list of str.

    Raises:
      UserError: nothing matches, or a `tfds:` is malformed.
    """
    sources = []
    for part in filter(None, pattern.split(",")):
        if part.startswith(tfds_corpus.PREFIX):
            tfds_corpus.parse(part)  # What is malformed is refused before anything is read.
            sources.append(part)
        else:
            sources += _matching_files(part)
    if not sources:
        raise UserError(f"'{pattern}' names no input; give a path, a folder or a glob")
    return sources


def _matching_files(part):
    if tf.io.gfile.isdir(part):
        found = [
            tf.io.gfile.join(folder, name)
            for folder, _, names in tf.io.gfile.walk(part)
            for name in names
            if name.endswith(SUFFIXES)
        ]
        expected = f"a file that ends in {', '.join(SUFFIXES)}"
    else:
        found = [path for path in tf.io.gfile.glob(part) if not tf.io.gfile.isdir(path)]
        expected = "a file"
    if not found:
        raise UserError(f"{part}: no such input; give a path, folder or glob of {expected}")
    return sorted(found)


def read_documents(
    paths,
    report=None,
    json_field="text",
    drop_duplicates=False,
    max_line_mb=10.0,
    invalid_utf8="replace",
):
    """Reads documents one after the other.

    Args:
      paths: list of files and `tfds:` sources, from `find_files`.
      report: `ReadReport` that is filled while reading.
      json_field: field of a JSON line that holds its text; also that of a `tfds:` source which
        names none.
      drop_duplicates: leave out documents whose text came before (exactly).
      max_line_mb: longest line (of JSON and `tfds:`: longest document), in MB.
      invalid_utf8: "replace" counts and drops malformed bytes, "error" refuses them.

    Yields:
      `Document`.

    Raises:
      UserError: naming file and line of what cannot be read.
    """
    report = ReadReport() if report is None else report
    seen = set()
    max_bytes = int(max_line_mb * 1e6)
    for path in paths:
        for numbers, lines in _numbered_documents(
            path, report, json_field, max_bytes, invalid_utf8
        ):
            text = b"\n".join(lines)
            try:
                text.decode()
            except UnicodeDecodeError:
                lines = list(_mend(path, numbers, lines, invalid_utf8, report))
                text = b"\n".join(lines)
            report.num_bytes += len(text)
            report.num_documents += 1
            digest = hashlib.blake2b(text, digest_size=16).digest()
            if drop_duplicates:
                if digest in seen:
                    report.num_duplicates += 1
                    continue
                seen.add(digest)
            yield Document([line for line in lines if line], digest)


def source_bytes(source, json_field="text"):
    """Size of a source: what reading it adds to `ReadReport.num_source_bytes`."""
    if source.startswith(tfds_corpus.PREFIX):
        return tfds_corpus.TextSplit(source, json_field).num_bytes
    return tf.io.gfile.stat(source).length


def _numbered_documents(source, report, json_field, max_bytes, invalid_utf8):
    """Yields `(numbers, lines)`: a document's lines, and their numbers for messages."""
    if source.startswith(tfds_corpus.PREFIX):
        return _whole_documents(_tfds_texts(source, json_field, max_bytes, report))
    lines = _read_lines(source, max_bytes, report)
    if source.removesuffix(".gz").endswith(".jsonl"):
        lines = _mend(source, itertools.count(1), lines, invalid_utf8, report)
        return _whole_documents(_json_texts(source, lines, json_field))
    return _text_documents(lines, report)


def _read_lines(path, max_bytes, report):
    """Yields the lines of a file, stripped, gunzipped where its name says so."""
    number, tail = 0, b""
    try:
        with tf.io.gfile.GFile(path, "rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
            before = report.num_source_bytes
            while block := file.read(_READ_BYTES):
                report.num_source_bytes = before + raw.tell()
                *lines, tail = (tail + block).split(b"\n")
                for line in lines:
                    number += 1
                    _check_length(path, number, line, max_bytes)
                    yield line.strip()
                _check_length(path, number + 1, tail, max_bytes)
        if tail:
            yield tail.strip()
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}:{number + 1}: not a whole gzip file ({error}); compress it again, or drop the "
            "ending .gz"
        ) from None


def _check_length(path, number, line, max_bytes):
    if len(line) > max_bytes:
        raise UserError(
            f"{path}:{number}: a line of more than {max_bytes / 1e6:g} MB; break it into "
            "paragraphs, or raise --max_line_mb"
        )


def _text_documents(lines, report):
    """Groups lines by the blank lines between them."""
    document, first_line, size = [], 1, 0
    for number, line in enumerate(lines, 1):
        if line:
            document.append(line)
            size += len(line)
        if document and (not line or size > MAX_DOCUMENT_BYTES):
            report.num_cut_documents += bool(line)
            yield itertools.count(first_line), document
            document, size = [], 0
        if not document:
            first_line = number + 1
    if document:
        yield itertools.count(first_line), document


def _whole_documents(texts):
    """Splits texts that are a document each; `texts` yields `(number, text)`."""
    for number, text in texts:
        if text.strip():
            yield itertools.repeat(number), [line.strip() for line in text.splitlines()]


def _json_texts(path, lines, field):
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, RecursionError) as error:  # Also numbers of 5,000 digits.
            raise UserError(f"{path}:{number}: not a JSON object ({error})") from None
        except (KeyError, TypeError, IndexError):
            raise UserError(
                f"{path}:{number}: no field '{field}'; name the text's field with --json_field"
            ) from None
        if not isinstance(text, str):
            raise UserError(f"{path}:{number}: field '{field}' is no string")
        yield number, text.encode("utf-8", errors="replace")  # JSON can hold lone surrogates.


def _tfds_texts(source, field, max_bytes, report):
    split = tfds_corpus.TextSplit(source, field)
    before = report.num_source_bytes
    for number, text in enumerate(split, 1):
        report.num_source_bytes = before + split.num_bytes * number // split.num_examples
        _check_length(source, number, text, max_bytes)
        yield number, text


def _mend(path, numbers, lines, invalid_utf8, report):
    """Yields lines, those that are no UTF-8 with U+FFFD in its place."""
    for number, line in zip(numbers, lines):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            place = f"{path}:{number}"
            if invalid_utf8 == "error":
                raise UserError(
                    f"{place}: invalid UTF-8 at byte {error.start} of the line; convert the file, or "
                    "use --invalid_utf8=replace"
                ) from None
            report.num_invalid_lines += 1
            report.first_invalid = report.first_invalid or place
            line = line.decode(errors="replace").encode()
        yield line


# Documents -> examples.


class Example(NamedTuple):
    """Ranges `(start, end)` of a document's tokens that make up the two segments."""

    first: list
    second: list


class ExampleBuilder:
    """Cuts a document into examples of one or two segments (SEMANTICS 14).

    Works on sentence lengths alone: an example is a list of ranges of the document's tokens.
    """

    def __init__(self, max_length, seed, keep_overflow=True):
        """Starts a document.

        Args:
          max_length: tokens of an example, special ones included.
          seed: what `random.Random` takes.
          keep_overflow: carry tokens for which an example has no room into the next one. The
            original throws them away.
        """
        self._max_length = max_length
        self._random = random.Random(seed)
        self._keep_overflow = keep_overflow
        self._sentences = []
        self._length = 0
        self._target_length = max_length

    def build(self, sentence_lengths):
        """Yields the `Example`s of the document whose sentences have these numbers of tokens."""
        end = 0
        for length in sentence_lengths:
            start, end = end, end + length
            if length:
                self._sentences.append((start, end))
                self._length += length
            while self._length >= self._target_length:
                yield self._make_example()
        while self._length:
            yield self._make_example()

    def _make_example(self):
        first, second, first_length, second_length = [], [], 0, 0
        wants_one_segment = self._random.random() < ONE_SEGMENT_PROB
        target = self._length + 1 if wants_one_segment else (self._target_length - 3) // 2
        for sentence in self._sentences:
            length = sentence[1] - sentence[0]
            # A sentence that overflows the first segment opens the second one on half the tosses.
            if (
                not first
                or first_length + length < target
                or (not second and first_length < target and self._random.random() < 0.5)
            ):
                first.append(sentence)
                first_length += length
            else:
                second.append(sentence)
                second_length += length
        first, left_of_first = _cut(first, self._max_length - 2)
        room = max(0, self._max_length - 3 - min(first_length, self._max_length - 2))
        second, left_of_second = _cut(second, room)
        self._sentences = sorted(left_of_first + left_of_second) if self._keep_overflow else []
        self._length = sum(end - start for start, end in self._sentences)
        self._target_length = self._max_length
        if self._random.random() < RANDOM_LENGTH_PROB:
            lengths = self._max_length - MIN_LENGTH + 1
            self._target_length = MIN_LENGTH + int(self._random.random() * lengths)
        return Example(first, second)


def _cut(ranges, room):
    """Splits ranges after `room` tokens: `(kept, left)`."""
    kept, left = [], []
    for start, end in ranges:
        middle = min(end, start + max(room, 0))
        room -= end - start
        if middle > start:
            kept.append((start, middle))
        if end > middle:
            left.append((middle, end))
    return kept, left


@functools.lru_cache(maxsize=4096)
def _template(first_length, second_length, max_length):
    """A tf.train.Example whose mask and segments fit two segment lengths, special tokens included."""
    padding = max_length - first_length - second_length
    features = {
        "input_ids": [0] * max_length,
        "input_mask": [1] * (first_length + second_length) + [0] * padding,
        "segment_ids": [0] * first_length + [1] * second_length + [0] * padding,
    }
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in features.items()
            }
        )
    )


class DocumentRecords(NamedTuple):
    """Attributes: `records` (bytes), text tokens that went in, and those that stand in examples."""

    records: list
    num_tokens: int
    num_packed: int


class RecordMaker:
    """Documents to serialized examples; what every worker process holds one of."""

    def __init__(self, vocab, lowercase, strip_accents, max_seq_length, seed, keep_overflow):
        self._tokenizer = Tokenizer(vocab, lowercase, strip_accents)
        self._tokenize = self._tokenizer.compiled()
        self._max_seq_length = max_seq_length
        self._seed = seed
        self._keep_overflow = keep_overflow

    def __call__(self, documents):
        """Turns a list of `Document`s into a list of `DocumentRecords`."""
        pieces = self._tokenize([line for document in documents for line in document.lines])
        ids, lengths = pieces.flat_values.numpy(), iter(pieces.row_lengths().numpy().tolist())
        made, start = [], 0
        for document in documents:
            sentence_lengths = list(itertools.islice(lengths, len(document.lines)))
            num_tokens = sum(sentence_lengths)
            tokens = ids[start : start + num_tokens].tolist()
            start += num_tokens
            # A document's randomness depends on its text, not on its place in the corpus.
            seed = f"{self._seed} {document.digest.hex()}"
            builder = ExampleBuilder(self._max_seq_length, seed, self._keep_overflow)
            serialized = [self._serialize(e, tokens) for e in builder.build(sentence_lengths)]
            made.append(
                DocumentRecords(
                    records=[record for record, _ in serialized],
                    num_tokens=num_tokens,
                    num_packed=sum(length for _, length in serialized),
                )
            )
        return made

    def _serialize(self, example, tokens):
        tokenizer = self._tokenizer
        ids = [tokenizer.cls_id]
        for start, end in example.first:
            ids += tokens[start:end]
        ids.append(tokenizer.sep_id)
        first_length, specials = len(ids), 2
        if example.second:
            for start, end in example.second:
                ids += tokens[start:end]
            ids.append(tokenizer.sep_id)
            specials = 3
        length = len(ids)
        ids += [tokenizer.pad_id] * (self._max_seq_length - length)
        message = _template(first_length, length - first_length, self._max_seq_length)
        message.features.feature["input_ids"].int64_list.value[:] = ids
        return message.SerializeToString(deterministic=True), length - specials


# Examples -> TFRecords.

_record_maker = None


def _start_worker(*args):
    global _record_maker
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")  # Or each worker would take the GPU's memory.
    _record_maker = RecordMaker(*args)


def _make_records(documents):
    return _record_maker(documents)


def _map_in_order(make_records_args, chunks, num_workers):
    """Yields `(chunk, records of chunk)` in order, from `num_workers` processes."""
    if num_workers == 1:
        make = RecordMaker(*make_records_args)
        for chunk in chunks:
            yield chunk, make(chunk)
        return
    with (
        worker_pool.ending_at_sigterm(),
        concurrent.futures.ProcessPoolExecutor(
            num_workers, worker_pool.prepare(), _start_worker, make_records_args
        ) as pool,
    ):
        pending = deque()
        try:
            for chunk in chunks:
                pending.append((chunk, pool.submit(_make_records, chunk)))
                if len(pending) > 2 * num_workers:  # Keeps the memory flat.
                    chunk, future = pending.popleft()
                    yield chunk, future.result()
            for chunk, future in pending:
                yield chunk, future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a process that builds records has died, for want of memory perhaps; lower "
                f"--num_workers (now {num_workers})"
            ) from None
        finally:
            for _, future in pending:
                future.cancel()


def chunks(documents):
    """Groups documents to lists of about half a megabyte of text."""
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document.lines))
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def is_held_out(digest, seed, eval_fraction):
    """Whether a document belongs to the held-out part: a coin that its hash and the seed decide."""
    drawn = hashlib.blake2b(digest, key=str(seed).encode()[:64], digest_size=8).digest()
    return int.from_bytes(drawn, "big") < eval_fraction * 2**64


def _remove_interrupted_build(output_dir):
    """Removes what a build left that was killed before it wrote `dataset.json`."""
    stale = files.glob(output_dir, "building-*")
    if stale and not tf.io.gfile.exists(tf.io.gfile.join(output_dir, records.DATASET_FILE)):
        for folder in (output_dir, tf.io.gfile.join(output_dir, "eval")):
            for shard in files.glob(folder, f"{RECORDS_NAME}-*"):
                tf.io.gfile.remove(shard)
    for folder in stale:
        tf.io.gfile.rmtree(folder)


class ShardedWriter:
    """Writes records in turn to the shards of a folder, and counts what it writes."""

    def __init__(self, folder, num_shards):
        files.make_folder(folder)
        names = [f"{RECORDS_NAME}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]
        self.paths = [tf.io.gfile.join(folder, name) for name in names]
        self._writers = [tf.io.TFRecordWriter(path) for path in self.paths]
        self.num_documents = self.num_examples = self.num_tokens = self.num_packed = 0

    def write(self, document):
        """Writes one document's `DocumentRecords`."""
        for record in document.records:
            self._writers[self.num_examples % len(self._writers)].write(record)
            self.num_examples += 1
        self.num_documents += 1
        self.num_tokens += document.num_tokens
        self.num_packed += document.num_packed

    def close(self):
        """Closes all shards, also those after one that cannot be written to its end."""
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


def build_pretraining_data(
    inputs,
    vocab,
    output_dir,
    max_seq_length=128,
    num_shards=16,
    num_workers=1,
    seed=42,
    eval_fraction=0.0,
    lowercase=True,
    strip_accents=None,
    drop_duplicates=True,
    fidelity="fixed",
    progress=None,
    **reading,
):
    """Writes the training and, below `eval/`, the held-out records of a corpus.

    ```python
    build_pretraining_data("texts/*.txt", read_vocab("vocab.txt"), "records", eval_fraction=0.02)
    ```

    Shards appear under their names when all are written, `dataset.json` last.

    Args:
      inputs: what `find_files` takes.
      vocab: list of str.
      output_dir: folder that holds no records yet.
      max_seq_length: tokens of an example, special ones included.
      num_shards: training shards; examples go to them in turn.
      num_workers: processes; the output does not depend on it.
      seed: decides lengths, segments and which documents are held out.
      eval_fraction: share of documents to hold out.
      lowercase, strip_accents: as `Tokenizer` takes them.
      drop_duplicates: whether documents that repeat another exactly are left out.
      fidelity: "google2020" throws away what overflows an example, "fixed" carries it on.
      progress: function of the number of bytes read of the sources, called now and then.
      **reading: `json_field`, `max_line_mb`, `invalid_utf8` of `read_documents`.

    Returns:
      `(datasets, report)`: the `dataset.json` of each split as a dict, and the `ReadReport`.

    Raises:
      UserError: bad input, or `output_dir` holds records already.
    """
    paths = find_files(inputs)
    _remove_interrupted_build(output_dir)
    if records.holds_records(output_dir):
        raise UserError(
            f"{output_dir}: holds records already; remove them or choose another folder"
        )
    building = tf.io.gfile.join(output_dir, f"building-{os.getpid()}")
    splits = {"train": (building, output_dir, num_shards)}
    if eval_fraction:
        splits["eval"] = tuple(
            tf.io.gfile.join(folder, "eval") for folder in splits["train"][:2]
        ) + (1,)
    settings = {
        "max_seq_length": max_seq_length,
        "vocab_size": len(vocab),
        "vocab_sha256": vocab_sha256(vocab),
        "do_lower_case": lowercase,
        "strip_accents": strips_accents(lowercase, strip_accents),
        "seed": seed,
        "eval_fraction": eval_fraction,
        "drop_duplicates": drop_duplicates,
        "fidelity": fidelity,
        "inputs": inputs,
        "version": __version__,
    }
    report = ReadReport()
    datasets = {}
    in_place = []  # Files that have their final names.
    try:
        with contextlib.ExitStack() as stack:
            writers = {
                split: stack.enter_context(contextlib.closing(ShardedWriter(*splits[split][::2])))
                for split in splits
            }
            documents = read_documents(paths, report, drop_duplicates=drop_duplicates, **reading)
            maker = (vocab, lowercase, strip_accents, max_seq_length, seed, fidelity == "fixed")
            for chunk, made in _map_in_order(maker, chunks(documents), num_workers):
                for document, document_records in zip(chunk, made):
                    held_out = eval_fraction and is_held_out(document.digest, seed, eval_fraction)
                    writers["eval" if held_out else "train"].write(document_records)
                if progress:
                    progress(report.num_source_bytes)
        if not writers["train"].num_examples:
            raise UserError(
                f"{inputs}: no text to train on in {len(paths)} source(s); give more text"
            )
        for split in reversed(splits):  # The training part's dataset.json tells that all is there.
            writer, folder = writers[split], splits[split][1]
            tf.io.gfile.makedirs(folder)
            shards = [tf.io.gfile.join(folder, os.path.basename(path)) for path in writer.paths]
            for source, target in zip(writer.paths, shards):
                tf.io.gfile.rename(source, target)
                in_place.append(target)
            records.write_index(shards)
            in_place.append(tf.io.gfile.join(folder, records.INDEX_FILE))
            counts = {
                name: getattr(writer, name)
                for name in ("num_documents", "num_examples", "num_tokens", "num_packed")
            }
            datasets[split] = {"split": split, **settings, **counts}
            files.write_json(tf.io.gfile.join(folder, records.DATASET_FILE), datasets[split])
            in_place.append(tf.io.gfile.join(folder, records.DATASET_FILE))
    finally:
        if not tf.io.gfile.exists(tf.io.gfile.join(output_dir, records.DATASET_FILE)):
            for path in in_place:
                tf.io.gfile.remove(path)
        if tf.io.gfile.exists(building):
            tf.io.gfile.rmtree(building)
            for _, folder, _ in reversed(splits.values()):
                if tf.io.gfile.exists(folder) and not tf.io.gfile.listdir(folder):
                    tf.io.gfile.rmtree(folder)
    return datasets, report
