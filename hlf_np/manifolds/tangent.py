"""The tangent space of the true manifold, and which part of a vector lies in it.

The images of one letter of FONTS are dec(t) for six affine parameters t. Near such an image, the manifold is its
tangent space, spanned by the six columns of the Jacobian:

    J = d dec(t) / d t,   (pixels, 6)

A vector v of pixels, such as the gradient of a loss or a perturbation, splits into its tangent part, the projection on
that space, and the rest, which is normal to the manifold. `tangent_share` is the squared norm of the former as a
fraction of that of v. The share of a vector of random direction is 6 / 784 = 0.008 on average.

The paper argues that gradients, and hence regular adversarial examples, point away from the manifold. The share
measures how much.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.spaces import TrueManifold
from hlf_np.support.arrays import Floats, flat_rows

DIFFERENCE_STEP = 1e-5  # of central differences, in units of the code
MIN_RELATIVE_SINGULAR_VALUE = 1e-6  # smaller ones belong to directions in which the image does not change


def tangent_bases(manifold: TrueManifold, split: Split) -> Floats:
    """Compute an orthonormal basis of the manifold's tangent space at each image.

    Parameters
    ----------
    manifold : TrueManifold
        The manifold.
    split : Split
        The images, with their codes.

    Returns
    -------
    ndarray of float64, shape (N, D, K)
        Basis vectors in columns, one for each of the K entries of a code. If the image does not change in some
        direction, there are fewer, and the other columns are zero.
    """
    chart = manifold.chart(split.images, split.labels, split.codes)
    chart = replace(chart, images=chart.images.astype(np.float64))
    codes = chart.start.astype(np.float64)  # (N, K)
    columns = []
    for entry in range(codes.shape[1]):
        step = DIFFERENCE_STEP * (np.arange(codes.shape[1]) == entry)
        after, before = (flat_rows(chart.decode(Tensor(codes + sign * step)).data) for sign in (1, -1))
        columns.append((after - before) / (2 * DIFFERENCE_STEP))
    vectors, sizes, _ = np.linalg.svd(np.stack(columns, axis=2), full_matrices=False)
    spanning = sizes > MIN_RELATIVE_SINGULAR_VALUE * sizes.max(axis=1, keepdims=True)  # (N, K)
    return np.asarray(vectors * spanning[:, None, :])


def tangent_share(vectors: Floats, bases: Floats) -> Floats:
    """Compute the squared norm of the tangent part of each vector, as a fraction of that of the vector.

    Parameters
    ----------
    vectors : ndarray of floats, shape (N, ...)
        Vectors of D entries.
    bases : ndarray of floats, shape (N, D, K)
        Orthonormal bases of the tangent spaces, see `tangent_bases`.

    Returns
    -------
    ndarray of float64, shape (N,)
        The shares, from 0 to 1; NaN for a vector of zeros.

    Examples
    --------
    >>> basis = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])  # the plane of the first two axes
    >>> tangent_share(np.array([[3.0, 0.0, 4.0]]), basis).round(2).tolist()
    [0.36]
    """
    flat = flat_rows(vectors).astype(np.float64)  # (N, D)
    coordinates = np.einsum("nd,ndk->nk", flat, bases)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.square(coordinates).sum(axis=1) / np.square(flat).sum(axis=1))
