"""Text -> documents -> examples -> records."""

import gzip
import json
import subprocess
import sys

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_tf import Tokenizer, UserError, corpus, records

WORDS = "the cat sat on a mat and then it ran off to sea with an owl".split()
NUMBERS = [str(i) for i in range(60)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *NUMBERS]


def text_of(num_documents, lines=6, words=9):
    """Documents that all differ: each line begins with its document's number."""
    documents = []
    for d in range(num_documents):
        rows = [
            f"{d} "
            + " ".join(
                WORDS[(d * 7 + i * 5 + j * (d + 1)) % len(WORDS)] for j in range(words + i % 3)
            )
            for i in range(lines)
        ]
        documents.append("\n".join([f"{d} owl {'the ' * (d % 11)}", *rows]))
    return documents


def documents_of(path, **options):
    report = corpus.ReadReport()
    found = corpus.read_documents(corpus.find_files(str(path)), report, **options)
    return [b"|".join(document.lines).decode() for document in found], report


# Reading.


def test_blank_lines_and_files_separate_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\n\n one \ntwo\r\n\n  \nthree")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four\n\nfive\n"))
    (tmp_path / "c.jsonl").write_text('{"text": "six\\n\\nseven"}\n\n{"text": "eight"}\n')
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    assert documents_of(tmp_path)[0] == ["one|two", "three", "four", "five", "six|seven", "eight"]
    assert documents_of(tmp_path / "*.txt")[0] == ["one|two", "three"]
    assert documents_of(f"{tmp_path}/c.jsonl,{tmp_path}/a.txt")[0][0] == "six|seven"


def test_another_json_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n')
    assert documents_of(tmp_path, json_field="body")[0] == ["one"]
    with pytest.raises(UserError, match=r"a.jsonl:1: no field 'text'; .*--json_field"):
        documents_of(tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "not a JSON object"),
        ('{"text": ' + "1" * 5000 + "}", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"text": 3}', "is no string"),
    ],
    ids=["open", "digits", "deep", "number"],
)
def test_malformed_json(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=f"a.jsonl:2: .*{message}"):
        documents_of(tmp_path)


def test_exact_duplicates_are_dropped(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n\none \n two\n")
    found, report = documents_of(tmp_path, drop_duplicates=True)
    assert found == ["one|two", "three"]
    assert (report.num_documents, report.num_duplicates) == (3, 1)
    assert documents_of(tmp_path)[0] == ["one|two", "three", "one|two"]


def test_invalid_utf8_is_counted_and_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes("fine\n\nä\n".encode() + b"b\xffc\n\n\xfe\n")
    found, report = documents_of(tmp_path)
    assert found == ["fine", "ä|b\ufffdc", "\ufffd"]
    assert report.num_invalid_lines == 2
    assert report.first_invalid == f"{tmp_path}/a.txt:4"
    with pytest.raises(UserError, match=r"a.txt:4: invalid UTF-8 at byte 1"):
        documents_of(tmp_path, invalid_utf8="error")


def test_invalid_utf8_in_json_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "na\xefve"}\n')
    documents, report = documents_of(tmp_path)
    assert documents == ["fine", "na\ufffdve"]
    assert (report.num_invalid_lines, report.first_invalid) == (1, f"{tmp_path}/a.jsonl:2")
    with pytest.raises(UserError, match=r"a.jsonl:2: invalid UTF-8 at byte 12 of the line"):
        documents_of(tmp_path, invalid_utf8="error")


def test_a_line_without_end_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 3_000_000 + b"\nshort\n")
    with pytest.raises(UserError, match=r"a.txt:2: a line of more than 2 MB.*--max_line_mb"):
        documents_of(tmp_path, max_line_mb=2.0)
    assert len(documents_of(tmp_path)[0]) == 1


def test_a_document_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 10)
    (tmp_path / "a.txt").write_text("aaaaaaaa\nbbbb\ncc\n\ndd\n")
    found, report = documents_of(tmp_path)
    assert found == ["aaaaaaaa|bbbb", "cc", "dd"]
    assert report.num_cut_documents == 1


def test_damaged_or_missing_inputs(tmp_path):
    with pytest.raises(UserError, match="no such input"):
        corpus.find_files(str(tmp_path / "*.txt"))
    with pytest.raises(UserError, match="names no input"):
        corpus.find_files("")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text\n" * 99)[:-9])
    with pytest.raises(UserError, match="a.txt.gz:.* not a whole gzip file"):
        documents_of(tmp_path)
    (tmp_path / "a.txt.gz").write_bytes(b"plain")
    with pytest.raises(UserError, match="a.txt.gz:1: not a whole gzip file"):
        documents_of(tmp_path)


# Cutting into examples.

LENGTHS = st.lists(st.integers(0, 300), max_size=40)


def spans(ranges):
    return [token for start, end in ranges for token in range(start, end)]


@settings(max_examples=300, deadline=None)
@given(LENGTHS, st.integers(5, 128), st.integers(0, 1000))
def test_every_token_stands_in_one_example(lengths, max_length, seed):
    examples = list(corpus.ExampleBuilder(max_length, seed).build(lengths))
    tokens = [t for e in examples for t in spans(e.first) + spans(e.second)]
    assert sorted(tokens) == list(range(sum(lengths)))
    for e in examples:
        specials = 3 if e.second else 2
        assert e.first and len(spans(e.first)) + len(spans(e.second)) + specials <= max_length


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(0, 1000))
def test_the_original_throws_overflow_away(lengths, seed):
    examples = list(corpus.ExampleBuilder(32, seed, keep_overflow=False).build(lengths))
    tokens = [t for e in examples for t in spans(e.first) + spans(e.second)]
    assert len(tokens) == len(set(tokens)) <= sum(lengths)
    if any(length > 29 for length in lengths):
        assert len(tokens) < sum(lengths)


def test_shares_of_segments_and_lengths():
    examples = list(corpus.ExampleBuilder(128, 1).build([9] * 60_000))
    one_segment = sum(not e.second for e in examples) / len(examples)
    # A tenth by choice; of the random short lengths some have room for one sentence only.
    assert 0.1 < one_segment < 0.13
    short = sum(len(spans(e.first) + spans(e.second)) < 117 for e in examples) / len(examples)
    assert 0.03 < short < 0.06


# Building records.


def build(tmp_path, name, text="corpus", **options):
    folder = tmp_path / name
    options = {"max_seq_length": 16, "num_shards": 3, "seed": 7, **options}
    datasets, report = corpus.build_pretraining_data(
        str(tmp_path / text), VOCAB, str(folder), **options
    )
    return folder, datasets, report


def examples_of(folder):
    shards = sorted(map(str, folder.glob("*tfrecord*")))
    return [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(shards)]


def values(example, name):
    return list(example.features.feature[name].int64_list.value)


@pytest.fixture
def text_folder(tmp_path):
    (tmp_path / "corpus").mkdir()
    documents = text_of(60)
    (tmp_path / "corpus" / "a.txt").write_text("\n\n".join(documents[:40]))
    (tmp_path / "corpus" / "b.txt").write_text("\n\n".join(documents[40:]))
    return tmp_path


def test_records_hold_the_text(text_folder):
    folder, datasets, _ = build(text_folder, "records")
    tokenizer = Tokenizer(VOCAB)
    all_text = " ".join(text_of(60))
    expected = sorted(tokenizer.tokenize(all_text).numpy().tolist())
    found = []
    for example in examples_of(folder):
        ids, mask, segments = (values(example, n) for n in records.FEATURES)
        length = sum(mask)
        assert len(ids) == len(mask) == len(segments) == 16
        assert ids[0] == 2 and ids[length - 1] == 3 and ids[length:] == [0] * (16 - length)
        assert mask == [1] * length + [0] * (16 - length)
        assert ids.count(3) == 1 + (sum(segments) > 0)
        if sum(segments):
            assert segments.index(1) == ids.index(3) + 1
        found += [i for i in ids if i > 4]
    assert sorted(found) == expected
    info = json.loads((folder / "dataset.json").read_text())
    assert info == datasets["train"]
    assert info["num_tokens"] == info["num_packed"] == len(expected)
    assert info["num_examples"] == len(examples_of(folder)) and info["num_documents"] == 60
    assert [p.name for p in sorted(folder.glob("*tfrecord*"))] == [
        f"pretrain.tfrecord-0000{i}-of-00003" for i in range(3)
    ]


def test_held_out_documents_are_disjoint_and_depend_on_the_seed(text_folder):
    def documents(folder):
        ids = {i for e in examples_of(folder) for i in values(e, "input_ids")}
        return {VOCAB[i] for i in ids} & set(NUMBERS)

    folder, datasets, _ = build(text_folder, "records", eval_fraction=0.3)
    train, held_out = documents(folder), documents(folder / "eval")
    assert train | held_out == set(NUMBERS) and not train & held_out
    assert datasets["eval"]["num_documents"] == len(held_out)
    assert 8 <= datasets["eval"]["num_documents"] <= 28
    other, _, _ = build(text_folder, "other", eval_fraction=0.3, seed=8)
    assert documents(other / "eval") != held_out


def test_google2020_counts_what_it_throws_away(text_folder):
    _, datasets, _ = build(text_folder, "records", fidelity="google2020")
    assert datasets["train"]["num_packed"] < datasets["train"]["num_tokens"]


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*tfrecord*"))}


def test_the_output_does_not_depend_on_the_number_of_workers(text_folder):
    """In a process of its own: workers are not to be forked from this one's TensorFlow."""
    expected = content(build(text_folder, "one", eval_fraction=0.2)[0])
    (text_folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    command = [
        sys.executable, "-m", "electra_tf.commands.build_pretraining_data",
        f"--input={text_folder / 'corpus'}", f"--vocab_file={text_folder / 'vocab.txt'}",
        f"--output_dir={text_folder / 'two'}", "--max_seq_length=16", "--num_shards=3",
        "--seed=7", "--eval_fraction=0.2", "--num_workers=2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert content(text_folder / "two") == expected
    assert "(0 thrown away)" in done.stdout


def test_an_occupied_folder_is_refused_and_left_alone(text_folder):
    folder, _, _ = build(text_folder, "records")
    before = content(folder)
    with pytest.raises(UserError, match="holds records already"):
        build(text_folder, "records")
    assert content(folder) == before


def test_a_failing_build_leaves_nothing(text_folder):
    (text_folder / "corpus" / "c.jsonl").write_text("{")
    with pytest.raises(UserError, match="c.jsonl:1"):
        build(text_folder, "records")
    assert not (text_folder / "records").exists()


def test_an_interrupted_build_is_cleared_away(text_folder):
    folder = text_folder / "records"
    (folder / "building-123").mkdir(parents=True)
    (folder / "pretrain.tfrecord-00000-of-00009").write_bytes(b"half")
    _, datasets, _ = build(text_folder, "records")
    assert len(list(folder.glob("*tfrecord*"))) == 3 and datasets["train"]["num_examples"]
    assert not list(folder.glob("building-*"))


def test_text_without_words_is_refused(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("\n \n")
    with pytest.raises(UserError, match="no text to train on"):
        build(tmp_path, "records")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(text_folder):
    (text_folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    document = "\n".join("the cat sat on a mat and then it ran off to sea" for _ in range(100))

    def peak(megabytes):
        """Peak resident memory, in MB, of a process that builds records of so much text."""
        path = text_folder / f"{megabytes}.txt"
        with open(path, "w") as f:
            for i in range(megabytes * 1_000_000 // len(document)):
                f.write(f"{i}\n{document}\n\n")
        code = (
            "import resource, sys\n"
            "from electra_tf.commands.build_pretraining_data import main\n"
            f"code = main(['', '--input={path}', '--vocab_file={text_folder}/vocab.txt',"
            f" '--output_dir={text_folder}/out{megabytes}', '--num_workers=1'])\n"
            "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        code, megabytes = done.stdout.split()[-2:]
        assert code == "0", done.stderr
        return float(megabytes)

    small, large = peak(10), peak(80)
    assert large < small + 40
