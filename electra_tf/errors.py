"""Exceptions that the commands answer with one line and an exit code of their own."""

import os


class UserError(ValueError):
    """Bad input, flags or files: one line that says what, where, and what to do.

    Commands print it and exit with code 2, without a stack trace.
    """


class RunStopped(Exception):
    """A run that was asked to stop has saved its checkpoint; the same command goes on from there."""


class WorkerLost(Exception):
    """Another worker of the run is gone."""


def first_line(error):
    """The first line of an error's message, a str."""
    return str(error).strip().partition("\n")[0]


def check_keras_backend():
    """Refuses another Keras backend than TensorFlow's, before Keras is imported.

    Raises:
      UserError: `KERAS_BACKEND` names another.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={backend}: electra_tf runs on Keras's TensorFlow backend alone; unset "
            "it or set KERAS_BACKEND=tensorflow"
        )
