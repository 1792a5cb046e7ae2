"""What fine-tuned models predict: metrics and files."""

import json
from typing import NamedTuple

import tensorflow as tf

from electra_tf import files
from electra_tf.tasks.task import Task


class TaskPredictions(NamedTuple):
    """What a task's model predicts.

    Attributes:
      prefix: of the names of metrics and files.
      task: `Task`.
      sets: dict from split to dict from name of a set to `(examples, predictions)`.
    """

    prefix: str
    task: Task
    sets: dict


def set_name(split, name):
    """What a set's files are called: "dev", or "dev_mismatched"."""
    return f"{split}_{name}" if name else split


def metrics_of(done, split):
    """The metrics of a split's sets, those of another than the task's first with its name at their ends.

    Args:
      done: `TaskPredictions`.
      split: "dev" or "test".

    Returns:
      dict of floats; of a set whose labels are not all known there are none.
    """
    metrics, task = {}, done.task
    first = next(iter(task.config.files(split)), None)
    for name, (examples, predictions) in done.sets.get(split, {}).items():
        if all(example.label is not None for example in examples):
            values = task.metrics(predictions, examples)
            task = task.fitted(values)  # What one set decides holds for those after it.
            metrics |= {k if name in ("", first) else f"{k}_{name}": v for k, v in values.items()}
    return {f"{done.prefix}{name}": value for name, value in metrics.items()}


def write_predictions(folder, done):
    """Writes a JSON line an example to `predictions/`, files of the kind's own, GLUE's to `submission/`.

    Args:
      folder: in which those are made.
      done: `TaskPredictions`.
    """
    task = done.task
    for split, sets in done.sets.items():
        for name, (examples, predictions) in sets.items():
            lines = [
                json.dumps({"id": e.id, "label": e.label, **p}, ensure_ascii=False)
                for e, p in zip(examples, predictions)
            ]
            path = tf.io.gfile.join(folder, "predictions", done.prefix + set_name(split, name))
            files.write(f"{path}.jsonl", "\n".join(lines) + "\n")
            for end, content in task.files(predictions, examples).items():
                files.write_json(f"{path}_{end}.json", content)
            submission = task.config.submission_of(name) if split == "test" else None
            if submission:
                path = tf.io.gfile.join(folder, "submission", submission)
                files.write(path, task.submission(predictions, examples))
