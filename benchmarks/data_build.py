"""Speed of data/build_pretraining_data.py: from text to records, with one worker and with several.

  python benchmarks/data_build.py --corpus='texts/*.txt' --vocab_file=vocab.txt --num_workers=2

Each build is a fresh process, as a user starts it; one worker and --num_workers take turns. The wall
time is that of the process, start included, beside it the speed that the command prints itself; CPU
seconds are those of the process and of all that it starts. Printed are medians of the turns. The
goal: 9 MB of text a second with two workers.
"""

import contextlib
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

import pretrain_throughput
import psutil
from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "data" / "build_pretraining_data.py"
PRINTED = re.compile(r"([\d.]+) MB of text in [\d.]+ s, ([\d.]+) MB/s")
POLL_SECONDS = 0.02


def define_flags(values):
    pretrain_throughput.define_data_flags(values, "runs/data_build", text="corpus")
    flags.DEFINE_integer(
        "num_workers", os.cpu_count() or 1, "Processes.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer("rounds", 3, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


def cpu_seconds(process):
    """CPU seconds so far of a `psutil.Process` and of all below it, those that have ended included."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def build(corpus, vocab_file, num_workers):
    """Builds records once.

    Returns:
      dict of `wall_seconds`, `cpu_seconds`, and what the command prints: `megabytes` of text (10^6
      bytes) and `printed_megabytes_per_second`.

    Raises:
      UserError: what the command said last.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        command = [
            sys.executable, str(SCRIPT), f"--input={corpus}", f"--vocab_file={vocab_file}",
            f"--output_dir={folder}/records", f"--num_workers={num_workers}",
        ]  # fmt: skip
        start, cpu = time.perf_counter(), 0.0
        process = psutil.Popen(command, stdout=output, stderr=output)
        # The server of the workers is nobody's who would wait for it: its time is to be had only as
        # long as all live.
        while process.poll() is None:
            cpu = max(cpu, cpu_seconds(process))
            time.sleep(POLL_SECONDS)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    printed = PRINTED.search(text)
    if process.returncode or not printed:
        last_line = (text.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{SCRIPT.name}: {last_line.removeprefix('error: ')}")
    return {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "megabytes": float(printed[1]),
        "printed_megabytes_per_second": float(printed[2]),
    }


def make_row(num_workers, builds):
    """The medians of the builds with so many workers, a dict."""
    medians = {key: statistics.median(each[key] for each in builds) for key in builds[0]}
    return {
        "num_workers": num_workers,
        "rounds": len(builds),
        **medians,
        "megabytes_per_second": medians["megabytes"] / medians["wall_seconds"],
    }


def print_table(rows):
    """A line for each number of workers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{rows[0]['megabytes']:.1f} MB of text, medians of {rows[0]['rounds']}")
    for column in ("workers", "wall s", "MB/s", "MB/s as printed", "CPU s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_workers"]),
            f"{row['wall_seconds']:.1f}",
            f"{row['megabytes_per_second']:.1f}",
            f"{row['printed_megabytes_per_second']:.1f}",
            f"{row['cpu_seconds']:.1f}",
        )
    Console(width=100).print(table)


def find_vocabulary(values, corpus):
    """--vocab_file, or the path of one that is made of the corpus."""
    if values.vocab_file:
        return values.vocab_file
    from electra_tf.commands import build_vocab

    path = os.path.join(values.output_dir, "vocab.txt")
    build_vocab.build(
        corpus, pretrain_throughput.VOCAB_SIZE, path, lowercase=True, strip_accents=None
    )
    return path


def _run(values):
    os.makedirs(values.output_dir, exist_ok=True)
    corpus = pretrain_throughput.find_text(values.corpus, values.output_dir)
    vocab_file = find_vocabulary(values, corpus)
    builds = {number: [] for number in (1, values.num_workers)}
    for _ in range(values.rounds):
        for number, done in builds.items():
            done.append(build(corpus, vocab_file, number))
    rows = [make_row(number, done) for number, done in builds.items()]
    print_table(rows)
    if values.json:
        from electra_tf import files

        files.write_json(values.json, {"rows": rows})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
