# %% [markdown]
# # Lesson 5: The manifold and its tangent
#
# The images of one letter in one font are a surface: six numbers $t$ (translation, shear, scale, rotation) go in, 784
# pixels come out, $x = \mathrm{dec}(t)$. All of these images together are the *manifold* of that letter. An adversarial
# example may lie on this surface or beside it, and that is the distinction of the paper:
#
# - a *regular* adversarial example changes pixels, and leaves the manifold;
# - an *on-manifold* adversarial example changes $t$: it is an image that the dataset could have contained.
#
# In this lesson you measure directions along the manifold, and attack along it.

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf
from hlf_np.autodiff import Tensor

# %% [markdown]
# ## 1. The Jacobian
#
# Near $t$, the surface is flat: $\mathrm{dec}(t + \zeta) \approx \mathrm{dec}(t) + J \zeta$, where column $k$ of the
# *Jacobian* $J$ is $\partial\, \mathrm{dec} / \partial t_k$. Central differences are accurate to second order in $h$:
#
# $$\frac{\partial\, \mathrm{dec}}{\partial t_k} \approx
#   \frac{\mathrm{dec}(t + h e_k) - \mathrm{dec}(t - h e_k)}{2 h}.$$


# %%
def jacobian(decode, t, h=1e-4):
    """Return J of shape (D, K) for a function `decode` from t of shape (K,) to a vector of shape (D,)."""
    columns = []
    for k in range(len(t)):
        step = np.zeros(len(t))
        step[k] = h
        columns.append((decode(t + step) - decode(t - step)) / (2 * h))
    return np.stack(columns, axis=1)


# %% [markdown]
# ## 2. A basis of the tangent space
#
# The columns of $J$ span the tangent space, but they are neither orthogonal nor of length 1. `np.linalg.qr` or
# `np.linalg.svd` finds an orthonormal basis $B$ of the same space, $B^\top B = I$.


# %%
def tangent_basis(j):
    """Return an orthonormal basis of the column space of J (D, K), of rank K, in the columns of a (D, K) array."""
    return np.linalg.qr(j)[0]


# %% [markdown]
# ## 3. Tangent and normal part
#
# Every vector $v$ of pixels is the sum of a part in the tangent space and one perpendicular to it. With an orthonormal
# basis the first is $B B^\top v$.


# %%
def split(v, basis):
    """Return (tangent part, normal part) of a vector (D,); the basis (D, K) is orthonormal."""
    tangent = basis @ (basis.T @ v)
    return tangent, v - tangent


# %% [markdown]
# By Pythagoras the squared lengths of the two parts add up to that of $v$. So the *tangent share* is a fraction from 0
# to 1, and on average $K / D$ for a vector of random direction.


# %%
def tangent_share(v, basis):
    """Return the squared length of the tangent part of v (D,), as a fraction of that of v."""
    return np.square(basis.T @ v).sum() / np.square(v).sum()


# %% [markdown]
# ## 4. From the gradient of pixels to the gradient of t
#
# If $L$ depends on $t$ through $x = \mathrm{dec}(t)$, the chain rule says $\partial L / \partial t_k = \sum_d (\partial
# L / \partial x_d)(\partial x_d / \partial t_k)$. Write it as a matrix product.


# %%
def code_gradient(j, pixel_gradient):
    """Return dL/dt of shape (K,) for J (D, K) and dL/dx (D,)."""
    return j.T @ pixel_gradient


# %% [markdown]
# ## 5. The attack along the manifold
#
# It is the PGD of lesson 4 with another variable: $t$ instead of $x$. The perturbation is at most $\epsilon$ in each
# entry, and $t$ stays in the box from which the data was drawn. Keep the $t$ of highest loss of all that were visited,
# the start and the last one included.


# %%
def climb(loss_and_gradient, start, lower, upper, epsilon, step_size, steps):
    """Return the best t of shape (K,), after `steps` steps in the direction of the gradient's sign from `start`.

    `loss_and_gradient(t)` returns the loss, a number, and dL/dt of shape (K,). `lower` and `upper` (K,) are the box.
    """
    t, best, highest = start, start, -np.inf
    for step in range(steps + 1):
        loss, gradient = loss_and_gradient(t)
        if loss > highest:
            best, highest = t, loss
        if step < steps:
            t = start + np.clip(t + step_size * np.sign(gradient) - start, -epsilon, epsilon)
            t = np.clip(t, lower, upper)
    return best


# %% [markdown]
# ## On FONTS
#
# `TrueManifold.chart` knows the decoder of given images. We need it for one image at a time.

# %%
data = hlf.data.load_fonts(n_train=1000, n_test=100, seed=0)
prototypes = hlf.data.Fonts(hlf.data.fonts.load_prototypes())
manifold = hlf.spaces.TrueManifold(prototypes)
model = hlf.models.cnn(classes=10, seed=0)
hlf.training.train(model, data.train, epochs=10)


def chart_of(row):
    """Return the manifold around one test image."""
    image = data.test.take(slice(row, row + 1))
    return manifold.chart(image.images, image.labels, image.codes)


def decoder_of(row):
    """Return a function from t (6,) to the pixels (784,) of one test image."""
    chart = chart_of(row)
    return lambda t: chart.decoded(t[None]).ravel().astype(float)


def pixel_loss(x, label):
    """Return the loss of an image (784,) and its gradient (784,)."""
    image = Tensor(x.reshape(1, 28, 28, 1).astype(np.float32), requires_grad=True)
    loss = hlf.operations.cross_entropy(model.forward(image), np.array([label]))
    loss.backward()
    return float(loss.data[0]), image.gradient.ravel().astype(float)


# %% [markdown]
# How much of the loss's gradient points along the manifold? A random direction has a share of $6 / 784 = 0.0077$.

# %%
shares = []
for row in range(50):
    t = data.test.codes.parameters[row].astype(float)
    basis = tangent_basis(jacobian(decoder_of(row), t, h=1e-2))
    shares.append(tangent_share(pixel_loss(data.test.images[row].ravel(), data.test.labels[row])[1], basis))
print("mean tangent share of the gradient:", np.mean(shares))

# %% [markdown]
# That is hardly more: following the gradient leads away from the manifold. And an attack along it?

# %%
box = prototypes.box
predictions = model.predict(data.test.images)
fallen = []
for row in np.flatnonzero(predictions == data.test.labels)[:40]:
    decode, label = decoder_of(row), data.test.labels[row]

    def loss_of_code(t, decode=decode, label=label):
        """Return the loss at t and dL/dt."""
        loss, gradient = pixel_loss(decode(t), label)
        return loss, code_gradient(jacobian(decode, t, h=1e-2), gradient)

    start = data.test.codes.parameters[row].astype(float)
    found = decode(climb(loss_of_code, start, box.lower, box.upper, 0.3, 0.05, 10))
    prediction = model.predict(found.reshape(1, 28, 28, 1).astype(np.float32))[0]
    if prediction != label:
        fallen.append((data.test.images[row], found.reshape(28, 28), data.classes[prediction]))
print(f"{len(fallen)} of 40 images have an on-manifold adversarial example")

# %%
figure, axes = plt.subplots(2, 6, figsize=(9, 3.4))
for (top, bottom), (image, found, prediction) in zip(axes.T, fallen):
    top.imshow(image[:, :, 0], cmap="gray")
    bottom.imshow(found, cmap="gray")
    bottom.set_title(f"now: {prediction}")
for axis in axes.ravel():
    axis.axis("off")
plt.show()

# %% [markdown]
# **Questions.** The images in the lower row are plainly the same letters. Would it help to train on them? What would
# that be called if the six parameters were random instead of chosen by an adversary? Why can this attack not be run on
# photographs, and what does the paper do about it (lesson 6)?

# %% [checks]
from hlf_np.lessons import Hint, as_array, call, compare


def example():
    """Return a curved surface in R^5, its Jacobian at t, and t."""
    t = np.array([0.7, -0.4])

    def decode(t):
        a, b = t
        return np.array([a * b, a**3, np.sin(b), b**2 - a, 2 * a])

    a, b = t
    return decode, np.array([[b, a], [3 * a**2, 0], [0, np.cos(b)], [-1, 2 * b], [2, 0]]), t


def check_jacobian(jacobian):
    decode, right, t = example()
    h = 0.1
    steps = h * np.eye(2)
    central = np.stack([(decode(t + step) - decode(t - step)) / (2 * h) for step in steps], axis=1)
    mistakes = {
        "the rows are the columns: entry (d, k) is the derivative of pixel d with respect to t_k.": central.T,
        "the two points are 2 h apart: divide by 2 h.": 2 * central,
        "the difference is not divided by 2 h.": 2 * h * central,
        "that is a forward difference, which is accurate to first order only: use t + h and t - h.": np.stack(
            [(decode(t + step) - decode(t)) / h for step in steps], axis=1
        ),
        "that is a backward difference, which is accurate to first order only: use t + h and t - h.": np.stack(
            [(decode(t) - decode(t - step)) / h for step in steps], axis=1
        ),
        "both points are the same: `p = t` is another name for the same array. Copy it.": np.zeros((5, 2)),
        "all entries of t are moved at once: move one, and keep the others.": np.stack(
            [(decode(t + h) - decode(t - h)) / (2 * h)] * 2, axis=1
        ),
    }
    compare(call(jacobian, decode, t, h), central, mistakes)
    result = call(jacobian, decode, t)
    if np.abs(np.asarray(result) - right).max() > 1e-6:
        raise Hint("the step is not h, or the default of h is not 1e-4.")


def check_tangent_basis(tangent_basis):
    jacobian = example()[1]
    basis = as_array(call(tangent_basis, jacobian))
    if basis.shape != jacobian.shape:
        raise Hint(f"it has shape {basis.shape} instead of {jacobian.shape}: K columns of D entries.")
    if np.allclose(basis, jacobian / np.linalg.norm(jacobian, axis=0)):
        raise Hint("the columns have length 1 but are not orthogonal to each other.")
    if np.allclose(basis, jacobian):
        raise Hint("these are the columns of J themselves: make them orthogonal and of length 1.")
    if not np.allclose(basis.T @ basis, np.eye(2), atol=1e-5):
        raise Hint(f"the columns are not orthonormal: B^T B is {(basis.T @ basis).round(3).tolist()}.")
    if not np.allclose(basis @ (basis.T @ jacobian), jacobian, rtol=1e-4, atol=1e-4):
        raise Hint("the columns are orthonormal, but span another space than those of J.")


def check_split(split):
    basis, v = np.linalg.qr(example()[1])[0], np.array([1.0, -2.0, 0.5, 3.0, 0.2])
    tangent = basis @ (basis.T @ v)
    mistakes = {
        "the two parts are in each other's place: return the tangent part first.": (v - tangent, tangent),
        "the first value has K entries: these are the coordinates in the basis. Multiply by B to get pixels.": (
            basis.T @ v, v - tangent),
        "the normal part is what is left of v, without the tangent part.": (tangent, v),
        "the normal part has the wrong sign: v is the sum of both.": (tangent, tangent - v),
    }  # fmt: skip
    compare(call(split, v, basis), (tangent, v - tangent), mistakes)


def check_tangent_share(tangent_share):
    basis, v = np.linalg.qr(example()[1])[0], np.array([1.0, -2.0, 0.5, 3.0, 0.2])
    share = np.square(basis.T @ v).sum() / np.square(v).sum()
    mistakes = {
        "that is the ratio of the lengths: square them, so that the shares of both parts add up to 1.": np.sqrt(share),
        "that is the share of the normal part.": 1 - share,
        "it is not divided by the squared length of v.": np.square(basis.T @ v).sum(),
        "that is the share of the normal part, and of lengths that are not squared.": np.sqrt(1 - share),
    }
    compare(call(tangent_share, v, basis), share, mistakes)


def check_code_gradient(code_gradient):
    jacobian, g = example()[1], np.array([1.0, -2.0, 0.5, 3.0, 0.2])
    right = jacobian.T @ g
    basis = np.linalg.qr(jacobian)[0]
    mistakes = {
        "it is averaged over the pixels: the chain rule is a sum.": right / 5,
        "those are the coordinates in the orthonormal basis: here it is J itself that counts.": basis.T @ g,
        "that is the t that explains g best, by least squares: multiply by J^T instead.": np.linalg.lstsq(
            jacobian, g, rcond=None
        )[0],
    }
    try:
        compare(call(code_gradient, jacobian, g), right, mistakes)
    except Hint as hint:
        if "ValueError" in str(hint):
            raise Hint("the shapes do not fit: (K,) comes from (K, D) times (D,), so J must be transposed.") from hint
        raise


def check_climb(climb):
    start, lower, upper = np.array([0.5, -0.2, 0.1]), np.array([-1.0, -0.35, -1]), np.array([0.75, 1, 1])

    def loss(t, waves):
        if np.shape(t) != (3,):
            raise Hint(f"t has shape {np.shape(t)} in a step: it must stay (3,).")
        a, b, c = t
        return float(a - b + waves * np.sin(20 * c)), np.array([1, -1, waves * 20 * np.cos(20 * c)])

    def ascend(waves, epsilon, steps, direction=1.0, best=True, last=True, ball=True, box=True, around_zero=False):
        t, kept, highest = start, start, -np.inf
        for step in range(steps + 1):
            value, gradient = loss(t, waves)
            if (value > highest or not best) and (step < steps or last):
                kept, highest = t, value
            t = t + direction * 0.06 * np.sign(gradient)
            if around_zero:
                t = np.clip(t, -epsilon, epsilon)
            elif ball:
                t = start + np.clip(t - start, -epsilon, epsilon)
            t = np.clip(t, lower, upper) if box else t
        return kept

    few = {
        "it descends, or returns the start: an attack makes the loss larger.": ascend(0, 0.3, 2, direction=-1),
        "it descends, and returns the last t: make the loss larger, and keep the best.": ascend(
            0, 0.3, 2, direction=-1, best=False
        ),
        "the last t is not looked at: its loss may be the highest.": ascend(0, 0.3, 2, last=False),
        "it takes one step too many, or changes t after it was stored as the best: copy it.": ascend(0, 0.3, 3),
    }
    compare(call(climb, lambda t: loss(t, 0), start, lower, upper, 0.3, 0.06, 2), ascend(0, 0.3, 2), few)
    many = {
        "t leaves the box: clip it to `lower` and `upper` after every step.": ascend(0, 0.2, 9, box=False),
        "t moves farther than epsilon: clip t - start.": ascend(0, 0.2, 9, ball=False),
        "t moves farther than epsilon, and leaves the box: project after every step.": ascend(
            0, 0.2, 9, ball=False, box=False
        ),
        "the ball is around 0: clip t - start, and add the start again.": ascend(0, 0.2, 9, around_zero=True),
    }
    compare(call(climb, lambda t: loss(t, 0), start, lower, upper, 0.2, 0.06, 9), ascend(0, 0.2, 9), many)
    waves = {"the last t is not always the best: keep the one of highest loss.": ascend(9, 0.3, 9, best=False)}
    compare(call(climb, lambda t: loss(t, 9), start, lower, upper, 0.3, 0.06, 9), ascend(9, 0.3, 9), waves)
    top = np.array([0.0, 0.0, np.pi / 40 + 1e-3])  # just beyond a crest: every step leads down

    def hill(t):
        return float(np.sin(20 * t[2])), np.array([0, 0, 20 * np.cos(20 * t[2])])

    below = {"the start is not looked at: it may be the best already.": top - [0, 0, 0.06]}
    compare(call(climb, hill, top, top - 1, top + 1, 0.3, 0.06, 1), top, below)
