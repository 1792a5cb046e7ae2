"""Does a training of ours reach what a training of the original reaches, on the same records?

  python benchmarks/learning_parity.py --data=GOOGLE_CURVE --vocab_file=vocab.txt \\
      --output_dir=runs/parity

GOOGLE_CURVE holds records that google-research/electra built (train.tfrecord*, eval.tfrecord*) and
curve.json, what its training reached on them. Both values of `fidelity` are trained, and `fixed` in
bfloat16, each with several seeds, in processes of one thread; started again, it goes on where it
stopped. Prints the held-out metrics beside the original's, and draws the training losses to
OUTPUT_DIR/parity.png.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / "benchmarks" / "google_curve.yaml"
VARIANTS = {
    "google2020": {"fidelity": "google2020"},
    "fixed": {"fidelity": "fixed"},
    "bfloat16": {"fidelity": "fixed", "mixed_precision": "bfloat16"},
}
# Metric, whether less is better, and how much worse than the original is no worse: relative for
# the losses, absolute for the others.
METRICS = (
    ("masked_lm_loss", True, 0.02),
    ("masked_lm_accuracy", False, 0.01),
    ("disc_loss", True, 0.02),
    ("disc_auc", False, 0.01),
)


def define_flags(values):
    flags.DEFINE_string("data", None, "Folder of records and curve.json.", flag_values=values)
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder of run folders.", flag_values=values)
    flags.mark_flags_as_required(["data", "vocab_file", "output_dir"], flag_values=values)
    flags.DEFINE_multi_enum(
        "variants", list(VARIANTS), list(VARIANTS), "What to train; repeatable.", flag_values=values
    )
    flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of each variant.", flag_values=values)
    flags.DEFINE_integer(
        "num_processes", os.cpu_count() or 1, "Trainings at a time.", flag_values=values
    )


def train(values, variant, seed):
    """Trains one run, unless it is finished; returns its lines of metrics.jsonl."""
    folder = pathlib.Path(values.output_dir) / f"{variant}-{seed}"
    num_train_steps = load_pretraining_config(str(CONFIG)).num_train_steps
    lines = read_metrics(folder)
    if not lines or lines[-1]["step"] < num_train_steps or lines[-1]["split"] != "eval":
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a") as log:
            subprocess.run(
                [
                    sys.executable, ROOT / "pretrain.py", f"--config={CONFIG}",
                    f"--train_data={values.data}/train.tfrecord*",
                    f"--eval_data={values.data}/eval.tfrecord*",
                    f"--vocab_file={values.vocab_file}", f"--output_dir={folder}",
                    f"--override=seed={seed}",
                    *(f"--override={key}={value}" for key, value in VARIANTS[variant].items()),
                ],
                check=True, stderr=log, stdout=log,
                env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
            )  # fmt: skip
        lines = read_metrics(folder)
    return lines


def read_metrics(folder):
    """The lines of a run folder's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_reached(name, value, original):
    """Whether a mean over seeds is as good as the original's figure, within the tolerance."""
    _, less_is_better, tolerance = next(metric for metric in METRICS if metric[0] == name)
    if less_is_better:
        return value <= original * (1 + tolerance)
    return value >= original - tolerance


def print_table(runs, original):
    """A row for the original and one for each variant: mean and standard deviation over seeds."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Held-out metrics after {original['global_step']:.0f} steps")
    table.add_column("")
    for name, _, _ in METRICS:
        table.add_column(name, justify="right")
    table.add_row("original", *(f"{original[name]:.4f}" for name, _, _ in METRICS))
    verdicts = []
    for variant, seeds in runs.items():
        cells = []
        for name, _, _ in METRICS:
            values = np.array([lines[-1][name] for lines in seeds])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
            if variant == "google2020":  # The others measure other things by these names.
                verdicts.append((name, is_reached(name, values.mean(), original[name])))
        table.add_row(f"{variant}, {len(seeds)} seeds", *cells)
    console = Console(width=110)
    console.print(table)
    for name, reached in verdicts:
        console.print(f"google2020, {name}: {'reached' if reached else 'NOT reached'}")


def draw(runs, curve, path):
    """The training losses: the original's line, and each variant's mean and range over seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        title="Training loss on the same records",
        xlabel="step",
        ylabel="mean of the last 100 steps",
    )
    for (variant, seeds), colour in zip(runs.items(), ("tab:blue", "tab:orange", "tab:green")):
        lines = [[line for line in run if line["split"] == "train"] for run in seeds]
        steps = [line["step"] for line in lines[0]]
        losses = np.array([[line["loss"] for line in run] for run in lines])
        axes.plot(steps, losses.mean(0), color=colour, label=f"electra_tf, {variant}")
        axes.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.3)
    steps, losses = zip(*curve["training_loss_mean_of_last_100"])
    axes.plot(steps, losses, "k--", label="original, TF 1.15")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _run(values):
    with open(os.path.join(values.data, "curve.json")) as f:
        curve = json.load(f)["runs"][0]
    with concurrent.futures.ThreadPoolExecutor(values.num_processes) as pool:
        futures = {
            variant: [pool.submit(train, values, variant, seed) for seed in values.seeds]
            for variant in values.variants
        }
        runs = {variant: [f.result() for f in started] for variant, started in futures.items()}
    print_table(runs, curve["eval"])
    path = os.path.join(values.output_dir, "parity.png")
    draw(runs, curve, path)
    print(f"wrote {path}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
