"""Every task is done once, by whichever thread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, prange

from hlf_np.kernels.sharing import claim, shares


@njit(parallel=True)
def _work(count, threads, slow):
    """How often each task was done, and by whom last; a thread `slow` spends long on each of its tasks."""
    done, by, shared = np.zeros(count, np.int64), np.full(count, -1), shares(count, threads)
    for thread in prange(threads):
        task = claim(shared, thread)
        while task >= 0:
            effort = 0.0
            for k in range(200_000 if thread == slow else 10):
                effort += np.sin(float(k))
            done[task] += 1 if effort < 1e9 else 2
            by[task] = thread
            task = claim(shared, thread)
    return done, by


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 300), threads=st.integers(1, 9))
def test_every_task_is_done_once(count, threads):
    done, _ = _work(count, threads, -1)
    assert np.array_equal(done, np.ones(count))


@pytest.mark.skipif(_work.__class__.__name__ == "function", reason="without compilation there is one thread")
def test_the_others_help_a_slow_thread(threads):
    threads(2)
    done, by = _work(400, 2, 0)
    assert np.array_equal(done, np.ones(400))
    assert (by[:200] == 1).any(), "tasks of thread 0 that thread 1 has done"


def test_a_thread_works_through_its_own_share_first():
    shared = shares(7, 2)
    assert [int(claim(shared, 1)) for _ in range(8)] == [3, 4, 5, 6, 0, 1, 2, -1]
    assert claim(shared, 0) == -1
