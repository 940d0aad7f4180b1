"""The operations a network is made of: each computes its result and says how gradients flow back.

Images are channels last, (N, H, W, C); weights are laid out as PyTorch's. g stands for the gradient of
the loss with respect to the result. `add` and `multiply` are in `autodiff`, for `Tensor`'s operators.
"""

from hlf_np.operations.affine import IDENTITY, affine_matrix, warp
from hlf_np.operations.elementwise import exponential, leaky_relu, relu, sigmoid, tanh
from hlf_np.operations.linear import convolution, linear, transposed_convolution
from hlf_np.operations.losses import absolute_error, cross_entropy, gaussian_divergence, kl_divergence
from hlf_np.operations.normalization import batch_norm, normalize
from hlf_np.operations.pooling import average_pool, max_pool
from hlf_np.operations.shape import columns, concatenate, flatten, reshape, take, unflatten

__all__ = [
    "IDENTITY", "absolute_error", "affine_matrix", "average_pool", "batch_norm", "columns", "concatenate",
    "convolution", "cross_entropy", "exponential", "flatten", "gaussian_divergence", "kl_divergence",
    "leaky_relu", "linear", "max_pool",
    "normalize", "relu", "reshape", "sigmoid", "take", "tanh", "transposed_convolution", "unflatten", "warp",
]  # fmt: skip
