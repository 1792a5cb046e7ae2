"""Training and checking WordPiece vocabularies."""

import collections
from typing import NamedTuple

import tensorflow as tf

from electra_tf import corpus
from electra_tf.errors import UserError
from electra_tf.tokenization import (
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
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNK))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strips_accents(lowercase, strip_accents)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
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
    words = total = unknown = 0
    if not missing and not duplicates:
        tokenizer = Tokenizer(pieces, lowercase, strip_accents)
        continues = tf.constant([piece.startswith(SUFFIX) for piece in pieces])
        tokenize = tokenizer.compiled()
        for chunk in corpus.chunks(documents):
            ids = tokenize([line for document in chunk for line in document.lines]).flat_values
            words += int(tf.math.count_nonzero(~tf.gather(continues, ids)))
            total += int(tf.size(ids))
            unknown += int(tf.math.count_nonzero(ids == tokenizer.unk_id))
    return VocabReport(len(pieces), missing, duplicates, words, total, unknown)
