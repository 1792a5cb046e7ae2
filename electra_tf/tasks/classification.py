"""Classification of texts or pairs of texts: one label each, or any number of them."""

import math

import numpy as np
import tensorflow as tf
from absl import logging

from electra_tf.errors import UserError
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.tasks.config import label_text
from electra_tf.tasks.features import text_features
from electra_tf.tasks.metrics import auc, classification_metrics, multi_label_metrics
from electra_tf.tasks.task import Task, read_texts


class Classification(Task):
    """See `Task`; a label is a str, or with `multi_label` a tuple of str."""

    default_metric = "accuracy"
    network_class = SequenceClassifier

    @classmethod
    def from_training_examples(cls, config, examples):
        if config.labels:
            return cls(config, config.labels)
        found = {
            label
            for example in examples
            for label in (example.label if config.multi_label else [example.label])
        }
        if len(found) < 2:
            raise UserError(
                f"{examples[0].place.rpartition(':')[0]}: one label alone, {', '.join(found)!r}; "
                "there must be two to tell apart"
            )
        _warn_of_names(config, examples)
        task = cls(config, sorted(found, key=_sorting_key))
        if config.metric == "auc" and not task.has_auc:
            raise UserError(
                f"metric=auc: {len(found)} labels ({', '.join(task.labels)}); it compares two: choose "
                "another metric"
            )
        return task

    @classmethod
    def read_file(cls, config, path, split, bad_rows):
        def label_of(cell):
            if not config.multi_label:
                if cell == "":
                    raise ValueError("an empty label")
                if isinstance(cell, list):
                    raise ValueError(
                        f"{len(cell)} labels; with multi_label: true it may be any number"
                    )
                return label_text(cell)
            if isinstance(cell, list):
                return tuple(map(label_text, cell))
            parts = (part.strip() for part in label_text(cell).split(config.label_separator))
            return tuple(filter(None, parts))

        return read_texts(config, path, split, bad_rows, label_of)

    def problem_of_label(self, example):
        labels = example.label if self.config.multi_label else [example.label]
        unknown = [label for label in labels if label not in self.labels]
        if not unknown:
            return None
        return f"unknown label {unknown[0]!r}; known: {', '.join(self.labels)}"

    def features(self, examples, tokenizer, max_seq_length):
        features = text_features([e.inputs for e in examples], tokenizer, max_seq_length)
        if any(example.label is None for example in examples):
            return features
        number_of = {label: number for number, label in enumerate(self.labels)}
        if self.config.multi_label:
            label = np.zeros([len(examples), len(self.labels)], np.float32)
            for row, example in zip(label, examples):
                row[[number_of[name] for name in example.label]] = 1.0
        else:
            label = np.array([number_of[e.label] for e in examples], np.int32)
        return features._replace(rows={"label": label})

    @property
    def num_outputs(self):
        return len(self.labels)

    def losses(self, logits, batch):
        if self.config.multi_label:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(batch["label"], logits)
            return tf.reduce_mean(losses, axis=-1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

    def outputs(self, logits):
        return tf.sigmoid(logits) if self.config.multi_label else tf.nn.softmax(logits)

    def predictions(self, outputs, examples, features):
        return [self._prediction(probabilities) for probabilities in outputs]

    def _prediction(self, probabilities):
        scores = {label: float(p) for label, p in zip(self.labels, probabilities)}
        if self.config.multi_label:
            prediction = [label for label, score in scores.items() if self.is_predicted(score)]
        else:
            prediction = self.labels[int(np.argmax(probabilities))]
        return {"prediction": prediction, "scores": scores}

    def is_predicted(self, score):
        """Of several labels, which ones: by a score, or a tensor of them."""
        return score >= 0.5

    def confusion_pairs(self, predictions, examples):
        if self.config.multi_label:
            return None
        return [p["prediction"] for p in predictions], [e.label for e in examples]

    def metrics(self, predictions, examples):
        true = [e.label for e in examples]
        compute = multi_label_metrics if self.config.multi_label else classification_metrics
        values = compute([p["prediction"] for p in predictions], true, self.labels)
        if self.has_auc:
            positive = self.labels[1]
            scores = [p["scores"][positive] for p in predictions]
            values |= auc(scores, [label == positive for label in true])
        return values

    @property
    def has_auc(self):
        """Whether `auc` is among the metrics: where there are two labels that mean something."""
        is_plain = self.config.kind == "classification" and not self.config.multi_label
        return is_plain and len(self.labels) == 2


def _warn_of_names(config, examples):
    """Warns of a label in the first line alone, where columns are counted: it may be a line of names."""
    first, *others = examples
    is_counted = isinstance(config.columns["label"], int)
    if not is_counted or config.multi_label or not first.place.endswith(":1"):
        return
    if all(example.label != first.label for example in others):
        logging.warning(
            "%s: the label %r is in this line alone; if it is a line of names, give those as 'columns'",
            first.place,
            first.label,
        )


def _sorting_key(label):
    """Numbers by their size, before words."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    # A text may say "nan", which has no place among numbers.
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)
