"""Work shared out among threads that are not equally fast.

Cores differ, and each is slowed down now and then by something else; equal shares would let all wait for the slowest.
So each thread has a share, which keeps its data in its core's cache, and takes one task of it after another; a thread
that is through helps the others with theirs. Who does a task never shows in the results, as no task depends on it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic

from hlf_np.arrays import Integers
from hlf_np.kernels.compiling import inner


@intrinsic
def _compiled_take(typing, counters, index):  # type: ignore[no-untyped-def]
    """The value of a counter, which is one more afterwards: in one instruction, so that no two threads get the same."""

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        counters = context.make_array(signature.args[0])(context, build, values[0])
        counter = build.gep(counters.data, [values[1]])
        return build.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counters, index), generate


def _reference_take(counters: Integers, index: int) -> int:
    """The same in plain Python, for runs without compilation."""
    counters[index] += 1
    return int(counters[index]) - 1


_interpreted = config.DISABLE_JIT  # type: ignore[attr-defined]
_take: Any = _reference_take if _interpreted else _compiled_take


@inner
def shares(count, threads):  # type: ignore[no-untyped-def]
    """The shares of `count` tasks, (2, threads): the number of each one's next task, and where it ends."""
    result = np.empty((2, threads), np.int64)
    for thread in range(threads):
        result[0, thread], result[1, thread] = thread * count // threads, (thread + 1) * count // threads
    return result


@inner
def claim(shares, thread):  # type: ignore[no-untyped-def]
    """The number of a task for this thread: of its own share, else of the next one that has any; -1 if none has."""
    threads = shares.shape[1]
    for k in range(threads):
        share = (thread + k) % threads
        if shares[0, share] < shares[1, share]:  # mostly spares the atomic instruction where nothing is left
            task = _take(shares[0], share)
            if task < shares[1, share]:
                return task
    return -1
