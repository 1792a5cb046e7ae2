"""The one exception for what a user can mend."""

import os


class UserError(ValueError):
    """Bad input, flags or files: one line that says what, where, and what to do.

    Commands print it and exit with code 2, without a stack trace.
    """


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
