"""How far an image lies from a manifold.

Claim 1 of the paper, that regular adversarial examples leave the manifold, is measured as the L2 distance from an
image x~ to the nearest image of the class's manifold. Where a decoder is known, that is found by gradient descent
over its code (`project`). Otherwise the manifold is approximated near x by a flat piece, spanned by the training
images nearest to x~ (`subspace_distances`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.arrays import Floats, Integers, batches, flat_rows
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count
from hlf_np.errors import UserError
from hlf_np.optim import Adam, AdamConfig
from hlf_np.spaces.space import Chart, Norm

IMAGES_PER_BATCH = 200  # projected together; the result does not depend on it
STEPS_PER_DECAY = 10
# Directions in which the neighbours spread this much less than in the widest (squared) are rounding, not data.
SMALLEST_SPREAD = 1e-10


@dataclass(frozen=True)
class Projection:
    """The nearest points found on a manifold.

    codes : (N, ...), inside the manifold's box; images : (N, H, W, C), decoded from them.
    distances : (N,), L2 from the projected image.
    """

    codes: Floats
    images: Floats
    distances: Floats


def _single(images: Floats) -> Floats:
    """Images of any floating-point type as float32, side by side in memory; they may lie outside of [0, 1]."""
    if images.dtype.kind != "f":  # differences of unsigned numbers wrap around
        raise UserError(f"distances need floating-point images, not {images.dtype}: scale them to [0, 1] first")
    return np.ascontiguousarray(images, np.float32)


def project(
    images: Floats, chart: Chart, steps: int = 100, learning_rates: Sequence[float] = (0.09, 0.03), decay: float = 0.95
) -> Projection:
    """Project images onto a manifold: minimise ||x~ - dec(code)|| over the codes in the chart's box.

    Two descents with Adam. The first has the protocol's learning rate. Its first step moves *every* entry of the code
    by as much, whatever the gradient, and so throws about one image in a hundred out of the valley it began in, to a
    local minimum far away; a second descent with smaller steps stays. Both start at the chart's start, which need not
    be a code of `images`: for adversarial examples draw up the chart of the *original* images. The best code on the
    way is kept, so no distance is larger than at the start. It is an upper bound of the true one.

    Parameters
    ----------
    images : (N, H, W, C), x~.
    chart : of a space with a decoder, `TrueManifold` (then the font and class are given) or `LearnedManifold`. How
        far the space lets an attack go from the start plays no part here.
    steps : of each descent.
    learning_rates : of Adam, in the units of the code, one descent for each; `decay` multiplies them every 10 steps.

    Raises
    ------
    UserError : if there are not as many images as codes, or for images of whole numbers.

    Examples
    --------
    >>> from hlf_np.data.fonts import Fonts, load_prototypes
    >>> from hlf_np.spaces import TrueManifold
    >>> fonts = Fonts(load_prototypes())
    >>> test = fonts.dataset(0, 3).test
    >>> chart = TrueManifold(fonts).chart(test.images, test.labels, test.codes)
    >>> bool((project(test.images, chart, steps=2).distances < 1e-3).all())  # they lie on it
    True
    """
    check_count("steps", steps, least=0)
    images = _single(images)
    if len(images) != len(chart.start):
        raise UserError(f"{len(images)} images to project, but a chart of {len(chart.start)}: give one for each")
    configs = [AdamConfig(rate, betas=(0.9, 0.999), weight_decay=0, decay=decay) for rate in learning_rates]
    nearest = Projection(chart.start.copy(), np.empty_like(images), np.full(len(images), np.inf, np.float32))
    for rows in batches(len(images), IMAGES_PER_BATCH):
        for config in configs:
            _descend(images[rows], chart.take(rows), steps, config, nearest, rows)
    return nearest


def _descend(images: Floats, chart: Chart, steps: int, config: AdamConfig, nearest: Projection, rows: Integers) -> None:
    """Project one batch once; what is nearer than before goes to `rows` of `nearest`."""
    codes = Tensor(chart.start.copy(), requires_grad=True)
    optimiser = Adam([codes], config)
    for step in range(steps + 1):
        decoded = chart.decode(codes)
        difference = decoded - images
        distances = Norm.L2.of(difference.data)
        nearer = distances < nearest.distances[rows]
        chosen = rows[nearer]
        nearest.codes[chosen], nearest.images[chosen] = codes.data[nearer], decoded.data[nearer]
        nearest.distances[chosen] = distances[nearer]
        if step < steps:
            (difference**2).backward()  # the squared distances; each image's gradient is its own
            optimiser.step(config.rate(step // STEPS_PER_DECAY))
            np.clip(codes.data, chart.lower, chart.upper, out=codes.data)


def nearest_neighbours(images: Floats, among: Floats, count: int = 50) -> Integers:
    """The indices (N, count), ascending, of the images `among` (M, ...) that are nearest to each image in L2."""
    check_count("count", count, most=len(among))
    points, others = flat_rows(_single(images)), flat_rows(_single(among))
    squares = np.square(others).sum(axis=1)
    found = np.empty((len(points), count), np.int64)
    for batch in batches(len(points), IMAGES_PER_BATCH):
        # ||a - b||^2 = ||a||^2 - 2 a.b + ||b||^2, and ||a||^2 is the same for every b
        distances = squares - 2 * (points[batch] @ others.T)
        found[batch] = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
    return found


def subspace_distances(images: Floats, originals: Floats, training_images: Floats, neighbours: int = 50) -> Floats:
    """The L2 distances (N,) from images x~ to the subspace that their nearest training images span around x.

    With the differences of the neighbours from the original image x as the columns of A, and d = x~ - x, this is the
    residual of least squares::

        min_c ||d - A c||,   A^T A c = A^T d

    A^T A is only 50 x 50. Its eigenvectors of (almost) eigenvalue 0 are left out: they belong to neighbours that occur
    twice, or are x itself, and span nothing.

    Parameters
    ----------
    images, originals : (N, H, W, C), x~ and x.
    training_images : (M, H, W, C); neighbours : how many of them to take, up to M.

    Examples
    --------
    A plane in a space of four pixels; an image moved by (0.3, 0, 0.4, 0) is 0.4 away from it.

    >>> x = np.zeros((1, 2, 2, 1), np.float32)
    >>> plane = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32).reshape(2, 2, 2, 1)
    >>> moved = x + np.array([0.3, 0, 0.4, 0], np.float32).reshape(2, 2, 1)
    >>> subspace_distances(moved, x, plane, neighbours=2).round(6).tolist()
    [0.4]
    """
    if images.shape != originals.shape:
        raise UserError(f"{images.shape} images and {originals.shape} originals: give one original for each image")
    images, originals, training_images = map(_single, (images, originals, training_images))
    found = nearest_neighbours(images, training_images, neighbours)
    centres, pool = flat_rows(originals).astype(np.float64), flat_rows(training_images)
    moved = flat_rows(images) - centres  # (N, D)
    distances = np.empty(len(images))
    for batch in batches(len(images), IMAGES_PER_BATCH):
        spanning = pool[found[batch]] - centres[batch, None]  # (n, neighbours, D): A^T
        spread, directions = np.linalg.eigh(spanning @ spanning.transpose(0, 2, 1))
        small = spread < SMALLEST_SPREAD * spread[:, -1:]
        inverse = np.where(small, 0, 1 / np.where(small, 1, spread))
        products = np.einsum("nkd,nd->nk", spanning, moved[batch])
        coefficients = np.einsum("nij,nj,nkj,nk->ni", directions, inverse, directions, products, optimize=True)
        residuals = moved[batch] - np.einsum("nkd,nk->nd", spanning, coefficients)
        distances[batch] = np.linalg.norm(residuals, axis=1)
    return distances
