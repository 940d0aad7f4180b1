"""Instructions that only training needs: losses, batch norm over a whole batch, and gradients of parameters.

A batch is computed in *parts* of a few images (micro-batches), each with a workspace of its own. Most instructions work
on one part. The `REDUCTIONS` combine the results of all parts where a stage ends; see `interpreter.training`.
"""

from typing import NamedTuple


class BiasSums(NamedTuple):
    """sums = gradient with respect to a bias, summed over one part."""

    gradients: int  # table: rows of the gradient with respect to the layer's output
    rows: int
    row_size: int
    channels: int
    sums: int  # work: the sums to write, one per channel


class Moments(NamedTuple):
    """moments = mean of each channel over one part, then the sum of squared deviations from it."""

    x: int  # table: rows of the input
    rows: int
    row_size: int
    channels: int
    moments: int  # work: means and sums of squares to write, 2 * channels


class Normalize(NamedTuple):
    """y = factor * x + offset, and its positive part if `relu`."""

    x: int  # table: rows of the input
    rows: int
    row_size: int
    statistics: int  # weights: statistics of the batch, see `kernels.operations.normalization`
    y: int  # table: rows of the output
    relu: int  # 1 if a ReLU follows, else 0


class NormSums(NamedTuple):
    """sums = gradients with respect to the weight and the bias of a batch norm, summed over one part."""

    x: int  # table: rows of the input
    rows: int
    row_size: int
    channels: int
    statistics: int  # weights: as in `Normalize`
    g: int  # table: rows of the gradient with respect to the output
    sums: int  # work: the sums to write, 2 * channels


class NormGradient(NamedTuple):
    """d = gradient with respect to the input of a batch norm."""

    x: int  # table: rows of the input
    rows: int
    row_size: int
    statistics: int  # weights: as in `Normalize`
    g: int  # table: rows of the gradient with respect to the output
    d: int  # table: rows of the gradient to write
    epilogue: int
    masks: int  # table: rows, not pixels


class SoftmaxLoss(NamedTuple):
    """Cross-entropy and predicted class of each image as `results`, and the gradient of the batch's mean loss."""

    logits: int  # work: logits of the first image
    logits_stride: int
    gradient: int  # work: gradient with respect to them, to write
    gradient_stride: int
    labels: int  # work: label of the first image, as a float
    labels_stride: int
    classes: int
    results: int  # work: loss and predicted class of the first image, to write
    results_stride: int


class TradesLoss(NamedTuple):
    """The TRADES loss of pairs of a clean image and its perturbed view; see `losses.Trades`."""

    logits: int  # as in `SoftmaxLoss`, down to `results_stride`
    logits_stride: int
    gradient: int
    gradient_stride: int
    labels: int
    labels_stride: int
    classes: int
    results: int
    results_stride: int
    beta: int  # weights: beta


class Reparameterize(NamedTuple):
    """codes = mean + exp(log variance / 2) * noise."""

    latents: int  # dimensions of a code
    posterior: int  # work: means and then log variances of the first image, 2 * latents
    posterior_stride: int
    noise: int  # work: noise of the first image
    noise_stride: int
    codes: int  # work: code of the first image, to write
    codes_stride: int


class ReparameterizeGradient(NamedTuple):
    """Gradient with respect to the posterior, from the gradient with respect to the codes and that of the KL."""

    latents: int  # as in `Reparameterize`, down to `noise_stride`
    posterior: int
    posterior_stride: int
    noise: int
    noise_stride: int
    d_posterior: int  # work: gradient with respect to the first image's posterior, to write
    d_posterior_stride: int
    d_codes: int  # work: gradient with respect to the first image's code
    d_codes_stride: int


class VaeLoss(NamedTuple):
    """Summed absolute error and KL of each image as `results`, and the gradient before the decoder's sigmoid."""

    rows: int
    row_size: int
    y: int  # work: first reconstruction
    y_row_stride: int
    y_stride: int
    x: int  # work: first image
    x_row_stride: int
    x_stride: int
    g: int  # work: gradient of the first image, to write
    g_row_stride: int
    g_stride: int
    weight: int  # weights: weight of the reconstruction error
    latents: int
    posterior: int  # work: as in `Reparameterize`
    posterior_stride: int
    results: int  # work: error and KL of the first image, to write
    results_stride: int


class WeightSums(NamedTuple):
    """sums = gradient with respect to a weight matrix, summed over one part; see `products.product.outer_products`.

    The matrix has a row for each element of a window. The rows of one contiguous segment of the window form a *group*.
    """

    groups: int  # table: where the groups begin, relative to the window
    group_count: int
    group: int  # rows per group
    a_steps: int  # table: where the window of each pixel begins
    pixels: int
    b_steps: int  # table: gradient with respect to the output at each pixel
    columns: int
    sums: int  # work: the sums to write, stored by `panels`


class Statistics(NamedTuple):
    """Reduction: mean and variance of the batch from the moments of its parts, and the running statistics."""

    pixels: int
    channels: int
    row_size: int
    moments: int  # work: as left by `Moments`
    statistics: int  # weights: statistics to write
    weight: int  # weights: parameters of the batch norm, one value per channel
    bias: int
    running_mean: int  # weights: running statistics, updated in place
    running_variance: int
    settings: int  # weights: momentum and epsilon


class NormTotals(NamedTuple):
    """Reduction: gradients with respect to weight and bias of a batch norm, from the sums of all parts."""

    pixels: int
    channels: int
    row_size: int
    sums: int  # work: as left by `NormSums`
    statistics: int  # weights: as in `Normalize`
    weight: int  # position of the weight, in the parameters and in their gradients alike
    bias: int  # position of the bias, likewise


class Totals(NamedTuple):
    """Reduction: gradient = sum over all parts."""

    size: int  # elements
    sums: int  # work: sums of each part
    gradient: int  # position in the gradients


class WeightGradientPanel(NamedTuple):
    """A few rows and one panel of columns of the gradient with respect to a weight matrix, over one half of a batch."""

    a: int  # where the first row's element is, relative to the window of a pixel
    a_steps: int  # table: where the window of each pixel begins
    pixels: int
    column: int  # first column of the panel
    columns: int  # columns of the matrix
    b_steps: int  # table: gradient with respect to the output at each pixel
    gradient: int  # position in the gradients: where the rows go
    rows: int


# Instructions on one part of a batch, and instructions that combine all parts at the end of a stage.
PART_INSTRUCTIONS = (
    BiasSums, Moments, Normalize, NormSums, NormGradient, SoftmaxLoss, TradesLoss, Reparameterize,
    ReparameterizeGradient, VaeLoss, WeightSums,
)  # fmt: skip
REDUCTIONS = (Statistics, NormTotals, Totals)
