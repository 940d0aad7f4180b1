# %% [markdown]
# # Lesson 6: A variational autoencoder
#
# The manifold of photographs, or of handwriting, is unknown. A *variational autoencoder* (VAE, Kingma and Welling,
# 2014) learns one from images. Its encoder maps an image $x$ to a Gaussian distribution over codes, $q(z \mid x) =
# \mathcal{N}(m, s^2)$ with one mean $m$ and variance $s^2 = e^v$ for each entry of the code; its decoder maps a code
# back to an image. Training asks for two things: that the decoded image resembles $x$, and that the distributions of
# all images together resemble $\mathcal{N}(0, 1)$, so that every code near 0 decodes to some image. The loss of an
# image is
#
# $$\underbrace{\lambda \sum_d |x_d - \mathrm{dec}(z)_d|}_{\text{reconstruction}} \; + \;
#   \underbrace{\mathrm{KL}(q(z \mid x) \,\|\, \mathcal{N}(0, 1))}_{\text{order}}, \qquad z \sim q(z \mid x).$$

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf

# %% [markdown]
# ## 1. Sampling, so that a gradient can pass
#
# A random draw has no derivative. But $z = m + s \, n$ with $n \sim \mathcal{N}(0, 1)$ has the right distribution, and
# for a given $n$ it is an ordinary function of $m$ and $v = \log s^2$. This is the *reparameterization trick*.


# %%
def reparameterize(mean, log_variance, noise):
    """Return z for arrays m, v and n of the same shape."""
    return mean + np.exp(log_variance / 2) * noise


# %% [markdown]
# ## 2. And back
#
# Given $g = \partial L / \partial z$, what are $\partial L / \partial m$ and $\partial L / \partial v$?


# %%
def reparameterize_backward(g, mean, log_variance, noise):
    """Return (dL/dm, dL/dv)."""
    return g, g * noise * np.exp(log_variance / 2) / 2


# %% [markdown]
# ## 3. The divergence
#
# For one entry of the code, with $\mathbb{E}$ over $z \sim \mathcal{N}(m, s^2)$,
#
# $$\mathrm{KL} = \mathbb{E}\left[\log \mathcal{N}(z; m, s^2) - \log \mathcal{N}(z; 0, 1)\right]
#   = \tfrac{1}{2}\left(m^2 + e^v - v - 1\right).$$
#
# Derive it: $\mathbb{E}[(z - m)^2] = s^2$ and $\mathbb{E}[z^2] = m^2 + s^2$ are all you need. The entries are
# independent, so their divergences add up.


# %%
def gaussian_divergence(mean, log_variance):
    """Return KL(q || N(0, 1)) of each image, shape (N,), for m and v of shape (N, K)."""
    return (mean**2 + np.exp(log_variance) - log_variance - 1).sum(axis=1) / 2


# %% [markdown]
# ## 4. Its gradient
#
# Where is the divergence 0, and does descent lead there?


# %%
def gaussian_divergence_gradient(mean, log_variance):
    """Return (dKL/dm, dKL/dv), both of shape (N, K), of the sum of all divergences."""
    return mean, (np.exp(log_variance) - 1) / 2


# %% [markdown]
# ## 5. The loss
#
# The reconstruction error is a *sum* over pixels. If it were a mean, the divergence would be hundreds of times more
# important, and the encoder would ignore the image: every code would be $\mathcal{N}(0, 1)$. This is called posterior
# collapse.


# %%
def vae_loss(images, decoded, mean, log_variance, weight):
    """Return the loss, a number: the mean over images of lambda (`weight`) times the reconstruction error plus KL.

    Images and decoded images are (N, H, W, C), mean and log_variance (N, K).
    """
    errors = np.abs(images - decoded).sum(axis=(1, 2, 3))
    return (weight * errors + gaussian_divergence(mean, log_variance)).mean()


# %% [markdown]
# ## A manifold of the letter A
#
# The package's VAE learns from 2000 images of one letter.

# %%
fonts = hlf.data.Fonts(hlf.data.fonts.load_prototypes(), "moderate")
letters = fonts.split(np.arange(2000) * 10).images  # every tenth image is an A
log = []
config = hlf.manifolds.VaeConfig(channels=(8, 16, 32), epochs=10)
vae = hlf.manifolds.train_vae(letters, config, progress=log.append)
plt.plot([entry.reconstruction_error for entry in log], label="reconstruction error, in pixels")
plt.plot([entry.divergence for entry in log], label="divergence, in nats")
plt.xlabel("epoch")
plt.legend()
plt.show()

# %% [markdown]
# Above: images; in the middle: their reconstructions; below: codes drawn from $\mathcal{N}(0, 1)$, decoded. The last
# row shows images that do not exist.

# %%
codes = np.random.default_rng(0).standard_normal((8, vae.config.latent_dimensions), np.float32)
rows = letters[:8], vae.decode(vae.encode(letters[:8])), vae.decode(codes)
figure, axes = plt.subplots(3, 8, figsize=(9, 3.6))
for images, line in zip(rows, axes):
    for image, axis in zip(images, line):
        axis.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
plt.show()

# %% [markdown]
# Walk from one letter to another: on a straight line through pixels, and on a straight line through codes.

# %%
shares = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
start, end = vae.encode(letters[:2])
through_codes = vae.decode((1 - shares) * start + shares * end)
through_pixels = (1 - shares[:, :, None, None]) * letters[0] + shares[:, :, None, None] * letters[1]
figure, axes = plt.subplots(2, 8, figsize=(9, 2.4))
for images, line in zip((through_pixels, through_codes), axes):
    for image, axis in zip(images, line):
        axis.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
plt.show()

# %% [markdown]
# **Questions.** Which of the two walks stays on the manifold? The reconstructions are blurred: are they on the manifold
# of the letters? An attack on the learned manifold starts at the reconstruction of an image: what must be true of it
# for the attack to mean anything?

# %% [checks]
from hlf_np.lessons import call, compare, numerical_gradient


def example():
    """Return m, v and n of two images with three entries each."""
    mean, log_variance = np.array([[0.5, -1, 2], [0, 0.3, -0.7]]), np.array([[0.4, -2, 1], [0.9, 0, -0.5]])
    return mean, log_variance, np.array([[1, -0.5, 0.2], [-1.5, 2, 0.7]])


def check_reparameterize(reparameterize):
    m, v, n = example()
    mistakes = {
        "e^v is the variance: the standard deviation is its root, e^(v / 2).": m + np.exp(v) * n,
        "v is the logarithm of the variance: s = e^(v / 2).": m + v * n,
        "the standard deviation is e^(v / 2): the root of v itself is something else.": m + np.sqrt(np.abs(v)) * n,
        "the mean is missing.": np.exp(v / 2) * n,
        "the noise is missing.": m + np.exp(v / 2),
    }
    compare(call(reparameterize, m, v, n), m + np.exp(v / 2) * n, mistakes)


def check_reparameterize_backward(reparameterize_backward):
    m, v, n = example()
    g = np.array([[1.0, 2, -1], [0.5, -3, 0.1]])
    right = tuple(
        numerical_gradient(loss, x)
        for loss, x in (
            (lambda m: float((g * (m + np.exp(v / 2) * n)).sum()), m),
            (lambda v: float((g * (m + np.exp(v / 2) * n)).sum()), v),
        )
    )
    mistakes = {
        "the derivative of e^(v / 2) has a factor 1 / 2.": (g, g * n * np.exp(v / 2)),
        "dL/dv lacks the noise: dz/dv = n e^(v / 2) / 2.": (g, g * np.exp(v / 2) / 2),
        "dL/dv lacks g: the chain rule multiplies by it.": (g, n * np.exp(v / 2) / 2),
        "that is the gradient with respect to s: v is the logarithm of its square.": (g, g * n),
        "the derivative is that of e^v: s is e^(v / 2).": (g, g * n * np.exp(v)),
        "dL/dm is g itself, as dz/dm = 1.": (np.ones_like(g), right[1]),
    }
    compare(call(reparameterize_backward, g, m, v, n), right, mistakes)


def check_gaussian_divergence(gaussian_divergence):
    m, v, _ = example()
    entries = (m**2 + np.exp(v) - v - 1) / 2
    right = entries.sum(axis=1)
    mistakes = {
        "the factor 1 / 2 is missing.": 2 * right,
        "it has the wrong sign: a divergence is never negative.": -right,
        "it averages over the entries of the code: their divergences add up.": entries.mean(axis=1),
        "there is one divergence for each image: sum over axis 1 only.": right.sum(),
        "there is one divergence for each image: do not average over them.": right.mean(),
        "the sum is over axis 1, the entries of the code, not over the images.": entries.sum(axis=0),
        "sum over the entries of the code, axis 1.": entries,
        "v is the logarithm of the variance: the variance is e^v, and the logarithm v itself.": (
            (m**2 + v - np.log(np.abs(v)) - 1) / 2
        ).sum(axis=1),
        "v is treated as the logarithm of the standard deviation: e^v is the variance already.": (
            (m**2 + np.exp(2 * v) - 2 * v - 1) / 2
        ).sum(axis=1),
        "the -1 is missing: the divergence must be 0 for m = 0 and v = 0.": right + m.shape[1] / 2,
        "the mean must be squared.": ((m + np.exp(v) - v - 1) / 2).sum(axis=1),
    }
    compare(call(gaussian_divergence, m, v), right, mistakes)


def check_gaussian_divergence_gradient(gaussian_divergence_gradient):
    m, v, _ = example()
    right = (
        numerical_gradient(lambda m: float((m**2 + np.exp(v) - v - 1).sum()) / 2, m),
        numerical_gradient(lambda v: float((m**2 + np.exp(v) - v - 1).sum()) / 2, v),
    )
    mistakes = {
        "the factor 1 / 2 is missing in both.": (2 * m, np.exp(v) - 1),
        "the factor 1 / 2 is missing in the second.": (m, np.exp(v) - 1),
        "the first has no factor 1 / 2: the square brings a 2.": (m / 2, (np.exp(v) - 1) / 2),
        "the -1, the derivative of -v, is missing: at v = 0 the gradient must be 0.": (m, np.exp(v) / 2),
        "it points uphill: that is minus the gradient.": (-m, -(np.exp(v) - 1) / 2),
        "it is the gradient of the sum: do not divide by the number of images.": (m / 2, (np.exp(v) - 1) / 4),
    }
    compare(call(gaussian_divergence_gradient, m, v), right, mistakes)


def check_vae_loss(vae_loss):
    m, v, _ = example()
    random = np.random.default_rng(0)
    x, y, weight = random.random((2, 3, 4, 2)), random.random((2, 3, 4, 2)), 2.5
    errors = np.abs(x - y).sum(axis=(1, 2, 3))
    divergences = ((m**2 + np.exp(v) - v - 1) / 2).sum(axis=1)
    mistakes = {
        "the reconstruction error is a mean over pixels: sum them, or the code will ignore the image.": (
            weight * errors / 24 + divergences
        ).mean(),
        "lambda weighs the divergence: it belongs to the reconstruction error.": (errors + weight * divergences).mean(),
        "lambda, the weight, is missing.": (errors + divergences).mean(),
        "it sums over the images: take the mean.": (weight * errors + divergences).sum(),
        "the divergence is subtracted: both terms are to be made small.": (weight * errors - divergences).mean(),
        "the divergence is missing.": (weight * errors).mean(),
        "the error is squared: the paper takes the absolute value.": (
            weight * np.square(x - y).sum(axis=(1, 2, 3)) + divergences
        ).mean(),
        "differences of both signs cancel: take their absolute values.": (
            weight * (x - y).sum(axis=(1, 2, 3)) + divergences
        ).mean(),
        "there is one number for the batch: take the mean over the images.": weight * errors + divergences,
    }
    compare(call(vae_loss, x, y, m, v, weight), (weight * errors + divergences).mean(), mistakes)
