"""A number of one's own: how sure a model is of what it says, right or wrong."""

import numpy as np

from hlf_np.experiments.measurements import Measurement


def confidence(subject):
    logits = subject.model.logits(subject.test.images).astype(np.float64)  # (N, classes)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers.max(axis=1) / powers.sum(axis=1)).mean()


mean_confidence = Measurement("confidence", "Mean confidence on test images", confidence)
