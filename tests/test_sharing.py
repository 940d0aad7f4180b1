"""Work stealing: every task is performed once, by whichever thread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, prange

from hlf_np.kernels.numba_internals.work_stealing import take_task, work_queues


@njit(parallel=True)
def _work(count, threads, slow):
    """Return how often each task was performed, and by which thread; thread `slow` takes long for each of its tasks."""
    done, by, queues = np.zeros(count, np.int64), np.full(count, -1), work_queues(count, threads)
    for thread in prange(threads):
        task = take_task(queues, thread)
        while task >= 0:
            effort = 0.0
            for k in range(200_000 if thread == slow else 10):
                effort += np.sin(float(k))
            done[task] += 1 if effort < 1e9 else 2
            by[task] = thread
            task = take_task(queues, thread)
    return done, by


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 300), threads=st.integers(1, 9))
def test_every_task_is_performed_once(count, threads):
    done, _ = _work(count, threads, -1)
    assert np.array_equal(done, np.ones(count))


@pytest.mark.skipif(_work.__class__.__name__ == "function", reason="a single thread without compilation")
def test_tasks_of_a_slow_thread_are_stolen(threads):
    threads(2)
    done, by = _work(400, 2, 0)
    assert np.array_equal(done, np.ones(400))
    assert (by[:200] == 1).any(), "no task of thread 0 was performed by thread 1"


def test_a_thread_empties_its_own_queue_first():
    queues = work_queues(7, 2)
    assert [int(take_task(queues, 1)) for _ in range(8)] == [3, 4, 5, 6, 0, 1, 2, -1]
    assert take_task(queues, 0) == -1
