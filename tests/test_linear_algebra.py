"""Commands run NumPy's linear algebra on one thread, as its roundings depend on the number."""

import pytest

from hlf_np.cli import LINEAR_ALGEBRA_THREADS

AXES = """
import hashlib
import os
import sys

for variable in {variables}:
    os.environ.pop(variable, None)
os.environ |= {chosen}
import hlf_np.cli

assert "numpy" not in sys.modules  # which reads the variables when it is imported
sys.argv[1:] = ["--version"]
hlf_np.cli.main()

import numpy as np
from hlf_np.manifolds.distance import NeighbourSearch

images = np.random.default_rng(0).random((1000, 28, 28, 1), np.float32)
print(hashlib.sha256(NeighbourSearch(images).axes.tobytes()).hexdigest(), *map(os.environ.get, {variables}))
"""


@pytest.mark.parametrize("variable", LINEAR_ALGEBRA_THREADS)
def test_who_sets_the_number_of_threads_keeps_it(run_python, variable):
    printed = run_python(AXES.format(variables=LINEAR_ALGEBRA_THREADS, chosen={variable: "3"}))
    assert printed.split()[-3:] == ["3" if name == variable else "1" for name in LINEAR_ALGEBRA_THREADS]


def test_the_axes_of_a_neighbour_search_have_the_bits_of_one_thread(run_python):
    chosen = dict.fromkeys(LINEAR_ALGEBRA_THREADS, "1")
    default, one = (run_python(AXES.format(variables=LINEAR_ALGEBRA_THREADS, chosen=c)) for c in ({}, chosen))
    assert default == one
