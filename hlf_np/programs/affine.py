"""Convolutions, their transposes and fully connected layers.

A transposed convolution is the gradient of a convolution, taken as a forward pass. So every affine layer has a *big*
and a *small* side, the convolution's input and output, and only the direction differs. A linear layer is a convolution
whose only window is the whole image; one that is unflattened to an image is the transpose of that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hlf_np.arrays import Array, Floats, Integers
from hlf_np.kernels.layout import frame_for_gradient, window_segments, windows
from hlf_np.kernels.tile import GATE, LANES, PANEL, PLAIN, RELU
from hlf_np.kernels.training_instructions import BiasSums, Task, Totals, WeightSums
from hlf_np.kernels.winograd_forms import FORMS, FROM_THREE, SAME, TO_BIG, TO_SMALL, TO_THREE
from hlf_np.layers import BatchNorm, Convolution, Linear, TransposedConvolution
from hlf_np.programs import blocks, products, winograd
from hlf_np.programs.builder import Builder
from hlf_np.programs.nodes import Norm
from hlf_np.programs.values import Node, Value

Weighted = Convolution | TransposedConvolution | Linear

SAVED = 100  # multiplications that each number of a filter must save in a training step
SMALL, FEW = 16_384, 16  # gradients of so many numbers, over more pixels than so many, are summed up in the parts


@dataclass(eq=False)
class Affine(Node):
    """A convolution, its transpose, or a fully connected layer, and the batch norm folded into it.

    kernel, stride, padding : of the convolution from the big to the small side; transposed : from small to big.
    behind : a linear layer behind a linear one, with nothing in between; sigmoid : whether one follows.
    winograd : computed in Winograd's form, see `kernels.winograd_forms`.
    numbers : of the weights, as those of the convolution, (small, big, kh, kw); see `builder`.
    matrix, bias : where among the weights the matrix from windows of the big side to the small side stands, in
        `panels`, and the bias.
    """

    source: Value
    target: Value
    layer: Weighted
    norm: BatchNorm | None
    kernel: tuple[int, int]
    stride: int
    padding: int
    transposed: bool
    behind: Linear | None = None
    sigmoid: bool = False
    winograd: bool = False
    numbers: Integers = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.int64))
    matrix: int = 0
    bias: int | None = None

    @property
    def big(self) -> Value:
        return self.target if self.transposed else self.source

    @property
    def small(self) -> Value:
        return self.source if self.transposed else self.target

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
        return self.small.pixels * inputs * outputs

    @property
    def room(self) -> int:  # type: ignore[override]
        return winograd.room(self) if self.winograd else 0

    # -- weights

    def arrays(self) -> list[Floats]:
        layers = (self.layer, self.behind, self.norm)
        return [array for layer in layers if layer for _, array in layer.named_arrays()]

    def folded(self) -> list[Floats]:
        """Weights, shaped as the layer's, and bias (O,), with what follows folded in.

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
            return [weight, bias]
        scale, shift = self.norm.factor_and_offset()
        if isinstance(self.layer, TransposedConvolution):
            return [weight * scale[:, None, None], bias * scale + shift]
        scale, shift = (np.repeat(part, count // len(part)) for part in (scale, shift))  # of a channel, for its pixels
        return [(weight.reshape(count, -1) * scale[:, None]).reshape(weight.shape), bias * scale + shift]

    def place(self, builder: Builder) -> None:
        parameters = [parameter.data for parameter in self.layer.parameters.values()]
        weight, *bias = map(builder.number, parameters if builder.training else self.folded())
        self.numbers = self._as_convolution(weight)
        self.matrix = builder.place_matrix(self.numbers.transpose(2, 3, 1, 0), self.big.stride, self.small.stride)
        if bias:
            self.bias = builder.place_rows(self._biases(bias[0]), self.target.stride)

    def _as_convolution(self, weight: Array) -> Array:
        """The layer's weights, or an array of that shape, as those of the convolution, (small, big, kh, kw)."""
        if not isinstance(self.layer, Linear):
            return weight
        # the big side comes channel after channel, see `flatten`
        shape = (self.big.channels, self.big.height, self.big.width)
        return weight.reshape(*shape, -1).transpose(3, 0, 1, 2) if self.transposed else weight.reshape(-1, *shape)

    def _biases(self, bias: Array) -> Array:
        """The layer's bias, or an array of that shape, for each pixel of the target or for all, (1 or H W, O)."""
        return bias.reshape(self.target.channels, -1).T if self.bias_per_pixel else bias[None]

    @property
    def bias_per_pixel(self) -> bool:
        return isinstance(self.layer, Linear) and self.transposed

    # -- how it is computed

    def prepare(self, batch_size: int | None) -> None:
        self.winograd = self._reducible(batch_size)
        source, target = self.source, self.target
        source.frame = max(source.frame, self._reach(self.transposed))
        if self.transposed or not (batch_size and source.is_input):  # windows of a gradient, for the weights
            target.gradient_frame = max(target.gradient_frame, self._reach(not self.transposed))
        if self.pairs:  # half of a pair may lie beside the image
            source.gradient_frame = max(source.gradient_frame, 1)

    def _reach(self, to_big: bool) -> int:
        """How far beyond an image an instruction reads: towards the big side, or from it."""
        source, target = (self.small, self.big) if to_big else (self.big, self.small)
        if self.winograd:
            form = FORMS[self.forms[to_big]]
            sizes = ((source.height, target.height), (source.width, target.width))
            return max(form.frame(*pair) for pair in sizes)
        if not to_big:
            return self.padding
        if self.big.narrow:
            return blocks.reach(self)
        extents = zip((self.big.height, self.big.width), self.kernel, strict=True)
        return 0 if self.covers else max(frame_for_gradient(n, k, self.stride, self.padding) for n, k in extents)

    @property
    def forms(self) -> tuple[int, int]:
        """Winograd's forms to the small side and to the big one."""
        if self.stride == 1:
            return SAME, SAME
        return (TO_THREE, FROM_THREE) if max(self.small.height, self.small.width) <= 3 else (TO_SMALL, TO_BIG)

    def _reducible(self, batch_size: int | None) -> bool:
        """Whether there is such a form, and it pays: many channels, and not many outputs that lie beyond the image.

        In training the filters are transformed anew for every batch: each number of a transformed filter, used once
        for each patch, must save enough multiplications to be worth writing and reading it.
        """
        if (self.kernel, self.stride, self.padding) not in (((3, 3), 1, 1), ((4, 4), 2, 1)) or self.big.narrow:
            return False
        form = FORMS[self.forms[0]]
        patches = form.begins(self.small.height).size * form.begins(self.small.width).size
        taken = (self.stride * form.multiplications) ** 2 * patches
        plain = math.prod(self.kernel) * self.small.pixels
        if batch_size and (plain - taken) * patches * batch_size < SAVED * taken:
            return False
        many = min(self.big.stride * self.stride, self.small.stride) >= 2 * LANES
        return many and 3 * taken <= 2 * plain

    @property
    def pairs(self) -> bool:
        """Whether the gradient to the source is computed for pairs of pixels, see `products.paired_gradient`."""
        strided = self.stride == 2 and self.kernel[1] % 2 == 0 and self.padding > 0 and not self.covers
        fitting = not self.transposed and self.source.rectified and self.source.stride == LANES
        return strided and fitting and not self.winograd

    # -- instructions

    def forward(self, builder: Builder) -> Sequence[Any]:
        finish = RELU if self.target.rectified else PLAIN
        source, target = self.source.buffer, self.target.buffer
        start = builder.zeros(target.channels) if self.bias is None else self.bias
        if self.winograd:
            return [winograd.convolution(self, builder, self.transposed, source, target, target, start, finish)]
        if not self.transposed:
            return [products.gather(self, builder, source, target, target, start, finish)]
        if self.big.narrow:
            return blocks.image(self, builder)
        return products.scatter(self, builder, source, target, target, self.bias, finish)

    def backward(self, builder: Builder) -> Sequence[Any]:
        source, gradient = self.source, self.target.gradient
        if builder.training and source.is_input:
            return []
        finish = source.next_finish()
        start, to, gates = builder.zeros(source.gradient.channels), source.gradient, source.buffer
        if self.winograd:
            return [winograd.convolution(self, builder, not self.transposed, gradient, to, gates, start, finish)]
        if self.transposed:
            return [products.gather(self, builder, gradient, to, gates, start, finish)]
        if self.pairs and finish == GATE:
            return products.paired_gradient(self, builder)
        if source.narrow:
            return blocks.image_gradient(self, builder)
        return products.scatter(self, builder, gradient, to, gates, None, finish)

    def parameter_gradients(self, builder: Builder) -> Sequence[Any]:
        """Of the bias, and of a small matrix over many pixels; other weights' are tasks."""
        big, small = self.big.buffer, self.small.gradient
        if self.transposed:
            big, small = self.big.gradient, self.small.buffer
        groups, group = window_segments(big, self.kernel)
        pixels, columns = self.small.pixels, small.channels
        a_steps = builder.table(windows(big, self.kernel, self.stride, self.padding))
        b_steps = builder.table(small.all_pixels())
        size = groups.size * group * -(-columns // PANEL) * PANEL
        bias = self._bias_gradient(builder)
        if size <= SMALL and pixels > FEW:
            sums = builder.reserve("work", size)
            builder.totals.append(Totals(size=size, sums=sums, gradient=self.matrix))
            return [
                WeightSums(
                    groups=builder.table(groups), group_count=groups.size, group=group, a_steps=a_steps,
                    pixels=pixels, b_steps=b_steps, columns=columns, sums=sums,
                ),
                *bias,
            ]  # fmt: skip
        builder.tasks += [
            Task(
                a=int(start), a_steps=a_steps, pixels=pixels, column=column, columns=columns, b_steps=b_steps,
                gradient=self.matrix + (column * groups.size + number * PANEL) * group, rows=group,
            )
            for column in range(0, columns, PANEL)
            for number, start in enumerate(groups)
        ]  # fmt: skip
        return bias

    def _bias_gradient(self, builder: Builder) -> Sequence[Any]:
        """The sum of the gradient over pixels and images, or over images if every pixel has a bias of its own."""
        gradient = self.target.gradient
        alone = [type(node) for node in self.target.readers] == [Norm]
        normalised = alone and not self.target.rectified and not self.bias_per_pixel
        if self.bias is None or normalised:
            return []  # batch norm takes a bias away again: its gradient is zero
        row, channels = gradient.width * gradient.channels, gradient.channels
        size = row * gradient.height if self.bias_per_pixel else channels
        sums = builder.reserve("work", size)
        builder.totals.append(Totals(size=size, sums=sums, gradient=self.bias))
        if self.bias_per_pixel:
            return [
                BiasSums(gradients=builder.table(gradient.pixels([i], [0])), rows=1, row=row, channels=row, sums=at)
                for i, at in enumerate(range(sums, sums + size, row))
            ]
        starts = builder.row_table(gradient)
        return [BiasSums(gradients=starts, rows=gradient.height, row=row, channels=channels, sums=sums)]
