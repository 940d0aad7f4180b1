"""Where the pixels of a batch lie in a flat buffer: the tables of rows that the micro-kernel gathers and scatters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.arrays import Integers


@dataclass(frozen=True)
class Layout:
    """A batch of images (images, height, width, channels), channels last, each inside a frame of zeros.

    frame : width of the frame in pixels. A convolution then reads beyond the image without a test.
    base : where the buffer begins in a larger one.
    """

    images: int
    height: int
    width: int
    channels: int
    frame: int = 0
    base: int = 0

    @property
    def row(self) -> int:
        """Numbers from one row of pixels to the next."""
        return (self.width + 2 * self.frame) * self.channels

    @property
    def image(self) -> int:
        """Numbers from one image to the next."""
        return (self.height + 2 * self.frame) * self.row

    @property
    def size(self) -> int:
        return self.images * self.image

    @property
    def origin(self) -> int:
        """Where pixel (0, 0) of the first image starts."""
        return self.base + self.frame * (self.row + self.channels)

    def pixels(self, rows: ArrayLike, columns: ArrayLike) -> Integers:
        """Where the pixels at all `rows` x `columns` start, image after image; both from -frame on. Flat, int64."""
        within = np.asarray(rows, np.int64)[:, None] * self.row + np.asarray(columns, np.int64) * self.channels
        return (self.origin + np.arange(self.images)[:, None, None] * self.image + within).ravel()

    def all_pixels(self) -> Integers:
        """Where every pixel starts."""
        return self.pixels(np.arange(self.height), np.arange(self.width))


def convolved(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output pixels of a convolution along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def windows(layout: Layout, kernel: tuple[int, int], stride: int, padding: int) -> Integers:
    """Where the window of each output pixel of a convolution starts; needs a frame of at least `padding`."""
    rows = np.arange(convolved(layout.height, kernel[0], stride, padding)) * stride - padding
    columns = np.arange(convolved(layout.width, kernel[1], stride, padding)) * stride - padding
    return layout.pixels(rows, columns)


def window_segments(layout: Layout, kernel: tuple[int, int]) -> tuple[Integers, int]:
    """Where the contiguous pieces of a window begin, relative to it, and their length: rows, or all if they join."""
    starts, length = np.arange(kernel[0]) * layout.row, kernel[1] * layout.channels
    return (starts[:1], kernel[0] * length) if length == layout.row else (starts, length)


@dataclass(frozen=True)
class Taps:
    """Along one axis: the input pixels of one phase, and the weights and output pixels that they meet.

    An input pixel i meets weight a at output pixel (i + padding - a) / stride where that is whole: phase p has the
    pixels with (i + padding) % stride == p and the weights p, p + stride, ... In increasing order of output pixels
    the weights come in reversed order; `first` is the output pixel of the last of the `count` weights.
    """

    phase: int
    pixels: Integers
    first: Integers
    count: int


def taps(size: int, kernel: int, stride: int, padding: int) -> list[Taps]:
    """All phases along one axis that have pixels."""
    found = []
    for phase in range(stride):
        pixels = np.arange((phase - padding) % stride, size, stride)
        count = len(range(phase, kernel, stride))
        first = (pixels + padding - phase) // stride - max(count - 1, 0)
        if pixels.size:
            found.append(Taps(phase, pixels, first, count))
    return found


def frame_for_gradient(size: int, kernel: int, stride: int, padding: int) -> int:
    """The frame of an output gradient that all taps along one axis lie in."""
    out = convolved(size, kernel, stride, padding)
    reach = [(int(t.first.min()), int(t.first.max()) + t.count) for t in taps(size, kernel, stride, padding)]
    return max(0, *(-low for low, _ in reach), *(high - out for _, high in reach))
