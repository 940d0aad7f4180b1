"""The operations that networks are made of, each with its forward and its backward pass.

Images are channels last, (N, H, W, C); weights have PyTorch's layouts. In the formulas g is the gradient of the loss
with respect to the output of the operation. `add`, `multiply` and the other operators of `Tensor` are in `autodiff`.
"""

from hlf_np.operations.affine import IDENTITY, affine_matrix, warp
from hlf_np.operations.convolution import convolution, linear, transposed_convolution
from hlf_np.operations.elementwise import clip, exponential, leaky_relu, relu, sigmoid, tanh
from hlf_np.operations.losses import absolute_error, cross_entropy, gaussian_divergence, kl_divergence
from hlf_np.operations.normalization import batch_norm, normalize
from hlf_np.operations.pooling import average_pool, max_pool
from hlf_np.operations.shape import columns, concatenate, flatten, reshape, take, unflatten

__all__ = [
    "IDENTITY", "absolute_error", "affine_matrix", "average_pool", "batch_norm", "clip", "columns", "concatenate",
    "convolution", "cross_entropy", "exponential", "flatten", "gaussian_divergence", "kl_divergence",
    "leaky_relu", "linear", "max_pool",
    "normalize", "relu", "reshape", "sigmoid", "take", "tanh", "transposed_convolution", "unflatten", "warp",
]  # fmt: skip
