"""Served question answering: windows of contexts of any length and the search for spans, in the graph."""

from typing import NamedTuple

import tensorflow as tf

from electra_tf.characters import Characters
from electra_tf.export.servables import IDS, TaskServables, in_chunks
from electra_tf.tasks.question_answering import NO_SPAN


class Windows(NamedTuple):
    """Windows of contexts, N of them, in the order of questions.

    Attributes:
      batch: dict of int32 [N, T]: ids, mask, segments, `is_context` and `is_max_context`.
      questions: int64 [N], which question each is of.
      first_places: int32 [N], where among the pieces of all contexts a window's token 0 would be.
      starts, ends: int32 [pieces of all contexts], the pieces' characters.
    """

    batch: dict
    questions: tf.Tensor
    first_places: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


class QuestionAnsweringServables(TaskServables):
    """A fine-tuned model that answers questions."""

    texts = ("question", "context")
    min_seq_length = 7

    def __init__(self, finetuned):
        """Takes a `tasks.model_folder.FinetunedModel`."""
        super().__init__(finetuned)
        self.config = self.task.config

    def outputs(self, batch):
        """The best spans of a window, as places of tokens, with the sums of their logits.

        Where there are fewer than `n_best_size`, the rest are (0, 0) and have scores below -1e8.
        """
        table = self.predict({**batch, "is_context": _is_context(batch)})
        spans = table[:, 1:]
        scores = spans[..., 2] + spans[..., 3]
        places = tf.where(scores[..., None] >= NO_SPAN, tf.cast(spans[..., :2], tf.int32), 0)
        results = {"starts": places[..., 0], "ends": places[..., 1], "scores": scores}
        if self.config.version_2:
            results["no_answer_score"] = _no_answer_score(table[:, 0], results["scores"][:, 0])
        return results

    def text_outputs(self, texts):
        """What `Predictor` gives; fewer answers than `n_best_size` have empty ones behind, of score 0."""
        windows = self._windows(*texts)
        table = in_chunks(self.predict, windows.batch, self.max_batch_size)
        rows, scores, starts, ends = self._candidates(windows, table)
        answers = Characters(texts[1]).cut(rows, starts, ends)
        is_kept = _is_first(rows, answers)

        def by_question(values):
            kept = tf.RaggedTensor.from_value_rowids(
                tf.boolean_mask(values, is_kept),
                tf.boolean_mask(rows, is_kept),
                tf.size(texts[1], tf.int64),
                validate=False,
            )
            return kept[:, : self.config.n_best_size].to_tensor(
                shape=[None, self.config.n_best_size]
            )

        scores_of_best = by_question(scores)
        is_answer = by_question(tf.ones_like(scores)) > 0
        masked = tf.where(is_answer, scores_of_best, -tf.float32.max)
        results = {
            "answers": by_question(answers),
            "scores": tf.where(is_answer, tf.nn.softmax(masked), 0.0),
            "starts": by_question(starts),
            "ends": by_question(ends),
        }
        results["answer"] = results["answers"][:, 0]
        if self.config.version_2:
            no_answer = tf.math.unsorted_segment_min(
                table[:, 0], windows.questions, tf.size(texts[1])
            )
            best = tf.where(is_answer[:, 0], scores_of_best[:, 0], NO_SPAN)
            score = _no_answer_score(no_answer, best)
            results["no_answer_score"] = score
            if self.task.threshold is not None:
                has_none = score > self.task.threshold
                results["answer"] = tf.where(has_none, "", results["answer"])
        return results

    def batch_of(self, texts):
        batch = self._windows(*texts).batch
        return {name: batch[name] for name in IDS}

    def _windows(self, questions, contexts):
        """`Windows`, as `QuestionAnswering.features` makes them in Python."""
        most = min(self.config.max_query_length, self.max_seq_length // 2)
        questions = self.tokenizer.tokenize(questions)[:, :most]
        pieces, starts, ends = self.tokenizer.tokenize_with_offsets(contexts)
        num_pieces = pieces.row_lengths()
        before = questions.row_lengths() + 2
        room = self.max_seq_length - before - 1
        stride = tf.minimum(tf.constant(self.config.doc_stride, tf.int64), room)
        number = 1 + tf.maximum(-(-(num_pieces - room) // stride), 0)
        index = tf.ragged.range(number)
        rows = index.value_rowids()
        start = index.flat_values * tf.gather(stride, rows)
        end = tf.minimum(start + tf.gather(room, rows), tf.gather(num_pieces, rows))
        first = tf.gather(pieces.row_starts(), rows)
        places = tf.ragged.range(first + start, first + end)
        ids = tf.gather(pieces.flat_values, places)
        batch = self.pack([tf.gather(questions, rows), ids])
        before = tf.gather(before, rows)
        inside = places.flat_values - tf.gather(first + start, places.value_rowids())
        columns = inside + tf.gather(before, places.value_rowids())
        is_max_context = tf.scatter_nd(
            tf.stack([places.value_rowids(), columns], axis=1),
            tf.cast(_has_most_context(places, inside), tf.int32),
            tf.shape(batch["input_ids"], tf.int64),
        )
        batch |= {"is_context": _is_context(batch), "is_max_context": is_max_context}
        first_places = tf.cast(first + start - before, tf.int32)
        return Windows(batch, rows, first_places, starts.flat_values, ends.flat_values)

    def _candidates(self, windows, table):
        """The spans that were found, of each question the best first.

        Returns:
          `(rows, scores, starts, ends)`: int64, float32, int32, int32, [spans]; which question,
          the sum of logits, characters of the context.
        """
        first, last, *scores = tf.unstack(table[:, 1:], num=4, axis=2)
        scores = tf.add(*scores)
        found = tf.where(scores >= NO_SPAN)
        order = tf.argsort(tf.gather_nd(scores, found), direction="DESCENDING", stable=True)
        found = tf.gather(found, order)
        order = tf.argsort(tf.gather(windows.questions, found[:, 0]), stable=True)
        found = tf.gather(found, order)
        before = tf.gather(windows.first_places, found[:, 0])

        def place_of(tokens):
            return before + tf.cast(tf.gather_nd(tokens, found), tf.int32)

        return (
            tf.gather(windows.questions, found[:, 0]),
            tf.gather_nd(scores, found),
            tf.gather(windows.starts, place_of(first)),
            tf.gather(windows.ends, place_of(last)),
        )


def _is_context(batch):
    """int32 [B, T], 1 on the second segment but for its [SEP]."""
    is_second = batch["segment_ids"] * batch["input_mask"]
    return is_second * tf.pad(is_second[:, 1:], [[0, 0], [0, 1]])


def _has_most_context(places, inside):
    """Whether a piece has most context in this window, see `tasks.question_answering.context_windows`.

    Args:
      places: int64 RaggedTensor [N, (pieces)], which of all pieces.
      inside: int64 [pieces of all windows], their places in the window.

    Returns:
      bool [pieces of all windows].
    """
    window, place = places.value_rowids(), places.flat_values
    lengths = tf.gather(places.row_lengths(), window)
    # As there, to the last bit.
    nearer = tf.cast(tf.minimum(inside, lengths - 1 - inside), tf.float64)
    scores = nearer + 0.01 * tf.cast(lengths, tf.float64)
    number = tf.reduce_max(tf.concat([[-1], place], axis=0)) + 1
    best = tf.gather(tf.math.unsorted_segment_max(scores, place, number), place)
    candidates = tf.where(scores == best, window, window.dtype.max)
    return window == tf.gather(tf.math.unsorted_segment_min(candidates, place, number), place)


def _no_answer_score(no_answer, best_score):
    """float32 [B]: from [B, 2 or more], a score and whether the best span's is to be taken from it."""
    return no_answer[:, 0] - no_answer[:, 1] * tf.maximum(best_score, NO_SPAN)


def _is_first(rows, texts):
    """bool [N]: whether a text is the first one of its kind in its row."""
    keys = tf.strings.join([tf.strings.as_string(rows), texts], " ")
    kinds, kind = tf.unique(keys)
    number = tf.range(tf.size(keys))
    first = tf.math.unsorted_segment_min(number, kind, tf.size(kinds))
    return tf.gather(first, kind) == number
