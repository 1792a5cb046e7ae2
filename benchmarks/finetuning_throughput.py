"""Speed of fine-tuning beside transformers on PyTorch on this machine's CPU.

  bash benchmarks/make_envs.sh
  python benchmarks/finetuning_throughput.py --task=sst2 --data_dir=glue/SST-2 --encoder=ENCODER
  python benchmarks/finetuning_throughput.py --task=squad1 --data_dir=qa/squad --encoder=ENCODER \\
      --max_seq_length=384 --override=head=start_end

Both train the same encoder (a folder in Hugging Face's layout) on the same examples, in turns
(benchmarks/pretrain_throughput.py has how, and what to look at on a busy machine): once with all
batches padded to --max_seq_length, so that both compute the same shapes; and once as each one trains
otherwise, ours in length buckets, theirs in random batches padded to their longest row. The gain of
that over the first is told apart.
"""

import json
import os
import sys

from absl import flags
from pretrain_throughput import ROOT, find_python, make_row, start, take_turns

from electra_tf import commands

OURS, PEER = "electra_tf", "transformers PyTorch"
SCRIPTS = {OURS: "ours_finetuning.py", PEER: "finetuning_torch_steps.py"}


def define_flags(values):
    flags.DEFINE_string("task", None, "As of finetune.py.", flag_values=values)
    flags.DEFINE_string("data_dir", None, "As of finetune.py.", flag_values=values)
    flags.DEFINE_string("encoder", None, "Folder of the encoder.", flag_values=values)
    flags.mark_flags_as_required(["task", "data_dir", "encoder"], flag_values=values)
    flags.DEFINE_multi_enum(
        "dtypes", ["bfloat16"], ["float32", "bfloat16"], "Of the activations.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 32, "Examples of a step.", flag_values=values)
    flags.DEFINE_integer("max_seq_length", 128, "Longest example.", flag_values=values)
    flags.DEFINE_multi_string(
        "override", [], "key=value of our configuration; repeatable.", flag_values=values
    )
    flags.DEFINE_integer("rounds", 5, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 5, "Steps of a turn.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "warmup_steps",
        50,
        "Steps before the turns where the length varies: each length is compiled at its first batch.",
        flag_values=values,
    )
    flags.DEFINE_string("envs", str(ROOT / ".bench-envs"), "Environments.", flag_values=values)
    flags.DEFINE_string(
        "output_dir", "runs/finetuning_throughput", "Folder of logs.", flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


def write_rows(values):
    """Writes the training examples for the peer; returns the path."""
    from finetuning_parity import rows_for_peer

    from electra_tf.commands.finetune import read_data
    from electra_tf.tasks.config import load_task_config
    from electra_tf.tasks.reading import BadRows

    data = read_data(load_task_config(values.task), values.data_dir, ("train",), BadRows(False))
    path = os.path.join(values.output_dir, "rows.json")
    with open(path, "w", encoding="utf-8") as f:
        task = data.task
        description = {
            "kind": task.config.kind,
            "num_labels": task.num_outputs,
            "doc_stride": task.config.doc_stride,
            "max_query_length": task.config.max_query_length,
            "train": rows_for_peer(task, task.training_examples(data.train)),
        }
        json.dump(description, f)
    return path


def measure(values, dtype, is_padded, rows):
    """The rows of both in one dtype, with equal shapes or not."""
    from electra_tf.configs import parse_overrides

    config = {
        "learning_rate": 1e-4,
        "layerwise_lr_decay": 0.8,
        "weight_decay_rate": 0.01,
        "warmup_proportion": 0.1,
        "clip_norm": 1.0,
        "train_batch_size": values.batch_size,
        "max_seq_length": values.max_seq_length,
        "mixed_precision": dtype,
        "num_train_epochs": 20,
        **parse_overrides(values.override),
    }
    task = {
        "task": values.task,
        "data_dir": values.data_dir,
        "encoder": values.encoder,
        "dtype": dtype,
        "batch_size": values.batch_size,
        "dynamic": not is_padded,
        "rows": rows,
        "config": config,
    }
    workers = []
    for name, script in SCRIPTS.items():
        told = task
        if name == OURS and is_padded:
            told = {**task, "config": {**config, "length_buckets": []}}
        log = os.path.join(values.output_dir, f"{name.replace(' ', '-')}-{dtype}-{is_padded}.log")
        python = sys.executable if name == OURS else find_python(name, values.envs)
        workers.append(start(name, script, python, told, log))
    if not is_padded:
        for worker in workers:
            worker.run(steps=values.warmup_steps)
            worker.answers.pop()
    take_turns(workers, values)
    return [
        {**make_row(worker.name, task, [worker.answers]), "is_padded": is_padded}
        for worker in workers
    ]


def print_table(rows):
    """All rows, and what they say."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="A step of fine-tuning")
    for column in ("", "dtype", "shapes"):
        table.add_column(column)
    for column in ("batch", "examples/s", "CPU s a step", "peak RSS MB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            row["dtype"],
            "all padded" if row["is_padded"] else "by length",
            str(row["batch_size"]),
            f"{row['examples_per_second']:.1f}",
            f"{row['cpu_seconds_per_step']:.3f}",
            f"{row['peak_rss_mb']:.0f}",
        )
    Console(width=100).print(table)
    speed = {(r["name"], r["dtype"], r["is_padded"]): r["examples_per_second"] for r in rows}
    for dtype in {row["dtype"]: None for row in rows}:
        ours, theirs = speed[OURS, dtype, True], speed[PEER, dtype, True]
        print(f"{dtype}, equal shapes: {ours / theirs:.2f} times the speed of {PEER}")
        for name in SCRIPTS:
            gain = speed[name, dtype, False] / speed[name, dtype, True]
            print(f"{dtype}, {name}: {gain:.2f} times its own speed without needless padding")


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    os.makedirs(values.output_dir, exist_ok=True)
    values.data_dir, values.encoder = map(os.path.abspath, (values.data_dir, values.encoder))
    written = os.path.abspath(write_rows(values))
    rows = [
        row
        for dtype in values.dtypes
        for is_padded in (True, False)
        for row in measure(values, dtype, is_padded, written)
    ]
    print_table(rows)
    if values.json:
        files.write_json(values.json, {"rows": rows})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
