"""Converts runs from and to other programs' checkpoints.

  python -m electra_tf.convert --from=google --input=electra_small/electra_small \\
      --output=runs/small --vocab_file=electra_small/vocab.txt

  python -m electra_tf.convert --to=google --input=runs/small --output=electra/model.ckpt-0

  python -m electra_tf.convert --from=keras_hub --input=electra_small_discriminator_uncased_en \\
      --output=runs/small

  python -m electra_tf.convert --to=huggingface --input=runs/cola --output=cola

google: TF1 checkpoints of google-research/electra, without '.index'.
huggingface: folders of transformers' ELECTRA models, pre-trained ones and fine-tuned ones.
keras_hub: presets of an ElectraBackbone, folders or handles; the encoder and its tokenizer alone.

Every tensor of both sides is used, or named in an error. docs/migrate.md says what is inferred, and
how to go on.
"""

import importlib
import re
import sys
from typing import NamedTuple

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError


class Format(NamedTuple):
    """What --from and --to name.

    Attributes:
      module: of `electra_tf.interop`; it has `to_run` and `from_run`.
      from_options, to_options: dicts of the flags that not all formats have, to the arguments of
        `to_run` and `from_run` that they are.
    """

    module: str
    from_options: dict
    to_options: dict


FORMATS = {
    "google": Format(
        "google",
        {"optimizer": "with_optimizer", "num_attention_heads": "num_attention_heads"},
        {"optimizer": "with_optimizer"},
    ),
    "huggingface": Format("huggingface_folders", {"generator": "generator", "task": "task"}, {}),
    "keras_hub": Format("keras_hub", {}, {}),
}

# Flags of --from alone, of all formats.
_OF_FROM = ("vocab_file", "lower_case")


def define_flags(values):
    flags.DEFINE_enum("from", None, list(FORMATS), "Format of --input.", flag_values=values)
    flags.DEFINE_enum("to", None, list(FORMATS), "Format of --output.", flag_values=values)
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
        "Convert Adam's moments and the step as well, so that training can be continued (google).",
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
        "Of the discriminator, which no tensor tells (google; default: heads of 64).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "generator",
        None,
        "Folder of the generator, where --input is the discriminator's (huggingface).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "task",
        None,
        "Of a fine-tuned model, what the folder does not tell: name of a built-in task or YAML file, "
        "as finetune.py takes it (huggingface).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "vocab_file",
        None,
        "WordPiece vocabulary to put beside the networks (default: the folder's own, if it has one).",
        flag_values=values,
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
    _check_options(values)
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


def _check_options(values):
    """Refuses flags that the format does not have, or not in this direction."""
    only_from = {name for f in FORMATS.values() for name in f.from_options.keys() - f.to_options}
    for name in (*_OF_FROM, *sorted(only_from)):
        if values.to and values[name].present:
            raise UserError(f"--{name}: goes with --from; leave it out")
    direction = "to" if values.to else "from"
    own = getattr(FORMATS[values[direction].value], f"{direction}_options")
    for other in FORMATS.values():
        for name in getattr(other, f"{direction}_options"):
            if name not in own and values[name].value:
                raise UserError(
                    f"--{name}: --{direction}={values[direction].value} has no such thing; leave it out"
                )


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

    from electra_tf.tokenization import Tokenizer

    chosen = FORMATS[values.to or values["from"].value]
    module = importlib.import_module(f"electra_tf.interop.{chosen.module}")
    keras.utils.set_random_seed(42)  # For what --allow_missing lets begin anew.
    if values.to:
        convert, options = module.from_run, chosen.to_options
    else:
        convert, options = module.to_run, chosen.from_options
    arguments = {argument: values[flag].value for flag, argument in options.items()}
    if values.vocab_file:
        arguments["tokenizer"] = Tokenizer.from_vocab(
            values.vocab_file, values.lower_case is not False
        )
    rows, notes = convert(source, output, **arguments, allow_missing=values.allow_missing)
    show(rows, f"{source} -> {output}", ours_first=values.to is not None)
    for note in notes:
        print(note)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
