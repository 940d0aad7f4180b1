"""The parallel loop performs every share once, passes arguments of all types, and reports failed shares."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from numba import config, njit, types

from hlf_np.kernels.numba_internals.numba_types import (
    Tuple,
    boolean_1d,
    float32,
    float32_1d,
    float32_2d,
    int64,
    int64_1d,
)
from hlf_np.kernels.numba_internals.parallel import ParallelLoop

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without compilation")


@njit
def _note(share, flat, square, scale, nested, done):
    """Combine all arguments, and count how often each share is performed."""
    counts, (flags, offset) = nested
    done[share] += 1
    square[share, 0] = flat[share] * scale + counts[share] + offset + (100 if flags[share] else 0)


NOTE = ParallelLoop(_note, float32_1d, float32_2d, float32, Tuple((int64_1d, Tuple((boolean_1d, int64)))), int64_1d)
_parallel_note = NOTE.parallel_for


@njit
def _notes(addresses, shares, flat, square, scale, nested, done):
    _parallel_note(addresses, shares, flat, square, scale, nested, done)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shares", [0, 1, 2, 7, 1000])
def test_every_share_is_performed_once_and_gets_all_arguments(threads, count, shares):
    threads(count)
    random = np.random.default_rng(0)
    flat, square = random.random(shares, np.float32), np.zeros((shares, 2), np.float32)
    counts, flags, done = random.integers(0, 9, shares), random.random(shares) < 0.5, np.zeros(shares, np.int64)
    _notes(NOTE.addresses, shares, flat, square, np.float32(3), (counts, (flags, 7)), done)
    assert np.array_equal(done, np.ones(shares))
    assert np.allclose(square[:, 0], flat * 3 + counts + 7 + 100 * flags, rtol=1e-6)
    assert not square[:, 1].any()


@njit
def _double(share, values):
    values[share] *= 2


DOUBLE = ParallelLoop(_double, float32_1d)
_parallel_double = DOUBLE.parallel_for


@njit
def _doubles(addresses, values):
    for _ in range(3):  # the struct of arguments is written anew by each call
        _parallel_double(addresses, values.size, values)


def test_several_loops_in_one_function():
    values = np.arange(50, dtype=np.float32)
    _doubles(DOUBLE.addresses, values)
    assert np.array_equal(values, 8 * np.arange(50))


@compiled_only
def test_arguments_of_other_types_are_refused():
    with pytest.raises(TypeError, match="_double is compiled for"):
        _doubles(DOUBLE.addresses, np.arange(5))


@njit
def _allocate(share, size, sums):
    # share 3 asks for more memory than there is
    sums[share] = np.zeros(size if share == 3 else 8, np.float32).sum()


ALLOCATE = ParallelLoop(_allocate, types.int64, float32_1d)
_parallel_allocate = ALLOCATE.parallel_for


@njit
def _allocations(addresses, size, sums):
    _parallel_allocate(addresses, sums.size, size, sums)


@compiled_only
def test_a_share_that_runs_out_of_memory_raises_an_error():
    _allocations(ALLOCATE.addresses, 8, np.ones(8, np.float32))
    with pytest.raises(MemoryError, match="_allocate"):
        _allocations(ALLOCATE.addresses, 1 << 60, np.ones(8, np.float32))


FORKING = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import hlf_np as hlf

data = hlf.data.load_fonts(40, 20, difficulty="easy")

def work(generations):
    model = hlf.models.cnn(widths=(4, 4))
    log = hlf.training.train(model, data.train, epochs=1, batch_size=20)
    found = hlf.attacks.pgd(model, data.test.images, data.test.labels, hlf.spaces.ImageBall(0.1), steps=3)
    own = log[0].loss, float(found.loss.sum()), float(model.logits(data.test.images).sum())
    if not generations:
        return [own]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return [own, *pool.submit(work, generations - 1).result(timeout=60)]

if sys.argv[1] == "before":  # no kernel has run in the parent
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        results = pool.submit(work, 0).result(timeout=60) + work(0)
else:
    results = work(2)
assert len(set(results)) == 1, results
print(len(results))
"""


@compiled_only
@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork")
@pytest.mark.parametrize(("when", "processes"), [("before", "2"), ("after", "3")])
def test_forked_processes_compute_the_same_bits(when, processes, tmp_path):
    """Children of a process that has run kernels, and their children; and children of one that has not."""
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    done = subprocess.run([sys.executable, script, when], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == processes, done.stderr
