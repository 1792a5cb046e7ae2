"""Heads that find an answer's span in a context (SEMANTICS 23), and the search for the best spans.

The original's `finetune/qa/qa_tasks.py` (`get_prediction_module`) is the source of the head `joint`;
`start_end` is transformers' `ElectraForQuestionAnswering`. Everything is in float32.
"""

import keras
import tensorflow as tf

from electra_tf.modeling import islands
from electra_tf.modeling.layers import initializer, project, runner, shape_of

_HIDDEN_UNITS = 512  # Of the original's two-layer parts.
_EXCLUDED = -1000.0  # Added to the logits of tokens that are no candidates.
_IMPOSSIBLE = -1e9  # Score of what is no span.


class StartEndHead(keras.layers.Layer):
    """One dense layer with two outputs a token: is it an answer's first, is it its last?

    Whether there is an answer, the logits of [CLS] tell.
    """

    #: Score of "no answer" above which there is none, unless a dev set says otherwise.
    usual_threshold = 0.0

    def __init__(self, config, beam_size, answerable, **kwargs):
        """Takes the encoder's configuration; `beam_size`: starts and ends that are tried.

        `answerable`, whether questions may have no answer, makes no difference to this head.
        """
        super().__init__(name="start_end", autocast=False, **kwargs)
        self.config, self.beam_size = config, beam_size
        self.qa_outputs = keras.layers.Dense(
            2, kernel_initializer=initializer(config), name="qa_outputs", dtype="float32"
        )

    def build(self, input_shape=None):
        self.qa_outputs.build((None, None, self.config.hidden_size))

    def call(self, hidden, candidates, start_positions=None, training=False):
        """Logits of all tokens.

        Args:
          hidden: float32 [B, T, hidden_size].
          candidates: float32 [B, T], 1 on tokens that may be in an answer, and on [CLS].
          start_positions: not needed here.
          training: whether formulas are compiled.

        Returns:
          dict of float32 [B, T]: `start` and `end`.
        """
        start, end = tf.unstack(self.qa_outputs(hidden), axis=-1)
        return {"start": _exclude(start, candidates), "end": _exclude(end, candidates)}

    def beams(self, hidden, candidates, logits):
        """The best starts, and the best ends whatever the start.

        Returns:
          `(start_scores, starts, end_scores, ends)`: [B, S], [B, S], [B, S, E], [B, S, E].
        """
        start_scores, starts = _top(logits["start"], self.beam_size)
        end_scores, ends = _top(logits["end"], self.beam_size)
        repeats = [1, self.beam_size, 1]
        return (
            start_scores,
            starts,
            tf.tile(end_scores[:, None], repeats),
            tf.tile(ends[:, None], repeats),
        )

    def no_answer(self, logits):
        """`(score [B], relative)`; `relative`: 1 if the best span's score is to be taken from it."""
        return logits["start"][:, 0] + logits["end"][:, 0], 1.0


class JointHead(keras.layers.Layer):
    """The start, then the end given the start, and a classifier of whether there is an answer."""

    usual_threshold = -2.75  # The original's.

    def __init__(self, config, beam_size, answerable, **kwargs):
        """Takes the encoder's configuration; `beam_size`: starts that are tried, and ends for each."""
        super().__init__(name="joint", autocast=False, **kwargs)
        self.config, self.beam_size, self.answerable = config, beam_size, answerable

        # TensorFlow's default initialization, as in the original.
        def dense(units, name):
            return keras.layers.Dense(units, name=name, dtype="float32")

        self.start = dense(1, "start")
        self.end_hidden = dense(_HIDDEN_UNITS, "end_hidden")
        self.end = dense(1, "end")
        if answerable:
            self.answerable_hidden = dense(_HIDDEN_UNITS, "answerable_hidden")
            self.answerable_logit = dense(1, "answerable_logit")

    def build(self, input_shape=None):
        size = self.config.hidden_size
        self.start.build((None, size))
        self.end_hidden.build((None, 2 * size))
        self.end.build((None, _HIDDEN_UNITS))
        if self.answerable:
            self.answerable_hidden.build((None, 2 * size))
            self.answerable_logit.build((None, _HIDDEN_UNITS))

    def call(self, hidden, candidates, start_positions=None, training=False):
        """Logits; those of ends only where `start_positions` are given: then, given those starts.

        Args:
          hidden, candidates: as of `StartEndHead.call`.
          start_positions: int [B], or None.
          training: whether formulas are compiled.

        Returns:
          dict of float32: `start` [B, T]; `end` [B, T]; `answerable` [B], positive: no answer.
        """
        start = _exclude(self.start(hidden)[..., 0], candidates)
        logits = {"start": start}
        if start_positions is not None:
            end = self._end_logits(hidden, start_positions, training)
            logits["end"] = _exclude(end, candidates)
        if self.answerable:
            start_feature = tf.einsum("bt,bth->bh", tf.nn.softmax(start), hidden)
            features = tf.concat([hidden[:, 0], start_feature], axis=-1)
            features = islands.gelu(self.answerable_hidden(features))
            logits["answerable"] = self.answerable_logit(features)[:, 0]
        return logits

    def _end_logits(self, hidden, start_positions, training):
        """[B, T] for starts [B]: a dense layer over each token beside the start, in two products."""
        batch, length, size = shape_of(hidden)
        starts = tf.gather(hidden, start_positions, axis=1, batch_dims=1)
        flat = tf.concat(
            [
                tf.reshape(tf.tile(starts[:, None], [1, length, 1]), [-1, size]),
                tf.reshape(hidden, [-1, size]),
            ],
            axis=-1,
        )
        flat = runner(training)(islands.bias_gelu, *project(flat, self.end_hidden))
        return tf.reshape(self.end(flat), [batch, length])

    def beams(self, hidden, candidates, logits):
        """The best starts, and the best ends given each of them; as `StartEndHead.beams`."""
        start_scores, starts = _top(tf.nn.log_softmax(logits["start"]), self.beam_size)
        kernel, bias = self.end_hidden.kernel, self.end_hidden.bias
        size = self.config.hidden_size
        of_tokens = tf.tensordot(hidden, kernel[size:], 1) + bias
        of_starts = tf.gather(tf.tensordot(hidden, kernel[:size], 1), starts, axis=1, batch_dims=1)
        # One start after the other: all at once take [B, S, T, 512] numbers.
        ends = [
            _top(
                tf.nn.log_softmax(
                    _exclude(
                        self.end(islands.gelu(of_tokens + of_starts[:, beam : beam + 1]))[..., 0],
                        candidates,
                    )
                ),
                self.beam_size,
            )
            for beam in range(self.beam_size)
        ]
        return start_scores, starts, *(tf.stack(column, axis=1) for column in zip(*ends))

    def no_answer(self, logits):
        """As of `StartEndHead`; 0 where every question has an answer."""
        return logits.get("answerable", tf.zeros_like(logits["start"][:, 0])), 0.0


SPAN_HEADS = {"joint": JointHead, "start_end": StartEndHead}


def find_spans(beams, is_context, is_max_context, max_answer_length, num_spans):
    """The best spans of a window.

    Args:
      beams: what a head's `beams` gives.
      is_context: int [B, T], 1 on the context's tokens.
      is_max_context: int [B, T], 1 on those that have most context in this window: an answer begins
        with one of them.
      max_answer_length: most tokens of a span.
      num_spans: how many, N.

    Returns:
      float32 [B, N, 4], best first: first and last token, their scores. Where there are fewer than
      N spans the rest have scores of -1e9.
    """
    start_scores, starts, end_scores, ends = beams
    lengths = ends - starts[..., None] + 1
    is_span = (lengths >= 1) & (lengths <= max_answer_length)
    is_span &= tf.gather(is_max_context, starts, axis=1, batch_dims=1)[..., None] > 0
    is_span &= tf.gather(is_context, ends, axis=1, batch_dims=1) > 0
    start_scores = start_scores[..., None] + tf.zeros_like(end_scores)
    scores = tf.where(is_span, start_scores + end_scores, 2 * _IMPOSSIBLE)
    batch, num_starts, num_ends = shape_of(scores)
    # Between equal scores the lower index, and so the better start, goes first.
    scores, best = tf.math.top_k(
        tf.reshape(scores, [batch, num_starts * num_ends]), min(num_spans, num_starts * num_ends)
    )

    def of_best(values):
        values = tf.reshape(tf.cast(values, tf.float32), [batch, num_starts * num_ends])
        return tf.gather(values, best, axis=1, batch_dims=1)

    is_impossible = scores <= _IMPOSSIBLE
    columns = [
        of_best(starts[..., None] + tf.zeros_like(ends)),
        of_best(ends),
        tf.where(is_impossible, _IMPOSSIBLE, of_best(start_scores)),
        tf.where(is_impossible, _IMPOSSIBLE, of_best(end_scores)),
    ]
    return tf.stack(columns, axis=-1)


def _exclude(logits, candidates):
    return logits + _EXCLUDED * (1.0 - candidates)


def _top(scores, k):
    """`(values, indices)` of the k best of [B, T], also where T is below k: then some are impossible."""
    missing = tf.maximum(k - tf.shape(scores)[-1], 0)
    padded = tf.pad(scores, [[0, 0], [0, missing]], constant_values=2 * _IMPOSSIBLE)
    values, indices = tf.math.top_k(padded, k)
    return values, tf.minimum(indices, tf.shape(scores)[-1] - 1)
