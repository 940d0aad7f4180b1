"""Bilinear sampling of images under affine maps, and its gradients.

Coordinates are normalised: -1 and 1 are the *centres* of the first and last pixel. Output pixel (x, y) takes its
value at::

    (x', y') = A (x, y, 1),      A = [[a, b, u], [c, d, v]]

interpolated between the four pixels around it, zero outside. In pixels, column = (x' + 1) / 2 * (W - 1).

Gradients. With p, q the fractions of the position between columns and rows, v00, v01, v10, v11 the values around
it (row, column)::

    value       = (1 - q) ((1 - p) v00 + p v01) + q ((1 - p) v10 + p v11)
    d/d column  = (1 - q) (v01 - v00) + q (v11 - v10)
    d/d row     = (1 - p) (v10 - v00) + p (v11 - v01)

and by the chain rule d value / d A[0] = d/d column * (W - 1) / 2 * (x, y, 1), likewise A[1] with rows.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import DTypeLike

from hlf_np.arrays import Floats, Integers
from hlf_np.kernels.buffers import empty

# Sums may be taken in any order, so that vectors of pixels can be added; NaN and infinity keep their meaning.
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


@njit(cache=True)
def _fill(image, channel, plane, width):  # type: ignore[no-untyped-def]
    """Put one channel into a plane with one zero pixel in front and two behind: positions clamped to [-1, size], the
    first of the zeros on both sides, then need no test whether they are inside."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            plane[(i + 1) * width + j + 1] = image[i, j, channel]


@njit(cache=True)
def _clamp(position, zero, most):  # type: ignore[no-untyped-def]
    """A position between zero and most; NaN becomes 0, and no index leaves the plane."""
    inside = position if position > zero else zero
    return inside if inside < most else most


@njit(cache=True, parallel=True, fastmath=_FAST)
def _warp(images, sources, matrices, x, y, half, most, output):  # type: ignore[no-untyped-def]
    _, height, width, channels = images.shape
    row = width + 3
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for image in prange(output.shape[0]):
        plane = np.zeros((height + 3) * row, x.dtype)
        a, b, u = matrices[image, 0, 0], matrices[image, 0, 1], matrices[image, 0, 2]
        c, d, v = matrices[image, 1, 0], matrices[image, 1, 1], matrices[image, 1, 2]
        for channel in range(channels):
            _fill(images[sources[image]], channel, plane, row)
            for i in range(height):
                for j in range(width):
                    column = _clamp((a * x[j] + b * y[i] + u + one) * half[0] + one, zero, most[0])
                    line = _clamp((c * x[j] + d * y[i] + v + one) * half[1] + one, zero, most[1])
                    first, top = np.int32(column), np.int32(line)
                    p, q = column - x.dtype.type(first), line - x.dtype.type(top)
                    at = top * row + first
                    upper = (one - p) * plane[at] + p * plane[at + 1]
                    lower = (one - p) * plane[at + row] + p * plane[at + row + 1]
                    output[image, i, j, channel] = (one - q) * upper + q * lower


@njit(cache=True, parallel=True, fastmath=_FAST)
def _matrix_gradient(images, matrices, x, y, half, most, gradient, d_matrices):  # type: ignore[no-untyped-def]
    n, height, width, channels = images.shape
    row = width + 3
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for image in prange(n):
        plane = np.zeros((height + 3) * row, x.dtype)
        a, b, u = matrices[image, 0, 0], matrices[image, 0, 1], matrices[image, 0, 2]
        c, d, v = matrices[image, 1, 0], matrices[image, 1, 1], matrices[image, 1, 2]
        total = np.zeros(6, x.dtype)
        for channel in range(channels):
            _fill(images[image], channel, plane, row)
            for i in range(height):
                column_x, column_sum, line_x, line_sum = zero, zero, zero, zero
                for j in range(width):
                    at_column = (a * x[j] + b * y[i] + u + one) * half[0] + one
                    at_line = (c * x[j] + d * y[i] + v + one) * half[1] + one
                    column, line = _clamp(at_column, zero, most[0]), _clamp(at_line, zero, most[1])
                    first, top = np.int32(column), np.int32(line)
                    p, q = column - x.dtype.type(first), line - x.dtype.type(top)
                    at = top * row + first
                    v00, v01, v10, v11 = plane[at], plane[at + 1], plane[at + row], plane[at + row + 1]
                    # a position that had to be clamped does not move the value
                    g = gradient[image, i, j, channel] if column == at_column and line == at_line else zero
                    d_column = g * ((one - q) * (v01 - v00) + q * (v11 - v10))
                    d_line = g * ((one - p) * (v10 - v00) + p * (v11 - v01))
                    column_x += d_column * x[j]
                    column_sum += d_column
                    line_x += d_line * x[j]
                    line_sum += d_line
                total[0] += column_x
                total[1] += column_sum * y[i]
                total[2] += column_sum
                total[3] += line_x
                total[4] += line_sum * y[i]
                total[5] += line_sum
        for k in range(3):
            d_matrices[image, 0, k] = total[k] * half[0]
            d_matrices[image, 1, k] = total[3 + k] * half[1]


@njit(cache=True, parallel=True)
def _image_gradient(matrices, x, y, half, most, gradient, d_images):  # type: ignore[no-untyped-def]
    n, height, width, channels = d_images.shape
    row = width + 3
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for image in prange(n):
        a, b, u = matrices[image, 0, 0], matrices[image, 0, 1], matrices[image, 0, 2]
        c, d, v = matrices[image, 1, 0], matrices[image, 1, 1], matrices[image, 1, 2]
        for channel in range(channels):
            plane = np.zeros((height + 3) * row, x.dtype)
            for i in range(height):
                for j in range(width):
                    column = _clamp((a * x[j] + b * y[i] + u + one) * half[0] + one, zero, most[0])
                    line = _clamp((c * x[j] + d * y[i] + v + one) * half[1] + one, zero, most[1])
                    first, top = np.int32(column), np.int32(line)
                    p, q = column - x.dtype.type(first), line - x.dtype.type(top)
                    at = top * row + first
                    g = gradient[image, i, j, channel]
                    plane[at] += g * (one - p) * (one - q)
                    plane[at + 1] += g * p * (one - q)
                    plane[at + row] += g * (one - p) * q
                    plane[at + row + 1] += g * p * q
            for i in range(height):
                for j in range(width):
                    d_images[image, i, j, channel] = plane[(i + 1) * row + j + 1]


def _grid(height: int, width: int, dtype: DTypeLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Normalised coordinates of columns (W,) and rows (H,); half the distance between border pixels (2,); the last
    position in a plane where a pixel and its neighbour can be read (2,)."""
    x: np.ndarray[Any, Any] = np.linspace(-1, 1, width, dtype=dtype)
    y: np.ndarray[Any, Any] = np.linspace(-1, 1, height, dtype=dtype)
    return x, y, np.array([(width - 1) / 2, (height - 1) / 2], dtype), np.array([width + 1, height + 1], dtype)


def warp_images(images: Floats, matrices: Floats, sources: Integers | None = None) -> Floats:
    """Images (N, H, W, C) sampled under matrices (N, 2, 3); see the module.

    With `sources` (N,), output n is a warp of images[sources[n]], and there may be any number of images.
    """
    if sources is None:
        sources = np.arange(len(images))
    output = empty((len(sources), *images.shape[1:]), images.dtype)
    _warp(images, sources, matrices, *_grid(images.shape[1], images.shape[2], images.dtype), output)
    return output


def warp_matrix_gradient(images: Floats, matrices: Floats, gradient: Floats) -> Floats:
    """Gradient to the matrices (N, 2, 3) from that to the output (N, H, W, C)."""
    d_matrices = np.empty_like(matrices)
    grid = _grid(images.shape[1], images.shape[2], images.dtype)
    _matrix_gradient(images, matrices, *grid, np.ascontiguousarray(gradient), d_matrices)
    return d_matrices


def warp_image_gradient(matrices: Floats, gradient: Floats) -> Floats:
    """Gradient to the images (N, H, W, C) from that to the output, of the same shape."""
    d_images = empty(gradient.shape, gradient.dtype)
    grid = _grid(gradient.shape[1], gradient.shape[2], gradient.dtype)
    _image_gradient(matrices, *grid, np.ascontiguousarray(gradient), d_images)
    return d_images
