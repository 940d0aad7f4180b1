"""Affine maps of images, and their six parameters."""

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.kernels import warp as kernels
from hlf_np.operations import sampling


def affine_matrix(parameters: Tensor) -> Tensor:
    """The sampling matrix of six parameters.

    With translation (u, v), shear (hx, hy), scale s and rotation r, c = cos r, n = sin r::

        A = [[s c - s hx n,  -s n + s hx c,  u],
             [s hy c + s n,  -s hy n + s c,  v]]

    A maps *output* positions to *input* positions (see `warp`), so s > 1 shrinks the image. Each entry is linear in
    hx, hy and s; to r, dc/dr = -n and dn/dr = c. So the gradient to a parameter is the sum over the entries of g times
    their derivatives, for instance d/dhx = s (c g[0, 1] - n g[0, 0]).

    Parameters
    ----------
    parameters : (N, 6) in the order u, v, hx, hy, s, r; angles in radians, lengths in half images.

    Returns
    -------
    (N, 2, 3).

    Examples
    --------
    >>> affine_matrix(Tensor(np.array([[0, 0, 0, 0, 1, np.pi / 2]]))).data.round(6)[0]  # a quarter turn
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.]])
    """
    u, v, hx, hy, s, r = parameters.data.T
    c, n = np.cos(r), np.sin(r)
    matrix = np.stack([s * c - s * hx * n, s * hx * c - s * n, u, s * hy * c + s * n, s * c - s * hy * n, v], axis=1)

    def backward(g: Floats) -> tuple[Floats]:
        a, b, d_u, c_, d, d_v = g.reshape(-1, 6).T  # gradients to the entries, row by row
        d_hx = s * (c * b - n * a)
        d_hy = s * (c * c_ - n * d)
        d_s = a * (c - hx * n) + b * (hx * c - n) + c_ * (hy * c + n) + d * (c - hy * n)
        d_r = s * (-a * (n + hx * c) - b * (hx * n + c) + c_ * (c - hy * n) - d * (n + hy * c))
        return (np.stack([d_u, d_v, d_hx, d_hy, d_s, d_r], axis=1),)

    return Tensor.result(matrix.reshape(-1, 2, 3), (parameters,), backward)


def warp(images: Tensor, parameters: Tensor) -> Tensor:
    """Images moved by the affine map of six parameters, bilinearly interpolated, zeros outside.

    Output pixel (x, y) shows the input at A (x, y, 1) for A = `affine_matrix(parameters)`. Coordinates
    run from -1 at the centre of the first pixel to 1 at the centre of the last: `align_corners=True` in
    PyTorch's `affine_grid` and `grid_sample`. That was PyTorch's only convention when the paper was
    written, so the protocol's translations mean what they meant there.

    Parameters
    ----------
    images : (N, H, W, C); parameters : (N, 6), see `affine_matrix`.

    A pixel of the result is a sum of four pixels of the image, with weights that depend on A. So the gradient to the
    image gives each of the four g times its weight. The gradient to A is g times the slope of the image there, which
    `sampling` derives from the same four pixels, times the position (x, y, 1), summed over all pixels.

    Examples
    --------
    A dot in the middle, and the same seen from one pixel further right.

    >>> dot = np.zeros((1, 5, 5, 1), np.float32)
    >>> dot[0, 2, 2] = 1
    >>> moved = warp(Tensor(dot), Tensor(np.array([[0.5, 0, 0, 0, 1, 0]], np.float32)))
    >>> moved.data[0, 2, :, 0].tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0]
    """
    if images.data.dtype != parameters.data.dtype:
        raise ValueError(f"warp needs one type throughout, not {images.data.dtype} and {parameters.data.dtype}")
    matrices = affine_matrix(parameters)
    size = (images.shape[1], images.shape[2])
    computing = kernels if images.data.dtype == "float32" else sampling  # as of convolutions
    if matrices.requires_grad:
        y, slopes = computing.warp_with_slopes(images.data, matrices.data)
    else:
        y, slopes = computing.warp_images(images.data, matrices.data), np.empty(0, images.data.dtype)

    def backward(g: Floats) -> tuple[Floats | None, Floats | None]:
        return (
            computing.warp_image_gradient(matrices.data, g) if images.requires_grad else None,
            computing.warp_matrix_gradient(slopes, size, g) if matrices.requires_grad else None,
        )

    return Tensor.result(y, (images, matrices), backward)


# (u, v, hx, hy, s, r) of the map that moves nothing
IDENTITY = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
