"""Whole matrix products, tile by tile, and the order in which their matrices are stored."""

import numpy as np

from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.function_pointers import FunctionPointer
from hlf_np.kernels.numba_internals.numba_types import float32_1d, int64, int64_1d
from hlf_np.kernels.products.outer_tile import GROUPS_PER_TILE, MAX_NARROW_ROWS, make_narrow_tile, make_outer_tile
from hlf_np.kernels.products.tile import LANES, PANEL, TILE_ROWS, make_tile
from hlf_np.support.arrays import Array, zero_padded

_tile_1, _tile_2 = make_tile(1), make_tile(2)
_outer_tile_1, _outer_tile_2, _narrow_tile = make_outer_tile(1), make_outer_tile(2), make_narrow_tile()


@callee
def product(  # type: ignore[no-untyped-def]
    a, a_rows, segments, length, b, b_offset, start, start_offset, columns, c, c_rows, rows, epilogue, masks
):  # fmt: skip
    """Compute C = start + A B for whole matrices, tile by tile:

                     B, panel 0   B, panel 1
                     32 columns   16 columns
        A, 12 rows     tile 0       tile 3
        A, 12 rows     tile 1       tile 4        the panel of B stays in the cache
        A,  3 rows     tile 2       tile 5        while the rows of A pass by

    The arguments are named as in `tile.TileArguments`:

    a, a_rows, segments, length : the rows of A, gathered.
    b, b_offset : B, stored as `panels`, begins at b_offset.
    start, start_offset : the initial sums of a row.
    columns, rows : the size of C; columns must be a multiple of `LANES`.
    c, c_rows : where the rows of C go.
    epilogue, masks : what happens to the sums before they are stored.
    """
    depth = segments.size * length
    for panel in range((columns + PANEL - 1) // PANEL):
        column = panel * PANEL
        for first in range(0, rows, TILE_ROWS):
            count = min(TILE_ROWS, rows - first)
            if columns - column >= PANEL:
                _tile_2(
                    a, a_rows, segments, length, b, b_offset + column * depth, start, start_offset + column,
                    c, c_rows, column, first, count, epilogue, masks,
                )  # fmt: skip
            else:
                _tile_1(
                    a, a_rows, segments, length, b, b_offset + column * depth, start, start_offset + column,
                    c, c_rows, column, first, count, epilogue, masks,
                )  # fmt: skip


@callee
def outer_product(  # type: ignore[no-untyped-def]
    a, a_offset, a_steps, b, column, columns, b_steps, depth, c, c_offset, rows, add
):  # fmt: skip
    """Compute C = A B for one panel of C, tile by tile; see `outer_tile`.

    a, a_offset, a_steps : column k of A, `rows` contiguous values, starts at a_offset + a_steps[k].
    b, b_steps, depth : row k of B starts at b_steps[k]; depth : number of rows of B.
    column, columns : first column of the panel, and the number of columns of B.
    c, c_offset : where the panel is stored.
    add : whether to add the result to what is there.
    """
    for row in range(0, rows, TILE_ROWS):
        count, target = min(TILE_ROWS, rows - row), c_offset + row * PANEL
        if columns - column >= PANEL:
            _outer_tile_2(a, a_offset + row, a_steps, b, column, b_steps, depth, c, target, count, add)
        else:
            _outer_tile_1(a, a_offset + row, a_steps, b, column, b_steps, depth, c, target, count, add)


@callee
def outer_products(a, groups, group_rows, a_steps, b, columns, b_steps, depth, c, c_offset):  # type: ignore[no-untyped-def]
    """Compute C = A B for the whole of C, stored as `panels`.

    groups, group_rows : the rows of A lie side by side in groups; column k of a group starts at groups[g] + a_steps[k].
    The other arguments are those of `outer_product`.
    """
    add = np.bool_(False)  # for a literal, Numba would compile the product again
    narrow = group_rows <= MAX_NARROW_ROWS
    for column in range(0, columns, LANES if narrow else PANEL):
        panel = c_offset + column // PANEL * PANEL * groups.size * group_rows + column % PANEL
        for first in range(0, groups.size, GROUPS_PER_TILE if narrow else 1):
            target = panel + first * PANEL * group_rows
            if narrow:
                count = min(GROUPS_PER_TILE, groups.size - first)
                _narrow_tile(a, groups, first, count, group_rows, a_steps, b, column, b_steps, depth, c, target)
            else:
                outer_product(a, groups[first], a_steps, b, column, columns, b_steps, depth, c, target, group_rows, add)


PRODUCT = FunctionPointer(
    product,
    float32_1d, int64_1d, int64_1d, int64, float32_1d, int64, float32_1d, int64, int64,
    float32_1d, int64_1d, int64, int64, int64_1d,
)  # fmt: skip
OUTER_PRODUCTS = FunctionPointer(
    outer_products,
    float32_1d, int64_1d, int64, int64_1d, float32_1d, int64, int64_1d, int64, float32_1d, int64
)  # fmt: skip


def panels(matrix: Array) -> Array:
    """Return a matrix (K, N) in the order in which `product` reads it, (panels, K, PANEL); see `tile`.

    Zeros fill up the last panel.
    """
    depth, columns = matrix.shape
    count = -(-columns // PANEL)
    whole = zero_padded((depth, count * PANEL), matrix)
    return np.ascontiguousarray(whole.reshape(depth, count, PANEL).transpose(1, 0, 2))


@callee
def copy(source, target, count):  # type: ignore[no-untyped-def]
    """Copy source[:count] to target[:count].

    An index `offset + k` might be negative, as far as the compiler knows, and then counts from the end of the array. An
    index `k` that starts at 0 cannot, so its loop becomes vector instructions. That is why callers pass slices, not
    offsets.
    """
    for k in range(count):
        target[k] = source[k]
