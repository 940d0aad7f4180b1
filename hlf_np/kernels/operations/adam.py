"""Adam in one pass over memory; NumPy expressions would make one pass for every operator."""

import numpy as np

from hlf_np.kernels.numba_internals.cache import kernel


@kernel(error_model="numpy")
def adam_update(parameter, gradient, first, second, settings):  # type: ignore[no-untyped-def]
    """Take one step of Adam (Kingma and Ba, 2015) in place.

    Parameters
    ----------
    parameter : ndarray of float32, shape (P,)
        The parameters.
    gradient : ndarray of float32, shape (P,)
        The gradient with respect to them, without weight decay.
    first, second : ndarray of float32, shape (P,)
        The running means m of the gradient and v of its square.
    settings : ndarray of float32, shape (6,)
        Weight decay, beta1, beta2, the learning rate divided by 1 - beta1^t, 1 / sqrt(1 - beta2^t), and epsilon, where
        t is the number of this step, from 1.
    """
    decay, beta1, beta2, rate, correction, epsilon = (
        settings[0], settings[1], settings[2], settings[3], settings[4], settings[5],
    )  # fmt: skip
    one = parameter.dtype.type(1)
    for k in range(parameter.size):
        g = gradient[k] + decay * parameter[k]
        m = beta1 * first[k] + (one - beta1) * g
        v = beta2 * second[k] + (one - beta2) * g * g
        first[k], second[k] = m, v
        parameter[k] -= rate * m / (np.sqrt(v) * correction + epsilon)
