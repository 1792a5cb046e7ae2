"""Folders of fine-tuned models: a network in Hugging Face's layout, its tokenizer, `task.json`."""

import contextlib
import dataclasses
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
# A key of our own in `config.json`: what regression's outputs of 0 and 1 stand for.
LABEL_RANGE = "label_range"


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
        save_network(first, folder)
    else:
        huggingface.save_tensors(
            finetuned_tensors(models), first.network.config, "ElectraModel", folder
        )
        first.tokenizer.save_pretrained(folder)
    values = [_task_values(model) for model in models]
    values = values[0] if len(models) == 1 else {"tasks": values}
    files.write_json(tf.io.gfile.join(folder, TASK_FILE), values)


def save_network(model, folder):
    """Writes what transformers opens of a `FinetunedModel`: its network and its tokenizer."""
    huggingface.save_model(model.network, folder, _more_config(model))
    model.tokenizer.save_pretrained(folder, model.max_seq_length)


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
    if task.config.kind == "classification":
        is_multi = task.config.multi_label
        more_config["problem_type"] = f"{'multi' if is_multi else 'single'}_label_classification"
    if task.config.kind == "regression":
        more_config = {
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "problem_type": "regression",
            LABEL_RANGE: task.label_range,
        }
    if model.network.classifier_dropout is not None:
        more_config[dropout_key(task.config.kind)] = model.network.classifier_dropout
    return more_config


def dropout_key(kind):
    """What transformers calls the dropout of the head of a kind of task."""
    return "summary_last_dropout" if kind == "multiple_choice" else "classifier_dropout"


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


@contextlib.contextmanager
def _what_finetune_writes(path):
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not what finetune.py writes ({error!r})") from None


def _read_tasks(folder):
    """The values of `task.json` by the task's name; those of the only one by None."""
    path = tf.io.gfile.join(folder, TASK_FILE)
    if not is_finetuned(folder):
        raise UserError(
            f"{folder}: no {TASK_FILE}, so this is no fine-tuned model; finetune.py writes one to "
            "OUTPUT_DIR/model"
        )
    values = files.read_json_object(path)
    if "tasks" not in values:
        return {None: values}
    with _what_finetune_writes(path):
        return {str(one["task"]["name"]): one for one in values["tasks"]}


def task_names(folder):
    """The names of the tasks of a folder, a list; [None] where there is one, without a prefix.

    Raises:
      UserError: `task.json` is missing or malformed.
    """
    return list(_read_tasks(folder))


def is_finetuned(folder):
    """Whether a folder holds a fine-tuned model."""
    return tf.io.gfile.exists(tf.io.gfile.join(folder, TASK_FILE))


class SavedTask(NamedTuple):
    """What `task.json` says of a task.

    Attributes:
      task: `Task`.
      max_seq_length: that it was trained with.
      prefix: of the names of its head's tensors.
    """

    task: Task
    max_seq_length: int
    prefix: str


def read_task(folder, task_name=None, is_applied=False):
    """Reads a `SavedTask`.

    Args:
      folder: that `finetune.py` wrote.
      task_name: which one, of a folder of several tasks; of one, its name or None.
      is_applied: whether a single task may have another name.

    Raises:
      UserError: the file is missing or malformed, or there is no such task.
    """
    by_name = _read_tasks(folder)
    if None not in by_name and task_name not in by_name:
        raise UserError(
            f"{folder}: {'no task ' + task_name if task_name else 'several tasks'} in it; "
            f"choose one of {', '.join(by_name)}"
        )
    is_single = None in by_name
    values = by_name[None if is_single else task_name]
    path = tf.io.gfile.join(folder, TASK_FILE)
    with _what_finetune_writes(path):
        config = task_config(values["task"], path)
        if is_single and not is_applied and task_name not in (None, config.name):
            raise UserError(f"{folder}: no task {task_name} in it; its task is {config.name}")
        label_range = values["label_range"] and tuple(map(float, values["label_range"]))
        labels = values["labels"] and [str(label) for label in values["labels"]]
        task = kind_of(config)(config, labels, label_range, values.get("threshold"))
        max_seq_length = int(values["max_seq_length"])
    return SavedTask(task, max_seq_length, "" if is_single else f"{task_name}.")


def load_finetuned(folder, task_name=None, applied=None, allow_missing=None):
    """Reads a `FinetunedModel`.

    Args:
      folder, task_name: as of `read_task`.
      applied: `TaskConfig` by which the model is to search answers; None for its own.
      allow_missing: as of `huggingface.load_model`.

    Raises:
      UserError: a file is missing or malformed, tensors and network do not match, or there is no such
        task.
    """
    task, max_seq_length, prefix = read_task(folder, task_name, applied is not None)
    options = task.network_options
    if applied is not None and applied.kind == task.config.kind:
        options = kind_of(applied)(applied).network_options
    network = huggingface.load_model(task.network_class, folder, prefix, allow_missing, **options)
    task = task.with_threshold(network)
    return FinetunedModel(task, network, Tokenizer.from_pretrained(folder), max_seq_length)
