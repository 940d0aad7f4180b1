"""The weights of a network as a dictionary, and in a file together with what describes the network.

The names and layouts are PyTorch's. Files are `.npz` archives of plain arrays, never pickles, which could run
code when they are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.errors import UserError
from hlf_np.files import read_arrays, replace_file
from hlf_np.layers import Layer

Description = TypeVar("Description")


def state_dict(network: Layer) -> dict[str, Floats]:
    """Copies of all parameters and running statistics by name."""
    return {name: array.copy() for name, array in network.named_arrays()}


def load_state_dict(network: Layer, state: dict[str, Floats], kind: str) -> None:
    """Take over arrays named and shaped as `state_dict`'s; PyTorch's `num_batches_tracked` are ignored.

    `kind` says in messages what the network is.

    Raises
    ------
    UserError : for missing or unknown names, other shapes or non-finite numbers; then nothing has been changed.
    """
    own = dict(network.named_arrays())
    given = {name: np.asarray(a) for name, a in state.items() if not name.endswith("num_batches_tracked")}
    other = f"they are of another architecture than this {kind}"
    if missing := sorted(own.keys() - given.keys()):
        raise UserError(f"these weights lack {missing[0]!r}: {other}")
    if unknown := sorted(given.keys() - own.keys()):
        raise UserError(f"these weights have an unknown entry {unknown[0]!r}: {other}")
    for name, array in own.items():
        if given[name].shape != array.shape:
            raise UserError(f"weight {name!r} has shape {given[name].shape}, this {kind} needs {array.shape}")
        if given[name].dtype.kind != "f" or not np.isfinite(given[name]).all():
            raise UserError(f"weight {name!r} holds something else than finite floating-point numbers")
    for name, array in own.items():
        array[...] = given[name]


def save(path: Path, name: str, description: dict[str, Any], network: Layer) -> None:
    """Write a network and its description, the entry `name`, to an `.npz` file, whole or not at all."""
    entries = {name: np.array(json.dumps(description)), **state_dict(network)}
    with replace_file(path) as stream:
        np.savez(stream, **entries)  # type: ignore[arg-type]


def load(
    path: Path, name: str, from_json: Callable[[Any], Description], what: str, hint: str
) -> tuple[Description, dict[str, Floats]]:
    """The description and the weights in a file of `save`.

    Parameters
    ----------
    path, name : as for `save`.
    from_json : makes the description of what `json.loads` gives; ValueError, KeyError, TypeError or
        AttributeError if that is something else.
    what, hint : for messages: what kind of file it should be, and where one comes from.

    Raises
    ------
    UserError : if the file is missing, truncated, or something else.
    """
    try:
        arrays = read_arrays(path)
        return from_json(json.loads(str(arrays.pop(name)))), arrays
    except FileNotFoundError:
        raise UserError(f"there is no {what} file {str(path)!r}: {hint}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{str(path)!r} is not a {what} file, or damaged: {hint}") from None
