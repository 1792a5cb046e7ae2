"""Regression: a number for each text or pair of texts."""

import math

import numpy as np
import tensorflow as tf

from electra_tf.errors import UserError
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.tasks.features import text_features
from electra_tf.tasks.metrics import regression_metrics
from electra_tf.tasks.task import Task, read_texts

_STUCK = 0.01  # Share of the range within which all predictions of a stuck trial lie.


class Regression(Task):
    """See `Task`; a label is a float. The network learns it scaled to [0, 1] (SEMANTICS 20)."""

    default_metric = "spearman"
    network_class = SequenceClassifier

    @classmethod
    def from_training_examples(cls, config, examples):
        if config.label_range:
            return cls(config, label_range=tuple(config.label_range))
        found = [example.label for example in examples]
        if min(found) == max(found):
            raise UserError(
                f"{examples[0].place.rpartition(':')[0]}: one number alone, {found[0]:g}; there must "
                "be two to tell apart"
            )
        return cls(config, label_range=(min(found), max(found)))

    @classmethod
    def read_file(cls, config, path, split, bad_rows):
        def label_of(cell):
            try:
                number = float(cell)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"the label {cell!r:.60} is not a number") from None
            if not math.isfinite(number):
                raise ValueError(f"the label {cell!r} is not a finite number")
            return number

        return read_texts(config, path, split, bad_rows, label_of)

    def problem_of_label(self, example):
        low, high = self.config.label_range or (-math.inf, math.inf)
        if low <= example.label <= high:
            return None
        return (
            f"the label {example.label:g} is outside of the task's label_range, {low:g} to {high:g}"
        )

    def features(self, examples, tokenizer, max_seq_length):
        features = text_features([e.inputs for e in examples], tokenizer, max_seq_length)
        if any(example.label is None for example in examples):
            return features
        low, high = self.label_range
        label = np.array([(e.label - low) / (high - low) for e in examples], np.float32)
        return features._replace(rows={"label": label})

    @property
    def num_outputs(self):
        return 1

    def losses(self, logits, batch):
        return tf.square(logits[:, 0] - batch["label"])

    def outputs(self, logits):
        return logits[:, :1]

    def predictions(self, outputs, examples, features):
        low, high = self.label_range
        return [{"prediction": float(low + (high - low) * number)} for (number,) in outputs]

    def is_stuck(self, predictions, examples):
        low, high = self.label_range
        return np.ptp([p["prediction"] for p in predictions]) < _STUCK * (high - low)

    def submitted(self, prediction):
        low, high = self.config.label_range or self.label_range
        return f"{min(max(prediction['prediction'], low), high):.3f}"

    def metrics(self, predictions, examples):
        return regression_metrics(
            [p["prediction"] for p in predictions], [e.label for e in examples]
        )
