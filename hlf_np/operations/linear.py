"""Convolution, its transpose, and fully connected layers."""

from collections.abc import Callable
from types import ModuleType

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.kernels import convolution as kernels
from hlf_np.operations import windows
from hlf_np.operations.shape import reshape


def _computing(x: Tensor, weight: Tensor) -> ModuleType:
    """What computes: the kernels in float32, the readable `windows` in float64."""
    if x.data.dtype != weight.data.dtype:
        raise ValueError(f"convolution needs float32 or float64 throughout, not {x.data.dtype} and {weight.data.dtype}")
    return kernels if x.data.dtype == "float32" else windows


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution (cross-correlation, as everywhere in deep learning), zeros around the image.

    Parameters
    ----------
    x : (N, H, W, C); weight : (O, C, kh, kw); bias : (O,) or None.

    Returns
    -------
    (N, H', W', O) with H' = (H + 2 padding - kh) // stride + 1.

    The result is linear in x and in the weights, so both gradients are sums of products, too::

        y[i, j, o] = bias[o] + sum_{a, b, c} x[s i + a - p, s j + b - p, c] w[o, c, a, b]     (s stride, p padding)
        dw[o, c, a, b] = sum_{i, j} x[s i + a - p, s j + b - p, c] g[i, j, o]
        dx[k, l, c] = sum_{o, a, b} g[i, j, o] w[o, c, a, b]     over the i, j with s i + a - p = k, s j + b - p = l

    The last gathers what all windows made of one pixel. `windows` computes the three as it stands here;
    `kernels.convolution` turns them into matrix products.

    Examples
    --------
    >>> import numpy as np
    >>> x, sum_of_four = Tensor(np.arange(9.0).reshape(1, 3, 3, 1)), Tensor(np.ones((1, 1, 2, 2)))
    >>> convolution(x, sum_of_four, None).data[0, :, :, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    computing = _computing(x, weight)
    y = computing.convolve(x.data, weight.data, None if bias is None else bias.data, stride, padding)
    return _result(
        y, x, weight, bias,
        lambda g: computing.convolve_input_gradient(g, weight.data, None, stride, padding, x.shape[1:3]),
        lambda g: computing.convolve_weight_gradient(x.data, g, weight.shape[2:], stride, padding),
    )  # fmt: skip


def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Tensor:
    """The transpose of `convolution` as a linear map: its gradient to the input, taken as a forward pass.

    Parameters
    ----------
    x : (N, H, W, C); weight : (C, O, kh, kw); bias : (O,) or None.
    output_padding : rows and columns added at the end, where several sizes would convolve down to H.

    Returns
    -------
    (N, H', W', O) with H' = (H - 1) stride - 2 padding + kh + output_padding.

    Examples
    --------
    Each pixel is put down as a window; where windows overlap, they add up.

    >>> import numpy as np
    >>> x, window = Tensor(np.array([1.0, 10.0]).reshape(1, 1, 2, 1)), Tensor(np.ones((1, 1, 1, 3)))
    >>> transposed_convolution(x, window, None, stride=2).data.ravel().tolist()
    [1.0, 1.0, 11.0, 10.0, 10.0]
    """
    kernel = weight.shape[2:]
    size = [(n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(x.shape[1:3], kernel, strict=True)]
    computing, bias_data = _computing(x, weight), None if bias is None else bias.data
    y = computing.convolve_input_gradient(x.data, weight.data, bias_data, stride, padding, (size[0], size[1]))
    return _result(
        y, x, weight, bias,
        lambda g: computing.convolve(g, weight.data, None, stride, padding),
        lambda g: computing.convolve_weight_gradient(g, x.data, kernel, stride, padding),
    )  # fmt: skip


def _result(
    y: Floats, x: Tensor, weight: Tensor, bias: Tensor | None, d_x: Callable[..., Floats], d_w: Callable[..., Floats]
) -> Tensor:
    """The tensor of y; d_x, d_w : the gradients to x and to the weight from that to y, computed only if asked for."""

    def backward(g: Floats) -> list[Floats | None]:
        gradients = [d_x(g) if x.requires_grad else None, d_w(g) if weight.requires_grad else None]
        return gradients if bias is None else [*gradients, g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]

    return Tensor.result(y, (x, weight) if bias is None else (x, weight, bias), backward)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b for x (N, I), weight (O, I), bias (O,): a 1x1 convolution over images of one pixel."""
    n, inputs = x.shape
    pixels = reshape(x, (n, 1, 1, inputs))
    kernel = reshape(weight, (*weight.shape, 1, 1))
    return reshape(convolution(pixels, kernel, bias), (n, -1))
