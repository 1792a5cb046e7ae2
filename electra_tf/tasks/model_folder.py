"""Folders of fine-tuned models: a network in Hugging Face's layout, its tokenizer, `task.json`."""

import dataclasses
import json
from typing import NamedTuple

import tensorflow as tf

from electra_tf import files
from electra_tf.errors import UserError
from electra_tf.interop import huggingface
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import task_config
from electra_tf.tasks.task import Task
from electra_tf.tokenization import Tokenizer

TASK_FILE = "task.json"


class FinetunedModel(NamedTuple):
    """Attributes: `task`, `network`, `tokenizer`; `max_seq_length` it was trained with."""

    task: Task
    network: object
    tokenizer: Tokenizer
    max_seq_length: int


def save_finetuned(model, folder):
    """Writes a `FinetunedModel`."""
    task, more_config = model.task, {}
    if task.labels:
        more_config = {
            "id2label": {str(number): label for number, label in enumerate(task.labels)},
            "label2id": {label: number for number, label in enumerate(task.labels)},
        }
    if task.config.kind == "regression":
        more_config = {"id2label": {"0": "LABEL_0"}, "problem_type": "regression"}
    if model.network.classifier_dropout is not None:
        more_config["classifier_dropout"] = model.network.classifier_dropout
    huggingface.save_model(model.network, folder, more_config)
    model.tokenizer.save_pretrained(folder)
    values = {
        "kind": task.config.kind,
        "labels": task.labels,
        "label_range": task.label_range,
        "threshold": task.threshold,
        "max_seq_length": model.max_seq_length,
        "task": dataclasses.asdict(task.config),
    }
    files.write_json(tf.io.gfile.join(folder, TASK_FILE), values)


def is_finetuned(folder):
    """Whether a folder holds a fine-tuned model."""
    return tf.io.gfile.exists(tf.io.gfile.join(folder, TASK_FILE))


def load_finetuned(folder):
    """Reads a `FinetunedModel`.

    Raises:
      UserError: a file is missing or malformed, or tensors and network do not match.
    """
    path = tf.io.gfile.join(folder, TASK_FILE)
    if not is_finetuned(folder):
        raise UserError(
            f"{folder}: no {TASK_FILE}, so this is no fine-tuned model; finetune.py writes one to "
            "OUTPUT_DIR/model"
        )
    try:
        with tf.io.gfile.GFile(path) as f:
            values = json.load(f)
        config = task_config(values["task"], path)
        label_range = values["label_range"] and tuple(values["label_range"])
        task = kind_of(config)(config, values["labels"], label_range, values.get("threshold"))
        max_seq_length = int(values["max_seq_length"])
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not what finetune.py writes ({error!r})") from None
    network = huggingface.load_model(task.network_class, folder, **task.network_options)
    return FinetunedModel(task, network, Tokenizer.from_pretrained(folder), max_seq_length)
