"""Tagging of words: parts of speech, phrases, names.

A word's label stands at its first piece. A sentence that is too long is cut into windows that
overlap; in an overlap each word is predicted in the window where it is farther from the edge.
"""

import re

import numpy as np
import tensorflow as tf
from absl import logging

from electra_tf.errors import UserError
from electra_tf.modeling.electra import TokenClassifier
from electra_tf.tasks import reading
from electra_tf.tasks.features import Features
from electra_tf.tasks.metrics import tagging_metrics
from electra_tf.tasks.task import Example, Task

_PREFIXES = {"IOB1": "IB", "IOB2": "BI", "BIOES": "BIES"}
_NO_LABEL = -1


class Tagging(Task):
    """See `Task`; a label is a list of tags, one a word."""

    network_class = TokenClassifier
    has_outputs_for_tokens = True

    @property
    def default_metric(self):
        return "f1" if self.config.scheme else "accuracy"

    @classmethod
    def from_training_examples(cls, config, examples):
        tags = {tag for example in examples for tag in example.label}
        if config.labels:
            return cls(config, config.labels)
        if config.scheme:
            kinds = {tag[2:] for tag in tags if tag != "O"}
            prefixes = _PREFIXES[config.scheme]
            tags |= {"O"} | {f"{prefix}-{kind}" for kind in kinds for prefix in prefixes}
        if len(tags) < 2:
            raise UserError(
                f"{examples[0].place.rpartition(':')[0]}: one tag alone, {', '.join(tags)!r}; there must "
                "be two to tell apart"
            )
        return cls(config, sorted(tags, key=lambda tag: (tag != "O", tag[2:], tag)))

    @classmethod
    def read_file(cls, config, path, split, bad_rows):
        sentences = reading.read_sentences(
            path,
            config.format or _sentence_format(path, config.columns_of(split)),
            config.columns_of(split),
            bad_rows,
            has_tags=split != "test",
            quotes=config.quotes,
        )
        examples = []
        for number, sentence in enumerate(sentences):
            problem = _malformed(sentence, config.scheme)
            if problem:
                bad_rows.add(problem)
            else:
                examples.append(Example(sentence.place, str(number), sentence.words, sentence.tags))
        _warn_of_breaks(sentences, config.scheme)
        return examples

    def problem_of_label(self, example):
        unknown = [tag for tag in example.label if tag not in self.labels]
        if not unknown:
            return None
        return f"unknown label {unknown[0]!r} in this sentence; known: {', '.join(self.labels)}"

    def features(self, examples, tokenizer, max_seq_length):
        number_of = {label: number for number, label in enumerate(self.labels)}
        room = max_seq_length - 2
        pieces_of = word_pieces({word for e in examples for word in e.inputs}, tokenizer, room)
        columns = {"input_ids": [], "is_word": [], "label": []}
        lengths, owners = [], []
        for number, (_, _, words, tags) in enumerate(examples):
            pieces = [pieces_of[word] for word in words]
            labels = [number_of[tag] for tag in tags] if tags else [_NO_LABEL] * len(words)
            for window in windows([len(p) for p in pieces], room):
                row = _window_row(pieces, labels, window, tokenizer)
                for name, values in zip(columns, row):
                    columns[name] += values
                lengths.append(len(row[0]))
                owners.append(number)
        tokens = {name: np.array(values, np.int32) for name, values in columns.items()}
        if any(example.label is None for example in examples):
            del tokens["label"]
        tokens["segment_ids"] = np.zeros_like(tokens["input_ids"])
        row_splits = np.concatenate([[0], np.cumsum(lengths)])
        return Features(tokens, row_splits, {"example": np.array(owners, np.int32)})

    @property
    def num_outputs(self):
        return len(self.labels)

    def create_network(self, encoder_config, **options):
        del options["head"]  # There is one.
        return super().create_network(encoder_config, **options)

    def losses(self, logits, batch):
        labels = tf.maximum(batch["label"], 0)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def weights(self, batch):
        return tf.cast(batch["is_word"], tf.float32) * batch["weight"][:, None]

    def outputs(self, logits):
        return tf.nn.softmax(logits)

    def predictions(self, outputs, examples, features):
        results = [{"prediction": [], "scores": []} for _ in examples]
        row_splits, is_word = features.row_splits, features.tokens["is_word"]
        for row, (probabilities, owner) in enumerate(zip(outputs, features.rows["example"])):
            words = is_word[row_splits[row] : row_splits[row + 1]] == 1
            for word in np.asarray(probabilities)[words]:
                best = int(np.argmax(word))
                results[owner]["prediction"].append(self.labels[best])
                results[owner]["scores"].append(float(word[best]))
        return results

    def confusion_pairs(self, predictions, examples):
        return (
            [tag for p in predictions for tag in p["prediction"]],
            [tag for e in examples for tag in e.label],
        )

    def metrics(self, predictions, examples):
        return tagging_metrics(
            [p["prediction"] for p in predictions],
            [e.label for e in examples],
            has_phrases=self.config.scheme is not None,
        )

    def is_stuck(self, predictions, examples):
        predicted = {tag for p in predictions for tag in p["prediction"]}
        return len(predicted) == 1 and len({tag for e in examples for tag in e.label}) > 1


def word_pieces(words, tokenizer, most):
    """The pieces of words.

    Args:
      words: collection of str.
      tokenizer: `Tokenizer`.
      most: pieces of a word after which it is cut.

    Returns:
      dict from word to list of at least one id: [UNK] stands for a word that the tokenizer drops,
      such as a control character.
    """
    words = sorted(words)
    ids = tokenizer.compiled()(tf.constant(words, tf.string)).to_list()
    return {word: pieces[:most] or [tokenizer.unk_id] for word, pieces in zip(words, ids)}


def windows(num_pieces, room):
    """Cuts a sentence into windows that overlap by up to a quarter.

    Args:
      num_pieces: pieces of each word, none more than `room`.
      room: most pieces of a window.

    Returns:
      list of `(start, end, first, last)`: the window has the words from `start` to before `end`; its
      own, which are predicted here, are those from `first` to before `last`. Each word has one
      window of its own.
    """
    ends = np.cumsum([0, *num_pieces])
    spans, start, number = [], 0, len(num_pieces)
    while True:
        end = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
        spans.append((start, end))
        if end == number:
            break
        overlapping = int(np.searchsorted(ends, ends[end] - room // 4, side="left"))
        start = max(overlapping, start + 1)
    middles = [(end + start) // 2 for (_, end), (start, _) in zip(spans, spans[1:])]
    return [
        (*span, first, last) for span, first, last in zip(spans, [0, *middles], [*middles, number])
    ]


def _window_row(pieces, labels, window, tokenizer):
    """`(input_ids, is_word, label)` of a window, lists."""
    start, end, first, last = window
    input_ids, is_word, label = [tokenizer.cls_id], [0], [_NO_LABEL]
    for index in range(start, end):
        rest, is_own = len(pieces[index]) - 1, first <= index < last
        input_ids += pieces[index]
        is_word += [int(is_own)] + [0] * rest
        label += [labels[index] if is_own else _NO_LABEL] + [_NO_LABEL] * rest
    return input_ids + [tokenizer.sep_id], is_word + [0], label + [_NO_LABEL]


def _sentence_format(path, columns):
    """CoNLL's columns have no names; in a table a line is a sentence."""
    name = path.removesuffix(".gz")
    if name.endswith((".jsonl", ".json")):
        return "jsonl"
    if name.endswith(".csv"):
        return "csv"
    return "tsv" if isinstance(columns["token"], str) else "conll"


def _malformed(sentence, scheme):
    """The `UserError` of a tag that is none of the scheme's, or None."""
    if not scheme or sentence.tags is None:
        return None
    pattern = re.compile(rf"O|[{_PREFIXES[scheme]}]-.+")
    for index, tag in enumerate(sentence.tags):
        if not pattern.fullmatch(tag):
            return UserError(
                f"{sentence.place_of(index)}: the tag {tag!r} is none of {scheme}, which has O and "
                f"{', '.join(f'{prefix}-...' for prefix in _PREFIXES[scheme])}"
            )
    return None


def _warn_of_breaks(sentences, scheme):
    """Warns of phrases that begin with I- where the scheme wants B-; they count as beginning."""
    if scheme != "IOB2":
        return
    places = [
        sentence.place_of(index)
        for sentence in sentences
        for index, tag in enumerate(sentence.tags or ())
        if tag.startswith("I-") and (["O", *sentence.tags][index])[2:] != tag[2:]
    ]
    if places:
        logging.warning(
            "%s: a phrase begins with I-, as %d do in this file; is it IOB1? (the key 'scheme')",
            places[0],
            len(places),
        )
