"""Text of TensorFlow Datasets, from data sets that are made here."""

import errno
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from electra_tf import UserError, corpus, load_pretraining_config, tfds_corpus
from electra_tf.commands import build_pretraining_data, build_vocab, pretrain

ROOT = pathlib.Path(__file__).parents[1]
WORDS = "the cat sat on a mat and then it ran off to sea with an owl".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(str, range(60))]
# Every peculiarity of a text once; the others have three lines each.
PECULIAR = {
    3: "the cat\r\n\r\n  sat on \n\n\na mat\n",
    5: "  \n \n",
    7: "",
    11: "Käse 猫\u2028sat\x0bon",
    13: "the same text",
    17: "the same text",
}


def text_of(number):
    lines = [
        f"{number} " + " ".join(WORDS[(number * 7 + i * 5 + j * j) % 16] for j in range(9 + i))
        for i in range(3)
    ]
    return PECULIAR.get(number, "\n".join(lines))


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "raw": tfds.features.Text(),
            "year": np.int64,
            "tags": tfds.features.Sequence(tfds.features.Text()),
            "nested": {"text": tfds.features.Text()},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._examples(range(60)), "test": self._examples(range(60, 66))}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, numbers):
        for number in numbers:
            yield (
                number,
                {
                    "text": text_of(number),
                    "raw": b"fine\nb\xffc \xfe\nfine" if number == 62 else f"raw {number}",
                    "year": number,
                    "tags": ["a"],
                    "nested": {"text": "no field of its own"},
                },
            )


class OlderTexts(TinyTexts, skip_registration=True):
    name = "tiny_texts"
    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {"train": self._examples(range(50, 55))}


class UnpreparedTexts(TinyTexts):
    """Nobody prepares it before it is read."""


class UnreachableTexts(TinyTexts):
    def _split_generators(self, dl_manager):
        dl_manager.download("https://nowhere.invalid/text.txt")


class RemovedTexts(TinyTexts):
    port = 0

    def _split_generators(self, dl_manager):
        dl_manager.download(f"http://127.0.0.1:{self.port}/removed.txt")


class NeedyTexts(TinyTexts):
    def _split_generators(self, dl_manager):
        import a_package_that_is_not_here  # noqa: F401


class EndlessTexts(TinyTexts):
    def _split_generators(self, dl_manager):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/shard")


class HandmadeTexts(TinyTexts):
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the author."

    def _split_generators(self, dl_manager):
        return {"train": self._examples(dl_manager.manual_dir.iterdir())}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS_DATA_DIR, with two versions of `tiny_texts`; train has three shards."""
    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=3)
    for builder in (TinyTexts, OlderTexts):
        builder(data_dir=folder).download_and_prepare(download_config=config)
    with pytest.MonkeyPatch.context() as patch:
        # Set from the environment when TensorFlow Datasets is imported.
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return path


def shards(data_dir, split="train", version="1.2.0"):
    return sorted((data_dir / "tiny_texts" / version).glob(f"tiny_texts-{split}.tfrecord-*"))


def stored(files, field="text"):
    """The texts of TFRecords, without TensorFlow Datasets."""
    records = tf.data.TFRecordDataset(list(map(str, files))).as_numpy_iterator()
    return [
        tf.train.Example.FromString(record).features.feature[field].bytes_list.value[0].decode()
        for record in records
    ]


def read(source, **options):
    report = corpus.ReadReport()
    return list(corpus.read_documents(corpus.find_files(source), report, **options)), report


def texts_of(documents):
    return [b"\n".join(document.lines).decode() for document in documents]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


# Reading.


def test_documents_are_the_texts_in_the_order_of_the_files(data_dir):
    expected = stored(shards(data_dir))
    assert len(shards(data_dir)) == 3 and sorted(expected) == sorted(map(text_of, range(60)))
    plain = [text for text in expected if text not in PECULIAR.values()]
    found = texts_of(read("tfds:tiny_texts")[0])
    assert [text for text in found if text in plain] == plain
    assert "the cat\nsat on\na mat" in found and len(found) == 58  # Two have no text.
    assert found == texts_of(read("tfds:tiny_texts")[0])


def test_they_are_read_as_the_lines_of_a_jsonl(data_dir, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", stored(shards(data_dir)))
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 100)
    for options in ({}, {"drop_duplicates": True}):
        documents, report = read("tfds:tiny_texts", **options)
        expected, expected_report = read(path, **options)
        assert documents == expected
        report.num_source_bytes = expected_report.num_source_bytes
        assert report == expected_report and report.num_duplicates == len(options)


@pytest.mark.parametrize(
    "source, numbers",
    [
        ("tfds:tiny_texts:test", range(60, 66)),
        ("tfds:tiny_texts:1.2.0:test", range(60, 66)),
        ("tfds:tiny_texts:1.*.*:test", range(60, 66)),
        ("tfds:tiny_texts:1.0.0", range(50, 55)),
        ("tfds:TinyTexts:1.0.0:train:text", range(50, 55)),
        ("tfds:unprepared_texts:test", range(60, 66)),
    ],
)
def test_versions_and_splits(data_dir, source, numbers):
    found, _ = read(source)
    assert sorted(texts_of(found)) == sorted(map(text_of, numbers))


def test_slices_and_sums(data_dir):
    # None of these is peculiar, so that the text is one document as it is.
    train, test = (texts_of(read(f"tfds:tiny_texts:{split}")[0]) for split in ("train", "test"))
    raw = [f"raw {number}" for number in range(60)]
    by_field = texts_of(read("tfds:tiny_texts:train:raw")[0])
    assert by_field == stored(shards(data_dir), "raw") and sorted(by_field) == sorted(raw)
    assert texts_of(read("tfds:tiny_texts:train[:10%]:raw")[0]) == by_field[:6]
    assert texts_of(read("tfds:tiny_texts:train[15:-20]:raw")[0]) == by_field[15:40]
    assert texts_of(read("tfds:tiny_texts:train[1shard]:raw")[0]) == by_field[20:40]
    assert texts_of(read("tfds:tiny_texts:test+train")[0]) == test + train
    assert texts_of(read("tfds:tiny_texts:train[:2]+train[58:]:raw")[0]) == (
        by_field[:2] + by_field[-2:]
    )


def test_several_corpora_and_another_field(data_dir, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["one\ntwo"])
    (tmp_path / "b.txt").write_text("three\n\nfour\n")
    source = (
        f"{tmp_path}/*.jsonl,tfds:tiny_texts:train[:2]:raw,{tmp_path}/b.txt,tfds:tiny_texts:test"
    )
    found = texts_of(read(source)[0])
    raw = stored(shards(data_dir), "raw")[:2]
    assert found == ["one\ntwo", *raw, "three", "four", *stored(shards(data_dir, "test"))]
    assert texts_of(read("tfds:tiny_texts:train[:2]", json_field="raw")[0]) == raw
    first = stored(shards(data_dir))[:2]
    assert texts_of(read("tfds:tiny_texts:train[:2]:text", json_field="raw")[0]) == first


def test_invalid_utf8(data_dir):
    numbers = [int(text.split()[0]) for text in stored(shards(data_dir, "test"))]
    place = f"tfds:tiny_texts:test:raw:{numbers.index(62) + 1}"
    documents, report = read("tfds:tiny_texts:test:raw")
    assert "fine\nb\ufffdc \ufffd\nfine" in texts_of(documents)
    assert (report.num_invalid_lines, report.first_invalid) == (1, place)
    with pytest.raises(UserError, match=f"{place}: invalid UTF-8 at byte 1"):
        read("tfds:tiny_texts:test:raw", invalid_utf8="error")


def test_a_text_without_end_is_refused(data_dir):
    with pytest.raises(UserError, match=r"tfds:tiny_texts:\d+: .* more than 1e-05 MB.*max_line_mb"):
        read("tfds:tiny_texts", max_line_mb=1e-5)


def test_the_bar_ends_at_its_total(data_dir, tmp_path):
    def sizes(source):
        done = []
        report = corpus.ReadReport()
        sources = corpus.find_files(source)
        for _ in corpus.read_documents(sources, report):
            done.append(report.num_source_bytes)
        assert done == sorted(done)
        return build_pretraining_data.total_bytes(sources), done

    (tmp_path / "a.txt").write_text("one\n" * 1000)
    file_bytes = [path.stat().st_size for path in shards(data_dir)]
    total, done = sizes("tfds:tiny_texts")
    assert total == done[-1] == sum(file_bytes)
    assert abs(done[28] / total - 0.5) < 0.04  # It grows evenly.
    total, done = sizes("tfds:tiny_texts:train[:10]")
    assert total == done[-1] == file_bytes[0] // 2
    total, done = sizes(f"{tmp_path}/a.txt,tfds:tiny_texts:train,tfds:tiny_texts:train[40:]")
    assert total == done[-1] == 4000 + sum(file_bytes) + file_bytes[2]


@pytest.mark.parametrize(
    "source, parts",
    [
        ("tfds:lm1b", ("lm1b", "train", None)),
        ("tfds:lm1b:1.1.0", ("lm1b:1.1.0", "train", None)),
        ("tfds:wikipedia/20230601.en:test:title", ("wikipedia/20230601.en", "test", "title")),
        ("tfds:c4/en:3.*.*:train[:10%]+all:url", ("c4/en:3.*.*", "train[:10%]+all", "url")),
        ("tfds:a:1.1:b", ("a", "1.1", "b")),
    ],
)
def test_the_syntax(source, parts):
    assert tfds_corpus.parse(source) == parts


# Commands.


def build(source, vocab_file, output_dir, *more):
    return build_pretraining_data.main(
        [
            "", f"--input={source}", f"--vocab_file={vocab_file}", f"--output_dir={output_dir}",
            "--max_seq_length=16", "--num_shards=3", "--num_workers=1", "--eval_fraction=0.2", *more,
        ]
    )  # fmt: skip


def records_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tfrecord-*")
    }


def test_records_equal_those_of_a_jsonl(data_dir, vocab_file, tmp_path, capsys):
    texts = stored(shards(data_dir))
    path = write_jsonl(tmp_path / "a.jsonl", texts[30:] + texts[:30])
    source = "tfds:tiny_texts:train[50%:],tfds:tiny_texts:train[:50%]:text"
    assert build(path, vocab_file, tmp_path / "jsonl") == 0
    capsys.readouterr()
    assert build(source, vocab_file, tmp_path / "tfds") == 0
    assert "records: 100%" in capsys.readouterr().err
    assert len(records_of(tmp_path / "tfds")) == 4
    assert records_of(tmp_path / "tfds") == records_of(tmp_path / "jsonl")
    infos = [json.loads((tmp_path / d / "dataset.json").read_text()) for d in ("tfds", "jsonl")]
    assert [info.pop("inputs") for info in infos] == [source, path]
    assert infos[0] == infos[1]


def test_vocabulary_and_records_of_a_corpus(data_dir, tmp_path, capsys):
    config = load_pretraining_config("tiny", {"vocab_size": 60, "max_seq_length": 16})
    source = "tfds:tiny_texts:test"
    tokenizer, _, _ = pretrain.build_data(config, source, str(tmp_path / "data"))
    assert "vocabulary: 100%" in capsys.readouterr().err
    words = {word for text in stored(shards(data_dir, "test")) for word in text.split()}
    assert set("".join(words)) <= set(tokenizer.vocab)
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["num_documents"] == 6
    vocab_file = tmp_path / "data" / "vocab.txt"
    assert build_vocab.main(["", f"--check={vocab_file}", f"--input={source}"]) == 0
    assert "share of [UNK]: 0.000 %" in capsys.readouterr().out


def test_data_prepared_elsewhere_need_no_code(data_dir, vocab_file, tmp_path):
    """In a process that does not know the builder, and that imports it only for such a corpus."""
    (tmp_path / "a.txt").write_text("one\n")
    code = (
        "import sys; from electra_tf import corpus\n"
        f"list(corpus.read_documents(corpus.find_files({str(tmp_path / 'a.txt')!r})))\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "from electra_tf.commands.build_pretraining_data import main; sys.exit(main())"
    )
    command = [
        sys.executable, "-c", code, "--input=tfds:tiny_texts:test", f"--vocab_file={vocab_file}",
        f"--output_dir={tmp_path / 'records'}", "--num_workers=1", "--num_shards=1",
    ]  # fmt: skip
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "read 6 documents" in done.stdout
    info = json.loads((tmp_path / "records" / "dataset.json").read_text())
    assert info["num_tokens"] == sum(len(text.split()) for text in stored(shards(data_dir, "test")))


# Mistakes.


@pytest.fixture(scope="module")
def web_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


ELSEWHERE = "another machine ('tfds build {}') and set TFDS_DATA_DIR to the folder that holds it"


@pytest.mark.parametrize(
    "source, messages",
    [
        ("tfds:", ["tfds:: malformed; write tfds:NAME[:SPLIT][:FIELD]"]),
        ("tfds:tiny_texts:", ["tfds:tiny_texts:: malformed"]),
        ("tfds:tiny_texts::text", ["malformed"]),
        ("tfds:tiny_texts:train[:10%", ["malformed"]),
        ("tfds:tiny_texts:train:text:more", ["malformed"]),
        ("tfds:../tiny_texts", ["malformed"]),
        ("tfds:lm1bb", ["tfds:lm1bb: TensorFlow Datasets knows no 'lm1bb'", "did you mean lm1b?"]),
        ("tfds:tiny_text", ["in {data_dir} (TFDS_DATA_DIR); did you mean tiny_texts"]),
        ("tfds:qqqq", ["knows no 'qqqq'", "see https://www.tensorflow.org/datasets/catalog"]),
        ("tfds:tiny_texts:7.0.0", ["cannot be loaded at version 7.0.0, only: 1.2.0"]),
        ("tfds:wikipedia/nope", ["BuilderConfig nope not found", "catalog/wikipedia"]),
        ("tfds:tiny_texts:dev", ["Unknown split 'dev'", "; its splits: train, test;"]),
        ("tfds:tiny_texts:train+dev", ["Unknown split 'dev'", "; its splits: train, test;"]),
        ("tfds:tiny_texts:train[x]", ["'train[x]'", "its splits: train, test"]),
        ("tfds:tiny_texts:all[:10%]", ["'all' does not support slice", "its splits: train, test"]),
        ("tfds:tiny_texts:train[:99]", ["slice [:99] incompatible with 60 examples"]),
        ("tfds:tiny_texts:train[:0]", ["'train[:0]' holds no examples"]),
        (
            "tfds:tiny_texts:train:title",
            ["no field 'title'; it has nested, raw, tags, text, year; name one", "--json_field"],
        ),
        (
            "tfds:pg19",
            ["no field 'text'; it has book_id, book_link, book_text,"],
        ),  # Without downloading 11 GB.
        ("tfds:tiny_texts:train:year", ["field 'year' is no text; those that are: raw, text;"]),
        ("tfds:tiny_texts:train:tags", ["field 'tags' is no text; those that are: raw, text;"]),
        ("tfds:tiny_texts:train:nested", ["field 'nested' is no text"]),
        (
            "tfds:unreachable_texts",
            [
                "prepare it in {data_dir}: ",
                "nowhere.invalid",
                ELSEWHERE.format("unreachable_texts"),
            ],
        ),
        (
            "tfds:removed_texts",
            ["/removed.txt. HTTP code: 404;", ELSEWHERE.format("removed_texts")],
        ),
        ("tfds:needy_texts", ["No module named 'a_package_that_is_not_here';"]),
        ("tfds:handmade_texts", ["downloads/manual does not exist", "Ask the author; mend that"]),
        ("/dev/null,tfds:tiny_texts:dev", ["tfds:tiny_texts:dev: Unknown split"]),
    ],
)
def test_mistakes(data_dir, vocab_file, web_server, tmp_path, capsys, source, messages):
    RemovedTexts.port = web_server
    began = time.monotonic()
    assert build(source, vocab_file, tmp_path / "records") == 2
    assert time.monotonic() - began < 150  # The downloader's own retries take 204 seconds.
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: {source.split(',')[-1]}: ")
    for message in messages:
        assert message.format(data_dir=data_dir) in line
    assert not (tmp_path / "records").exists()


def test_a_full_disk_is_no_mistake(data_dir, vocab_file, tmp_path, capsys):
    assert build("tfds:endless_texts", vocab_file, tmp_path / "records") == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: /disk/shard: the disk is full")


@pytest.mark.parametrize(
    "name, content",
    [
        ("tiny_texts-train.tfrecord-00001-of-00003", lambda whole: whole[:-20]),
        ("tiny_texts-train.tfrecord-00001-of-00003", lambda whole: b""),
        ("tiny_texts-train.tfrecord-00001-of-00003", None),
        ("dataset_info.json", lambda whole: whole[:-20]),
        ("features.json", lambda whole: whole[:-20]),
    ],
)
def test_damaged_data(data_dir, tmp_path, name, content, monkeypatch):
    folder = tmp_path / "tiny_texts" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (data_dir / "tiny_texts" / "1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert len(read("tfds:tiny_texts:1.0.0")[0]) == 5
    if content:
        (folder / name).write_bytes(content((folder / name).read_bytes()))
    else:
        (folder / name).unlink()
    with pytest.raises(UserError, match=f"^tfds:tiny_texts:1.0.0: cannot read .* in {tmp_path}"):
        read("tfds:tiny_texts:1.0.0")
