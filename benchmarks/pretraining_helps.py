"""What pre-training gives: fine-tuned dev scores of one network at several points of its training.

  python pretrain.py --config=benchmarks/pretraining_helps.yaml --corpus='TEXTS/*.txt.gz' \\
      --output_dir=runs/helping
  python benchmarks/pretraining_helps.py --run=runs/helping --data=SHARED_DATA \\
      --output_dir=runs/helps --results=docs/results/pretraining.json

Each encoder below RUN/encoders, and one of the same sizes with random weights (step 0), is
fine-tuned on each task with several seeds; started again, it goes on where it stopped. Prints a table
and draws dev scores over steps to OUTPUT_DIR/pretraining.png.
"""

import pathlib
import sys

from absl import flags
from finetuning_parity import define_xla_flag, prepare, train_ours, with_overrides, xla_flag

from electra_tf import commands
from electra_tf.errors import UserError

SETTINGS = {
    "num_train_epochs": 3,
    "train_batch_size": 32,
    "max_seq_length": 128,
    "layerwise_lr_decay": 0.9,
    "mixed_precision": "float32",
    "learning_rate": 5e-4,
}
# Of a task alone.
TASK_SETTINGS = {"mrpc": {"both_orders": False}}  # A pair once: half the time.


def define_flags(values):
    flags.DEFINE_string("run", None, "Run folder with encoders/.", flag_values=values)
    flags.DEFINE_string("data", None, "Folder with glue/ and tagging/.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder of runs.", flag_values=values)
    flags.mark_flags_as_required(["run", "data", "output_dir"], flag_values=values)
    flags.DEFINE_list("tasks", ["cola", "sst2", "mrpc", "chunk"], "Which ones.", flag_values=values)
    flags.DEFINE_integer("num_trials", 3, "Seeds of each, from 1 on.", flag_values=values)
    flags.DEFINE_multi_string(
        "override", [], "key=value of the settings; repeatable.", flag_values=values
    )
    flags.DEFINE_string("results", None, "JSON file of all figures.", flag_values=values)
    define_xla_flag(values)


def make_random_encoder(source, folder):
    """Writes a network of the same sizes with random weights, and its tokenizer."""
    import keras

    from electra_tf import Discriminator, Tokenizer
    from electra_tf.interop.huggingface import read_config

    keras.utils.set_random_seed(0)
    Discriminator(read_config(str(source))).save_pretrained(str(folder))
    Tokenizer.from_pretrained(str(source)).save_pretrained(str(folder))


def find_encoders(values):
    """Dict from step to folder, in the order of the steps; 0 is the random one."""
    found = {
        int(path.name.removeprefix("step-")): path / "discriminator"
        for path in pathlib.Path(values.run, "encoders").glob("step-*")
    }
    if not found:
        raise UserError(f"--run={values.run}: no encoders/step-N in it; see encoder_export_steps")
    first, random = next(iter(found.values())), pathlib.Path(values.output_dir) / "random"
    if not (random / "vocab.txt").exists():
        make_random_encoder(first, random)
    for name in ("config.json", "vocab.txt"):
        if (random / name).read_bytes() != (first / name).read_bytes():
            raise UserError(
                f"--output_dir={values.output_dir}: {random} was made for encoders with another "
                f"{name}; choose another folder"
            )
    return {0: random, **dict(sorted(found.items()))}


def draw(rows, path):
    """A panel a task: dev scores over steps, with the standard deviation over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(rows), 3.2), layout="constrained")
    for panel, (name, points) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items()):
        metric = next(iter(points.values()))["metric"]
        means = [point["mean"][metric] for point in points.values()]
        deviations = [point["standard_deviation"][metric] or 0.0 for point in points.values()]
        panel.errorbar([int(step) for step in points], means, deviations, fmt="o-", capsize=3)
        panel.set(title=name, xlabel="steps of pre-training", ylabel=f"dev {metric}")
    figure.savefig(path, dpi=110)


def print_table(rows):
    """A row a point of training, a column a task."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Dev scores after fine-tuning, mean ± deviation")
    table.add_column("steps", justify="right")
    for name, points in rows.items():
        table.add_column(f"{name}, {next(iter(points.values()))['metric']}", justify="right")
    for step in next(iter(rows.values())):
        cells = []
        for points in rows.values():
            metric = points[step]["metric"]
            deviation = points[step]["standard_deviation"][metric] or 0.0
            cells.append(f"{points[step]['mean'][metric]:.4f} ± {deviation:.4f}")
        table.add_row("random" if step == "0" else f"{int(step):,}", *cells)
    Console(width=110).print(table)


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    settings = with_overrides(SETTINGS, values.override)
    prepare(values)
    encoders, rows = find_encoders(values), {}
    for name in values.tasks:
        rows[name] = {
            # As JSON has them.
            str(step): train_ours(
                values,
                name,
                encoder,
                pathlib.Path(values.output_dir) / f"step-{step}" / name,
                {**settings, **TASK_SETTINGS.get(name, {})},
            )
            for step, encoder in encoders.items()
        }
        print_table(rows)
    draw(rows, str(pathlib.Path(values.output_dir) / "pretraining.png"))
    if values.results:
        command = (
            "python benchmarks/pretraining_helps.py --run=RUN --data=DATA --output_dir=RUNS "
            f"--tasks={','.join(rows)} --num_trials={values.num_trials}"
            f"{' '.join(['', *(f'--override={o}' for o in values.override), *xla_flag(values)])}"
        )
        all_settings = {"settings": settings, "task_settings": TASK_SETTINGS}
        files.write_json(values.results, {"command": command, **all_settings, "tasks": rows})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
