"""Other generators, discriminators and schedules beside ELECTRA's own, at equal training FLOPs.

  python benchmarks/variants.py --corpus='TEXTS/*.txt.gz' --data=SHARED_DATA \\
      --output_dir=runs/variants --results=docs/results/variants.json

Each variant of benchmarks/variants.yaml trains as many steps as cost what the configuration's own
`num_train_steps` cost (--num_train_steps for others), its schedule stretched to them; FLOPs are those of
matrix products, as `metrics.jsonl` counts them. Its discriminator is then fine-tuned on each task
with several seeds. Started again, it goes on where it stopped. Prints a table of held-out
metrics and dev scores.
"""

import json
import pathlib
import sys

from absl import flags
from continued_pretraining import run
from finetuning_parity import define_xla_flag, prepare, train_ours

from electra_tf import commands
from electra_tf.configs import load_pretraining_config
from electra_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / "benchmarks" / "variants.yaml"
METRICS = ("masked_lm_loss", "masked_lm_accuracy", "replaced_rate", "disc_loss", "disc_auc")
EQUAL_SIZE = {"generator_hidden_size": 1.0}
UNSCALED = {"temperature": 1.0}  # Where there are no logits to divide, or the samples are judged.

# What differs from the configuration.
VARIANTS = {
    "ELECTRA": {},
    "convolutional-recurrent discriminator": {"discriminator": "convolutional_recurrent"},
    "causal generator": {"generator": "causal"},
    "unigram generator": {"generator": "unigram", **UNSCALED},
    "uniform generator": {"generator": "uniform", **UNSCALED},
    "alternating": {"schedule": "alternating"},
    "two-stage": {"schedule": "two_stage", "untied_generator_embeddings": True, **EQUAL_SIZE},
    "adversarial": {"schedule": "adversarial", **UNSCALED},
    "generator of equal size": EQUAL_SIZE,
    "equal size and same init": {"init": "same", **EQUAL_SIZE},
}
FINETUNING = {
    "num_train_epochs": 2,
    "train_batch_size": 32,
    "max_seq_length": 64,
    "learning_rate": 5e-4,
}


def define_flags(values):
    flags.DEFINE_string("corpus", None, "Text to pre-train on.", flag_values=values)
    flags.DEFINE_string("data", None, "Folder with glue/ and so on.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder of runs.", flag_values=values)
    flags.mark_flags_as_required(["corpus", "data", "output_dir"], flag_values=values)
    flags.DEFINE_list("variants", list(VARIANTS), "Which ones, by name.", flag_values=values)
    flags.DEFINE_list("tasks", ["cola", "sst2", "chunk"], "To fine-tune on.", flag_values=values)
    flags.DEFINE_integer("num_trials", 3, "Seeds of each, from 1 on.", flag_values=values)
    flags.DEFINE_integer(
        "num_train_steps", None, "Steps of ELECTRA's own (default: the file's).", flag_values=values
    )
    flags.DEFINE_string("results", None, "JSON file of all figures.", flag_values=values)
    define_xla_flag(values)


def configure(overrides, num_train_steps):
    """The configuration of a variant that trains for what ELECTRA's own steps cost.

    Args:
      overrides: dict of keys, see `VARIANTS`.
      num_train_steps: of ELECTRA's own.

    Returns:
      dict of overrides of the file.
    """
    from electra_tf.training.flops import steps_flops

    own = load_pretraining_config(str(CONFIG))
    share = own.num_warmup_steps / own.num_train_steps

    def complete(steps):
        values = {**overrides, "num_train_steps": steps, "num_warmup_steps": int(share * steps)}
        if overrides.get("schedule") == "two_stage":
            values["generator_steps"] = steps // 2
        return values

    many = 10_000  # Steps whose cost tells that of one on the average.
    config = load_pretraining_config(str(CONFIG), complete(many))
    budget = steps_flops(own, num_train_steps)
    return complete(round(budget / (steps_flops(config, many) / many)))


def build_data(values, folder):
    """Vocabulary and records, once for all variants."""
    config = load_pretraining_config(str(CONFIG))
    vocab_file, records = folder / "vocab.txt", folder / "records"
    if not vocab_file.exists():
        run(
            folder / "data.log",
            *(ROOT / "data" / "build_vocab.py", f"--input={values.corpus}"),
            *(f"--vocab_size={config.vocab_size}", f"--output={vocab_file}"),
        )
    if not (records / "dataset.json").exists():
        run(
            folder / "data.log",
            *(ROOT / "data" / "build_pretraining_data.py", f"--input={values.corpus}"),
            *(f"--vocab_file={vocab_file}", f"--output_dir={records}", "--eval_fraction=0.02"),
            *(f"--max_seq_length={config.max_seq_length}", "--num_workers=1"),
        )
    return vocab_file, records


def pretrain(folder, overrides, vocab_file, records):
    """Trains a variant; returns its last line of evaluation and its FLOPs."""
    run(
        f"{folder}.log",
        *(ROOT / "pretrain.py", f"--config={CONFIG}", f"--train_data={records}"),
        *(f"--eval_data={records / 'eval'}", f"--vocab_file={vocab_file}"),
        f"--output_dir={folder}",
        *(f"--override={key}={value}" for key, value in overrides.items()),
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluation = [line for line in lines if line["split"] == "eval"][-1]
    training = [line for line in lines if line["split"] == "train"][-1]
    return {metric: evaluation[metric] for metric in METRICS}, training["flops"]


def measure(values, name, folder, vocab_file, records):
    """Pre-trains a variant and fine-tunes it on every task: a row of the table, a dict."""
    num_train_steps = values.num_train_steps
    if num_train_steps is None:
        num_train_steps = load_pretraining_config(str(CONFIG)).num_train_steps
    overrides = configure(VARIANTS[name], num_train_steps)
    target = folder / name.replace(" ", "_")
    held_out, flops = pretrain(target, overrides, vocab_file, records)
    row = {"overrides": overrides, "flops": flops, "held_out": held_out, "tasks": {}}
    for task in values.tasks:
        results = train_ours(
            values, task, target, folder / "tasks" / target.name / task, FINETUNING
        )
        row["tasks"][task] = {
            "metric": results["metric"],
            "mean": results["mean"][results["metric"]],
            "standard_deviation": results["standard_deviation"][results["metric"]],
            "trials": [trial["metrics"][results["metric"]] for trial in results["trials"]],
        }
    return row


def print_table(rows):
    """A line a variant."""
    from rich.console import Console
    from rich.table import Table

    tasks = next(iter(rows.values()))["tasks"]
    table = Table(title="At equal training FLOPs: held-out metrics, dev scores (mean ± deviation)")
    table.add_column("variant")
    names = [f"{name} {task['metric']}" for name, task in tasks.items()]
    for column in ("steps", "PFLOP", *METRICS, *names):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        held_out = ["-" if (x := row["held_out"][m]) is None else f"{x:.4f}" for m in METRICS]
        scores = [
            f"{task['mean']:.4f} ± {task['standard_deviation'] or 0.0:.4f}"
            for task in row["tasks"].values()
        ]
        steps = row["overrides"]["num_train_steps"]
        table.add_row(name, f"{steps:,}", f"{row['flops'] / 1e15:.3f}", *held_out, *scores)
    Console(width=180).print(table)


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    unknown = set(values.variants) - set(VARIANTS)
    if unknown:
        raise UserError(f"--variants={','.join(sorted(unknown))}: choose of {', '.join(VARIANTS)}")
    prepare(values)
    folder = pathlib.Path(values.output_dir)
    vocab_file, records = build_data(values, folder)
    rows = {}
    for name in values.variants:
        rows[name] = measure(values, name, folder, vocab_file, records)
        print_table(rows)
        if values.results:
            command = (
                "python benchmarks/variants.py --corpus=CORPUS --data=DATA --output_dir=RUNS "
                f"--tasks={','.join(values.tasks)} --num_trials={values.num_trials}"
            )
            if values.num_train_steps:
                command += f" --num_train_steps={values.num_train_steps}"
            # Another process may measure other --variants meanwhile.
            results = pathlib.Path(values.results)
            before = json.loads(results.read_text())["rows"] if results.exists() else {}
            files.write_json(values.results, {"command": command, "rows": {**before, **rows}})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
