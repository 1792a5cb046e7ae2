"""What the user gives, as arrays of bytes and numbers, and as features of tf.Examples."""

import numpy as np

from electra_tf.errors import UserError


def as_lists(inputs, columns):
    """Columns of lists, and whether they were given for a single input."""
    if inputs is not None:
        raise UserError("give inputs, or columns by name, not both")
    is_single = any(isinstance(column, str) for column in columns.values())
    if is_single:
        columns = {name: [value] for name, value in columns.items()}
    columns = {name: list(column) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise UserError(f"columns of different lengths: {counted}")
    return columns, is_single


def columns_of(items, names):
    """Dict from a name to the list of its values, of texts or tuples."""
    rows = []
    for number, item in enumerate(items):
        row = (item,) if isinstance(item, str) else item
        if not isinstance(row, (list, tuple)) or len(row) != len(names):
            expected = "a str" if len(names) == 1 else f"({', '.join(names)})"
            raise UserError(f"input {number}: {item!r} is not {expected}")
        rows.append(row)
    return {name: list(column) for name, column in zip(names, zip(*rows))}


def text_array(name, column):
    """Array of bytes, [B] of str, or [B, C] of lists of as many str each."""
    is_nested = name == "choices"
    for number, value in enumerate(column):
        texts = value if is_nested else [value]
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            expected = "a list of str" if is_nested else "a str"
            raise UserError(f"input {number}: {name} {value!r} is not {expected}")
        if is_nested and len(texts) != len(column[0]):
            raise UserError(
                f"input {number}: {len(texts)} choices; those before it have {len(column[0])}"
            )
    return array_of(name, column)


def array_of(name, value):
    """An array of numbers, or of bytes (dtype object)."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OSU":
        return value
    texts = np.array(value, object)  # NumPy's own strings lose zeros at their ends.
    if not any(isinstance(text, (str, bytes)) for text in texts.flat):
        return np.asarray(value)
    array = np.empty(texts.size, object)
    array[:] = [_bytes_of(f"input {name!r}", text) for text in texts.ravel()]
    return array.reshape(texts.shape)


def _bytes_of(where, text):
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UserError(f"{where}: {text!r} is not a str")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair, which is no character") from None


def example_of(number, item):
    """Features by name, of a text, a pair of texts, or as they are."""
    if isinstance(item, dict):
        return item
    texts = (item,) if isinstance(item, str) else item
    if not isinstance(texts, (list, tuple)) or len(texts) > 2:
        raise UserError(f"input {number}: {item!r} is no str, no pair of them, and no dict")
    return dict(zip(("text", "text_pair"), texts))


def feature_of(number, name, value):
    """List of bytes, of int or of float."""
    where = f"input {number}: feature {name!r}"
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    values = [one.item() if isinstance(one, np.generic) else one for one in values]
    if all(isinstance(one, (str, bytes)) for one in values):
        return [_bytes_of(where, one) for one in values]
    if all(isinstance(one, int) for one in values):
        return values
    if all(isinstance(one, (int, float)) for one in values):
        return [float(one) for one in values]
    raise UserError(f"{where}: {value!r} is no str, int or float, and no list of one of them")
