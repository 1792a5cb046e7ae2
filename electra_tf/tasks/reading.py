"""Rows and tagged sentences of the files that tasks come in: TSV, CSV, JSONL, CoNLL columns, gzip.

Whatever is wrong with a row is told with the file and the line at which the row begins. TFRecords of
tf.Examples are read, too, and their records counted as lines.
"""

import csv
import gzip
import itertools
import json
import math
import re
import statistics
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from electra_tf import files
from electra_tf.errors import UserError, first_line
from electra_tf.record_file import compression_of

_SUFFIXES = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".conll": "conll"}
csv.field_size_limit(2**31 - 1)  # A cell may be a long text.

_BLANK = " \t\r\n"
_DOCSTART = "-DOCSTART-"
# Of CoNLL-U's columns the first counts the words; that of words written as one is 7-8, an empty node's 8.1.
_CONLL_U_WIDTH, _NO_WORD = 10, re.compile(r"\d+[-.]\d+")
_RECORDS_AT_ONCE = 1024


class BadRows:
    """What happens to a row that cannot be used: it stops the command, or it is counted.

    `option` is what the user sets to skip such rows.
    """

    def __init__(self, skip, option="--skip_bad_rows"):
        self.skip, self.option, self.count, self.first = skip, option, 0, None

    def add(self, error):
        """Takes the `UserError` of a row; raises it where rows are not to be skipped."""
        if not self.skip:
            raise UserError(f"{error}; mend the row, or leave such rows out with {self.option}")
        self.count += 1
        self.first = self.first or error

    def report(self):
        """Logs how many rows were left out."""
        if self.count:
            logging.warning("left out %d bad row(s), the first: %s", self.count, self.first)


class Row(NamedTuple):
    """Attributes: `place`, "file:line"; `cells`, dict from column (name or number) to value."""

    place: str
    cells: dict


class Sentence(NamedTuple):
    """Words of a text, with their tags.

    Attributes:
      place: "file:line", where it begins.
      words: list of str.
      tags: list of str, or None.
      has_lines: whether each word has a line.
    """

    place: str
    words: list
    tags: list
    has_lines: bool = False

    def place_of(self, index):
        """Where a word stands."""
        if not self.has_lines:
            return f"{self.place}: word {index + 1}"
        path, _, line = self.place.rpartition(":")
        return f"{path}:{int(line) + index}"


def find_files(data_dir, pattern):
    """Paths of a file or a glob below a folder, as it is or with `.gz`; empty where there is none."""
    for name in (pattern, pattern if pattern.endswith(".gz") else f"{pattern}.gz"):
        path = tf.io.gfile.join(data_dir, name)
        found = [path] if tf.io.gfile.exists(path) else files.glob(data_dir, name)
        if found:
            return found
    return []


def file_format(path, default=None):
    """`tsv`, `csv`, `jsonl` or `conll`, by what a file's name ends in.

    Raises:
      UserError: neither the name nor `default` tells.
    """
    name = path.removesuffix(".gz")
    found = default or next((f for suffix, f in _SUFFIXES.items() if name.endswith(suffix)), None)
    if found is None:
        raise UserError(
            f"{path}: neither .tsv, .csv nor .jsonl; say in the task's YAML file which 'format' it has"
        )
    return found


def read_rows(path, table_format, columns, bad_rows, quotes=False, optional=()):
    """Reads a table.

    Args:
      path: file, gzipped where its name ends in .gz.
      table_format: "tsv", "csv", "jsonl" or "tfrecord".
      columns: names in the first line (or keys, or features), or numbers where there is no such line.
      bad_rows: `BadRows`.
      quotes: whether a TSV's cells may be quoted.
      optional: those of `columns` that need not be there; their values are None then.

    Returns:
      list of `Row` with these columns; empty for one file of TFRecords among several alone.

    Raises:
      UserError: the file is missing, unreadable or empty, or has no such column; or a bad row.
    """
    if table_format == "tfrecord":
        return _example_rows(path, columns, bad_rows, optional)
    lines = read_lines(path, bad_rows)
    if table_format == "jsonl":
        rows = json_rows(path, lines, columns, bad_rows, optional)
    else:
        rows = _table_rows(path, lines, table_format, columns, bad_rows, quotes, optional)
    if not rows:
        raise UserError(f"{path}: no rows in it; give a file with at least one")
    return rows


def read_sentences(path, sentence_format, columns, bad_rows, has_tags=True, quotes=False):
    """Reads sentences of words, with tags where there is a column of them.

    Args:
      path: file, gzipped where its name ends in .gz.
      sentence_format: "conll" (a word a line, its columns separated by tabs or spaces, an empty line
        after each sentence; lines of -DOCSTART- and those of CoNLL-U that are no words are left out), "jsonl" or
        "tfrecord" (lists of words and of tags), or "tsv" or "csv" (cells of words and of tags with spaces between).
      columns: dict with `token` and `tag`.
      bad_rows: `BadRows`; a sentence is left out as a whole.
      has_tags: whether tags must be there; else there may be none.
      quotes: as of `read_rows`.

    Returns:
      list of `Sentence`.

    Raises:
      UserError: as `read_rows`; or words and tags do not match.
    """
    token, tag = columns["token"], columns.get("tag")
    if sentence_format == "conll":
        if isinstance(token, str):
            raise UserError(
                f"{path}: conll has no names of columns; give numbers, from 0, not {token!r}"
            )
        sentences = _conll_sentences(path, token, tag, bad_rows, has_tags)
        if not sentences:
            raise UserError(f"{path}: no sentences in it; give a file with at least one")
        return sentences
    wanted = [column for column in (token, tag) if column is not None]
    optional = () if has_tags else (tag,)
    sentences = []
    for place, cells in read_rows(
        path, sentence_format, wanted, bad_rows, quotes, optional=optional
    ):
        try:
            words = _list_of(cells.get(token), sentence_format, "word")
            tags = _list_of(cells.get(tag), sentence_format, "tag")
        except ValueError as error:
            bad_rows.add(UserError(f"{place}: {error}"))
            continue
        if not has_tags:
            tags = tags or None  # None are told.
        if not words:
            bad_rows.add(UserError(f"{place}: no words"))
        elif tags is not None and len(tags) != len(words):
            bad_rows.add(UserError(f"{place}: {len(words)} words but {len(tags)} tags"))
        else:
            sentences.append(Sentence(place, words, tags))
    if len(sentences) > 1 and all(len(sentence.words) == 1 for sentence in sentences):
        logging.warning(
            "%s: each sentence has one word; where a line is a word, the format is conll, with tabs or "
            "spaces between its columns",
            path,
        )
    return sentences


def read_json(path):
    """What a JSON file holds.

    Args:
      path: file, gzipped where its name ends in .gz.

    Raises:
      UserError: the file is missing, unreadable, empty or malformed.
    """
    content = _content(path)
    if not content.strip():
        raise UserError(f"{path}: the file is empty; give one with at least one row")
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte {error.start + 1} of the file)") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:  # A number too long, or nested too deeply.
        raise UserError(f"{path}: JSON that cannot be read ({first_line(error)})") from None


def _content(path):
    """A file's bytes, unzipped, without a byte order mark."""
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            content = f.read()
        if path.endswith(".gz"):
            content = gzip.decompress(content)
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error})") from None
    return content.removeprefix(b"\xef\xbb\xbf")


def read_lines(path, bad_rows):
    """Lines of a file of UTF-8 text; None in place of one that is not.

    Raises:
      UserError: the file is missing, unreadable or empty; or a bad line.
    """
    lines = []
    for number, line in enumerate(_content(path).split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            bad_rows.add(
                UserError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)")
            )
            lines.append(None)
    if not any(line and line.strip(_BLANK) for line in lines):
        raise UserError(f"{path}: the file is empty; give one with at least one row")
    return lines


def json_rows(path, lines, keys, bad_rows, optional=()):
    """`Row`s of lines of JSON objects.

    Args:
      path: for messages.
      lines: list of str; None and blank ones are left out.
      keys, bad_rows, optional: as `columns` and so on of `read_rows`.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if line is None or not line.strip(_BLANK):
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            bad_rows.add(UserError(f"{place}: not JSON ({error.msg} at column {error.colno})"))
            continue
        except (ValueError, RecursionError) as error:  # A number too long, or nested too deeply.
            bad_rows.add(UserError(f"{place}: JSON that cannot be read ({first_line(error)})"))
            continue
        if not isinstance(values, dict):
            bad_rows.add(UserError(f"{place}: not a JSON object, '{{\"key\": value}}'"))
            continue
        missing = [key for key in keys if key not in values and key not in optional]
        if missing:
            bad_rows.add(
                UserError(f"{place}: no key {missing[0]!r}; there are {', '.join(values)}")
            )
            continue
        rows.append(Row(place, {key: values.get(key) for key in keys}))
    return rows


def _example_rows(path, features, bad_rows, optional):
    """`Row`s of a TFRecord file of tf.Examples, their values as `_value_of` has them."""
    rows = []
    for number, record in enumerate(_records(path), 1):
        place = f"{path}:{number}"
        try:
            rows.append(Row(place, _cells_of(record, features, optional)))
        except ValueError as error:
            bad_rows.add(UserError(f"{place}: {error}"))
    return rows


def _cells_of(record, features, optional):
    try:
        found = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("not a tf.Example") from None
    cells = {}
    for name in features:
        if name not in found and name not in optional:
            raise ValueError(
                f"no feature {name!r} in this tf.Example; there are "
                f"{', '.join(sorted(found)) or 'none'} (the task's 'columns' name them)"
            )
        try:
            cells[name] = _value_of(found[name]) if name in found else None
        except UnicodeDecodeError as error:
            raise ValueError(f"{name!r} is not UTF-8 (its byte {error.start + 1})") from None
    return cells


def _records(path):
    """The records of a TFRecord file, gzipped or not: list of bytes."""
    try:
        dataset = tf.data.TFRecordDataset(path, compression_of(path)).batch(_RECORDS_AT_ONCE)
        return [record for batch in dataset.as_numpy_iterator() for record in batch]
    except tf.errors.DataLossError:
        raise UserError(f"{path}: no TFRecords, or damaged ones; write the file again") from None
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None


def _value_of(feature):
    """What a tf.Example's feature holds: a str, int or float, or a list of other than one of them."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [value.decode("utf-8") for value in values]
    elif kind == "float_list":
        # The shortest number that is this float32: 0.1 as it was written, not 0.10000000149.
        values = [float(str(np.float32(value))) for value in values]
    return values[0] if len(values) == 1 else values


def _table_rows(path, lines, table_format, columns, bad_rows, quotes, optional):
    rows = list(_split_rows(path, lines, table_format, bad_rows, quotes))
    if not rows:
        return []
    place, first = rows[0]
    has_names = any(isinstance(column, str) for column in columns)
    if has_names:
        width, wide = len(first), "the first line has"
        indices = {column: first.index(column) for column in columns if column in first}
        rows = rows[1:]
    else:
        width, wide = _usual_width([cells for _, cells in rows]), "most lines have"
        indices = {column: column for column in columns if column < width}
    for column in columns:
        if column not in indices and column not in optional:
            raise UserError(
                f"{place}: no column {column!r}; {wide} {width}"
                + (f": {', '.join(first)}" if has_names else ", counted from 0")
            )

    def row_of(place, cells):
        return Row(place, {c: cells[indices[c]] if c in indices else None for c in columns})

    result = []
    for place, cells in rows:
        if len(cells) == width:
            result.append(row_of(place, cells))
        else:
            bad_rows.add(UserError(f"{place}: {len(cells)} columns, where {wide} {width}"))
    return result


def _usual_width(rows):
    """The most common number of cells, of equally common ones the largest; 0 without rows."""
    return max(statistics.multimode(map(len, rows)), default=0)


def _split_rows(path, lines, table_format, bad_rows, quotes):
    """Yields `(place, cells)`. After a row that is broken it goes on at the line below its first one."""
    dialect = {"delimiter": "," if table_format == "csv" else "\t", "strict": True}
    if table_format == "tsv" and not quotes:
        dialect["quoting"] = csv.QUOTE_NONE
    start = 0
    while start < len(lines):
        reader, first = csv.reader(_lines_from(lines, start), **dialect), start
        try:
            while start < len(lines):
                cells = next(reader)
                if cells and cells != [""]:
                    yield f"{path}:{start + 1}", cells
                start = first + reader.line_num
        except csv.Error as error:
            bad_rows.add(UserError(f"{path}:{start + 1}: broken quotes or cells ({error})"))
            start += 1


def _lines_from(lines, start):
    """Lines as `csv` wants them; a carriage return inside of one would end it."""
    for line in itertools.islice(lines, start, None):
        yield (line or "").replace("\r", " ") + "\n"


def _conll_sentences(path, token, tag, bad_rows, has_tags):
    lines = read_lines(path, bad_rows)
    has_tabs = any(line and "\t" in line for line in lines)
    rows = [_conll_cells(line or "", has_tabs) for line in lines]
    width = _usual_width(list(filter(None, rows)))
    if width == _CONLL_U_WIDTH:
        rows = [[] if cells and _NO_WORD.fullmatch(cells[0]) else cells for cells in rows]
    sentences, words, tags, start, is_good = [], [], [], None, True
    for number, (line, cells) in enumerate(zip([*lines, ""], [*rows, []]), 1):
        place = f"{path}:{number}"
        if line is not None and not line.strip(_BLANK):
            if words and is_good:
                tags = tags if len(tags) == len(words) else None
                sentences.append(Sentence(start, words, tags, has_lines=True))
            words, tags, start, is_good = [], [], None, True
            continue
        if line is None:
            is_good = False
            continue
        if not cells:
            continue
        is_tagged = tag is not None and len(cells) > tag
        if not has_tags and not tags:  # An empty cell of a test set is a tag that is not told.
            is_tagged = is_tagged and cells[tag] != ""
        problem = _problem_of(cells, token, tag, is_tagged, has_tags or bool(tags))
        if not problem and len(cells) != width:
            problem = f"{len(cells)} columns, where most lines have {width}"
        if problem:
            bad_rows.add(UserError(f"{place}: {problem}"))
            is_good = False
            continue
        start = start or place
        words.append(cells[token])
        if is_tagged:
            tags.append(cells[tag])
    return sentences


def _conll_cells(line, has_tabs):
    """The columns of a word's line, between tabs, or spaces where it has no tab; else an empty list.

    No word's are a blank line, -DOCSTART-, and among lines with tabs CoNLL-U's comments.
    """
    if not line.strip(_BLANK) or has_tabs and line.startswith("#") and "\t" not in line:
        return []
    cells = line.split("\t") if "\t" in line else list(filter(None, line.split(" ")))
    return [] if cells[0] == _DOCSTART else cells


def _problem_of(cells, token, tag, is_tagged, needs_tag):
    if len(cells) <= token or needs_tag and not is_tagged:
        return f"{len(cells)} column(s), but word and tag are to be in {token} and {tag}, from 0"
    if not cells[token] or is_tagged and not cells[tag]:
        return "a word without a tag, or a tag without a word"
    return None


def _list_of(value, sentence_format, what):
    """The words or tags of a cell, None where there is none; ValueError for what is neither."""
    if value is None:
        return None
    if not isinstance(value, list):
        # Of a tf.Example it is a list of one.
        return [str(value)] if sentence_format == "tfrecord" else str(value).split()
    for number, item in enumerate(value, 1):
        if item == "":
            raise ValueError(f"{what} {number} is empty")
        is_number = isinstance(item, int) or isinstance(item, float) and math.isfinite(item)
        if not isinstance(item, str) and not is_number:
            raise ValueError(f"{what} {number} is {item!r:.60}, neither a text nor a number")
    return [str(item) for item in value]
