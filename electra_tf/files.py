"""Files that are either whole or absent, and what to say when there is no room for them."""

import contextlib
import errno
import json
import os
import re

import tensorflow as tf

from electra_tf.errors import UserError

WRITE_ERRORS = (OSError, tf.errors.OpError)

# What is the matter, and what helps.
_NO_ROOM = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.EFBIG: ("no file may grow so large", "raise the limit (ulimit -f)"),
}

# TensorFlow tells by the text alone: its ResourceExhaustedError may mean memory as well, and a file
# that grew too large is an OutOfRangeError, as is the end of a data set.
_NO_ROOM_TEXT = re.compile(
    r"^(?:\{\{\S+ \S+\}\} )*(.+); (" + "|".join(map(os.strerror, _NO_ROOM)) + ")", re.MULTILINE
)

# What a file is called while it is written: here, in `corpus`, by `tf.train.Checkpoint`.
_TEMPORARY = re.compile(
    r"\.tmp-{0}(?=[/.]|$)|/building-{0}(?=/)".format(os.getpid())
    + r"|_temp/part-[^/]+$|\.tmp[0-9a-f]{32}$|\.tempstate\d+$"
)


def no_room(error):
    """What to tell the user where something could not be written for want of room.

    Args:
      error: one of `WRITE_ERRORS`.

    Returns:
      str of one line that names the file, the reason and the remedy; None for any other error.
    """
    if isinstance(error, OSError):
        path, code = error.filename, error.errno
        if code not in _NO_ROOM:
            return None
        reason = os.strerror(code)
    else:
        found = _NO_ROOM_TEXT.search(error.message)
        if not found:
            return None
        path, reason = found.groups()
        code = next(code for code in _NO_ROOM if os.strerror(code) == reason)
    problem, remedy = _NO_ROOM[code]
    where = f"{_TEMPORARY.sub('', str(path))}: " if path else ""
    return (
        f"{where}{problem} ({reason}); {remedy} and run the same command again, which goes on from "
        "what is saved"
    )


def not_allowed(error):
    """What to tell the user where a file system refuses what is asked of it.

    Args, returns: as of `no_room`.
    """
    if isinstance(error, PermissionError):
        return (
            f"{error.filename}: {error.strerror}; choose another place, or change its permissions"
        )
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.UnimplementedError)):
        return f"{error.message}; choose another place, or change its permissions"
    return None


@contextlib.contextmanager
def users_mistake(what):
    """Turns TensorFlow's errors into the user's, but for want of room."""
    try:
        yield
    except tf.errors.OpError as error:
        if no_room(error):
            raise
        raise UserError(f"{what}: {error.message}") from None


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary name beside `path`, and renames it to `path` if all went well.

    ```python
    with replacing("config.yaml") as temporary:
        tf.io.gfile.GFile(temporary, "w").write(text)
    ```
    """
    path = path.rstrip("/")  # Else the temporary name were one in it.
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        yield temporary
        tf.io.gfile.rename(temporary, path, overwrite=True)
    finally:
        remove(temporary)


def glob(folder, pattern):
    """Paths below a folder that match a pattern, sorted; what the folder is called is no pattern."""
    literal = re.sub(r"([*?[\\])", r"\\\1", folder)
    return sorted(tf.io.gfile.glob(tf.io.gfile.join(literal, pattern)))


def remove(path):
    """Removes a file or a folder, if it is there."""
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)


def make_folder(path):
    """Makes a folder and those above it.

    Raises:
      UserError: there is a file of that name, or no permission.
    """
    with users_mistake(f"{path}: cannot make this folder"):
        tf.io.gfile.makedirs(path)


def refuse_present(path):
    """Refuses an --output that is there already.

    Raises:
      UserError: it is.
    """
    if tf.io.gfile.exists(path):
        raise UserError(f"{path}: is there already; choose another --output")


def read(path):
    """The bytes of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            return f.read()
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None


def read_json_object(path):
    """The dict that a JSON file holds.

    Raises:
      UserError: it cannot be read, or it holds something else; names the line.
    """
    content = read(path)
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); mend or remove the file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (RecursionError, ValueError):
        raise UserError(f"{path}: nested too deeply, or with too long a number") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: no JSON object; is this a model's folder?")
    return values


def write(path, content):
    """Writes str or bytes to `path` at once, making its folder.

    Raises:
      UserError: it may not be written there.
    """
    make_folder(os.path.dirname(path) or ".")
    with users_mistake(f"{path}: cannot write it"), replacing(path) as temporary:
        with tf.io.gfile.GFile(temporary, "wb" if isinstance(content, bytes) else "w") as f:
            f.write(content)


def write_json(path, value):
    """Writes a value as indented JSON to `path` at once."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
