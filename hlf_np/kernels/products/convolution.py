"""Convolution and its two gradients as products of gathered rows (implicit GEMM).

With channels last, y = conv(x, w) at output pixel (i, j) is:

    y[n, i, j, :] = bias + sum_{a, b, c} x_padded[n, s i + a, s j + b, c] * w[:, c, a, b]

one row of a matrix product: the window under the pixel times the weights as a (kh kw C, O) matrix. The two gradients
are products of the same kind, with L the loss, g = dL/dy and s the stride:

- **with respect to the input.** Pixel i' of the padded input meets weight row a at output row (i' - a) / s, if that is
  an integer. So i' = p + s q (phase p) meets a = p, p + s, ... at g[q], g[q - 1], ...: within a phase the gradient is a
  stride-1 convolution of g with every s-th weight in reversed order. There are s x s phases, each one product
  (`geometry` has a drawing).
- **with respect to the weights.** dL/dw[a, b, c, :] = sum_{n, i, j} x_padded[n, s i + a, s j + b, c] * g[n, i, j, :]:
  the rows are positions in a window, and the sum runs over pixels (`outer_tile`).

A transposed convolution is the gradient with respect to the input, used as a forward pass; its gradient is a
convolution. A fully connected layer is a convolution with a 1x1 kernel of a 1x1 image.

Images are processed in chunks of a fixed size, in parallel; sums over chunks are added in order. So results are
the same to the last bit for any number of threads.
"""

from typing import NamedTuple

import numpy as np

from hlf_np.kernels.buffers import empty
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.numba_types import Tuple, float32_1d, float32_2d, int64, int64_1d, int64_2d
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.products.geometry import Geometry, Phases, geometry
from hlf_np.kernels.products.product import OUTER_PRODUCTS, PRODUCT, copy, panels
from hlf_np.kernels.products.tile import PANEL, PLAIN, TILE_ROWS, padded
from hlf_np.support.arrays import Floats, as_contiguous

_product, _outer_products = PRODUCT.call, OUTER_PRODUCTS.call


@callee
def _add_halo(images, count, height, width, channels, halo, result):  # type: ignore[no-untyped-def]
    """Copy the first `count` images (flat) into `result`, which already holds the zeros of their halos."""
    row = width * channels
    row_with_halo = (width + 2 * halo) * channels
    for n in range(count):
        for i in range(height):
            target = (n * (height + 2 * halo) + i + halo) * row_with_halo + halo * channels
            copy(images[(n * height + i) * row :], result[target:], row)


@callee
def _change_width(values, rows, width, new_width, result):  # type: ignore[no-untyped-def]
    """Copy rows of `width` values as rows of `new_width`, cut or filled up with zeros; all flat."""
    for row in range(rows):
        changed = result[row * new_width :]
        copy(values[row * width :], changed, min(width, new_width))
        for k in range(width, new_width):
            changed[k] = 0


class Sizes(NamedTuple):
    """The sizes of a batch that is convolved."""

    images: int
    chunk: int  # images that are processed together
    height: int  # of the source, as are width and channels
    width: int
    channels: int
    out_pixels: int  # pixels of an image of the result
    out_channels: int
    columns: int  # out_channels rounded up to whole vectors


@callee
def products_share(  # type: ignore[no-untyped-def]
    thread, run_product, x, weights, bias, y, sizes, tables, with_halo, products
):  # fmt: skip
    """Compute the chunks of one thread.

    run_product : the address of `product`.
    x, y : source and result, flat.
    weights, bias : the panels of all phases, and the bias, filled up to whole vectors.
    sizes, tables : see `Sizes` and `geometry.PhaseTables`.
    with_halo, products : scratch arrays, a row for each thread: a chunk of the source with halos, and of the products.
    """
    count, chunk, height, width, channels, out_pixels, out_channels, columns = sizes
    halo, windows, begin, sources, targets, segments, weights_begin = tables
    chunks, threads = (count + chunk - 1) // chunk, with_halo.shape[0]
    direct = columns == out_channels
    for number in range(thread * chunks // threads, (thread + 1) * chunks // threads):
        first = number * chunk
        images = min(chunk, count - first)
        _add_halo(x[first * height * width * channels :], images, height, width, channels, halo, with_halo[thread])
        target = y[first * out_pixels * out_channels :]
        for phase in range(windows.shape[0]):
            # the tables describe a full chunk, image after image: a smaller one uses their beginning
            rows = (begin[phase + 1] - begin[phase]) // chunk * images
            _product(
                run_product, with_halo[thread], sources[begin[phase] :], segments[: windows[phase, 0]],
                windows[phase, 1] * channels, weights, weights_begin[phase], bias, 0, columns,
                target if direct else products[thread], targets[begin[phase] :], rows, PLAIN, targets,
            )  # fmt: skip
        if not direct:
            _change_width(products[thread], images * out_pixels, columns, out_channels, target)


@callee
def weight_gradient_share(  # type: ignore[no-untyped-def]
    thread, run_products, x, g, dw, sizes, tables, with_halo, gradients
):
    """Compute the gradients of the chunks of one thread, each by itself.

    run_products : the address of `outer_products`.
    x, g, dw : input, gradient with respect to the output, and result, (chunks, panels, kh kw C, PANEL); all flat.
    sizes, tables : see `Sizes` and `geometry.PhaseTables`.
    with_halo, gradients : scratch arrays, a row for each thread: a chunk of the input with halos, and of g filled up to
    whole vectors.
    """
    count, chunk, height, width, channels, out_pixels, out_channels, columns = sizes
    halo, windows, _, sources, targets, segments, _ = tables
    chunks, threads = (count + chunk - 1) // chunk, with_halo.shape[0]
    direct = columns == out_channels
    for number in range(thread * chunks // threads, (thread + 1) * chunks // threads):
        first = number * chunk
        images = min(chunk, count - first)
        _add_halo(x[first * height * width * channels :], images, height, width, channels, halo, with_halo[thread])
        gradient = g[first * out_pixels * out_channels :]
        if not direct:
            _change_width(gradient, images * out_pixels, out_channels, columns, gradients[thread])
        _outer_products(
            run_products, with_halo[thread], segments, windows[0, 1] * channels, sources,
            gradient if direct else gradients[thread], columns, targets, images * out_pixels,
            dw, number * (dw.size // chunks),
        )  # fmt: skip


# `Sizes` and `geometry.PhaseTables`, as plain tuples: Numba takes longer to recognize the type of named ones.
_sizes = Tuple((int64,) * len(Sizes._fields))
_tables = Tuple((int64, int64_2d, int64_1d, int64_1d, int64_1d, int64_1d, int64_1d))
PRODUCTS = ParallelLoop(
    products_share,
    int64, float32_1d, float32_1d, float32_1d, float32_1d, _sizes, _tables, float32_2d, float32_2d,
)  # fmt: skip
WEIGHT_GRADIENT = ParallelLoop(
    weight_gradient_share,
    int64, float32_1d, float32_1d, float32_1d, _sizes, _tables, float32_2d, float32_2d,
)  # fmt: skip
_products_shares, _weight_gradient_shares = PRODUCTS.parallel_for, WEIGHT_GRADIENT.parallel_for


@kernel
def _products(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    """Run `products_share` in all threads."""
    _products_shares(addresses, threads, *arguments)


@kernel
def _weight_gradient(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    """Run `weight_gradient_share` in all threads."""
    _weight_gradient_shares(addresses, threads, *arguments)


def _check(x: Floats, weight: Floats, channels: int, out_size: tuple[int, int]) -> None:
    """Raise ValueError if the arrays do not fit: the kernels themselves check no shape."""
    if x.dtype != np.float32 or weight.dtype != np.float32:
        raise ValueError(f"these kernels convolve float32 arrays, not {x.dtype} and {weight.dtype}")
    if x.ndim != 4 or x.shape[3] != channels:
        raise ValueError(f"cannot convolve an array of shape {x.shape}: images must be (N, H, W, {channels})")
    if min(out_size) < 1:
        raise ValueError(f"the kernel is too large: images of {x.shape[1:3]} would be convolved to {out_size}")


def _flat(values: Floats) -> Floats:
    return as_contiguous(values).reshape(-1)


def _geometry_of(x_shape: tuple[int, ...], weight: Floats, stride: int, padding: int) -> Geometry:
    out_channels, channels, *kernel = weight.shape
    _, height, width, _ = x_shape
    return geometry((height, width, channels), out_channels, (kernel[0], kernel[1]), stride, padding)


def convolve(x: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int) -> Floats:
    """Convolve images.

    Parameters
    ----------
    x : ndarray of float32, shape (N, H, W, C)
        The images.
    weight : ndarray of float32, shape (O, C, kh, kw)
        The filters.
    bias : ndarray of float32, shape (O,), or None
        What is added to each output channel.
    stride : int
        Distance between neighbouring windows, in pixels.
    padding : int
        Width of the zeros around each image, in pixels.

    Returns
    -------
    ndarray of float32, shape (N, H', W', O)

    Raises
    ------
    ValueError
        If the arrays do not fit each other or are not float32.
    """
    g = _geometry_of(x.shape, weight, stride, padding)
    _check(x, weight, g.channels, (g.out_height, g.out_width))
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, g.out_channels)  # (kh kw C, O)
    y = empty((x.shape[0], g.out_height, g.out_width, g.out_channels))
    return _run_products(x, [matrix], bias, y, g.chunk, g.forward)


def convolve_input_gradient(
    gradient: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int, size: tuple[int, int]
) -> Floats:
    """Compute the gradient of a convolution with respect to its input, plus a bias: a transposed convolution.

    Parameters
    ----------
    gradient : ndarray of float32, shape (N, H', W', O)
        Gradient with respect to the output.
    weight : ndarray of float32, shape (O, C, kh, kw)
        The filters.
    bias : ndarray of float32, shape (C,), or None
        What is added to each channel of the result.
    stride, padding : int
        Those of the convolution.
    size : tuple of int
        (H, W) of its input, which (H', W') does not determine if the stride is above 1.

    Returns
    -------
    ndarray of float32, shape (N, H, W, C)

    Raises
    ------
    ValueError
        If the arrays do not fit each other or are not float32.
    """
    g = _geometry_of((len(gradient), *size, weight.shape[1]), weight, stride, padding)
    _check(gradient, weight, g.out_channels, size)
    if gradient.shape[1:3] != (g.out_height, g.out_width):
        raise ValueError(f"images of {size} convolve to {g.out_height, g.out_width}, not to {gradient.shape[1:3]}")
    # phase (i, j) meets every stride-th weight from (i, j) on, in reversed order
    matrices = [
        weight[:, :, i::stride, j::stride][:, :, ::-1, ::-1].transpose(2, 3, 0, 1).reshape(-1, g.channels)
        for i, j in g.backward.first_weights
    ]  # each (taps O, C)
    dx = empty((len(gradient), g.height, g.width, g.channels))
    return _run_products(gradient, matrices, bias, dx, g.chunk, g.backward)


def _run_products(
    x: Floats, matrices: list[Floats], bias: Floats | None, y: Floats, chunk: int, phases: Phases
) -> Floats:
    """Compute and return y (N, H', W', O) from x (N, H, W, C), with one matrix for each phase."""
    count, height, width, channels = x.shape
    _, out_height, out_width, out_channels = y.shape
    start = np.zeros(padded(out_channels), x.dtype)
    if bias is not None:
        if bias.shape != (out_channels,) or bias.dtype != x.dtype:
            raise ValueError(f"a bias must be {x.dtype} of shape ({out_channels},), not {bias.dtype} of {bias.shape}")
        start[:out_channels] = bias
    sizes = Sizes(count, chunk, height, width, channels, out_height * out_width, out_channels, start.size)
    scratch = phases.scratch.arrays(phases.source_size, chunk * sizes.out_pixels * sizes.columns)
    _products(
        PRODUCTS.addresses, len(scratch[0]), PRODUCT.address, _flat(x),
        np.concatenate([panels(matrix).ravel() for matrix in matrices]), start, y.reshape(-1),
        tuple(sizes), tuple(phases.tables), *scratch,
    )  # fmt: skip
    return y


def convolve_weight_gradient(x: Floats, gradient: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """Compute the gradient of a convolution with respect to its weights.

    Parameters
    ----------
    x : ndarray of float32, shape (N, H, W, C)
        The images.
    gradient : ndarray of float32, shape (N, H', W', O)
        Gradient with respect to the output.
    kernel : tuple of int
        (kh, kw), the size of the filters.
    stride, padding : int
        Those of the convolution.

    Returns
    -------
    ndarray of float32, shape (O, C, kh, kw)

    Raises
    ------
    ValueError
        If the arrays do not fit each other or are not float32.
    """
    n, height, width, channels = x.shape
    out_channels = gradient.shape[3]
    g = geometry((height, width, channels), out_channels, kernel, stride, padding)
    _check(x, gradient, channels, (g.out_height, g.out_width))
    if gradient.shape[:3] != (n, g.out_height, g.out_width):
        raise ValueError(f"images {x.shape} convolve to {g.out_height, g.out_width}, not to {gradient.shape}")
    out_pixels, columns = g.out_height * g.out_width, padded(out_channels)
    sizes = Sizes(n, g.chunk, height, width, channels, out_pixels, out_channels, columns)
    chunks, rows = -(-n // g.chunk), kernel[0] * kernel[1] * channels
    dw = np.zeros((chunks, -(-out_channels // PANEL), rows, PANEL), x.dtype)  # of the last panel, half may be unused
    phases = g.forward
    scratch = phases.scratch.arrays(phases.source_size + TILE_ROWS, g.chunk * out_pixels * columns)
    _weight_gradient(
        WEIGHT_GRADIENT.addresses, len(scratch[0]), OUTER_PRODUCTS.address, _flat(x), _flat(gradient), dw.reshape(-1),
        tuple(sizes), tuple(phases.tables), *scratch,
    )  # fmt: skip
    total = dw.sum(axis=0)  # in order
    total = total.transpose(1, 0, 2).reshape(rows, -1)[:, :out_channels]  # (kh kw C, O)
    return np.ascontiguousarray(total.reshape(*kernel, channels, out_channels).transpose(3, 2, 0, 1))
