"""The only parallel loop.

Numba compiles a parallel loop for more than a second, whatever is in it: the loop's body becomes a function of its own,
and then there is what shares it out. Here this happens once. The loop calls, for each *share* of some work, a function
that it knows by its address, with the address of what the function needs. Compiled code fills in both: it puts the
arguments into memory, and beside itself a small function, the *entry*, which takes them from there and calls the
`Parallel` function with them.

**After a fork.** A process that is forked (`multiprocessing` with "fork", for instance) has the memory of its parent,
but of its threads only the one that forked. GNU's OpenMP, which believes in the others, would end it. So where the
threads had been started before, the child does all shares itself, one after another, with the same results; and so do
its children. A spawned process has threads of its own.
"""

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.ufunc import parallel as threading_layer

from hlf_np.kernels.cache import kernel
from hlf_np.kernels.linking import Linked, borrowed, called, fitting, integer

Addresses = tuple[int, int]  # of the loop and of the function


@intrinsic
def _enter(typing, entry, arguments, share):  # type: ignore[no-untyped-def]
    """Call what is at an address."""

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        build.call(build.inttoptr(values[0], ir.PointerType(_ENTRY)), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


_ENTRY = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.IntType(64)])


@kernel(parallel=True)
def _spread(entry, arguments, shares):  # type: ignore[no-untyped-def]
    for share in prange(shares):
        _enter(entry, arguments, share)  # type: ignore[call-arg]


@kernel
def _in_turn(entry, arguments, shares):  # type: ignore[no-untyped-def]
    for share in range(shares):
        _enter(entry, arguments, share)  # type: ignore[call-arg]


_LOOPS = {alone: Linked(loop, integer, integer, integer) for alone, loop in ((False, _spread), (True, _in_turn))}
_alone = False  # whether this process has lost its threads


def _before_fork() -> None:
    """Compile the loop that the child needs: a process that has just been forked should compile nothing."""
    if threading_layer._is_initialized:
        _ = _LOOPS[True].address


def _after_fork() -> None:
    global _alone
    _alone = _alone or bool(threading_layer._is_initialized)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class Parallel:
    """A compiled function without result that does one share of some work; all threads together do all shares.

    Compiled code has them done by `spread(addresses, shares, *arguments)`.

    function : made by `njit`; its first argument is the number of the share. What a share writes, no other may touch.
    arguments : the types of the arguments behind that.
    """

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._linked = Linked(function, integer, *arguments)
        self.spread = _spreader(function, arguments)

    @property
    def addresses(self) -> Addresses:
        """What `spread` needs to know; compiles the function, or loads it from the cache, when first asked."""
        return _LOOPS[_alone].address, self._linked.address


def _spreader(function: Any, signature: tuple[Any, ...]) -> Callable[..., None]:
    if config.DISABLE_JIT:  # type: ignore[attr-defined]

        def in_turn(addresses: Addresses, shares: int, *arguments: Any) -> None:
            for share in range(shares):
                function(share, *arguments)

        return in_turn

    @intrinsic
    def spread(typing, addresses, shares, *arguments):  # type: ignore[no-untyped-def]
        expected = fitting(function, arguments, signature)

        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            loop, address = (build.extract_value(values[0], k) for k in range(2))
            given = [borrowed(build, kind, build.extract_value(values[2], k)) for k, kind in enumerate(expected)]
            fields = [ir.Constant(ir.IntType(8), 0), address, *given]
            arguments = cgutils.alloca_once(build, ir.LiteralStructType([field.type for field in fields]))
            for k, field in enumerate(fields):
                build.store(field, cgutils.gep_inbounds(build, arguments, 0, k))
            entry = _entry(context, build.module, function.py_func.__name__, arguments.type, expected)
            handed = [build.ptrtoint(pointer, ir.IntType(64)) for pointer in (entry, arguments)]
            called(context, build, loop, (types.int64,) * 3, [*handed, values[1]])
            failed = build.load(cgutils.gep_inbounds(build, arguments, 0, 0))
            with cgutils.if_unlikely(build, cgutils.is_not_null(build, failed)):
                # shares raise nothing themselves, but an allocation may fail
                context.call_conv.return_user_exc(build, MemoryError, (f"in {function.py_func.__name__}",))
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 2), types.int64, types.StarArgTuple(expected)), generate

    return spread


def _entry(context: Any, module: Any, name: str, kind: Any, signature: tuple[Any, ...]) -> Any:
    """The function that the loop calls; kind : the type of the pointer to what it takes: whether a share failed, which
    it notes there, the address of the function to call, its arguments."""
    entry = ir.Function(module, _ENTRY, module.get_unique_name(f"{name}_entry"))
    entry.linkage = "internal"
    build = ir.IRBuilder(entry.append_basic_block())
    arguments, share = build.inttoptr(entry.args[0], kind), entry.args[1]
    places = [cgutils.gep_inbounds(build, arguments, 0, k) for k in range(len(signature) + 2)]
    address, *given = (build.load(place) for place in places[1:])
    status = called(context, build, address, (types.int64, *signature), [share, *given])
    with build.if_then(status.is_error, likely=False):
        build.store(ir.Constant(ir.IntType(8), 1), places[0])
    build.ret_void()
    return entry
