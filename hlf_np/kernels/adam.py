"""Adam in one pass over memory: NumPy expressions make one for every operator."""

import numpy as np

from hlf_np.kernels.cache import kernel


@kernel(error_model="numpy")
def adam_update(parameter, gradient, first, second, settings):  # type: ignore[no-untyped-def]
    """One step of Adam in place; settings: weight decay, beta1, beta2, rate, 1 / sqrt(1 - beta2^t), epsilon."""
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
