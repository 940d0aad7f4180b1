"""Random networks whose layers fit together, each drawn from its seed alone.

Two of three resemble networks that people build. Shapes are (H, W, C) for images and (features,) for vectors. The
networks are small enough to be checked within milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from descriptions import describe

from hlf_np.layers import (
    AveragePool,
    BatchNorm,
    Convolution,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    TransposedConvolution,
    Unflatten,
)

Shape = tuple[int, ...]
Choice = TypeVar("Choice")
CHANNELS = (1, 2, 3, 4, 5, 7, 8, 8, 9, 12, 15, 16, 16, 17, 24, 31, 32, 33, 48, 64)
MAX_ELEMENTS = 4000  # of an activation
MAX_MULTIPLICATIONS = 250_000  # of a layer, for one image


@dataclass(frozen=True)
class Case:
    """A network, its task, and the call that draws it again."""

    network: Sequential
    classes: int
    image_shape: tuple[int, int, int]
    name: str  # the call that draws it, as text

    @property
    def description(self) -> str:
        return f"{self.name}, images {self.image_shape}, {self.classes} classes: {describe(self.network)}"


class Drawer:
    """RandomSource layers one after another, each among those that fit the present shape.

    drawn : (layer, shape before, shape after) of all layers so far, nested ones included, for drawing them again.
    """

    def __init__(self, random: np.random.Generator, shape: Shape, drawn: list[tuple[Layer, Shape, Shape]]) -> None:
        self.random, self.shape, self.drawn = random, shape, drawn
        self.layers: list[Layer] = []

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        return choices[self.integer(0, len(choices) - 1)]

    def add(self, layer: Layer, shape: Shape | None = None) -> None:
        before, self.shape = self.shape, self.shape if shape is None else shape
        self.layers.append(layer)
        self.drawn.append((layer, before, self.shape))

    def inside(self) -> Drawer:
        """Return a drawer for a branch that starts from the present shape."""
        return Drawer(self.random, self.shape, self.drawn)

    def channels(self, pixels: int = 1, multiplications: int = 1) -> int:
        maximum = max(1, min(MAX_ELEMENTS // pixels, MAX_MULTIPLICATIONS // multiplications))
        return min(self.one_of(CHANNELS), maximum)

    @property
    def is_flat(self) -> bool:
        return len(self.shape) == 1

    def convolution(
        self, same: bool = False, kernel: int = 0, stride: int = 0, padding: int = -1, out: int = 0
    ) -> None:
        """Draw a convolution with the given settings, all others at random; `same` keeps the size."""
        height, width, channels = self.shape
        while True:
            k = kernel or (self.one_of((1, 3, 3, 5)) if same else self.integer(1, 5))
            s = stride or (1 if same else self.one_of((1, 1, 1, 2, 2, 3)))
            p = padding if padding >= 0 else k // 2 if same else self.one_of((0, 0, 1, 1, 2, 3))
            rows, columns = ((n + 2 * p - k) // s + 1 for n in (height, width))
            if min(height, width) + 2 * p >= k and rows * columns <= MAX_ELEMENTS:
                break
        out = out or self.channels(rows * columns, rows * columns * k * k * channels)
        self.add(Convolution(channels, out, self.random, k, s, p, bias=self.chance(0.7)), (rows, columns, out))

    def transposed(self) -> None:
        height, width, channels = self.shape
        while True:
            k, s, p = self.integer(1, 5), self.integer(1, 3), self.one_of((0, 0, 1, 1, 2, 3))
            extra = self.integer(0, s - 1)
            rows, columns = ((n - 1) * s - 2 * p + k + extra for n in (height, width))
            if min(rows, columns) >= 1 and (max(rows, columns) <= 24 or k == s == 1):
                break
        out = self.channels(rows * columns, height * width * k * k * channels)
        self.add(TransposedConvolution(channels, out, self.random, k, s, p, extra), (rows, columns, out))

    def pool(self, kernel: int = 0, stride: int | None = None) -> None:
        height, width, channels = self.shape
        k = kernel or min(self.one_of((1, 2, 2, 2, 3, 3, 4)), height, width)
        s = stride or self.one_of((None, None, None, 1, 2, 3))
        rows, columns = ((n - k) // (s or k) + 1 for n in (height, width))
        self.add(self.one_of((MaxPool, AveragePool))(k, s), (rows, columns, channels))

    def linear(self, outputs: int = 0) -> None:
        outputs = outputs or self.channels(multiplications=self.shape[0])
        self.add(Linear(self.shape[0], outputs, self.random), (outputs,))

    def norm(self) -> None:
        self.add(BatchNorm(self.shape[-1], self.one_of((0.1, 0.1, 0.3)), self.one_of((1e-5, 1e-5, 1e-3))))

    def activation(self) -> None:
        kinds = (ReLU, ReLU, ReLU, ReLU, Tanh, Sigmoid, lambda: LeakyReLU(self.one_of((0.01, 0.2))))
        self.add(self.one_of(kinds)())

    def flatten(self) -> None:
        if not self.is_flat:
            self.add(Flatten(), (math.prod(self.shape),))

    def unflatten(self) -> None:
        features = self.shape[0]
        height = self.one_of([n for n in range(1, 9) if features % n == 0])
        width = self.one_of([n for n in range(1, 9) if features // height % n == 0])
        self.add(Unflatten(height, width), (height, width, features // height // width))

    def again(self) -> None:
        """Draw one of the earlier layers again, if one fits."""
        fitting = [(layer, after) for layer, before, after in self.drawn if before == self.shape]
        if fitting:
            layer, after = fitting[self.integer(0, len(fitting) - 1)]
            self.add(layer, after)

    def keeping(self) -> None:
        """Draw one or several layers that keep the shape."""
        if self.chance(0.3):
            self.norm()
        elif self.chance(0.3):
            self.activation()
        elif self.is_flat:
            if self.shape[0] ** 2 <= MAX_MULTIPLICATIONS:
                self.linear(self.shape[0])
        elif self.chance(0.15) and self.shape[0] * self.shape[1] < 200:  # a larger image and back
            self.convolution(kernel=3, stride=1, padding=2, out=self.shape[2])
            self.pool(kernel=3, stride=1)
        else:
            self.convolution(same=True, out=self.shape[2])

    def user_block(self) -> None:
        """Draw a linear layer or a convolution, mostly with batch norm and ReLU."""
        self.linear() if self.is_flat else self.convolution(same=self.chance(0.5))
        if self.chance(0.6):
            self.norm()
        if self.chance(0.85):
            self.add(ReLU())

    def residual(self) -> None:
        """Draw a residual block; its body may be empty, a single layer, or end in any layer that keeps the shape."""
        body, shortcut = self.inside(), self.inside()
        if self.chance(0.4):  # to another shape, on both branches
            for branch, kernel in ((body, self.one_of((1, 3, 3, 5))), (shortcut, 1)):
                if self.is_flat:
                    branch.linear(body.shape[0] if branch is shortcut else 0)
                else:
                    stride = self.one_of((1, 2, 2)) if branch is body else body.layers[0].stride
                    branch.convolution(
                        kernel=kernel, stride=stride, padding=kernel // 2, out=0 if branch is body else body.shape[2]
                    )
        elif self.chance(0.15):
            shortcut.keeping()
        for _ in range(self.integer(0, 3)):
            body.keeping()
        if shortcut.layers and self.chance(0.5):
            shortcut.norm()
        if self.chance(0.05):
            body.residual()
            if body.shape != shortcut.shape:
                body, shortcut = self.inside(), self.inside()
        inner = body.layers[0] if len(body.layers) == 1 and self.chance(0.5) else Sequential(*body.layers)
        self.add(Residual(inner, Sequential(*shortcut.layers) if shortcut.layers else None), body.shape)

    def anything(self) -> None:
        """Draw any layer that fits."""
        common: list[Callable[[], None]] = [self.norm, self.activation, self.activation, self.residual, self.again]
        if self.is_flat:
            self.one_of([*common, self.linear, self.linear, self.unflatten, self.nested])()
        else:
            layers = [self.convolution, self.convolution, self.transposed, self.pool, self.pool, self.nested]
            self.one_of([*common, *layers, self.flatten])()

    def nested(self) -> None:
        """Draw a sequence as one layer, and use it once or twice."""
        block = self.inside()
        for _ in range(self.integer(0, 3)):
            block.keeping()
        for _ in range(self.one_of((1, 1, 2))):
            self.add(Sequential(*block.layers))

    # ---- whole networks

    def stack(self) -> None:
        for _ in range(self.integer(1, 3)):
            self.user_block()
            if self.chance(0.4):
                self.pool()
        self.flatten()
        for _ in range(self.integer(0, 1)):
            self.user_block()

    def perceptron(self) -> None:
        self.flatten()
        for _ in range(self.integer(0, 3)):
            self.linear()
            if self.chance(0.4):
                self.norm()
            if self.chance(0.85):
                self.activation()

    def residual_network(self) -> None:
        if self.chance(0.8):
            self.user_block()
        for _ in range(self.integer(1, 3)):
            self.residual()
        if self.chance(0.5) and not self.is_flat:
            self.pool(kernel=min(self.shape[:2]))

    def tied_perceptron(self) -> None:
        self.flatten()
        self.user_block()
        block = self.inside()
        block.linear(self.shape[0])
        if self.chance(0.5):
            block.norm()
        if self.chance(0.7):
            block.activation()
        for _ in range(self.integer(2, 3)):
            for layer in block.layers:
                self.add(layer)

    def decoder(self) -> None:
        self.flatten()
        self.linear(self.one_of((6, 12, 16, 24, 36, 48)))
        self.unflatten()
        for _ in range(self.integer(1, 2)):
            for part in (self.norm, self.activation):
                if self.chance(0.5):
                    part()
            self.transposed()
        if self.chance(0.5):
            self.activation()
        if self.chance(0.5):
            self.convolution()

    def wild(self) -> None:
        for _ in range(self.integer(1, 8)):
            self.anything()

    def finish(self, classes: int) -> int:
        """Draw the last layers; return the number of classes, which may become the number of features."""
        self.flatten()
        if not (2 <= self.shape[0] <= 20 and self.chance(0.2)):
            self.linear(classes)
            if self.chance(0.15):
                self.one_of((self.norm, self.activation, lambda: self.add(ReLU()), self.residual_end))()
        return self.shape[0]

    def residual_end(self) -> None:
        self.add(Residual(Linear(self.shape[0], self.shape[0], self.random)))  # logits that are not negative


def random_network(seed: int) -> Case:
    """Draw a network whose layers fit together."""
    random = np.random.default_rng([0, seed])
    height, channels = int(random.integers(1, 21)), int(random.choice([1, 1, 1, 1, 2, 3, 3, 3, 4, 5, 8, 9, 16, 20]))
    width = height if random.random() < 0.6 else int(random.integers(1, 21))
    image_shape = (height, width, channels)
    drawer = Drawer(random, image_shape, [])
    kinds = (drawer.stack, drawer.perceptron, drawer.residual_network, drawer.tied_perceptron, drawer.decoder)
    drawer.one_of((*kinds, drawer.stack, drawer.wild, drawer.wild, drawer.wild))()
    classes = drawer.finish(int(random.integers(2, 13)))
    network = Sequential(*drawer.layers)
    if drawer.chance(0.1):
        share_a_tensor(network)
    enliven(network, random)
    return Case(network, classes, image_shape, f"random_network({seed})")


def share_a_tensor(network: Layer) -> None:
    """Let the second of two equal layers share a parameter of the first, if there are two."""
    first: dict[tuple[type, Shape, str], Layer] = {}
    for layer in network.every_layer():
        for name, tensor in layer.parameters.items():
            other = first.setdefault((type(layer), tensor.shape, name), layer)
            if other is not layer:
                layer.parameters[name] = other.parameters[name]
                return


def enliven(network: Layer, random: np.random.Generator) -> None:
    """Fill a network with non-trivial weights, scales of both signs, biases and statistics; activations are about 1."""
    seen: set[int] = set()
    for layer in network.every_layer():
        for name, tensor in layer.parameters.items():
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if name == "bias":
                tensor.data[...] = 0.3 * random.standard_normal(tensor.shape)
            elif isinstance(layer, BatchNorm):
                tensor.data[...] = random.uniform(0.5, 1.5, tensor.shape) * random.choice([1, 1, 1, -1], tensor.shape)
            else:
                tensor.data *= np.float32(1.5)
        if isinstance(layer, BatchNorm):
            mean, variance = layer.buffers["running_mean"], layer.buffers["running_var"]
            mean[...] = 0.3 * random.standard_normal(mean.shape)
            variance[...] = random.uniform(0.3, 2, variance.shape)
