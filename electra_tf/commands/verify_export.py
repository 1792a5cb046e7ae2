"""Verifies that an exported model runs in a server, and gives what it gave in Python.

  python -m electra_tf.verify_export served/sst2/1

Loads it and runs each signature through TensorFlow's C API, in a process without TensorFlow's Python
code, with XLA off and no operations but TensorFlow's own and the tokenizer's.
"""

import sys

from electra_tf import commands
from electra_tf.errors import UserError


def define_flags(values):
    del values  # The folder is an argument.


def _run(values, folders):
    del values
    if len(folders) != 1:
        raise UserError(
            "give one folder: python -m electra_tf.verify_export OUTPUT_DIR/NAME/VERSION"
        )
    commands.import_tensorflow()
    from rich.console import Console
    from rich.table import Table

    from electra_tf.export.verify import verify

    table = Table(title=folders[0])
    for column in ("signature", "inputs", "output", "largest difference"):
        table.add_column(column)
    for signature, inputs, outputs in verify(folders[0]):
        for name, difference in outputs.items():
            table.add_row(signature, ", ".join(inputs), name, f"{difference:.1e}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv, takes_arguments=True)


if __name__ == "__main__":
    sys.exit(main())
