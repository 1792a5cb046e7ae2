"""Exports a model for TensorFlow Serving.

  python -m electra_tf.export --model_dir=runs/sst2/model --output_dir=served --name=sst2

writes served/sst2/1, which takes ids, and served/sst2_text/1, which takes strings. Both are run through
TensorFlow's C API before they are there. docs/serving.md has the signatures.
"""

import sys

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError


def define_flags(values):
    flags.DEFINE_string(
        "model_dir",
        None,
        "Folder of a fine-tuned model, a discriminator or a run.",
        flag_values=values,
    )
    flags.DEFINE_string("output_dir", None, "Folder of served models.", flag_values=values)
    flags.DEFINE_string("name", None, "Name of the model.", flag_values=values)
    flags.mark_flags_as_required(["model_dir", "output_dir", "name"], flag_values=values)
    flags.DEFINE_integer(
        "version",
        None,
        "Version (default: the one after the last).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_seq_length", None, "Longest sequence (default: the model's).", flag_values=values
    )
    flags.DEFINE_string("task", None, "Which task, of a model of several.", flag_values=values)


def _run(values):
    if not values.name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--name={values.name}: use letters, digits, - and _")
    commands.import_tensorflow()
    from electra_tf.export.saved_model import export
    from electra_tf.export.servables import load_servables

    servables = load_servables(values.model_dir, values.max_seq_length, values.task)
    for folder in export(servables, values.output_dir, values.name, values.version):
        print(folder)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
