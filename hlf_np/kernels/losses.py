"""Losses and their gradients for one image; all arrays are parts of a workspace."""

import numpy as np

from hlf_np.kernels.compiling import inner


@inner
def softmax(work, at, to, classes):  # type: ignore[no-untyped-def]
    """Put the probabilities of an image's logits f into place: max f, log sum exp(f - max f), the predicted class."""
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


@inner
def softmax_loss(work, at, to, classes, label):  # type: ignore[no-untyped-def]
    """Cross-entropy of an image's logits, its gradient put into place, and the class that is predicted."""
    largest, log_total, predicted = softmax(work, at, to, classes)
    work[to + label] -= np.float32(1)
    return log_total - (work[at + label] - largest), predicted


@inner
def divergence_loss(work, at, to, classes, log_p):  # type: ignore[no-untyped-def]
    """The same of KL(p || q), q the probabilities of the logits, in place of the cross-entropy."""
    largest, log_total, predicted = softmax(work, at, to, classes)
    loss = np.float32(0)
    for c in range(classes):
        p = np.exp(log_p[c])
        loss += p * (log_p[c] - (work[at + c] - largest - log_total))
        work[to + c] -= p
    return loss, predicted


@inner
def trades_loss(work, at, to, other_at, other_to, classes, label, beta, scale):  # type: ignore[no-untyped-def]
    """Cross-entropy of an image's logits plus beta KL(p || q), q of its other face; scale times the gradients to both
    put into place, and the classes that are predicted."""
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


@inner
def absolute_error(y, x, g, count, scale):  # type: ignore[no-untyped-def]
    """The summed absolute difference of sigmoids y and images x; g = scale times the gradient before the sigmoid."""
    total = np.float32(0)
    for k in range(count):
        difference = y[k] - x[k]
        total += abs(difference)
        slope = scale * y[k] * (np.float32(1) - y[k])
        g[k] = slope if difference > 0 else (-slope if difference < 0 else np.float32(0))
    return total


@inner
def divergence(posterior, latents):  # type: ignore[no-untyped-def]
    """The KL to N(0, I) of a Gaussian with a posterior's means and log variances."""
    total = np.float32(0)
    for k in range(latents):
        mean, log_variance = posterior[k], posterior[latents + k]
        total += np.float32(0.5) * (mean * mean + np.exp(log_variance) - log_variance - np.float32(1))
    return total


@inner
def reparameterize(posterior, noise, codes, latents):  # type: ignore[no-untyped-def]
    """codes = mean + exp(log_variance / 2) * noise."""
    for k in range(latents):
        codes[k] = posterior[k] + np.exp(np.float32(0.5) * posterior[latents + k]) * noise[k]


@inner
def reparameterize_gradient(posterior, noise, d_codes, d_posterior, latents, scale):  # type: ignore[no-untyped-def]
    """d_posterior from d_codes, plus scale times the gradient of the KL: mean and (exp(log_variance) - 1) / 2."""
    half = np.float32(0.5)
    for k in range(latents):
        mean, log_variance = posterior[k], posterior[latents + k]
        spread = np.exp(half * log_variance)
        d_posterior[k] = d_codes[k] + scale * mean
        d_posterior[latents + k] = half * (d_codes[k] * noise[k] * spread + scale * (spread * spread - np.float32(1)))
