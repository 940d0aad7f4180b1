"""Convolution, its transpose, and fully connected layers.

A convolution computes each output pixel from a window of the input. In this drawing a 5x5 image has a border of zeros
of width p = 1 (the padding); windows are 3x3 pixels large (the kernel) and s = 2 pixels apart (the stride). Brackets
mark the first output pixel and its window:

    [0  0  0] 0  0  0  0
    [0  x  x] x  x  x  0           [y] y  y
    [0  x  x] x  x  x  0    -->     y  y  y
     0  x  x  x  x  x  0            y  y  y
     0  x  x  x  x  x  0
     0  x  x  x  x  x  0
     0  0  0  0  0  0  0

The window of output pixel (i, j) has input pixel (s i + a - p, s j + b - p) at its position (a, b). Each output channel
o is a weighted sum of the window. Apart from the bias it is linear in x and in w, so both gradients are sums of
products, too. With g = dL/dy, and for one image:

    y[i, j, o]     = bias[o] + sum_{a, b, c} x[s i + a - p, s j + b - p, c] w[o, c, a, b]
    dx[k, l, c]    = sum_{o, a, b} g[i, j, o] w[o, c, a, b]    over the (i, j) with s i + a - p = k, s j + b - p = l
    dw[o, c, a, b] = sum_{i, j} x[s i + a - p, s j + b - p, c] g[i, j, o]

So every window that contains a pixel contributes to the gradient of that pixel, and every pixel that is multiplied by a
weight contributes to the gradient of that weight, which is also summed over the images. `convolve` and its two
gradients below are these three sums in NumPy. The operations on tensors at the end of this file use them for float64;
for float32, compiled kernels replace them (see `_implementation`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.kernels.products import convolution as kernels
from hlf_np.operations.shape import reshape
from hlf_np.support.arrays import Floats

# --- The three sums, in NumPy ---------------------------------------------------------------------------------


def _windows(x: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """Return a view of the window of every output pixel: (N, H, W, C) becomes (N, H', W', C, kh, kw)."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, ::stride, ::stride]


def convolve(x: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int) -> Floats:
    """Convolve images with the weights: y in the equations above.

    Parameters
    ----------
    x : ndarray, shape (N, H, W, C)
        Images.
    weight : ndarray, shape (O, C, kh, kw)
        Weights.
    bias : ndarray, shape (O,), or None
        Added to every output pixel.
    stride : int
        Distance between windows, in pixels.
    padding : int
        Width of the border of zeros.

    Returns
    -------
    ndarray, shape (N, H', W', O)
        H' = (H + 2 padding - kh) // stride + 1, and W' likewise.
    """
    windows = _windows(x, (weight.shape[2], weight.shape[3]), stride, padding)  # (N, H', W', C, kh, kw)
    y = np.tensordot(windows, weight, axes=((3, 4, 5), (1, 2, 3)))
    return y if bias is None else y + bias


def convolve_input_gradient(
    gradient: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int, size: tuple[int, int]
) -> Floats:
    """Compute the gradient with respect to the input of a convolution: dx in the equations above.

    Parameters
    ----------
    gradient : ndarray, shape (N, H', W', O)
        Gradient with respect to the output, g.
    weight : ndarray, shape (O, C, kh, kw)
        Weights of the convolution.
    bias : ndarray, shape (C,), or None
        Added to every pixel of the result, for a transposed convolution; None for a gradient.
    stride : int
        Stride of the convolution.
    padding : int
        Padding of the convolution.
    size : tuple of int
        (H, W) of the input, which H' and W' do not determine if the stride is above 1.

    Returns
    -------
    ndarray, shape (N, H, W, C)
        The gradient.
    """
    (n, rows, columns, _), (_, channels, kh, kw) = gradient.shape, weight.shape
    padded = np.zeros((n, size[0] + 2 * padding, size[1] + 2 * padding, channels), gradient.dtype)
    for a in range(kh):
        for b in range(kw):
            # the pixels at position (a, b) of all windows, (N, H', W', C)
            pixels = padded[:, a : a + stride * rows : stride, b : b + stride * columns : stride]
            pixels += gradient @ weight[:, :, a, b]
    x = padded[:, padding : padding + size[0], padding : padding + size[1]]
    return x if bias is None else x + bias


def convolve_weight_gradient(x: Floats, gradient: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """Compute the gradient with respect to the weights of a convolution: dw in the equations above.

    Parameters
    ----------
    x : ndarray, shape (N, H, W, C)
        Input of the convolution.
    gradient : ndarray, shape (N, H', W', O)
        Gradient with respect to the output, g.
    kernel : tuple of int
        (kh, kw).
    stride : int
        Stride of the convolution.
    padding : int
        Padding of the convolution.

    Returns
    -------
    ndarray, shape (O, C, kh, kw)
        The gradient.
    """
    windows = _windows(x, kernel, stride, padding)  # (N, H', W', C, kh, kw)
    return np.tensordot(gradient, windows, axes=((0, 1, 2), (0, 1, 2)))


# --- Where the compiled kernels take over ---------------------------------------------------------------------


class Implementation(NamedTuple):
    """The three functions, in one of their two implementations."""

    convolve: Callable[..., Floats]
    convolve_input_gradient: Callable[..., Floats]
    convolve_weight_gradient: Callable[..., Floats]


NUMPY = Implementation(convolve, convolve_input_gradient, convolve_weight_gradient)
COMPILED = Implementation(kernels.convolve, kernels.convolve_input_gradient, kernels.convolve_weight_gradient)


def _implementation(x: Tensor, weight: Tensor, stride: int, padding: int) -> Implementation:
    """Return the compiled kernels for float32, and the functions above for float64.

    The compiled kernels take over here: `kernels.products.convolution` has the same three functions, as fast matrix
    products. They agree with those above up to rounding; the tests compare them.
    """
    if stride < 1 or padding < 0:
        raise ValueError(f"the stride must be at least 1 and the padding at least 0, not {stride} and {padding}")
    if x.data.dtype != weight.data.dtype:
        raise ValueError(
            f"the images are {x.data.dtype} and the weights {weight.data.dtype}: convert them to the same type,"
            " float32 or float64"
        )
    return COMPILED if x.data.dtype == np.float32 else NUMPY


# --- The operations on tensors --------------------------------------------------------------------------------


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve images with the weights (cross-correlation, as everywhere in deep learning), with zero padding.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    weight : Tensor, shape (O, C, kh, kw)
        Weights.
    bias : Tensor, shape (O,), or None
        Added to every output pixel.
    stride : int
        Distance between windows, in pixels.
    padding : int
        Width of the border of zeros.

    Returns
    -------
    Tensor, shape (N, H', W', O)
        H' = (H + 2 padding - kh) // stride + 1, and W' likewise.

    Raises
    ------
    ValueError
        If the shapes do not fit, the types are not the same, or stride or padding is out of range.

    Examples
    --------
    >>> x, sum_of_four = Tensor(np.arange(9.0).reshape(1, 3, 3, 1)), Tensor(np.ones((1, 1, 2, 2)))
    >>> convolution(x, sum_of_four, None).data[0, :, :, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    compute = _implementation(x, weight, stride, padding)
    size, kernel = x.shape[1:3], weight.shape[2:]
    y = compute.convolve(x.data, weight.data, None if bias is None else bias.data, stride, padding)

    def backward(g: Floats) -> Sequence[Floats | None]:
        d_x = d_weight = None
        if x.requires_grad:
            d_x = compute.convolve_input_gradient(g, weight.data, None, stride, padding, size)
        if weight.requires_grad:
            d_weight = compute.convolve_weight_gradient(x.data, g, kernel, stride, padding)
        return d_x, d_weight, *_bias_gradient(bias, g)

    return Tensor.result(y, _parents(x, weight, bias), backward)


def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Tensor:
    """Apply the transpose of a convolution: its gradient with respect to the input, used as a forward pass.

    A convolution is a linear map of its input, y = M x, so the gradient with respect to x is M^T g. This operation is
    M^T, and its own gradient is the convolution M.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    weight : Tensor, shape (C, O, kh, kw)
        Weights of the convolution from O to C channels whose transpose this is.
    bias : Tensor, shape (O,), or None
        Added to every output pixel.
    stride : int
        Distance between windows in the output, in pixels.
    padding : int
        Width of the border that is cut off the output.
    output_padding : int
        Rows and columns added at the end of the output, below the stride: it selects one of the sizes that the
        convolution would reduce to H.

    Returns
    -------
    Tensor, shape (N, H', W', O)
        H' = (H - 1) stride - 2 padding + kh + output_padding, and W' likewise.

    Raises
    ------
    ValueError
        If the shapes do not fit, the types are not the same, or stride or padding is out of range.

    Examples
    --------
    Each pixel is multiplied by a window of weights; where windows overlap, the products are added.

    >>> x, window = Tensor(np.array([1.0, 10.0]).reshape(1, 1, 2, 1)), Tensor(np.ones((1, 1, 1, 3)))
    >>> transposed_convolution(x, window, None, stride=2).data.ravel().tolist()
    [1.0, 1.0, 11.0, 10.0, 10.0]
    """
    compute = _implementation(x, weight, stride, padding)
    kernel = weight.shape[2:]
    height, width = (
        (n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(x.shape[1:3], kernel, strict=True)
    )
    bias_data = None if bias is None else bias.data
    y = compute.convolve_input_gradient(x.data, weight.data, bias_data, stride, padding, (height, width))

    def backward(g: Floats) -> Sequence[Floats | None]:
        d_x = d_weight = None
        if x.requires_grad:
            d_x = compute.convolve(g, weight.data, None, stride, padding)
        if weight.requires_grad:  # input and output have changed places
            d_weight = compute.convolve_weight_gradient(g, x.data, kernel, stride, padding)
        return d_x, d_weight, *_bias_gradient(bias, g)

    return Tensor.result(y, _parents(x, weight, bias), backward)


def _parents(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return (x, weight) if bias is None else (x, weight, bias)


def _bias_gradient(bias: Tensor | None, g: Floats) -> Sequence[Floats | None]:
    """Return the gradient with respect to a bias as a list, which is empty if there is no bias."""
    if bias is None:
        return []
    return [g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute x W^T + b, as a 1x1 convolution of images of one pixel.

    Parameters
    ----------
    x : Tensor, shape (N, I)
        Inputs.
    weight : Tensor, shape (O, I)
        Weights.
    bias : Tensor, shape (O,)
        Added to every row.

    Returns
    -------
    Tensor, shape (N, O)
        The outputs.
    """
    n, inputs = x.shape
    pixels = reshape(x, (n, 1, 1, inputs))
    kernel = reshape(weight, (*weight.shape, 1, 1))
    return reshape(convolution(pixels, kernel, bias), (n, len(bias.data)))
