"""A training of one's own: a loss that asks for 0.9 of the label and 0.1 of all classes together."""

from hlf_np.operations import cross_entropy
from hlf_np.trainings import Training


def smoothed(model, clean, perturbed, labels):
    logits = model(perturbed)  # (N, classes)
    classes = logits.shape[1]
    losses = 0.9 * cross_entropy(logits, labels)  # (N,)
    for label in range(classes):
        losses = losses + 0.1 / classes * cross_entropy(logits, labels * 0 + label)
    return losses


label_smoothing = Training("label_smoothing", loss=smoothed)
