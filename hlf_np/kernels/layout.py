"""Where the pixels of a batch lie in a flat buffer: the source of the tables of rows that products gather and scatter.

A batch of images, channels last, each inside a *halo* of zeros. Two images of 2 x 3 pixels with a halo of 1:

    base      .   .   .   .   .     ^            .  a pixel of the halo, `channels` zeros
    origin -> .  [p] [p] [p]  .     |  image     p  a pixel, `channels` values
              .   p   p   p   .     |
              .   .   .   .   .     v
              <----- row ---->                   row = (width + 2 halo) * channels
              .   .   .   .   .
              .   p   p   p   .                  image = (height + 2 halo) * row
              .   p   p   p   .
              .   .   .   .   .

    pixel (n, i, j) starts at  origin + n * image + i * row + j * channels,  rows and columns from -halo on

A window that reaches beyond the image reads zeros from the halo, so convolutions need no bounds checks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.support.arrays import Integers


@dataclass(frozen=True)
class Layout:
    """The layout of a batch of images in a flat buffer; see the module.

    Parameters
    ----------
    images, height, width, channels : int
        Shape of the batch.
    halo : int
        Width of the halo of zeros around each image, in pixels.
    base : int
        Where the batch begins in the buffer, halo included.
    """

    images: int
    height: int
    width: int
    channels: int
    halo: int = 0
    base: int = 0

    @property
    def row(self) -> int:
        """Number of elements from one row of pixels to the next."""
        return (self.width + 2 * self.halo) * self.channels

    @property
    def image(self) -> int:
        """Number of elements from one image to the next."""
        return (self.height + 2 * self.halo) * self.row

    @property
    def size(self) -> int:
        """Number of elements of the batch with its halos."""
        return self.images * self.image

    @property
    def origin(self) -> int:
        """Where pixel (0, 0) of the first image starts."""
        return self.base + self.halo * (self.row + self.channels)

    def pixels(self, rows: ArrayLike, columns: ArrayLike) -> Integers:
        """Return where some pixels start, in all images.

        Parameters
        ----------
        rows, columns : array_like of int
            The pixels are all pairs of these, row by row. Those of the halo count: the first row is -halo.

        Returns
        -------
        ndarray of int64, shape (images * rows * columns,)
            Image after image.

        Examples
        --------
        >>> Layout(images=2, height=2, width=3, channels=1, halo=1).pixels([0, 1], [0, 2]).tolist()
        [6, 8, 11, 13, 26, 28, 31, 33]
        """
        within = np.asarray(rows, np.int64)[:, None] * self.row + np.asarray(columns, np.int64) * self.channels
        return (self.origin + np.arange(self.images)[:, None, None] * self.image + within).ravel()

    def all_pixels(self) -> Integers:
        """Return where every pixel starts, without those of the halo."""
        return self.pixels(np.arange(self.height), np.arange(self.width))


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the number of output pixels of a convolution along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def window_starts(layout: Layout, kernel: tuple[int, int], stride: int, padding: int) -> Integers:
    """Return where the window of each output pixel of a convolution starts; the halo must be at least `padding`."""
    rows = np.arange(output_size(layout.height, kernel[0], stride, padding)) * stride - padding
    columns = np.arange(output_size(layout.width, kernel[1], stride, padding)) * stride - padding
    return layout.pixels(rows, columns)


def window_segments(layout: Layout, kernel: tuple[int, int]) -> tuple[Integers, int]:
    """Return where the contiguous segments of a window start, relative to the window, and their length.

    The segments are its rows, or the whole window if its rows follow each other without a gap.
    """
    starts, length = np.arange(kernel[0]) * layout.row, kernel[1] * layout.channels
    return (starts[:1], kernel[0] * length) if length == layout.row else (starts, length)


@dataclass(frozen=True)
class Taps:
    """One phase of the input pixels along an axis, and the weights and output pixels that they meet.

    Input pixel i meets weight a at output pixel (i + padding - a) / stride, if that is an integer. So phase p has the
    pixels with (i + padding) % stride == p, and they meet the weights p, p + stride, ... For increasing output pixels
    the weights come in reversed order. With kernel 4, stride 2 and padding 1:

        pixel   0   1   2   3   4   5        phase 0 (i = 1, 3, 5): weights 0, 2 at outputs (i + 1) / 2, (i - 1) / 2
        phase   1   0   1   0   1   0        phase 1 (i = 0, 2, 4): weights 1, 3 at outputs i / 2, i / 2 - 1

    Attributes
    ----------
    phase : int
        p, which is also the first weight.
    pixels : ndarray of int64
        The input pixels of the phase.
    first : ndarray of int64
        For each of them the first output pixel that it meets, with the last weight; may lie outside of the output.
    count : int
        Number of weights of the phase.

    Examples
    --------
    >>> for phase in taps(size=6, kernel=4, stride=2, padding=1):
    ...     print(phase.phase, phase.pixels.tolist(), phase.first.tolist(), phase.count)
    0 [1, 3, 5] [0, 1, 2] 2
    1 [0, 2, 4] [-1, 0, 1] 2
    """

    phase: int
    pixels: Integers
    first: Integers
    count: int


def taps(size: int, kernel: int, stride: int, padding: int) -> list[Taps]:
    """Return the phases along one axis that have pixels."""
    phases = []
    for phase in range(stride):
        pixels = np.arange((phase - padding) % stride, size, stride)
        count = len(range(phase, kernel, stride))
        first = (pixels + padding - phase) // stride - max(count - 1, 0)
        if pixels.size:
            phases.append(Taps(phase, pixels, first, count))
    return phases


def halo_for_gradient(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the width of the halo that an output gradient needs for all taps along one axis to lie inside it."""
    out = output_size(size, kernel, stride, padding)
    reach = [(int(t.first.min()), int(t.first.max()) + t.count) for t in taps(size, kernel, stride, padding)]
    return max(0, *(-low for low, _ in reach), *(high - out for _, high in reach))
