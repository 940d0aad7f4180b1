"""The only parallel loop.

Numba takes more than a second to compile a parallel loop, whatever its body, as it turns the body into a function and
adds a scheduler. Here this happens once for all loops:

    compiled code                        the loop (compiled once)              the function
    -------------                        ------------------------              ------------
    arguments -> struct on the stack     for share in prange(shares):
    parallel_for(addresses, ...)  ---->      entry(struct, share)  --------->  function(share, *arguments)

The loop calls, for each *share* of the work, an *entry* function that it knows by its address only, and hands it the
address of the struct that holds the arguments. The compiled code that starts the loop contains both: it writes its
arguments into the struct, and defines the entry, a few instructions that read them from there and call the function.

**After a fork.** A forked process (`multiprocessing` with "fork", for instance) has a copy of its parent's memory, but
only the thread that forked. GNU OpenMP does not know that the others are missing and would terminate the process. So
if the threads had been started before the fork, the child performs all shares itself, one after another, with the same
results; so do its own children. A spawned process has threads of its own.
"""

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.ufunc import parallel as threading_layer

from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.function_pointers import (
    FunctionPointer,
    checked_signature,
    emit_call,
    without_reference_counts,
)
from hlf_np.kernels.numba_internals.numba_types import int64

Addresses = tuple[int, int]  # of the loop and of the function

_ENTRY = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.IntType(64)])  # address of the struct, share


@intrinsic
def _enter(typing, entry, arguments, share):  # type: ignore[no-untyped-def]
    """Call the entry at an address."""

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        build.call(build.inttoptr(values[0], ir.PointerType(_ENTRY)), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@kernel(parallel=True)
def _parallel_loop(entry, arguments, shares):  # type: ignore[no-untyped-def]
    for share in prange(shares):
        _enter(entry, arguments, share)  # type: ignore[call-arg]


@kernel
def _serial_loop(entry, arguments, shares):  # type: ignore[no-untyped-def]
    for share in range(shares):
        _enter(entry, arguments, share)  # type: ignore[call-arg]


_PARALLEL, _SERIAL = (FunctionPointer(loop, int64, int64, int64) for loop in (_parallel_loop, _serial_loop))
_threads_lost = False  # whether this process is the child of one that had started threads


def _before_fork() -> None:
    """Compile the loop that the child needs: a process that has just been forked should compile nothing."""
    if threading_layer._is_initialized:
        _ = _SERIAL.address


def _after_fork() -> None:
    global _threads_lost
    _threads_lost = _threads_lost or bool(threading_layer._is_initialized)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class ParallelLoop:
    """A loop over the shares of some work, distributed among all threads.

    Compiled code runs it by `parallel_for(addresses, shares, *arguments)`.

    Parameters
    ----------
    function : numba dispatcher
        A compiled function that returns nothing. Its first argument is the number of the share. What one share writes,
        no other may read or write.
    *arguments : numba types
        The types of its other arguments.
    """

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._function = FunctionPointer(function, int64, *arguments)
        self.parallel_for = _parallel_for(function, arguments)

    @property
    def addresses(self) -> Addresses:
        """First argument of `parallel_for`; the function is compiled or loaded from the cache on first access."""
        return (_SERIAL if _threads_lost else _PARALLEL).address, self._function.address


def _parallel_for(function: Any, signature: tuple[Any, ...]) -> Callable[..., None]:
    """Return the `parallel_for` of a `ParallelLoop`."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]

        def serial_for(addresses: Addresses, shares: int, *arguments: Any) -> None:
            for share in range(shares):
                function(share, *arguments)

        return serial_for

    @intrinsic
    def parallel_for(typing, addresses, shares, *arguments):  # type: ignore[no-untyped-def]
        expected = checked_signature(function, arguments, signature)

        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            loop, address = (build.extract_value(values[0], k) for k in range(2))
            passed = [
                without_reference_counts(build, kind, build.extract_value(values[2], k))
                for k, kind in enumerate(expected)
            ]
            fields = [ir.Constant(ir.IntType(8), 0), address, *passed]  # the first: whether a share has failed
            struct = cgutils.alloca_once(build, ir.LiteralStructType([field.type for field in fields]))
            for k, field in enumerate(fields):
                build.store(field, cgutils.gep_inbounds(build, struct, 0, k))
            entry = _entry(context, build.module, function.py_func.__name__, struct.type, expected)
            integers = [build.ptrtoint(pointer, ir.IntType(64)) for pointer in (entry, struct)]
            emit_call(context, build, loop, (types.int64,) * 3, [*integers, values[1]])
            failed = build.load(cgutils.gep_inbounds(build, struct, 0, 0))
            with cgutils.if_unlikely(build, cgutils.is_not_null(build, failed)):
                # shares raise nothing themselves, but an allocation may fail
                context.call_conv.return_user_exc(build, MemoryError, (f"in {function.py_func.__name__}",))
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 2), types.int64, types.StarArgTuple(expected)), generate

    return parallel_for


def _entry(context: Any, module: Any, name: str, struct_pointer: Any, signature: tuple[Any, ...]) -> Any:
    """Define the entry that the loop calls, and return it.

    struct_pointer : type of the pointer to the struct: whether a share has failed, which the entry stores there, the
        address of the function, and its arguments but for the share.
    """
    entry = ir.Function(module, _ENTRY, module.get_unique_name(f"{name}_entry"))
    entry.linkage = "internal"
    build = ir.IRBuilder(entry.append_basic_block())
    struct, share = build.inttoptr(entry.args[0], struct_pointer), entry.args[1]
    pointers = [cgutils.gep_inbounds(build, struct, 0, k) for k in range(len(signature) + 2)]
    address, *arguments = (build.load(pointer) for pointer in pointers[1:])
    status = emit_call(context, build, address, (types.int64, *signature), [share, *arguments])
    with build.if_then(status.is_error, likely=False):
        build.store(ir.Constant(ir.IntType(8), 1), pointers[0])
    build.ret_void()
    return entry
