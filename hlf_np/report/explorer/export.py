"""Networks as data for the explorer's JavaScript (`network.js`).

Weights are stored as 16-bit integers times a scale for each array, which halves the page: an entry is then off by at
most 1/65534 of the largest one. If that changed any prediction on the images of the page, 32-bit floats are stored.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from hlf_np import layers as nn
from hlf_np.support.arrays import Floats
from hlf_np.support.errors import UserError

LARGEST_INTEGER = 32_767
PackedArray = dict[str, Any]  # {"integers" or "floats": base64 of little-endian numbers, "scale": of integers}


def integers_and_scale(array: Floats) -> tuple[Floats, float]:
    """Return an array as 16-bit integers and the scale that they are multiplied by."""
    scale = float(np.abs(array).max(initial=0)) / LARGEST_INTEGER or 1.0
    return np.round(array / scale).astype("<i2"), scale


def packed(array: Floats, exact: bool) -> PackedArray:
    """Return an array as JSON: base64 of its numbers, in C order."""
    if exact:
        return {"floats": base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()}
    integers, scale = integers_and_scale(array)
    return {"integers": base64.b64encode(integers.tobytes()).decode(), "scale": scale}


def described(layer: nn.Layer, shape: nn.Shape, exact: bool) -> tuple[list[dict[str, Any]], nn.Shape]:
    """Describe a layer in evaluation mode.

    Parameters
    ----------
    layer : Layer
        The layer, or a network of layers.
    shape : tuple of int
        The shape of its input without the batch, (H, W, C) or (features,).
    exact : bool
        Whether weights are stored as floats.

    Returns
    -------
    descriptions : list of dict
        What `makeNetwork` takes.
    shape : tuple of int
        The shape of the output.

    Raises
    ------
    UserError
        If the page does not know the layer.
    """
    if isinstance(layer, nn.Sequential):
        descriptions: list[dict[str, Any]] = []
        for part in layer.layers:
            found, shape = described(part, shape, exact)
            descriptions += found
        return descriptions, shape
    output = layer.output_shape(shape)
    if isinstance(layer, nn.Flatten | nn.Unflatten):  # nothing to do where channels come first
        return [], output
    sizes = {"input": channels_first(shape), "output": channels_first(output)}
    arrays = {name: parameter.data for name, parameter in layer.parameters.items()}
    weights = {name: packed(array, exact) for name, array in arrays.items()}
    if isinstance(layer, nn.Convolution | nn.TransposedConvolution):
        kind = "convolution" if isinstance(layer, nn.Convolution) else "transposed_convolution"
        windows = {"kernel": arrays["weight"].shape[-1], "stride": layer.stride, "padding": layer.padding}
        return [{"kind": kind} | weights | sizes | windows], output
    if isinstance(layer, nn.Linear):
        return [{"kind": "linear"} | weights], output
    if isinstance(layer, nn.BatchNorm):
        scale, shift = layer.scale_and_shift()
        return [{"kind": "batch_norm", "scale": packed(scale, True), "shift": packed(shift, True)} | sizes], output
    if isinstance(layer, nn.ReLU | nn.Sigmoid):
        return [{"kind": type(layer).__name__.lower()}], output
    if isinstance(layer, nn.MaxPool | nn.AveragePool):
        kind = "max_pool" if isinstance(layer, nn.MaxPool) else "average_pool"
        return [{"kind": kind, "kernel": layer.kernel, "stride": layer.stride or layer.kernel} | sizes], output
    if isinstance(layer, nn.Residual):
        body, shortcut = (described(part, shape, exact)[0] if part else [] for part in (layer.body, layer.shortcut))
        return [{"kind": "residual", "body": body, "shortcut": shortcut}], output
    raise UserError(f"the explorer does not know the layer {layer}")


def channels_first(shape: nn.Shape) -> list[int]:
    """Return (C, H, W) of an image's shape (H, W, C); other shapes stay."""
    return [shape[-1], *shape[:-1]]
