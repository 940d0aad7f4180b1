# %% [markdown]
# # Lesson 4: FGSM and PGD
#
# An attack turns training around: the weights stay, and the *image* follows the gradient of the loss, uphill. So that
# the image still shows the same letter, it must stay close to the original:
#
# $$\max_{\tilde x} \; L(f(\tilde x), y) \quad \text{with} \quad \|\tilde x - x\|_\infty \leq \epsilon, \quad
#   \tilde x \in [0, 1]^D.$$
#
# In this lesson you write the fast gradient sign method (Goodfellow et al., 2015) and projected gradient descent (Madry
# et al., 2018), and attack a network that you have trained.

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf
from hlf_np.autodiff import Tensor

# %% [markdown]
# ## 1. The gradient with respect to the image
#
# `x = Tensor(images, requires_grad=True)` is an input that a gradient is wanted for; after `backward()` it is in
# `x.gradient`, and `x.data` is the array itself. `model.forward(x)` returns the logits as a `Tensor`; its argument
# `training` is `False` by default, which means evaluation mode. `hlf.operations.cross_entropy(logits, labels)` is the
# loss of each image, also a `Tensor`, and `loss.backward()` starts with ones: it differentiates the *sum* of the
# losses. Why is that what we want here, rather than the mean?


# %%
def loss_and_gradient(model, images, labels):
    """Return the loss of each image, (N,), and its gradient with respect to that image, (N, H, W, C), as arrays."""
    x = Tensor(images, requires_grad=True)
    losses = hlf.operations.cross_entropy(model.forward(x), labels)
    losses.backward()
    return losses.data, x.gradient


# %% [markdown]
# ## 2. One step: FGSM
#
# Within the box $\|\delta\|_\infty \leq \epsilon$, the linear function $g \cdot \delta$ is largest if every pixel moves
# by $\epsilon$ in the direction of the sign of its gradient. Pixels stay in $[0, 1]$.


# %%
def fgsm(gradient, images, epsilon):
    """Return the images after one step of length epsilon (in L_inf), with pixels in [0, 1]."""
    return np.clip(images + epsilon * np.sign(gradient), 0, 1)


# %% [markdown]
# ## 3. Projection
#
# Several smaller steps find more, but may leave the set of allowed images. The projection returns to its nearest point.


# %%
def project(perturbed, images, epsilon):
    """Return the nearest images to `perturbed` with ||. - images||_inf <= epsilon and pixels in [0, 1]."""
    return np.clip(images + np.clip(perturbed - images, -epsilon, epsilon), 0, 1)


# %% [markdown]
# In $L_2$ the allowed perturbations of an image form a ball. Those outside are shortened to length $\epsilon$, those
# inside stay as they are. Each *image* has its own length, over all of its pixels.


# %%
def project_l2(perturbations, epsilon):
    """Return the nearest perturbations (N, H, W, C) of L_2 norm at most epsilon."""
    norms = np.sqrt(np.square(perturbations).sum(axis=(1, 2, 3), keepdims=True))
    return perturbations * np.minimum(1, epsilon / np.maximum(norms, 1e-12))


# %% [markdown]
# ## 4. Many steps: PGD
#
# Start at the images. In each step, go `step_size` in the direction of the sign of the gradient, and project. Keep, for
# each image, the point of highest loss among all that were visited, with the start and the last one: the last one need
# not be the best.


# %%
def pgd(loss_and_gradient, images, labels, epsilon, step_size, steps):
    """Return the images of highest loss, (N, H, W, C).

    `loss_and_gradient(images, labels)` returns the losses (N,) and the gradients (N, H, W, C).
    """
    current = best = images
    best_losses = np.full(len(images), -np.inf)
    for step in range(steps + 1):
        losses, gradient = loss_and_gradient(current, labels)
        better = losses > best_losses
        best_losses = np.where(better, losses, best_losses)
        best = np.where(better[:, None, None, None], current, best)
        if step < steps:
            current = project(current + step_size * np.sign(gradient), images, epsilon)
    return best


# %% [markdown]
# ## 5. Success
#
# An image that is misclassified anyway proves nothing. The success rate is the fraction of the *correctly classified*
# images that are misclassified after the attack.


# %%
def success_rate(before, after, labels):
    """Return the success rate, given the predictions before and after the attack, (N,) each."""
    correct = before == labels
    return (after[correct] != labels[correct]).mean()


# %% [markdown]
# ## The attack
#
# Train the paper's network and attack it with $\epsilon = 0.3$. First a question: how many of ten images will fall?

# %%
data = hlf.data.load_fonts(n_train=1000, n_test=200, seed=0)
model = hlf.models.cnn(classes=10, seed=0)
hlf.training.train(model, data.train, epochs=10)
images, labels = data.test.images, data.test.labels


def attack(x, y):
    """The loss of this model, for `pgd`."""
    return loss_and_gradient(model, x, y)


before = model.predict(images)
one_step = fgsm(attack(images, labels)[1], images, np.float32(0.3))
many_steps = pgd(attack, images, labels, np.float32(0.3), np.float32(0.02), 20).astype(np.float32)
print("accuracy:", (before == labels).mean())
print("success of FGSM:", success_rate(before, model.predict(one_step), labels))
print("success of PGD:", success_rate(before, model.predict(many_steps), labels))
space = hlf.spaces.ImageBall(epsilon=0.3)
result = hlf.attacks.pgd(model, images, labels, space, steps=20)
print("success of the package's PGD:", result.success[before == labels].mean())

# %%
figure, axes = plt.subplots(2, 6, figsize=(9, 3.4))
for column, row in enumerate(np.flatnonzero(before == labels)[:6]):
    for axis, image in zip(axes[:, column], (images[row], many_steps[row])):
        axis.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(data.classes[model.predict(image[None])[0]])
        axis.axis("off")
plt.show()

# %% [markdown]
# **Questions.** The perturbed images look like noise on a letter. Is that still an image of the dataset? Train with
# `training="adversarial"` and attack again: what has become harder? With 20 steps of 0.02, which points of the ball can
# be reached, and which with 40 steps of 0.005?

# %% [checks]
from hlf_np.lessons import Hint, call, compare


def check_loss_and_gradient(loss_and_gradient):
    images, labels = np.random.default_rng(0).random((3, 2, 2, 1), np.float32), np.array([0, 2, 1])

    def model():
        random = np.random.default_rng(0)
        layers = hlf.layers.Flatten(), hlf.layers.Linear(4, 3, random), hlf.layers.BatchNorm(3)
        return hlf.models.Model(hlf.layers.Sequential(*layers), classes=3, image_shape=(2, 2, 1))

    def right(training=False, factor=1.0):
        x = Tensor(images, requires_grad=True)
        losses = hlf.operations.cross_entropy(model().forward(x, training), labels)
        losses.backward(np.full(3, factor, np.float32))
        return losses.data, x.gradient

    expected = right()
    mistakes = {
        "the model is in training mode: an attack sees the running statistics, `training=False`.": right(training=True),
        "the gradient is that of the mean: it must not depend on how many images are attacked together.": right(
            factor=1 / 3
        ),
        "there is one loss for each image: return `losses.data`, not their mean.": (expected[0].mean(), expected[1]),
        "there is one loss for each image: return `losses.data`, not their sum.": (expected[0].sum(), expected[1]),
        "the loss for each image is right, but the gradient is that of the mean: differentiate the sum.": (
            expected[0].mean(),
            expected[1] / 3,
        ),
    }
    compare(call(loss_and_gradient, model(), images, labels), expected, mistakes)


def check_fgsm(fgsm):
    images, gradient = np.array([[0.1, 0.5, 0.5], [0.9, 0.0, 0.6]]), np.array([[-3.0, 0.2, 0.0], [0.01, 0.0, -0.4]])
    x, g = images[None, :, :, None], gradient[None, :, :, None]
    mistakes = {
        "pixels leave [0, 1]: clip the result.": x + 0.3 * np.sign(g),
        "it descends: an attack makes the loss larger.": np.clip(x - 0.3 * np.sign(g), 0, 1),
        "the step is as long as the gradient: only its sign matters.": np.clip(x + 0.3 * g, 0, 1),
        "the step is as long as the gradient, and pixels leave [0, 1].": x + 0.3 * g,
        "the step has length 1: multiply the sign by epsilon.": np.clip(x + np.sign(g), 0, 1),
        "that is the perturbation: add it to the images.": 0.3 * np.sign(g),
    }
    compare(call(fgsm, g, x, 0.3), np.clip(x + 0.3 * np.sign(g), 0, 1), mistakes)


def check_project(project):
    x, p = (np.array(v).reshape(1, 2, 3, 1) for v in ([0.1, 0.5, 0.9, 0.4, 0.8, 0.2], [-0.5, 0.9, 1.5, 0.45, 0.1, 0.7]))
    inside = x + np.clip(p - x, -0.3, 0.3)
    mistakes = {
        "pixels leave [0, 1]: clip to the box, too.": inside,
        "perturbations may be longer than epsilon: clip the difference from the images, too.": np.clip(p, 0, 1),
        "the ball is around 0: it must be around the images. Clip `perturbed - images`.": np.clip(p, -0.3, 0.3),
        "the ball is around 0: clip `perturbed - images`, and add the images again.": np.clip(
            np.clip(p, -0.3, 0.3), 0, 1
        ),
        "that is the perturbation: add the images again.": np.clip(p - x, -0.3, 0.3),
        "that is the perturbation, clipped to [0, 1]: add the images before you clip to the box.": np.clip(
            np.clip(p - x, -0.3, 0.3), 0, 1
        ),
        "every pixel is moved to the border of the ball: those inside stay where they are.": np.clip(
            x + 0.3 * np.sign(p - x), 0, 1
        ),
    }
    compare(call(project, p, x, 0.3), np.clip(inside, 0, 1), mistakes)


def check_project_l2(project_l2):
    p = np.array([[2.0, 1, 2, 4], [0.2, 0.1, 0.2, 0.4], [0, 0, 0, 0], [-4, 2, -4, 8]]).reshape(4, 2, 2, 1)
    p = np.concatenate([p, p[:, ::-1]], axis=3) / np.sqrt(2)  # two channels
    norms = np.array([5, 0.5, 1, 10.0]).reshape(4, 1, 1, 1)
    mistakes = {
        "short perturbations are made longer: those inside the ball stay as they are.": p / norms,
        "the norm is that of all images together: each image has its own.": p / np.sqrt(np.square(p).sum()),
        "each pixel is clipped: that is the projection in L_inf.": np.clip(p, -1, 1),
        "it divides by the squared norm: take the root.": p * np.minimum(1, 1 / norms**2),
    }
    result = call(project_l2, p, 1.0)
    if np.isnan(result).any():
        raise Hint("a perturbation of zeros becomes NaN: do not divide by a norm of 0.")
    compare(result, p * np.minimum(1, 1 / norms), mistakes)
    compare(call(project_l2, p, 2.0), p * np.minimum(1, 2 / norms), of="the result for epsilon = 2")


def check_pgd(pgd):
    crest = np.pi / 50  # of the waves
    start = np.array([[0.3, 0.5, 0.5], [0.95, 0.1, 0.5], [0.5, 0.5, 0.22], [0.5, 0.5, crest + 1e-3]])
    start, labels = start.reshape(4, 1, 3, 1), np.array([0, 0, 1, 1])

    def loss(x, y):
        """Class 0 rises along two pixels that depend on each other, class 1 on the waves of a third."""
        if np.shape(x)[1:] != start.shape[1:] or len(x) != len(y):
            raise Hint(f"images have shape {np.shape(x)} in a step, with {len(y)} labels: it must stay {start.shape}.")
        a, b, c = x[:, 0, :, 0].T
        waves = np.asarray(y, float)
        losses = (1 - waves) * (a + b * (0.55 - a)) + waves * np.sin(25 * c)
        gradient = np.stack([(1 - waves) * (1 - b), (1 - waves) * (0.55 - a), waves * 25 * np.cos(25 * c)], axis=1)
        return losses, gradient[:, None, :, None]

    def ascend(epsilon, steps, direction=1.0, best=True, first=0, last=True, inside=True, at_end=False):
        x, kept, highest = start, start, np.full(4, -np.inf)
        for step in range(steps + 1):
            losses, gradient = loss(x, labels)
            if first <= step < steps + last:
                better = (losses > highest) | (not best)
                highest = np.where(better, losses, highest)
                kept = np.where(better[:, None, None, None], x, kept)
            moved = x + direction * 0.07 * np.sign(gradient)
            x = np.clip(start + np.clip(moved - start, -epsilon, epsilon), 0, 1) if inside else moved
        return np.clip(start + np.clip(kept - start, -epsilon, epsilon), 0, 1) if at_end else kept

    few = {
        "the last image is not always the best: keep the one of highest loss, for each image.": ascend(
            0.5, 6, best=False
        ),
        "it descends, or returns the start: an attack makes the loss larger.": ascend(0.5, 6, direction=-1),
        "it descends, and returns the last image: make the loss larger, and keep the best.": ascend(
            0.5, 6, direction=-1, best=False
        ),
        "the last step is not looked at: the loss after it may be the highest.": ascend(0.5, 6, last=False),
        "the start is not looked at: it may be the best already.": ascend(0.5, 6, first=1),
        "it takes one step too many, or changes an array after it was stored as the best.": ascend(0.5, 7),
        "the projection is missing: pixels leave [0, 1]. Project after every step.": ascend(0.5, 6, inside=False),
    }
    compare(call(pgd, loss, start, labels, 0.5, 0.07, 6), ascend(0.5, 6), few)
    many = {
        "it projects once at the end: project after every step.": ascend(0.2, 7, inside=False, at_end=True),
        "perturbations grow beyond epsilon: project onto the ball around the *original* images.": ascend(1.0, 7),
    }
    compare(call(pgd, loss, start, labels, 0.2, 0.07, 7), ascend(0.2, 7), many)


def check_success_rate(success_rate):
    labels, before, after = np.arange(10), np.array([*range(7), 0, 0, 0]), np.array([9, 9, 0, 3, 4, 5, 6, 7, 0, 0])
    mistakes = {
        "images that were misclassified before count, too: leave them out.": (after != labels).mean(),
        "divide by the number of correctly classified images, not by all.": 3 / 10,
        "it counts changed predictions: what was wrong before does not count.": (after != before).mean(),
        "that is the fraction that withstands: take those misclassified after the attack.": 4 / 7,
        "it counts images, but a rate is a fraction of those classified correctly before.": 3,
        "images that were misclassified before count in the numerator, but not in the denominator.": 5 / 7,
    }
    compare(call(success_rate, before, after, labels), 3 / 7, mistakes)
