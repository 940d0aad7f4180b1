"""Bilinear sampling of images under affine maps in NumPy, to read: what `kernels.warp` computes faster, and explains.

The autodiff takes these for float64, as in gradient checks, and the kernels for float32.
"""

import numpy as np

from hlf_np.arrays import Floats, Integers


def _corners(matrices: Floats, height: int, width: int) -> tuple[Integers, Integers, Floats, Floats]:
    """For every pixel of the output, (N, H W), where it looks in the input: row and column of the pixel at or before
    that position, and the fractions of a pixel that are left."""
    y, x = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"))
    where = matrices @ np.stack([x, y, np.ones_like(x)])  # (N, 2, H W)
    column, row = ((where[:, k] + 1) / 2 * (size - 1) for k, size in enumerate((width, height)))
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    return top, left, row - top, column - left


def _at(images: Floats, rows: Integers, columns: Integers) -> Floats:
    """The pixels (N, H W, C) at rows and columns (N, H W), zeros beyond the image."""
    _, height, width, _ = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    number = np.arange(len(images))[:, None]
    return np.where(inside[..., None], images[number, rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


def warp_with_slopes(images: Floats, matrices: Floats) -> tuple[Floats, Floats]:
    """Images (N, H, W, C) under matrices (N, 2, 3); and the derivatives of every pixel with respect to the column and
    the row where it looks, (N, C, 2, H W)."""
    top, left, q, p = _corners(matrices, *images.shape[1:3])
    p, q = p[..., None], q[..., None]
    v00, v01 = _at(images, top, left), _at(images, top, left + 1)
    v10, v11 = _at(images, top + 1, left), _at(images, top + 1, left + 1)
    values = (1 - q) * ((1 - p) * v00 + p * v01) + q * ((1 - p) * v10 + p * v11)
    to_column, to_row = (1 - q) * (v01 - v00) + q * (v11 - v10), (1 - p) * (v10 - v00) + p * (v11 - v01)
    return values.reshape(images.shape), np.stack([to_column, to_row]).transpose(1, 3, 0, 2)


def warp_images(images: Floats, matrices: Floats) -> Floats:
    """The images alone."""
    return warp_with_slopes(images, matrices)[0]


def warp_matrix_gradient(slopes: Floats, size: tuple[int, int], gradient: Floats) -> Floats:
    """With respect to the matrices, (N, 2, 3), from the slopes and the output's gradient (N, H, W, C)."""
    height, width = size
    y, x = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"))
    half = np.array([(width - 1) / 2, (height - 1) / 2])[:, None]  # from normalised coordinates to pixels
    g = gradient.reshape(len(gradient), height * width, -1)
    return np.asarray(np.einsum("npc,ncdp,kp->ndk", g, slopes, np.stack([x, y, np.ones_like(x)])) * half)


def warp_image_gradient(matrices: Floats, gradient: Floats) -> Floats:
    """With respect to the images (N, H, W, C): each pixel's gradient is given to the four around where it looks."""
    count, height, width, channels = gradient.shape
    top, left, q, p = _corners(matrices, height, width)
    g = gradient.reshape(count, height * width, channels)
    result = np.zeros_like(gradient)
    number = np.broadcast_to(np.arange(count)[:, None], top.shape)
    for rows, columns, share in (
        (top, left, (1 - p) * (1 - q)),
        (top, left + 1, p * (1 - q)),
        (top + 1, left, (1 - p) * q),
        (top + 1, left + 1, p * q),
    ):
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        np.add.at(result, (number[inside], rows[inside], columns[inside]), (g * share[..., None])[inside])
    return result
