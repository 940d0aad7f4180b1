"""Calling compiled functions by their address.

Numba compiles a function anew into every function that calls it. Those that do the work here are long, and so each
kernel would take many seconds. `Linked` compiles such a function once; kernels get its address as an argument and call
that.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

floats, matrix, table, rows = types.float32[::1], types.float32[:, ::1], types.int64[::1], types.int64[:, ::1]
integer, single = types.int64, types.float32
boolean, booleans, unsigned, together = types.boolean, types.boolean[::1], types.uint64[::1], types.Tuple
pair = types.UniTuple(types.int64, 2)


class Linked:
    """A compiled function without result, called by its address from compiled code: `call(address, *arguments)`.

    function : made by `njit`; arguments : the types of its arguments.
    """

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.call = _caller(function, arguments)

    @cached_property
    def address(self) -> int:
        """Where the machine code is; compiles it, or loads it from the cache, when first asked."""
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return 0
        self.function.compile(self.arguments)
        compiled = self.function.overloads[self.arguments]
        return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def _caller(function: Any, signature: tuple[Any, ...]) -> Callable[..., None]:
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda address, *arguments: function(*arguments)

    @intrinsic
    def call(typing, address, *arguments):  # type: ignore[no-untyped-def]
        expected = fitting(function, arguments, signature)

        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            given = [borrowed(build, kind, build.extract_value(values[1], k)) for k, kind in enumerate(expected)]
            status = called(context, build, values[0], expected, given)
            with cgutils.if_unlikely(build, status.is_error):
                context.call_conv.return_status_propagate(build, status)
            return context.get_dummy_value()

        return types.none(address, types.StarArgTuple(expected)), generate

    return call


def called(context: Any, build: Any, address: Any, signature: tuple[Any, ...], values: list[Any]) -> Any:
    """The status of a call of compiled code without result at an address."""
    pointer = build.inttoptr(address, ir.PointerType(context.call_conv.get_function_type(types.none, signature)))
    status, _ = context.call_conv.call_function(build, pointer, types.none, signature, values)
    return status


def borrowed(build: Any, kind: Any, value: Any) -> Any:
    """An argument whose arrays nobody counts the references to: the caller keeps them.

    Numba counts them in most functions that take slices, with instructions that no two threads can execute at once. The
    counter belongs to the memory, which all threads share.
    """
    if isinstance(kind, types.Array):
        return build.insert_value(value, ir.Constant(value.type.elements[0], None), 0)
    if isinstance(kind, types.BaseTuple):
        for k, part in enumerate(kind.types):  # type: ignore[attr-defined]
            value = build.insert_value(value, borrowed(build, part, build.extract_value(value, k)), k)
    return value


def fitting(function: Any, arguments: tuple[Any, ...], signature: tuple[Any, ...]) -> tuple[Any, ...]:
    """The signature, or TypeError if these arguments do not fit; one whole number is as good as another."""

    def fit(given: Any, wanted: Any) -> bool:
        return given == wanted or (isinstance(given, types.Integer) and isinstance(wanted, types.Integer))

    if len(arguments) == len(signature) and all(map(fit, arguments, signature)):
        return signature
    raise TypeError(f"{function.py_func.__name__} is compiled for {signature}, not for {arguments}")
