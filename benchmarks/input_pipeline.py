"""Speed of the reader of records alone, beside what a training step consumes.

  python benchmarks/input_pipeline.py --dtype=bfloat16

The reader gives shuffled batches as pretrain.py gets them; the step, ELECTRA-Small's, is that of
benchmarks/peers/ours.py, in a process of its own. The two take turns; printed are medians of the
turns. The goal: the reader is at least 20 times as fast.
"""

import collections
import dataclasses
import itertools
import os
import statistics
import sys
import time

import pretrain_throughput
from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config

GOAL = 20.0


def define_flags(values):
    pretrain_throughput.define_data_flags(values, "runs/input_pipeline")
    flags.DEFINE_string("config", "small", "Preset or YAML file.", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "float32", pretrain_throughput.DTYPES, "Of the activations.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 16, "Examples.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rounds", 5, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 3, "Training steps of a turn.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "num_batches", 1000, "Batches read in a turn.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


class Reader:
    """Reads batches and throws them away.

    Attributes:
      times: list of `(wall seconds, CPU seconds)` of the turns so far.
    """

    def __init__(self, batches, num_batches):
        """Starts to read.

        Args:
          batches: iterator.
          num_batches: how many to read in a turn.
        """
        self._batches, self._num_batches = batches, num_batches
        self._read()  # The first turn would measure the start.
        self.times = []

    def __call__(self):
        wall, cpu = time.perf_counter(), time.process_time()
        self._read()
        self.times.append((time.perf_counter() - wall, time.process_time() - cpu))

    def _read(self):
        collections.deque(itertools.islice(self._batches, self._num_batches), maxlen=0)


def measure(values, task):
    """The figures of reader and training, and the first's over the second's, a dict."""
    config = task["config"]
    batches = pretrain_throughput.open_records(
        task["records"], values.batch_size, config["max_seq_length"]
    ).training(config["seed"], 0, (values.rounds + 1) * values.num_batches)
    reader = Reader(iter(batches), values.num_batches)
    log = os.path.join(values.output_dir, "training.log")
    training = pretrain_throughput.measure_ours(values, task, log, before_round=reader)
    wall, cpu = (statistics.median(column) for column in zip(*reader.times))
    num_examples = values.num_batches * values.batch_size
    rows = {
        "reader": {
            "examples_per_second": num_examples / wall,
            "examples_per_cpu_second": num_examples / cpu,
        },
        "training": {
            "examples_per_second": training["examples_per_second"],
            "examples_per_cpu_second": values.batch_size / training["cpu_seconds_per_step"],
        },
    }
    ratios = {key: rows["reader"][key] / rows["training"][key] for key in rows["reader"]}
    return {
        "config": values.config,
        "dtype": values.dtype,
        "batch_size": values.batch_size,
        "max_seq_length": config["max_seq_length"],
        **rows,
        "ratio": ratios["examples_per_second"],
        "cpu_ratio": ratios["examples_per_cpu_second"],
    }


def print_table(figures):
    """Both rows, and the ratio."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{figures['config']}, {figures['dtype']}, batches of {figures['batch_size']} x "
        f"{figures['max_seq_length']}"
    )
    table.add_column("")
    for column in ("examples/s", "examples a CPU second"):
        table.add_column(column, justify="right")
    for name in ("reader", "training"):
        table.add_row(name, *(f"{value:,.1f}" for value in figures[name].values()))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"the reader is {figures['ratio']:,.0f} times as fast ({figures['cpu_ratio']:,.0f} by CPU "
        f"time); the goal is {GOAL:.0f}"
    )


def _run(values):
    os.makedirs(values.output_dir, exist_ok=True)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    config = load_pretraining_config(values.config, {"eval_steps": 0})
    tokenizer, folder = pretrain_throughput.build_records(values, config)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    task = pretrain_throughput.make_task(
        config, tokenizer, folder, None, values.batch_size, values.dtype
    )
    figures = measure(values, task)
    print_table(figures)
    if values.json:
        from electra_tf import files

        files.write_json(values.json, figures)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
