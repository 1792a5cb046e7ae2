"""More pieces for a vocabulary and its networks."""

import numpy as np
import pytest
from test_commands import arguments, last_line, metrics_of, tensors_of

from electra_tf import Tokenizer, corpus, vocabulary
from electra_tf.commands import build_pretraining_data, extend_vocab, pretrain
from electra_tf.tokenization import SPECIAL_TOKENS, read_vocab

OLD = [*SPECIAL_TOKENS, *"abcn", *("##" + letter for letter in "abcn"), "ban", "##an"]


def reader(folder, text):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    paths = corpus.find_files(str(folder / "text.txt"))
    return lambda: corpus.read_documents(paths)


def spelled(piece, vocab):
    """The old pieces of a new one: the longest that fits, and so on; [UNK] where none does."""
    parts, mark = [], "##" if piece.startswith("##") else ""
    rest = piece.removeprefix("##")
    while rest:
        fitting = [end for end in range(1, len(rest) + 1) if mark + rest[:end] in vocab]
        if not fitting:
            return ["[UNK]"]
        end = fitting[-1]
        parts.append(mark + rest[:end])
        rest, mark = rest[end:], "##"
    return parts


def test_spelling_by_hand():
    spelled = vocabulary.spell(OLD, ["banana", "##anab", "cab", "##cab", "bö", "##ö"])
    assert [[OLD[i] for i in ids] for ids in spelled] == [
        ["ban", "##an", "##a"],  # Longest match first.
        ["##an", "##a", "##b"],
        ["c", "##a", "##b"],
        ["##c", "##a", "##b"],
        ["[UNK]"],
        ["[UNK]"],
    ]


def test_the_piece_that_saves_most(tmp_path):
    """Against each candidate's own count of pieces in the text."""
    read = reader(tmp_path, "banana cab\ncab cabana\nbanana nab\ncab cab bananas\n" * 3)
    tokenizer = Tokenizer([*OLD, "s", "##s"])

    def num_pieces(pieces):
        larger = Tokenizer([*tokenizer.vocab, *pieces])
        return vocabulary.count_pieces(larger, read()).sum()

    [found] = vocabulary.find_helpful_pieces(read, tokenizer, 1)
    candidates = set(vocabulary.train_vocab(read, 40)) - set(tokenizer.vocab)
    assert found in candidates and len(candidates) > 3
    assert num_pieces([found]) == min(num_pieces([piece]) for piece in candidates)
    # cab: 12 times three pieces for one, and in cabana, 3 times, too; banana(s): 9 times three for one.
    assert found == "cab"
    assert num_pieces([found]) == num_pieces([]) - 2 * 15
    several = vocabulary.find_helpful_pieces(read, tokenizer, 4)
    assert "cab" in several and len(several) == 4
    assert num_pieces(several) < num_pieces([found])


def test_unknown_letters_come_first(tmp_path):
    read = reader(tmp_path, "öl öl öl öl banana banana\n" * 2)
    tokenizer = Tokenizer([*OLD, "l", "##l"], strip_accents=False)
    assert vocabulary.find_helpful_pieces(read, tokenizer, 1) == ["öl"]


def test_text_of_known_words_needs_none(tmp_path):
    read = reader(tmp_path, "ban ban a b c\n" * 5)
    assert vocabulary.find_helpful_pieces(read, Tokenizer(OLD), 5) == []


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert pretrain.main(arguments(data, folder, "--override=num_train_steps=4")) == 0
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "new.txt"
    path.write_text("the zebra eats grass quietly\n\nzebras sleep in the grass\n\n" * 40)
    return path


def test_extended_networks_train_on(data, finished, text, tmp_path, capsys):
    output, records = tmp_path / "extended", tmp_path / "records"
    flags = [f"--input={finished}", f"--corpus={text}", "--num_pieces=6", f"--output={output}"]
    assert extend_vocab.main(["", *flags]) == 0
    printed = capsys.readouterr().out
    before = read_vocab(str(finished / "discriminator" / "vocab.txt"))
    vocab = read_vocab(str(output / "discriminator" / "vocab.txt"))
    new = vocab[len(before) :]
    assert vocab[: len(before)] == before and len(new) == 6
    assert "pieces added: 6 (" in printed and ", ".join(new) in printed

    # Each new row is the mean of the old rows that spell it; all else is as it was.
    old, extended = tensors_of(finished), tensors_of(output)
    by_piece = {"electra.embeddings.word_embeddings.weight", "generator_lm_head.bias"}
    for name, tensors in old.items():
        for key, tensor in tensors.items():
            rows = extended[name][key]
            if key not in by_piece:
                assert rows.tobytes() == tensor.tobytes(), key
                continue
            np.testing.assert_array_equal(rows[: len(before)], tensor)
            for piece, row in zip(new, rows[len(before) :]):
                ids = [before.index(part) for part in spelled(piece, before)]
                np.testing.assert_allclose(row, tensor[ids].mean(axis=0), rtol=1e-6)
    assert {key for tensors in old.values() for key in tensors} >= by_piece

    command = [
        "", f"--input={text}", f"--vocab_file={output}/discriminator/vocab.txt", "--num_workers=1",
        f"--output_dir={records}", "--max_seq_length=16", "--nodrop_duplicates", "--num_shards=1",
    ]  # fmt: skip
    assert build_pretraining_data.main(command) == 0
    flags = [
        f"--train_data={records}", f"--eval_data={records}", f"--init_from={output}",
        f"--vocab_file={output}/discriminator/vocab.txt", "--override=num_train_steps=2",
    ]  # fmt: skip
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 0
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [0, 1, 2, 2]
    # The folder itself is no run to go on with.
    assert pretrain.main(arguments(data, output, *flags[:2], *flags[3:])) == 2
    assert "init_from is" in last_line(capsys)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output={run}"], "is there already; choose another --output"),
        (["--input=nowhere"], "nowhere/config.json: cannot read it"),
        (["--corpus=nowhere.txt"], "nowhere.txt: no such input"),
        (["--num_pieces=0"], "--num_pieces=0: 0 is not a positive integer"),
    ],
)
def test_mistakes(finished, text, tmp_path, capsys, flags, message):
    command = ["", f"--input={finished}", f"--corpus={text}", f"--output={tmp_path}/new"]
    code = extend_vocab.main([*command, *(flag.format(run=finished) for flag in flags)])
    assert code == 2 and message in last_line(capsys)
    assert not (tmp_path / "new").exists()
