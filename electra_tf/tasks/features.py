"""What networks take: rows of tokens of unequal lengths."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_CHUNK = 4096  # Texts that are tokenized at once.


class Features(NamedTuple):
    """Rows of tokens, without padding, and what else belongs to a row.

    Attributes:
      tokens: dict from name to int32 [number of tokens of all rows]: `input_ids`, `segment_ids`, and
        more of a kind's own.
      row_splits: int64 [N + 1], where rows begin and the last one ends.
      rows: dict from name to array [N, ...], such as `label`.
      kept: like `tokens`, but of no use to networks and in no batch.
      group: of G > 1 each G rows of tokens belong together, such as an example's choices; N in
        `rows` is the number of groups then.
    """

    tokens: dict
    row_splits: np.ndarray
    rows: dict
    kept: dict = {}  # Never changed.
    group: int = 1

    @property
    def lengths(self):
        """int64 [N], tokens of each row."""
        return np.diff(self.row_splits)


def text_features(texts, tokenizer, max_seq_length):
    """Packs texts, or pairs of texts, as `Tokenizer.pack` does.

    Args:
      texts: list of tuples of one or two str, all alike; not empty.
      tokenizer: `Tokenizer`.
      max_seq_length: what is longer is cut.

    Returns:
      `Features`.
    """
    tokenize = tokenizer.compiled()
    parts, lengths = [], []
    for start in range(0, len(texts), _CHUNK):
        columns = zip(*texts[start : start + _CHUNK])
        segments = [tokenize(tf.constant(column, tf.string)) for column in columns]
        packed = {k: v.numpy() for k, v in tokenizer.pack(segments, max_seq_length).items()}
        is_real = packed["input_mask"] == 1
        parts.append([packed[name][is_real] for name in ("input_ids", "segment_ids")])
        lengths.append(is_real.sum(axis=1))
    input_ids, segment_ids = (np.concatenate(column) for column in zip(*parts))
    return Features(
        {"input_ids": input_ids, "segment_ids": segment_ids},
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        {},
    )
