"""Affine maps of images: the matrix of six parameters, and bilinear sampling.

Each pixel of a warped image samples the input at one position, which an affine map computes from the position of the
pixel. The sampled position lies between four pixels: at a fraction p of the way from the left pixels to the right
ones, and at a fraction q of the way from the top pixels to the bottom ones:

    v00 ------ v01
     |    .     |  q        value = (1 - q) ((1 - p) v00 + p v01) + q ((1 - p) v10 + p v11)
     |          |
    v10 ------ v11
        p

The gradient with respect to each of the four pixels is g times its weight. The derivative of the value with respect to
the column of the position is (1 - q) (v01 - v00) + q (v11 - v10), and with respect to its row
(1 - p) (v10 - v00) + p (v11 - v01). The gradient with respect to the matrix is g times these two *slopes*, times the
output position (x, y, 1), summed over all pixels.

Coordinates are normalized: -1 at the centre of the first pixel of a row or column, 1 at the centre of the last, and 0
at a single one. Pixels outside of the image are zero. The operation on tensors at the end of this file uses the NumPy
functions below for float64; for float32, compiled kernels replace them (see `_implementation`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.kernels.operations import warp as kernels
from hlf_np.kernels.operations.warp import coordinates
from hlf_np.support.arrays import Booleans, Floats, Integers

# (u, v, hx, hy, s, r) of the identity map
IDENTITY = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def affine_matrix(parameters: Tensor) -> Tensor:
    """Compute the sampling matrices of affine parameters.

    With translation (u, v), shear (hx, hy), scale s and rotation r, c = cos r, n = sin r:

        A = [[s c - s hx n,  -s n + s hx c,  u],
             [s hy c + s n,  -s hy n + s c,  v]]

    A maps *output* positions to *input* positions (see `warp`), so s > 1 shrinks the image. Each entry is linear in
    hx, hy and s; with respect to r, dc/dr = -n and dn/dr = c. The gradient with respect to a parameter is the sum over
    the entries of g times their derivatives, for instance d/dhx = s (c g[0, 1] - n g[0, 0]).

    Parameters
    ----------
    parameters : Tensor, shape (N, 6)
        u, v, hx, hy, s and r of each image; lengths in half images, angles in radians.

    Returns
    -------
    Tensor, shape (N, 2, 3)
        The matrices A.

    Examples
    --------
    A quarter turn:

    >>> affine_matrix(Tensor(np.array([[0, 0, 0, 0, 1, np.pi / 2]]))).data.round(6)[0]
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.]])
    """
    u, v, hx, hy, s, r = parameters.data.T
    c, n = np.cos(r), np.sin(r)
    matrix = np.stack([s * c - s * hx * n, s * hx * c - s * n, u, s * hy * c + s * n, s * c - s * hy * n, v], axis=1)

    def backward(g: Floats) -> tuple[Floats]:
        g00, g01, d_u, g10, g11, d_v = g.reshape(-1, 6).T
        d_hx = s * (c * g01 - n * g00)
        d_hy = s * (c * g10 - n * g11)
        d_s = g00 * (c - hx * n) + g01 * (hx * c - n) + g10 * (hy * c + n) + g11 * (c - hy * n)
        d_r = s * (-g00 * (n + hx * c) - g01 * (hx * n + c) + g10 * (c - hy * n) - g11 * (n + hy * c))
        return (np.stack([d_u, d_v, d_hx, d_hy, d_s, d_r], axis=1),)

    return Tensor.result(matrix.reshape(-1, 2, 3), (parameters,), backward)


# --- Bilinear sampling and its gradients, in NumPy ------------------------------------------------------------


def _output_positions(height: int, width: int) -> Floats:
    """Return (x, y, 1) of every output pixel in normalized coordinates, (3, H W)."""
    y, x = (axis.ravel() for axis in np.meshgrid(coordinates(height), coordinates(width), indexing="ij"))
    return np.stack([x, y, np.ones_like(x)])


def _input_positions(matrices: Floats, height: int, width: int) -> tuple[Integers, Integers, Floats, Floats]:
    """Return where every output pixel looks in the input: top, left, q and p of the drawing above, (N, H W) each."""
    positions = matrices @ _output_positions(height, width)  # (N, 2, H W)
    column, row = ((positions[:, k] + 1) / 2 * (size - 1) for k, size in enumerate((width, height)))
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    return top, left, row - top, column - left


def _is_inside(rows: Integers, columns: Integers, height: int, width: int) -> Booleans:
    return (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)


def _pixels(images: Floats, rows: Integers, columns: Integers) -> Floats:
    """Return the pixels (N, H W, C) at rows and columns (N, H W), zeros outside of the image."""
    n, height, width, _ = images.shape
    image = np.arange(n)[:, None]
    values = images[image, rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return np.where(_is_inside(rows, columns, height, width)[..., None], values, 0)


def warp_with_slopes(images: Floats, matrices: Floats) -> tuple[Floats, Floats]:
    """Warp images, and compute how every value changes with the position where it is sampled.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
        Images.
    matrices : ndarray, shape (N, 2, 3)
        Sampling matrices.

    Returns
    -------
    warped : ndarray, shape (N, H, W, C)
        The warped images.
    slopes : ndarray, shape (N, C, 2, H W)
        Derivatives with respect to the column and to the row of the sampled position, per pixel.
    """
    top, left, q, p = _input_positions(matrices, *images.shape[1:3])
    p, q = p[..., None], q[..., None]
    v00, v01 = _pixels(images, top, left), _pixels(images, top, left + 1)
    v10, v11 = _pixels(images, top + 1, left), _pixels(images, top + 1, left + 1)
    values = (1 - q) * ((1 - p) * v00 + p * v01) + q * ((1 - p) * v10 + p * v11)
    d_column = (1 - q) * (v01 - v00) + q * (v11 - v10)
    d_row = (1 - p) * (v10 - v00) + p * (v11 - v01)
    return values.reshape(images.shape), np.stack([d_column, d_row]).transpose(1, 3, 0, 2)


def warp_images(images: Floats, matrices: Floats) -> Floats:
    """Warp images without computing slopes; see `warp_with_slopes`."""
    return warp_with_slopes(images, matrices)[0]


def warp_image_gradient(matrices: Floats, gradient: Floats) -> Floats:
    """Compute the gradient with respect to the images.

    Parameters
    ----------
    matrices : ndarray, shape (N, 2, 3)
        Sampling matrices.
    gradient : ndarray, shape (N, H, W, C)
        Gradient with respect to the warped images, g.

    Returns
    -------
    ndarray, shape (N, H, W, C)
        The gradient: each pixel of g is distributed over the four pixels that it was interpolated from.
    """
    n, height, width, channels = gradient.shape
    top, left, q, p = _input_positions(matrices, height, width)
    g = gradient.reshape(n, height * width, channels)
    d_images = np.zeros_like(gradient)
    image = np.broadcast_to(np.arange(n)[:, None], top.shape)
    for rows, columns, weight in (
        (top, left, (1 - p) * (1 - q)),
        (top, left + 1, p * (1 - q)),
        (top + 1, left, (1 - p) * q),
        (top + 1, left + 1, p * q),
    ):
        inside = _is_inside(rows, columns, height, width)
        np.add.at(d_images, (image[inside], rows[inside], columns[inside]), (g * weight[..., None])[inside])
    return d_images


def warp_matrix_gradient(slopes: Floats, size: tuple[int, int], gradient: Floats) -> Floats:
    """Compute the gradient with respect to the matrices.

    Parameters
    ----------
    slopes : ndarray, shape (N, C, 2, H W)
        Second result of `warp_with_slopes`.
    size : tuple of int
        (H, W).
    gradient : ndarray, shape (N, H, W, C)
        Gradient with respect to the warped images, g.

    Returns
    -------
    ndarray, shape (N, 2, 3)
        The gradient.
    """
    height, width = size
    pixels_per_unit = np.array([(width - 1) / 2, (height - 1) / 2])[:, None]  # of the normalized coordinates
    g = gradient.reshape(len(gradient), height * width, -1)
    return np.asarray(np.einsum("npc,ncdp,kp->ndk", g, slopes, _output_positions(height, width)) * pixels_per_unit)


# --- Where the compiled kernels take over ---------------------------------------------------------------------


class Implementation(NamedTuple):
    """The four functions, in one of their two implementations."""

    warp_with_slopes: Callable[..., tuple[Floats, Floats]]
    warp_images: Callable[..., Floats]
    warp_image_gradient: Callable[..., Floats]
    warp_matrix_gradient: Callable[..., Floats]


NUMPY = Implementation(warp_with_slopes, warp_images, warp_image_gradient, warp_matrix_gradient)
COMPILED = Implementation(
    kernels.warp_with_slopes, kernels.warp_images, kernels.warp_image_gradient, kernels.warp_matrix_gradient
)


def _implementation(images: Tensor, parameters: Tensor) -> Implementation:
    """Return the compiled kernels for float32, and the functions above for float64.

    The compiled kernels take over here: `kernels.operations.warp` has the same four functions. They agree with those
    above up to rounding; the tests compare them.
    """
    if images.data.dtype != parameters.data.dtype:
        raise ValueError(
            f"the images are {images.data.dtype} and the parameters {parameters.data.dtype}: convert them to the same"
            " type, float32 or float64"
        )
    return COMPILED if images.data.dtype == np.float32 else NUMPY


# --- The operation on tensors ---------------------------------------------------------------------------------


def warp(images: Tensor, parameters: Tensor) -> Tensor:
    """Warp images by affine maps, with bilinear interpolation and zeros outside of the image.

    Output pixel (x, y) shows the input at A (x, y, 1) for A = `affine_matrix(parameters)`. Coordinates run from -1 at
    the centre of the first pixel to 1 at the centre of the last: `align_corners=True` in PyTorch's `affine_grid` and
    `grid_sample`. That was PyTorch's only convention when the paper was written, so the paper's translations mean
    the same here.

    Parameters
    ----------
    images : Tensor, shape (N, H, W, C)
        Images.
    parameters : Tensor, shape (N, 6)
        Parameters of the affine maps, see `affine_matrix`.

    Returns
    -------
    Tensor, shape (N, H, W, C)
        The warped images.

    Raises
    ------
    ValueError
        If images and parameters are not of the same type, or not as many.

    Examples
    --------
    A dot in the middle, and the same dot after the view has moved one pixel to the right:

    >>> dot = np.zeros((1, 5, 5, 1), np.float32)
    >>> dot[0, 2, 2] = 1
    >>> moved = warp(Tensor(dot), Tensor(np.array([[0.5, 0, 0, 0, 1, 0]], np.float32)))
    >>> moved.data[0, 2, :, 0].tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0]
    """
    if images.shape[0] != parameters.shape[0]:
        raise ValueError(f"{images.shape[0]} images cannot be warped by {parameters.shape[0]} maps: give one for each")
    compute = _implementation(images, parameters)
    matrices = affine_matrix(parameters)
    size = (images.shape[1], images.shape[2])
    if matrices.requires_grad:
        y, slopes = compute.warp_with_slopes(images.data, matrices.data)
    else:
        y, slopes = compute.warp_images(images.data, matrices.data), np.empty(0, images.data.dtype)

    def backward(g: Floats) -> tuple[Floats | None, Floats | None]:
        return (
            compute.warp_image_gradient(matrices.data, g) if images.requires_grad else None,
            compute.warp_matrix_gradient(slopes, size, g) if matrices.requires_grad else None,
        )

    return Tensor.result(y, (images, matrices), backward)
