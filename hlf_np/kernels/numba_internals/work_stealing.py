"""Work stealing: tasks distributed among threads that are not equally fast.

Cores differ in speed, and each is interrupted now and then; with equal parts, all threads would wait for the slowest.
So each thread has a queue of tasks of its own, which keeps its data in its core's cache, and takes one task after
another from it. When its queue is empty, it *steals* tasks from the queues of the others. Results do not depend on
which thread performs a task, as no task depends on another.

A queue of consecutive task numbers is just two integers, the next task and the end:

    queues[0, thread]   number of the next task, incremented atomically
    queues[1, thread]   end of the queue
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic

from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.support.arrays import Integers


@intrinsic
def _compiled_fetch_and_increment(typing, counters, index):  # type: ignore[no-untyped-def]
    """Return a counter and increment it, in one atomic instruction: no two threads get the same value."""

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        counters = context.make_array(signature.args[0])(context, build, values[0])
        counter = build.gep(counters.data, [values[1]])
        return build.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counters, index), generate


def _reference_fetch_and_increment(counters: Integers, index: int) -> int:
    """Return a counter and increment it, in plain Python, for runs without compilation."""
    counters[index] += 1
    return int(counters[index]) - 1


_fetch_and_increment: Any = (
    _reference_fetch_and_increment
    if config.DISABLE_JIT  # type: ignore[attr-defined]
    else _compiled_fetch_and_increment
)


@callee
def work_queues(count, threads):  # type: ignore[no-untyped-def]
    """Return queues (2, threads) that divide `count` tasks evenly; see the module."""
    queues = np.empty((2, threads), np.int64)
    for thread in range(threads):
        queues[0, thread], queues[1, thread] = thread * count // threads, (thread + 1) * count // threads
    return queues


@callee
def take_task(queues, thread):  # type: ignore[no-untyped-def]
    """Return the number of a task for this thread, from its own queue or the next one that is not empty, or -1."""
    threads = queues.shape[1]
    for k in range(threads):
        queue = (thread + k) % threads
        if queues[0, queue] < queues[1, queue]:  # usually avoids the atomic instruction for an empty queue
            task = _fetch_and_increment(queues[0], queue)
            if task < queues[1, queue]:
                return task
    return -1
