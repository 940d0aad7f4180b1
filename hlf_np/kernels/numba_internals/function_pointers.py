"""Calling compiled functions by their address.

Numba compiles a function again into every function that calls it. The functions that do most of the work here are
long, and every kernel would take many seconds to compile. A `FunctionPointer` compiles such a function once; kernels
receive its address as an argument, an integer, and call what is there.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic


class FunctionPointer:
    """A compiled function that returns nothing, called from compiled code as `call(address, *arguments)`.

    Parameters
    ----------
    function : numba dispatcher
        Made by `njit` or one of the decorators in `compiling`.
    *arguments : numba types
        The types of its arguments; the function is compiled for these only.
    """

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.call = _caller(function, arguments)

    @cached_property
    def address(self) -> int:
        """Address of the machine code, which is compiled or loaded from the cache on first access."""
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return 0
        self.function.compile(self.arguments)
        compiled = self.function.overloads[self.arguments]
        return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def _caller(function: Any, signature: tuple[Any, ...]) -> Callable[..., None]:
    """Return the `call` of a `FunctionPointer`."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda address, *arguments: function(*arguments)

    @intrinsic
    def call(typing, address, *arguments):  # type: ignore[no-untyped-def]
        expected = checked_signature(function, arguments, signature)

        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            passed = [
                without_reference_counts(build, kind, build.extract_value(values[1], k))
                for k, kind in enumerate(expected)
            ]
            status = emit_call(context, build, values[0], expected, passed)
            with cgutils.if_unlikely(build, status.is_error):
                context.call_conv.return_status_propagate(build, status)
            return context.get_dummy_value()

        return types.none(address, types.StarArgTuple(expected)), generate

    return call


def emit_call(context: Any, build: Any, address: Any, signature: tuple[Any, ...], values: list[Any]) -> Any:
    """Emit the call of a compiled function at an address and return its status."""
    pointer = build.inttoptr(address, ir.PointerType(context.call_conv.get_function_type(types.none, signature)))
    status, _ = context.call_conv.call_function(build, pointer, types.none, signature, values)
    return status


def without_reference_counts(build: Any, kind: Any, value: Any) -> Any:
    """Return an argument with the reference counters of its arrays removed: the caller keeps the arrays alive.

    Most functions that take slices would otherwise increment and decrement the counter of the array's memory, by
    atomic instructions on a cache line that all threads share.
    """
    if isinstance(kind, types.Array):
        return build.insert_value(value, ir.Constant(value.type.elements[0], None), 0)
    if isinstance(kind, types.BaseTuple):
        for k, field in enumerate(kind.types):  # type: ignore[attr-defined]
            value = build.insert_value(value, without_reference_counts(build, field, build.extract_value(value, k)), k)
    return value


def checked_signature(function: Any, arguments: tuple[Any, ...], signature: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the signature; raise TypeError if these arguments do not match it (integers of any width do)."""

    def matches(actual: Any, expected: Any) -> bool:
        return actual == expected or (isinstance(actual, types.Integer) and isinstance(expected, types.Integer))

    if len(arguments) == len(signature) and all(map(matches, arguments, signature)):
        return signature
    raise TypeError(f"{function.py_func.__name__} is compiled for {signature}, not for {arguments}")
