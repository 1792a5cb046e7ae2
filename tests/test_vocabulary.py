"""Training and checking vocabularies, in three languages."""

import pytest

from electra_tf import UserError, corpus, vocabulary
from electra_tf.tokenization import SPECIAL_TOKENS


def reader(pattern):
    paths = corpus.find_files(str(pattern))
    return lambda: corpus.read_documents(paths)


@pytest.mark.parametrize(
    "files, pieces",
    [
        ("en/wikitext2.txt.gz", ["the", "##ing", "and"]),
        ("de/novels_de.txt.gz", ["und", "##en", "nicht"]),
        ("zh/zh_wikipedia_paragraphs.txt.gz", ["的", "中", "國"]),
    ],
    ids=["en", "de", "zh"],
)
def test_languages(shared_data, tmp_path, files, pieces):
    read = reader(shared_data / "pretrain" / files)
    vocab = vocabulary.train_vocab(read, 8000)
    assert vocab[:5] == list(SPECIAL_TOKENS) and len(vocab) == len(set(vocab)) == 8000
    assert not [piece for piece in pieces if piece not in vocab]
    assert vocab == vocabulary.train_vocab(read, 8000)  # The same ids each time.
    (tmp_path / "vocab.txt").write_text("".join(p + "\n" for p in vocab), encoding="utf-8")
    report = vocabulary.check_vocab(str(tmp_path / "vocab.txt"), read())
    assert report.num_unknown < 0.002 * report.num_words
    assert 1 <= report.num_pieces / report.num_words < 1.4


@pytest.fixture
def little_text(tmp_path):
    (tmp_path / "a.txt").write_text(
        "Café au lait, café noir; the cat, the cats.\n" * 9, encoding="utf-8"
    )
    return reader(tmp_path / "a.txt")


def test_casing(little_text):
    assert "café" not in vocabulary.train_vocab(little_text, 100)
    assert "cafe" in vocabulary.train_vocab(little_text, 100)
    assert "café" in vocabulary.train_vocab(little_text, 100, strip_accents=False)
    cased = vocabulary.train_vocab(little_text, 100, lowercase=False)
    assert "Café" in cased and "café" in cased


def test_what_cannot_be_trained(tmp_path, little_text):
    with pytest.raises(UserError, match="--vocab_size=5: the 5 special tokens alone fill it"):
        vocabulary.train_vocab(little_text, 5)
    (tmp_path / "b.txt").write_text("\n\n")
    with pytest.raises(UserError, match="no text to learn a vocabulary from"):
        vocabulary.train_vocab(reader(tmp_path / "b.txt"), 100)


def test_check_counts_by_hand(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "cat", "##s", "the"]))
    (tmp_path / "a.txt").write_text("The cats, the dog\n\nthe cat\n")
    report = vocabulary.check_vocab(str(tmp_path / "vocab.txt"), reader(tmp_path / "a.txt")())
    # the cat ##s [UNK](,) the [UNK](dog) the cat
    assert (report.num_words, report.num_pieces, report.num_unknown) == (7, 8, 2)


def test_check_finds_defects(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\na\n")
    report = vocabulary.check_vocab(str(tmp_path / "vocab.txt"))
    assert (report.size, report.missing, report.duplicates) == (7, ["[MASK]"], ["a"])
