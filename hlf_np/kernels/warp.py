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

from dataclasses import dataclass

import numpy as np

from hlf_np.arrays import Floats, Integers, filled, flat_rows, plain
from hlf_np.kernels.buffers import empty
from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner, summing
from hlf_np.kernels.convolution import copy
from hlf_np.kernels.linking import floats, integer, matrix, single, table, together
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.sampling import make_sampler
from hlf_np.kernels.tile import padded

SHARES = 64  # of the images, for the threads

sample = make_sampler()


@inner
def fill_plane(image, step, height, width, plane):  # type: ignore[no-untyped-def]
    """Put every `step`-th number of a flat image into a plane with one zero in front of each row and two behind, and as
    many rows above and below: positions brought inside [-1, size], the first of the zeros, then need no test."""
    for i in range(height):
        source, row = image[i * width * step :], plane[(i + 1) * (width + 3) + 1 :]
        if step == 1:
            copy(source, row, width)
        else:
            for j in range(width):
                row[j] = source[j * step]


@inner
def warp_share(share, shares, images, sources, maps, x, y, most, size, output, slopes):  # type: ignore[no-untyped-def]
    """A share of the images.

    slopes : (N, channels, 2, pixels): derivatives to column and line; N may be 0 if nobody needs them.
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
            to = output[image, channel:]
            samples = to if channels == 1 else values
            sample(plane, width + 3, x, y, pixels, maps, 6 * image, most, samples, derivatives[0], derivatives[1])
            if channels > 1:
                for k in range(pixels):
                    to[k * channels] = values[k]


WARP = Parallel(
    warp_share,
    integer, matrix, table, floats, floats, floats, floats,
    together((integer, integer, integer)), matrix, single[:, :, :, ::1],
)  # fmt: skip
_warp_shares = WARP.spread


@kernel
def _warp(addresses, shares, *arguments):  # type: ignore[no-untyped-def]
    _warp_shares(addresses, shares, *arguments)


@summing
def map_gradient(columns, lines, gradient, x, y, count):  # type: ignore[no-untyped-def]
    """Sums over `count` pixels of g times the derivative to the column, times x, y and 1; and of that to the line."""
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


@inner
def matrix_gradient_share(share, shares, slopes, gradient, x, y, half, d_matrices):  # type: ignore[no-untyped-def]
    """A share of the images."""
    begin, end = share * len(slopes) // shares, (share + 1) * len(slopes) // shares
    _, channels, _, pixels = slopes.shape
    d_matrices[begin:end] = 0
    for image in range(begin, end):
        for channel in range(channels):
            columns, lines = slopes[image, channel, 0], slopes[image, channel, 1]
            sums = map_gradient(columns, lines, gradient[image, channel], x, y, pixels)
            for k in range(6):
                d_matrices[image, k] += sums[k] * half[k // 3]


MATRIX_GRADIENT = Parallel(
    matrix_gradient_share,
    integer, single[:, :, :, ::1], single[:, :, ::1], floats, floats, floats, matrix
)  # fmt: skip
_matrix_gradient_shares = MATRIX_GRADIENT.spread


@kernel
def _matrix_gradient(addresses, shares, *arguments):  # type: ignore[no-untyped-def]
    _matrix_gradient_shares(addresses, shares, *arguments)


@inner
def _clamp(position, zero, most):  # type: ignore[no-untyped-def]
    """A position between zero and most; NaN becomes 0, and no index leaves the plane."""
    inside = position if position > zero else zero
    return inside if inside < most else most


@kernel(error_model="numpy")
def _image_gradient(matrices, x, y, half, most, gradient, d_images):  # type: ignore[no-untyped-def]
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


@dataclass(frozen=True)
class Grid:
    """The pixels of an image, and how matrices in normalised coordinates become maps to positions in its plane."""

    height: int
    width: int

    @property
    def half(self) -> Floats:
        """Half the distance between the centres of border pixels, in columns and rows, (2,)."""
        return np.array([(self.width - 1) / 2, (self.height - 1) / 2], np.float32)

    @property
    def most(self) -> Floats:
        """The last position in a plane where a pixel and its neighbour can be read, (2,)."""
        return np.array([self.width + 1, self.height + 1], np.float32)

    @property
    def axes(self) -> tuple[Floats, Floats]:
        """Normalised coordinates of columns (W,) and rows (H,)."""
        return np.linspace(-1, 1, self.width, dtype=np.float32), np.linspace(-1, 1, self.height, dtype=np.float32)

    @property
    def positions(self) -> tuple[Floats, Floats]:
        """x and y of every pixel, flat, filled up to whole vectors."""
        x, y = self.axes
        size = (padded(self.height * self.width),)
        return filled(size, np.tile(x, self.height)), filled(size, np.repeat(y, self.width))

    def maps(self, matrices: Floats) -> Floats:
        """Matrices (N, 2, 3) as maps to columns and lines of a plane, flat; see the module."""
        scaled = matrices * self.half[:, None]
        scaled[:, :, 2] += self.half + np.float32(1)
        return scaled.ravel()


def warp_images(images: Floats, matrices: Floats, sources: Integers | None = None) -> Floats:
    """Images (N, H, W, C) sampled under matrices (N, 2, 3); see the module.

    With `sources` (N,), output n is a warp of images[sources[n]], and there may be any number of images.
    """
    return _warped(images, matrices, np.arange(len(images)) if sources is None else sources, slopes=False)[0]


def warp_with_slopes(images: Floats, matrices: Floats) -> tuple[Floats, Floats]:
    """The warped images, and the derivatives of every pixel to column and row, (N, C, 2, H W)."""
    return _warped(images, matrices, np.arange(len(images)), slopes=True)


def _warped(images: Floats, matrices: Floats, sources: Integers, slopes: bool) -> tuple[Floats, Floats]:
    _, height, width, channels = images.shape
    grid = Grid(height, width)
    output = empty((len(sources), height, width, channels))
    derivatives = empty((len(sources) if slopes else 0, channels, 2, height * width))
    shares = min(len(sources), SHARES)
    _warp(
        WARP.addresses, shares, shares, flat_rows(plain(images)), plain(sources), grid.maps(matrices), *grid.positions,
        grid.most, (height, width, channels), flat_rows(output), derivatives,
    )  # fmt: skip
    return output, derivatives


def warp_matrix_gradient(slopes: Floats, size: tuple[int, int], gradient: Floats) -> Floats:
    """Gradient to the matrices (N, 2, 3) from that to the output (N, H, W, C), with its `slopes` and size = (H, W)."""
    grid = Grid(*size)
    by_channel = plain(gradient.transpose(0, 3, 1, 2)).reshape(len(gradient), gradient.shape[3], -1)
    d_matrices = np.empty((len(slopes), 6), np.float32)
    shares = min(len(slopes), SHARES)
    _matrix_gradient(
        MATRIX_GRADIENT.addresses, shares, shares, plain(slopes), by_channel, *grid.positions, grid.half, d_matrices
    )
    return d_matrices.reshape(-1, 2, 3)


def warp_image_gradient(matrices: Floats, gradient: Floats) -> Floats:
    """Gradient to the images (N, H, W, C) from that to the output, of the same shape."""
    d_images = empty(gradient.shape)
    grid = Grid(gradient.shape[1], gradient.shape[2])
    _image_gradient(matrices, *grid.axes, grid.half, grid.most, np.ascontiguousarray(gradient), d_images)
    return d_images
