"""Speed and memory of a training step over batch sizes, sequence lengths and presets, on one CPU.

  python benchmarks/scaling.py --dtype=bfloat16 --minutes=30
  python benchmarks/scaling.py --profile     # where the time of a step goes

Three sweeps around a base point (small, 16 examples, 128 positions), each over one of the three;
each point is a process of its own (benchmarks/peers/ours.py), whose peak memory is therefore its
own. The base point comes first and tells, by the operations of the others' steps, how long they will
take, about (large batches take longer to start). The others follow, the quickest first; those that
do not fit into --minutes are left out, and named. Tokens are positions, padding included.

--profile runs some steps of the base point under TensorFlow's profiler and adds up the time of
TensorFlow's operations, over all threads. A compiled island counts as one operation, under the name
of its formula.

Writes OUTPUT_DIR/scaling.png, and with --json all figures.
"""

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import NamedTuple

import pretrain_throughput
from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config
from electra_tf.errors import UserError

AXES = {"batch_size": "examples of a batch", "length": "positions", "preset": "preset"}
PANELS = {
    "examples_per_second": "examples/s",
    "tokens_per_second": "tokens/s",
    "peak_rss_mb": "peak MB",
}


def define_flags(values):
    pretrain_throughput.define_data_flags(values, "runs/scaling")
    flags.DEFINE_string("preset", "small", "Of the base point; or YAML file.", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "Of the base point.", flag_values=values)
    flags.DEFINE_integer("length", 128, "Positions of the base point.", flag_values=values)
    flags.DEFINE_list(
        "batch_sizes", ["8", "16", "32", "64", "128"], "To sweep over.", flag_values=values
    )
    flags.DEFINE_list("lengths", ["64", "128", "256", "512"], "To sweep over.", flag_values=values)
    flags.DEFINE_list(
        "presets", ["tiny", "mini", "small", "base"], "To sweep over.", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype", "float32", pretrain_throughput.DTYPES, "Of the activations.", flag_values=values
    )
    flags.DEFINE_float("minutes", 30.0, "Time for all of it.", 0.0, flag_values=values)
    flags.DEFINE_integer("rounds", 3, "Turns of a point.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 3, "Steps of a turn.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("profile", False, "Profile the base point instead.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


# What is measured.


class Point(NamedTuple):
    """Attributes: `preset` or YAML file; `batch_size`, examples; `length`, positions of an example."""

    preset: str
    batch_size: int
    length: int

    def __str__(self):
        return f"{self.preset}, {self.batch_size} examples, {self.length} positions"


def make_config(point):
    """The `PretrainingConfig` of a point.

    Raises:
      UserError: no such preset, or a number out of range.
    """
    overrides = {"train_batch_size": point.batch_size, "max_seq_length": point.length}
    return load_pretraining_config(point.preset, {**overrides, "eval_steps": 0})


def parse_points(base, axis, texts):
    """The points of one sweep: those that differ from the base point in `axis`.

    Args:
      base: `Point`.
      axis: key of `AXES`.
      texts: list of str, the values of the flag.

    Returns:
      list of `Point`.
    """
    points = []
    for text in texts:
        config = make_config(base._replace(**{axis: text}))
        preset = text if axis == "preset" else base.preset
        points.append(Point(preset, config.train_batch_size, config.max_seq_length))
    return points


def make_task(values, base, point):
    """Builds the records of a point, unless they are there, and returns what its process is told."""
    config = make_config(point)
    # The base point comes first, and its vocabulary is everyone's.
    vocab_file = os.path.join(values.output_dir, f"data-{base.length}", "vocab.txt")
    tokenizer, folder = pretrain_throughput.build_records(
        values, config, f"data-{point.length}", None if point == base else vocab_file
    )
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    return pretrain_throughput.make_task(
        config, tokenizer, folder, None, point.batch_size, values.dtype
    )


# Measuring.


def measure(values, base, point):
    """The figures of one point, a dict."""
    task = make_task(values, base, point)
    log = f"{pathlib.Path(point.preset).stem}-{values.dtype}-{point.batch_size}-{point.length}.log"
    start = time.monotonic()
    row = pretrain_throughput.measure_ours(values, task, os.path.join(values.output_dir, log))
    return {
        **point._asdict(),
        **row,
        "tokens_per_second": row["examples_per_second"] * point.length,
        "seconds": time.monotonic() - start,
    }


def expected_seconds(values, point, base_row):
    """How long the process of a point will take: the base point's start, and steps by operations."""
    from electra_tf.training import flops

    def work(point):
        return point.batch_size * flops.pretraining_flops(make_config(point))

    base = Point(*(base_row[axis] for axis in Point._fields))
    num_steps = sum(pretrain_throughput.START) + values.rounds * values.steps
    base_steps = num_steps * base.batch_size / base_row["examples_per_second"]
    start = max(0.0, base_row["seconds"] - base_steps)
    return start + base_steps * work(point) / work(base)


def measure_points(values, points, deadline):
    """Measures points, the base point and then the quickest first.

    Args:
      values: the parsed flags.
      points: list of `Point`, of which the first is the base point and measured in any case.
      deadline: by `time.monotonic`.

    Returns:
      `(rows, left_out)`, lists of dicts; the latter with a `reason`.
    """
    base, *others = points
    rows, left_out = [measure(values, base, base)], []
    cost = {point: expected_seconds(values, point, rows[0]) for point in others}
    for point in sorted(others, key=cost.get):  # So that most of them fit.
        expected, left = cost[point], deadline - time.monotonic()
        try:
            if expected > left:
                raise UserError(f"takes about {expected:.0f} s, and {max(left, 0):.0f} s are left")
            rows.append(measure(values, base, point))
        except UserError as error:
            left_out.append({**point._asdict(), "reason": str(error)})
    return rows, left_out


# Where the time of a step goes.

# What the operations in Orbit's loop over steps are called.
LOOP = "while/body/"
# An island is an asynchronous kernel, whose event has the names in its statistics.
ASYNC_KERNEL = "ExecutorState::ProcessAsync::Start"
ISLAND = re.compile(r"/island\.(\w+?)(?:_\d+)?/")
# Of names like "while/body/_1/…/encoder/MatMul_3:_MklMatMul"; the first that is found.
GROUPS = {
    "matrix products": re.compile(r":\w*MatMul\w*$"),
    "transposes": re.compile(r":\w*Transpose$"),
    "casts": re.compile(r":\w*Cast$"),
    "optimizer": re.compile(r"/(adam_weight_decay|clip_by_global_norm|global_norm)/"),
    # What ElectraPretrainer does itself, not one of its networks.
    "masking, sampling": re.compile(r"/electra_pretrainer\w*/(?!generator|discriminator)"),
}


def group_of(name):
    """The line of the table to which an operation, "path:type", belongs."""
    if island := ISLAND.search(name):
        return f"island {island[1]}"
    return next((group for group, pattern in GROUPS.items() if pattern.search(name)), "other")


def text_stats(plane, event):
    """The texts among the statistics of an event, dict by name."""
    names = plane.stat_metadata
    return {names[stat.metadata_id].name: names[stat.ref_value].name for stat in event.stats}


def op_events(space):
    """The operations of the training loop in an `XSpace`: `(name, seconds)`, none inside another."""
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name == ASYNC_KERNEL:
                    texts = text_stats(plane, event)
                    name = f"{texts['name']}:{texts['kernel_type']}"
                    # Other asynchronous kernels are loops and calls around the operations.
                    if not ISLAND.search(name):
                        continue
                if name.startswith(LOOP) and ":" in name:
                    yield name, event.duration_ps * 1e-12


def profile_steps(task, steps):
    """Trains under the profiler, in a process where TensorFlow has not started.

    Returns:
      dict from group to the seconds of its operations in a step.
    """
    import tensorflow as tf
    from peers import ours
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    run_steps = ours.build(task)
    for number in pretrain_throughput.START:
        run_steps(number)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run_steps(steps)
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    seconds = collections.Counter()
    for name, duration in op_events(space):
        seconds[group_of(name)] += duration / steps
    return dict(seconds.most_common())


def profile(values, base):
    """The table of where the time of a step goes, a list of dicts; the shares sum to 1."""
    task = make_task(values, base, base)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        seconds = pool.submit(profile_steps, task, values.steps).result()
    total = sum(seconds.values())
    return [
        {"group": group, "seconds_per_step": value, "share": value / total}
        for group, value in seconds.items()
    ]


# Reporting.


def print_table(title, columns, lines):
    """A table whose first column is text and the others numbers, lists of str."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for line in lines:
        table.add_row(*line)
    Console(width=100).print(table)


def print_points(rows, left_out, dtype):
    """All rows; below them the points that were left out, and why."""
    columns = ("preset", "batch", "length", *PANELS.values(), "CPU s a step", "first step s")
    lines = [
        (
            row["preset"],
            str(row["batch_size"]),
            str(row["length"]),
            f"{row['examples_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['peak_rss_mb']:.0f}",
            f"{row['cpu_seconds_per_step']:.2f}",
            f"{row['first_step_seconds']:.1f}",
        )
        for row in rows
    ]
    print_table(f"a training step in {dtype}", columns, lines)
    for line in left_out:
        print(f"left out: {Point(*(line[axis] for axis in Point._fields))}: {line['reason']}")


def print_profile(groups, base, dtype):
    """Where the time of a step goes."""
    lines = [
        (line["group"], f"{1000 * line['seconds_per_step']:.1f}", f"{100 * line['share']:.1f} %")
        for line in groups
    ]
    lines.append(("all", f"{1000 * sum(line['seconds_per_step'] for line in groups):.1f}", "100 %"))
    title = f"{base}, {dtype}: operations of a step, all threads together"
    print_table(title, ("", "ms", "share"), lines)


def draw(rows, sweeps, path):
    """A panel for each figure, and in it a line for each sweep, side by side.

    Args:
      rows: list of dicts.
      sweeps: dict from key of `AXES` to list of `Point`.
      path: of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    by_point = {Point(*(row[axis] for axis in Point._fields)): row for row in rows}
    figure = Figure(figsize=(8, 8), layout="constrained")
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    ticks = {}
    for i, (axis, points) in enumerate(sweeps.items()):
        measured = [by_point[point] for point in points if point in by_point]
        places = range(len(ticks) + i, len(ticks) + i + len(measured))  # A gap between two sweeps.
        ticks |= {place: row[axis] for place, row in zip(places, measured)}
        for panel, key in zip(panels, PANELS):
            panel.plot(places, [row[key] for row in measured], "o-", label=AXES[axis])
    for panel, name in zip(panels, PANELS.values()):
        panel.set(yscale="log", ylabel=name)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3, axis="y")
    panels[-1].set_xticks(list(ticks), list(ticks.values()))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def sweep(values, base, sweeps, deadline):
    """Measures and shows all points; returns the figures, a dict."""
    points = dict.fromkeys([base, *(point for points in sweeps.values() for point in points)])
    rows, left_out = measure_points(values, list(points), deadline)
    print_points(rows, left_out, values.dtype)
    path = os.path.join(values.output_dir, "scaling.png")
    draw(rows, sweeps, path)
    print(f"wrote {path}")
    return {"rows": rows, "left_out": left_out}


def _run(values):
    deadline = time.monotonic() + 60.0 * values.minutes
    base = Point(values.preset, values.batch_size, values.length)
    make_config(base)
    sweeps = {axis: parse_points(base, axis, values[f"{axis}s"].value) for axis in AXES}
    os.makedirs(values.output_dir, exist_ok=True)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if values.profile:
        groups = profile(values, base)
        print_profile(groups, base, values.dtype)
        figures = {**base._asdict(), "dtype": values.dtype, "groups": groups}
    else:
        figures = sweep(values, base, sweeps, deadline)
    if values.json:
        from electra_tf import files

        files.write_json(values.json, figures)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
