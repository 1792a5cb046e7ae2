"""Words of running text, as taggers' training data have them."""

import unicodedata
from typing import NamedTuple


class Word(NamedTuple):
    """Attributes: `text`; `start` and `end` in the text it was found in, in characters."""

    text: str
    start: int
    end: int


def split_words(texts, tokenizer):
    """Splits texts at white space, and punctuation off both ends of what is between.

    "It's $3.50 (net)." has the words It's, $, 3.50, (, net, ) and the full stop: taggers' data keep
    what is inside of a word together. A Chinese character is a word. What the tokenizer drops, such
    as control characters, belongs to no word.

    Args:
      texts: list of str.
      tokenizer: `Tokenizer`.

    Returns:
      list of lists of `Word`.
    """
    if not texts:
        return []
    ids, starts, ends = (part.to_list() for part in tokenizer.tokenize_with_offsets(texts))
    return [_words(text, *row, tokenizer.vocab) for text, *row in zip(texts, ids, starts, ends)]


def _words(text, ids, starts, ends, vocab):
    spans = []  # Of letters and digits, or of one punctuation mark.
    for piece, start, end in zip(ids, starts, ends):
        if spans and vocab[piece].startswith("##"):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    words = []
    for run in _runs(text, spans):
        marks = [_is_punctuation(text[start:end]) for start, end in run]
        inner = [i for i, is_mark in enumerate(marks) if not is_mark]
        if inner:
            first, last = inner[0], inner[-1]
            run = [*run[:first], (run[first][0], run[last][1]), *run[last + 1 :]]
        words += [Word(text[start:end], start, end) for start, end in run]
    return words


def _runs(text, spans):
    """Yields lists of spans with nothing between them."""
    run = []
    for start, end in spans:
        if run and (
            run[-1][1] != start or _is_chinese(text[start]) or _is_chinese(text[start - 1])
        ):
            yield run
            run = []
        run.append((start, end))
    if run:
        yield run


def _is_punctuation(word):
    return all(unicodedata.category(c)[0] in "PS" for c in word)


def _is_chinese(character):
    return "CJK UNIFIED" in unicodedata.name(character, "") or "CJK COMPAT" in unicodedata.name(
        character, ""
    )
