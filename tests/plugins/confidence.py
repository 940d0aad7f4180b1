"""A measurement: the mean confidence of a model, the probability of the class that it predicts."""

import numpy as np

from hlf_np.experiments.measurements import Measurement


def confidence(subject):
    logits = subject.model.logits(subject.test.images).astype(np.float64)  # (N, classes)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials.max(axis=1) / exponentials.sum(axis=1)).mean()


mean_confidence = Measurement("confidence", "Mean confidence on test images", confidence)
