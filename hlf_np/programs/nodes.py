"""What a compiled network consists of: values, the activations, and the nodes between them.

A transposed convolution is the gradient of a convolution, taken as a forward pass. So every affine layer has a *big*
and a *small* side, the convolution's input and output, and only the direction differs. A linear layer is a convolution
whose only window is the whole image; one that is unflattened to an image is the transpose of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hlf_np.arrays import Array, Floats
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import ADD, GATE, LANES, PLAIN, padded
from hlf_np.kernels.winograd_forms import FORMS, FROM_THREE, SAME, TO_BIG, TO_SMALL, TO_THREE
from hlf_np.layers import BatchNorm, Convolution, Linear, TransposedConvolution

Weighted = Convolution | TransposedConvolution | Linear
Folded = tuple[Floats, Floats]  # weight, as the layer's, and bias (O,)

SAVED = 100  # multiplications that each number of a filter must save in a training step


@dataclass(eq=False)
class Value:
    """An activation: its size, the widths of its two buffers' frames, and the buffers once they are laid out."""

    height: int
    width: int
    channels: int
    rectified: bool = False  # it is the output of a ReLU
    frame: int = 0
    gradient_frame: int = 0
    readers: int = 0
    written: int = 0  # gradients that have been added up so far
    same_gradient: Value | None = None  # the value whose gradient buffer this one shares
    is_input: bool = False
    narrow: bool = False  # an image whose few channels are not filled up to a whole vector
    buffer: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))
    gradient: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))

    @property
    def stride(self) -> int:
        """Numbers per pixel."""
        return self.channels if self.narrow else padded(self.channels)

    def next_finish(self) -> int:
        """How the next of its readers adds its part to the gradient: the first stores it, the last gates the sum."""
        first, self.written = self.written == 0, self.written + 1
        gated = self.rectified and self.written == self.readers
        return (PLAIN if first else ADD) | (GATE if gated else PLAIN)


@dataclass(frozen=True)
class Affine:
    """A convolution, its transpose, or a fully connected layer, and the batch norm folded into it.

    kernel, stride, padding : of the convolution from the big to the small side.
    behind : a linear layer behind a linear one, with nothing in between.
    winograd : computed in Winograd's form, see `kernels.winograd_forms` and `reducible`.
    """

    source: Value
    target: Value
    layer: Weighted
    norm: BatchNorm | None
    kernel: tuple[int, int]
    stride: int
    padding: int
    transposed: bool = False
    behind: Linear | None = None
    winograd: bool = False

    @property
    def big(self) -> Value:
        return self.target if self.transposed else self.source

    @property
    def small(self) -> Value:
        return self.source if self.transposed else self.target

    def as_convolution(self, weight: Array) -> Array:
        """The layer's weights, or an array of that shape, as those of the convolution, (small, big, kh, kw)."""
        if not isinstance(self.layer, Linear):
            return weight
        # the big side comes channel after channel, see `flatten`
        shape = (self.big.channels, self.big.height, self.big.width)
        return weight.reshape(*shape, -1).transpose(3, 0, 1, 2) if self.transposed else weight.reshape(-1, *shape)

    def biases(self, bias: Array) -> Array:
        """The layer's bias, or an array of that shape, for each pixel of the target or for all, (1 or H W, O)."""
        if isinstance(self.layer, Linear) and self.transposed:
            return bias.reshape(self.target.channels, -1).T
        return bias[None]

    def arrays(self) -> list[Floats]:
        """Everything that the layer and its batch norm own."""
        layers = (self.layer, self.behind, self.norm)
        return [array for layer in layers if layer for _, array in layer.named_arrays()]

    def folded(self) -> Folded:
        """Weights with what follows folded in.

        Of batch norm: y = s (w x + b - mean) + shift, s = scale / sqrt(var + eps). Of a second linear layer:
        y = w' (w x + b) + b' = (w' w) x + (w' b + b').
        """
        weight = self.layer.parameters["weight"].data
        count = weight.shape[1] if isinstance(self.layer, TransposedConvolution) else len(weight)
        bias = self.layer.parameters["bias"].data if "bias" in self.layer.parameters else np.zeros(count, np.float32)
        if self.behind:
            second, shift = (self.behind.parameters[name].data for name in ("weight", "bias"))
            # not `@`: the threads of a BLAS go on spinning behind it, and slow down the kernel that comes next
            weight, bias = np.einsum("oh,hi->oi", second, weight), np.einsum("oh,h->o", second, bias) + shift
            count = len(weight)
        if self.norm is None:
            return weight, bias
        mean, variance = self.norm.buffers["running_mean"], self.norm.buffers["running_var"]
        scale = self.norm.parameters["weight"].data / np.sqrt(variance + self.norm.epsilon)
        shift = self.norm.parameters["bias"].data - mean * scale
        if isinstance(self.layer, TransposedConvolution):
            return weight * scale[:, None, None], bias * scale + shift
        scale, shift = (np.repeat(part, count // len(part)) for part in (scale, shift))  # of a channel, for its pixels
        return (weight.reshape(count, -1) * scale[:, None]).reshape(weight.shape), bias * scale + shift

    @property
    def covers(self) -> bool:
        """Whether the only window is the whole image, as of a fully connected layer."""
        return self.kernel == (self.big.height, self.big.width) and self.padding == 0

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass of the layers as they are written; the gradient to the input takes as many."""
        inputs, outputs = math.prod(self.kernel) * self.big.channels, self.small.channels
        if self.behind:
            return self.behind.parameters["weight"].shape[1] * (inputs + outputs)
        return self.small.height * self.small.width * inputs * outputs

    @property
    def forms(self) -> tuple[int, int]:
        """Winograd's forms to the small side and to the big one."""
        if self.stride == 1:
            return SAME, SAME
        return (TO_THREE, FROM_THREE) if max(self.small.height, self.small.width) <= 3 else (TO_SMALL, TO_BIG)

    def reducible(self, batch_size: int | None) -> bool:
        """Whether there is such a form, and it pays: many channels, and not many outputs that lie beyond the image.

        In training the filters are transformed anew for every batch: each number of a transformed filter, used once
        for each patch, must save enough multiplications to be worth writing and reading it.
        """
        if (self.kernel, self.stride, self.padding) not in (((3, 3), 1, 1), ((4, 4), 2, 1)) or self.big.narrow:
            return False
        form = FORMS[self.forms[0]]
        patches = form.begins(self.small.height).size * form.begins(self.small.width).size
        taken = (self.stride * form.multiplications) ** 2 * patches
        plain = math.prod(self.kernel) * self.small.height * self.small.width
        if batch_size and (plain - taken) * patches * batch_size < SAVED * taken:
            return False
        many = min(self.big.stride * self.stride, self.small.stride) >= 2 * LANES
        return many and 3 * taken <= 2 * plain

    @property
    def pairs(self) -> bool:
        """Whether the gradient to the source is computed for pairs of pixels, see `Builder._paired_gradient`."""
        strided = self.stride == 2 and self.kernel[1] % 2 == 0 and self.padding > 0 and not self.covers
        fitting = not self.transposed and self.source.rectified and self.source.stride == LANES
        return strided and fitting and not self.winograd

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block of pixels, see `Builder.blocks`: about four, or the whole image."""
        if self.covers:
            return self.kernel
        side = self.stride * max(1, 4 // self.stride)
        return side, side

    @property
    def block_window(self) -> tuple[int, int]:
        """Rows and columns of output pixels that a block meets."""
        if self.covers:
            return 1, 1
        rows, columns = (
            b // self.stride + (k - 1) // self.stride for b, k in zip(self.block, self.kernel, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Pool:
    source: Value
    target: Value
    kernel: int
    stride: int
    largest: bool


@dataclass(frozen=True)
class Join:
    """relu(body + shortcut)."""

    body: Value
    shortcut: Value
    target: Value


@dataclass(frozen=True)
class Norm:
    """Batch norm in training mode, and the ReLU behind it if the target is rectified."""

    source: Value
    target: Value
    layer: BatchNorm


@dataclass(frozen=True)
class Reparameterization:
    """Codes (L,) from means and log variances (2 L,) and noise; see `manifolds.vae`."""

    source: Value
    target: Value
    noise: Value


Node = Affine | Pool | Join | Norm | Reparameterization
