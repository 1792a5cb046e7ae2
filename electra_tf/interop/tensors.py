"""What the conversions of all formats share: tensors of two programs, matched one to one."""

import re
from typing import NamedTuple

import numpy as np

from electra_tf.errors import UserError


class Tensor(NamedTuple):
    """A tensor of ours.

    Attributes:
      variable: `keras.Variable`.
      names: list of str, what it is called in a run folder: `NETWORK/NAME`, embeddings that both
        networks share by two names.
      transposed: whether it stands transposed in `model.safetensors`.
    """

    variable: object
    names: list
    transposed: bool = False


class Row(NamedTuple):
    """What became of a tensor.

    Attributes:
      theirs: the other program's name; None where it has no such tensor.
      ours: list of our names; empty where we have no such tensor.
      shape: tuple, the other program's.
      transposed: whether it stands transposed in `model.safetensors`.
      difference: largest one after the round trip, float; None where there was none.
    """

    theirs: str
    ours: list
    shape: tuple
    transposed: bool = False
    difference: float = None


def allows(allow_missing, name):
    """Whether a regular expression (None: none) matches the whole name of a tensor."""
    return allow_missing is not None and re.fullmatch(allow_missing, name) is not None


def match(expected, found, where, allow_missing=None):
    """Compares the tensors that a model has with those of a file.

    Args:
      expected, found: dict from name to shape, the model's and the file's.
      where: begins the error.
      allow_missing: regular expression; tensors that it matches may be missing on either side.

    Returns:
      list of the names that both have.

    Raises:
      UserError: naming every tensor that one side alone has, or that has another shape there.
    """
    problems = [
        f"{kind} {name} {shapes[name]}"
        for kind, shapes, others in (
            ("missing", expected, found),
            ("unexpected", found, expected),
        )
        for name in shapes
        if name not in others and not allows(allow_missing, name)
    ]
    both = [name for name in expected if name in found]
    problems += [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in both
        if found[name] != expected[name]
    ]
    if problems:
        raise UserError(f"{where}: the tensors do not match the model: {'; '.join(problems)}")
    return both


def assign(tensors, source, allow_missing=None):
    """Fills variables from a file; those that it may lack keep what they have.

    Args:
      tensors: dict of `Tensor`, by the file's names.
      source: with `path`; `shapes`, dict from name to shape; `read`, function of a name that gives
        an array in the variable's layout.
      allow_missing: as of `match`.

    Raises:
      UserError: as of `match`.
    """
    expected = {name: tuple(tensor.variable.shape) for name, tensor in tensors.items()}
    for name in match(expected, source.shapes, source.path, allow_missing):
        tensors[name].variable.assign(source.read(name))


def compare(tensors, source):
    """Compares variables with a file, after the round trip of one of them.

    Args:
      tensors, source: as of `assign`.

    Returns:
      list of `Row`, of the tensors of both sides.
    """
    rows = []
    for name, (variable, ours, transposed) in tensors.items():
        theirs, difference = None, None
        if name in source.shapes:
            theirs = name
            gap = np.abs(variable.numpy() - source.read(name))
            difference = float(np.max(gap, initial=0.0))
        rows.append(Row(theirs, ours, tuple(variable.shape), transposed, difference))
    rest = (name for name in source.shapes if name not in tensors)
    return rows + [Row(name, [], source.shapes[name]) for name in rest]


def check_finite(array, name, where):
    """Refuses an array with a NaN or an infinity, naming the first one's place."""
    places = np.argwhere(~np.isfinite(array))
    if len(places):
        place = tuple(places[0].tolist())
        raise UserError(
            f"{where}: {name}{list(place)} is {array[place]}; take a checkpoint from before the "
            "training broke"
        )
