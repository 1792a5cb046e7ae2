"""Tells what a pre-training run needs before it is started: parameters, memory, batch, hours.

  python -m electra_tf.plan --config=base --override=mixed_precision=bfloat16 \\
      --devices=8 --memory_gb=80 --peak_tflops=312

Arithmetic from the configuration alone; docs/planning.md says how far it was from measurements.
"""

import math
import sys

from absl import flags

from electra_tf import commands
from electra_tf.configs import PRETRAINING_PRESETS, load_pretraining_config, parse_overrides
from electra_tf.errors import UserError
from electra_tf.training import flops, footprint

_GB = 1e9


def define_flags(values):
    flags.DEFINE_string(
        "config", None, f"{', '.join(PRETRAINING_PRESETS)}, or a YAML file.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "override", [], "key=value of the configuration; repeatable.", flag_values=values
    )
    flags.mark_flag_as_required("config", flag_values=values)
    flags.DEFINE_integer(
        "devices", 1, "Devices that share the batch.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "memory_gb",
        None,
        "Memory of one device, in 10^9 bytes; tells the largest batch.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "Peak of one device in mixed_precision's dtype, in 10^12 operations a second; tells the "
        "hours.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "mfu",
        0.4,
        "Share of the peak that the model's own operations reach, at most 1.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "tokens",
        None,
        "Tokens to train on, padding included; default: num_train_steps * train_batch_size * "
        "max_seq_length.",
        flag_values=values,
    )
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


def plan(config, devices=1, memory_gb=None, peak_tflops=None, mfu=0.4, tokens=None):
    """Computes what a run needs.

    ```python
    plan(load_pretraining_config("small"), memory_gb=16)["kept"]["largest_batch"]
    ```

    Args:
      config: `PretrainingConfig`.
      devices: that share the batch.
      memory_gb: of one device, in 10^9 bytes; None: no `largest_batch`.
      peak_tflops: of one device, in 10^12 operations a second; None: no `hours`.
      mfu: share of the peak that the model's operations reach.
      tokens: to train on; None for the configuration's steps.

    Returns:
      dict of what JSON knows. `kept` and `recomputed` hold the figures that differ when blocks keep
      their activations and when they keep their inputs only; all bytes are those of one device.

    Raises:
      UserError: the batch cannot be shared evenly, or the generator is another than the masked one.
    """
    if config.generator != "masked":
        raise UserError(
            f"generator={config.generator}: what is counted here is the masked generator; leave the "
            "key out"
        )
    if tokens is None:
        tokens = config.num_train_steps * config.train_batch_size * config.max_seq_length
    run = {
        "devices": devices,
        "tokens": tokens,
        "mfu": mfu,
        "parameters": footprint.parameters(config),
        "flops_per_example": flops.pretraining_flops(config),
        "flops": flops.pretraining_flops(config) * tokens / config.max_seq_length,
        "rows_per_device": _rows_per_device(config, devices),
        "state_bytes": footprint.state_bytes(config),
        "activation_bytes_by_layer": {
            "generator": footprint.generator_activations(config).kept,
            "discriminator": footprint.discriminator_activations(config).kept,
        },
    }
    return {
        **run,
        **{
            name: _variant(config, run, recompute, memory_gb, peak_tflops)
            for name, recompute in (("kept", False), ("recomputed", True))
        },
    }


def _variant(config, run, recompute, memory_gb, peak_tflops):
    """The figures that depend on whether activations are computed anew."""
    figures = {
        "activation_bytes_per_example": footprint.activation_bytes(config, recompute),
        "bytes": footprint.device_bytes(config, run["rows_per_device"], recompute),
    }
    if memory_gb:
        figures["largest_batch"] = footprint.largest_batch(config, memory_gb * _GB, recompute)
    if peak_tflops:
        again = flops.recomputed_flops(config) / flops.pretraining_flops(config) if recompute else 0
        speed = run["devices"] * peak_tflops * 1e12 * run["mfu"]
        figures["hours"] = (1 + again) * run["flops"] / speed / 3600
        figures["examples_per_second"] = speed / (1 + again) / run["flops_per_example"]
    return figures


def _rows_per_device(config, devices):
    """Rows that a device computes at a time; micro-batches of `auto` are left to the run."""
    steps = config.gradient_accumulation_steps
    parts = devices * (1 if steps == "auto" else steps)
    if config.train_batch_size % parts:
        raise UserError(
            f"--devices={devices}: with gradient_accumulation_steps={steps} it does not divide "
            f"train_batch_size={config.train_batch_size}; choose numbers that do, or "
            "--override=train_batch_size=..."
        )
    return config.train_batch_size // parts


def show(config, figures):
    """Prints a plan as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_title(config, figures))
    table.add_column("")
    for column in ("activations kept", "recomputed"):
        table.add_column(column, justify="right")
    for name, format_figure in _ROWS:
        cells = [format_figure(figures, figures[variant]) for variant in ("kept", "recomputed")]
        if cells[0] is not None:
            table.add_row(name, *(cells if cells[0] != cells[1] else cells[:1]))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(_ASSUMPTIONS.format(share=f"{footprint.USABLE_SHARE:.0%}"))


_ASSUMPTIONS = (
    "Assumed: backward = 2 x forward; the second column computes blocks a second time at the same "
    "speed, as the key recompute_activations does; the largest batch fills {share} of the memory; "
    "GB = 10^9 bytes; no time for input, communication, evaluation or checkpoints."
)


def _title(config, figures):
    encoder = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    if config.discriminator == "convolutional_recurrent":
        sizes = config.discriminator_config()
        encoder = f"{sizes.filters} filters of {sizes.kernel_size}, 2 LSTMs of {sizes.units} units"
    devices = f"{figures['devices']} device{'s' if figures['devices'] > 1 else ''}"
    return f"{encoder}, {config.max_seq_length} positions, {config.mixed_precision}, {devices}"


def _short(number):
    """Three digits and a letter for the thousands, `85.6 M`."""
    number = float(f"{number:.3g}")
    exponent = min(5, math.floor(math.log10(number)) // 3) if number >= 1 else 0
    value = number / 1000**exponent
    return f"{value:.3g} {' kMGTP'[exponent].strip()}"


def _rounded(number):
    """Three digits, `2,920`."""
    return f"{float(f'{number:.3g}'):,.10g}"


def _bytes(number):
    return _short(number) + "B"


def _optional(key, form):
    """A row's format of a figure that may be absent."""
    return lambda figures, variant: form(variant[key]) if key in variant else None


_ROWS = (
    ("parameters, shared embeddings", lambda f, _: _short(f["parameters"]["embeddings"])),
    ("parameters, discriminator besides", lambda f, _: _short(f["parameters"]["discriminator"])),
    ("parameters, generator besides", lambda f, _: _short(f["parameters"]["generator"])),
    ("tokens to train on", lambda f, _: f"{f['tokens']:.3g}"),
    ("operations an example", lambda f, _: _short(f["flops_per_example"]) + "FLOP"),
    ("operations in all", lambda f, _: f"{f['flops']:.3g} FLOP"),
    ("weights, gradients, Adam", lambda f, _: _bytes(sum(f["state_bytes"].values()))),
    ("activations an example", lambda _, v: _bytes(v["activation_bytes_per_example"])),
    ("rows a device at a time", lambda f, _: f"{f['rows_per_device']:,}"),
    ("memory they take", lambda _, v: _bytes(v["bytes"])),
    ("largest batch a device", _optional("largest_batch", lambda n: f"{n:,}" if n else "none fits")),
    ("examples a second", _optional("examples_per_second", _rounded)),
    ("hours", _optional("hours", _rounded)),
)  # fmt: skip


def _check(values):
    """Refuses numbers that mean nothing."""
    for name in ("memory_gb", "peak_tflops", "mfu", "tokens"):
        value = values[name].value
        if value is not None and value <= 0:
            raise UserError(f"--{name}={value:g}: must be a number above 0")
    if values.mfu > 1:
        raise UserError(f"--mfu={values.mfu:g}: a share of the peak; must be at most 1")


def _run(values):
    _check(values)
    config = load_pretraining_config(values.config, parse_overrides(values.override))
    figures = plan(
        config,
        devices=values.devices,
        memory_gb=values.memory_gb,
        peak_tflops=values.peak_tflops,
        mfu=values.mfu,
        tokens=values.tokens,
    )
    show(config, figures)
    if values.json:
        commands.import_tensorflow()  # It writes to gs:// as well.
        from electra_tf import files

        files.write_json(values.json, figures)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
