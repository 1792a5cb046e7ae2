"""Multiple choice: which of some texts goes on from a text, or answers a question about it."""

import re
import statistics
import string

import numpy as np

from electra_tf.errors import UserError
from electra_tf.modeling.electra import MultipleChoiceClassifier
from electra_tf.tasks import reading
from electra_tf.tasks.classification import Classification
from electra_tf.tasks.config import label_text
from electra_tf.tasks.features import text_features
from electra_tf.tasks.task import Example


class MultipleChoice(Classification):
    """See `Task`; inputs are `(text, choices)`, a tuple of str; a label is the choice's, a str.

    Each choice is a row of its features, and a probability is one of an example's choices.
    """

    network_class = MultipleChoiceClassifier

    @classmethod
    def from_training_examples(cls, config, examples):
        number = statistics.mode(len(example.inputs[1]) for example in examples)
        if number < 2 or config.labels and len(config.labels) != number:
            raise UserError(
                f"{examples[0].place.rpartition(':')[0]}: most examples have {number} choice(s); there "
                f"must be {len(config.labels) if config.labels else 'two or more'}"
            )
        letters = string.ascii_uppercase[:number]
        are_letters = {example.label for example in examples} <= set(letters)
        return cls(config, config.labels or (list(letters) if are_letters else _numbers(number)))

    @classmethod
    def read_file(cls, config, path, split, bad_rows):
        if config.format == "race":
            return _read_race(path, split, bad_rows)
        return _read_table(config, path, split, bad_rows)

    def problem_of(self, example):
        if len(example.inputs[1]) != len(self.labels):
            return f"{len(example.inputs[1])} choices, where the task has {len(self.labels)}"
        return super().problem_of(example)

    def features(self, examples, tokenizer, max_seq_length):
        pairs = [
            (text, choice) for text, choices in (e.inputs for e in examples) for choice in choices
        ]
        features = text_features(pairs, tokenizer, max_seq_length)
        features = features._replace(group=len(self.labels))
        if any(example.label is None for example in examples):
            return features
        label = np.array([self.labels.index(e.label) for e in examples], np.int32)
        return features._replace(rows={"label": label})

    def create_network(self, encoder_config, **options):
        del options["head"]  # There is one.
        return MultipleChoiceClassifier(encoder_config, **options)


def _numbers(number):
    return [str(index) for index in range(number)]


def _read_table(config, path, split, bad_rows):
    """Examples of SWAG's columns: of a text, of what all choices begin with, of the choices."""
    columns = config.columns_of(split)
    choices = columns["choices"]
    names = choices if isinstance(choices, list) else [choices]
    wanted = [*(column for name, column in columns.items() if name != "choices"), *names]
    rows = reading.read_rows(
        path,
        reading.file_format(path, config.format),
        wanted,
        bad_rows,
        quotes=config.quotes,
        optional=[columns["label"]] if split == "test" and "label" in columns else (),
    )
    examples = []
    for number, (place, cells) in enumerate(rows):
        found = [cells[name] for name in choices] if isinstance(choices, list) else cells[choices]
        values = {name: cells[column] for name, column in columns.items() if name != "choices"}
        texts = [values["text"], values.get("text_pair", "")]
        if not isinstance(found, list) or not all(isinstance(t, str) for t in [*texts, *found]):
            bad_rows.add(UserError(f"{place}: a text or a choice that is not a string"))
            continue
        label = values.get("label")
        is_open = label is None or split == "test" and label == ""
        try:
            label = None if is_open else label_text(label)
        except ValueError as error:
            bad_rows.add(UserError(f"{place}: {error}"))
            continue
        choices_of_text = tuple(f"{texts[1]} {choice}".strip() for choice in found)
        identifier = str(values.get("id", number))
        examples.append(Example(place, identifier, (texts[0], choices_of_text), label))
    return examples


def _read_race(path, split, bad_rows):
    """Examples of one of RACE's files: a JSON object of an article and its questions."""
    examples = []
    try:
        passage = reading.read_json(path)
    except UserError as error:  # A file is what a row is elsewhere.
        bad_rows.add(error)
        return []
    kinds = {"article": str, "questions": list, "options": list}
    if split != "test":
        kinds["answers"] = list
    for key, kind in kinds.items():
        if not isinstance(passage, dict) or not isinstance(passage.get(key), kind):
            expected = "string" if kind is str else "list"
            bad_rows.add(UserError(f"{path}: no {expected} {key!r}; is this a file of RACE?"))
            return []
    answers = passage.get("answers") or [None] * len(passage["questions"])
    if not len(passage["questions"]) == len(passage["options"]) == len(answers):
        bad_rows.add(UserError(f"{path}: unlike numbers of questions, options and answers"))
        return []
    for number, (question, options, label) in enumerate(
        zip(passage["questions"], passage["options"], answers), 1
    ):
        place = f"{path}: question {number}"
        texts = [question, *options] if isinstance(options, list) else [None]
        if not all(isinstance(text, str) for text in texts) or not isinstance(label, str | None):
            bad_rows.add(
                UserError(f"{place}: a question, an option or an answer that is no string")
            )
            continue
        identifier = f"{passage.get('id', path)}-{number}"
        choices = tuple(_completed(question, option) for option in options)
        examples.append(Example(place, identifier, (passage["article"], choices), label))
    return examples


def _completed(question, option):
    """A question with an option in its blank, or after it where it has none."""
    if "_" not in question:
        return f"{question} {option}"
    return re.sub("_+", lambda _: option, question, count=1)
