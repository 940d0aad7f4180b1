"""The nodes of convolutions, transposed convolutions and linear layers; `affine_map` says what they have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlf_np.kernels.instructions.training import BiasSums, Totals, WeightGradientPanel, WeightSums
from hlf_np.kernels.layout import halo_for_gradient, window_segments, window_starts
from hlf_np.kernels.products.tile import LANES, MASK, PANEL, PLAIN, RELU
from hlf_np.kernels.winograd.forms import FORMS
from hlf_np.layers import BatchNorm, Convolution, Linear, TransposedConvolution
from hlf_np.programs import blocks, products, winograd
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.programs.nodes import TrainingNorm
from hlf_np.programs.values import Node, Value
from hlf_np.support.arrays import Array, Floats

AffineLayer = Convolution | TransposedConvolution | Linear

# Winograd's transforms of a channel take as long as all multiplications of so many channels with it.
TRANSFORM_COST = 11
MIN_SAVINGS = 100  # multiplications that each entry of a transformed filter must save per training step
# Gradients of at most so many entries, over at least so many pixels per image, are summed within each part of a batch.
MAX_SUMMED_ENTRIES = 16_384
MIN_SUMMED_PIXELS = 17


@dataclass(eq=False)
class Affine(Node):
    """An affine layer, and what is folded into it.

    Parameters
    ----------
    source, target : Value
        What it reads and writes.
    layer : Convolution, TransposedConvolution or Linear
        The layer.
    norm : BatchNorm, optional
        The batch norm after it, folded into the weights in evaluation mode.
    map : AffineMap
        The convolution that the layer is, or whose transpose it is.
    second : Linear, optional
        A linear layer directly after a linear one, folded into the weights.
    sigmoid : bool
        Whether a sigmoid follows.
    """

    source: Value
    target: Value
    layer: AffineLayer
    norm: BatchNorm | None
    map: AffineMap
    second: Linear | None = None
    sigmoid: bool = False
    uses_winograd: bool = False

    @property
    def transposed(self) -> bool:
        """Whether it maps from the small to the big side."""
        return self.map.big is self.target

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per image of the layers as they are written, in the forward pass or in the input's gradient."""
        inputs, outputs = math.prod(self.map.kernel) * self.map.big.channels, self.map.small.channels
        if self.second:
            return self.second.parameters["weight"].shape[1] * (inputs + outputs)
        return self.map.small.pixels * inputs * outputs

    @property
    def product_rows(self) -> int:
        """Rows per image of its matrix products: its pixels, or the patches of Winograd's algorithm."""
        return self.map.patches(self.map.winograd_forms[0]) if self.uses_winograd else self.map.small.pixels

    @property
    def product_weights(self) -> int:
        """Multiply-adds of a row, the weights of these products; both sides' channels are padded."""
        affine = self.map
        if self.uses_winograd:
            form = affine.winograd_forms[0]
            taps = affine.winograd_multiplications(form) // affine.patches(form)
        else:
            taps = math.prod(affine.kernel)
        return taps * affine.big.stride * affine.small.stride

    @property
    def scratch_size(self) -> int:  # type: ignore[override]
        return winograd.scratch_size(self.map) if self.uses_winograd else 0

    # -- weights

    def arrays(self) -> list[Floats]:
        layers = (self.layer, self.second, self.norm)
        return [array for layer in layers if layer for _, array in layer.named_arrays()]

    def folded(self) -> list[Floats]:
        """Return the weight, in the shape of the layer's, and the bias (O,), with what follows folded in.

        Batch norm: y = s (w x + b - mean) + shift with s = scale / sqrt(var + eps). A second linear layer:
        y = w' (w x + b) + b' = (w' w) x + (w' b + b').
        """
        weight = self.layer.parameters["weight"].data
        count = weight.shape[1] if isinstance(self.layer, TransposedConvolution) else len(weight)
        bias = self.layer.parameters["bias"].data if "bias" in self.layer.parameters else np.zeros(count, np.float32)
        if self.second:
            second, shift = (self.second.parameters[name].data for name in ("weight", "bias"))
            # not `@`: the threads of a BLAS keep spinning after it, and slow down the kernel that comes next
            weight, bias = np.einsum("oh,hi->oi", second, weight), np.einsum("oh,h->o", second, bias) + shift
            count = len(weight)
        if self.norm is None:
            return [weight, bias]
        scale, shift = self.norm.scale_and_shift()
        if isinstance(self.layer, TransposedConvolution):
            return [weight * scale[:, None, None], bias * scale + shift]
        scale, shift = (np.repeat(values, count // len(values)) for values in (scale, shift))  # channels, to pixels
        return [(weight.reshape(count, -1) * scale[:, None]).reshape(weight.shape), bias * scale + shift]

    def pack_parameters(self, builder: Builder) -> None:
        parameters = [parameter.data for parameter in self.layer.parameters.values()]
        weight, *bias = map(builder.indices_of, parameters if builder.training else self.folded())
        affine = self.map
        affine.weight_indices = self._as_convolution(weight)
        filters = affine.weight_indices.transpose(2, 3, 1, 0)
        affine.matrix = builder.pack_filters(filters, affine.big.stride, affine.small.stride)
        if bias:
            affine.bias = builder.pack_rows(self._bias_rows(bias[0]), self.target.stride)

    def _as_convolution(self, weight: Array) -> Array:
        """Return an array of the shape of the layer's weight as filters of the map, (small, big, kh, kw)."""
        if not isinstance(self.layer, Linear):
            return weight
        # features are ordered channel by channel, see `operations.flatten`
        shape = (self.map.big.channels, self.map.big.height, self.map.big.width)
        return weight.reshape(*shape, -1).transpose(3, 0, 1, 2) if self.transposed else weight.reshape(-1, *shape)

    def _bias_rows(self, bias: Array) -> Array:
        """Return an array of the shape of the layer's bias as one row per pixel (H W, O), or one for all (1, O)."""
        return bias.reshape(self.target.channels, -1).T if self.map.bias_per_pixel else bias[None]

    # -- the choice of an algorithm

    def prepare(self, batch_size: int | None) -> None:
        self.uses_winograd = self._winograd_pays(batch_size)
        source, target = self.source, self.target
        source.halo = max(source.halo, self._required_halo(self.transposed))
        if self.transposed or not (batch_size and source.is_input):  # a transposed layer's weight gradient reads it too
            target.gradient_halo = max(target.gradient_halo, self._required_halo(not self.transposed))
        if self.pairs_pixels:  # half of a pair may be outside of the image
            source.gradient_halo = max(source.gradient_halo, 1)

    def _required_halo(self, to_big: bool) -> int:
        """Return how many pixels beyond an image a map reads, to the big side or to the small side."""
        affine = self.map
        source, target = (affine.small, affine.big) if to_big else (affine.big, affine.small)
        if self.uses_winograd:
            form = FORMS[affine.winograd_forms[to_big]]
            sizes = ((source.height, target.height), (source.width, target.width))
            return max(form.halo(*pair) for pair in sizes)
        if not to_big:
            return affine.padding
        if affine.big.unpadded or affine.covers:
            return 0
        extents = zip((affine.big.height, affine.big.width), affine.kernel, strict=True)
        return max(halo_for_gradient(size, kernel, affine.stride, affine.padding) for size, kernel in extents)

    def _winograd_pays(self, batch_size: int | None) -> bool:
        """Return whether Winograd's algorithm applies and is faster.

        It is faster for many channels, if few of the outputs of its patches are beyond the image. In training mode the
        filters are transformed anew for every batch: each entry of a transformed filter, used once per patch, must save
        enough multiplications to be worth writing and reading it.
        """
        affine = self.map
        supported = ((3, 3), 1, 1), ((4, 4), 2, 1)
        if (affine.kernel, affine.stride, affine.padding) not in supported or affine.big.unpadded:
            return False
        form = affine.winograd_forms[0]
        patches, multiplications = affine.patches(form), affine.winograd_multiplications(form)
        direct = math.prod(affine.kernel) * affine.small.pixels
        if batch_size and (direct - multiplications) * patches * batch_size < MIN_SAVINGS * multiplications:
            return False
        channels = min(affine.big.stride * affine.stride, affine.small.stride)
        return channels * (direct - multiplications) >= TRANSFORM_COST * direct and 3 * multiplications <= 2 * direct

    @property
    def pairs_pixels(self) -> bool:
        """Whether the source's gradient can be computed for pairs of pixels, see `products.paired_gradient`."""
        affine = self.map
        strided = affine.stride == 2 and affine.kernel[1] % 2 == 0 and affine.padding > 0 and not affine.covers
        one_vector = not self.transposed and self.source.after_relu and self.source.stride == LANES
        return strided and one_vector and not self.uses_winograd

    # -- instructions

    def forward(self, builder: Builder) -> Sequence[Any]:
        affine, source, target = self.map, self.source.buffer, self.target.buffer
        epilogue = RELU if self.target.after_relu else PLAIN
        initial = builder.zeros(target.channels) if affine.bias is None else affine.bias
        if self.uses_winograd:
            return [winograd.convolution(affine, builder, self.transposed, source, target, target, initial, epilogue)]
        if not self.transposed:
            return [products.gather(affine, builder, source, target, target, initial, epilogue)]
        if affine.big.unpadded:
            return blocks.image(affine, builder)
        return products.scatter(affine, builder, source, target, target, affine.bias, epilogue)

    def backward(self, builder: Builder) -> Sequence[Any]:
        affine, source, gradient = self.map, self.source, self.target.gradient
        if builder.training and source.is_input:
            return []
        epilogue = source.next_epilogue()
        initial, to, masks = builder.zeros(source.gradient.channels), source.gradient, source.buffer
        if self.uses_winograd:
            return [winograd.convolution(affine, builder, not self.transposed, gradient, to, masks, initial, epilogue)]
        if self.transposed:
            return [products.gather(affine, builder, gradient, to, masks, initial, epilogue)]
        if self.pairs_pixels and epilogue == MASK:
            return products.paired_gradient(affine, builder)
        if source.unpadded:
            return blocks.image_gradient(affine, builder)
        return products.scatter(affine, builder, gradient, to, masks, None, epilogue)

    def parameter_gradients(self, builder: Builder) -> Sequence[Any]:
        """Return the instructions for bias and small weights; other weights become panels in `builder`."""
        affine = self.map
        big, small = affine.big.buffer, affine.small.gradient
        if self.transposed:
            big, small = affine.big.gradient, affine.small.buffer
        groups, group = window_segments(big, affine.kernel)
        pixels, columns = affine.small.pixels, small.channels
        a_steps = builder.table(window_starts(big, affine.kernel, affine.stride, affine.padding))
        b_steps = builder.table(small.all_pixels())
        size = groups.size * group * -(-columns // PANEL) * PANEL
        bias = self._bias_gradient(builder)
        if size <= MAX_SUMMED_ENTRIES and pixels >= MIN_SUMMED_PIXELS:
            sums = builder.reserve("work", size)
            builder.totals.append(Totals(size=size, sums=sums, gradient=affine.matrix))
            return [
                WeightSums(
                    groups=builder.table(groups), group_count=groups.size, group=group, a_steps=a_steps,
                    pixels=pixels, b_steps=b_steps, columns=columns, sums=sums,
                ),
                *bias,
            ]  # fmt: skip
        builder.weight_gradients += [
            WeightGradientPanel(
                a=int(start), a_steps=a_steps, pixels=pixels, column=column, columns=columns, b_steps=b_steps,
                gradient=affine.matrix + (column * groups.size + index * PANEL) * group, rows=group,
            )
            for column in range(0, columns, PANEL)
            for index, start in enumerate(groups)
        ]  # fmt: skip
        return bias

    def _bias_gradient(self, builder: Builder) -> Sequence[Any]:
        """Return the sum of the gradient over pixels and images, or over images if every pixel has its own bias."""
        affine, gradient = self.map, self.target.gradient
        only_norm = [type(node) for node in self.target.readers] == [TrainingNorm]
        normalised = only_norm and not self.target.after_relu and not affine.bias_per_pixel
        if affine.bias is None or normalised:
            return []  # batch norm subtracts the mean, and with it the bias: its gradient is zero
        row_size, channels = gradient.width * gradient.channels, gradient.channels
        size = row_size * gradient.height if affine.bias_per_pixel else channels
        sums = builder.reserve("work", size)
        builder.totals.append(Totals(size=size, sums=sums, gradient=affine.bias))
        if affine.bias_per_pixel:
            return [
                BiasSums(
                    gradients=builder.table(gradient.pixels([i], [0])), rows=1, row_size=row_size, channels=row_size,
                    sums=position,
                )
                for i, position in enumerate(range(sums, sums + size, row_size))
            ]  # fmt: skip
        rows = builder.row_table(gradient)
        return [BiasSums(gradients=rows, rows=gradient.height, row_size=row_size, channels=channels, sums=sums)]
