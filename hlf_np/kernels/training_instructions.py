"""The instructions that only training needs; `instructions` explains what their fields have in common."""

from collections import namedtuple


class BiasSums(namedtuple("BiasSums", "gradients rows row channels sums")):
    """sums = a part's gradient with respect to a bias; gradients : table of rows of pixels."""


class Moments(namedtuple("Moments", "x rows row channels moments")):
    """moments = mean of each channel over a part, then the sums of squared distances from it; x : table of rows."""


class Normalize(namedtuple("Normalize", "x rows row statistics y rectified")):
    """y = factor * x + offset, its positive part if `rectified`; x, y : tables of rows; statistics : of the batch."""


class NormSums(namedtuple("NormSums", "x rows row channels statistics g sums")):
    """sums = a part's gradients with respect to the weight and the bias of a batch norm; x, g : tables of rows."""


class NormGradient(namedtuple("NormGradient", "x rows row statistics g d finish gates")):
    """d = the gradient with respect to the input of a batch norm; x, g, d, gates : tables of rows."""


class SoftmaxLoss(
    namedtuple(
        "SoftmaxLoss",
        "logits logits_step gradient gradient_step labels labels_step classes results results_step",
    )
):
    """The cross-entropy of each image and the predicted class as `results`, and the gradient of the mean loss."""


class TradesLoss(
    namedtuple(
        "TradesLoss",
        "logits logits_step gradient gradient_step labels labels_step classes results results_step beta",
    )
):
    """The same with TRADES for pairs of a clean image and its perturbed one; see `losses.Trades`.

    beta : where among the weights beta is.
    """


class Reparameterize(
    namedtuple(
        "Reparameterize",
        "latents posterior posterior_step noise noise_step codes codes_step",
    )
):
    """codes = mean + exp(log variance / 2) * noise; the posterior is the means and then the log variances."""


class ReparameterizeGradient(
    namedtuple(
        "ReparameterizeGradient",
        "latents posterior posterior_step noise noise_step d_posterior d_posterior_step d_codes d_codes_step",
    )
):
    """The gradient with respect to the posterior, from the one with respect to the codes and that of the KL."""


class VaeLoss(
    namedtuple(
        "VaeLoss",
        "rows row y y_row_step y_step x x_row_step x_step g g_row_step g_step weight latents posterior "
        "posterior_step results results_step",
    )
):
    """The summed absolute error and the KL of each image as `results`, and the gradient before the last sigmoid.

    rows, row : of an image; y, x, g : the reconstruction, the image and the gradient.
    weight : where among the weights the reconstruction's weight is.
    """


class WeightSums(namedtuple("WeightSums", "groups group_count group a_steps pixels b_steps columns sums")):
    """sums = a part's gradient with respect to a matrix of weights; see `outer_products`.

    groups, group_count, group : table of where the groups of rows begin, how many there are, and rows in each.
    a_steps, b_steps, pixels : tables of the pixels' windows and of their output gradients, and pixels of an image.
    """


class Statistics(
    namedtuple(
        "Statistics",
        "pixels channels row moments statistics weight bias running_mean running_variance settings",
    )
):
    """At the end of a stage: mean and variance of the batch from its parts' moments, and the running statistics.

    statistics : where they go; settings : momentum and epsilon; those and weight, ..., running_variance stand among the
    weights.
    """


class NormTotals(namedtuple("NormTotals", "pixels channels row sums statistics weight bias")):
    """At the end of a stage: the gradients with respect to weight and bias, from the sums of all parts."""


class Totals(namedtuple("Totals", "size sums gradient")):
    """At the end of a stage: gradient = the sums of all parts, `size` numbers."""


class Task(namedtuple("Task", "a a_steps pixels column columns b_steps gradient rows")):
    """A few rows and a panel of a gradient with respect to weights, over all images of one half of a batch.

    a, a_steps : where the numbers of the first row are, relative to the window of a pixel; table of these windows.
    column, columns, b_steps : first column of the panel, columns in all, table of the pixels' output gradients.
    gradient, rows : where the rows go, and how many they are.
    """


# Those of a part of a batch, and those at the end of a stage.
OF_PARTS = (
    BiasSums, Moments, Normalize, NormSums, NormGradient, SoftmaxLoss, TradesLoss, Reparameterize,
    ReparameterizeGradient, VaeLoss, WeightSums,
)  # fmt: skip
CLOSING = (Statistics, NormTotals, Totals)
