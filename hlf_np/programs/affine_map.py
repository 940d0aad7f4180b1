"""What all affine layers have in common: a convolution between a big and a small image.

A transposed convolution is the gradient of a convolution, taken as a forward pass. So every affine layer has a *big*
and a *small* side, the input and the output of a convolution; layers differ in which side is the source. A linear layer
is a convolution whose only window is the whole image. One whose output is unflattened to an image is the transpose of
such a convolution.
"""

from dataclasses import dataclass, field

import numpy as np

from hlf_np.kernels.winograd.forms import DOWN_F3_2, DOWN_F4_2, F2_3, F4_3, FORMS, UP_F3_2, UP_F4_2
from hlf_np.programs.values import Value
from hlf_np.support.arrays import Integers


@dataclass(eq=False)
class AffineMap:
    """A convolution from the big to the small side, and where its weights are packed.

    Parameters
    ----------
    big, small : Value
        The input and the output of the convolution.
    kernel : tuple of int
        Rows and columns of a window.
    stride, padding : int
        In pixels.
    bias_per_pixel : bool
        Whether every pixel has a bias of its own, as in a linear layer that is unflattened.
    weight_indices : ndarray of int64, shape (small, big, kh, kw)
        Symbolic indices of the weights, see `symbolic`; small and big are the channels of the two sides.
    matrix : int
        Position in the weights of the matrix (kh kw big, small), stored by `panels`.
    bias : int, optional
        Position in the weights of the bias; None without one.
    """

    big: Value
    small: Value
    kernel: tuple[int, int]
    stride: int
    padding: int
    bias_per_pixel: bool = False
    weight_indices: Integers = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.int64))
    matrix: int = 0
    bias: int | None = None

    @property
    def covers(self) -> bool:
        """Whether the only window is the whole image, as in a linear layer."""
        return self.kernel == (self.big.height, self.big.width) and self.padding == 0

    @property
    def winograd_forms(self) -> tuple[int, int]:
        """The Winograd forms to the small side and to the big side, as indices into `FORMS`."""
        if self.stride == 1:
            form = min(F2_3, F4_3, key=self.winograd_multiplications)
            return form, form
        return (DOWN_F3_2, UP_F3_2) if max(self.small.height, self.small.width) <= 3 else (DOWN_F4_2, UP_F4_2)

    def patches(self, form: int) -> int:
        """Return the number of patches of an image to the small side."""
        return FORMS[form].patches(self.small.height, self.small.width)

    def winograd_multiplications(self, form: int) -> int:
        """Return the multiplications per image to the small side, for each pair of channels."""
        return (self.stride * FORMS[form].multiplications) ** 2 * self.patches(form)
