"""Weights of a network as a dictionary, and in files together with a description of the network.

Names and layouts are PyTorch's. Files are `.npz` archives of numeric arrays without pickles, which could run code when
they are loaded.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hlf_np.layers import Layer
from hlf_np.support.arrays import Array, Floats
from hlf_np.support.errors import UserError
from hlf_np.support.files import DECODING_ERRORS, read_arrays, write_bytes
from hlf_np.support.serialization import from_builtins

FROZEN = "frozen"  # entry of a file: the parameters whose `requires_grad` is False


class Weights:
    """Mixin for exchanging the weights of a network, with PyTorch's names and layouts."""

    @property
    def _network_and_kind(self) -> tuple[Layer, str]:
        """The network, and its kind as messages name it."""
        raise NotImplementedError

    def as_bytes(self) -> bytes:
        """Return the content of the file that `save` writes; raise UserError if a network cannot be saved."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the description of the network and its weights to an `.npz` file, atomically.

        Parameters
        ----------
        path : str or path-like
            The file; missing folders are created.

        Raises
        ------
        UserError
            If the network is a custom one, or the file cannot be written.
        """
        write_bytes(Path(path), self.as_bytes())

    def state_dict(self) -> dict[str, Floats]:
        """Return copies of all parameters and running statistics.

        A PyTorch `nn.Sequential` of the same layers can load them:

            torch_model.load_state_dict({name: torch.from_numpy(a) for name, a in model.state_dict().items()})

        Returns
        -------
        dict of str to ndarray
            Arrays by their names.
        """
        return {name: array.copy() for name, array in self._network_and_kind[0].named_arrays()}

    def load_state_dict(self, state: dict[str, Floats]) -> None:
        """Replace all parameters and running statistics.

        Parameters
        ----------
        state : dict of str to ndarray
            Arrays with the names and shapes of `state_dict`. PyTorch's `num_batches_tracked` are ignored.

        Raises
        ------
        UserError
            If names are missing or unknown, or arrays have other shapes or values that are not finite floating-point
            numbers. The model is then unchanged.
        """
        network, kind = self._network_and_kind
        own = dict(network.named_arrays())
        new = {name: array for name, array in _arrays(state).items() if not name.endswith("num_batches_tracked")}
        if new.keys() != own.keys():
            raise UserError(f"these weights {_difference(own.keys(), new.keys(), kind)}")
        names: dict[int, str] = {}  # the first of each array; a layer that is used twice has two
        for name, array in own.items():
            if new[name].shape != array.shape:
                raise UserError(f"weight {name!r} has shape {new[name].shape}, but this {kind} needs {array.shape}")
            with np.errstate(over="ignore"):  # float64 values may be too large for float32
                is_finite = new[name].dtype.kind == "f" and np.isfinite(new[name].astype(array.dtype)).all()
            if not is_finite:
                raise UserError(f"weight {name!r} must contain finite floating-point numbers only")
            if name.endswith("running_var") and array.size and new[name].min() < 0:
                raise UserError(f"weight {name!r} must not contain negative variances")
            if not array.flags.writeable:
                raise UserError(f"weight {name!r} of this {kind} is read-only: replace it by a copy")
            first = names.setdefault(id(array), name)
            if not np.array_equal(new[name], new[first]):
                raise UserError(
                    f"weights {first!r} and {name!r} of this {kind} are the same array: give both the same values"
                )
        for name, array in own.items():
            array[...] = new[name]


def _arrays(state: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays of a dictionary of weights; raise UserError if it is something else."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(f"weights must be a dictionary from names to arrays, not {type(state).__name__}")
    arrays = {}
    for name, weight in state.items():
        if isinstance(weight, Mapping):
            raise UserError(
                f"entry {name!r} of these weights is itself a dictionary: pass that one if it contains the weights"
            )
        try:
            arrays[name] = np.asarray(weight)
            if isinstance(weight, np.ma.MaskedArray):
                raise TypeError
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a PyTorch tensor that requires a gradient
            raise UserError(
                f"weight {name!r} is not an array but {type(weight).__name__}: convert tensors with"
                " tensor.detach().cpu().float().numpy()"
            ) from None
    return arrays


def _difference(own: AbstractSet[str], new: AbstractSet[str], kind: str) -> str:
    """Explain why the names of new weights are not those of a network."""
    first = min(own, default="")
    for prefix in sorted(name.removesuffix(first) for name in new if name.endswith(first)):
        if {prefix + name for name in own} == new:  # as with DataParallel, torch.compile or an outer module
            return (
                f"have names that all begin with {prefix!r}: remove the prefix,"
                f" {{name.removeprefix({prefix!r}): array for name, array in weights.items()}}"
            )
    missing, unknown = sorted(own - new), sorted(new - own)
    if not unknown and all(".running_" in f".{name}" for name in missing):
        return f"lack {missing[0]!r}: include the running statistics of batch norm, not only the parameters"
    difference = f"lack {missing[0]!r}" if missing else f"have an unknown entry {unknown[0]!r}"
    return f"{difference}: they belong to another architecture than this {kind}"


def as_bytes(weights: Weights, **descriptions: Any) -> bytes:
    """Return the content of a file with weights, the names of those that are frozen, and descriptions as JSON."""
    network, _ = weights._network_and_kind
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    texts = {name: np.array(json.dumps(value)) for name, value in (descriptions | {FROZEN: frozen}).items()}
    stream = io.BytesIO()
    np.savez(stream, **texts, **weights.state_dict())  # type: ignore[arg-type]
    return stream.getvalue()


class ZeroSource:
    """Initial weights that a file will replace: zeros, and at most as many as the file has weights.

    So the description in a file cannot make `load` allocate more memory than its weights need.

    Parameters
    ----------
    state : mapping of str to ndarray
        The arrays of the file.
    """

    def __init__(self, state: Mapping[str, Array]) -> None:
        self._remaining = sum(array.size for array in state.values())

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Floats:
        """Return zeros instead of random numbers; raise ValueError if they are more than the weights of the file."""
        self._remaining -= math.prod(size)
        if self._remaining < 0:
            raise ValueError("the network has more weights than the file")
        return np.zeros(size, dtype)


Loaded = TypeVar("Loaded", bound=Weights)


def load(
    path: str | os.PathLike[str], build: Callable[[dict[str, Any], ZeroSource], Loaded], kind: str, hint: str
) -> Loaded:
    """Load a network from a file that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.
    build : callable
        Builds the network from the descriptions in the file and a source of initial weights; may raise any of
        `DECODING_ERRORS` if they are damaged.
    kind : str
        What messages call the network.
    hint : str
        What messages suggest.

    Returns
    -------
    Weights
        The network.

    Raises
    ------
    UserError
        If the file is missing, not readable, damaged or not of this kind.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        texts = [name for name, array in arrays.items() if array.dtype.kind == "U"]
        descriptions = {name: json.loads(str(arrays.pop(name))) for name in texts}
        frozen = from_builtins(tuple[str, ...], descriptions.get(FROZEN, []))
        network = build(descriptions, ZeroSource(arrays))
    except FileNotFoundError:
        raise UserError(f"there is no {kind} file {str(path)!r}: {hint}") from None
    except PermissionError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror}): change its permissions, or {hint}") from None
    except DECODING_ERRORS:
        raise UserError(f"{str(path)!r} is not a {kind} file, or is damaged: {hint}") from None
    try:
        network.load_state_dict(arrays)
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    for name, parameter in network._network_and_kind[0].named_parameters():
        parameter.requires_grad = name not in frozen
    return network
