# %% [markdown]
# # Lesson 2: Convolution, forward and backward
#
# A convolution looks at an image through a small window, computes the same weighted sum at every position, and so finds
# the same stroke wherever it is. In this package images are stored channels last, $x$ of shape (N, H, W, C), and
# weights as $w$ of shape (O, C, kh, kw). Without padding, and with windows one pixel apart,
#
# $$y_{n,i,j,o} = \sum_{a,b,c} x_{n,\,i+a,\,j+b,\,c} \; w_{o,c,a,b},$$
#
# for $i = 0, \dots, H - kh$ and $j = 0, \dots, W - kw$: the output has $H' = H - kh + 1$ rows and $W' = W - kw + 1$
# columns. (Mathematicians would call this a cross-correlation; deep learning does not turn the window around.)

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf

# %% [markdown]
# ## 1. Forward
#
# Two loops over the positions $(a, b)$ in the window are enough: for each, a slice of all images is multiplied by the
# matrix `w[:, :, a, b]` of shape (O, C). How large is the slice, and where does it begin?


# %%
def convolve(x, w):
    """Return y of shape (N, H - kh + 1, W - kw + 1, O) for images x (N, H, W, C) and weights w (O, C, kh, kw)."""
    kh, kw = w.shape[2:]
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    y = np.zeros((len(x), rows, columns, len(w)))
    for a in range(kh):
        for b in range(kw):
            y += x[:, a : a + rows, b : b + columns] @ w[:, :, a, b].T
    return y


# %% [markdown]
# ## 2. A border of zeros
#
# With a border of width $p$ around each image, the output can be as large as the input.


# %%
def pad(x, p):
    """Return images (N, H + 2 p, W + 2 p, C) with a border of zeros of width p."""
    return np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))


# %% [markdown]
# ## 3. Backward to the weights
#
# Let $g = \partial L / \partial y$. Each weight is used at every position of every image, so its gradient is a sum over
# all of them:
#
# $$\frac{\partial L}{\partial w_{o,c,a,b}} = \sum_{n,i,j} x_{n,\,i+a,\,j+b,\,c} \; g_{n,i,j,o}.$$
#
# The slices are those of the forward pass; `np.tensordot` or `np.einsum` does the sum.


# %%
def convolve_weight_gradient(x, g, kernel):
    """Return dL/dw of shape (O, C, kh, kw) for images x, g = dL/dy of shape (N, H', W', O), and kernel = (kh, kw)."""
    kh, kw = kernel
    gradient = np.empty((g.shape[3], x.shape[3], kh, kw))
    for a in range(kh):
        for b in range(kw):
            gradient[:, :, a, b] = np.tensordot(g, x[:, a : a + g.shape[1], b : b + g.shape[2]], ((0, 1, 2), (0, 1, 2)))
    return gradient


# %% [markdown]
# ## 4. Backward to the images
#
# A pixel is seen through several windows, at another position in each, and its gradient is the sum of what all of these
# windows contribute. The easiest way is the opposite of the forward pass: for each $(a, b)$, *add* what belongs there
# to a slice of the result.


# %%
def convolve_input_gradient(g, w, size):
    """Return dL/dx of shape (N, H, W, C) for g = dL/dy, weights w (O, C, kh, kw), and size = (H, W)."""
    gradient = np.zeros((len(g), *size, w.shape[1]))
    for a in range(w.shape[2]):
        for b in range(w.shape[3]):
            gradient[:, a : a + g.shape[1], b : b + g.shape[2]] += g @ w[:, :, a, b]
    return gradient


# %% [markdown]
# ## 5. Pooling
#
# Max pooling keeps the largest of each 2 x 2 pixels: $y_{i,j} = \max(x_{2i,2j}, x_{2i,2j+1}, x_{2i+1,2j},
# x_{2i+1,2j+1})$. A small change of a pixel that is not the largest changes nothing, so the gradient goes to the
# largest one alone.


# %%
def max_pool_backward(g, x):
    """Return dL/dx for y = 2 x 2 max pooling of x (N, H, W, C), with g = dL/dy (N, H/2, W/2, C); there are no ties."""
    largest = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max(axis=(2, 4))
    enlarged, g = (np.repeat(np.repeat(array, 2, axis=1), 2, axis=2) for array in (largest, g))
    return np.where(x == enlarged, g, 0)


# %% [markdown]
# What does a convolution see? These two windows answer to horizontal and vertical edges of a letter.

# %%
letters = hlf.data.load_fonts(n_train=10, n_test=0, difficulty="easy").train.images
edges = np.array([[[[-1, -1, -1], [0, 0, 0], [1, 1, 1]]], [[[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]]]], float)
response = convolve(pad(letters[:1], 1), edges)
figure, axes = plt.subplots(1, 3)
for axis, image, title in zip(
    axes, [letters[0, :, :, 0], *response[0].transpose(2, 0, 1)], ["letter", "rows", "columns"]
):
    axis.imshow(image, cmap="gray")
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# And how fast is it? The package computes the same as matrix products in compiled kernels, which keep a tile of the
# result in the registers of the processor.

# %%
images = np.random.default_rng(0).random((100, 28, 28, 16), np.float32)
weights = np.random.default_rng(1).random((32, 16, 3, 3), np.float32)
tensors = hlf.autodiff.Tensor(images), hlf.autodiff.Tensor(weights)
for name, run in (
    ("yours", lambda: convolve(images, weights)),
    ("the package's", lambda: hlf.operations.convolution(*tensors, None)),
):
    run()
    started = time.perf_counter()
    run()
    print(f"{name}: {1000 * (time.perf_counter() - started):.1f} ms")

# %% [markdown]
# **Questions.** The gradient with respect to the images is itself a convolution: of what, with which weights? Why does
# it need the *weights* but not the *images*, and why is it the other way round for the other gradient?

# %% [checks]
from hlf_np.lessons import Hint, call, compare


def example(kh=3, kw=3):
    """Return x, w, g of a convolution."""
    random = np.random.default_rng(0)
    shapes = (2, 5, 6, 2), (3, 2, kh, kw), (2, 6 - kh, 7 - kw, 3)
    return [random.standard_normal(shape) for shape in shapes]


def by_package(x, w, g=None):
    """Return y, and if there is g, dL/dx and dL/dw."""
    x, w = (hlf.autodiff.Tensor(np.array(array), requires_grad=True) for array in (x, w))
    y = hlf.operations.convolution(x, w, None)
    y.backward(g)
    return y.data, x.gradient, w.gradient


def check_convolve(convolve):
    x, w, _ = example()
    mistakes = {
        "the window is turned around: position (a, b) of the window lies at pixel (i + a, j + b).": by_package(
            x, w[:, :, ::-1, ::-1]
        )[0],
        "rows and columns of the window are exchanged: it is w[o, c, a, b], with a for rows.": by_package(
            x, w.swapaxes(2, 3)
        )[0],
        "only the last channel of the images arrives: sum over c.": by_package(x[..., -1:], w[:, -1:])[0],
        "only the first channel of the images arrives: sum over c.": by_package(x[..., :1], w[:, :1])[0],
        "each position of the window overwrites the one before: add them.": by_package(x[:, 2:, 2:], w[:, :, 2:, 2:])[
            0
        ],
    }
    result = call(convolve, x, w)
    if np.shape(result) == (2, 2, 3, 3):
        raise Hint("the last row and column are missing: i runs from 0 to H - kh inclusive, which are H - kh + 1 rows.")
    compare(result, by_package(x, w)[0], mistakes)
    compare(
        call(convolve, x, w[:1, :, :1]), by_package(x, w[:1, :, :1])[0], of="the result for a window of 1 x 3 pixels"
    )


def check_pad(pad):
    x = example()[0]
    mistakes = {
        "it pads the images and channels, too: only axes 1 and 2 get a border.": np.pad(x, 2),
        "there is a border on one side only: it must be p wide on both.": np.pad(x, ((0, 0), (2, 0), (2, 0), (0, 0))),
        "there is a border on one side only: it must be p wide on both sides.": np.pad(
            x, ((0, 0), (0, 2), (0, 2), (0, 0))
        ),
        "the border repeats the outer pixels: it must be zero.": np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge"),
    }
    compare(call(pad, x, 2), np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), mistakes)
    compare(call(pad, x, 0), x, of="the result for p = 0")


def check_convolve_weight_gradient(convolve_weight_gradient):
    x, w, g = example()
    right = by_package(x, w, g)[2]
    mistakes = {
        "it averages over the images: the gradient is the sum.": right / len(x),
        "it averages over the images and positions: the gradient is the sum.": right / g[..., 0].size,
        "rows and columns of the window are exchanged.": right.swapaxes(2, 3),
        "the window is turned around: pixel (i + a, j + b) belongs to weight (a, b).": right[:, :, ::-1, ::-1],
        "the layout is not that of the weights: dL/dw has the shape (O, C, kh, kw).": right.transpose(2, 3, 1, 0),
    }
    compare(call(convolve_weight_gradient, x, g, (3, 3)), right, mistakes)
    x, w, g = example(2, 3)
    compare(
        call(convolve_weight_gradient, x, g, (2, 3)), by_package(x, w, g)[2], of="dL/dw of a window of 2 x 3 pixels"
    )


def check_convolve_input_gradient(convolve_input_gradient):
    x, w, g = example()
    right = by_package(x, w, g)[1]
    last = np.zeros_like(right)
    for a in range(3):
        for b in range(3):
            last[:, a : a + 3, b : b + 4] = g @ w[:, :, a, b]
    mistakes = {
        "windows overlap, and each overwrites what others have contributed: add to the slice.": last,
        "the window is turned around: output (i, j) touches pixel (i + a, j + b) through weight (a, b).": by_package(
            x, w[:, :, ::-1, ::-1], g
        )[1],
    }
    compare(call(convolve_input_gradient, g, w, x.shape[1:3]), right, mistakes)
    x, w, g = example(2, 3)
    compare(
        call(convolve_input_gradient, g, w, x.shape[1:3]),
        by_package(x, w, g)[1],
        of="dL/dx for a window of 2 x 3 pixels",
    )


def check_max_pool_backward(max_pool_backward):
    random = np.random.default_rng(0)
    x, g = random.permutation(np.arange(-48.0, 48.0)).reshape(3, 4, 4, 2), random.standard_normal((3, 2, 2, 2))
    tensor = hlf.autodiff.Tensor(x, requires_grad=True)
    hlf.operations.max_pool(tensor, 2).backward(g)
    spread = np.repeat(np.repeat(g, 2, axis=1), 2, axis=2)
    mistakes = {
        "all four pixels get the gradient: only the largest changes the result.": spread,
        "each pixel gets a quarter of the gradient: that is average pooling.": spread / 4,
        "the largest pixels get a 1: the chain rule multiplies by g.": (tensor.gradient != 0).astype(float),
    }
    compare(call(max_pool_backward, g, x), tensor.gradient, mistakes)
