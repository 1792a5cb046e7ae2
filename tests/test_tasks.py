"""Tasks: their files, what is wrong with those, features and metrics."""

import gzip
import json

import numpy as np
import pytest
from tf_examples import write_examples

from electra_tf.errors import UserError
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import builtin_tasks, load_task_config, task_config
from electra_tf.tasks.metrics import (
    auc,
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
    tagging_metrics,
)
from electra_tf.tasks.reading import BadRows, find_files, read_rows, read_sentences
from electra_tf.tasks.tagging import windows, word_pieces
from electra_tf.tasks.task import Example, keep_good, read_split
from electra_tf.tasks.words import split_words
from electra_tf.tokenization import Tokenizer
from electra_tf.training.statistics import summarize

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefgh",
    "##b",
    "##c",
    ".",
    ",",
    "(",
    "$",
    "'",
]
VOCAB += ["北", "京", "3", "##3"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(VOCAB)


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows_of(path, table_format, columns, skip=False, **options):
    bad_rows = BadRows(skip)
    rows = read_rows(path, table_format, columns, bad_rows, **options)
    return [list(row.cells.values()) for row in rows], bad_rows.count


def test_tables(tmp_path):
    tsv = write(tmp_path, "a.tsv", '\ufefft\tl\n"quoted\t1\n\nb "c"\t0\r\n')
    assert rows_of(tsv, "tsv", ["t", "l"])[0] == [['"quoted', "1"], ['b "c"', "0"]]
    assert rows_of(tsv, "tsv", [1])[0] == [["l"], ["1"], ["0"]]
    csv = write(tmp_path, "a.csv", 't,l\n"a, ""b""\nc",1\nd,0\n')
    assert rows_of(csv, "csv", ["l", "t"])[0] == [["1", 'a, "b"\nc'], ["0", "d"]]
    quoted = write(tmp_path, "q.tsv", 't\tl\n"a\tb"\t1\n')
    assert rows_of(quoted, "tsv", ["t"], quotes=True)[0] == [["a\tb"]]
    jsonl = tmp_path / "a.jsonl.gz"
    jsonl.write_bytes(gzip.compress(b'{"t": "a", "l": 1}\n\n{"l": [2], "t": "b", "x": 0}\n'))
    assert rows_of(str(jsonl), "jsonl", ["t", "l"])[0] == [["a", 1], ["b", [2]]]
    assert rows_of(str(jsonl), "jsonl", ["t", "z"], optional=["z"])[0] == [["a", None], ["b", None]]


@pytest.mark.parametrize(
    "name, text, columns, line, message, left",
    [
        ("a.tsv", "t\tl\na\t1\nb\nc\t0\n", ["t"], 3, "1 columns, where the first line has 2", 2),
        # The rows' most common width counts where no line has names.
        ("a.tsv", "a\t1\tx\nb\t0\nc\t1\n", [0, 1], 1, "3 columns, where most lines have 2", 2),
        ("a.tsv", "a\nb\t0\nc\t1\n", [0, 1], 1, "1 columns, where most lines have 2", 2),
        ("a.csv", 't,l\na,1\n"b,1\nc,0\nd,1\n', ["t"], 3, "broken quotes", 3),
        ("a.csv", 't,l\n"a"x,1\nc,0\n', ["t"], 2, "broken quotes", 1),
        ("a.jsonl", '{"t": 1}\n{"t": \n{"t": 2}\n', ["t"], 2, "not JSON", 2),
        ("a.jsonl", '{"t": 1}\n{"u": 1}\n', ["t"], 2, "no key 't'; there are u", 1),
        ("a.jsonl", '{"t": 1}\n[1]\n', ["t"], 2, "not a JSON object", 1),
        ("a.tsv", b"t\tl\na\t1\nb\xff\t0\nc\t0\n", ["t"], 3, "not UTF-8 (byte 2 of the line)", 2),
    ],
)
def test_bad_rows(tmp_path, name, text, columns, line, message, left):
    """One line with file and line number; with `--skip_bad_rows` all others are read."""
    path = write(tmp_path, name, text)
    with pytest.raises(UserError) as error:
        rows_of(path, name[2:], columns)
    assert f"{path}:{line}: {message}" in str(error.value)
    assert "--skip_bad_rows" in str(error.value) and "\n" not in str(error.value)
    rows, count = rows_of(path, name[2:], columns, skip=True)
    assert (len(rows), count) == (left, 1)


def test_a_long_text_is_a_cell(tmp_path):
    path = write(tmp_path, "a.tsv", "t\tl\n" + "word " * 30_000 + "\t1\n")
    assert rows_of(path, "tsv", ["l"])[0] == [["1"]]


@pytest.mark.parametrize(
    "name, text, columns",
    [
        ("a.csv", "words,tags\nAn ant,DT NN\nHi,UH\n", {"token": "words", "tag": "tags"}),
        ("a.tsv", "words\ttags\nAn ant\tDT NN\nHi\tUH\n", {"token": "words", "tag": "tags"}),
        ("a.csv", "An ant,DT NN\nHi,UH\n", {"token": 0, "tag": 1}),
        ("a.tsv", "An\tDT\nant\tNN\n\nHi\tUH\n", {"token": 0, "tag": 1}),
    ],
)
def test_the_format_of_sentences_is_told_by_names(tmp_path, name, text, columns):
    write(tmp_path, name, text)
    config = task_config({"name": "t", "kind": "tagging", "train": name, "columns": columns}, "")
    examples = read_split(kind_of(config), config, str(tmp_path), "train", BadRows(False))[""]
    assert [(e.inputs, e.label) for e in examples] == [
        (["An", "ant"], ["DT", "NN"]),
        (["Hi"], ["UH"]),
    ]


def test_names_of_columns_that_conll_lacks(tmp_path):
    path = write(tmp_path, "a.conll", "An DT\n")
    with pytest.raises(UserError, match="a.conll: conll has no names of columns"):
        read_sentences(path, "conll", {"token": "w", "tag": "t"}, BadRows(False))


def test_labels_that_a_test_set_leaves_open(tmp_path):
    write(tmp_path, "test.tsv", "text\tlabel\na\t\nb\t2\n")
    keys = {"columns": {"text": "text", "label": "label"}, "test": "test.tsv"}
    config = task_config({"name": "t", "kind": "regression", **keys}, "")
    examples = read_split(kind_of(config), config, str(tmp_path), "test", BadRows(False))[""]
    assert [example.label for example in examples] == [None, 2.0]


def test_a_number_that_is_none(tmp_path):
    write(tmp_path, "train.jsonl", '{"text": "a", "label": 1%s}\n' % ("0" * 400))
    keys = {"columns": {"text": "text", "label": "label"}, "train": "train.jsonl"}
    config = task_config({"name": "t", "kind": "regression", **keys}, "")
    with pytest.raises(UserError, match="train.jsonl:1: the label 10+ is not a number"):
        read_split(kind_of(config), config, str(tmp_path), "train", BadRows(False))


@pytest.mark.parametrize(
    "name, text, columns, message",
    [
        ("a.tsv", "", ["t"], "the file is empty"),
        ("a.tsv", "\n \n", ["t"], "the file is empty"),
        ("a.tsv", "t\tl\n", ["t"], "no rows in it"),
        ("a.tsv", "t\tl\na\t1\n", ["u"], ":1: no column 'u'; the first line has 2: t, l"),
        ("a.tsv", "t\tl\na\t1\n", [2], ":1: no column 2; most lines have 2, counted from 0"),
        ("a.tsv.gz", b"\x1f\x8bno", ["t"], "not a whole gzip file"),
        ("a.tsv.gz", gzip.compress(b"t\n" * 9999, mtime=0)[:-20], ["t"], "not a whole gzip file"),
    ],
)
def test_files_without_use(tmp_path, name, text, columns, message):
    path = write(tmp_path, name, text)
    with pytest.raises(UserError) as error:
        rows_of(path, "tsv", columns, skip=True)
    assert f"{path}" in str(error.value) and message in str(error.value)


def test_sentences(tmp_path):
    columns = {"token": 0, "tag": 2}
    conll = "-DOCSTART- -X- O\n\nAn DT B-NP\n#  # I-NP\n\n\nIt PRP O\n"
    path = write(tmp_path, "a.txt", conll)
    first, second = read_sentences(path, "conll", columns, BadRows(False))
    assert (first.words, first.tags) == (["An", "#"], ["B-NP", "I-NP"])
    assert (second.place, second.words, second.tags) == (f"{path}:7", ["It"], ["O"])
    assert first.place_of(1) == f"{path}:4"
    # Tabs keep a word with a space whole.
    tabs = write(tmp_path, "b.txt", "a b\tX\n")
    assert read_sentences(tabs, "conll", {"token": 0, "tag": 1}, BadRows(False))[0].words == ["a b"]
    untagged = write(tmp_path, "c.txt", "a\nb\n\nc\n")
    read = read_sentences(untagged, "conll", columns, BadRows(False), has_tags=False)
    assert [(s.words, s.tags) for s in read] == [(["a", "b"], None), (["c"], None)]
    # Cells that are empty tell no tags, in a test set alone.
    empty = write(tmp_path, "d.txt", "a\t\nb\t\n")
    pair = {"token": 0, "tag": 1}
    [read] = read_sentences(empty, "conll", pair, BadRows(False), has_tags=False)
    assert (read.words, read.tags) == (["a", "b"], None)
    with pytest.raises(UserError, match="d.txt:1: a word without a tag"):
        read_sentences(empty, "conll", pair, BadRows(False))
    for name, text in (
        ("csv", "w,t\na b,\n"),
        ("jsonl", '{"w": ["a", "b"], "t": []}\n'),
    ):
        path = write(tmp_path, f"e.{name}", text)
        named = {"token": "w", "tag": "t"}
        [read] = read_sentences(path, name, named, BadRows(False), has_tags=False)
        assert (read.words, read.tags) == (["a", "b"], None)
    jsonl = write(tmp_path, "a.jsonl", json.dumps({"w": ["a", "b c"], "t": ["O", "X"]}) + "\n")
    named = {"token": "w", "tag": "t"}
    assert read_sentences(jsonl, "jsonl", named, BadRows(False))[0].words == ["a", "b c"]


def test_lines_of_conll_u_that_are_no_words(tmp_path):
    """Comments, two words that are written as one, a node that is not written."""
    rest = "\t_" * 6
    lines = ["# text = zum Haus", "#", f"1-2\tzum\t_\t_{rest}", f"1\tzu\tzu\tADP{rest}"]
    lines += [f"2\tdem\tder\tDET{rest}", f"2.1\tx\t_\t_{rest}", f"3\tHaus\tHaus\tNOUN{rest}"]
    path = write(tmp_path, "a.conllu", "\n".join(lines) + "\n")
    [sentence] = read_sentences(path, "conll", {"token": 1, "tag": 3}, BadRows(False))
    assert sentence.words == ["zu", "dem", "Haus"] and sentence.tags == ["ADP", "DET", "NOUN"]
    # Where the first column is no number of a word, nothing is left out.
    dates = write(tmp_path, "a.tsv", "1-2\tX\n3.5\tX\n")
    [sentence] = read_sentences(dates, "conll", {"token": 0, "tag": 1}, BadRows(False))
    assert sentence.words == ["1-2", "3.5"]


@pytest.mark.parametrize("name", ["a.tfrecord", "data_tfrecord-00000-of-00001.gz"])
def test_tf_examples(tmp_path, name):
    rows = [{"t": "naïve", "l": 3, "n": 0.1, "x": [1, 2]}, {"l": ["a", "b"], "n": [], "t": "b"}]
    path = write_examples(tmp_path / name, rows)
    assert rows_of(path, "tfrecord", ["t", "l"])[0] == [["naïve", 3], ["b", ["a", "b"]]]
    # What float32 stores of 0.1 is 0.10000000149.
    assert rows_of(path, "tfrecord", ["n", "x"], optional=["x"])[0] == [[0.1, [1, 2]], [[], None]]
    assert rows_of(write_examples(tmp_path / f"empty-{name}", []), "tfrecord", ["t"])[0] == []
    with open(path, "r+b") as f:
        f.seek(40)
        f.write(bytes(20))
    with pytest.raises(UserError, match=f"{path}: no TFRecords, or damaged ones"):
        rows_of(path, "tfrecord", ["t"])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"l": 1, "u": 2}, "no feature 't' in this tf.Example; there are l, u"),
        ({}, "there are none"),
        ({"t": b"a\xff", "l": 1}, "'t' is not UTF-8 (its byte 2)"),
        (b"\xff\xff", "not a tf.Example"),
    ],
)
def test_bad_tf_examples(tmp_path, row, message):
    good = {"t": "a", "l": 1}
    path = write_examples(tmp_path / "a.gz", [good, row, good])
    with pytest.raises(UserError) as error:
        rows_of(path, "tfrecord", ["t", "l"])
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)
    rows, count = rows_of(path, "tfrecord", ["t", "l"], skip=True)
    assert (len(rows), count) == (2, 1)


def test_tf_examples_of_words(tmp_path):
    """Lists are words as they are, also a list of one; nothing is split at spaces."""
    path = write_examples(
        tmp_path / "a", [{"w": ["a", "b c"], "t": ["O", "X"]}, {"w": ["1 1/2"], "t": ["O"]}]
    )
    columns = {"token": "w", "tag": "t"}
    first, second = read_sentences(path, "tfrecord", columns, BadRows(False))
    assert (first.words, first.tags) == (["a", "b c"], ["O", "X"])
    assert (second.place, second.words, second.tags) == (f"{path}:2", ["1 1/2"], ["O"])
    [untagged] = read_sentences(
        write_examples(tmp_path / "b", [{"w": ["a"]}]), "tfrecord", columns, BadRows(False), False
    )
    assert (untagged.words, untagged.tags) == (["a"], None)


@pytest.mark.parametrize(
    "name, text, columns, message",
    [
        ("conll", "a DT\n\nb DT O\n", {"token": 0, "tag": 2}, ":1: 2 column(s)"),
        ("conll", "a\tO\n\tO\n\nb\tO\n", {"token": 0, "tag": 1}, ":2: a word without a tag"),
        (
            "jsonl",
            '{"w": ["a"], "t": []}\n{"w": ["b"], "t": ["O"]}\n',
            {"token": "w", "tag": "t"},
            ":1: 1 words but 0 tags",
        ),
        ("tsv", "w\tt\na b\tO\nc\tO\n", {"token": "w", "tag": "t"}, ":2: 2 words but 1 tags"),
        (
            "jsonl",
            '{"w": ["a", null], "t": ["O", "O"]}\n{"w": ["b"], "t": ["O"]}\n',
            {"token": "w", "tag": "t"},
            ":1: word 2 is None, neither a text nor a number",
        ),
        (
            "jsonl",
            '{"w": ["a"], "t": [""]}\n{"w": ["b"], "t": [7]}\n',
            {"token": "w", "tag": "t"},
            ":1: tag 1 is empty",
        ),
        (
            "jsonl",
            '{"w": ["a"], "t": [NaN]}\n{"w": ["b"], "t": ["O"]}\n',
            {"token": "w", "tag": "t"},
            ":1: tag 1 is nan, neither a text nor a number",
        ),
    ],
)
def test_words_and_tags_that_do_not_match(tmp_path, name, text, columns, message):
    path = write(tmp_path, "a.txt", text)
    with pytest.raises(UserError) as error:
        read_sentences(path, name, columns, BadRows(False))
    assert f"{path}{message}" in str(error.value)
    bad_rows = BadRows(True)
    assert len(read_sentences(path, name, columns, bad_rows)) == 1 and bad_rows.count == 1


def task_of(tmp_path, text, dev, **values):
    write(tmp_path, "train.tsv", text)
    write(tmp_path, "dev.tsv", dev)
    config = task_config(
        {"name": "t", "kind": "classification", "train": "train.tsv", "dev": "dev.tsv", **values},
        "t.yaml",
    )
    bad_rows = BadRows(False)
    kind = kind_of(config)
    train = read_split(kind, config, str(tmp_path), "train", bad_rows)[""]
    task = kind.from_training_examples(config, train)
    keep_good(task, train, bad_rows)
    for examples in read_split(kind, config, str(tmp_path), "dev", bad_rows).values():
        keep_good(task, examples, bad_rows)
    return task, train


def test_labels_are_found_in_the_training_data(tmp_path):
    columns = {"text": "t", "label": "l"}
    text = "t\tl\na\t10\nb\t9\nc\tx\n"
    assert task_of(tmp_path, text, text, columns=columns)[0].labels == ["9", "10", "x"]
    with pytest.raises(UserError, match=r"dev.tsv:3: unknown label '8'; known: 9, 10, x"):
        task_of(tmp_path, text, "t\tl\na\t9\na\t8\n", columns=columns)
    with pytest.raises(UserError, match=r"train.tsv: one label alone, '1'"):
        task_of(tmp_path, "t\tl\na\t1\n", text, columns=columns)
    with pytest.raises(UserError, match=r"train.tsv:2: an empty label"):
        task_of(tmp_path, "t\tl\na\t\n", text, columns=columns)
    task, train = task_of(
        tmp_path, "t\tl\na\tx, y\nb\t\n", "t\tl\na\ty\n", columns=columns, multi_label=True
    )
    assert task.labels == ["x", "y"] and [e.label for e in train] == [("x", "y"), ()]


def test_labels_that_are_no_numbers(tmp_path):
    """A text may say so; a number of JSON may not."""
    columns = {"text": "t", "label": "l"}
    text = "t\tl\na\t2\nb\tnan\nc\t1\nd\tx\ne\tinf\n"
    task, _ = task_of(tmp_path, text, text, columns=columns)
    assert task.labels == ["1", "2", "inf", "nan", "x"]
    large = "1" + "0" * 400  # A number that is no float.
    write(tmp_path, "train.jsonl", f'{{"t": "a", "l": 1}}\n{{"t": "b", "l": {large}}}\n')
    text = f"t\tl\na\t{large}\n"
    assert task_of(tmp_path, "", text, columns=columns, train="train.jsonl")[0].labels[1] == large
    write(tmp_path, "train.jsonl", '{"t": "a", "l": 1.0}\n{"t": "b", "l": NaN}\n')
    with pytest.raises(UserError, match=r"train.jsonl:2: the label nan is no number"):
        task_of(tmp_path, text, text, columns=columns, train="train.jsonl")


def test_a_line_of_names_where_columns_are_counted(tmp_path, caplog):
    columns = {"text": 0, "label": 1}
    task_of(tmp_path, "a\tx\nb\ty\nc\tx\n", "a\tx\n", columns=columns)
    assert "line of names" not in caplog.text
    task_of(tmp_path, "t\tl\na\tx\nb\ty\n", "a\tx\n", columns=columns)
    assert f"{tmp_path}/train.tsv:1: the label 'l' is in this line alone" in caplog.text


def test_labels_of_tf_examples(tmp_path):
    columns = {"text": "t", "label": "l"}
    write_examples(tmp_path / "train-1", [{"t": "a", "l": 10}, {"t": "b", "l": 9}])
    write_examples(tmp_path / "train-2.gz", [{"t": "c", "l": "x"}])
    write_examples(tmp_path / "train-3", [])  # As a pipeline may write one.
    options = {"name": "t", "format": "tfrecord", "columns": columns, "train": "train-*"}

    def train_of(**values):
        config = task_config({"kind": "classification", **options, **values}, "t.yaml")
        return read_split(kind_of(config), config, str(tmp_path), "train", BadRows(False))[""]

    assert [(e.inputs, e.label) for e in train_of()] == [
        (("a",), "10"),
        (("b",), "9"),
        (("c",), "x"),
    ]
    write_examples(tmp_path / "many", [{"t": "a", "l": ["x", "y"]}, {"t": "a", "l": []}])
    with pytest.raises(UserError, match=r"many:1: 2 labels; with multi_label: true"):
        train_of(train="many")
    many = train_of(train="many", multi_label=True)
    assert [e.label for e in many] == [("x", "y"), ()]
    write_examples(tmp_path / "numbers", [{"t": "a", "l": 4.7}, {"t": ["a", "b"], "l": 1}])
    with pytest.raises(UserError, match=r"numbers:2: 't' is \['a', 'b'\], not a string"):
        train_of(train="numbers", kind="regression")
    with pytest.raises(UserError, match=r"train-3: no usable row in it"):
        train_of(train="train-3")


def test_numbers(tmp_path):
    options = {"kind": "regression", "columns": {"text": "t", "label": "l"}}
    text = "t\tl\na\t-1\nb\t3\n"
    task, train = task_of(tmp_path, text, text, **options)
    assert task.label_range == (-1.0, 3.0)
    with pytest.raises(UserError, match=r"train.tsv:2: the label 'x' is not a number"):
        task_of(tmp_path, "t\tl\na\tx\n", text, **options)
    with pytest.raises(UserError, match=r"train.tsv:2: the label 'nan' is not a finite number"):
        task_of(tmp_path, "t\tl\na\tnan\n", text, **options)
    with pytest.raises(UserError, match=r"train.tsv:3: the label 3 is outside .* -1 to 2"):
        task_of(tmp_path, text, text, label_range=[-1, 2], **options)
    [low, high] = task.predictions(np.array([[0.0], [1.5]]), None, None)
    assert (low, high) == ({"prediction": -1.0}, {"prediction": 5.0})
    assert task.submitted(high) == "3.000"
    assert not task.is_stuck([low, high], None) and task.is_stuck([low, low], None)


def test_tags(tmp_path):
    options = {"kind": "tagging", "columns": {"token": 0, "tag": 1}, "scheme": "IOB2"}
    text = "a\tB-X\nb\tI-X\n\nc\tO\n"
    task, _ = task_of(tmp_path, text, text, **options)
    assert task.labels == ["O", "B-X", "I-X"]
    with pytest.raises(UserError, match=r"train.tsv:2: the tag 'E-X' is none of IOB2"):
        task_of(tmp_path, "a\tB-X\nb\tE-X\n", text, **options)
    with pytest.raises(UserError, match=r"dev.tsv:1: unknown label 'B-Y' in this sentence"):
        task_of(tmp_path, text, "a\tB-Y\n", **options)
    with pytest.raises(UserError, match=r"train.tsv: one tag alone, 'O'; there must be two"):
        task_of(tmp_path, "a\tO\nb\tO\n", text, **options)
    bioes, _ = task_of(tmp_path, "a\tS-X\n", "a\tB-X\nb\tE-X\n", **{**options, "scheme": "BIOES"})
    assert sorted(bioes.labels) == ["B-X", "E-X", "I-X", "O", "S-X"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"kind": "taging"}, "kind='taging'"),
        ({"metric": "f2"}, "metric=f2: choose one of accuracy, f1, macro_f1, mcc"),
        ({"colums": {}}, "did you mean 'columns'?"),
        ({"columns": {"text": "t"}}, "missing: label"),
        ({"columns": {"text": "t", "label": 1}}, "give names or numbers, not both"),
        ({"columns": {"text": 0, "label": 1, "tag": 2}}, "unknown: tag"),
        ({"format": "race"}, "format=race: a classification task has tsv, csv, jsonl"),
        ({"kind": "regression", "multi_label": True}, "multi_label: a key of classification"),
        ({"format": "tfrecord"}, "columns: features of tf.Examples have names, not numbers"),
        ({"test_columns": {"label": 1}}, "test_columns: a classification task has"),
        ({"both_orders": True}, "for tasks of pairs"),
        ({"kind": "regression", "scheme": "IOB2"}, "scheme: a key of tagging; leave it out"),
        ({"kind": "regression", "labels": ["a", "b"]}, "labels: a key of classification, tagging"),
        ({"label_separator": ";"}, "label_separator: of several labels"),
        ({"label_separator": ""}, "label_separator=''"),
        ({"labels": ["a", "b", "a"]}, "labels: a label twice among a, b, a"),
        ({"labels": ["a", {"b": 1}]}, "labels: the label {'b': 1} is neither a text nor a number"),
        ({"columns": {"text": 0, "label": -1}}, "columns: columns are counted from 0"),
        ({"name": "a/b"}, "name=a/b: files are called by it"),
        ({"test": {"a": "a", "b": "b"}, "submission": "S.tsv"}, "a file for each set of 'test'"),
        ({"test": "a", "submission": {"a": "S.tsv"}}, "'test' is one set"),
        ({"answerable_weight": float("inf")}, "answerable_weight=inf: give finite numbers"),
        ({"kind": "regression", "label_range": [0, float("inf")]}, "give finite numbers"),
        ({"kind": "regression", "label_range": [1, 0]}, "the first number is to be the lower one"),
    ],
)
def test_task_files_that_cannot_be(values, message):
    good = {"name": "t", "kind": "classification", "columns": {"text": 0, "label": 1}}
    with pytest.raises(UserError) as error:
        task_config({**good, **values}, "mine.yaml")
    assert str(error.value).startswith("mine.yaml") and message in str(error.value)


def test_builtin_tasks(shared_data):
    """GLUE's own layout, as far as it is here; the numbers are those of the data's README."""
    glue = {"ax", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"}
    questions = {"squad1", "squad2", "newsqa", "naturalqs", "triviaqa", "searchqa", "swag", "race"}
    assert glue | {"chunk", "ner", "pos"} | questions == set(builtin_tasks())
    counts = {}
    for name, folder in (
        ("CoLA", "glue/CoLA"),
        ("SST-2", "glue/SST-2"),
        ("mrpc", "glue/MRPC"),
        ("STS-B", "glue/STS-B"),
        ("MNLI", "glue/MNLI"),
        ("qnli", "glue/QNLI"),
        ("wnli", "glue/WNLI"),
        ("chunk", "tagging/chunk_conll2000"),
        ("pos", "tagging/pos_ud_ewt"),
    ):
        config, bad_rows = load_task_config(name), BadRows(False)
        kind = kind_of(config)
        sets = {
            split: read_split(kind, config, str(shared_data / folder), split, bad_rows)
            for split in ("train", "dev")
        }
        task = kind.from_training_examples(config, sets["train"][""])
        [dev] = sets["dev"].values()
        assert keep_good(task, dev, bad_rows) == dev
        counts[name] = (len(sets["train"][""]), len(dev))
    assert counts == {
        "CoLA": (8551, 527),
        "SST-2": (67349, 872),
        "mrpc": (3668, 408),
        "STS-B": (5749, 1500),
        "MNLI": (7047, 1005),
        "qnli": (4266, 503),
        "wnli": (635, 71),
        "chunk": (8028, 888),
        "pos": (12534, 1999),
    }


def test_both_orders():
    config = load_task_config("mrpc")
    task = kind_of(config)(config, config.labels)
    examples = [Example("", "0", ("a", "b"), "1")]
    assert [e.inputs for e in task.training_examples(examples)] == [("a", "b"), ("b", "a")]


def test_windows():
    assert windows([1, 2, 1], 4) == [(0, 3, 0, 3)]
    # Eight words of one piece, five at a time, one word of overlap (5 // 4).
    assert windows([1] * 8, 5) == [(0, 5, 0, 4), (4, 8, 4, 8)]
    for num_pieces in ([1] * 300, [3, 1, 5] * 40, [20, 1] * 9, [7]):
        cut = windows(num_pieces, 20)
        assert all(sum(num_pieces[start:end]) <= 20 for start, end, _, _ in cut)
        assert all(start <= first <= last <= end for start, end, first, last in cut)
        owned = [word for _, _, first, last in cut for word in range(first, last)]
        assert owned == list(range(len(num_pieces)))


def test_no_word_is_without_a_piece(tokenizer):
    pieces = word_pieces({"ab", "\u200b", "abbbbb"}, tokenizer, most=3)
    assert pieces["\u200b"] == [tokenizer.unk_id]
    assert pieces["ab"] == [VOCAB.index("a"), VOCAB.index("##b")]
    assert len(pieces["abbbbb"]) == 3


def test_long_sentences_are_predicted_word_by_word(tokenizer):
    config = task_config(
        {"name": "t", "kind": "tagging", "columns": {"token": 0, "tag": 1}, "labels": ["x", "y"]},
        "t",
    )
    task = kind_of(config)(config, config.labels)
    words = ["a", "abc", "h"] * 20
    tags = ["x", "y", "y"] * 20
    examples = [Example("", "0", words, tags), Example("", "1", ["b"], ["y"])]
    features = task.features(examples, tokenizer, 12)
    assert features.lengths.max() <= 12 and len(features.lengths) > 6
    outputs = [  # What a perfect network says, and the opposite where a word is not this row's own.
        np.eye(2)[np.maximum(features.tokens["label"][start:end], 0)]
        for start, end in zip(features.row_splits, features.row_splits[1:])
    ]
    predictions = task.predictions(outputs, examples, features)
    assert [p["prediction"] for p in predictions] == [tags, ["y"]]


def test_words_of_running_text(tokenizer):
    [words, empty] = split_words(["(ab,3.3) a'b 北京h $c.", " \x07"], tokenizer)
    found = ["(", "ab,3.3", ")", "a'b", "北", "京", "h", "$", "c", "."]
    assert [w.text for w in words] == found and empty == []
    assert words[1].start == 1 and words[1].end == 7


def test_metrics_by_hand():
    metrics = classification_metrics(["1", "1", "0", "1"], ["1", "0", "0", "1"], ["0", "1"])
    # TP 2, FP 1, FN 0, TN 1.
    assert metrics["accuracy"] == 0.75 and metrics["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert metrics["mcc"] == pytest.approx((2 * 1 - 0) / (3 * 2 * 1 * 2) ** 0.5)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    multi = multi_label_metrics([["a"], ["a", "b"]], [["a"], ["b"]], ["a", "b"])
    assert multi == pytest.approx({"accuracy": 0.5, "f1": 4 / 5, "macro_f1": (2 / 3 + 1) / 2})
    numbers = regression_metrics([1.0, 2.0, 4.0], [1.0, 3.0, 2.0])
    assert numbers["spearman"] == pytest.approx(0.5)
    assert numbers["mse"] == pytest.approx(5 / 3)
    assert regression_metrics([1.0, 1.0], [1.0, 2.0])["pearson"] == 0.0
    # Two phrases, one found; one predicted too many.
    tags = tagging_metrics([["B-X", "O", "B-X"]], [["B-X", "B-Y", "O"]], has_phrases=True)
    assert tags == pytest.approx({"accuracy": 1 / 3, "precision": 0.5, "recall": 0.5, "f1": 0.5})
    assert tagging_metrics([["A", "B"]], [["A", "A"]], has_phrases=False) == {"accuracy": 0.5}


def test_several_labels_of_a_test_set(tmp_path):
    """An empty cell is no label where other rows have some; else labels are not told."""
    keys = {"kind": "classification", "multi_label": True, "test": "test.tsv"}
    config = task_config({"name": "t", "columns": {"text": "t", "label": "l"}, **keys}, "")

    def labels(text):
        write(tmp_path, "test.tsv", text)
        sets = read_split(kind_of(config), config, str(tmp_path), "test", BadRows(False))
        return [example.label for example in sets[""]]

    assert labels("t\tl\na\tx,y\nb\t\n") == [("x", "y"), ()]
    assert labels("t\tl\na\t\nb\t\n") == [None, None]


def test_labels_are_what_is_written(tmp_path):
    text = "name: t\nkind: classification\ncolumns: {text: 0, label: 1}\nlabels: [no, 01, True]\n"
    config = load_task_config(write(tmp_path, "t.yaml", text))
    assert config.labels == ["no", "01", "True"]


def test_conll_columns_and_comments(tmp_path):
    columns = {"token": 0, "tag": 1}
    text = "# sent_id = 1\n# text = a b\na\tX\nb\tY\n\n# c\nd\tX\n"
    path = write(tmp_path, "a.conll", text)
    read = read_sentences(path, "conll", columns, BadRows(False))
    assert [(s.words, s.tags) for s in read] == [(["a", "b"], ["X", "Y"]), (["d"], ["X"])]
    assert read[1].place == f"{path}:7"
    path = write(tmp_path, "b.conll", "big dog X\na X\n\nb Y\n")
    with pytest.raises(UserError, match="b.conll:1: 3 columns, where most lines have 2"):
        read_sentences(path, "conll", columns, BadRows(False))
    assert [s.words for s in read_sentences(path, "conll", columns, BadRows(True))] == [["b"]]


def test_quotes_of_tagged_sentences(tmp_path):
    path = write(tmp_path, "a.tsv", 'w\tt\n"a ""b"""\tO X\n')
    columns = {"token": "w", "tag": "t"}
    [sentence] = read_sentences(path, "tsv", columns, BadRows(False), quotes=True)
    assert sentence.words == ["a", '"b"']


def test_mrpcs_own_folder(tmp_path):
    """As the script of GLUE makes it, with a file of identifiers beside the dev set."""
    rows = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\ta\tb\n"
    write(tmp_path, "dev.tsv", rows)
    write(tmp_path, "dev_ids.tsv", "1\t2\n")
    config = load_task_config("mrpc")
    [(_, [example])] = read_split(
        kind_of(config), config, str(tmp_path), "dev", BadRows(False)
    ).items()
    assert example.inputs == ("a", "b") and example.label == "1"


@pytest.mark.parametrize("name", ["a[1]", "b*", "c?", "d\\"])
def test_folders_that_look_like_patterns(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "a1").mkdir()
    for folder in (name, "a1"):
        write(tmp_path / folder, "dev_1.tsv", "a\n")
    assert find_files(str(tmp_path / name), "dev*.tsv") == [f"{tmp_path}/{name}/dev_1.tsv"]


def test_metrics_of_a_network_that_diverged():
    nan = float("nan")
    assert auc([nan, 0.5], [True, False]) == {"auc": 0.5}
    metrics = regression_metrics([nan, 1.0], [0.0, 1.0])
    assert metrics["pearson"] == metrics["spearman"] == 0.0 and np.isnan(metrics["mse"])
    summary = summarize("mse", [{"seed": 1, "is_stuck": False, "metrics": {"mse": None}}])
    assert summary["metrics"] == {"mse": None}
