"""BERT's tokenizer in plain Python, from its description: the oracle of the in-graph one.

Clean up, split at white space, lower-case and strip accents word by word, split at punctuation,
then take the longest piece that matches, again and again. Unicode as of version 11.
"""

import unicodedata

from electra_tf.normalizer import category


def _is_ideograph(char):
    name = ord(char)
    blocks = (
        "3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF 2F800-2FA1F"
    )
    bounds = (block.split("-") for block in blocks.split())
    return any(int(low, 16) <= name <= int(high, 16) for low, high in bounds)


def _is_punctuation(char):
    return category(char).startswith("P") or (
        char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    )


def words(text, lowercase, strip_accents):
    """The words of a string, as WordPiece sees them."""
    kept = []
    for char in text:
        if char in "\t\n\r" or category(char) == "Zs":
            kept.append(" ")
        elif not (category(char).startswith("C") or char == "\ufffd"):
            kept.append(f" {char} " if _is_ideograph(char) else char)
    result = []
    for word in "".join(kept).split():
        if lowercase:
            word = word.lower()
        if strip_accents:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if category(c) != "Mn")
        spaced = "".join(f" {c} " if _is_punctuation(c) else c for c in word)
        result += spaced.split()
    return result


def word_pieces(word, vocab):
    """Greedy longest-match-first pieces of a word; [UNK] for one that has none or is too long."""
    if len(word) > 200:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def tokenize(text, vocab, lowercase, strip_accents):
    """Pieces of a string; `vocab` is a dict or set."""
    return [p for word in words(text, lowercase, strip_accents) for p in word_pieces(word, vocab)]
