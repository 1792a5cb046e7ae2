"""Questions about a context, with their answers: SQuAD's JSON and MRQA's JSONL."""

from typing import NamedTuple

from absl import logging

from electra_tf.errors import UserError
from electra_tf.tasks import reading
from electra_tf.tasks.task import Example


class Answers(NamedTuple):
    """The right answers to a question.

    Attributes:
      texts: tuple of str; empty where there is no answer.
      start, end: characters of the first one, `context[start:end]`; -1 without.
    """

    texts: tuple
    start: int
    end: int


NO_ANSWER = Answers((), -1, -1)


def read_questions(path, questions_format, version_2, is_test, bad_rows):
    """Reads the questions of a file.

    Args:
      path: file, gzipped where its name ends in .gz.
      questions_format: "squad", one JSON object of articles, or "mrqa", a context a line.
      version_2: whether a question may have no answer.
      is_test: whether answers may be unknown: missing, null, or none without `is_impossible`.
      bad_rows: `reading.BadRows`.

    Returns:
      list of `Example`: `inputs` is `(question, context)`, `label` is `Answers` or None.

    Raises:
      UserError: the file is missing, malformed or empty; or a bad row: no answer that is in its
        context, an empty context.
    """
    reader = _Reader(path, version_2, is_test, bad_rows)
    (reader.read_squad if questions_format == "squad" else reader.read_mrqa)()
    if reader.num_moved:
        logging.warning(
            "%s: %d answer(s) stood at another offset; moved to the one place where their text is",
            path,
            reader.num_moved,
        )
    if reader.num_strays:
        logging.warning(
            "%d answer(s) beside a good one are not in their context where they should be; they count "
            "as right all the same; the first: %s",
            reader.num_strays,
            reader.first_stray,
        )
    num_empty = sum(not example.inputs[0].strip() for example in reader.examples)
    if num_empty:
        logging.warning("%s: %d question(s) without text", path, num_empty)
    if not reader.examples and not bad_rows.count:
        raise UserError(f"{path}: no questions in it; give a file with at least one")
    return reader.examples


class _Reader:
    """Reads one file."""

    def __init__(self, path, version_2, is_test, bad_rows):
        self._path, self._bad_rows = path, bad_rows
        self._version_2, self._is_test = version_2, is_test
        self.examples, self.num_moved = [], 0
        self.num_strays, self.first_stray = 0, None

    def read_squad(self):
        content = reading.read_json(self._path)
        articles = content.get("data") if isinstance(content, dict) else None
        if not isinstance(articles, list):
            raise UserError(f"{self._path}: no list 'data' of articles; is this SQuAD's JSON?")
        for number, article in enumerate(articles):
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            place = f"{self._path}: article {number + 1}"
            if not isinstance(paragraphs, list):
                self._bad_rows.add(UserError(f"{place}: no list 'paragraphs'"))
                continue
            for index, paragraph in enumerate(paragraphs):
                self._add(f"{place}, paragraph {index + 1}", paragraph, "id", _squad_answers)

    def read_mrqa(self):
        lines = reading.read_lines(self._path, self._bad_rows)
        keys = ("context", "qas", "header")
        for row in reading.json_rows(self._path, lines, keys, self._bad_rows, optional=keys):
            if row.cells["header"] is None:  # Each data set of MRQA begins with one.
                self._add(row.place, row.cells, "qid", _mrqa_answers)

    def _add(self, place, paragraph, id_key, answers_of):
        """Adds the questions of a paragraph."""
        try:
            context, questions = _field(paragraph, "context", str), _field(paragraph, "qas", list)
            if not context.strip():
                raise ValueError("an empty context")
        except ValueError as error:
            self._bad_rows.add(UserError(f"{place}: {error}"))
            return
        for number, values in enumerate(questions):
            where = f"{place}, question {number + 1}"
            try:
                self.examples.append(self._example(where, values, context, id_key, answers_of))
            except ValueError as error:
                identifier = values.get(id_key) if isinstance(values, dict) else None
                named = "" if identifier is None else f" ({identifier})"
                self._bad_rows.add(UserError(f"{where}{named}: {error}"))

    def _example(self, place, values, context, id_key, answers_of):
        identifier = str(_field(values, id_key, (str, int)))
        question = _field(values, "question", str)
        label = self._label(place, values, context, answers_of)
        return Example(place, identifier, (question, context), label)

    def _label(self, place, values, context, answers_of):
        is_impossible = values.get("is_impossible") is True
        if self._is_test and not is_impossible and not values.get("answers"):
            return None
        texts, spans = ((), ()) if is_impossible else answers_of(values)
        if not spans:
            if not self._version_2:
                raise ValueError(
                    "no answer; in a task of such questions the YAML file says 'version_2: true' "
                    "(built in: squad2)"
                )
            return NO_ANSWER
        span, is_moved = _first_aligned(spans, context)
        self.num_moved += is_moved
        if answers_of is _squad_answers:  # MRQA's other answers are other words for the first one.
            self._count_strays(place, spans, context)
        return Answers(tuple(texts), *span)

    def _count_strays(self, place, spans, context):
        for span in spans:
            try:
                _aligned(*span, context)
            except ValueError as error:
                self.num_strays += 1
                self.first_stray = self.first_stray or f"{place}: {error}"


def _squad_answers(values):
    """`(texts, spans)`; a span is a tuple of text, start and end."""
    spans = []
    for answer in _field(values, "answers", list):
        text, start = _field(answer, "text", str), _field(answer, "answer_start", int)
        spans.append((text, start, start + len(text)))
    return [text for text, _, _ in spans], spans


def _mrqa_answers(values):
    """As `_squad_answers`; there a span's last character is named, and answers have no place."""
    spans = []
    for answer in _field(values, "detected_answers", list):
        text = _field(answer, "text", str)
        for span in _field(answer, "char_spans", list):
            if not isinstance(span, list) or [type(end) for end in span] != [int, int]:
                raise ValueError(f"'char_spans' has {span!r}, which is no first and last character")
            spans.append((text, span[0], span[1] + 1))
    texts = [text for text in _field(values, "answers", list) if isinstance(text, str)]
    return texts or [text for text, _, _ in spans], spans


def _field(values, key, kind):
    """The value of a key.

    Raises:
      ValueError: it is missing, or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{_short(values)} where an object with {key!r} should be")
    if key not in values:
        raise ValueError(f"no key {key!r}; there are {', '.join(values)}")
    if not isinstance(values[key], kind) or isinstance(values[key], bool):
        expected = {
            str: "a string",
            int: "a whole number",
            list: "a list",
            (str, int): "a string or a whole number",
        }[kind]
        raise ValueError(f"{key!r} is {_short(values[key])}, not {expected}")
    return values[key]


def _first_aligned(spans, context):
    """`((start, end), is moved)` of the first answer whose place is certain.

    Raises:
      ValueError: that is none's; the text says why it is not the first one's.
    """
    problem = None
    for span in spans:
        try:
            aligned = _aligned(*span, context)
        except ValueError as error:
            problem = problem or error
            continue
        return aligned, aligned != span[1:]
    raise problem


def _aligned(text, start, end, context):
    """Where an answer is: `(start, end)`, as given or at the one place where its text is.

    Raises:
      ValueError: it is nowhere, or at several places.
    """
    if not text.strip():
        raise ValueError("an empty answer")
    there = context[max(start, 0) : end]
    if start >= 0 and _same(there, text):
        return start, end
    found = context.find(text)
    if found >= 0 and context.find(text, found + 1) < 0:
        return found, found + len(text)
    problem = "nor anywhere else in its context" if found < 0 else "but at several other places"
    raise ValueError(
        f"the answer {_short(text)} is not at character {start}, where {_short(there)} is, {problem}"
    )


def _same(a, b):
    """Whether texts are the same but for case and white space."""
    return " ".join(a.split()).casefold() == " ".join(b.split()).casefold()


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-16:]}"
