# %% [markdown]
# # Lesson 3: A network trained on FONTS
#
# FONTS are the letters A to J of 1000 fonts, shifted, sheared, scaled and rotated at random. In this lesson you write
# everything that a training needs besides the layers: the loss, batch normalization, the optimiser and the batches.
# Then you train a network with them.

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf

# %% [markdown]
# ## 1. The loss
#
# A network returns *logits* $f \in \mathbb{R}^K$ for each image. The softmax makes probabilities of them, $p_k =
# e^{f_k} / \sum_j e^{f_j}$, and the cross-entropy is the surprise at the true class $y$:
#
# $$L = -\log p_y = \log \sum_j e^{f_j} - f_y.$$
#
# $e^{1000}$ is too large for a computer, but $p$ does not change if the same number is subtracted from all logits of an
# image. Which one keeps all exponents at most 0?


# %%
def cross_entropy(logits, labels):
    """Return the loss of each image, shape (N,), for logits (N, K) of any size and labels (N,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


# %% [markdown]
# ## 2. Its gradient
#
# Differentiate $L$ with respect to $f_k$: what is $\partial L / \partial f_k$ for $k \neq y$, and what for $k = y$? The
# training minimises the *mean* over the batch.


# %%
def cross_entropy_gradient(logits, labels):
    """Return the gradient of the mean loss over the N images with respect to the logits, shape (N, K)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient = exponentials / exponentials.sum(axis=1, keepdims=True)
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


# %% [markdown]
# ## 3. Batch normalization
#
# Batch normalization shifts and scales each channel to mean 0 and variance 1: $\hat x = (x - \mu) / \sqrt{\sigma^2 +
# 10^{-5}}$.
#
# - In **training mode**, $\mu$ and $\sigma^2$ are mean and variance of the batch, and the running statistics move
#   towards them: $r \leftarrow 0.9 \, r + 0.1 \, \mu$, likewise for the variance.
# - In **evaluation mode**, $\mu$ and $\sigma^2$ are the running statistics, and nothing changes. So the result for an
#   image does not depend on what else is in the batch.


# %%
def batch_norm(x, running_mean, running_variance, training):
    """Return (xhat, running mean, running variance) for x (N, C) and running statistics (C,)."""
    mean, variance = running_mean, running_variance
    if training:
        mean, variance = x.mean(axis=0), x.var(axis=0)
        running_mean = 0.9 * running_mean + 0.1 * mean
        running_variance = 0.9 * running_variance + 0.1 * variance
    return (x - mean) / np.sqrt(variance + 1e-5), running_mean, running_variance


# %% [markdown]
# ## 4. Adam
#
# Adam keeps running means of the gradient, $m$, and of its square, $v$, both 0 at first. At step $t = 1, 2, \dots$
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
#   w \leftarrow w - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}.$$
#
# The denominators $1 - \beta^t$ make up for the zeros at the beginning. The very first step has length $\eta$ in each
# coordinate: why?


# %%
def adam_step(w, g, m, v, t, learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Return the new (w, m, v) after step t = 1, 2, ..."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return w - learning_rate * step, m, v


# %% [markdown]
# ## 5. Batches
#
# An epoch visits every image once, in random order, a batch at a time. The last batch may be smaller.


# %%
def epoch_batches(count, size, random):
    """Return a list of arrays of indices: 0 to count - 1 in an order drawn from the generator, `size` at a time."""
    order = random.permutation(count)
    return [order[first : first + size] for first in range(0, count, size)]


# %% [markdown]
# ## A training
#
# First, the two modes of batch normalization. The running statistics approach those of the data, mean 3 and variance 4:

# %%
mean, variance = np.zeros(1), np.ones(1)
for batch in np.random.default_rng(0).normal(3, 2, (50, 100, 1)):
    normalized, mean, variance = batch_norm(batch, mean, variance, training=True)
print(f"running mean {mean[0]:.2f}, variance {variance[0]:.2f}; last batch: mean {normalized.mean():.2f}")
print(
    "a single value of 5, in evaluation mode:", batch_norm(np.array([[5.0]]), mean, variance, training=False)[0].item()
)

# %% [markdown]
# Then two layers, trained by what you wrote. Does the training error fall faster than the test error?

# %%
data = hlf.data.load_fonts(n_train=2000, n_test=1000, difficulty="moderate")
random = np.random.default_rng(0)
shapes = {"first": (784, 128), "second": (128, 10)}
weights = {name: random.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
state = {name: (np.zeros(shape), np.zeros(shape)) for name, shape in shapes.items()}


def logits_of(images):
    """Return the logits of images, and the hidden layer."""
    hidden = np.maximum(images.reshape(len(images), -1) @ weights["first"], 0)
    return hidden @ weights["second"], hidden


def error(split):
    """Return the fraction of misclassified images."""
    return (logits_of(split.images)[0].argmax(axis=1) != split.labels).mean()


errors, losses, t = [], [], 0
for _ in range(10):
    for rows in epoch_batches(len(data.train), 100, random):
        batch, t = data.train.take(rows), t + 1
        logits, hidden = logits_of(batch.images)
        losses.append(cross_entropy(logits, batch.labels).mean())
        g = cross_entropy_gradient(logits, batch.labels)
        gradients = {
            "second": hidden.T @ g,
            "first": batch.images.reshape(len(rows), -1).T @ (g @ weights["second"].T * (hidden > 0)),
        }
        for name, gradient in gradients.items():
            weights[name], *state[name] = adam_step(weights[name], gradient, *state[name], t, learning_rate=0.003)
    errors.append((error(data.train), error(data.test)))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(losses)
left.set(xlabel="step", ylabel="loss of the batch", ylim=0)
right.plot(errors, label=["training error", "test error"])
right.set(xlabel="epoch", ylim=0)
right.legend()
plt.show()

# %% [markdown]
# The paper's network has three convolutions and batch normalization. The package trains it in seconds:

# %%
model = hlf.models.cnn(classes=10, seed=0)
hlf.training.train(model, data.train, epochs=10)
print("test error of the two layers:", errors[-1][1])
print("test error of the paper's network:", (model.predict(data.test.images) != data.test.labels).mean())

# %% [markdown]
# **Questions.** What is the loss of a network that knows nothing? What happens to a batch of a single image in batch
# normalization? If the loss were the sum over the batch instead of the mean, how would the gradient of exercise 2
# change, and would Adam notice?

# %% [checks]
from hlf_np.lessons import Hint, call, compare, numerical_gradient


def package_losses(logits, labels):
    return hlf.operations.cross_entropy(hlf.autodiff.Tensor(logits), labels).data


def check_cross_entropy(cross_entropy):
    logits, labels = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]]), np.array([2, 0])
    right = package_losses(logits, labels)
    probabilities = np.exp(-right)
    shifted = logits - logits.max(axis=1, keepdims=True)
    mistakes = {
        "that is the probability of the true class: take minus its logarithm.": probabilities,
        "there is one loss for each image: do not average over the batch.": right.mean(),
        "there is one loss for each image: do not sum over the batch.": right.sum(),
        "the softmax is over the classes of one image: sum over axis 1.": np.log(np.exp(shifted).sum())
        - shifted[[0, 1], labels],
    }
    compare(call(cross_entropy, logits, labels), right, mistakes)
    for shift in (1000, -1000):
        result = np.asarray(call(cross_entropy, logits + shift, labels))
        if not np.isfinite(result).all():
            raise Hint(
                f"for logits around {shift} it is not finite: subtract the largest logit of each image before `exp`."
            )
        compare(result, right, of=f"the result for logits around {shift}")
    apart = np.array([[0.0, 1000.0, -1000.0], [2000.0, 0.0, 0.0]])
    result = np.asarray(call(cross_entropy, apart, labels))
    if not np.isfinite(result).all():
        raise Hint(
            "for logits far apart it is not finite: subtract from the logits of each image its own largest one, and"
            " take the logarithm of the sum, not of p, which may be 0."
        )
    compare(result, package_losses(apart, labels), of="the result for logits that are far apart")


def check_cross_entropy_gradient(cross_entropy_gradient):
    logits, labels = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]]), np.array([2, 0])
    right = numerical_gradient(lambda f: package_losses(f, labels).mean(), logits)
    one_hot = np.eye(3)[labels]
    mistakes = {
        "that is the gradient of the sum: divide by the number of images.": 2 * right,
        "the softmax itself is the gradient for the wrong classes: at the true class, subtract 1.": right + one_hot / 2,
        "the softmax itself is the gradient for the wrong classes: at the true class, subtract 1, and take the mean.": 2
        * right
        + one_hot,
        "it has the wrong sign: a larger logit of the true class makes the loss smaller.": -right,
        "it has the wrong sign, and is not divided by the number of images.": -2 * right,
        "divide by the number of images, and not by the number of entries.": right * 2 / logits.size,
    }
    compare(call(cross_entropy_gradient, logits, labels), right, mistakes)
    apart = np.array([[0.0, 1000.0, -1000.0], [2000.0, 0.0, 0.0]])
    for shifted, slopes in ((logits + 1000, right), (apart, np.array([[0, 0.5, -0.5], [0, 0, 0]]))):
        result = call(cross_entropy_gradient, shifted, labels)
        if not np.isfinite(result).all() or not np.allclose(result, slopes, atol=1e-6):
            raise Hint("for logits of 1000 it is wrong: subtract the largest logit of each image before `exp`.")


def check_batch_norm(batch_norm):
    x = np.array([[1.0, 10.0, 0.001], [3.0, 50.0, 0.002], [2.0, 20.0, 0.0]])
    mean, variance, running_mean, running_variance = x.mean(0), x.var(0), np.array([0.0, 5, 1]), np.array([1.0, 9, 2])

    def normalized(mean, variance, epsilon=1e-5):
        return (x - mean) / np.sqrt(variance + epsilon)

    def mixed(share):
        return (1 - share) * running_mean + share * mean, (1 - share) * running_variance + share * variance

    right = (normalized(mean, variance), *mixed(0.1))
    mistakes = {
        "the two modes are exchanged: in training mode, use those of the batch, and update the others.": (
            normalized(running_mean, running_variance), running_mean, running_variance),
        "in training mode it uses the running statistics: use those of the batch.": (
            normalized(running_mean, running_variance), *mixed(0.1)),
        "it uses the running statistics after their update: in training mode, use those of the batch.": (
            normalized(*mixed(0.1)), *mixed(0.1)),
        "the running statistics move too fast: they keep 0.9 of their value.": (right[0], *mixed(0.9)),
        "in training mode the running statistics must move towards those of the batch.": (
            right[0], running_mean, running_variance),
        "the running statistics are replaced by those of the batch: they keep 0.9 of their value.": (
            right[0], mean, variance),
        "the 1e-5 is missing: a channel that hardly varies is blown up.": (normalized(mean, variance, 0), *mixed(0.1)),
        "the 1e-5 is added to the standard deviation: add it to the variance, below the root.": (
            (x - mean) / (np.sqrt(variance) + 1e-5), *mixed(0.1)),
        "it divides by the variance: divide by its square root.": ((x - mean) / (variance + 1e-5), *mixed(0.1)),
        "that is the unbiased variance (N - 1): divide by N here.": (
            normalized(mean, x.var(0, ddof=1)),
            mixed(0.1)[0],
            0.9 * running_variance + 0.1 * x.var(0, ddof=1),
        ),
    }  # fmt: skip
    compare(call(batch_norm, x, running_mean, running_variance, True), right, mistakes)
    right = (normalized(running_mean, running_variance), running_mean, running_variance)
    mistakes = {
        "in evaluation mode it uses the statistics of the batch: use the running ones.": (
            normalized(mean, variance), running_mean, running_variance),
        "in evaluation mode the batch changes nothing, neither the statistics used nor the running ones.": (
            normalized(mean, variance), *mixed(0.1)),
        "in evaluation mode the running statistics stay as they are.": (right[0], *mixed(0.1)),
    }  # fmt: skip
    compare(call(batch_norm, x, running_mean, running_variance, False), right, mistakes)


def check_adam_step(adam_step):
    w, g, m, v = np.array([1.0, -2.0]), np.array([0.5, -3e-4]), np.array([0.1, 0.2]), np.array([0.04, 1e-7])
    t, rate, b1, b2 = 3, 0.01, 0.9, 0.999
    new_m, new_v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = new_m / (1 - b1**t), new_v / (1 - b2**t)
    right = w - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
    mistakes = {
        "it climbs: subtract the step.": (2 * w - right, new_m, new_v),
        "the corrections 1 - beta^t are missing: m and v begin at 0.": (
            w - rate * new_m / (np.sqrt(new_v) + 1e-8), new_m, new_v),
        "the corrected m and v are kept: return the uncorrected ones, to be continued.": (right, m_hat, v_hat),
        "the root of v is missing.": (w - rate * m_hat / (v_hat + 1e-8), new_m, new_v),
        "epsilon belongs outside the root.": (w - rate * m_hat / np.sqrt(v_hat + 1e-8), new_m, new_v),
        "the gradient must be squared in v.": (
            w - rate * m_hat / (np.sqrt((b2 * v + (1 - b2) * g) / (1 - b2**t)) + 1e-8), new_m, b2 * v + (1 - b2) * g),
        "beta^t is a power: `beta**t`, and not `beta * t`.": (
            w - rate * new_m / (1 - b1 * t) / (np.sqrt(new_v / (1 - b2 * t)) + 1e-8), new_m, new_v),
        "beta1 and beta2 are exchanged, or 1 - beta and beta: m keeps 0.9 of its value, v keeps 0.999.": (
            w - rate * ((1 - b1) * m + b1 * g) / (1 - b1**t)
            / (np.sqrt(((1 - b2) * v + b2 * g**2) / (1 - b2**t)) + 1e-8),
            (1 - b1) * m + b1 * g, (1 - b2) * v + b2 * g**2),
        "the correction uses t - 1: the first step is t = 1.": (
            w - rate * new_m / (1 - b1 ** (t - 1)) / (np.sqrt(new_v / (1 - b2 ** (t - 1))) + 1e-8), new_m, new_v),
    }  # fmt: skip
    compare(call(adam_step, w, g, m, v, t), (right, new_m, new_v), mistakes)
    new_m, new_v = 0.5 * m + 0.5 * g, 0.6 * v + 0.4 * g**2
    right = w - 0.2 * new_m / (1 - 0.5**t) / (np.sqrt(new_v / (1 - 0.6**t)) + 0.1)
    settings = {"learning_rate": 0.2, "beta1": 0.5, "beta2": 0.6, "epsilon": 0.1}
    try:
        compare(call(adam_step, w, g, m, v, t, **settings), (right, new_m, new_v))
    except Hint as hint:
        raise Hint(f"with {settings}, {hint} Use the parameters, with their names, and not their defaults.") from hint


def check_epoch_batches(epoch_batches):
    batches = [np.asarray(batch) for batch in call(epoch_batches, 23, 5, np.random.default_rng(0))]
    if any(batch.ndim != 1 or batch.dtype.kind not in "iu" for batch in batches):
        raise Hint("a batch is an array of integers, the indices of its images.")
    if len(batches) == 4:
        raise Hint("the last three images are lost: the last batch may be smaller than the others.")
    if [len(batch) for batch in batches] != [5, 5, 5, 5, 3]:
        raise Hint(f"23 images in batches of 5 are batches of 5, 5, 5, 5 and 3, not of {[len(b) for b in batches]}.")
    order = np.concatenate(batches)
    if len(set(order.tolist())) < 23:
        raise Hint("some images come twice, and others never: draw without replacement, such as by a permutation.")
    if order.min() != 0 or order.max() != 22:
        raise Hint(f"indices run from 0 to count - 1, not from {order.min()} to {order.max()}.")
    if (order == np.arange(23)).all():
        raise Hint("the order is not random: shuffle the indices.")
    if (np.diff([np.sort(batch) for batch in batches[:4]], axis=1) == 1).all(axis=1).any():
        raise Hint("a batch has five images in a row: shuffle the images themselves, not blocks of them.")
    again = np.concatenate(epoch_batches(23, 5, np.random.default_rng(0)))
    if not np.array_equal(order, again):
        raise Hint("the same generator gives another order: draw from `random`, so that a training can be repeated.")
    if np.array_equal(order, np.concatenate(epoch_batches(23, 5, np.random.default_rng(1)))):
        raise Hint("every generator gives the same order: draw from the one that is passed, `random`.")
    if len(call(epoch_batches, 20, 5, np.random.default_rng(0))) != 4:
        raise Hint("20 images in batches of 5 are 4 batches: the last one must not be empty.")
