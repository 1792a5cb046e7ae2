"""Results by the kind of model, made of the outputs of its `serving_default`.

Names are those of `Predictor`'s results. `dataclasses.asdict` makes dicts of them.
"""

import dataclasses

from electra_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label a text.

    Attributes:
      label: str, the most probable one.
      score: its probability.
      scores: dict from every label to its probability.
    """

    label: str
    score: float
    scores: dict

    @classmethod
    def from_row(cls, row, inputs):
        return cls.from_scores(_scores(row), row["label"])

    @classmethod
    def from_scores(cls, scores, label=None):
        """Of a dict of scores; `label`: None for the one of the highest."""
        label = max(scores, key=scores.get) if label is None else label
        return cls(label, scores[label], scores)


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Any number of labels a text.

    Attributes:
      labels: tuple of str, those that the model chooses.
      scores: dict from every label to its probability.
    """

    labels: tuple
    scores: dict

    @classmethod
    def from_row(cls, row, inputs):
        chosen = [
            label for label, is_chosen in zip(row["labels"], row["is_predicted"]) if is_chosen
        ]
        return cls(tuple(chosen), _scores(row))


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """One of several choices.

    Attributes:
      label: str, of the most probable choice.
      choice: its text.
      score: its probability.
      scores: dict from every label to its probability.
    """

    label: str
    choice: str
    score: float
    scores: dict

    @classmethod
    def from_row(cls, row, inputs):
        scores, label = _scores(row), row["label"]
        return cls(label, inputs["choices"][row["labels"].index(label)], scores[label], scores)


@dataclasses.dataclass(frozen=True)
class Regression:
    """Attributes: `value`, a float on the scale of the training data."""

    value: float

    @classmethod
    def from_row(cls, row, inputs):
        return cls(row["outputs"])


@dataclasses.dataclass(frozen=True)
class TaggedWord:
    """Attributes: `word`, its `label` and `score`; `start`, `end`: `text[start:end] == word`."""

    word: str
    label: str
    score: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Tagging:
    """Attributes: `words`, a tuple of `TaggedWord`."""

    words: tuple

    @classmethod
    def from_row(cls, row, inputs):
        return cls(_items(TaggedWord, row, ("words", "labels", "scores", "starts", "ends")))


@dataclasses.dataclass(frozen=True)
class Answer:
    """Attributes: `text`, its `score`; `start`, `end`: `context[start:end] == text`."""

    text: str
    score: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to a question.

    Attributes:
      answer: str, the best one, empty where there is none.
      score: its probability among the answers.
      start, end: `context[start:end] == answer`; -1 where there is none.
      answers: tuple of `Answer`, best first.
      no_answer_score: of there being none; None of models whose questions always have one.
    """

    answer: str
    score: float
    start: int
    end: int
    answers: tuple
    no_answer_score: float | None = None

    @classmethod
    def from_row(cls, row, inputs):
        answers = _items(Answer, row, ("answers", "scores", "starts", "ends"))
        best = answers[0] if row["answer"] else Answer("", 0.0, -1, -1)
        no_answer_score = row.get("no_answer_score")
        return cls(best.text, best.score, best.start, best.end, answers, no_answer_score)


@dataclasses.dataclass(frozen=True)
class Token:
    """Attributes: `token`, what may stand at a mask, and its `score`, a probability."""

    token: str
    score: float


@dataclasses.dataclass(frozen=True)
class FilledMasks:
    """Attributes: `masks`, for each [MASK] of the text a tuple of `Token`, best first."""

    masks: tuple

    @classmethod
    def from_row(cls, row, inputs):
        masks = (
            _items(Token, {"tokens": tokens, "scores": scores}, ("tokens", "scores"))
            for tokens, scores in zip(row["tokens"], row["scores"])
        )
        return cls(tuple(mask for mask in masks if mask))


@dataclasses.dataclass(frozen=True)
class Piece:
    """Attributes: `piece` of a word; `start`, `end`, its place in the text; `replaced_probability`."""

    piece: str
    start: int
    end: int
    replaced_probability: float


@dataclasses.dataclass(frozen=True)
class ReplacedTokens:
    """Attributes: `pieces`, a tuple of `Piece`."""

    pieces: tuple

    @classmethod
    def from_row(cls, row, inputs):
        return cls(_items(Piece, row, ("pieces", "starts", "ends", "replaced_probabilities")))


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """Attributes: `generated_probability`, that a text was generated."""

    generated_probability: float

    @classmethod
    def from_row(cls, row, inputs):
        return cls(row["generated_probability"])


# Outputs by which a kind of model is known.
_OUTPUTS = {
    Classification: {"label", "labels", "scores"},
    MultiLabel: {"labels", "scores", "is_predicted"},
    Regression: {"outputs"},
    Tagging: {"words", "labels", "scores", "starts", "ends"},
    Answers: {"answer", "answers", "scores", "starts", "ends"},
    FilledMasks: {"tokens", "scores"},
    ReplacedTokens: {"pieces", "starts", "ends", "replaced_probabilities"},
    GeneratedText: {"generated_probability"},
}


def results_of(outputs, inputs):
    """Results for the rows of a batch.

    Args:
      outputs: dict of arrays, those of strings of bytes in UTF-8; the first axis is the batch.
      inputs: dict of lists, the columns that were sent.

    Returns:
      list of one of the classes above.

    Raises:
      UserError: outputs of no kind of model.
    """
    kind = next((kind for kind, names in _OUTPUTS.items() if names <= set(outputs)), None)
    if kind is None:
        raise UserError(
            f"the model's outputs {', '.join(sorted(outputs))} are no known kind's; ask by Client.raw()"
        )
    if kind is Classification and "choices" in inputs:
        kind = MultipleChoice
    return [kind.from_row(output, input_) for output, input_ in zip(_rows(outputs), _rows(inputs))]


def _rows(columns):
    """Dicts of a row's values each, of a dict of arrays or lists: lists, str, float, int, bool."""
    lists = (_values(column) for column in columns.values())
    return [dict(zip(columns, row)) for row in zip(*lists)]


def _values(column):
    if isinstance(column, list):
        return column
    return _decoded(column.tolist())


def _decoded(value):
    """Replaces bytes in nested lists by str; what is not UTF-8 in them shows as such."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _scores(row):
    return dict(zip(row["labels"], row["scores"]))


def _items(kind, row, names):
    """Tuple of items; the first name's empty strings are padding."""
    return tuple(kind(*item) for item in zip(*(row[name] for name in names)) if item[0])
