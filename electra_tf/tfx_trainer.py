"""Fine-tuning in a TensorFlow pipeline: `run_fn` for the Trainer component of TFX.

TFX itself is not imported: `fn_args` is any object with the attributes that a Trainer gives.
docs/tfx.md has a pipeline.
"""

import dataclasses
from typing import Any

import tensorflow as tf
from absl import logging

from electra_tf import files
from electra_tf.configs import CountOrZero, FinetuningConfig, validate
from electra_tf.errors import UserError
from electra_tf.export.loading import load_servables
from electra_tf.export.saved_model import write_ids, write_text
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import load_task_config, task_config
from electra_tf.tasks.reading import BadRows
from electra_tf.tasks.task import read_set
from electra_tf.training.finetuning import MODEL_FOLDER, finetune
from electra_tf.training.strategies import any_worker, create_strategy, is_chief
from electra_tf.training.task_setup import checked_data, load_encoder

_FORMAT = {"format": "tfrecord"}
_SAVED_MODEL_FILE = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class CustomConfig:
    """What the Trainer's `custom_config` may hold, beside keys of Google's AI Platform.

    Attributes:
      task: dict of the keys of a task's YAML file, of which `columns` names features; or the name
        of a built-in task.
      init_from: folder of the encoder, as `finetune.py` takes it; None for the Trainer's
        `base_model`.
      config: dict of keys of `FinetuningConfig`.
      seed: of the training; None for the configuration's.
      skip_bad_rows: leave out examples that cannot be used, and count them.
    """

    task: str | dict[str, Any]
    init_from: str | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: CountOrZero | None = None
    skip_bad_rows: bool = False


def run_fn(fn_args):
    """Fine-tunes an encoder on tf.Examples, and exports the model.

    ```python
    run_fn(types.SimpleNamespace(
        train_files=["examples/Split-train/*"], eval_files=["examples/Split-eval/*"],
        train_steps=1000, serving_model_dir="model/Format-Serving", model_run_dir="model_run",
        custom_config={
            "task": {"name": "reviews", "kind": "classification",
                     "columns": {"text": "review", "label": "stars"}},
            "init_from": "runs/small",
        },
    ))
    ```

    It is `finetune.py` with one trial: data are checked before anything is written, and the
    checkpoint that is best on the eval files is kept. A call on the same `model_run_dir` goes on where
    the one before stopped.

    Args:
      fn_args: object with the attributes
        train_files, eval_files: lists of patterns of TFRecord files of tf.Examples, gzipped or not.
          Without `eval_files` the last checkpoint is kept.
        train_steps: steps to train; None or 0 for what `custom_config` says (`num_train_steps`, or
          `num_train_epochs`).
        serving_model_dir: where the SavedModel is to stand that takes strings. It appears whole,
          verified by TensorFlow's C API.
        model_run_dir: run folder: `results.json`, `model/`, `trial-1/`, and the SavedModel that takes
          ids, `ids/1/`.
        custom_config: dict, see `CustomConfig`.
        base_model: folder of an encoder, where `custom_config` names none.
        Others are not read. So `eval_steps` limits nothing: every example of the eval files is
        predicted exactly once.

    Raises:
      UserError: an attribute, a file or a feature is missing, a key or a label is unknown, or
        the model does not run outside of Python; one line says which.
      RunStopped: SIGTERM or Ctrl-C came; a checkpoint is saved.
    """
    custom = _custom_config(fn_args)
    task = _task_config(custom.task)
    config = _finetuning_config(custom, task, getattr(fn_args, "train_steps", None))
    run_dir = _needed(fn_args, "model_run_dir")
    serving_dir, encoder_dir = _serving_dir(fn_args), _encoder_dir(fn_args, custom)
    strategy = create_strategy()
    encoder = load_encoder(encoder_dir)
    data = _read_data(fn_args, task, custom.skip_bad_rows)
    results = finetune(config, [data], encoder, run_dir, strategy=strategy)
    logging.info("%s: %s", run_dir, results["best"]["metrics"])
    if is_chief(strategy):
        servables = load_servables(tf.io.gfile.join(run_dir, MODEL_FOLDER))
        _replace(tf.io.gfile.join(run_dir, "ids", "1"), write_ids, servables)
        _replace(serving_dir, write_text, servables)
    any_worker(strategy, False)  # All wait for the chief's model.


def _needed(fn_args, name):
    value = getattr(fn_args, name, None)
    if not value:
        raise UserError(f"fn_args.{name}: missing; call run_fn as TFX's Trainer does, with it")
    return value


def _custom_config(fn_args):
    values = _needed(fn_args, "custom_config")
    own = {k: v for k, v in values.items() if not k.startswith("ai_platform_")}
    return validate(CustomConfig, own, "custom_config")


def _task_config(task):
    if isinstance(task, str):
        return load_task_config(task, _FORMAT)
    return task_config({**task, **_FORMAT}, "custom_config['task']")


def _finetuning_config(custom, task, train_steps):
    values = {**task.defaults, **custom.config}
    if custom.seed is not None:
        values["seed"] = custom.seed
    if train_steps:
        values["num_train_steps"] = train_steps
    return validate(FinetuningConfig, values, "custom_config['config']")


def _serving_dir(fn_args):
    """The folder of the SavedModel; it may hold that of an earlier start, and nothing else."""
    folder = _needed(fn_args, "serving_model_dir")
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    if names and _SAVED_MODEL_FILE not in names:
        raise UserError(
            f"fn_args.serving_model_dir={folder}: holds other things than a SavedModel; give a folder "
            "of its own"
        )
    return folder


def _encoder_dir(fn_args, custom):
    folder = custom.init_from or getattr(fn_args, "base_model", None)
    if not folder:
        raise UserError(
            "custom_config: no 'init_from'; give the folder of the encoder to fine-tune, or the "
            "Trainer a base_model"
        )
    if tf.io.gfile.exists(tf.io.gfile.join(folder, _SAVED_MODEL_FILE)):
        raise UserError(
            f"{folder}: a SavedModel, which cannot be trained further; give as 'init_from' the folder "
            "of an encoder, such as model/ in the model_run_dir of another run"
        )
    return folder


def _read_data(fn_args, task_config, skip_bad_rows):
    """`FinetuningData` of the train and eval files."""
    kind = kind_of(task_config)
    bad_rows = BadRows(skip_bad_rows, "'skip_bad_rows': True in custom_config")
    train = read_set(kind, task_config, _find_files(fn_args, "train_files"), "train", bad_rows)
    dev = {}
    if getattr(fn_args, "eval_files", None):
        dev[""] = read_set(kind, task_config, _find_files(fn_args, "eval_files"), "dev", bad_rows)
    else:
        logging.warning("no eval_files: the last checkpoint is kept, and nothing is measured")
    task = kind.from_training_examples(task_config, train)
    return checked_data(task, {"train": {"": train}, "dev": dev, "test": {}}, bad_rows)


def _find_files(fn_args, name):
    patterns = _needed(fn_args, name)
    paths = [path for path in tf.io.gfile.glob(patterns) if not tf.io.gfile.isdir(path)]
    if not paths:
        raise UserError(f"fn_args.{name}={patterns}: no such file; give patterns of TFRecord files")
    return sorted(set(paths))


def _replace(folder, write, servables):
    """Lets a model appear whole, in the place of an earlier start's."""
    with files.replacing(folder) as temporary:
        write(servables, temporary, servables.task.config.name)
        files.remove(folder)
