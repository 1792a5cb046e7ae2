"""Files that are either whole or absent."""

import contextlib
import json
import os

import tensorflow as tf

from electra_tf.errors import UserError


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary name beside `path`, and renames it to `path` if all went well.

    ```python
    with replacing("config.yaml") as temporary:
        tf.io.gfile.GFile(temporary, "w").write(text)
    ```
    """
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        yield temporary
        tf.io.gfile.rename(temporary, path, overwrite=True)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)


def make_folder(path):
    """Makes a folder and those above it.

    Raises:
      UserError: there is a file of that name, or no permission.
    """
    try:
        tf.io.gfile.makedirs(path)
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot make this folder: {error.message}") from None


def write(path, content):
    """Writes str or bytes to `path` at once, making its folder.

    Raises:
      UserError: it cannot be written.
    """
    make_folder(os.path.dirname(path) or ".")
    try:
        with replacing(path) as temporary:
            with tf.io.gfile.GFile(temporary, "wb" if isinstance(content, bytes) else "w") as f:
                f.write(content)
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot write it: {error.message}") from None


def write_json(path, value):
    """Writes a value as indented JSON to `path` at once."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
