"""The in-graph tokenizer against the original's ids and a plain-Python reference."""

import json

import numpy as np
import pytest
import reference_tokenizer
import tensorflow as tf
import tokenizers
from conftest import GOLDEN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from electra_tf import Tokenizer, UserError, normalizer

CASINGS = {
    "google": {"lowercase": True},
    "google_keep_accents": {"lowercase": True, "strip_accents": False},
    "google_cased": {"lowercase": False},
}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCäöüßéñςσΣİ0123456789.,-!?'#[]你好世界가각ﬁ"
VOCAB = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *LETTERS, *("##" + c for c in LETTERS), "the", "##ing", "un", "##aff", "##able", "hello", "world",
]  # fmt: skip


@pytest.fixture(scope="module", params=CASINGS)
def casing(request):
    return request.param


@pytest.fixture(scope="module")
def small():
    return Tokenizer(VOCAB)


def test_ids_equal_the_originals(shared_data, casing):
    cases = json.loads((GOLDEN / "tokenization.json").read_text())["cases"]
    assert len(cases) == 420
    tokenizer = Tokenizer.from_vocab(str(shared_data / "vocab" / "vocab.txt"), **CASINGS[casing])
    texts = [case["text"].encode("utf-8", "surrogatepass") for case in cases]
    ids = tokenizer.compiled()(texts).to_list()
    for case, ours in zip(cases, ids):
        assert ours == case[casing], ascii(case["text"])
    with_offsets, _, _ = tokenizer.tokenize_with_offsets(texts)
    assert with_offsets.to_list() == ids


def test_only_core_and_two_kinds_of_text_ops(small):
    graph = small.compiled().get_concrete_function().graph
    functions = graph.as_graph_def().library.function
    ops = {node.op for f in functions for node in f.node_def} | {
        op.type for op in graph.get_operations()
    }
    text_ops = {op for op in ops if "Bert" in op or "Wordpiece" in op or "Text>" in op}
    assert text_ops == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    assert not any("PyFunc" in op for op in ops)


def test_saved_model_gives_the_same_ids(small, tmp_path):
    texts = ["Hello, wörld!", "ΟΔΟΣ Σ", "x" * 300, b"bad \xff\xfe bytes"]
    expected = small.tokenize(texts).to_list()
    module = tf.Module()
    module.tokenizer = small
    module.tokenize = small.compiled()
    tf.saved_model.save(module, str(tmp_path))
    assert tf.saved_model.load(str(tmp_path)).tokenize(tf.constant(texts)).to_list() == expected


ALPHABET = st.one_of(
    st.sampled_from(
        LETTERS + " \t\n\u00a0\u2028\u200d\u0301\u0345\u0130\u03a3\u1fb3\ufffd\u0000\u007f"
    ),
    st.characters(exclude_categories=["Cs"]),
)


@pytest.fixture(scope="module")
def all_casings():
    """(tokenizer, compiled, lowercase, strip_accents) of the four casings."""
    made = []
    for lowercase in (True, False):
        for strip_accents in (True, False):
            tokenizer = Tokenizer(VOCAB, lowercase, strip_accents)
            made.append((tokenizer, tokenizer.compiled(), lowercase, strip_accents))
    return made


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=40), min_size=1, max_size=4))
@example(["ΑΣ", "ΑΣ.", "Α.Σ", "Σ", "ΑΣΑ", "ΑΣ\u0301", "a\u00adΣ", "ΑΣ Α", "中Σ"])
@example(["a" * 200 + " " + "a" * 201, "ä" * 150 + "ä", "é" * 201 + "!" + "é" * 200, "가" * 120])
@example(["[MASK] [UNK]", "##ing", "don't"])
def test_equals_the_plain_python_reference(all_casings, texts):
    vocab = set(VOCAB)
    for tokenizer, tokenize, lowercase, strip_accents in all_casings:
        ids = tokenize([text.encode() for text in texts]).to_list()
        for text, row in zip(texts, ids):
            expected = reference_tokenizer.tokenize(text, vocab, lowercase, strip_accents)
            assert [tokenizer.vocab[i] for i in row] == expected, ascii(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_any_bytes_are_tokenized(small, rows):
    texts = [row.decode(errors="ignore") for row in rows]
    ids, starts, ends = small.tokenize_with_offsets(rows)
    assert ids.to_list() == small.tokenize([t.encode() for t in texts]).to_list()
    assert (ends.flat_values.numpy() >= starts.flat_values.numpy()).all()


def test_offsets_point_into_the_text(small):
    texts = [
        "Hello  Wörld, unaffable!",
        "",
        "你好a",
        "e\u0301x ﬁx",
        "ä" * 201 + " the " + "x" * 250,
        "ΑΣ the",
    ]
    ids, starts, ends = (part.to_list() for part in small.tokenize_with_offsets(texts))
    spans = [
        [(small.vocab[i], text[s:e]) for i, s, e in zip(*row)]
        for text, *row in zip(texts, ids, starts, ends)
    ]
    assert spans[0] == [
        ("hello", "Hello"), ("world", "Wörld"), (",", ","), ("un", "un"), ("##aff", "aff"),
        ("##able", "able"), ("!", "!"),
    ]  # fmt: skip
    assert spans[1] == []
    assert spans[2] == [("你", "你"), ("好", "好"), ("a", "a")]
    assert spans[3][:2] == [("e", "e\u0301"), ("##x", "x")]
    assert spans[4] == [("[UNK]", "ä" * 201), ("the", "the"), ("[UNK]", "x" * 250)]
    assert spans[5][-1] == ("the", "the")


def test_offsets_count_malformed_bytes(small):
    ids, starts, ends = small.tokenize_with_offsets(b"\xff\xfeab \xe4 the")
    text = b"\xff\xfeab \xe4 the".decode(errors="replace")
    assert [text[s:e] for s, e in zip(starts.numpy(), ends.numpy())][-1] == "the"
    assert ids.shape.rank == 1


def test_detokenize(small):
    ids = small.tokenize(["Hello, unaffable world", ""])
    assert small.detokenize(ids).numpy().tolist() == [b"hello , unaffable world", b""]
    assert small.detokenize(ids[0]).numpy() == b"hello , unaffable world"


@pytest.mark.parametrize(
    "lengths, room, kept",
    [
        ((3, 4), 10, (3, 4)),
        ((9, 2), 8, (6, 2)),
        ((2, 9), 8, (2, 6)),
        ((9, 9), 9, (5, 4)),
        ((0, 9), 5, (0, 5)),
    ],
)
def test_pack_pairs_cuts_the_longer_first(small, lengths, room, kept):
    first = tf.ragged.constant([[10] * lengths[0]], dtype=tf.int32)
    second = tf.ragged.constant([[11] * lengths[1]], dtype=tf.int32)
    packed = {k: v.numpy()[0].tolist() for k, v in small.pack([first, second], room + 3).items()}
    ids = [2] + [10] * kept[0] + [3] + [11] * kept[1] + [3]
    padding = [0] * (room + 3 - len(ids))
    assert packed["input_ids"] == ids + padding
    assert packed["input_mask"] == [1] * len(ids) + padding
    assert packed["segment_ids"] == [0] * (kept[0] + 2) + [1] * (kept[1] + 1) + padding


def test_pack_one_segment_in_a_graph(small):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def features(texts):
        return small.pack([small.tokenize(texts)], 6)

    packed = features(["the the", "the the the the the the"])
    the = VOCAB.index("the")
    assert packed["input_ids"].numpy().tolist() == [
        [2, the, the, 3, 0, 0],
        [2, the, the, the, the, 3],
    ]
    assert packed["input_ids"].shape == [2, 6]
    assert packed["segment_ids"].numpy().sum() == 0
    with pytest.raises(UserError, match="give one or two segments"):
        small.pack([], 6)


def test_folder_round_trip(tmp_path):
    Tokenizer(VOCAB, lowercase=True, strip_accents=False).save_pretrained(str(tmp_path))
    again = Tokenizer.from_pretrained(str(tmp_path))
    assert (again.vocab, again.lowercase, again.strip_accents) == (VOCAB, True, False)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_pretrained(str(tmp_path)).strip_accents is True


def tokenizer_file(folder):
    """Writes a `tokenizer.json` as the library `tokenizers` does; returns what it holds."""
    tokenizer = tokenizers.BertWordPieceTokenizer(
        {piece: number for number, piece in enumerate(VOCAB)}, lowercase=True, strip_accents=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return json.loads((folder / "tokenizer.json").read_text()), tokenizer


def test_a_folder_with_a_tokenizer_file_alone(tmp_path):
    _, theirs = tokenizer_file(tmp_path)
    ours = Tokenizer.from_pretrained(str(tmp_path))
    assert (ours.vocab, ours.lowercase, ours.strip_accents) == (VOCAB, True, False)
    texts = ["The unaffable WORLD!", "ñandú éς", "你好 hello-ing"]
    expected = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    assert ours.tokenize(texts).to_list() == expected


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: v["model"].update(type="BPE"), "model.type is 'BPE'; only 'WordPiece'"),
        (lambda v: v["model"].update(continuing_subword_prefix="@@"), "prefix is '@@'; only '##'"),
        (lambda v: v.update(normalizer=None), "normalizer.type is None; only 'BertNormalizer'"),
        (lambda v: v["normalizer"].update(handle_chinese_chars=False), "handle_chinese_chars is"),
        (lambda v: v["normalizer"].update(lowercase="yes"), "lowercase is 'yes', strip_accents"),
        (lambda v: v["model"].update(vocab=[]), "model.vocab is no object from piece to id"),
        (lambda v: v["model"]["vocab"].update(more="a"), "model.vocab is no object from piece"),
        (lambda v: v["model"]["vocab"].update(more=99999), "ids of model.vocab are not 0 to"),
        (lambda v: v["model"]["vocab"].update({"a\nb": len(VOCAB)}), "a piece of model.vocab has"),
        (lambda v: v["model"].update(vocab={"a": 0}), r"has no \[PAD\], \[UNK\]"),
        (lambda v: v["added_tokens"].append({"content": "<new>"}), "the added token '<new>' is no"),
        (lambda v: v["added_tokens"].append(3), "the added token 3 is no"),
    ],
)
def test_tokenizer_files_that_cannot_be(tmp_path, change, message):
    values, _ = tokenizer_file(tmp_path)
    change(values)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"tokenizer.json: .*{message}"):
        Tokenizer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "no JSON object"),
        ('{"do_lower_case": 1}', "do_lower_case is 1, strip_accents None; give true or false"),
        ('{"tokenize_chinese_chars": false}', "tokenize_chinese_chars is not true"),
    ],
)
def test_defective_configurations(tmp_path, content, message):
    Tokenizer(VOCAB).save_pretrained(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=f"tokenizer_config.json: {message}"):
        Tokenizer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"vocab.txt: the vocabulary has no \[MASK\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", r"vocab.txt:8: 'a' stands on line 6"),
        (b"[PAD]\n\xff\xfe", "not UTF-8 at byte 6"),
    ],
)
def test_defective_vocabularies(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.from_vocab(str(tmp_path / "vocab.txt"))


def test_missing_vocabulary(tmp_path):
    with pytest.raises(UserError, match="cannot read the vocabulary"):
        Tokenizer.from_vocab(str(tmp_path / "none.txt"))


@pytest.mark.slow
def test_shipped_tables_are_what_the_code_builds():
    with np.load(normalizer.TABLES_FILE) as shipped:
        built = normalizer.build_tables()
        assert sorted(shipped.files) == sorted(built)
        for name in built:
            np.testing.assert_array_equal(shipped[name], built[name])
