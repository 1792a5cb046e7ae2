"""What continued pre-training on a new kind of text gives, with and without new pieces.

  python benchmarks/continued_pretraining.py --general='TEXTS/[!p]*.txt.gz' --special=TEXTS/peps.txt.gz \\
      --output_dir=runs/continued --results=docs/results/continued_pretraining.json

An encoder is trained on --general (benchmarks/continued_pretraining.yaml), then continued on --special
in three ways: with a schedule of its own that warms up again, with the first one's continued, and with
a vocabulary that `electra_tf.extend_vocab` extended. Held out are a tenth of --special's documents, the
same ones each time. Started again, it goes on where it stopped. Prints a table of the held-out
metrics before and after; draws the losses over steps to OUTPUT_DIR/continued_pretraining.png.

A loss a piece is no measure across vocabularies, since longer pieces are fewer and harder to guess: the
table has it a word, too, which is the loss a piece times the pieces of a word.
"""

import json
import pathlib
import subprocess
import sys

from absl import flags

from electra_tf import commands

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / "benchmarks" / "continued_pretraining.yaml"
METRICS = ("masked_lm_loss", "masked_lm_accuracy", "disc_loss", "disc_auc")


def define_flags(values):
    flags.DEFINE_string("general", None, "Text to train on first.", flag_values=values)
    flags.DEFINE_string("special", None, "Text to continue on.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder of runs.", flag_values=values)
    flags.mark_flags_as_required(["general", "special", "output_dir"], flag_values=values)
    flags.DEFINE_integer("num_steps", 600, "Steps of continuing.", flag_values=values)
    flags.DEFINE_integer("num_warmup_steps", 60, "Of a new schedule.", flag_values=values)
    flags.DEFINE_float("learning_rate", 5e-4, "Of a new schedule.", flag_values=values)
    flags.DEFINE_integer("num_pieces", 1000, "Pieces to add.", flag_values=values)
    flags.DEFINE_string("results", None, "JSON file of all figures.", flag_values=values)


def run(log, *command):
    """Runs a command of the project, its output to a file."""
    with open(log, "a") as f:
        subprocess.run([sys.executable, *map(str, command)], check=True, stdout=f, stderr=f)


def pretrain(folder, corpus, overrides, *options):
    """Trains a run; returns its lines of evaluation by step, and its words and pieces."""
    run(
        f"{folder}.log",
        ROOT / "pretrain.py",
        f"--config={CONFIG}",
        f"--corpus={corpus}",
        f"--output_dir={folder}",
        "--num_workers=1",
        *(f"--override={key}={value}" for key, value in overrides.items()),
        *options,
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["split"] == "eval"}


def num_tokens(folder):
    """Pieces of a run's held-out documents."""
    path = folder / "data" / "eval" / "dataset.json"
    return json.loads(path.read_text())["num_tokens"]


def num_words(folder, vocab_file):
    """Words of a run's held-out documents: what no other vocabulary changes."""
    from electra_tf import records
    from electra_tf.tokenization import Tokenizer

    tokenizer = Tokenizer.from_vocab(str(vocab_file))
    shards = records.read_shards(records.find_shards(str(folder / "data" / "eval")))
    batches = records.RecordBatches(shards, 1, 64)
    counts = batches.token_counts(tokenizer.vocab_size, batches.num_examples)
    counts[list(tokenizer.special_ids)] = 0
    return int(counts[~tokenizer.continues_word.numpy()].sum())


def continue_in_three_ways(values, folder):
    """Rows of the table, dicts of `name`, `step`, `evaluations` and `pieces_per_word`."""
    first = folder / "general"
    pretrain(first, values.general, {})
    last = max(
        json.loads(line)["step"] for line in (first / "metrics.jsonl").read_text().splitlines()
    )
    extended = folder / "extended"
    if not extended.exists():
        run(
            folder / "extended.log",
            *("-m", "electra_tf.extend_vocab", f"--input={first}", f"--corpus={values.special}"),
            *(f"--num_pieces={values.num_pieces}", f"--output={extended}"),
        )
    new_schedule = {
        "num_train_steps": values.num_steps,
        "num_warmup_steps": values.num_warmup_steps,
        "learning_rate": values.learning_rate,
        "eval_steps": max(1, values.num_steps // 4),
    }
    old_schedule = {
        "num_train_steps": last + values.num_steps,
        "eval_steps": new_schedule["eval_steps"],
    }
    rows, words = [], None
    for name, source, schedule, more in (
        ("new schedule", first, new_schedule, []),
        ("schedule continued", first, old_schedule, ["--continue_schedule"]),
        (f"{values.num_pieces} new pieces, new schedule", extended, new_schedule, []),
    ):
        target = folder / name.replace(" ", "_").replace(",", "")
        vocab_file = source / "discriminator" / "vocab.txt"
        evaluations = pretrain(
            target,
            values.special,
            schedule,
            f"--init_from={source}",
            f"--vocab_file={vocab_file}",
            "--eval_fraction=0.1",
            *more,
        )
        words = words or num_words(target, vocab_file)
        steps = {step - min(evaluations): line for step, line in evaluations.items()}
        rows.append(
            {
                "name": name,
                "pieces_per_word": round(num_tokens(target) / words, 4),
                "evaluations": {
                    step: {metric: line[metric] for metric in METRICS}
                    for step, line in steps.items()
                },
            }
        )
    return rows


def print_table(rows):
    """Two lines a way, before and after."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Held-out metrics on the new kind of text")
    table.add_column("continued with")
    for column in ("steps", "pieces a word", *METRICS, "masked_lm_loss a word"):
        table.add_column(column, justify="right")
    for row in rows:
        for step in (min(row["evaluations"]), max(row["evaluations"])):
            metrics = row["evaluations"][step]
            table.add_row(
                row["name"],
                f"{step:,}",
                f"{row['pieces_per_word']:.3f}",
                *(f"{metrics[metric]:.4f}" for metric in METRICS),
                f"{metrics['masked_lm_loss'] * row['pieces_per_word']:.4f}",
            )
    Console(width=140).print(table)


def draw(rows, path):
    """Both losses over the steps of continuing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in rows:
        steps = sorted(row["evaluations"])
        lines = [row["evaluations"][step] for step in steps]
        losses = [line["masked_lm_loss"] * row["pieces_per_word"] for line in lines]
        left.plot(steps, losses, "o-", label=row["name"])
        right.plot(steps, [line["disc_loss"] for line in lines], "o-")
    left.set(xlabel="steps of continuing", ylabel="held-out masked_lm_loss a word")
    right.set(xlabel="steps of continuing", ylabel="held-out disc_loss")
    left.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    folder = pathlib.Path(values.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = continue_in_three_ways(values, folder)
    print_table(rows)
    draw(rows, str(folder / "continued_pretraining.png"))
    if values.results:
        command = (
            "python benchmarks/continued_pretraining.py --general=GENERAL --special=SPECIAL "
            f"--output_dir=RUNS --num_steps={values.num_steps} "
            f"--num_warmup_steps={values.num_warmup_steps} "
            f"--learning_rate={values.learning_rate} --num_pieces={values.num_pieces}"
        )
        files.write_json(values.results, {"command": command, "rows": rows})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
