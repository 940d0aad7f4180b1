# %% [markdown]
# # Lesson 8: A claim, and how certain it is
#
# "Robustness against on-manifold adversarial examples *is* generalization": is that a fact or an impression? In this
# lesson you turn claims of the paper into numbers, find out how certain these are, and pass a verdict: supported,
# refuted, or undecided.
#
# The numbers are real: models that the package trained on FONTS (hard), at N = 250, 500, 1000, 2500 and 5000, two seeds
# each.

# %%
import matplotlib.pyplot as plt
import numpy as np

TEST_ERROR = [0.654, 0.681, 0.566, 0.578, 0.421, 0.484, 0.249, 0.296, 0.162, 0.168]
ON_MANIFOLD_SUCCESS = [0.942, 0.954, 0.924, 0.939, 0.870, 0.885, 0.726, 0.750, 0.580, 0.600]
REGULAR_SUCCESS = [1.000, 1.000, 1.000, 1.000, 0.999, 0.997, 0.995, 0.997, 0.982, 0.982]

# %% [markdown]
# ## 1. An effect without units
#
# Claim 1: regular adversarial examples leave the manifold. The distances of regular examples to the manifold should be
# larger than those of on-manifold ones. How much larger is a matter of units; the *probability* that a regular example
# is farther away than an on-manifold one is not. Compare every one of the first group with every one of the second; a
# tie counts one half.


# %%
def probability_of_greater(a, b):
    """Return the fraction of pairs (one of a, one of b) in which that of a is greater; ties count one half."""
    differences = a[:, None] - b[None, :]
    return (differences > 0).mean() + (differences == 0).mean() / 2


# %% [markdown]
# ## 2. A slope
#
# Claims 3 and 4 are about two kinds of attacks: on-manifold success should rise with the test error, and regular
# success should not. The slope of the least-squares line $y \approx c + s x$ is
#
# $$s = \frac{\sum_i (x_i - \bar x)(y_i - \bar y)}{\sum_i (x_i - \bar x)^2}.$$


# %%
def slope(x, y):
    """Return the slope of the least-squares line through points, arrays (n,); it need not pass through the origin."""
    return ((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum()


# %% [markdown]
# ## 3. The bootstrap
#
# How would the slope vary if we trained other models? We cannot train thousands. The bootstrap (Efron, 1979) pretends
# that the models we have are the population: it draws as many of them *with replacement*, computes the statistic, and
# repeats. Each model brings both of its numbers.


# %%
def bootstrap_slopes(x, y, count, random):
    """Return `count` slopes, each of n points drawn with replacement from the n given ones."""
    draws = random.integers(len(x), size=(count, len(x)))
    return np.array([slope(x[rows], y[rows]) for rows in draws])


# %% [markdown]
# ## 4. The interval
#
# The middle 95 % of these values: from the 2.5 % quantile to the 97.5 % quantile.


# %%
def interval(values, level=0.95):
    """Return (lower, upper): the quantiles between which the middle `level` of the values lies."""
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return lower, upper


# %% [markdown]
# ## 5. The verdict
#
# A claim says that a number is greater than some threshold. It is *supported* if the whole interval lies above the
# threshold, *refuted* if the whole interval lies below, and *undecided* otherwise. Undecided is not a failure: it is
# what the data say.


# %%
def verdict(lower, upper, threshold):
    """Return "supported", "refuted" or "undecided"."""
    if lower > threshold:
        return "supported"
    return "refuted" if upper < threshold else "undecided"


# %% [markdown]
# ## The claims
#
# Is the slope of on-manifold success on test error greater than 0.1? And that of regular success? By claim 3 the first
# should be, and by claim 4 the second should not: there, "refuted" is what the paper expects.

# %%
x, random = np.array(TEST_ERROR), np.random.default_rng(0)
for name, values in (("on-manifold success", ON_MANIFOLD_SUCCESS), ("regular success", REGULAR_SUCCESS)):
    y = np.array(values)
    slopes = bootstrap_slopes(x, y, 2000, random)
    lower, upper = interval(slopes)
    print(
        f"{name}: slope {slope(x, y):.3f} ({lower:.3f} to {upper:.3f}), greater than 0.1: {verdict(lower, upper, 0.1)}"
    )
    plt.hist(slopes, bins=40, alpha=0.6, label=name)
plt.xlabel("slope, 2000 resamples")
plt.legend()
plt.show()

# %% [markdown]
# Claim 1, for ten adversarial examples of each kind against the model trained on 1000 images. The first distances are
# those to the true manifold. Where it is unknown, the paper takes the subspace of the 50 nearest training images
# instead: the second ones, of the same examples. What does that yardstick measure?

# %%
regular, on_manifold = (
    np.array([1.36, 1.11, 1.57, 1.36, 1.53, 1.42, 0.71, 1.15, 1.76, 0.89]),
    np.array([0.03, 0.02, 0.11, 0.07, 0.05, 0.01, 0.05, 0.02, 0.02, 0.01]),
)
print("regular farther than on-manifold, to the true manifold:", probability_of_greater(regular, on_manifold))
regular, on_manifold = (
    np.array([1.27, 1.04, 1.45, 1.24, 1.36, 1.27, 0.63, 0.99, 1.64, 0.83]),
    np.array([2.91, 3.36, 0.77, 0.74, 2.22, 4.58, 4.83, 3.40, 2.26, 2.81]),
)
print("regular farther than on-manifold, to the nearest images:", probability_of_greater(regular, on_manifold))

# %%
for name, values in (("on-manifold success", ON_MANIFOLD_SUCCESS), ("regular success", REGULAR_SUCCESS)):
    plt.scatter(x, values, label=name)
plt.xlabel("test error")
plt.ylim(0, 1.05)
plt.legend()
plt.show()

# %% [markdown]
# A run of the package does this for all trainings and all of its claims, with quantiles farther out where models are
# few (`experiments/analysis/statistics.py` says why): `python -m hlf_np run` takes five minutes, and its report shows
# every number, interval and verdict.
#
# **Questions.** What becomes of the interval with three models instead of ten? (Some draws then contain one model three
# times: which slope do they have?) The claim "regular success does not depend on the test error" has no threshold that
# could be exceeded: how would you decide it? Ten models of one training share their test images: what does the
# bootstrap over models not see?

# %% [checks]
from hlf_np.lessons import Hint, as_array, call, compare


def check_probability_of_greater(probability_of_greater):
    a, b = np.array([3.0, 1.0, 2.0, 0.6, 5.0]), np.array([2.0, 4.0, 0.5])
    pairs = a[:, None] - b
    right = (pairs > 0).mean() + (pairs == 0).mean() / 2
    mistakes = {
        "a tie counts one half: here it counts nothing.": (pairs > 0).mean(),
        "a tie counts one half: here it counts as a win.": (pairs >= 0).mean(),
        "a and b are exchanged: count the pairs in which that of a is greater.": 1 - right,
        "it compares the means: compare every pair.": 1.0,
        "it compares the first with the first, the second with the second: compare every pair.": 2 / 3,
        "it counts pairs: a probability is the fraction of all pairs.": right * pairs.size,
    }
    compare(call(probability_of_greater, a, b), right, mistakes)


def check_slope(slope):
    x, y = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.5, 4.0, 4.2])
    cx, cy = x - x.mean(), y - y.mean()
    right = (cx * cy).sum() / (cx**2).sum()
    mistakes = {
        "the line is forced through the origin: subtract the means first.": (x * y).sum() / (x**2).sum(),
        "x and y are exchanged: that is the slope of x on y.": (cx * cy).sum() / (cy**2).sum(),
        "that is the correlation: divide by the variation of x alone.": (cx * cy).sum()
        / np.sqrt((cx**2).sum() * (cy**2).sum()),
        "that is the line through the first and the last point: use all of them.": (y[-1] - y[0]) / (x[-1] - x[0]),
        "the sum is not divided by that of the squares of x.": (cx * cy).sum(),
        "the factors n and n - 1 do not match (np.cov divides by n - 1, np.var by n).": right * 4 / 3,
        "that is the intercept: return the slope.": y.mean() - right * x.mean(),
    }
    compare(call(slope, x, y), right, mistakes)


def check_bootstrap_slopes(bootstrap_slopes):
    random = np.random.default_rng(0)
    x = random.random(30)
    y = 2 * x + 0.3 * random.standard_normal(30)
    slopes = as_array(call(bootstrap_slopes, x, y, 3000, np.random.default_rng(1)))
    if slopes.shape != (3000,):
        raise Hint(f"for count = 3000 it has shape {slopes.shape} instead of (3000,): one slope for each draw.")
    if np.ptp(slopes) < 1e-9:
        raise Hint("all draws are the same: draw with replacement, so that some models come twice and others never.")
    if abs(slopes.mean()) < 0.3:
        raise Hint("x and y are drawn independently, which destroys their relation: draw models, with both numbers.")
    again, others = (as_array(call(bootstrap_slopes, x, y, 3000, np.random.default_rng(seed))) for seed in (1, 2))
    if not np.array_equal(slopes, again, equal_nan=True):
        raise Hint("the same generator gives other draws: draw from `random`, so that the result can be repeated.")
    if np.array_equal(slopes, others, equal_nan=True):
        raise Hint("every generator gives the same draws: draw from the one that is passed, `random`.")
    # Of four models, all 256 draws can be listed; those of a single model have no slope.
    x, y = np.array([0.0, 1, 2, 10]), np.array([0.0, 3, 1, 2])
    draws = np.stack(np.meshgrid(*[np.arange(4)] * 4), axis=-1).reshape(-1, 4)
    exact = np.array([slope(x[rows], y[rows]) for rows in draws if np.ptp(rows)])
    found = as_array(call(bootstrap_slopes, x, y, 4000, np.random.default_rng(3)))
    found = found[np.isfinite(found)]
    if (
        abs(found.mean() - exact.mean()) > 5 * exact.std() / np.sqrt(4000)
        or not 0.93 < found.std() / exact.std() < 1.07
    ):
        raise Hint(
            f"for four models, the slopes have mean {found.mean():.3f} and standard deviation {found.std():.3f}, not"
            f" {exact.mean():.3f} and {exact.std():.3f}: draw as many points as there are, all equally likely."
        )


def check_interval(interval):
    values = np.random.default_rng(0).gamma(1.0, size=1000)
    right = tuple(np.quantile(values, [0.025, 0.975]))
    mistakes = {
        "that is the middle 90 %: leave out 2.5 % on each side.": tuple(np.quantile(values, [0.05, 0.95])),
        "that is the middle 95 % of a normal distribution: the values may be skewed, so take their quantiles.": (
            values.mean() - 1.96 * values.std(),
            values.mean() + 1.96 * values.std(),
        ),
        "the bounds are in each other's place: return the lower one first.": right[::-1],
        "those are the smallest and the largest value.": (values.min(), values.max()),
        "`np.percentile` takes percents, `np.quantile` fractions.": tuple(np.percentile(values, [0.025, 0.975])),
        "the lower bound is 0 %, the upper 95 %: leave out 2.5 % on each side.": tuple(np.quantile(values, [0, 0.95])),
    }
    compare(call(interval, values), right, mistakes)
    compare(call(interval, values, 0.5), tuple(np.quantile(values, [0.25, 0.75])), of="the result for level = 0.5")


def check_verdict(verdict):
    cases = (
        ((0.2, 0.4), "supported", "the whole interval lies above the threshold"),
        ((-0.3, 0.05), "refuted", "the whole interval lies below the threshold"),
        ((0.05, 0.9), "undecided", "the threshold lies inside, though most of the interval is above"),
        ((0.1, 0.3), "undecided", "the interval touches the threshold"),
        ((-0.3, 0.1), "undecided", "the interval touches the threshold"),
        ((-0.9, 0.15), "undecided", "the threshold lies inside, though most of the interval is below"),
    )
    for (lower, upper), right, why in cases:
        answer = call(verdict, lower, upper, 0.1)
        if not isinstance(answer, str) or answer != right:
            raise Hint(
                f"for ({lower}, {upper}) and the threshold 0.1 it returns {answer!r} instead of {right!r}: {why}."
            )
