"""The weights of a network as a dictionary, and in a file together with what describes the network.

The names and layouts are PyTorch's. Files are `.npz` archives of plain arrays, never pickles, which could run
code when they are loaded.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hlf_np.arrays import Array, Floats
from hlf_np.errors import UserError
from hlf_np.files import DAMAGED, read_arrays, replace_file
from hlf_np.layers import Layer


class Weights:
    """The weights of a network, by PyTorch's names and in its layouts."""

    @property
    def _weighted(self) -> tuple[Layer, str]:
        """The network, and what messages call it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Floats]:
        """Copies of all parameters and running statistics by name, in PyTorch's layouts.

        An `nn.Sequential` of the same layers takes them as they are::

            torch_model.load_state_dict({name: torch.from_numpy(a) for name, a in model.state_dict().items()})
        """
        return {name: array.copy() for name, array in self._weighted[0].named_arrays()}

    def load_state_dict(self, state: dict[str, Floats]) -> None:
        """Take over arrays named and shaped as `state_dict`'s; PyTorch's `num_batches_tracked` are ignored.

        Raises
        ------
        UserError : for missing or unknown names, other shapes or non-finite numbers; then nothing has been changed.
        """
        network, kind = self._weighted
        own = dict(network.named_arrays())
        given = {name: array for name, array in _arrays(state).items() if not name.endswith("num_batches_tracked")}
        if given.keys() != own.keys():
            raise UserError(f"these weights {_difference(own.keys(), given.keys(), kind)}")
        for name, array in own.items():
            if given[name].shape != array.shape:
                raise UserError(f"weight {name!r} has shape {given[name].shape}, this {kind} needs {array.shape}")
            with np.errstate(over="ignore"):  # of numbers that only float64 can hold
                fits = given[name].dtype.kind == "f" and np.isfinite(given[name].astype(array.dtype)).all()
            if not fits:
                raise UserError(f"weight {name!r} holds something else than finite floating-point numbers")
            if name.endswith("running_var") and array.size and given[name].min() < 0:
                raise UserError(f"weight {name!r} holds negative variances")
        for name, array in own.items():
            array[...] = given[name]


def _arrays(state: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a dictionary of weights."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(f"weights must be a dictionary of arrays by their names, not {type(state).__name__}")
    arrays = {}
    for name, weight in state.items():
        if isinstance(weight, Mapping):
            raise UserError(f"the entry {name!r} of these weights is a dictionary itself: give that, if it holds them")
        try:
            arrays[name] = np.asarray(weight)
        except (TypeError, ValueError, RuntimeError):  # the last from a tensor that requires its gradient
            raise UserError(
                f"weight {name!r} is no array but {type(weight).__name__}: convert tensors by"
                " tensor.detach().cpu().float().numpy()"
            ) from None
    return arrays


def _difference(own: AbstractSet[str], given: AbstractSet[str], kind: str) -> str:
    """Why weights of these names do not belong to a network of others."""
    first = min(own, default="")
    for prefix in sorted(name.removesuffix(first) for name in given if name.endswith(first)):
        if {prefix + name for name in own} == given:  # of DataParallel, torch.compile or a module around the network
            return (
                f"have names that all begin with {prefix!r}: strip it,"
                f" {{name.removeprefix({prefix!r}): array for name, array in weights.items()}}"
            )
    missing, unknown = sorted(own - given), sorted(given - own)
    if not unknown and all(".running_" in f".{name}" for name in missing):
        return f"lack {missing[0]!r}: parameters are not all, take the running statistics of batch norm too"
    which = f"lack {missing[0]!r}" if missing else f"have an unknown entry {unknown[0]!r}"
    return f"{which}: they are of another architecture than this {kind}"


def save(path: str | os.PathLike[str], name: str, description: Any, weights: Weights) -> None:
    """Write weights and what describes their network, a dataclass and the entry `name`, to an `.npz` file.

    The file is written whole or not at all.
    """
    entries = {name: np.array(json.dumps(asdict(description))), **weights.state_dict()}
    with replace_file(Path(path)) as stream:
        np.savez(stream, **entries)  # type: ignore[arg-type]


class Blank:
    """Stands in for random numbers where a file will replace them all: zeros, and no more of them than the file holds.

    So a description cannot claim more memory than the weights that came with it.
    """

    def __init__(self, state: Mapping[str, Array]) -> None:
        self.left = sum(array.size for array in state.values())

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Floats:
        self.left -= math.prod(size)
        if self.left < 0:
            raise ValueError("the description is of more weights than there are")
        return np.zeros(size, dtype)


Loaded = TypeVar("Loaded", bound=Weights)


def load(
    path: str | os.PathLike[str], name: str, blank: Callable[[Any, Blank], Loaded], what: str, hint: str
) -> Loaded:
    """The network in a file of `save`; UserError if it is missing, truncated, or something else.

    blank : makes the network, its weights still to come, from what `json.loads` gives for its description; nearly any
        error if that is something else.
    what, hint : for messages: what kind of file it should be, and where one comes from.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        network = blank(json.loads(str(arrays.pop(name))), Blank(arrays))
    except FileNotFoundError:
        raise UserError(f"there is no {what} file {str(path)!r}: {hint}") from None
    except PermissionError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror}): allow it, or {hint}") from None
    except DAMAGED:
        raise UserError(f"{str(path)!r} is not a {what} file, or damaged: {hint}") from None
    try:
        network.load_state_dict(arrays)
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    return network
