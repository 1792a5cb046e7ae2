"""Speed of pre-training beside others' on this machine's CPU: ELECTRA-Small, 128 tokens.

  bash benchmarks/make_envs.sh
  python benchmarks/pretrain_throughput.py --quick

Everyone trains the same sizes on the same examples: dynamic masking, both losses with the vocabulary
at the masked positions only, dropout 0.1, erf-gelu, clipping and Adam with decay, each with its own
framework's operations and optimizer (benchmarks/peers/). Each contestant is a process of its own
that stays alive; those of one dtype and batch size take turns of --steps steps, so that what else
the machine does meets all of them, and only one computes at a time. Reported are medians of the
turns. On a busy machine look at the CPU seconds.

At most --max_alive processes live at a time, ours always among them: at batch 64 in float32 each
holds 5 to 6 GB. MFU is against the best product of two 2048 x 2048 matrices between the turns.
OMP_WAIT_POLICY=passive is set unless it is in the environment: PyTorch's threads would go on
spinning after their turn, and on a machine that is not theirs alone take several times as long.

Writes OUTPUT_DIR/throughput.png, and with --json all figures.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import NamedTuple

from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config
from electra_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
DTYPES = ("float32", "bfloat16")
OURS = "electra_tf"
NUM_EXAMPLES = 4096  # That the others go round in: more than they see in most measurements.
VOCAB_SIZE = 30522  # Of a vocabulary that is made of the text.
START = (1, 2)  # Steps of the turns before those that are measured: tracing; warming up.


class Contestant(NamedTuple):
    """A way to pre-train.

    Attributes:
      script: in benchmarks/peers.
      environment: folder of --envs that it runs in, None for this one.
      dtypes: in which it works.
    """

    script: str
    environment: str | None
    dtypes: tuple[str, ...] = DTYPES


CONTESTANTS = {
    OURS: Contestant("ours.py", None),
    "transformers TF": Contestant("transformers_tf.py", "transformers-tf"),
    "transformers PyTorch": Contestant("transformers_torch.py", "transformers-torch"),
    # In bfloat16 its sampling adds float32 noise to bfloat16 logits, which is an error.
    "tf-models-official": Contestant("model_garden.py", "tf-models-official", ("float32",)),
}


def define_data_flags(values, output_dir, text="data"):
    """Flags of the benchmarks that start from a text; `text` is the name of the one that gives it."""
    flags.DEFINE_string(
        text,
        None,
        "Path, folder or glob of text; left out, the English prose of the Python installation.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "vocab_file",
        None,
        f"WordPiece vocabulary; left out, one of {VOCAB_SIZE:,} pieces is made of the text.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output_dir", output_dir, "Folder of records, logs and plots.", flag_values=values
    )


def define_flags(values):
    define_data_flags(values, "runs/pretrain_throughput")
    flags.DEFINE_string(
        "envs", str(ROOT / ".bench-envs"), "What make_envs.sh made.", flag_values=values
    )
    flags.DEFINE_list("batch_sizes", ["16", "64"], "Examples of a step.", flag_values=values)
    flags.DEFINE_multi_enum(
        "dtypes", list(DTYPES), DTYPES, "Of the activations; repeatable.", flag_values=values
    )
    flags.DEFINE_list("contestants", list(CONTESTANTS), "Who takes part.", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 5, "Steps of a turn.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "max_alive", 3, "Processes that live at a time.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_bool(
        "quick", False, "Batch 16 and 3 rounds only: less than ten minutes.", flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


# What everyone trains on.


def parse_batch_sizes(texts):
    """The values of --batch_sizes, list of int."""
    for text in texts:
        if not text.isdigit() or not 0 < int(text) <= NUM_EXAMPLES:
            raise UserError(f"--batch_sizes={text}: no number from 1 to {NUM_EXAMPLES}")
    return [int(text) for text in texts]


def find_text(text, output_dir):
    """`text`, or where it is None the demo corpus, which is written below `output_dir` once."""
    if text:
        return text
    from electra_tf import demo_corpus

    folder = os.path.join(output_dir, "text")
    if not os.path.exists(folder):
        demo_corpus.write(folder)
    return folder


def build_records(values, config, folder="data", vocab_file=None):
    """Builds records of the text, unless they are there.

    Args:
      values: the parsed flags of `define_data_flags`.
      config: `configs.PretrainingConfig`.
      folder: of the records, below --output_dir.
      vocab_file: where there is no --vocab_file; None to make one of the text.

    Returns:
      `(Tokenizer, records folder)`.
    """
    from electra_tf.commands.pretrain import build_data

    tokenizer, train_data, _ = build_data(
        config,
        find_text(values.data, values.output_dir),
        os.path.join(values.output_dir, folder),
        values.vocab_file or vocab_file,
        num_workers=os.cpu_count() or 1,
    )
    return tokenizer, os.path.abspath(train_data)


def open_records(folder, batch_size, max_seq_length):
    """The `records.RecordBatches` of a folder."""
    from electra_tf import records

    shards = records.read_shards(records.find_shards(folder))
    return records.RecordBatches(shards, batch_size, max_seq_length)


def build_batches(values, config):
    """Builds records of the text, unless they are there, and the .npz of their first examples.

    Both hold the examples in one order: that in which our training reads the records.

    Returns:
      `(Tokenizer, records folder, .npz path)`.
    """
    import numpy as np

    tokenizer, train_data = build_records(values, config)
    batches = open_records(train_data, NUM_EXAMPLES, config.max_seq_length)
    examples = next(iter(batches.training(config.seed, 0, 1).as_numpy_iterator()))
    path = os.path.join(values.output_dir, "batches.npz")
    np.savez(path, **examples)
    return tokenizer, train_data, os.path.abspath(path)


def make_task(config, tokenizer, records_folder, batches, batch_size, dtype):
    """What a contestant is told, see benchmarks/peers/protocol.py."""
    config = dataclasses.replace(config, train_batch_size=batch_size, mixed_precision=dtype)
    return {
        "batch_size": batch_size,
        "dtype": dtype,
        "config": dataclasses.asdict(config),
        "discriminator": dataclasses.asdict(config.discriminator_config()),
        "generator": dataclasses.asdict(config.generator_config()),
        "max_predictions": config.max_predictions_per_seq,
        "mask_id": tokenizer.mask_id,
        "special_ids": list(tokenizer.special_ids),
        "records": records_folder,
        "batches": batches,
    }


# The contestants' processes.


def find_python(name, envs):
    """The interpreter of a contestant.

    Raises:
      UserError: its environment is not there.
    """
    environment = CONTESTANTS[name].environment
    is_here = environment == "tf-models-official" and importlib.util.find_spec("official")
    if environment is None or is_here:
        return sys.executable
    folder = pathlib.Path(envs) / environment
    if not (folder / "installed").exists():
        raise UserError(f"{name}: no environment {folder}; run bash benchmarks/make_envs.sh")
    return str(folder / "bin" / "python")


class Worker:
    """A contestant's process, waiting for its turns.

    Attributes:
      name: of a contestant.
      answers: of its turns, see benchmarks/peers/protocol.py; none are added after a failure, which
        is told on stderr.
    """

    def __init__(self, name, script, python, task, log):
        """Starts it and waits until its model is made.

        Args:
          name: for messages.
          script: in benchmarks/peers.
          python: interpreter.
          task: what to train.
          log: path of what it prints.
        """
        self.name, self.answers, self._log = name, [], log
        with open(log, "w") as stderr:
            self._process = subprocess.Popen(
                [python, ROOT / "benchmarks" / "peers" / script],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={"OMP_WAIT_POLICY": "passive", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            )  # fmt: skip
        self._is_alive = True
        self._ask(task)

    def run(self, **turn):
        """Lets it have a turn, as benchmarks/peers/protocol.py says."""
        if self._is_alive:
            self.answers += self._ask(turn)

    def _ask(self, message):
        """The answer in a list, which is empty when the process has ended."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if answer:
            return [json.loads(answer)]
        self._is_alive = False
        print(f"left out: {self.name}, it ended; see {self._log}", file=sys.stderr)
        return []

    def close(self):
        """Ends the process, which stops at the end of its input."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


# Measuring.


def groups(names, max_alive):
    """Lists of at most `max_alive` names that are alive together; ours is in each."""
    ours = [name for name in names if name == OURS]
    others = [name for name in names if name != OURS]
    size = max_alive - len(ours)
    return [ours + others[i : i + size] for i in range(0, len(others), size)] or [ours]


def start(name, script, python, task, log):
    """A `Worker` that has made its first steps; takes what the class takes."""
    worker = Worker(name, script, python, task, log)
    for steps in START:
        worker.run(steps=steps)
    return worker


def run_group(names, values, task, before_round):
    """Lets contestants that are alive together take turns.

    Returns:
      list of `Worker`, closed.
    """
    workers = []
    for name in names:
        log = f"{name.replace(' ', '-')}-{task['dtype']}-{task['batch_size']}.log"
        log = os.path.join(values.output_dir, log)
        script, python = CONTESTANTS[name].script, find_python(name, values.envs)
        workers.append(start(name, script, python, task, log))
    take_turns(workers, values, before_round)
    return workers


def take_turns(workers, values, before_round=lambda: None):
    """Lets workers train --rounds times --steps steps, and closes them."""
    for _ in range(values.rounds):
        before_round()
        for worker in workers:
            worker.run(steps=values.steps)
    for worker in workers:
        worker.close()


def measure_ours(values, task, log, before_round=lambda: None):
    """The row of `make_row` of electra_tf alone; `before_round` is called before each turn.

    Raises:
      UserError: its process ended, for want of memory perhaps.
    """
    worker = start(OURS, CONTESTANTS[OURS].script, sys.executable, task, log)
    take_turns([worker], values, before_round)
    if len(worker.answers) < len(START) + values.rounds:
        raise UserError(f"{log}: the process that trains ended, see there; try smaller sizes")
    return make_row(OURS, task, [worker.answers])


def measure(values, task, peaks):
    """Measures everyone on one task.

    Args:
      values: the parsed flags.
      task: see benchmarks/peers/protocol.py.
      peaks: dict from dtype to operations a second, whose entry takes the best product of all.

    Returns:
      list of dicts, a row for each that did not fail; without `mfu`.
    """
    from electra_tf.training import flops

    dtype = task["dtype"]

    def update_peak():
        peaks[dtype] = max(peaks.get(dtype, 0.0), flops.measure_peak_flops(dtype))

    workers = []
    names = [name for name in values.contestants if dtype in CONTESTANTS[name].dtypes]
    for group in groups(names, values.max_alive):
        workers += run_group(group, values, task, update_peak)
    rows = []
    for name in names:
        runs = [worker.answers for worker in workers if worker.name == name]
        if len(runs[0]) > len(START):
            rows.append(make_row(name, task, runs))
    return rows


def make_row(name, task, runs):
    """The figures of one contestant from the answers of its processes."""
    turns = [answer for run in runs for answer in run[len(START) :]]

    def median(key):
        return statistics.median(turn[key] for turn in turns)

    return {
        "name": name,
        "dtype": task["dtype"],
        "batch_size": task["batch_size"],
        "examples_per_second": task["batch_size"] / median("seconds_per_step"),
        "cpu_seconds_per_step": median("cpu_seconds_per_step"),
        "peak_rss_mb": max(turn["peak_rss_mb"] for turn in turns),
        "first_step_seconds": runs[0][0]["seconds_per_step"],
        "loss": turns[-1]["loss"],
    }


def ratios(rows):
    """Our speed over the fastest other's of the same dtype and batch size, list of dicts."""
    result = []
    for ours in (row for row in rows if row["name"] == OURS):
        key = ours["dtype"], ours["batch_size"]
        peers = [row for row in rows if (row["dtype"], row["batch_size"]) == key and row != ours]
        if not peers:
            continue
        fastest = max(peers, key=lambda row: row["examples_per_second"])
        result.append(
            {
                "dtype": ours["dtype"],
                "batch_size": ours["batch_size"],
                "fastest_peer": fastest["name"],
                "ratio": ours["examples_per_second"] / fastest["examples_per_second"],
                "cpu_ratio": min(row["cpu_seconds_per_step"] for row in peers)
                / ours["cpu_seconds_per_step"],
            }
        )
    return result


# Reporting.


def print_table(rows, peaks):
    """All rows, the ratios below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ELECTRA-Small, 128 tokens, a whole training step")
    for column in ("", "dtype"):
        table.add_column(column)
    for column in ("batch", "examples/s", "CPU s a step", "peak RSS MB", "MFU", "first step s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            row["dtype"],
            str(row["batch_size"]),
            f"{row['examples_per_second']:.1f}",
            f"{row['cpu_seconds_per_step']:.2f}",
            f"{row['peak_rss_mb']:.0f}",
            f"{100 * row['mfu']:.0f} %",
            f"{row['first_step_seconds']:.1f}",
        )
    console = Console(width=110)
    console.print(table)
    for dtype, peak in peaks.items():
        console.print(f"MFU 100 % in {dtype}: {peak / 1e9:.0f} GFLOP/s (a product of 2048 x 2048)")
    for line in ratios(rows):
        console.print(
            f"{line['dtype']}, batch {line['batch_size']}: {line['ratio']:.2f} times the speed of "
            f"the fastest other, {line['fastest_peer']}; {line['cpu_ratio']:.2f} by the least CPU time"
        )


def draw(rows, path):
    """Examples a second as bars: a panel for each dtype, a group for each batch size."""
    from matplotlib.figure import Figure

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    batch_sizes = sorted({row["batch_size"] for row in rows})
    names = [name for name in CONTESTANTS if any(row["name"] == name for row in rows)]
    figure = Figure(figsize=(4.5 * len(dtypes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    width = 0.8 / len(names)
    for panel, dtype in zip(panels, dtypes):
        for i, name in enumerate(names):
            chosen = [row for row in rows if (row["name"], row["dtype"]) == (name, dtype)]
            places = [batch_sizes.index(row["batch_size"]) + i * width for row in chosen]
            speeds = [row["examples_per_second"] for row in chosen]
            bars = panel.bar(places, speeds, width, label=name, color=f"C{i}")
            panel.bar_label(bars, fmt="%.1f", fontsize=8)
        ticks = [place + width * (len(names) - 1) / 2 for place in range(len(batch_sizes))]
        panel.set(title=dtype, xlabel="batch size")
        panel.set_xticks(ticks, batch_sizes)
        panel.grid(alpha=0.3, axis="y")
    panels[0].set_ylabel("examples a second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)


def _run(values):
    batch_sizes = [16] if values.quick else parse_batch_sizes(values.batch_sizes)
    if values.quick:
        values.rounds = min(values.rounds, 3)
        values.max_alive = max(values.max_alive, 4)  # At batch 16 all of them fit.
    for name in values.contestants:
        if name not in CONTESTANTS:
            raise UserError(f"--contestants={name}: choose of {', '.join(CONTESTANTS)}")
        find_python(name, values.envs)
    os.makedirs(values.output_dir, exist_ok=True)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from electra_tf.training import flops

    config = load_pretraining_config("small", {"eval_steps": 0})
    tokenizer, *files = build_batches(values, config)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    peaks, rows = {}, []
    for batch_size in batch_sizes:
        for dtype in values.dtypes:
            task = make_task(config, tokenizer, *files, batch_size, dtype)
            rows += measure(values, task, peaks)
    for row in rows:
        work = row["examples_per_second"] * flops.pretraining_flops(config)
        row["mfu"] = work / peaks[row["dtype"]]
    print_table(rows, peaks)
    path = os.path.join(values.output_dir, "throughput.png")
    draw(rows, path)
    print(f"wrote {path}")
    if values.json:
        from electra_tf import files

        files.write_json(values.json, {"rows": rows, "ratios": ratios(rows), "peak_flops": peaks})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
