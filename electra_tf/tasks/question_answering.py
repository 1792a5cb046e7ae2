"""Question answering: the answer is a span of the context, or there is none.

A context of any length is cut into windows that overlap. Each window gives its best spans and a score
for "no answer"; an answer begins in the window where its first token has most context. Answers are cut
out of the context by characters, never put together from pieces.
"""

import copy

import numpy as np
import tensorflow as tf

from electra_tf.modeling.electra import QuestionAnswerer
from electra_tf.tasks.features import Features
from electra_tf.tasks.metrics import question_answering_metrics
from electra_tf.tasks.questions import read_questions
from electra_tf.tasks.task import Task

_CHUNK = 1024  # Texts that are tokenized at once.
NO_SPAN = -1e8  # Scores below are of no span (`modeling.spans`).


class QuestionAnswering(Task):
    """See `Task`; inputs are `(question, context)`, a label is `questions.Answers`.

    Rows of its features are windows. `kept` has `starts` and `ends`, each token's characters in the
    context; the row `label` is int32 [N, 3]: the answer's first and last token (0, [CLS], where the
    window does not have it) and whether the question has no answer.
    """

    default_metric = "f1"
    network_class = QuestionAnswerer
    averages_outputs = False
    has_unique_ids = True

    @classmethod
    def from_training_examples(cls, config, examples):
        return cls(config)

    @classmethod
    def read_file(cls, config, path, split, bad_rows):
        is_lines = path.removesuffix(".gz").endswith(".jsonl")
        questions_format = config.format or ("mrqa" if is_lines else "squad")
        return read_questions(path, questions_format, config.version_2, split == "test", bad_rows)

    def problem_of_label(self, example):
        return None  # `read_questions` sees all there is.

    @property
    def options(self):
        names = ("version_2", "max_query_length", "doc_stride", "answerable_weight")
        own = {name: getattr(self.config, name) for name in names}
        return super().options | own | self.network_options

    @property
    def network_options(self):
        names = ("beam_size", "n_best_size", "max_answer_length")
        return {name: getattr(self.config, name) for name in names}

    def create_network(self, encoder_config, **options):
        del options["classifier_dropout"]  # No dropout in these heads, here and in the original.
        return QuestionAnswerer(
            encoder_config,
            answerable=self.config.version_2,
            **self.network_options,
            **options,
        )

    def features(self, examples, tokenizer, max_seq_length):
        config = self.config
        questions = tokenize_once([e.inputs[0] for e in examples], tokenizer)
        contexts = tokenize_once([e.inputs[1] for e in examples], tokenizer)
        most = min(config.max_query_length, max_seq_length // 2)
        rows = []
        for number, example in enumerate(examples):
            question, context = questions[example.inputs[0]][0][:most], contexts[example.inputs[1]]
            for row in _rows_of(
                question, context, example.label, tokenizer, max_seq_length, config
            ):
                rows.append({"example": number, **row})
        columns = {
            name: np.concatenate([row[name] for row in rows])
            for name in (
                "input_ids",
                "segment_ids",
                "is_context",
                "is_max_context",
                "starts",
                "ends",
            )
        }
        kept = {name: columns.pop(name) for name in ("starts", "ends")}
        row_splits = np.concatenate([[0], np.cumsum([len(row["input_ids"]) for row in rows])])
        owners = np.array([row["example"] for row in rows], np.int32)
        features = Features(columns, row_splits, {"example": owners}, kept)
        if any(example.label is None for example in examples):
            return features
        label = np.array([row["label"] for row in rows], np.int32)
        return features._replace(
            rows={**features.rows, "label": label, "start_positions": label[:, 0]}
        )

    def losses(self, logits, batch):
        start, end, is_impossible = tf.unstack(batch["label"], axis=1)
        losses = 0.5 * (
            tf.nn.sparse_softmax_cross_entropy_with_logits(start, logits["start"])
            + tf.nn.sparse_softmax_cross_entropy_with_logits(end, logits["end"])
        )
        if "answerable" in logits:
            losses += self.config.answerable_weight * tf.nn.sigmoid_cross_entropy_with_logits(
                tf.cast(is_impossible, tf.float32), logits["answerable"]
            )
        return losses

    def outputs(self, logits):
        """float32 [B, 1 + n_best_size, 4]: `no_answer` and two zeros, below them `spans`."""
        no_answer = tf.pad(logits["no_answer"], [[0, 0], [0, 2]])
        return tf.concat([no_answer[:, None], logits["spans"]], axis=1)

    def predictions(self, outputs, examples, features):
        windows = [[] for _ in examples]
        for row, owner in enumerate(features.rows["example"]):
            windows[owner].append(row)
        return [
            self._prediction(example.inputs[1], rows, outputs, features)
            for example, rows in zip(examples, windows)
        ]

    def _prediction(self, context, rows, outputs, features):
        """The prediction of a question from its windows' outputs."""
        starts, ends = features.kept["starts"], features.kept["ends"]
        tables = np.stack([outputs[row] for row in rows])
        offsets = features.row_splits[rows]
        scores = tables[:, 1:, 2].astype(np.float64) + tables[:, 1:, 3]
        order = np.argsort(-scores, axis=None, kind="stable")
        found, texts = [], set()
        for window, index in zip(*np.unravel_index(order, scores.shape)):
            if scores[window, index] < NO_SPAN or len(found) == self.config.n_best_size:
                break
            first, last, start_score, end_score = tables[window, index + 1]
            start = int(starts[offsets[window] + int(first)])
            end = int(ends[offsets[window] + int(last)])
            if context[start:end] not in texts:
                texts.add(context[start:end])
                found.append((context[start:end], start, end, float(start_score), float(end_score)))
        answers = _with_probabilities(found)
        prediction = {"prediction": answers[0]["text"] if answers else "", "answers": answers}
        if self.config.version_2:
            no_answer, relative = tables[:, 0, 0].min(), tables[0, 0, 1]
            best = max(scores.max(), NO_SPAN)
            prediction["no_answer_score"] = float(no_answer - relative * best)
            if self.threshold is not None and prediction["no_answer_score"] > self.threshold:
                prediction["prediction"] = ""
        return prediction

    def metrics(self, predictions, examples):
        return question_answering_metrics(
            {e.id: _best_text(p) for e, p in zip(examples, predictions)},
            {e.id: e.label.texts for e in examples},
            self._no_answer_scores(predictions, examples),
            self.threshold,
        )

    def fitted(self, metrics):
        task = copy.copy(self)
        task.threshold = metrics.get("no_answer_threshold")
        return task

    def with_threshold(self, network):
        if not self.config.version_2 or self.threshold is not None:
            return self
        return self.fitted({"no_answer_threshold": network.head.usual_threshold})

    def _no_answer_scores(self, predictions, examples):
        if not self.config.version_2:
            return None
        return {e.id: p["no_answer_score"] for e, p in zip(examples, predictions)}

    def files(self, predictions, examples):
        """The official scripts' files: answers, the n best ones, and the scores of "no answer"."""
        nothing = [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]
        files = {
            "answers": {e.id: p["prediction"] for e, p in zip(examples, predictions)},
            # Readers of these files want at least one.
            "nbest_predictions": {
                e.id: p["answers"] or nothing for e, p in zip(examples, predictions)
            },
        }
        if self.config.version_2:
            files["null_odds"] = self._no_answer_scores(predictions, examples)
        return files


def tokenize_once(texts, tokenizer):
    """Tokenizes each different text once.

    Args:
      texts: list of str.
      tokenizer: `Tokenizer`.

    Returns:
      dict from text to `(ids, starts, ends)`, int32 arrays [pieces], as
      `Tokenizer.tokenize_with_offsets` gives them.
    """
    texts, result = list(dict.fromkeys(texts)), {}
    for first in range(0, len(texts), _CHUNK):
        chunk = texts[first : first + _CHUNK]
        columns = []
        for part in tokenizer.tokenize_with_offsets(tf.constant(chunk, tf.string)):
            splits = part.row_splits.numpy()[1:-1]
            columns.append(np.split(part.flat_values.numpy().astype(np.int32), splits))
        result |= dict(zip(chunk, zip(*columns)))
    return result


def context_windows(num_pieces, room, stride):
    """Where a context's windows are, and which window of each piece has most context around it.

    Most context is, of the fewer pieces on either side, the most; between equals the longer window,
    then the first (the original's `_check_is_max_context`).

    Args:
      num_pieces: of the context.
      room: most pieces of a window.
      stride: pieces from the beginning of a window to that of the next; windows leave nothing out.

    Returns:
      list of `(start, end, is_max_context)`; the last is a bool array [end - start].
    """
    stride = min(stride, room)
    number = 1 + max(0, -(-(num_pieces - room) // stride))
    spans = [(i * stride, min(i * stride + room, num_pieces)) for i in range(number)]
    best, owner = np.full(num_pieces, -1.0), np.zeros(num_pieces, np.int32)
    for window, (start, end) in enumerate(spans):
        index = np.arange(end - start)
        scores = np.minimum(index, index[::-1]) + 0.01 * (end - start)
        is_better = scores > best[start:end]
        best[start:end][is_better] = scores[is_better]
        owner[start:end][is_better] = window
    return [(start, end, owner[start:end] == i) for i, (start, end) in enumerate(spans)]


def _rows_of(question, context, answers, tokenizer, max_seq_length, config):
    """The windows of one question: dicts of arrays by token, and of `label`.

    Args:
      question: pieces, int32.
      context: `(ids, starts, ends)`.
      answers: `Answers`, or None.
      tokenizer, max_seq_length, config: as of `QuestionAnswering.features`.
    """
    ids, starts, ends = context
    before = len(question) + 2
    room = max_seq_length - before - 1
    head = np.concatenate([[tokenizer.cls_id], question, [tokenizer.sep_id]])
    first, last = _pieces_of(answers, starts, ends) if answers and answers.texts else (0, -1)
    is_impossible = int(bool(answers) and not answers.texts)

    def row_of(start, end, is_max_context):
        length = end - start
        has_answer = start <= first <= last < end
        span = (first - start + before, last - start + before) if has_answer else (0, 0)

        def column(values, fill):
            values = [np.full(before, fill), values, [fill]]
            return np.concatenate(values).astype(np.int32)

        return {
            "input_ids": np.concatenate([head, ids[start:end], [tokenizer.sep_id]]).astype(
                np.int32
            ),
            "segment_ids": np.repeat([0, 1], [before, length + 1]).astype(np.int32),
            "is_context": column(np.ones(length), 0),
            "is_max_context": column(is_max_context, 0),
            "starts": column(starts[start:end], -1),
            "ends": column(ends[start:end], -1),
            "label": (*span, is_impossible),
        }

    return [row_of(*window) for window in context_windows(len(ids), room, config.doc_stride)]


def _pieces_of(answers, starts, ends):
    """`(first, last)` piece of a context that the answer has characters of; (0, -1) without."""
    first = int(np.searchsorted(ends, answers.start, side="right"))
    last = int(np.searchsorted(starts, answers.end, side="left")) - 1
    return (first, last) if first <= last else (0, -1)


def _best_text(prediction):
    return prediction["answers"][0]["text"] if prediction["answers"] else ""


def _with_probabilities(found):
    """The entries of the n best answers; probabilities are relative to these."""
    if not found:
        return []
    scores = np.array([start_score + end_score for *_, start_score, end_score in found])
    odds = np.exp(scores - scores.max())
    return [
        {
            "text": text,
            "probability": float(probability),
            "start_logit": start_score,
            "end_logit": end_score,
            "start": start,
            "end": end,
        }
        for (text, start, end, start_score, end_score), probability in zip(found, odds / odds.sum())
    ]
