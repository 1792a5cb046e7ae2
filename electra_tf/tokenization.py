"""WordPiece tokenization as a TensorFlow graph, equal to the original's on every string.

The original (google-research/electra `model/tokenization.py`) is plain Python. Here the same ids
come out of core ops and TensorFlow Text's FastBertNormalizer and FastWordpiece ops, so that the
data builder, the training code and a served model share one tokenizer.
"""

import functools
import hashlib
import re

import tensorflow as tf
import tensorflow_text as tf_text

from electra_tf import files, normalizer
from electra_tf.characters import begins_character
from electra_tf.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SUFFIX = "##"
VOCAB_FILE, TOKENIZER_FILE = "vocab.txt", "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

MAX_CHARS_PER_WORD = 200  # A longer word is [UNK] (the original's WordpieceTokenizer).
_MAX_BYTES_PER_CHAR = 4
_CAPITAL_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2


def read_vocab(vocab_file):
    """Reads a vocabulary file: one piece a line, its id the line's number from 0.

    Args:
      vocab_file: path, local or `gs://`.

    Returns:
      list of str.

    Raises:
      UserError: the file is missing, is not UTF-8, repeats a piece or lacks a special token.
    """
    pieces = read_pieces(vocab_file)
    _check_special_tokens(pieces, vocab_file)
    if len(set(pieces)) < len(pieces):
        first_line = {}
        for line, piece in enumerate(pieces, 1):
            if first_line.setdefault(piece, line) != line:
                raise UserError(
                    f"{vocab_file}:{line}: {piece!r} stands on line {first_line[piece]} already; "
                    "remove one of the two"
                )
    return pieces


def _check_special_tokens(pieces, where):
    missing = [token for token in SPECIAL_TOKENS if token not in pieces]
    if missing:
        raise UserError(
            f"{where}: the vocabulary has no {', '.join(missing)}; add the missing token(s), "
            "or build a vocabulary with data/build_vocab.py"
        )


def read_pieces(vocab_file):
    """Reads a vocabulary file as it is, without judging its content (`read_vocab` does)."""
    try:
        with tf.io.gfile.GFile(vocab_file, "rb") as f:
            text = f.read().decode("utf-8")
    except tf.errors.OpError as error:
        raise UserError(f"{vocab_file}: cannot read the vocabulary: {error.message}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{vocab_file}: not UTF-8 at byte {error.start}; a vocabulary is a UTF-8 text file with "
            "one piece a line"
        ) from error
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


# What a `tokenizer.json` must say for its ids to be ours.
_SUPPORTED = {
    "model": {"type": "WordPiece", "unk_token": UNK, "continuing_subword_prefix": SUFFIX},
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


def _read_tokenizer_file(path):
    """`(vocab, lowercase, strip_accents)` of a `tokenizer.json`.

    Raises:
      UserError: it cannot be read, or describes another tokenizer.
    """
    values = files.read_json_object(path)
    for part, supported in _SUPPORTED.items():
        found = values.get(part)
        for key, value in supported.items():
            there = found.get(key) if isinstance(found, dict) else None
            if there != value:
                raise UserError(f"{path}: {part}.{key} is {there!r}; only {value!r} is supported")
    id_of = values["model"].get("vocab")
    if not isinstance(id_of, dict) or not all(isinstance(i, int) for i in id_of.values()):
        raise UserError(f"{path}: model.vocab is no object from piece to id")
    vocab = sorted(id_of, key=id_of.get)
    if [id_of[piece] for piece in vocab] != list(range(len(vocab))):
        raise UserError(f"{path}: the ids of model.vocab are not 0 to {len(vocab) - 1}, each once")
    _check_special_tokens(vocab, path)
    if re.search("[\r\n\ud800-\udfff]", "".join(vocab)):
        raise UserError(f"{path}: a piece of model.vocab has a line's end, or is no text")
    for token in values.get("added_tokens") or ():
        content = token.get("content") if isinstance(token, dict) else token
        if not isinstance(content, str) or content not in id_of:
            raise UserError(
                f"{path}: the added token {content!r} is no piece of model.vocab; tokens beside the "
                "vocabulary are not supported"
            )
    return vocab, *_casing(values["normalizer"], "lowercase", path)


def _casing(config, lowercase_key, where):
    """`(lowercase, strip_accents)`, as a dict of `where` has them."""
    lowercase, strip_accents = config.get(lowercase_key, True), config.get("strip_accents")
    if not isinstance(lowercase, bool) or not isinstance(strip_accents, bool | None):
        raise UserError(
            f"{where}: {lowercase_key} is {lowercase!r}, strip_accents {strip_accents!r}; give true "
            "or false"
        )
    return lowercase, strip_accents


def vocab_text(pieces):
    """A vocabulary file's content: each piece (list of str) and a line feed."""
    return "".join(piece + "\n" for piece in pieces)


def vocab_sha256(pieces):
    """Hex digest of a vocabulary's file."""
    return hashlib.sha256(vocab_text(pieces).encode()).hexdigest()


def strips_accents(lowercase, strip_accents):
    """What a `strip_accents` of None stands for: it goes with lower-casing, as in the original."""
    return lowercase if strip_accents is None else strip_accents


class Tokenizer(tf.Module):
    """Strings to WordPiece ids and back, inside or outside a `tf.function`.

    ```python
    tokenizer = Tokenizer.from_vocab("vocab.txt")
    ids = tokenizer.tokenize(["Hello, world!", "Zoë"])            # RaggedTensor [2, (pieces)]
    features = tokenizer.pack([ids], max_seq_length=128)           # [CLS] ... [SEP], padded
    tokenizer.detokenize(ids)                                      # [b"hello , world !", b"zoe"]
    ```

    Attributes:
      vocab: list of str, the pieces by id.
      lowercase, strip_accents: bool, the casing.
      pad_id, unk_id, cls_id, sep_id, mask_id: int.
    """

    def __init__(self, vocab, lowercase=True, strip_accents=None):
        """Builds the tokenizer's tables.

        Args:
          vocab: list of str with the five special tokens; continuing pieces begin with `##`.
          lowercase: lower-case the text.
          strip_accents: remove accents; None does so exactly when lower-casing.
        """
        super().__init__()
        self.vocab = list(vocab)
        self.lowercase = lowercase
        self.strip_accents = strips_accents(lowercase, strip_accents)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(
            self.vocab.index, SPECIAL_TOKENS
        )
        with tf.init_scope():  # The tables outlive a graph in which the tokenizer may be made.
            self._normalizer = tf_text.FastBertNormalizer(
                model_buffer=tf.constant(normalizer.load_model(self.lowercase, self.strip_accents))
            )
            self._wordpiece = _wordpiece_op(self.vocab, MAX_CHARS_PER_WORD)
            self._wordpiece_for_long_words = _wordpiece_op(
                self.vocab, MAX_CHARS_PER_WORD * _MAX_BYTES_PER_CHAR
            )
            self.continues_word = tf.constant([p.startswith(SUFFIX) for p in self.vocab])
            pages, page_numbers = normalizer.load_final_sigma_classes()
            self._sigma_pages = tf.constant(pages)
            self._sigma_page_numbers = tf.constant(page_numbers)
        self._compiled = None

    @classmethod
    def from_vocab(cls, vocab_file, lowercase=True, strip_accents=None):
        """Reads a vocabulary file (`read_vocab` says what is refused)."""
        return cls(read_vocab(vocab_file), lowercase, strip_accents)

    @classmethod
    def from_pretrained(cls, folder):
        """Reads `vocab.txt` and, where it exists, `tokenizer_config.json` of a model folder.

        Where there is no `vocab.txt`, as transformers 5 writes folders, `tokenizer.json` says all.

        Raises:
          UserError: a file is missing or malformed, or describes another kind of tokenizer.
        """
        vocab_file, tokenizer_file, config_file = (
            tf.io.gfile.join(folder, name)
            for name in (VOCAB_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
        )
        if not tf.io.gfile.exists(vocab_file) and tf.io.gfile.exists(tokenizer_file):
            return cls(*_read_tokenizer_file(tokenizer_file))
        config = {}
        if tf.io.gfile.exists(config_file):
            config = files.read_json_object(config_file)
        if config.get("tokenize_chinese_chars", True) is not True:
            raise UserError(
                f"{config_file}: tokenize_chinese_chars is not true, as it must be here"
            )
        return cls(read_vocab(vocab_file), *_casing(config, "do_lower_case", config_file))

    def save_pretrained(self, folder, model_max_length=None):
        """Writes `vocab.txt` and `tokenizer_config.json` in Hugging Face's format.

        Args:
          folder: where to.
          model_max_length: positions to which transformers cuts a text where it is told to cut;
            None for no limit.
        """
        files.write(tf.io.gfile.join(folder, VOCAB_FILE), vocab_text(self.vocab))
        config = {
            "tokenizer_class": "ElectraTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": True,
        }
        if model_max_length:
            config["model_max_length"] = model_max_length
        files.write_json(tf.io.gfile.join(folder, TOKENIZER_CONFIG_FILE), config)

    @property
    def vocab_size(self):
        """Number of pieces."""
        return len(self.vocab)

    def check_fits(self, num_embeddings, folder):
        """Refuses a folder whose model has fewer embeddings than its vocabulary has pieces.

        Raises:
          UserError: that is so.
        """
        if self.vocab_size > num_embeddings:
            raise UserError(
                f"{folder}: the vocabulary has {self.vocab_size} pieces, the model {num_embeddings}; "
                "they belong to different models"
            )

    @functools.cached_property
    def special_ids(self):
        """Ids that are never hidden from the generator: [PAD], [CLS], [SEP], [MASK]."""
        return (self.pad_id, self.cls_id, self.sep_id, self.mask_id)

    def tokenize(self, strings):
        """Splits strings into WordPiece ids, without special tokens.

        Invalid UTF-8 is dropped, as in the original. `[MASK]` in the text is four ordinary pieces.

        Args:
          strings: string tensor [batch], or a scalar.

        Returns:
          int32 RaggedTensor [batch, (pieces)]; for a scalar int32 [pieces].
        """
        strings = tf.convert_to_tensor(strings, tf.string)
        if strings.shape.rank == 0:
            return self.tokenize(strings[None])[0]
        normalized = self._normalizer.normalize(self._prepare(strings))
        pieces = self._wordpiece.tokenize_with_offsets(normalized)
        flat_ids, row_splits = tf.cond(
            tf.reduce_any(_byte_lengths(pieces) > MAX_CHARS_PER_WORD),
            lambda: _parts(self._tokenize_long_words(normalized)[0]),
            lambda: _parts(pieces[0]),
        )
        return tf.RaggedTensor.from_row_splits(flat_ids, row_splits, validate=False)

    def compiled(self):
        """`tokenize` as a `tf.function` of strings [batch], traced once for all batch sizes."""
        if self._compiled is None:
            self._compiled = tf.function(
                self.tokenize,
                input_signature=[tf.TensorSpec([None], tf.string)],
                autograph=False,  # There is no Python control flow to convert; it takes a second.
            )
        return self._compiled

    def tokenize_with_offsets(self, strings):
        """Like `tokenize`, and tells where in the text each piece stands.

        Args:
          strings: string tensor [batch], or a scalar.

        Returns:
          `(ids, starts, ends)`, int32 RaggedTensors [batch, (pieces)]: `text[start:end]` is the
          piece's text, counted in characters (code points) of the string; in a string that is not
          valid UTF-8 each malformed byte sequence counts as one character.
        """
        strings = tf.convert_to_tensor(strings, tf.string)
        if strings.shape.rank == 0:
            return tuple(part[0] for part in self.tokenize_with_offsets(strings[None]))
        prepared = self._prepare(strings)
        normalized, source_bytes = self._normalizer.normalize_with_offsets(prepared)
        pieces = self._wordpiece.tokenize_with_offsets(normalized)
        ids, starts, ends, row_splits = tf.cond(
            tf.reduce_any(_byte_lengths(pieces) > MAX_CHARS_PER_WORD),
            lambda: _parts(*self._tokenize_long_words(normalized)),
            lambda: _parts(*pieces),
        )
        # Byte of the normalized text -> byte of the text -> character of the text.
        rows = tf.ragged.row_splits_to_segment_ids(row_splits)
        first_source_byte = tf.gather(source_bytes.row_splits, rows)
        chars, text_starts = _chars_before_each_byte(prepared)
        text_start = tf.gather(text_starts, rows)
        first_char = tf.gather(chars, text_start)

        def to_chars(offsets):
            index = first_source_byte + tf.cast(offsets, tf.int64)
            byte = text_start + tf.cast(tf.gather(source_bytes.flat_values, index), tf.int64)
            return tf.gather(chars, byte) - first_char

        starts, ends = to_chars(starts), to_chars(ends)
        # A syllable of Hangul is pieces of its letters: each of them stands at the whole character.
        ends = tf.maximum(ends, starts + 1)
        return tuple(
            tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)
            for values in (ids, starts, ends)
        )

    def detokenize(self, ids):
        """Joins pieces to words and words by spaces.

        Args:
          ids: int32 RaggedTensor [batch, (pieces)] or tensor [batch, pieces] (or [pieces]).

        Returns:
          string tensor [batch] (a scalar for one row).
        """
        ids = tf.cast(ids, tf.int32)
        if ids.shape.rank == 1:
            return self.detokenize(ids[None])[0]
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        return self._wordpiece.detokenize(ids)

    def pack(self, segments, max_seq_length):
        """Makes model inputs of one or two segments: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

        Where two segments are too long, the longer is cut at its end first (the original's
        `finetune/classification/classification_tasks.py`).

        Args:
          segments: list of one or two int32 RaggedTensors [batch, (pieces)] from `tokenize`.
          max_seq_length: length to cut and pad to.

        Returns:
          dict of int32 tensors [batch, max_seq_length]: `input_ids`, `input_mask` (1 on real
          tokens), `segment_ids` (1 on the second segment and its [SEP]).
        """
        room = max_seq_length - 1 - len(segments)
        if len(segments) not in (1, 2) or room < len(segments):
            raise UserError(
                f"cannot pack {len(segments)} segments into max_seq_length={max_seq_length}; give "
                "one or two segments and a length of at least 5"
            )
        lengths = [tf.cast(segment.row_lengths(), tf.int32) for segment in segments]
        if len(segments) == 1:
            kept = [tf.minimum(lengths[0], room)]
        else:
            first = tf.minimum(lengths[0], tf.maximum(room - lengths[1], (room + 1) // 2))
            kept = [first, tf.minimum(lengths[1], room - first)]
        batch = tf.shape(lengths[0])[0]
        ids = [tf.fill([batch, 1], self.cls_id)]
        segment_ids = [tf.zeros([batch, 1], tf.int32)]
        for number, (segment, length) in enumerate(zip(segments, kept)):
            piece_ids = tf.ragged.boolean_mask(
                segment, tf.ragged.range(segment.row_lengths()) < tf.cast(length, tf.int64)[:, None]
            )
            part = tf.concat([piece_ids, tf.fill([batch, 1], self.sep_id)], axis=1)
            ids.append(part)
            segment_ids.append(tf.ones_like(part) * number)
        ids, segment_ids = tf.concat(ids, axis=1), tf.concat(segment_ids, axis=1)
        shape = [None, max_seq_length]
        return {
            "input_ids": ids.to_tensor(self.pad_id, shape=shape),
            "input_mask": tf.ones_like(ids).to_tensor(0, shape=shape),
            "segment_ids": segment_ids.to_tensor(0, shape=shape),
        }

    def _prepare(self, strings):
        """Makes strings [batch] valid UTF-8 and applies the only rule that looks at neighbours."""
        is_ascii = tf.strings.regex_full_match(strings, r"[\x00-\x7f]*")
        strings = _update_where(
            strings,
            ~is_ascii,
            # U+FFFD is dropped by the clean-up, and keeps the count of characters.
            lambda s: tf.strings.unicode_transcode(s, "UTF-8", "UTF-8", errors="replace"),
        )
        if self.lowercase:
            has_sigma = tf.strings.regex_full_match(strings, "(?s).*\u03a3.*")
            strings = _update_where(strings, has_sigma, self._lower_final_sigma)
        return strings

    def _lower_final_sigma(self, strings):
        """Writes ς for Σ at the end of a word (Unicode's Final_Sigma, as in `str.lower`)."""
        chars = tf.strings.unicode_decode(strings, "UTF-8")
        # A space after each string keeps one string's letters from the next one's.
        code_points = tf.concat([chars, tf.fill([tf.shape(strings)[0], 1], ord(" "))], axis=1)
        flat = code_points.flat_values
        page = tf.cast(tf.gather(self._sigma_page_numbers, flat // normalizer.PAGE), tf.int32)
        classes = tf.gather(self._sigma_pages, page * normalizer.PAGE + flat % normalizer.PAGE)
        counts = classes != normalizer.IGNORABLE
        # is_cased[i]: whether the i-th character that counts (from 1) is a cased letter.
        is_cased = tf.boolean_mask(classes, counts) == normalizer.CASED
        is_cased = tf.pad(is_cased, [[1, 1]])
        number = tf.cumsum(tf.cast(counts, tf.int32))
        after_letter = tf.gather(is_cased, tf.maximum(number - 1, 0))
        before_letter = tf.gather(is_cased, number + 1)
        is_final = (flat == _CAPITAL_SIGMA) & after_letter & ~before_letter
        code_points = code_points.with_flat_values(tf.where(is_final, _FINAL_SIGMA, flat))
        return tf.strings.unicode_encode(code_points[:, :-1], "UTF-8")

    def _tokenize_long_words(self, normalized):
        """Tokenizes text with words of more than 200 bytes, which may have fewer than 200 characters.

        Args:
          normalized: string tensor [batch].

        Returns:
          `(ids, starts, ends)`, RaggedTensors [batch, (pieces)]; offsets in bytes.
        """
        ids, starts, ends = self._wordpiece_for_long_words.tokenize_with_offsets(normalized)
        chars, text_starts = _chars_before_each_byte(normalized)
        text_start = tf.gather(text_starts, ids.value_rowids())
        length = tf.gather(chars, text_start + tf.cast(ends.flat_values, tf.int64)) - tf.gather(
            chars, text_start + tf.cast(starts.flat_values, tf.int64)
        )
        is_first = ~tf.gather(self.continues_word, ids.flat_values)
        word = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
        num_words = tf.reduce_sum(tf.cast(is_first, tf.int32))
        word_length = tf.math.unsorted_segment_sum(length, word, num_words)
        word_end = tf.math.unsorted_segment_max(ends.flat_values, word, num_words)
        is_long = tf.gather(word_length > MAX_CHARS_PER_WORD, word)
        keep = ids.with_flat_values(is_first | ~is_long)
        return tuple(
            tf.ragged.boolean_mask(ids.with_flat_values(values), keep)
            for values in (
                tf.where(is_long, self.unk_id, ids.flat_values),
                starts.flat_values,
                tf.where(is_long, tf.gather(word_end, word), ends.flat_values),
            )
        )


def tokenizer_of(folder):
    """The `Tokenizer` of a folder, None of one without."""
    paths = (tf.io.gfile.join(folder, name) for name in (VOCAB_FILE, TOKENIZER_FILE))
    return Tokenizer.from_pretrained(folder) if any(map(tf.io.gfile.exists, paths)) else None


def _wordpiece_op(vocab, max_bytes_per_word):
    return tf_text.FastWordpieceTokenizer(
        vocab=vocab,
        suffix_indicator=SUFFIX,
        max_bytes_per_word=max_bytes_per_word,
        token_out_type=tf.int32,
        unknown_token=UNK,
        support_detokenization=True,
    )


def _parts(*ragged):
    """RaggedTensors of equal row splits as flat values and the splits (a `tf.cond` can return it)."""
    return (*(r.flat_values for r in ragged), ragged[0].row_splits)


def _byte_lengths(pieces):
    _, starts, ends = pieces
    return ends.flat_values - starts.flat_values


def _update_where(strings, condition, function):
    """Applies a function of strings [n] to those that meet the condition; mostly to none at all."""

    def update():
        rows = tf.where(condition)
        return tf.tensor_scatter_nd_update(strings, rows, function(tf.gather_nd(strings, rows)))

    return tf.cond(tf.reduce_any(condition), update, lambda: strings)


def _chars_before_each_byte(strings):
    """Counts the UTF-8 characters before each byte of the concatenated strings.

    Args:
      strings: string tensor [batch], valid UTF-8.

    Returns:
      `(chars, starts)`: int32 [bytes + 1] and int64 [batch], where in `chars` a string begins.
    """
    joined = tf.strings.reduce_join(strings)
    chars = tf.pad(tf.cumsum(tf.cast(begins_character(joined), tf.int32)), [[1, 0]])
    lengths = tf.cast(tf.strings.length(strings), tf.int64)
    return chars, tf.cumsum(lengths, exclusive=True)
