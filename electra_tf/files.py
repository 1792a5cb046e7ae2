"""Files that are either whole or absent."""

import contextlib
import json
import os

import tensorflow as tf


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


def write(path, content):
    """Writes str or bytes to `path` at once, making its folder."""
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    with replacing(path) as temporary:
        with tf.io.gfile.GFile(temporary, "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)


def write_json(path, value):
    """Writes a value as indented JSON to `path` at once."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
