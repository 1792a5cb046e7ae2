"""Which loss to expect when: the held-out metrics of a run as a table and a picture.

python pretrain.py --config=mini --corpus=TEXT --output_dir=runs/mini
python benchmarks/reference_curve.py --run=runs/mini --output=mini.png
"""

import json
import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError

COLUMNS = (
    "loss masked_lm_loss masked_lm_accuracy sampled_masked_lm_accuracy disc_loss disc_accuracy "
    "disc_auc replaced_rate"
).split()


def define_flags(values):
    flags.DEFINE_string("run", None, "Run folder.", flag_values=values)
    flags.DEFINE_string("output", None, "Picture to write (.png, .svg).", flag_values=values)
    flags.mark_flags_as_required(["run", "output"], flag_values=values)


def print_table(lines):
    """Prints the evaluations as Markdown."""
    print(f"| step | {' | '.join(COLUMNS)} |")
    print("|---|" + "---|" * len(COLUMNS))
    for line in lines:
        print(f"| {line['step']:,} | {' | '.join(f'{line[name]:.4f}' for name in COLUMNS)} |")


def draw(training, evaluations, path):
    """Losses and metrics over the steps; held-out figures as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, 3), ("masked_lm_loss", "disc_loss", "disc_auc"), strict=True
    ):
        for lines, style, label in (
            (training, "-", "training"),
            (evaluations, "o", "held out"),
        ):
            steps, values = [line["step"] for line in lines], [line[name] for line in lines]
            axes.plot(steps, values, style, label=label)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _run(values):
    path = os.path.join(values.run, "metrics.jsonl")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; give a run folder of pretrain.py")
    with open(path) as f:
        lines = [json.loads(line) for line in f]
    training, evaluations = (
        [line for line in lines if line["split"] == split] for split in ("train", "eval")
    )
    print_table(evaluations)
    last = training[-1]
    print(
        f"{last['flops']:.3g} FLOPs (backward = 2 x forward), {last['flops_google2020']:.3g} as the "
        f"original counts, in {last['step']:,} steps"
    )
    draw(training, evaluations, values.output)
    print(f"wrote {values.output}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
