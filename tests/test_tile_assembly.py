"""The machine code of the tiles: whole vectors are multiplied and added, and all sums stay in registers.

Their speed depends on both, and no other test would notice: a tile that spills computes the same numbers, slowly.
"""

import re

import numba
import pytest

from hlf_np.kernels.numba_internals.processor import BASELINE, SHAPE
from hlf_np.kernels.products.product import OUTER_PRODUCTS, PRODUCT

# Multiply-adds of whole registers, by the number of float32 values in one: AVX-512, AVX2, NEON.
MULTIPLY_ADD = {16: r"\bvfmadd\w+ps\b.*%zmm", 8: r"\bvfmadd\w+ps\b.*%ymm", 4: r"\bfmla\b.*\.4s"}
VECTOR_ON_STACK = r"%[xyz]mm\d.*\(%rsp|\(%rsp.*%[xyz]mm\d|\b[qvds]\d.*\[sp"


def innermost_loops(function):
    """Yield the instructions of each loop without branches: from a label to the first jump back to it."""
    # compiled anew, as Numba shows no assembly of what it loads from its cache
    fresh = numba.njit(error_model="numpy", no_cfunc_wrapper=True)(function.function.py_func)
    fresh.compile(function.arguments)
    _, *parts = re.split(r"^(\w*\.?\w+):.*\n", fresh.overloads[function.arguments].library.get_asm_str(), flags=re.M)
    for label, body in zip(parts[::2], parts[1::2], strict=True):
        instructions, jump, _ = re.split(rf"^(\s+[a-z.]+\s.*{re.escape(label)}\n|\Z)", body, maxsplit=1, flags=re.M)
        if jump:
            yield instructions.splitlines()


def matches(pattern, lines):
    return [line for line in lines if re.search(pattern, line)]


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
@pytest.mark.skipif(SHAPE is BASELINE, reason="the baseline has no fused multiply-adds")
@pytest.mark.parametrize("function", [PRODUCT, OUTER_PRODUCTS], ids=["product", "outer_products"])
def test_the_sums_of_the_largest_tile_stay_in_registers(function):
    multiply_add = MULTIPLY_ADD[SHAPE.register_lanes]
    loop = max(innermost_loops(function), key=lambda lines: len(matches(multiply_add, lines)))
    sums = SHAPE.rows * 2 * SHAPE.lanes // SHAPE.register_lanes
    assert len(matches(multiply_add, loop)) == 2 * sums, "two steps"
    assert matches(VECTOR_ON_STACK, loop) == []
