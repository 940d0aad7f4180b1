"""Reading named tuples of integers from rows of a table, in compiled code."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic

from hlf_np.support.arrays import Integers


def decoder(kind: Any) -> Callable[[Integers], Any]:
    """Return a function for compiled code that reads a row (int64) as a named tuple of class `kind`.

    Element 0 of the row is skipped (the executor keeps the number of the kind there); element k + 1 is field k. The
    fields are loaded without bounds checks, and those that are not used cost nothing.
    """
    size = len(kind._fields)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda row: kind(*row[1 : 1 + size].tolist())

    numba_kind = types.NamedUniTuple(types.int64, size, kind)

    @intrinsic
    def decode(typing, row):  # type: ignore[no-untyped-def]
        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, build, values[0]).data
            pointers = (build.gep(data, [ir.Constant(ir.IntType(64), k)]) for k in range(1, size + 1))
            return context.make_tuple(build, numba_kind, [build.load(pointer) for pointer in pointers])

        return numba_kind(row), generate

    return decode  # type: ignore[return-value]
