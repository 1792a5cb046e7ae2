"""Training and checking WordPiece vocabularies."""

import collections
from typing import NamedTuple

import numpy as np

from electra_tf import corpus
from electra_tf.errors import UserError
from electra_tf.tokenization import (
    MAX_CHARS_PER_WORD,
    SPECIAL_TOKENS,
    SUFFIX,
    UNK,
    Tokenizer,
    read_pieces,
    strips_accents,
)

MIN_FREQUENCY = 2  # A pair of pieces that occurs less often is not merged.


def train_vocab(read, vocab_size, lowercase=True, strip_accents=None):
    """Trains a WordPiece vocabulary with the `tokenizers` library.

    ```python
    paths = corpus.find_files("texts/*.txt")
    pieces = train_vocab(lambda: corpus.read_documents(paths), vocab_size=30522)
    ```

    Args:
      read: function that returns an iterable of `corpus.Document`; the text is read twice.
      vocab_size: number of pieces, special tokens included; little text gives fewer.
      lowercase, strip_accents: as `Tokenizer` takes them.

    Returns:
      list of str: [PAD], [UNK], [CLS], [SEP], [MASK], then the pieces.

    Raises:
      UserError: no text, or a size that does not even hold the special tokens and one letter.
    """
    import tokenizers

    if vocab_size <= len(SPECIAL_TOKENS):
        raise UserError(
            f"--vocab_size={vocab_size}: the {len(SPECIAL_TOKENS)} special tokens alone fill it; "
            "choose some thousands"
        )
    tokenizer = _empty_tokenizer(lowercase, strip_accents)
    alphabet = _alphabet(read(), tokenizer.normalizer, max(1000, vocab_size * 3 // 4))
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        # Left to itself the library numbers continuing letters by a hash map's order, which then
        # decides between equally frequent pairs, anew in every run.
        special_tokens=[*SPECIAL_TOKENS, *_continuing(alphabet, tokenizer)],
        continuing_subword_prefix=SUFFIX,
        show_progress=False,
    )

    def lines():
        for document in read():
            yield from (line.decode() for line in document.lines)

    tokenizer.train_from_iterator(lines(), trainer)
    ids = tokenizer.get_vocab()
    pieces = sorted(ids, key=ids.get)
    if len(pieces) <= len(SPECIAL_TOKENS):
        raise UserError("the input holds no text to learn a vocabulary from; give more text")
    return pieces


def _empty_tokenizer(lowercase, strip_accents):
    """The library's tokenizer with BERT's way to find words, and no pieces yet."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNK))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strips_accents(lowercase, strip_accents)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _alphabet(documents, normalizer, limit):
    """The most frequent letters of a text, as many as `limit`.

    Chinese needs thousands, but rare ones must not crowd out all words. The library would choose
    among equally frequent letters by a hash map's order.
    """
    raw = collections.Counter()
    for document in documents:
        raw.update(b"".join(document.lines).decode())
    letters = collections.Counter()
    for char, count in raw.items():
        for letter in normalizer.normalize_str(char):
            if not letter.isspace():
                letters[letter] += count
    return sorted(letters, key=lambda letter: (-letters[letter], letter))[:limit]


def _continuing(alphabet, tokenizer):
    """Pieces that continue a word by one letter: not of ideographs and the like, words themselves."""

    def joins(letter):
        cleaned = tokenizer.normalizer.normalize_str("a" + letter)
        return len(tokenizer.pre_tokenizer.pre_tokenize_str(cleaned)) == 1

    return [SUFFIX + letter for letter in alphabet if joins(letter)]


class VocabReport(NamedTuple):
    """How a vocabulary fits a text.

    Attributes:
      size: pieces.
      missing: special tokens that it lacks.
      duplicates: pieces that stand on several lines.
      num_words, num_pieces, num_unknown: in the text; 0 where none was given.
    """

    size: int
    missing: list
    duplicates: list
    num_words: int
    num_pieces: int
    num_unknown: int


def check_vocab(vocab_file, documents=(), lowercase=True, strip_accents=None):
    """Looks for defects of a vocabulary, and how well it covers text.

    Args:
      vocab_file: path.
      documents: iterable of `corpus.Document`.
      lowercase, strip_accents: as `Tokenizer` takes them.

    Returns:
      `VocabReport`; words are counted where a piece does not continue one.
    """
    pieces = read_pieces(vocab_file)
    missing = [token for token in SPECIAL_TOKENS if token not in pieces]
    duplicates = [piece for piece, count in collections.Counter(pieces).items() if count > 1]
    if missing or duplicates:
        return VocabReport(len(pieces), missing, duplicates, 0, 0, 0)
    tokenizer = Tokenizer(pieces, lowercase, strip_accents)
    return VocabReport(len(pieces), [], [], *totals(tokenizer, count_pieces(tokenizer, documents)))


def count_pieces(tokenizer, documents):
    """How often each piece of a vocabulary stands in text.

    Args:
      tokenizer: `Tokenizer`.
      documents: iterable of `corpus.Document`.

    Returns:
      int64 array [vocab_size].
    """
    tokenize, size = tokenizer.compiled(), tokenizer.vocab_size
    counts = np.zeros(size, np.int64)
    for chunk in corpus.chunks(documents):
        ids = tokenize([line for document in chunk for line in document.lines]).flat_values
        counts += np.bincount(ids, minlength=size)
    return counts


def totals(tokenizer, counts):
    """`(words, pieces, unknown pieces)` of text, by the counts of its pieces."""
    words = counts[~tokenizer.continues_word.numpy()].sum()
    return int(words), int(counts.sum()), int(counts[tokenizer.unk_id])


def spell(vocab, pieces):
    """Writes new pieces in those of a vocabulary.

    ```python
    spell(["[UNK]", "photo", "##n", "##ic"], ["photonic", "##nic", "q"])     # [[1, 2, 3], [2, 3], [0]]
    ```

    Args:
      vocab: list of str with [UNK].
      pieces: list of str; continuing ones begin with `##`.

    Returns:
      list of lists of ids, longest match first; of [UNK] alone where a letter is unknown.
    """
    from tokenizers.models import WordPiece

    ids = {piece: i for i, piece in enumerate(vocab)}
    continuing = {piece[len(SUFFIX) :]: i for piece, i in ids.items() if piece.startswith(SUFFIX)}
    continuing.setdefault(UNK, ids[UNK])
    options = {"unk_token": UNK, "max_input_chars_per_word": MAX_CHARS_PER_WORD}
    whole = WordPiece(ids, continuing_subword_prefix=SUFFIX, **options)
    # All that it matches continues a word: pieces without their mark.
    rest = WordPiece(continuing, continuing_subword_prefix="", **options)
    return [
        [
            token.id
            for token in (
                rest.tokenize(piece[len(SUFFIX) :])
                if piece.startswith(SUFFIX)
                else whole.tokenize(piece)
            )
        ]
        for piece in pieces
    ]


def find_helpful_pieces(read, tokenizer, num_pieces):
    """The pieces that shorten a text most when they are added to a vocabulary.

    Candidates are those of a vocabulary of the text's own. All are added at first; then, round by
    round, those leave that save the fewest pieces as they are used beside the ones that stay.

    ```python
    paths = corpus.find_files("peps.txt")
    pieces = find_helpful_pieces(lambda: corpus.read_documents(paths), tokenizer, num_pieces=1000)
    ```

    Args:
      read: function that returns an iterable of `corpus.Document`; the text is read three times.
      tokenizer: `Tokenizer` of the vocabulary.
      num_pieces: how many to find.

    Returns:
      list of str, the most helpful one first; fewer where no more save anything.
    """
    old, casing = tokenizer.vocab, (tokenizer.lowercase, tokenizer.strip_accents)
    trained = train_vocab(read, len(old) + num_pieces, *casing)
    words = _count_words(read(), _empty_tokenizer(*casing))
    candidates = sorted(set(trained) - set(old), key=trained.index)
    while candidates:
        # What each use saves; with a letter that was unknown, as if every letter had been a piece.
        saved = [
            len(piece.removeprefix(SUFFIX)) if tokenizer.unk_id in ids else len(ids) - 1
            for piece, ids in zip(candidates, spell(old, candidates))
        ]
        uses = np.zeros(len(old) + len(candidates), np.int64)
        for ids, count in zip(spell([*old, *candidates], words), words.values()):
            np.add.at(uses, ids, count)  # A word may hold a piece twice.
        gains = uses[len(old) :] * np.array(saved)
        order = [i for i in np.argsort(-gains, kind="stable") if gains[i] > 0]
        if len(order) == len(candidates) <= num_pieces:
            return [candidates[i] for i in order]
        keep = max(num_pieces, len(candidates) // 2)
        candidates = [candidates[i] for i in order[:keep]]
    return []


def _count_words(documents, tokenizer):
    words = collections.Counter()
    for document in documents:
        for line in document.lines:
            normalized = tokenizer.normalizer.normalize_str(line.decode())
            words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized))
    return words
