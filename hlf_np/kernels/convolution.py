"""Convolution and its two gradients as products of gathered rows (implicit GEMM).

With channels last, y = conv(x, w) at output pixel (i, j) is::

    y[n, i, j, :] = bias + sum_{a, b, c} x_padded[n, s i + a, s j + b, c] * w[:, c, a, b]

one row of a matrix product: the window under the pixel times the weights as a (kh kw C, O) matrix. The
two gradients are products of the same kind, with L the loss, g = dL/dy and s the stride:

- **to the input.** Pixel i' of the padded input meets weight row a at output row (i' - a) / s, if that is a whole
  number. So i' = p + s q (phase p) sees a = p, p + s, ... at g[q], g[q - 1], ...: within a phase the gradient is a
  stride-1 convolution of g with every s-th weight in reversed order. There are s x s phases, each one product.
- **to the weights.** dL/dw[a, b, c, :] = sum_{n, i, j} x_padded[n, s i + a, s j + b, c] * g[n, i, j, :]:
  weight positions are the rows, and the sum runs over pixels.

A transposed convolution is the gradient to the input, taken as a forward pass; its gradient is a
convolution. A fully connected layer is a convolution with a 1x1 kernel over a 1x1 image.

Images are handled in chunks of a fixed size, in parallel; sums over chunks are added in order. So
results have the same bits at any number of threads.
"""

import numpy as np

from hlf_np.arrays import Array, Floats, filled, plain
from hlf_np.kernels.buffers import empty
from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner
from hlf_np.kernels.geometry import Geometry, Phases, geometry
from hlf_np.kernels.linking import Linked, floats, integer, matrix, rows, table, together
from hlf_np.kernels.outer_tile import GROUPS, NARROW, make_narrow_tile, make_outer_tile
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.tile import LANES, PANEL, PLAIN, TILE_ROWS, make_tile, padded

_tile_1, _tile_2 = make_tile(1), make_tile(2)
_outer_tile_1, _outer_tile_2, _narrow_tile = make_outer_tile(1), make_outer_tile(2), make_narrow_tile()


@inner
def product(  # type: ignore[no-untyped-def]
    a, a_rows, segments, length, b, b_at, start, start_at, columns, c, c_rows, rows, finish, gates
):  # fmt: skip
    """C = start + A B over whole matrices: `rows` rows, `columns` columns (whole vectors), tile by tile; see `tile`.

    B is stored panel after panel (see `panels`).
    """
    depth = segments.size * length
    for panel in range((columns + PANEL - 1) // PANEL):
        column = panel * PANEL
        for first in range(0, rows, TILE_ROWS):
            count = min(TILE_ROWS, rows - first)
            if columns - column >= PANEL:
                _tile_2(
                    a, a_rows, segments, length, b, b_at + column * depth, start, start_at + column,
                    c, c_rows, column, first, count, finish, gates,
                )  # fmt: skip
            else:
                _tile_1(
                    a, a_rows, segments, length, b, b_at + column * depth, start, start_at + column,
                    c, c_rows, column, first, count, finish, gates,
                )  # fmt: skip


@inner
def outer_product(a, a_at, a_steps, b, column, columns, b_steps, depth, c, c_at, rows, add):  # type: ignore[no-untyped-def]
    """One panel of C = A B, where A's rows lie side by side; see `make_outer_tile`."""
    for row in range(0, rows, TILE_ROWS):
        count, at = min(TILE_ROWS, rows - row), c_at + row * PANEL
        if columns - column >= PANEL:
            _outer_tile_2(a, a_at + row, a_steps, b, column, b_steps, depth, c, at, count, add)
        else:
            _outer_tile_1(a, a_at + row, a_steps, b, column, b_steps, depth, c, at, count, add)


@inner
def outer_products(a, groups, group, a_steps, b, columns, b_steps, depth, c, c_at):  # type: ignore[no-untyped-def]
    """All of C, as `panels`: A's rows lie side by side in groups of `group`."""
    new = np.bool_(False)  # for a literal, Numba would compile the product again
    narrow = group <= NARROW
    for column in range(0, columns, LANES if narrow else PANEL):
        panel = c_at + column // PANEL * PANEL * groups.size * group + column % PANEL
        for number in range(0, groups.size, GROUPS if narrow else 1):
            at = panel + number * PANEL * group
            if narrow:
                count = min(GROUPS, groups.size - number)
                _narrow_tile(a, groups, number, count, group, a_steps, b, column, b_steps, depth, c, at)
            else:
                outer_product(a, groups[number], a_steps, b, column, columns, b_steps, depth, c, at, group, new)


PRODUCT = Linked(
    product,
    floats, table, table, integer, floats, integer, floats, integer, integer,
    floats, table, integer, integer, table,
)  # fmt: skip
OUTER_PRODUCTS = Linked(
    outer_products,
    floats, table, integer, table, floats, integer, table, integer, floats, integer
)  # fmt: skip
_product, _outer_products = PRODUCT.call, OUTER_PRODUCTS.call


def panels(matrix: Array) -> Array:
    """A matrix (K, N) in the order in which `product` reads it, (panels, K, PANEL): zeros fill the last panel.

    A tile then reads B from one end to the other; row by row it would jump, and where rows are a power of two apart,
    into the same few lines of the cache.
    """
    depth, columns = matrix.shape
    count = -(-columns // PANEL)
    whole = filled((depth, count * PANEL), matrix)
    return np.ascontiguousarray(whole.reshape(depth, count, PANEL).transpose(1, 0, 2))


@inner
def copy(source, target, count):  # type: ignore[no-untyped-def]
    """target[:count] = source[:count].

    An index `at + k` might be negative and count from behind, as far as the compiler knows; a `k` that starts at 0
    cannot, and its loop becomes vector moves. That is why slices are handed over here, not offsets.
    """
    for k in range(count):
        target[k] = source[k]


@inner
def _frame(images, count, height, width, channels, frame, result):  # type: ignore[no-untyped-def]
    """Copy the first `count` of the flat `images` into `result`, each inside the frame of zeros that is there."""
    row = width * channels
    framed_row = (width + 2 * frame) * channels
    for n in range(count):
        for i in range(height):
            target = (n * (height + 2 * frame) + i + frame) * framed_row + frame * channels
            copy(images[(n * height + i) * row :], result[target:], row)


@inner
def _change_width(values, rows, width, new_width, result):  # type: ignore[no-untyped-def]
    """Copy rows of `width` numbers as rows of `new_width`: cut, or zeros behind; all flat."""
    for row in range(rows):
        changed = result[row * new_width :]
        copy(values[row * width :], changed, min(width, new_width))
        for k in range(width, new_width):
            changed[k] = 0


@inner
def products_share(  # type: ignore[no-untyped-def]
    thread, run_product, x, weights, bias, y, shape, frame, taps, begin, sources, targets, segments, weights_begin,
    framed, wide
):  # fmt: skip
    """A thread's chunks; framed, wide : for each thread arrays to work in."""
    count, chunk, height, width, channels, out_pixels, out_channels = shape
    columns, chunks, threads = bias.size, (count + chunk - 1) // chunk, framed.shape[0]
    direct = columns == out_channels
    for number in range(thread * chunks // threads, (thread + 1) * chunks // threads):
        first = number * chunk
        images = min(chunk, count - first)
        _frame(x[first * height * width * channels :], images, height, width, channels, frame, framed[thread])
        target = y[first * out_pixels * out_channels :]
        for phase in range(taps.shape[0]):
            # the tables cover a full chunk, image by image: a shorter one uses their beginning
            rows = (begin[phase + 1] - begin[phase]) // chunk * images
            _product(
                run_product, framed[thread], sources[begin[phase] :], segments[: taps[phase, 0]],
                taps[phase, 1] * channels, weights, weights_begin[phase], bias, 0, columns,
                target if direct else wide[thread], targets[begin[phase] :], rows, PLAIN, targets,
            )  # fmt: skip
        if not direct:
            _change_width(wide[thread], images * out_pixels, columns, out_channels, target)


@inner
def weight_gradient_share(  # type: ignore[no-untyped-def]
    thread, run_products, x, g, dw, shape, padding, groups, group, windows, pixels, framed, wide
):
    """A thread's chunks, the gradient of each by itself; framed, wide : for each thread arrays to work in."""
    count, chunk, height, width, channels, out_height, out_width, out_channels, columns = shape
    out_pixels, chunks, threads = out_height * out_width, (count + chunk - 1) // chunk, framed.shape[0]
    direct = columns == out_channels
    for number in range(thread * chunks // threads, (thread + 1) * chunks // threads):
        first = number * chunk
        images = min(chunk, count - first)
        _frame(x[first * height * width * channels :], images, height, width, channels, padding, framed[thread])
        gradients = g[first * out_pixels * out_channels :]
        if not direct:
            _change_width(gradients, images * out_pixels, out_channels, columns, wide[thread])
        _outer_products(
            run_products, framed[thread], groups, group, windows, gradients if direct else wide[thread], columns,
            pixels, images * out_pixels, dw, number * (dw.size // chunks),
        )  # fmt: skip


_sizes = together((integer,) * 7)
PRODUCTS = Parallel(
    products_share,
    integer, floats, floats, floats, floats, _sizes, integer, rows, table, table, table, table,
    table, matrix, matrix,
)  # fmt: skip
WEIGHT_GRADIENT = Parallel(
    weight_gradient_share,
    integer, floats, floats, floats, together((integer,) * 9), integer, table, integer, table, table,
    matrix, matrix,
)  # fmt: skip
_products_shares, _weight_gradient_shares = PRODUCTS.spread, WEIGHT_GRADIENT.spread


@kernel
def _products(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    """Phase after phase a product of the windows in x, in a frame of zeros; see `geometry.Phases` for the tables."""
    _products_shares(addresses, threads, *arguments)


@kernel
def _weight_gradient(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    """Each chunk's gradient by itself."""
    _weight_gradient_shares(addresses, threads, *arguments)


def _check(x: Floats, weight: Floats, channels: int, out_size: tuple[int, int]) -> None:
    """The kernels themselves look at no shape: what reaches them must fit."""
    if x.dtype != np.float32 or weight.dtype != np.float32:
        raise ValueError(f"these kernels convolve float32, not {x.dtype} and {weight.dtype}")
    if x.ndim != 4 or x.shape[3] != channels:
        raise ValueError(f"convolution of {x.shape}: images must be (N, H, W, {channels})")
    if min(out_size) < 1:
        raise ValueError(f"convolution of {x.shape[1:3]} images would leave {out_size}: its kernel is too large")


def _flat(values: Floats) -> Floats:
    return plain(values).reshape(-1)


def _geometry_of(x_shape: tuple[int, ...], weight: Floats, stride: int, padding: int) -> Geometry:
    out_channels, channels, *kernel = weight.shape
    _, height, width, _ = x_shape
    return geometry((height, width, channels), out_channels, (kernel[0], kernel[1]), stride, padding)


def convolve(x: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int) -> Floats:
    """Convolution of x (N, H, W, C) with weight (O, C, kh, kw); bias (O,) or none. Returns (N, H', W', O)."""
    g = _geometry_of(x.shape, weight, stride, padding)
    _check(x, weight, g.channels, (g.out_height, g.out_width))
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, g.out_channels)  # (kh kw C, O)
    y = empty((x.shape[0], g.out_height, g.out_width, g.out_channels))
    return _computed(x, [matrix], bias, y, g.chunk, g.forward)


def convolve_input_gradient(
    gradient: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int, size: tuple[int, int]
) -> Floats:
    """The transpose of `convolve`: gradient (N, H', W', O) to (N, H, W, C), `size` = (H, W), plus bias (C,)."""
    g = _geometry_of((len(gradient), *size, weight.shape[1]), weight, stride, padding)
    _check(gradient, weight, g.out_channels, size)
    if gradient.shape[1:3] != (g.out_height, g.out_width):
        raise ValueError(f"images of {size} convolve to {g.out_height, g.out_width}, not to {gradient.shape[1:3]}")
    # phase (i, j) sees every stride-th weight from (i, j) on, in reversed order
    matrices = [
        weight[:, :, i::stride, j::stride][:, :, ::-1, ::-1].transpose(2, 3, 0, 1).reshape(-1, g.channels)
        for i, j in g.backward.starts
    ]  # each (taps O, C)
    dx = empty((len(gradient), g.height, g.width, g.channels))
    return _computed(gradient, matrices, bias, dx, g.chunk, g.backward)


def _computed(x: Floats, matrices: list[Floats], bias: Floats | None, y: Floats, chunk: int, phases: Phases) -> Floats:
    """y (N, H', W', O) from x (N, H, W, C), with one matrix for each phase."""
    count, height, width, channels = x.shape
    _, out_height, out_width, out_channels = y.shape
    start = np.zeros(padded(out_channels), x.dtype)
    if bias is not None:
        if bias.shape != (out_channels,) or bias.dtype != x.dtype:
            raise ValueError(f"a bias must be {x.dtype} of shape ({out_channels},), not {bias.dtype} of {bias.shape}")
        start[:out_channels] = bias
    work = phases.scratch.arrays(phases.framed, chunk * out_height * out_width * start.size)
    _products(
        PRODUCTS.addresses, len(work[0]), PRODUCT.address, _flat(x),
        np.concatenate([panels(matrix).ravel() for matrix in matrices]), start, y.reshape(-1),
        (count, chunk, height, width, channels, out_height * out_width, out_channels), phases.frame,
        phases.taps, phases.begin, phases.sources, phases.targets, phases.segments, phases.weights_begin, *work,
    )  # fmt: skip
    return y


def convolve_weight_gradient(x: Floats, gradient: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """Gradient to the weights (O, C, kh, kw) from the input (N, H, W, C) and the output's (N, H', W', O)."""
    n, height, width, channels = x.shape
    out_channels = gradient.shape[3]
    g = geometry((height, width, channels), out_channels, kernel, stride, padding)
    _check(x, gradient, channels, (g.out_height, g.out_width))
    if gradient.shape[:3] != (n, g.out_height, g.out_width):
        raise ValueError(f"images {x.shape} convolve to {g.out_height, g.out_width}, not to {gradient.shape}")
    parts, rows, columns = -(-n // g.chunk), kernel[0] * kernel[1] * channels, padded(out_channels)
    dw = np.zeros((parts, -(-out_channels // PANEL), rows, PANEL), x.dtype)  # the last panel may be filled by half
    tables = g.forward
    work = tables.scratch.arrays(tables.framed + TILE_ROWS, g.chunk * g.out_height * g.out_width * columns)
    _weight_gradient(
        WEIGHT_GRADIENT.addresses, len(work[0]), OUTER_PRODUCTS.address, _flat(x), _flat(gradient), dw.reshape(-1),
        (n, g.chunk, height, width, channels, g.out_height, g.out_width, out_channels, columns), padding,
        tables.segments, kernel[1] * channels, tables.sources, tables.targets, *work,
    )  # fmt: skip
    total = dw.sum(axis=0)  # in this order
    total = total.transpose(1, 0, 2).reshape(rows, -1)[:, :out_channels]  # (kh kw C, O)
    return np.ascontiguousarray(total.reshape(*kernel, channels, out_channels).transpose(3, 2, 0, 1))
