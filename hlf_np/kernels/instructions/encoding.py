"""Lists of instructions as tables of integers, which compiled code can read.

A row holds the kind of an instruction, its fields, and zeros up to the length of the longest. `encoded` writes such
rows and `decoded` reads one back. In compiled code, `numba_internals.named_tuples.decoder` does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hlf_np.kernels.instructions.propagation import (
    OverlapAdd,
    Pool,
    PoolGradient,
    Product,
    ResidualAdd,
    Scale,
    SigmoidFromBlocks,
    SigmoidGradientFromBlocks,
    Warp,
    WarpGradient,
    Winograd,
)
from hlf_np.kernels.instructions.training import PART_INSTRUCTIONS, REDUCTIONS, WeightGradientPanel
from hlf_np.support.arrays import Integers

PROPAGATION_INSTRUCTIONS = (
    Product, Scale, ResidualAdd, Pool, PoolGradient, SigmoidFromBlocks, SigmoidGradientFromBlocks, Warp, WarpGradient,
    Winograd, OverlapAdd,
)  # fmt: skip
_ALL: tuple[Any, ...] = (*PROPAGATION_INSTRUCTIONS, *PART_INSTRUCTIONS, *REDUCTIONS, WeightGradientPanel)
KIND: dict[Any, int] = {instruction: kind for kind, instruction in enumerate(_ALL)}
ROW_LENGTH = 1 + max(len(instruction._fields) for instruction in _ALL)


def encoded(instructions: Sequence[Any]) -> Integers:
    """Return instructions as rows of equal length: the kind, the fields, zeros."""
    rows = np.zeros((len(instructions), ROW_LENGTH), np.int64)
    for row, instruction in zip(rows, instructions, strict=True):
        row[: 1 + len(instruction)] = KIND[type(instruction)], *instruction
    return rows


def decoded(row: Integers) -> Any:
    """Return the instruction that a row holds."""
    instruction = _ALL[row[0]]
    return instruction(*row[1 : 1 + len(instruction._fields)].tolist())
