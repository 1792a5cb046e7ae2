"""Served taggers: words of a text with labels, scores and offsets; texts of any length in windows."""

import tensorflow as tf

from electra_tf.export.servables import TaskServables, in_chunks
from electra_tf.tasks.words import find_words


class TaggingServables(TaskServables):
    """A fine-tuned tagger."""

    def outputs(self, batch):
        """A label and its score for each token; padding has 0. A word's are its first piece's."""
        probabilities = self.predict(batch)
        return {
            "label_ids": tf.argmax(probabilities, axis=-1, output_type=tf.int32)
            * batch["input_mask"],
            "scores": tf.reduce_max(probabilities, axis=-1)
            * tf.cast(batch["input_mask"], tf.float32),
        }

    def text_outputs(self, texts):
        """What `Predictor` gives; padding: empty words at (0, 0) with the score 0."""
        words = find_words(texts[0], self.tokenizer)
        # As in training, what is too long of a word is cut.
        pieces = words.pieces[:, :, : self.max_seq_length - 2]
        probabilities = self._probabilities_of_words(pieces)
        labels = tf.gather(tf.constant(self.task.labels), tf.argmax(probabilities, axis=-1))

        def by_text(values, default):
            return words.starts.with_flat_values(values).to_tensor(default)

        return {
            "words": words.texts.to_tensor(""),
            "labels": by_text(labels, ""),
            "scores": by_text(tf.reduce_max(probabilities, axis=-1), 0.0),
            "starts": words.starts.to_tensor(),
            "ends": words.ends.to_tensor(),
        }

    def batch_of(self, texts):
        pieces = find_words(texts[0], self.tokenizer).pieces
        return self.pack([pieces.merge_dims(1, 2)])

    def _probabilities_of_words(self, pieces):
        """float32 [words of all texts, labels], from the window in which each word is predicted.

        Args:
          pieces: int32 RaggedTensor [B, (words), (pieces)].
        """
        rows, *spans = find_windows(pieces.row_lengths(axis=2), self.max_seq_length - 2)
        # As places among the words of all texts.
        start, end, first, last = (tf.gather(pieces.row_starts(), rows) + span for span in spans)
        splits = pieces.values.row_splits
        tokens = tf.ragged.range(tf.gather(splits, start), tf.gather(splits, end))
        ids = tf.gather(pieces.flat_values, tokens)
        probabilities = in_chunks(self.predict, self.pack([ids]), self.max_batch_size)
        # Windows come in the order of the words that are their own.
        words = tf.ragged.range(first, last)
        windows = words.value_rowids()
        before = tf.gather(splits, tf.gather(start, windows)) - 1  # [CLS] stands at 0.
        positions = tf.gather(splits, words.flat_values) - before
        return tf.gather_nd(probabilities, tf.stack([windows, positions], axis=1))


def find_windows(num_pieces, room):
    """Cuts sentences into windows in a graph, as `tasks.tagging.windows` does in Python.

    Args:
      num_pieces: int64 RaggedTensor [B, (words)], pieces of each word, 1 to `room`.
      room: most pieces of a window.

    Returns:
      int64 tensors `(rows, start, end, first, last)`, a window each, in the order of sentences: which
      sentence; its words from `start` to before `end`, of which those from `first` to before `last`
      are its own.
    """
    num_words = num_pieces.row_lengths()
    ends = tf.pad(tf.cumsum(num_pieces.to_tensor(), axis=1), [[0, 0], [1, 0]])

    def place_of(words):
        """Pieces before words [B]."""
        return tf.gather(ends, words, batch_dims=1)

    def search(pieces, side):
        """Words before the place of pieces [B], of all with padding behind, which repeats the last."""
        return tf.searchsorted(ends, pieces[:, None], side=side, out_type=tf.int64)[:, 0]

    def cut(number, start, is_done, windows):
        end = tf.minimum(search(place_of(start) + room, "right") - 1, num_words)
        windows = windows.write(number, tf.stack([start, end, tf.cast(~is_done, tf.int64)], axis=1))
        is_done |= end == num_words
        overlapping = search(place_of(end) - room // 4, "left")
        start = tf.where(is_done, end, tf.maximum(overlapping, start + 1))
        return number + 1, start, is_done, windows

    windows = tf.TensorArray(tf.int64, 0, dynamic_size=True, element_shape=[None, 3])
    nothing = tf.zeros_like(num_words)
    _, _, _, windows = tf.while_loop(
        # Once at least: nothing can be stacked to an array of unknown shape.
        lambda number, start, is_done, windows: (number == 0) | ~tf.reduce_all(is_done),
        cut,
        (0, nothing, num_words == 0, windows),
        parallel_iterations=1,
    )
    # [B, most windows of a sentence].
    start, end, is_window = tf.unstack(tf.transpose(windows.stack(), [1, 0, 2]), axis=2)
    is_window = is_window > 0
    middle = (end[:, :-1] + start[:, 1:]) // 2
    first = tf.pad(middle, [[0, 0], [1, 0]])
    has_next = tf.pad(is_window, [[0, 0], [0, 1]])[:, 1:]
    last = tf.where(has_next, tf.pad(middle, [[0, 0], [0, 1]]), end)
    return tf.where(is_window)[:, 0], *(
        tf.boolean_mask(values, is_window) for values in (start, end, first, last)
    )
