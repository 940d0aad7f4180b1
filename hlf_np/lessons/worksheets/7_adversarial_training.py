# %% [markdown]
# # Lesson 7: Adversarial training, and how many images it needs
#
# Adversarial training (Madry et al., 2018) trains on the images that an attack makes of the training images, computed
# anew in every step:
#
# $$\min_w \; \mathbb{E}_{(x, y)} \; \max_{\|\delta\| \leq \epsilon} L(f_w(x + \delta), y).$$
#
# Does the model become less accurate by it? The paper's answer: not in principle, but it needs more images for the same
# accuracy. In this lesson you write the parts, and see the beginning of that curve.

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf

# %% [markdown]
# ## 1. Half of the batch
#
# By the paper's recipe the *second half* of every batch is replaced by perturbed images. The batch itself must not be
# changed: the next epoch needs its clean images.


# %%
def half_perturbed(images, labels, attack):
    """Return a batch (N, H, W, C), N even, whose second half is perturbed.

    `attack(images, labels)` returns the perturbed images; it is expensive, so it gets no image that is not used.
    """
    half = len(images) // 2
    return np.concatenate([images[:half], attack(images[half:], labels[half:])])


# %% [markdown]
# ## 2. A falling learning rate
#
# In epoch $e = 0, 1, \dots$ and step $i = 0, 1, \dots, n - 1$ of that epoch, let the learning rate be $\eta \,
# \gamma^{e + 1 + i / n}$.


# %%
def learning_rate(initial, decay, epoch, step, steps):
    """Return the learning rate in a step, counted from 0, of an epoch, counted from 0, with `steps` steps."""
    return initial * decay ** (epoch + 1 + step / steps)


# %% [markdown]
# ## 3. Two kinds of error
#
# The *test error* is the fraction of misclassified images. The *robust test error* is the fraction of images that are
# misclassified, or can be made so by the attack: an image that is wrong already needs no attack.


# %%
def robust_test_error(clean, attacked, labels):
    """Return the robust test error, given the predictions for clean and for attacked images, (N,) each."""
    return ((clean != labels) | (attacked != labels)).mean()


# %% [markdown]
# ## 4. How many images for the same error?
#
# Errors were measured at a few sizes $N$, and fall as $N$ grows. Between two of them, assume that the error is a
# straight line in $\log N$. At which $N$ does it reach a given value? (`np.interp` wants ascending x: which of the two
# quantities is x here, and is it ascending?)


# %%
def images_needed(sizes, errors, target):
    """Return the N at which the error is `target`, or NaN if that lies outside the measured errors.

    `sizes` ascend, `errors` descend.
    """
    if not min(errors) <= target <= max(errors):
        return np.nan
    return np.exp(np.interp(target, errors[::-1], np.log(sizes[::-1])))


# %% [markdown]
# ## 5. The data factor
#
# If normal training reaches an error with $N$ images and adversarial training with $N'$, the *data factor* is $N' / N$:
# above 1, robustness costs images; below 1, it saves some.


# %%
def data_factor(sizes, normal_errors, adversarial_errors, size):
    """Return how many times as many images adversarial training needs for the error of normal training at N = size.

    `size` is one of the sizes.
    """
    error = normal_errors[list(sizes).index(size)]
    return images_needed(sizes, adversarial_errors, error) / size


# %% [markdown]
# ## The experiment
#
# Three trainings, three sizes, twenty epochs each. It takes about a minute.

# %%
sizes = np.array([250, 500, 1000])
data = hlf.data.load_fonts(n_train=1000, n_test=1000, seed=0)
manifold = hlf.spaces.TrueManifold(hlf.data.Fonts(hlf.data.fonts.load_prototypes()))
errors, robust_errors = {}, {}
for training in ("normal", "adversarial", "on_true_manifold_adversarial"):
    errors[training], robust_errors[training] = [], []
    for size in sizes:
        model = hlf.models.cnn(classes=10, seed=0)
        hlf.training.train(model, data.train.take(slice(0, size)), training, epochs=20, space=manifold)
        clean = model.predict(data.test.images)
        attack = hlf.attacks.pgd(model, data.test.images, data.test.labels, hlf.spaces.ImageBall(epsilon=0.3))
        errors[training].append((clean != data.test.labels).mean())
        robust_errors[training].append(robust_test_error(clean, model.predict(attack.images), data.test.labels))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for axis, values, title in zip(axes, (errors, robust_errors), ("test error", "robust test error")):
    for training, curve in values.items():
        axis.plot(sizes, curve, marker="o", label=training.replace("_", " "))
    axis.set(title=title, xscale="log", xlabel="N", ylim=(0, 1.05))
axes[0].legend(fontsize="small")
plt.show()

# %%
normal, adversarial = (np.array(errors[name]) for name in ("normal", "adversarial"))
print("data factor at N = 500:", data_factor(sizes, normal, adversarial, 500))

# %% [markdown]
# In the paper the data factor is 0.68 at $N = 250$, 1.3 at 5000 and 4.3 at 40,000. With few images, adversarial
# examples are just more data; with many, they keep the model from using what is useful but fragile.
#
# **Questions.** Which of the three trainings has the lowest test error, and why does *its* robust test error stay at 1?
# Your data factor is from a single seed: how much of it is chance (lesson 8)?

# %% [checks]
from hlf_np.lessons import Hint, as_array, call, compare


def check_half_perturbed(half_perturbed):
    images, labels = np.arange(24.0).reshape(6, 2, 2, 1) / 24, np.arange(6)
    seen = []

    def attack(x, y):
        if len(x) != len(y):
            raise Hint(f"the attack gets {len(x)} images but {len(y)} labels: take the same rows of both.")
        seen.append((len(x), np.array(y)))
        return 1 - x

    result = call(half_perturbed, images, labels, attack)
    mistakes = {
        "all images are perturbed: the first half must stay clean.": 1 - images,
        "it is the second half that is replaced.": np.concatenate([1 - images[:3], images[3:]]),
        "only the perturbed half is returned: keep the clean half.": 1 - images[3:],
        "no image is perturbed: use what the attack returns.": images,
        "the perturbed images are added to the batch: they replace its second half.": np.concatenate(
            [images, 1 - images[3:]]
        ),
        "the clean half is not the first half of the batch, in its order.": np.concatenate(
            [images[3:], 1 - images[3:]]
        ),
    }
    compare(result, np.concatenate([images[:3], 1 - images[3:]]), mistakes)
    if sum(count for count, _ in seen) != 3:
        raise Hint("the attack gets images that are not used: perturb the second half only, and once.")
    if not np.array_equal(np.concatenate([used for _, used in seen]), labels[3:]):
        raise Hint("the attack gets the labels of other images: take the second half of both.")


def check_learning_rate(learning_rate):
    right = 0.01 * 0.95 ** (3 + 1 + 4 / 10)
    mistakes = {
        "the epoch counts from 0, and the exponent from 1: it is e + 1 + i / n.": 0.01 * 0.95 ** (3 + 4 / 10),
        "the fraction of the epoch is missing: add i / n, with `/` and not with `//`.": 0.01 * 0.95**4,
        "the exponent belongs to the decay alone: eta gamma^(...), not (eta gamma)^(...).": (0.01 * 0.95) ** 4.4,
        "that is a product: gamma to the power of e + 1 + i / n.": 0.01 * 0.95 * 4.4,
        "the initial learning rate is missing.": 0.95**4.4,
        "the exponent counts steps: it counts epochs, and their fractions.": 0.01 * 0.95 ** (3 * 10 + 4),
    }
    compare(call(learning_rate, 0.01, 0.95, 3, 4, 10), right, mistakes)


def check_robust_test_error(robust_test_error):
    labels, clean = np.arange(7), np.array([0, 1, 2, 3, 4, 9, 9])
    attacked = np.array([9, 9, 2, 9, 4, 9, 6])
    mistakes = {
        "an image that was misclassified before the attack counts, even if the attack happens to correct it.": 4 / 7,
        "it is either the clean error, or the robust accuracy: the error counts what is wrong before or after.": 2 / 7,
        "it counts only images that are misclassified both before and after: `|` is or, `&` is and.": 1 / 7,
        "it counts, but an error is a fraction: take the mean.": 5,
    }
    compare(call(robust_test_error, clean, attacked, labels), 5 / 7, mistakes)


def check_images_needed(images_needed):
    sizes, errors = np.array([100.0, 1000, 10000]), np.array([0.5, 0.3, 0.2])
    right = 10**2.5
    mistakes = {
        "the straight line is in log N: interpolate the logarithm, and take `exp`.": 550.0,
        "the logarithm is left: take `exp` of the result.": np.log(right),
        "the logarithm is left: take the power of ten of the result.": 2.5,
        "`np.interp` needs ascending x, and the errors descend: turn both arrays around.": np.exp(
            np.interp(0.4, errors, np.log(sizes))
        ),
        "the errors are turned around, but not the sizes.": np.exp(np.interp(0.4, errors[::-1], np.log(sizes))),
        "the nearest measured size is not enough: interpolate.": 100.0,
        "the nearest measured size is not enough: interpolate between two.": 1000.0,
        "x and y are exchanged: the error is given, and N is asked for.": np.interp(0.4, sizes, errors),
    }
    compare(call(images_needed, sizes, errors, 0.4), right, mistakes)
    compare(call(images_needed, sizes, errors, 0.2), 10000.0, of="the result for the smallest error")
    compare(call(images_needed, sizes, errors, 0.5), 100.0, of="the result for the largest error")
    for target in (0.1, 0.6):
        if not np.isnan(as_array(call(images_needed, sizes, errors, target))):
            raise Hint(f"an error of {target} was never measured: return NaN instead of guessing beyond the data.")


def check_data_factor(data_factor):
    sizes, normal = np.array([100.0, 1000, 10000]), np.array([0.5, 0.3, 0.2])
    adversarial = np.array([0.6, 0.4, 0.25])
    right = 10 ** (3 + 2 / 3) / 1000
    mistakes = {
        "it is the wrong way round: above 1 means that adversarial training needs more images.": 1 / right,
        "that is the number of images: divide it by that of normal training.": 1000 * right,
        "the two trainings are exchanged: find the error of normal training in the curve of adversarial training.": 10
        ** 2.5
        / 1000,
        "that is the ratio of errors: it is a ratio of numbers of images.": 0.4 / 0.3,
        "that is the ratio of errors: it is a ratio of numbers of images for the same error.": 0.3 / 0.4,
    }
    compare(call(data_factor, sizes, normal, adversarial, 1000), right, mistakes)
