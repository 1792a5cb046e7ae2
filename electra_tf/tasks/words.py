"""Words of running text, as taggers' training data have them."""

from typing import NamedTuple

import tensorflow as tf

from electra_tf.characters import Characters

_PUNCTUATION = r"[\pP\pS]+"
# A span that begins with a character around which the tokenizer splits (the original's
# `_is_chinese_char`); dropped characters after it, such as accents, are of the span.
_CHINESE = (
    r"(?s)[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}].*"
)


class Word(NamedTuple):
    """Attributes: `text`; `start` and `end` in the text it was found in, in characters."""

    text: str
    start: int
    end: int


class Words(NamedTuple):
    """The words of texts, and their pieces.

    Attributes:
      texts: string RaggedTensor [B, (words)].
      starts, ends: int32 RaggedTensors [B, (words)], `text[start:end]` is the word, in characters.
      pieces: int32 RaggedTensor [B, (words), (pieces)], at least one a word.
    """

    texts: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor
    pieces: tf.RaggedTensor


def find_words(texts, tokenizer):
    """Splits texts at white space, and punctuation off both ends of what is between.

    "It's $3.50 (net)." has the words It's, $, 3.50, (, net, ) and the full stop: taggers' data keep
    what is inside of a word together. A Chinese character is a word. What the tokenizer drops, such
    as control characters, belongs to no word. Works in a graph.

    Args:
      texts: string tensor [B].
      tokenizer: `Tokenizer`.

    Returns:
      `Words`.
    """
    pieces, starts, ends = tokenizer.tokenize_with_offsets(texts)
    num_texts = pieces.nrows()
    rows, starts, ends = pieces.value_rowids(), starts.flat_values, ends.flat_values
    characters = Characters(texts)

    # Of letters and digits, or of one punctuation mark: what the tokenizer splits text into.
    begins = ~tf.gather(tokenizer.continues_word, pieces.flat_values)
    span_of_piece = _number(begins)
    rows, starts = tf.boolean_mask(rows, begins), tf.boolean_mask(starts, begins)
    ends = _max_by(ends, span_of_piece, tf.size(rows))

    # With nothing between them.
    texts_of_spans = characters.cut(rows, starts, ends)
    is_chinese = tf.strings.regex_full_match(texts_of_spans, _CHINESE)
    follows = (starts[1:] == ends[:-1]) & (rows[1:] == rows[:-1])
    begins = tf.concat([[True], ~follows | is_chinese[1:] | is_chinese[:-1]], axis=0)
    run = _number(begins[: tf.size(rows)])

    # From the first to the last that is no punctuation, a run is one word.
    number = tf.range(tf.size(rows))
    is_mark = tf.strings.regex_full_match(texts_of_spans, _PUNCTUATION)
    first = -_max_by(tf.where(is_mark, number.dtype.min + 1, -number), run, tf.size(rows))
    last = _max_by(tf.where(is_mark, -1, number), run, tf.size(rows))
    is_inside = (number > tf.gather(first, run)) & (number <= tf.gather(last, run))
    word_of_span = _number(~is_inside)
    rows, starts = tf.boolean_mask(rows, ~is_inside), tf.boolean_mask(starts, ~is_inside)
    ends = _max_by(ends, word_of_span, tf.size(rows))

    def by_text(values):
        return tf.RaggedTensor.from_value_rowids(values, rows, num_texts, validate=False)

    pieces = tf.RaggedTensor.from_value_rowids(
        pieces.flat_values,
        tf.cast(tf.gather(word_of_span, span_of_piece), tf.int64),
        tf.size(rows, tf.int64),
        validate=False,
    )
    columns = (characters.cut(rows, starts, ends), starts, ends, pieces)
    return Words(*map(by_text, columns))


def split_words(texts, tokenizer):
    """The words of texts as `find_words` finds them.

    Args:
      texts: list of str.
      tokenizer: `Tokenizer`.

    Returns:
      list of lists of `Word`.
    """
    found = find_words(tf.constant(texts, tf.string), tokenizer)
    columns = zip(*(part.to_list() for part in found[:3]))
    return [
        [Word(text.decode("utf-8"), start, end) for text, start, end in zip(*row)]
        for row in columns
    ]


def _number(begins):
    """int32 [N], from 0: which group each element is of, where `begins` marks the groups' first ones."""
    return tf.cumsum(tf.cast(begins, tf.int32)) - 1


def _max_by(values, groups, num_groups):
    return tf.math.unsorted_segment_max(values, groups, num_groups)
