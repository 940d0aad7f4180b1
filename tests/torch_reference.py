"""All layers in PyTorch, in evaluation mode and double precision."""

import numpy as np
import torch
from torch.nn import functional as F

from hlf_np import layers
from hlf_np.layers import Layer


def torch_logits(network: Layer, images: np.ndarray) -> np.ndarray:
    """Compute the logits of images (N, H, W, C)."""
    with torch.no_grad():
        return forward(network, torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2)).numpy()


def forward(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Compute a layer, recursively, for x (N, C, H, W) or (N, D)."""
    arrays = {name: torch.from_numpy(tensor.data.astype(np.float64)) for name, tensor in layer.parameters.items()}
    arrays |= {name: torch.from_numpy(buffer.astype(np.float64)) for name, buffer in layer.buffers.items()}
    weight, bias = arrays.get("weight"), arrays.get("bias")
    match layer:
        case layers.Sequential():
            for inner in layer.layers:
                x = forward(inner, x)
            return x
        case layers.Residual():
            return F.relu(forward(layer.body, x) + (forward(layer.shortcut, x) if layer.shortcut else x))
        case layers.Linear():
            return F.linear(x, weight, bias)
        case layers.Convolution():
            return F.conv2d(x, weight, bias, layer.stride, layer.padding)
        case layers.TransposedConvolution():
            return F.conv_transpose2d(x, weight, bias, layer.stride, layer.padding, layer.output_padding)
        case layers.BatchNorm():
            statistics = arrays["running_mean"], arrays["running_var"]
            return F.batch_norm(x, *statistics, weight, bias, training=False, eps=layer.epsilon)
        case layers.ReLU():
            return F.relu(x)
        case layers.LeakyReLU():
            return F.leaky_relu(x, layer.slope)
        case layers.Sigmoid():
            return torch.sigmoid(x)
        case layers.Tanh():
            return torch.tanh(x)
        case layers.MaxPool():
            return F.max_pool2d(x, layer.kernel, layer.stride)
        case layers.AveragePool():
            return F.avg_pool2d(x, layer.kernel, layer.stride)
        case layers.Flatten():
            return x.flatten(1)
        case layers.Unflatten():
            return x.reshape(len(x), -1, layer.height, layer.width)
    raise TypeError(f"there is no PyTorch reference for {type(layer).__name__}")
