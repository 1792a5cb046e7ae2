"""Parts of strings by their characters, in time that grows with their length alone."""

import json

import tensorflow as tf


def is_text(value):
    """Whether all strings in a value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=repr).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def begins_character(joined):
    """bool [bytes]: whether each byte of a string, a scalar of valid UTF-8, is a character's first."""
    return tf.bitwise.bitwise_and(tf.io.decode_raw(joined, tf.uint8), 0xC0) != 0x80


class Characters:
    """Strings as characters (code points), to cut parts out of.

    A malformed byte sequence counts as one character, U+FFFD, as in `Tokenizer.tokenize_with_offsets`.
    """

    def __init__(self, strings):
        """Takes a string tensor [B]."""
        valid = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
        self._joined = tf.strings.reduce_join(valid)
        begins = begins_character(self._joined)
        self._byte_of = tf.concat([tf.where(begins)[:, 0], tf.shape(begins, tf.int64)], axis=0)
        self._row_starts = tf.cumsum(tf.strings.length(valid, unit="UTF8_CHAR"), exclusive=True)

    def cut(self, rows, starts, ends):
        """Cuts out parts.

        Args:
          rows: int [N], of which string.
          starts, ends: int32 [N], from which to before which of its characters.

        Returns:
          string [N].
        """
        first = tf.gather(self._row_starts, rows)
        begin = tf.gather(self._byte_of, first + starts)
        return tf.strings.substr(
            self._joined, begin, tf.gather(self._byte_of, first + ends) - begin
        )
