"""Distances of images from a manifold.

Claim 1 of the paper, that regular adversarial examples leave the manifold, is measured by the L2 distance from an image
x~ to the nearest image of the manifold of its class. If a decoder is known, `project` finds that image by gradient
descent over the code. Otherwise, `subspace_distances` approximates the manifold near the original image x by the affine
subspace through x that the training images nearest to x~ span.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.optim import Adam, AdamConfig
from hlf_np.spaces.chart import Chart
from hlf_np.spaces.norm import Norm
from hlf_np.support.arrays import IMAGES_PER_BATCH, Floats, Integers, batches, flat_rows
from hlf_np.support.checks import check_count
from hlf_np.support.errors import UserError

STEPS_PER_DECAY = 10  # steps after which the learning rate decays
PRINCIPAL_COMPONENTS = 40  # in which neighbours are searched
MIN_RELATIVE_EIGENVALUE = 1e-10  # eigenvalues of A^T A below this fraction of the largest are rounding errors


@dataclass(frozen=True)
class Projection:
    """Projections of N images onto a manifold: the nearest points found.

    Attributes
    ----------
    codes : ndarray of float32, shape (N, ...)
        Their codes, inside the box of the manifold.
    images : ndarray of float32, shape (N, H, W, C)
        The decoded codes.
    distances : ndarray of float32, shape (N,)
        L2 distances from the images to their projections.
    """

    codes: Floats
    images: Floats
    distances: Floats


def _as_float32(images: Floats) -> Floats:
    """Convert finite images of any floating-point type to contiguous float32; values outside [0, 1] are allowed."""
    if images.dtype.kind != "f":  # differences of unsigned integers wrap around
        raise UserError(f"distances need floating-point images, not {images.dtype}: scale them to [0, 1] first")
    if not np.isfinite(images).all():
        raise UserError("distances need images without NaN or infinite values: remove them")
    return np.ascontiguousarray(images, np.float32)


def project(
    images: Floats, chart: Chart, steps: int = 100, learning_rates: Sequence[float] = (0.09, 0.03), decay: float = 0.95
) -> Projection:
    """Project images onto a manifold: minimise ||x~ - dec(code)|| over the codes in the chart's box.

    By default there are two descents with Adam, both from `chart.start`. The first uses the paper's learning rate. As
    Adam's first step moves *every* entry of the code by the learning rate, however small the gradient, about one image
    in a hundred leaves its valley and ends in a distant local minimum. The second descent, with smaller steps, does
    not. The best code of all iterations is kept, so no distance is larger than at the start. The result is an upper
    bound of the true distance.

    Parameters
    ----------
    images : ndarray of floats, shape (N, H, W, C)
        The images x~.
    chart : Chart
        A chart of a `TrueManifold` (font and class are then fixed) or a `LearnedManifold`. For adversarial examples,
        use the chart of the *original* images. The epsilon of the space is ignored.
    steps : int
        Number of steps of each descent.
    learning_rates : sequence of float
        Initial learning rate of each descent, in units of the code.
    decay : float
        Factor of the learning rate after every 10 steps.

    Returns
    -------
    Projection
        The nearest points found.

    Raises
    ------
    UserError
        If the numbers of images and codes differ, images are integers, or of another shape than those of the manifold.

    Examples
    --------
    >>> from hlf_np.data.fonts import Fonts, load_prototypes
    >>> from hlf_np.spaces import TrueManifold
    >>> fonts = Fonts(load_prototypes())
    >>> test = fonts.dataset(0, 3).test
    >>> chart = TrueManifold(fonts).chart(test.images, test.labels, test.codes)
    >>> bool((project(test.images, chart, steps=2).distances < 1e-3).all())  # they lie on the manifold
    True
    """
    check_count("steps", steps, minimum=0)
    images = _as_float32(images)
    if len(images) != len(chart.start):
        raise UserError(
            f"{len(images)} images to project, but the chart has {len(chart.start)}: use a chart of as many"
        )
    on_manifold = chart.take(np.arange(min(1, len(images)))).decoded(chart.start[:1])
    if images.shape[1:] != on_manifold.shape[1:]:
        raise UserError(f"images to project have shape {images.shape[1:]}, those of the chart {on_manifold.shape[1:]}")
    if not len(learning_rates):
        raise UserError("a projection needs at least one learning rate")
    configs = [AdamConfig(rate, betas=(0.9, 0.999), weight_decay=0, decay=decay) for rate in learning_rates]
    nearest = Projection(chart.start.copy(), np.empty_like(images), np.full(len(images), np.inf, np.float32))
    for rows in batches(len(images), IMAGES_PER_BATCH):
        for config in configs:
            _descend(images[rows], chart.take(rows), steps, config, nearest, rows)
    return nearest


def _descend(images: Floats, chart: Chart, steps: int, config: AdamConfig, nearest: Projection, rows: Integers) -> None:
    """Project one batch by one descent; write points nearer than before to `rows` of `nearest`."""
    codes = Tensor(chart.start.copy(), requires_grad=True)
    optimiser = Adam([codes], config)
    for step in range(steps + 1):
        decoded = chart.decode(codes)
        difference = decoded - images
        distances = Norm.L2.of(difference.data)
        nearer = distances < nearest.distances[rows]
        improved = rows[nearer]
        nearest.codes[improved], nearest.images[improved] = codes.data[nearer], decoded.data[nearer]
        nearest.distances[improved] = distances[nearer]
        if step < steps:
            (difference**2).backward()  # the squared distances; each image's gradient is its own
            optimiser.step(config.rate(step // STEPS_PER_DECAY))
            np.clip(codes.data, chart.lower, chart.upper, out=codes.data)


class NeighbourSearch:
    """Search for the images nearest to others in L2, as the paper does: in their first principal components.

    Most of the variance of images lies in few directions, the eigenvectors of their covariance with the largest
    eigenvalues. Noise, such as that of regular adversarial examples, hardly changes the coordinates in these.

    Parameters
    ----------
    images : ndarray of floats, shape (M, ...)
        The images to choose from.
    components : int, optional
        Number of principal components to compare; all pixels if None.

    Raises
    ------
    UserError
        If the images are integers.
    """

    def __init__(self, images: Floats, components: int | None = PRINCIPAL_COMPONENTS) -> None:
        if components is not None:
            check_count("components", components)
        self.images = flat_rows(_as_float32(images))  # (M, D)
        self.mean = self.images.mean(axis=0)
        self.axes = np.eye(self.images.shape[1], dtype=np.float32)  # (D, K), in columns
        if components is not None and components < len(self.axes):
            centred = self.images - self.mean
            _, eigenvectors = np.linalg.eigh(centred.T @ centred)  # in the order of ascending eigenvalues
            self.axes = np.ascontiguousarray(eigenvectors[:, -components:])
        self.points = self._coordinates(self.images)  # (M, K)

    def _coordinates(self, images: Floats) -> Floats:
        return np.asarray((images - self.mean) @ self.axes)

    def nearest(self, images: Floats, count: int = 50) -> Integers:
        """Find the nearest images.

        Parameters
        ----------
        images : ndarray of floats, shape (N, ...)
            The images whose neighbours are searched.
        count : int
            Number of neighbours, up to M.

        Returns
        -------
        ndarray of int64, shape (N, count)
            Their indices, in ascending order.

        Raises
        ------
        UserError
            If there are fewer images than neighbours, or images are integers.
        """
        check_count("count", count, maximum=len(self.points))
        points, squares = self._coordinates(flat_rows(_as_float32(images))), np.square(self.points).sum(axis=1)
        indices = np.empty((len(points), count), np.int64)
        for batch in batches(len(points), IMAGES_PER_BATCH):
            # ||a - b||^2 = ||a||^2 - 2 a.b + ||b||^2, where ||a||^2 is the same for every b
            distances = squares - 2 * (points[batch] @ self.points.T)
            indices[batch] = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
        return indices


def subspace_distances(
    images: Floats, originals: Floats, training_images: NeighbourSearch | Floats, neighbours: int = 50
) -> Floats:
    """Compute the L2 distances from images x~ to the subspaces that their nearest training images span around x.

    With the differences of the neighbours from the original image x as the columns of A, and d = x~ - x, the distance
    is the residual of a least-squares problem with its normal equations:

        min_c ||d - A c||,   A^T A c = A^T d,   c = (A^T A)^+ A^T d

    A^T A is only 50 x 50. It may be singular, so the solution uses its pseudo-inverse, which omits eigenvectors whose
    eigenvalue is (almost) 0. They stem from neighbours that occur twice or equal x, and contribute nothing to the span.

    Parameters
    ----------
    images : ndarray of floats, shape (N, H, W, C)
        The images x~.
    originals : ndarray of floats, shape (N, H, W, C)
        The original image x of each.
    training_images : NeighbourSearch, or ndarray of floats, shape (M, H, W, C)
        The images to choose neighbours from; from an array, they are chosen in 40 principal components.
    neighbours : int
        Number of neighbours, up to M.

    Returns
    -------
    ndarray of float64, shape (N,)
        The distances.

    Raises
    ------
    UserError
        If there is not one original per image, images are integers, or there are too few training images.

    Examples
    --------
    In a space of four pixels, an image displaced by (0.3, 0, 0.4, 0) from a plane through x is 0.4 away from it.

    >>> x = np.zeros((1, 2, 2, 1), np.float32)
    >>> plane = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32).reshape(2, 2, 2, 1)
    >>> moved = x + np.array([0.3, 0, 0.4, 0], np.float32).reshape(2, 2, 1)
    >>> subspace_distances(moved, x, plane, neighbours=2).round(6).tolist()
    [0.4]
    """
    if images.shape != originals.shape:
        raise UserError(f"{images.shape} images and {originals.shape} originals: pass one original for each image")
    images, originals = map(_as_float32, (images, originals))
    search = training_images if isinstance(training_images, NeighbourSearch) else NeighbourSearch(training_images)
    if search.images.shape[1] != flat_rows(images).shape[1]:
        raise UserError(f"images of shape {images.shape[1:]} do not have the pixels of those to search for neighbours")
    indices = search.nearest(images, neighbours)
    centres = flat_rows(originals).astype(np.float64)
    displacements = flat_rows(images) - centres  # d: (N, D)
    distances = np.empty(len(images))
    for batch in batches(len(images), IMAGES_PER_BATCH):
        transposed = search.images[indices[batch]] - centres[batch, None]  # A^T: (n, neighbours, D)
        d = displacements[batch, :, None]  # (n, D, 1)
        gram = transposed @ transposed.transpose(0, 2, 1)  # A^T A: (n, neighbours, neighbours)
        coefficients = np.linalg.pinv(gram, rcond=MIN_RELATIVE_EIGENVALUE, hermitian=True) @ (transposed @ d)
        residuals = d - transposed.transpose(0, 2, 1) @ coefficients
        distances[batch] = np.linalg.norm(residuals[:, :, 0], axis=1)
    return distances
