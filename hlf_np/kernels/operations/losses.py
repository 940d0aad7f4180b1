"""Losses of one image and their gradients.

All arrays are slices of a workspace, float32. `at` and `to` are positions in it.
"""

import numpy as np

from hlf_np.kernels.numba_internals.compiling import callee


@callee
def softmax(work, at, to, classes):  # type: ignore[no-untyped-def]
    """Write the probabilities of the logits f at `at` to `to`.

    Returns max f, log sum exp(f - max f), and the predicted class.
    """
    largest, predicted = work[at], 0
    for c in range(1, classes):
        if work[at + c] > largest:
            largest, predicted = work[at + c], c
    total = np.float32(0)
    for c in range(classes):
        exponential = np.exp(work[at + c] - largest)
        work[to + c] = exponential
        total += exponential
    for c in range(classes):
        work[to + c] /= total
    return largest, np.log(total), predicted


@callee
def softmax_loss(work, at, to, classes, label):  # type: ignore[no-untyped-def]
    """Return the cross-entropy of the logits at `at` and the predicted class; write the gradient to `to`."""
    largest, log_total, predicted = softmax(work, at, to, classes)
    work[to + label] -= np.float32(1)
    return log_total - (work[at + label] - largest), predicted


@callee
def divergence_loss(work, at, to, classes, log_p):  # type: ignore[no-untyped-def]
    """Return KL(p || q) for the probabilities q of the logits at `at`, and the predicted class; write the gradient."""
    largest, log_total, predicted = softmax(work, at, to, classes)
    loss = np.float32(0)
    for c in range(classes):
        p = np.exp(log_p[c])
        loss += p * (log_p[c] - (work[at + c] - largest - log_total))
        work[to + c] -= p
    return loss, predicted


@callee
def trades_loss(work, at, to, other_at, other_to, classes, label, beta, scale):  # type: ignore[no-untyped-def]
    """Return the TRADES loss of a clean image and its perturbed view, and the class predicted for each.

    The loss is the cross-entropy of the clean image plus beta KL(p || q), p and q the probabilities of the two.

    at, other_at : positions of the logits of the clean and of the perturbed image.
    to, other_to : where the gradients with respect to them go, multiplied by `scale`.
    """
    largest, log_total, predicted = softmax(work, at, to, classes)
    other_largest, other_log_total, other_predicted = softmax(work, other_at, other_to, classes)
    offset = (other_largest - largest) + (other_log_total - log_total)
    kl = np.float32(0)
    for c in range(classes):
        kl += work[to + c] * (work[at + c] - work[other_at + c] + offset)
    for c in range(classes):
        p, q = work[to + c], work[other_to + c]
        ratio = work[at + c] - work[other_at + c] + offset  # log(p / q)
        work[to + c] = scale * (p + beta * p * (ratio - kl))
        work[other_to + c] = scale * beta * (q - p)
    work[to + label] -= scale
    return log_total - (work[at + label] - largest) + beta * kl, predicted, other_predicted


@callee
def absolute_error(y, x, g, count, scale):  # type: ignore[no-untyped-def]
    """Return the summed absolute difference of sigmoids y and images x.

    g : `scale` times the gradient with respect to the input of the sigmoid, written.
    count : how many elements are compared.
    """
    total = np.float32(0)
    for k in range(count):
        difference = y[k] - x[k]
        total += abs(difference)
        slope = scale * y[k] * (np.float32(1) - y[k])
        g[k] = slope if difference > 0 else (-slope if difference < 0 else np.float32(0))
    return total


@callee
def divergence(posterior, latents):  # type: ignore[no-untyped-def]
    """Return the KL divergence from N(0, I) of the Gaussian with a posterior's means and log variances."""
    total = np.float32(0)
    for k in range(latents):
        mean, log_variance = posterior[k], posterior[latents + k]
        total += np.float32(0.5) * (mean * mean + np.exp(log_variance) - log_variance - np.float32(1))
    return total


@callee
def reparameterize(posterior, noise, codes, latents):  # type: ignore[no-untyped-def]
    """Compute codes = mean + exp(log_variance / 2) * noise."""
    for k in range(latents):
        codes[k] = posterior[k] + np.exp(np.float32(0.5) * posterior[latents + k]) * noise[k]


@callee
def reparameterize_gradient(posterior, noise, d_codes, d_posterior, latents, scale):  # type: ignore[no-untyped-def]
    """Compute d_posterior from d_codes, plus `scale` times the gradient of the KL.

    The gradient of the KL is mean and (exp(log_variance) - 1) / 2.
    """
    half = np.float32(0.5)
    for k in range(latents):
        mean, log_variance = posterior[k], posterior[latents + k]
        deviation = np.exp(half * log_variance)
        d_posterior[k] = d_codes[k] + scale * mean
        d_posterior[latents + k] = half * (
            d_codes[k] * noise[k] * deviation + scale * (deviation * deviation - np.float32(1))
        )
