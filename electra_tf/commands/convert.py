"""Converts runs from and to other programs' checkpoints.

  python -m electra_tf.convert --from=google --input=electra_small/electra_small \\
      --output=runs/small --vocab_file=electra_small/vocab.txt

  python -m electra_tf.convert --to=google --input=runs/small --output=electra/model.ckpt-0

  python -m electra_tf.convert --from=keras_hub --input=electra_small_discriminator_uncased_en \\
      --output=runs/small

google: TF1 checkpoints of google-research/electra, without '.index'.
keras_hub: presets of an ElectraBackbone, folders or handles; the encoder and its tokenizer alone.

Every tensor of both sides is used, or named in an error. docs/migrate.md says what is inferred, and
how to go on.
"""

import re
import sys

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError

FORMATS = ("google", "keras_hub")

# Flags of --from alone.
_OF_FROM = ("num_attention_heads", "vocab_file", "lower_case")
# Flags of networks without a configuration of their own, and of training.
_OF_GOOGLE = ("num_attention_heads", "optimizer")


def define_flags(values):
    flags.DEFINE_enum("from", None, FORMATS, "Format of --input.", flag_values=values)
    flags.DEFINE_enum("to", None, FORMATS, "Format of --output.", flag_values=values)
    flags.DEFINE_string(
        "input", None, "What to convert; with --to, a run folder.", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "What to write; with --from, a run folder. It must not be there yet.",
        flag_values=values,
    )
    flags.mark_flags_as_required(["input", "output"], flag_values=values)
    flags.DEFINE_bool(
        "optimizer",
        False,
        "Convert Adam's moments and the step as well, so that training can be continued.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "allow_missing",
        None,
        "Regular expression; tensors whose whole name it matches may be missing on either side.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_attention_heads",
        None,
        "Of the discriminator, which no tensor tells (default: heads of 64).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "vocab_file", None, "WordPiece vocabulary to put beside the networks.", flag_values=values
    )
    flags.DEFINE_bool(
        "lower_case",
        None,
        "Whether the vocabulary is of lower-cased text (default: yes).",
        flag_values=values,
    )


def check(values):
    """Refuses flags that contradict each other."""
    if (values["from"].value is None) == (values.to is None):
        raise UserError(f"--from: give either this flag or --to ({', '.join(FORMATS)})")
    for name in ("input", "output"):
        if not values[name].value.rstrip("/"):
            raise UserError(f"--{name}={values[name].value}: no path of a run or a checkpoint")
    for name in _OF_FROM:
        if values.to and values[name].present:
            raise UserError(f"--{name}: goes with --from; leave it out")
    for name in _OF_GOOGLE:
        if "google" not in (values["from"].value, values.to) and values[name].present:
            raise UserError(f"--{name}: goes with google's checkpoints; leave it out")
    if values.to and values.optimizer and values.allow_missing:
        raise UserError("--allow_missing: a run's checkpoint has every tensor; leave it out")
    if values.lower_case is not None and not values.vocab_file:
        raise UserError("--lower_case: goes with --vocab_file; give both")
    try:
        re.compile(values.allow_missing or "")
    except re.error as error:
        raise UserError(
            f"--allow_missing={values.allow_missing}: no regular expression ({error})"
        ) from None


def show(rows, title, ours_first):
    """Prints a conversion's table.

    Args:
      rows: list of `interop.tensors.Row`.
      title: of the table.
      ours_first: whether it was one from ours to theirs.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("from", "to", "shape", "transposed", "max difference"):
        table.add_column(column, overflow="fold")
    for theirs, ours, shape, transposed, difference in rows:
        names = ["\n".join(ours) or "-", theirs or "-"]
        table.add_row(
            *(names if ours_first else reversed(names)),
            " x ".join(map(str, shape)),
            "yes" if transposed else "",
            "" if difference is None else f"{difference:g}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _run(values):
    check(values)
    source, output = values.input.rstrip("/"), values.output.rstrip("/")
    commands.import_tensorflow()
    import keras

    from electra_tf.interop import google, keras_hub
    from electra_tf.tokenization import Tokenizer

    converters = {"google": google, "keras_hub": keras_hub}
    converter = converters[values.to or values["from"].value]
    options = {"allow_missing": values.allow_missing}
    if converter is google:
        options["with_optimizer"] = values.optimizer
        if not values.to:
            options["num_attention_heads"] = values.num_attention_heads
    keras.utils.set_random_seed(42)  # For what --allow_missing lets begin anew.
    if values.to:
        rows, notes = converter.from_run(source, output, **options)
    else:
        if values.vocab_file:
            casing = values.lower_case is not False
            options["tokenizer"] = Tokenizer.from_vocab(values.vocab_file, casing)
        rows, notes = converter.to_run(source, output, **options)
    show(rows, f"{source} -> {output}", ours_first=values.to is not None)
    for note in notes:
        print(note)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
