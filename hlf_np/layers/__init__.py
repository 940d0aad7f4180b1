"""Layers: operations with parameters, and networks composed of them.

A layer is called with a tensor and a mode. In training mode its parameters get gradients and batch norm uses the
statistics of the batch. In evaluation mode parameters are constants and batch norm uses its running statistics, so the
result for an image does not depend on the rest of the batch. Parameters have the names and layouts of PyTorch's
`nn.Sequential`.
"""

from hlf_np.layers.composition import Residual, Sequential
from hlf_np.layers.layer import Layer, Shape, ShapeMismatchError
from hlf_np.layers.parameter_free import (
    AveragePool,
    Flatten,
    LeakyReLU,
    MaxPool,
    ReLU,
    Sigmoid,
    Tanh,
    Unflatten,
)
from hlf_np.layers.parametric import (
    BatchNorm,
    Convolution,
    Initialization,
    Linear,
    RandomSource,
    TransposedConvolution,
)

__all__ = [
    "AveragePool",
    "BatchNorm",
    "Convolution",
    "Flatten",
    "Initialization",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool",
    "RandomSource",
    "ReLU",
    "Residual",
    "Sequential",
    "Shape",
    "ShapeMismatchError",
    "Sigmoid",
    "Tanh",
    "TransposedConvolution",
    "Unflatten",
]
