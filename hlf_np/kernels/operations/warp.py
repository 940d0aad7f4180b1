"""Bilinear sampling of images under affine maps, and its gradients.

Coordinates are normalized: -1 and 1 are the *centres* of the first and last pixel. Output pixel (x, y) takes its value
at:

    (x', y') = A (x, y, 1),      A = [[a, b, u], [c, d, v]]

interpolated between the four pixels around it, zero outside. In pixels, column = (x' + 1) / 2 * (W - 1).

Gradients. With p, q the fractions of the position between columns and rows, v00, v01, v10, v11 the values around it
(row, column):

    value       = (1 - q) ((1 - p) v00 + p v01) + q ((1 - p) v10 + p v11)
    d/d column  = (1 - q) (v01 - v00) + q (v11 - v10)
    d/d row     = (1 - p) (v10 - v00) + p (v11 - v01)

and by the chain rule d value / d A[0] = d/d column * (W - 1) / 2 * (x, y, 1), likewise A[1] with rows.

**Planes.** One channel of an image is copied into a *plane*, with a border of zeros, so that every position that is
clipped to the plane has four neighbours. Columns and lines of a plane count from its border; 2 x 3 pixels:

    line 0      0  0  0  0  0  0       column = (x' + 1) / 2 * (W - 1) + 1,  clipped to [0, W + 1]
         1      0  p  p  p  0  0       line   = (y' + 1) / 2 * (H - 1) + 1,  clipped to [0, H + 1]
         2      0  p  p  p  0  0
         3      0  0  0  0  0  0       one zero on the left and above, two on the right and below
         4      0  0  0  0  0  0
    column      0  1  2  3  4  5
"""

from dataclasses import dataclass

import numpy as np

from hlf_np.kernels.buffers import empty
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee, reassociating
from hlf_np.kernels.numba_internals.numba_types import (
    Tuple,
    float32_1d,
    float32_2d,
    float32_3d,
    float32_4d,
    int64,
    int64_1d,
)
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.operations.sampling import make_sampler
from hlf_np.kernels.products.product import copy
from hlf_np.kernels.products.tile import padded
from hlf_np.support.arrays import Floats, Integers, as_contiguous, flat_rows, zero_padded

MAP_SIZE = padded(6)  # elements that hold the six numbers of an affine map, whole vectors
MAX_SHARES = 64  # parts of the images, for the threads

sample = make_sampler()


@callee
def fill_plane(image, step, height, width, plane):  # type: ignore[no-untyped-def]
    """Copy every `step`-th value of a flat image into a plane; see the module."""
    for i in range(height):
        source, row = image[i * width * step :], plane[(i + 1) * (width + 3) + 1 :]
        if step == 1:
            copy(source, row, width)
        else:
            for j in range(width):
                row[j] = source[j * step]


@callee
def warp_share(  # type: ignore[no-untyped-def]
    share, shares, images, sources, maps, x, y, limits, size, output, slopes
):
    """Warp one share of the images.

    images : (any number, H W C), flat images.
    sources : (N,), which of them each output is a warp of.
    maps : (6 N,), see `Grid.maps`.
    x, y : the coordinates of all pixels, padded to whole vectors.
    limits : the largest column and line.
    size : (H, W, C).
    output : (N, H W C).
    slopes : (N, C, 2, H W), the derivatives with respect to column and line; (0, C, 2, H W) if not needed.
    """
    begin, end = share * output.shape[0] // shares, (share + 1) * output.shape[0] // shares
    height, width, channels = size
    pixels = height * width
    plane, values = np.zeros((height + 3) * (width + 3), x.dtype), np.empty(x.size, x.dtype)
    unused = np.empty((2, x.size), x.dtype)
    for image in range(begin, end):
        for channel in range(channels):
            fill_plane(images[sources[image], channel:], channels, height, width, plane)
            derivatives = slopes[image, channel] if slopes.shape[0] else unused
            target = output[image, channel:]
            samples = target if channels == 1 else values
            sample(plane, width + 3, x, y, pixels, maps, 6 * image, limits, samples, derivatives[0], derivatives[1])
            if channels > 1:
                for k in range(pixels):
                    target[k * channels] = values[k]


WARP = ParallelLoop(
    warp_share,
    int64, float32_2d, int64_1d, float32_1d, float32_1d, float32_1d, float32_1d,
    Tuple((int64, int64, int64)), float32_2d, float32_4d,
)  # fmt: skip
_warp_shares = WARP.parallel_for


@kernel
def _warp(addresses, shares, *arguments):  # type: ignore[no-untyped-def]
    """Run `warp_share` in all threads."""
    _warp_shares(addresses, shares, *arguments)


@reassociating
def map_gradient(columns, lines, gradient, x, y, count):  # type: ignore[no-untyped-def]
    """Return the gradient with respect to the six coefficients of a map, column = a x + b y + u, line = c x + d y + v.

    Sums over `count` pixels of the gradient times the derivative of the pixel with respect to its column, times x, y
    and 1; then likewise for its line.
    """
    zero = gradient.dtype.type(0)
    a, b, u, c, d, v = zero, zero, zero, zero, zero, zero
    for k in range(count):
        column, line = gradient[k] * columns[k], gradient[k] * lines[k]
        a += column * x[k]
        b += column * y[k]
        u += column
        c += line * x[k]
        d += line * y[k]
        v += line
    return a, b, u, c, d, v


@callee
def matrix_gradient_share(share, shares, slopes, gradient, x, y, pixels_per_unit, d_matrices):  # type: ignore[no-untyped-def]
    """Compute the gradients with respect to one share of the matrices.

    slopes : (N, C, 2, H W), see `warp_share`.
    gradient : (N, C, H W), with respect to the output.
    x, y : the coordinates of all pixels.
    pixels_per_unit : (2,), see `Grid`.
    d_matrices : (N, 6), the result.
    """
    begin, end = share * len(slopes) // shares, (share + 1) * len(slopes) // shares
    _, channels, _, pixels = slopes.shape
    d_matrices[begin:end] = 0
    for image in range(begin, end):
        for channel in range(channels):
            columns, lines = slopes[image, channel, 0], slopes[image, channel, 1]
            sums = map_gradient(columns, lines, gradient[image, channel], x, y, pixels)
            for k in range(6):
                d_matrices[image, k] += sums[k] * pixels_per_unit[k // 3]


MATRIX_GRADIENT = ParallelLoop(
    matrix_gradient_share,
    int64, float32_4d, float32_3d, float32_1d, float32_1d, float32_1d, float32_2d
)  # fmt: skip
_matrix_gradient_shares = MATRIX_GRADIENT.parallel_for


@kernel
def _matrix_gradient(addresses, shares, *arguments):  # type: ignore[no-untyped-def]
    """Run `matrix_gradient_share` in all threads."""
    _matrix_gradient_shares(addresses, shares, *arguments)


@callee
def _clip(position, zero, limit):  # type: ignore[no-untyped-def]
    """Clip a position to [0, limit]. NaN becomes 0, so that no index is out of bounds."""
    inside = position if position > zero else zero
    return inside if inside < limit else limit


@kernel(error_model="numpy")
def _image_gradient(matrices, x, y, pixels_per_unit, limits, gradient, d_images):  # type: ignore[no-untyped-def]
    """Add the gradient of each output pixel to the four pixels that it was interpolated between."""
    n, height, width, channels = d_images.shape
    row = width + 3
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for image in range(n):
        a, b, u = matrices[image, 0, 0], matrices[image, 0, 1], matrices[image, 0, 2]
        c, d, v = matrices[image, 1, 0], matrices[image, 1, 1], matrices[image, 1, 2]
        for channel in range(channels):
            plane = np.zeros((height + 3) * row, x.dtype)
            for i in range(height):
                for j in range(width):
                    column = _clip((a * x[j] + b * y[i] + u + one) * pixels_per_unit[0] + one, zero, limits[0])
                    line = _clip((c * x[j] + d * y[i] + v + one) * pixels_per_unit[1] + one, zero, limits[1])
                    first, top = np.int32(column), np.int32(line)
                    p, q = column - x.dtype.type(first), line - x.dtype.type(top)
                    corner = top * row + first
                    g = gradient[image, i, j, channel]
                    plane[corner] += g * (one - p) * (one - q)
                    plane[corner + 1] += g * p * (one - q)
                    plane[corner + row] += g * (one - p) * q
                    plane[corner + row + 1] += g * p * q
            for i in range(height):
                for j in range(width):
                    d_images[image, i, j, channel] = plane[(i + 1) * row + j + 1]


def coordinates(size: int) -> Floats:
    """Return the normalized coordinates of a row or column of pixels: from -1 to 1, and 0 for a single one."""
    return np.linspace(-1, 1, size) if size > 1 else np.zeros(size)


@dataclass(frozen=True)
class Grid:
    """The pixels of an image, and the conversion of normalized coordinates to positions in a plane.

    Parameters
    ----------
    height, width : int
        Of the image, in pixels.
    """

    height: int
    width: int

    @property
    def pixels_per_unit(self) -> Floats:
        """Columns and rows per unit of the normalized coordinates, (2,)."""
        return np.array([(self.width - 1) / 2, (self.height - 1) / 2], np.float32)

    @property
    def limits(self) -> Floats:
        """The largest column and line of a position in a plane, (2,)."""
        return np.array([self.width + 1, self.height + 1], np.float32)

    @property
    def axes(self) -> tuple[Floats, Floats]:
        """Normalized coordinates of the columns (W,) and of the rows (H,)."""
        x, y = (coordinates(size).astype(np.float32) for size in (self.width, self.height))
        return x, y

    @property
    def positions(self) -> tuple[Floats, Floats]:
        """x and y of every pixel, flat, padded to whole vectors."""
        x, y = self.axes
        size = (padded(self.height * self.width),)
        return zero_padded(size, np.tile(x, self.height)), zero_padded(size, np.repeat(y, self.width))

    def maps(self, matrices: Floats) -> Floats:
        """Return matrices (N, 2, 3) as maps from normalized coordinates to columns and lines of a plane, flat."""
        scaled = matrices * self.pixels_per_unit[:, None]
        scaled[:, :, 2] += self.pixels_per_unit + np.float32(1)
        return scaled.ravel()


def warp_images(images: Floats, matrices: Floats, sources: Integers | None = None) -> Floats:
    """Sample images under affine maps; see the module.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        The images; any number of them if there are `sources`.
    matrices : ndarray of float32, shape (N, 2, 3)
        The maps, in normalized coordinates.
    sources : ndarray of int64, shape (N,), optional
        Output n is a warp of images[sources[n]]; by default of images[n].

    Returns
    -------
    ndarray of float32, shape (N, H, W, C)
    """
    return _warped(images, matrices, np.arange(len(images)) if sources is None else sources, slopes=False)[0]


def warp_with_slopes(images: Floats, matrices: Floats) -> tuple[Floats, Floats]:
    """Sample images under affine maps and differentiate.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        The images.
    matrices : ndarray of float32, shape (N, 2, 3)
        The maps, in normalized coordinates.

    Returns
    -------
    warped : ndarray of float32, shape (N, H, W, C)
        The warped images.
    slopes : ndarray of float32, shape (N, C, 2, H W)
        The derivatives of each output pixel with respect to its column and row.
    """
    return _warped(images, matrices, np.arange(len(images)), slopes=True)


def _warped(images: Floats, matrices: Floats, sources: Integers, slopes: bool) -> tuple[Floats, Floats]:
    _, height, width, channels = images.shape
    grid = Grid(height, width)
    output = empty((len(sources), height, width, channels))
    derivatives = empty((len(sources) if slopes else 0, channels, 2, height * width))
    shares = min(len(sources), MAX_SHARES)
    _warp(
        WARP.addresses, shares, shares, flat_rows(as_contiguous(images)), as_contiguous(sources),
        grid.maps(matrices), *grid.positions, grid.limits, (height, width, channels), flat_rows(output), derivatives,
    )  # fmt: skip
    return output, derivatives


def warp_matrix_gradient(slopes: Floats, size: tuple[int, int], gradient: Floats) -> Floats:
    """Compute the gradient with respect to the matrices.

    Parameters
    ----------
    slopes : ndarray of float32, shape (N, C, 2, H W)
        From `warp_with_slopes`.
    size : tuple of int
        (H, W).
    gradient : ndarray of float32, shape (N, H, W, C)
        Gradient with respect to the warped images.

    Returns
    -------
    ndarray of float32, shape (N, 2, 3)
    """
    grid = Grid(*size)
    by_channel = as_contiguous(gradient.transpose(0, 3, 1, 2)).reshape(len(gradient), gradient.shape[3], -1)
    d_matrices = np.empty((len(slopes), 6), np.float32)
    shares = min(len(slopes), MAX_SHARES)
    _matrix_gradient(
        MATRIX_GRADIENT.addresses, shares, shares, as_contiguous(slopes), by_channel, *grid.positions,
        grid.pixels_per_unit, d_matrices,
    )  # fmt: skip
    return d_matrices.reshape(-1, 2, 3)


def warp_image_gradient(matrices: Floats, gradient: Floats) -> Floats:
    """Compute the gradient with respect to the images.

    Parameters
    ----------
    matrices : ndarray of float32, shape (N, 2, 3)
        The maps, in normalized coordinates.
    gradient : ndarray of float32, shape (N, H, W, C)
        Gradient with respect to the warped images.

    Returns
    -------
    ndarray of float32, shape (N, H, W, C)
    """
    d_images = empty(gradient.shape)
    grid = Grid(gradient.shape[1], gradient.shape[2])
    _image_gradient(matrices, *grid.axes, grid.pixels_per_unit, grid.limits, np.ascontiguousarray(gradient), d_images)
    return d_images
