"""The instructions that only training needs; `instructions` explains what their fields have in common."""

from typing import NamedTuple


class BiasSums(NamedTuple):
    """sums = a part's gradient with respect to a bias; gradients : table of rows of pixels."""

    gradients: int
    rows: int
    row: int
    channels: int
    sums: int


class Moments(NamedTuple):
    """moments = mean of each channel over a part, then the sums of squared distances from it; x : table of rows."""

    x: int
    rows: int
    row: int
    channels: int
    moments: int


class Normalize(NamedTuple):
    """y = factor * x + offset, its positive part if `rectified`; x, y : tables of rows; statistics : of the batch."""

    x: int
    rows: int
    row: int
    statistics: int
    y: int
    rectified: int


class NormSums(NamedTuple):
    """sums = a part's gradients with respect to the weight and the bias of a batch norm; x, g : tables of rows."""

    x: int
    rows: int
    row: int
    channels: int
    statistics: int
    g: int
    sums: int


class NormGradient(NamedTuple):
    """d = the gradient with respect to the input of a batch norm; x, g, d, gates : tables of rows."""

    x: int
    rows: int
    row: int
    statistics: int
    g: int
    d: int
    finish: int
    gates: int


class SoftmaxLoss(NamedTuple):
    """The cross-entropy of each image and the predicted class as `results`, and the gradient of the mean loss."""

    logits: int
    logits_step: int
    gradient: int
    gradient_step: int
    labels: int
    labels_step: int
    classes: int
    results: int
    results_step: int


class TradesLoss(NamedTuple):
    """The same with TRADES for pairs of a clean image and its perturbed one; see `losses.Trades`.

    beta : where among the weights beta is.
    """

    logits: int
    logits_step: int
    gradient: int
    gradient_step: int
    labels: int
    labels_step: int
    classes: int
    results: int
    results_step: int
    beta: int


class Reparameterize(NamedTuple):
    """codes = mean + exp(log variance / 2) * noise; the posterior is the means and then the log variances."""

    latents: int
    posterior: int
    posterior_step: int
    noise: int
    noise_step: int
    codes: int
    codes_step: int


class ReparameterizeGradient(NamedTuple):
    """The gradient with respect to the posterior, from the one with respect to the codes and that of the KL."""

    latents: int
    posterior: int
    posterior_step: int
    noise: int
    noise_step: int
    d_posterior: int
    d_posterior_step: int
    d_codes: int
    d_codes_step: int


class VaeLoss(NamedTuple):
    """The summed absolute error and the KL of each image as `results`, and the gradient before the last sigmoid.

    rows, row : of an image; y, x, g : the reconstruction, the image and the gradient.
    weight : where among the weights the reconstruction's weight is.
    """

    rows: int
    row: int
    y: int
    y_row_step: int
    y_step: int
    x: int
    x_row_step: int
    x_step: int
    g: int
    g_row_step: int
    g_step: int
    weight: int
    latents: int
    posterior: int
    posterior_step: int
    results: int
    results_step: int


class WeightSums(NamedTuple):
    """sums = a part's gradient with respect to a matrix of weights; see `outer_products`.

    groups, group_count, group : table of where the groups of rows begin, how many there are, and rows in each.
    a_steps, b_steps, pixels : tables of the pixels' windows and of their output gradients, and pixels of an image.
    """

    groups: int
    group_count: int
    group: int
    a_steps: int
    pixels: int
    b_steps: int
    columns: int
    sums: int


class Statistics(NamedTuple):
    """At the end of a stage: mean and variance of the batch from its parts' moments, and the running statistics.

    statistics : where they go; settings : momentum and epsilon; those and weight, ..., running_variance stand among the
    weights.
    """

    pixels: int
    channels: int
    row: int
    moments: int
    statistics: int
    weight: int
    bias: int
    running_mean: int
    running_variance: int
    settings: int


class NormTotals(NamedTuple):
    """At the end of a stage: the gradients with respect to weight and bias, from the sums of all parts."""

    pixels: int
    channels: int
    row: int
    sums: int
    statistics: int
    weight: int
    bias: int


class Totals(NamedTuple):
    """At the end of a stage: gradient = the sums of all parts, `size` numbers."""

    size: int
    sums: int
    gradient: int


class Task(NamedTuple):
    """A few rows and a panel of a gradient with respect to weights, over all images of one half of a batch.

    a, a_steps : where the numbers of the first row are, relative to the window of a pixel; table of these windows.
    column, columns, b_steps : first column of the panel, columns in all, table of the pixels' output gradients.
    gradient, rows : where the rows go, and how many they are.
    """

    a: int
    a_steps: int
    pixels: int
    column: int
    columns: int
    b_steps: int
    gradient: int
    rows: int


# Those of a part of a batch, and those at the end of a stage.
OF_PARTS = (
    BiasSums, Moments, Normalize, NormSums, NormGradient, SoftmaxLoss, TradesLoss, Reparameterize,
    ReparameterizeGradient, VaeLoss, WeightSums,
)  # fmt: skip
CLOSING = (Statistics, NormTotals, Totals)
