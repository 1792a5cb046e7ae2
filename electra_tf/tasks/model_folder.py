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


def save_finetuned(models, folder):
    """Writes a list of `FinetunedModel`s above one encoder; of several, heads have their tasks' names."""
    first = models[0]
    if len(models) == 1:
        huggingface.save_model(first.network, folder, _more_config(first))
    else:
        huggingface.save_tensors(
            finetuned_tensors(models), first.network.config, "ElectraModel", folder
        )
    first.tokenizer.save_pretrained(folder)
    values = [_task_values(model) for model in models]
    values = values[0] if len(models) == 1 else {"tasks": values}
    files.write_json(tf.io.gfile.join(folder, TASK_FILE), values)


def finetuned_tensors(models):
    """The tensors of `save_finetuned`, as `huggingface.model_tensors` gives them."""
    if len(models) == 1:
        return huggingface.model_tensors(models[0].network)
    tensors = huggingface.encoder_tensors(models[0].network)
    for model in models:
        prefix = f"{model.task.config.name}."
        encoder = huggingface.encoder_tensors(model.network)
        for name, tensor in huggingface.model_tensors(model.network).items():
            if name not in encoder:
                tensors[f"{prefix}{name}"] = tensor
    return tensors


def _more_config(model):
    """Keys of `config.json` by which transformers knows labels and head."""
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
    return more_config


def _task_values(model):
    task = model.task
    return {
        "kind": task.config.kind,
        "labels": task.labels,
        "label_range": task.label_range,
        "threshold": task.threshold,
        "max_seq_length": model.max_seq_length,
        "task": dataclasses.asdict(task.config),
    }


def is_finetuned(folder):
    """Whether a folder holds a fine-tuned model."""
    return tf.io.gfile.exists(tf.io.gfile.join(folder, TASK_FILE))


def load_finetuned(folder, task_name=None, applied=None):
    """Reads a `FinetunedModel`.

    Args:
      folder: that `finetune.py` wrote.
      task_name: which one, of a folder of several tasks; of one, its name or None.
      applied: `TaskConfig` by which the model is to search answers; None for its own.

    Raises:
      UserError: a file is missing or malformed, tensors and network do not match, or there is no such
        task.
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
        prefix = ""
        if "tasks" in values:
            by_name = {one["task"]["name"]: one for one in values["tasks"]}
            if task_name not in by_name:
                raise UserError(
                    f"{folder}: {'no task ' + task_name if task_name else 'several tasks'} in it; "
                    f"choose one of {', '.join(by_name)}"
                )
            values, prefix = by_name[task_name], f"{task_name}."
        elif applied is None and task_name not in (None, values["task"]["name"]):
            raise UserError(
                f"{folder}: no task {task_name} in it; its task is {values['task']['name']}"
            )
        config = task_config(values["task"], path)
        label_range = values["label_range"] and tuple(values["label_range"])
        task = kind_of(config)(config, values["labels"], label_range, values.get("threshold"))
        max_seq_length = int(values["max_seq_length"])
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not what finetune.py writes ({error!r})") from None
    options = task.network_options
    if applied is not None and applied.kind == config.kind:
        options = kind_of(applied)(applied).network_options
    network = huggingface.load_model(task.network_class, folder, prefix, **options)
    return FinetunedModel(task, network, Tokenizer.from_pretrained(folder), max_seq_length)
