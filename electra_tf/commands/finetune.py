"""Fine-tunes an encoder on a task, several times, and says how well it does.

  python finetune.py --task=cola --data_dir=glue/CoLA --init_from=runs/small/discriminator \\
      --output_dir=runs/cola --num_trials=5

  python finetune.py --task=cola,sst2,mrpc --data_dir=glue/CoLA,glue/SST-2,glue/MRPC \\
      --init_from=runs/small --output_dir=runs/three

  python finetune.py --task=mytask.yaml --data_dir=mydata --init_from=runs/small \\
      --output_dir=runs/mine --override=num_train_epochs=5

The same command on the same folder goes on where it stopped. docs/finetuning.md has the keys of
--override and of a task's YAML file.
"""

import contextlib
import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.configs import (
    FinetuningConfig,
    load_finetuning_config,
    parse_overrides,
    validate,
)
from electra_tf.errors import UserError


def define_trial_flags(values):
    """Flags of every command that fine-tunes."""
    flags.DEFINE_integer(
        "num_trials", 1, "Trials, each with a seed of its own.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "seed",
        None,
        "Seed of the first trial (default: the configuration's, 42); the next ones follow.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "restart_failed",
        False,
        "Train trials again, with other seeds, that are stuck at one label.",
        flag_values=values,
    )


def define_flags(values):
    flags.DEFINE_string(
        "task",
        None,
        "Name of a built-in task, such as cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, ax, "
        "chunk, ner, pos, squad1, squad2, swag, race, or a YAML file. Several with commas between are "
        "trained together on one encoder.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the task's files, or one that has them in a folder of the task's name; of several "
        "tasks this, or one for each with commas between.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "Folder of the encoder: of a run, of a model in Hugging Face's ELECTRA or BERT layout, or of "
        "a fine-tuned model. --mode=evaluate and predict take it if it is fine-tuned (unless the run "
        "in OUTPUT_DIR began with it), else OUTPUT_DIR/model.",
        flag_values=values,
    )
    flags.DEFINE_string("output_dir", None, "Run folder.", flag_values=values)
    flags.mark_flags_as_required(["task", "data_dir", "output_dir"], flag_values=values)
    flags.DEFINE_string("config", None, "YAML file of the configuration.", flag_values=values)
    flags.DEFINE_multi_string(
        "override",
        [],
        "key=value of the configuration, or of the task's YAML file; repeatable.",
        flag_values=values,
    )
    define_trial_flags(values)
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "evaluate", "predict"],
        "Train, or apply a fine-tuned model to the dev set or to the test set.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "skip_bad_rows",
        False,
        "Leave out rows that cannot be used, and count them.",
        flag_values=values,
    )
    commands.define_device_flags(values)


def read_data(config, data_dir, splits, bad_rows, trained=None):
    """Reads and checks all examples of some splits.

    Args:
      config: `TaskConfig`.
      data_dir: folder.
      splits: of "train", "dev" and "test", which ones to read.
      bad_rows: `tasks.reading.BadRows`.
      trained: `Task` of a fine-tuned model; None for what the training data say.

    Returns:
      `training.task_setup.FinetuningData`.

    Raises:
      UserError: no training file, or a row that is not to be left out.
    """
    from electra_tf.tasks import kind_of
    from electra_tf.tasks.task import read_split
    from electra_tf.training.task_setup import checked_data

    kind = kind_of(config)
    sets = {
        split: read_split(kind, config, data_dir, split, bad_rows) if split in splits else {}
        for split in ("train", "dev", "test")
    }
    _warn_of_missing_sets(config, data_dir, sets, splits)
    train = sets["train"].get("", [])
    if "train" in splits:
        if not train:
            raise UserError(
                f"--data_dir={data_dir}: no {config.train or 'training file'} in it, which task "
                f"{config.name} is trained on"
            )
        task = kind.from_training_examples(config, train)
    else:
        task = kind(config, trained.labels, trained.label_range, trained.threshold)
    return checked_data(task, sets, bad_rows)


def _warn_of_missing_sets(config, data_dir, sets, splits):
    """Warns of dev and test sets that the task names and that are not there."""
    from absl import logging

    for split in splits:
        for name, pattern in config.files(split).items():
            if split != "train" and name not in sets[split]:
                logging.warning(
                    "--data_dir=%s: no %s, a %s set of task %s",
                    data_dir,
                    pattern,
                    split,
                    config.name,
                )


def _missing(config, data_dir, split):
    pattern = ", ".join(config.files(split).values()) or f"'{split}' in the task's YAML file"
    return UserError(f"--data_dir={data_dir}: no {pattern}")


def _data_dirs(data_dir, task_configs):
    """The folder of each task."""
    import tensorflow as tf

    from electra_tf.tasks import reading
    from electra_tf.tasks.config import task_name

    def folder_of(config, folder):
        patterns = [p for split in ("train", "dev", "test") for p in config.files(split).values()]
        has_own = any(reading.find_files(folder, pattern) for pattern in patterns)
        if has_own or not tf.io.gfile.isdir(folder):
            return folder
        below = {task_name(name.rstrip("/")): name for name in tf.io.gfile.listdir(folder)}
        name = below.get(task_name(config.name))
        return tf.io.gfile.join(folder, name) if name else folder

    folders = data_dir.split(",") if len(task_configs) > 1 else [data_dir]
    if len(folders) == 1:
        folders *= len(task_configs)
    if len(folders) != len(task_configs):
        raise UserError(
            f"--data_dir={data_dir}: {len(folders)} folders for {len(task_configs)} tasks; give one "
            "each, or one for all"
        )
    return [folder_of(config, folder) for config, folder in zip(task_configs, folders)]


def _read_training_data(config, data_dir, bad_rows):
    """`FinetuningData` of all splits of a task, which has a dev set if its file says so."""
    from absl import logging

    from electra_tf.training.predictions import set_name

    data = read_data(config, data_dir, ("train", "dev", "test"), bad_rows)
    if not data.dev:
        if config.dev:
            raise _missing(config, data_dir, "dev")
        logging.warning(
            "%s: no dev set: the last checkpoint is kept, and nothing is measured", config.name
        )
    elif (first := next(iter(config.files("dev")))) not in data.dev:
        raise UserError(
            f"--data_dir={data_dir}: no {config.files('dev')[first]}, the dev set by which task {config.name} "
            "chooses the checkpoint; add it, or name in the task's 'dev' those alone that there are"
        )
    logging.info(
        "%s: %d training examples%s",
        config.name,
        len(data.train),
        "".join(f", {len(e)} of {set_name('dev', n)}" for n, e in data.dev.items()),
    )
    return data


def train(values, config, data, encoder, strategy):
    """Trains all trials with a progress bar.

    Args:
      values: parsed flags: `output_dir`, `num_trials`, `restart_failed`, `xla`.
      config, data, encoder, strategy: as of `finetuning.finetune`.

    Returns:
      what `results.json` holds, a dict.
    """
    from electra_tf.training import finetuning

    with contextlib.ExitStack() as bars:
        bar = None

        def start(trial, num_steps, step):
            nonlocal bar
            bars.close()  # That of the trial before.
            description = f"trial {trial} of {values.num_trials}"
            bar = bars.enter_context(
                commands.progress_bar(total=num_steps, initial=step, unit="step", desc=description)
            )

        def show(step, metrics):
            bar.set_postfix_str(
                f"loss {metrics['loss']:.3f}, {metrics['examples_per_second']:.0f} examples/s",
                refresh=False,
            )
            bar.update(step - bar.n)

        return finetuning.finetune(
            config,
            data,
            encoder,
            values.output_dir,
            values.num_trials,
            values.restart_failed,
            strategy,
            values.xla,
            on_start=start,
            on_progress=show,
        )


def _train(values, task_configs, config, strategy):
    from electra_tf.tasks.reading import BadRows
    from electra_tf.training.strategies import is_chief
    from electra_tf.training.task_setup import load_encoder

    if not values.init_from:
        raise UserError("--init_from: give the folder of the encoder to fine-tune")
    data = [
        _read_training_data(task_config, folder, BadRows(values.skip_bad_rows))
        for task_config, folder in zip(task_configs, _data_dirs(values.data_dir, task_configs))
    ]
    results = train(values, config, data, load_encoder(values.init_from), strategy)
    if not is_chief(strategy):
        return
    print_results(results)
    print(f"model: {os.path.join(values.output_dir, 'model')}, of trial {results['best']['trial']}")


def print_results(results):
    """Prints a table of trials, and what they say together."""
    from rich.console import Console
    from rich.table import Table

    names = list(results["metrics"])
    if len(results["task_metrics"]) > 1:
        names = [n for n in (results["metric"], *results["task_metrics"]) if n in names]
    table = Table(title=f"{results['task']}: dev metrics, chosen by {results['metric']}")
    for column in ("trial", "seed", *names):
        table.add_column(column, justify="right", overflow="fold")

    def number(value):
        return "" if value is None else f"{value:.4f}"

    for trial in results["trials"]:
        style = "red" if trial["is_stuck"] else None
        table.add_row(
            f"{trial['trial']}{' stuck' if trial['is_stuck'] else ''}",
            str(trial["seed"]),
            *(number(trial["metrics"][name]) for name in names),
            style=style,
        )
    table.add_section()
    for label, key in (
        ("median", "metrics"),
        ("mean", "mean"),
        ("deviation", "standard_deviation"),
    ):
        table.add_row(label, "", *(number(results[key][name]) for name in names))
    if "ensemble" in results:
        metrics = results["ensemble"]["metrics"]
        table.add_row("ensemble", "", *(number(metrics.get(name)) for name in names))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _apply(values, task_configs, given, config, strategy):
    from absl import logging

    from electra_tf import files
    from electra_tf.training.strategies import is_chief

    split, metrics = {"evaluate": "dev", "predict": "test"}[values.mode], {}
    folder = _model_to_apply(values)
    logging.info("model: %s", folder)
    data_dirs = _data_dirs(values.data_dir, task_configs)
    # All data are checked before anything is written.
    data = [
        _read_data_to_apply(values, folder, *one, split)
        for one in zip(task_configs, given, data_dirs)
    ]
    for one in data:
        metrics |= _apply_task(values, folder, one, config, strategy, split, len(data) > 1)
    if metrics and is_chief(strategy):
        files.write_json(os.path.join(values.output_dir, f"{split}_metrics.json"), metrics)
        for name, value in metrics.items():
            print(f"{name}: {value:.4f}")
    print(f"predictions: {os.path.join(values.output_dir, 'predictions')}")


def _model_to_apply(values):
    """The folder of the fine-tuned model of --init_from, or else of --output_dir."""
    import tensorflow as tf

    from electra_tf.tasks.model_folder import is_finetuned
    from electra_tf.training.run_folder import read_data
    from electra_tf.training.task_setup import load_encoder

    own = os.path.join(values.output_dir, "model")
    if not values.init_from:
        return own
    if not tf.io.gfile.exists(values.init_from):
        raise UserError(f"--init_from={values.init_from}: no such folder")
    candidates = (values.init_from, os.path.join(values.init_from, "model"))
    given = next(filter(is_finetuned, candidates), None)
    if given is None:
        return own
    # The command that trained, with another --mode, names what the run began with.
    is_start = (
        is_finetuned(own)
        and read_data(values.output_dir).get("encoder_sha256") == load_encoder(given).sha256
    )
    return own if is_start else given


def _read_data_to_apply(values, folder, task_config, given, data_dir, split):
    """`FinetuningData` of a split of one task, for the model in a folder; `given`: the task's keys."""
    from electra_tf.tasks.model_folder import read_task
    from electra_tf.tasks.reading import BadRows

    trained = read_task(folder, task_config.name, is_applied=True).task
    wanted = task_config.labels
    if trained.config.kind != task_config.kind or wanted and wanted != trained.labels:
        raise UserError(
            f"--task={task_config.name}: {folder} was fine-tuned for {trained.config.kind} with the labels "
            f"{trained.labels}, not for {task_config.kind} with {wanted or 'its labels'}"
        )
    if task_config.version_2 and not trained.config.version_2:
        raise UserError(
            f"--task={task_config.name}: {folder} was fine-tuned on questions that all have answers "
            "(version_2: false), and cannot tell which have none"
        )
    if "version_2" in given and trained.config.version_2 and not task_config.version_2:
        raise UserError(
            f"--task={task_config.name}: {folder} was fine-tuned on questions of which some have no answer "
            "(version_2: true), and tells which; leave version_2 out"
        )
    if trained.config.multi_label != task_config.multi_label:
        raise UserError(
            f"--task={task_config.name}: multi_label is {str(task_config.multi_label).lower()} there; "
            f"{folder} was fine-tuned with {str(trained.config.multi_label).lower()}"
        )
    task_config = task_config.searching_like(trained.config, given)
    data = read_data(task_config, data_dir, (split,), BadRows(values.skip_bad_rows), trained)
    if not getattr(data, split):
        raise _missing(task_config, data_dir, split)
    return data


def _apply_task(values, folder, data, config, strategy, split, is_among_several):
    """Predicts a split of one task by the model in a folder; returns its metrics."""
    from electra_tf.tasks.model_folder import load_finetuned
    from electra_tf.training import finetuning

    task_config = data.task.config
    prefix = f"{task_config.name}_" if is_among_several else ""
    with strategy.scope():
        finetuned = load_finetuned(folder, task_config.name, task_config)
    data = data._replace(task=data.task.with_threshold(finetuned.network))
    return finetuning.apply_model(
        finetuned, config, data, values.output_dir, split, strategy, prefix
    )


def _run(values):
    from electra_tf.tasks.config import TASK_KEYS, load_task_config, read_task_file

    overrides = parse_overrides(values.override, as_written=("labels",))
    if values.seed is not None:
        overrides["seed"] = values.seed
    commands.import_tensorflow()
    task_keys = {key: overrides.pop(key) for key in list(overrides) if key in TASK_KEYS}
    names = values.task.split(",")
    if task_keys and len(names) > 1:
        raise UserError(
            f"--override={next(iter(task_keys))}: a key of one task, among several; write it into "
            "that task's YAML file"
        )
    task_configs = [load_task_config(name, task_keys) for name in names]
    defaults = task_configs[0].defaults if len(names) == 1 else {}
    validate(FinetuningConfig, defaults, f"--task={names[0]}: defaults")
    config = load_finetuning_config(values.config, overrides, defaults, TASK_KEYS)
    from electra_tf.training.strategies import create_strategy

    strategy = create_strategy(values.strategy, values.num_virtual_devices)
    if values.mode == "train":
        _train(values, task_configs, config, strategy)
    else:
        given = [{*read_task_file(name), *task_keys} for name in names]
        _apply(values, task_configs, given, config, strategy)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
