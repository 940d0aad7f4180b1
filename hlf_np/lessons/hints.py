"""What checks are written with: call a student's function, compare its result, and say what is wrong with it.

A check knows the right result and the results of the usual mistakes. An answer that equals one of the latter gets the
hint for that mistake. All others get a general hint: wrong shape, wrong sign, off by a factor, shifted by one entry.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from hlf_np.support.arrays import Floats

TOLERANCE = 1e-6  # relative to the largest entry
Value: TypeAlias = "Floats | float | Sequence[Floats | float]"  # what an exercise returns; several values as a tuple


class Hint(Exception):  # noqa: N818, it is what the student reads, and not an error of the program
    """What is wrong with an answer, and where to look."""


def call(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Call a student's function with copies of the arguments.

    Raises
    ------
    Hint
        If it stops with an error, returns nothing, or changes an array that it was given.
    NotImplementedError
        If it is not yet written.
    """
    copies = [np.array(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments]
    try:
        result = function(*copies, **settings)
    except (Hint, NotImplementedError):
        raise
    except NameError as error:
        raise Hint(
            f"it uses the unknown name `{error.name}`{_place(error, function)}. (A check executes imports, functions"
            " and simple constants, but not the lines between them.)"
        ) from error
    except (Exception, SystemExit) as error:
        raise Hint(f"it stops with {type(error).__name__}: {error}{_place(error, function)}.") from error
    if result is None:
        raise Hint("it returns nothing: end it with `return`.")
    if isinstance(result, Iterator):
        raise Hint("it returns an iterator, which can be read only once: return a list, a tuple or an array.")
    for number, (before, after) in enumerate(zip(arguments, copies, strict=True), 1):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=True):
            raise Hint(f"it changes its argument number {number}, which the caller still needs: work on a copy.")
    return result


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """Name the last line of the student's file that led to an error."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", in line {lines[-1].lineno}: `{lines[-1].line}`" if lines else ""


def numerical_gradient(loss: Callable[[Floats], float], x: Floats, step: float = 1e-6) -> Floats:
    """Return the gradient of a loss at x by central differences, one entry of x after the other.

    Examples
    --------
    >>> numerical_gradient(lambda x: float((x**2).sum()), np.array([1.0, -3.0])).round(6).tolist()
    [2.0, -6.0]
    """
    gradient = np.empty(x.shape)
    for entry in np.ndindex(x.shape):
        change = np.zeros(x.shape)
        change[entry] = step
        gradient[entry] = (loss(x + change) - loss(x - change)) / (2 * step)
    return gradient


def compare(actual: Any, right: Value, mistakes: Mapping[str, Value] | None = None, of: str = "") -> None:
    """Compare the result of a student's function with the right one.

    Parameters
    ----------
    actual : object
        What the student's function returned.
    right : array_like, or tuple of array_like
        The right result.
    mistakes : mapping of str to array_like or tuple of array_like, optional
        Results of the usual mistakes, by the hint that each deserves.
    of : str
        What is compared, for general hints, such as "dL/da"; the result by default.

    Raises
    ------
    Hint
        If it is not the right result.

    Examples
    --------
    >>> compare(np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    >>> compare(np.array([-3.0, -4.0]), np.array([3.0, 4.0]))
    Traceback (most recent call last):
    hlf_np.lessons.hints.Hint: the result has the wrong sign.
    """
    if isinstance(right, tuple):
        if (count := _count(actual, right)) != len(right):
            raise Hint(f"it must return {len(right)} values, not {count}.")
        for number, part in enumerate(actual, 1):
            if part is None:
                raise Hint(f"value number {number} is None: it was never set.")
    if _same(actual, right):
        return
    for hint, mistake in (mistakes or {}).items():
        if _same(actual, mistake):
            raise Hint(hint)
    if isinstance(right, tuple):
        for number, (part, right_part) in enumerate(zip(actual, right, strict=True), 1):
            compare(part, right_part, of=f"value number {number}")
    raise Hint(_difference(as_array(actual), np.asarray(right, float), of or "the result"))


def as_array(value: Any) -> Floats:
    """Return numbers as an array; raise a hint if they are none."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        return array.astype(float)
    except Exception as error:
        raise Hint(f"it must return real numbers or arrays of them, not {type(value).__name__}.") from error


def _count(values: Any, expected: Sequence[Floats | float]) -> int:
    """Return how many values a function has returned: several as a tuple, as a list or stacked in an array."""
    is_stack = isinstance(values, np.ndarray) and values.ndim == 1 + np.ndim(expected[0])
    return len(values) if isinstance(values, tuple | list) or is_stack else 1


def _same(actual: Any, expected: Value) -> bool:
    if isinstance(expected, tuple):
        return _count(actual, expected) == len(expected) and all(map(_same, actual, expected))
    actual, expected = as_array(actual), np.asarray(expected, float)
    if actual.shape != expected.shape:
        return False
    scale = max(1e-12, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    return bool(np.allclose(actual, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def _difference(actual: Floats, right: Floats, what: str) -> str:
    """Describe a wrong array: its shape, sign, factor or shift, or the entry that differs most."""
    if actual.shape != right.shape:
        if right.ndim == 0:
            return f"{what} must be a single number: its shape is {actual.shape}."
        if actual.shape == right.shape[::-1]:
            return f"{what} is transposed: its shape is {actual.shape} instead of {right.shape}."
        return f"{what} has shape {actual.shape} instead of {right.shape}."
    if np.isnan(actual).any() and not np.isnan(right).any():
        return f"{what} contains NaN, from infinity minus infinity, 0 / 0 or the logarithm of a negative number."
    if _same(actual, -right):
        return f"{what} has the wrong sign."
    if right.size == 1:
        return f"{what} is {actual.item():.6g} instead of {right.item():.6g}."
    if np.square(right).sum() > 0 and np.isfinite(actual).all():
        factor = float((actual * right).sum() / np.square(right).sum())
        if factor and _same(actual, factor * right):
            return f"{what} is {factor:.4g} times what it should be."
    if actual.ndim > 1 and actual.shape[0] == actual.shape[1] and _same(actual.swapaxes(0, 1), right):
        return f"{what} is transposed."
    for axis in range(actual.ndim):
        ahead, behind = (np.arange(1, actual.shape[axis]), np.arange(actual.shape[axis] - 1))
        for one, other in ((ahead, behind), (behind, ahead)):
            if len(one) > 1 and _same(np.take(actual, one, axis), np.take(right, other, axis)):
                return f"{what} is shifted by one entry along axis {axis}: an index is off by one."
    errors = np.nan_to_num(np.abs(actual - right), nan=np.inf)
    entry = np.unravel_index(int(errors.argmax()), errors.shape)
    return f"entry [{', '.join(map(str, entry))}] of {what} is {actual[entry]:.6g} instead of {right[entry]:.6g}."
