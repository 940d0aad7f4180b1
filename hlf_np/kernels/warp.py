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


@njit(cache=True)
def _pad(image):  # type: ignore[no-untyped-def]
    """One zero pixel in front and two behind, so that positions clamped to [-1, size] read zeros where outside."""
    height, width, channels = image.shape
    result = np.zeros((height + 3, width + 3, channels), image.dtype)
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                result[i + 1, j + 1, c] = image[i, j, c]
    return result


@njit(cache=True)
def _locate(position, size, one):  # type: ignore[no-untyped-def]
    """A position along one axis as (index into the padded image, fraction), clamped to where all is zero."""
    clamped = min(max(position + one, position - position), one * (size + 1))
    index = int(clamped)
    return index, clamped - index * one


@njit(cache=True, parallel=True)
def _warp(images, sources, matrices, x, y, half, output):  # type: ignore[no-untyped-def]
    _, height, width, channels = images.shape
    one = x.dtype.type(1)
    for image in prange(output.shape[0]):
        source = _pad(images[sources[image]])
        a, b, u = matrices[image, 0]
        c, d, v = matrices[image, 1]
        for i in range(output.shape[1]):
            for j in range(output.shape[2]):
                column, p = _locate((a * x[j] + b * y[i] + u + one) * half[0], width, one)
                row, q = _locate((c * x[j] + d * y[i] + v + one) * half[1], height, one)
                for k in range(channels):
                    upper = (one - p) * source[row, column, k] + p * source[row, column + 1, k]
                    lower = (one - p) * source[row + 1, column, k] + p * source[row + 1, column + 1, k]
                    output[image, i, j, k] = (one - q) * upper + q * lower


@njit(cache=True, parallel=True)
def _warp_gradient(images, matrices, x, y, half, gradient, d_images, d_matrices):  # type: ignore[no-untyped-def]
    n, height, width, channels = images.shape
    one = x.dtype.type(1)
    for image in prange(n):
        source = _pad(images[image])
        into = np.zeros_like(source)
        a, b, u = matrices[image, 0]
        c, d, v = matrices[image, 1]
        total = np.zeros((2, 3), x.dtype)
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                at_column = (a * x[j] + b * y[i] + u + one) * half[0]
                at_row = (c * x[j] + d * y[i] + v + one) * half[1]
                column, p = _locate(at_column, width, one)
                row, q = _locate(at_row, height, one)
                inside = at_column > -one and at_column < width and at_row > -one and at_row < height
                if not inside:
                    continue
                d_column, d_row = one - one, one - one
                for k in range(channels):
                    g = gradient[image, i, j, k]
                    v00, v01 = source[row, column, k], source[row, column + 1, k]
                    v10, v11 = source[row + 1, column, k], source[row + 1, column + 1, k]
                    d_column += g * ((one - q) * (v01 - v00) + q * (v11 - v10))
                    d_row += g * ((one - p) * (v10 - v00) + p * (v11 - v01))
                    into[row, column, k] += g * (one - p) * (one - q)
                    into[row, column + 1, k] += g * p * (one - q)
                    into[row + 1, column, k] += g * (one - p) * q
                    into[row + 1, column + 1, k] += g * p * q
                d_column *= half[0]
                d_row *= half[1]
                total[0, 0] += d_column * x[j]
                total[0, 1] += d_column * y[i]
                total[0, 2] += d_column
                total[1, 0] += d_row * x[j]
                total[1, 1] += d_row * y[i]
                total[1, 2] += d_row
        d_matrices[image] = total
        d_images[image] = into[1 : height + 1, 1 : width + 1]


def _grid(height: int, width: int, dtype: DTypeLike) -> tuple[Floats, Floats, Floats]:
    """Normalised coordinates of columns (W,) and rows (H,); half the distance between border pixels (2,)."""
    x: np.ndarray[Any, Any] = np.linspace(-1, 1, width, dtype=dtype)
    y: np.ndarray[Any, Any] = np.linspace(-1, 1, height, dtype=dtype)
    return x, y, np.array([(width - 1) / 2, (height - 1) / 2], dtype)


def warp_images(images: Floats, matrices: Floats, sources: Integers | None = None) -> Floats:
    """Images (N, H, W, C) sampled under matrices (N, 2, 3); see the module.

    With `sources` (N,), output n is a warp of images[sources[n]], and there may be any number of images.
    """
    if sources is None:
        sources = np.arange(len(images))
    output = np.empty((len(sources), *images.shape[1:]), images.dtype)
    _warp(images, sources, matrices, *_grid(images.shape[1], images.shape[2], images.dtype), output)
    return output


def warp_images_gradient(images: Floats, matrices: Floats, gradient: Floats) -> tuple[Floats, Floats]:
    """Gradients to the images (N, H, W, C) and to the matrices (N, 2, 3) from that to the output."""
    d_images, d_matrices = np.empty_like(images), np.empty_like(matrices)
    x, y, half = _grid(images.shape[1], images.shape[2], images.dtype)
    _warp_gradient(images, matrices, x, y, half, np.ascontiguousarray(gradient), d_images, d_matrices)
    return d_images, d_matrices
