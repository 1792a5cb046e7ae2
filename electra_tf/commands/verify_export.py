"""Verifies that an exported model runs in a server, and gives what it gave in Python.

  python -m electra_tf.verify_export served/sst2/1

Loads it and runs each signature and each request of its warm-up through TensorFlow's C API, in a process
without TensorFlow's Python code, with XLA off and no operations but TensorFlow's own and the
tokenizer's. A model of ids is run by OpenVINO, too, where that is installed.
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

    from electra_tf.export.verify import verify, verify_by_openvino, why_not_by_openvino

    [folder] = folders
    report = verify(folder)
    table = Table(title=folder)
    for column in ("signature", "inputs", "output", "largest difference"):
        table.add_column(column)
    for signature, inputs, outputs in report.signatures:
        for name, difference in outputs.items():
            table.add_row(signature, ", ".join(inputs), name, f"{difference:.1e}")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    console.print(f"warm-up: {report.num_warmup} requests ran")
    reason = why_not_by_openvino(folder)
    if reason:
        console.print(f"OpenVINO: skipped, {reason}", markup=False)
    else:
        difference = max(verify_by_openvino(folder).values())
        console.print(f"OpenVINO: largest difference {difference:.1e}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv, takes_arguments=True)


if __name__ == "__main__":
    sys.exit(main())
