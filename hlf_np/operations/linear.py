"""Convolution, its transpose, and fully connected layers."""

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.kernels.convolution import convolve, convolve_input_gradient, convolve_weight_gradient
from hlf_np.operations.shape import reshape


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution (cross-correlation, as everywhere in deep learning), zeros around the image.

    Parameters
    ----------
    x : (N, H, W, C); weight : (O, C, kh, kw); bias : (O,) or None.

    Returns
    -------
    (N, H', W', O) with H' = (H + 2 padding - kh) // stride + 1. The gradients are derived in `kernels.convolution`.
    """
    y = convolve(x.data, weight.data, None if bias is None else bias.data, stride, padding)
    kernel = (weight.shape[2], weight.shape[3])

    def backward(g: Floats) -> list[Floats | None]:
        size = (x.shape[1], x.shape[2])
        gradients: list[Floats | None] = [
            convolve_input_gradient(g, weight.data, None, stride, padding, size) if x.requires_grad else None,
            convolve_weight_gradient(x.data, g, kernel, stride, padding) if weight.requires_grad else None,
        ]
        return gradients if bias is None else [*gradients, g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]

    return Tensor.result(y, (x, weight) if bias is None else (x, weight, bias), backward)


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
    """
    kernel = (weight.shape[2], weight.shape[3])
    height, width = (
        (n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(x.shape[1:3], kernel, strict=True)
    )
    bias_data = None if bias is None else bias.data
    y = convolve_input_gradient(x.data, weight.data, bias_data, stride, padding, (height, width))

    def backward(g: Floats) -> list[Floats | None]:
        gradients: list[Floats | None] = [
            convolve(g, weight.data, None, stride, padding) if x.requires_grad else None,
            convolve_weight_gradient(g, x.data, kernel, stride, padding) if weight.requires_grad else None,
        ]
        return gradients if bias is None else [*gradients, g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]

    return Tensor.result(y, (x, weight) if bias is None else (x, weight, bias), backward)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b for x (N, I), weight (O, I), bias (O,): a 1x1 convolution over images of one pixel."""
    n, inputs = x.shape
    pixels = reshape(x, (n, 1, 1, inputs))
    kernel = reshape(weight, (*weight.shape, 1, 1))
    return reshape(convolution(pixels, kernel, bias), (n, -1))
