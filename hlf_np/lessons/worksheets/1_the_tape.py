# %% [markdown]
# # Lesson 1: The tape
#
# A network is trained by following the gradient of a loss with respect to millions of numbers. Nobody derives that
# gradient by hand. *Reverse-mode automatic differentiation* writes down every operation while the loss is computed, on
# a *tape*, and then reads the tape backwards. In this lesson you write the pieces.
#
# Let $L$ be the loss, a single number, and $y = f(a, b)$ one operation on the way to it. When the tape is read
# backwards, $g = \partial L / \partial y$ is known, and the operation has to turn it into
#
# $$\frac{\partial L}{\partial a} = g \, \frac{\partial y}{\partial a}, \qquad
#   \frac{\partial L}{\partial b} = g \, \frac{\partial y}{\partial b}.$$
#
# This is all that an operation must know. Two rules help throughout: **a gradient has the shape of what it belongs
# to**, and **if a value is used twice, its gradients add up**.
#
# After each exercise, save this file and run `python -m hlf_np lessons check` with its name. A check executes imports,
# functions, classes and simple constants, but not what stands between them.

# %%
import matplotlib.pyplot as plt
import numpy as np

import hlf_np as hlf

# %% [markdown]
# ## 1. Products
#
# For $y = a b$, entry by entry, $\partial y / \partial a = b$ and $\partial y / \partial b = a$.


# %%
def multiply_backward(g, a, b):
    """Return (dL/da, dL/db) for y = a * b and g = dL/dy; all arrays have the same shape."""
    return g * b, g * a


# %% [markdown]
# ## 2. Matrix products
#
# For $Y = A B$, that is $Y_{ik} = \sum_j A_{ij} B_{jk}$, entry $A_{ij}$ occurs in all $Y_{ik}$ of row $i$. Write down
# $\partial L / \partial A_{ij} = \sum_k \dots$ and recognise a matrix product. The shapes leave little choice.


# %%
def matmul_backward(g, a, b):
    """Return (dL/dA, dL/dB) for Y = A @ B; A is (I, J), B is (J, K), and g = dL/dY is (I, K)."""
    return g @ b.T, a.T @ g


# %% [markdown]
# ## 3. A nonlinearity
#
# ReLU is $y = \max(x, 0)$: its derivative is 1 where $x > 0$ and 0 elsewhere. What decides is the *input* $x$.


# %%
def relu_backward(g, x):
    """Return dL/dx for y = max(x, 0), entry by entry; the derivative at 0 is taken as 0."""
    return g * (x > 0)


# %% [markdown]
# ## 4. Broadcasting
#
# If a bias of shape (3,) is added to a matrix of shape (100, 3), NumPy uses each entry of the bias 100 times. So its
# gradient is the *sum* of 100 gradients. In general, `g` has the shape of the result and must be summed over all axes
# that the operand did not have, and over those in which it had size 1.


# %%
def unbroadcast(g, shape):
    """Sum g over the axes along which an operand of the given shape was repeated; return an array of that shape.

    Examples: from (100, 3) to (3,), from (100, 3) to (100, 1), from (2, 4, 5) to (4, 1).
    """
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return g.sum(axis=repeated, keepdims=True)


# %% [markdown]
# ## 5. Reading the tape backwards
#
# Here is a tape for plain numbers: a list of nodes in the order in which they were computed. Each node knows its
# parents and has a function `backward`, which maps the gradient with respect to the node to those with respect to its
# parents.


# %%
class Node:
    """A number on the tape."""

    def __init__(self, value, parents=(), backward=None):
        self.value, self.parents, self.backward = value, parents, backward
        self.gradient = 0.0


def multiply(tape, a, b):
    """Append a * b to the tape."""
    tape.append(Node(a.value * b.value, (a, b), lambda g: (g * b.value, g * a.value)))
    return tape[-1]


def add(tape, a, b):
    """Append a + b to the tape."""
    tape.append(Node(a.value + b.value, (a, b), lambda g: (g, g)))
    return tape[-1]


# %% [markdown]
# The last node is the loss, and $\partial L / \partial L = 1$. Visit the nodes so that each one is reached only when
# its own gradient is complete, and remember the second rule above. Nodes without `backward` are inputs.


# %%
def backpropagate(tape):
    """Set `node.gradient` of all nodes to dL/d(node), where L is the last one. Return the tape, otherwise unchanged."""
    tape[-1].gradient = 1.0
    for node in reversed(tape):
        if node.backward:
            for parent, part in zip(node.parents, node.backward(node.gradient), strict=True):
                parent.gradient += part
    return tape


# %% [markdown]
# Try it on $L = x^2 y + x$: at $x = 3, y = 2$ the gradient is $(2xy + 1, x^2) = (13, 9)$.

# %%
x, y = Node(3.0), Node(2.0)
tape = [x, y]
add(tape, multiply(tape, multiply(tape, x, x), y), x)
backpropagate(tape)
print("dL/dx =", x.gradient, " dL/dy =", y.gradient)

# %% [markdown]
# `hlf_np.autodiff.Tensor` is the same idea for arrays, in one readable file. The picture shows a function and the
# derivative that the tape computes at each point.

# %%
points = hlf.autodiff.Tensor(np.linspace(-2, 2, 200), requires_grad=True)
curve = points**3 - 2 * points
curve.backward()
plt.plot(points.data, curve.data, label="$x^3 - 2x$")
plt.plot(points.data, points.gradient, label="its derivative, by the tape")
plt.legend()
plt.show()

# %% [markdown]
# **Questions.** Why does reading the tape *forwards* give wrong gradients, although every operation is visited? What
# would it cost to get the gradient by changing one input after the other? Read `Tensor.backward`: where are the two
# rules?

# %% [checks]
from hlf_np.lessons import Hint, call, compare, numerical_gradient


def check_multiply_backward(multiply_backward):
    g, a, b = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[2.0, 3.0], [5.0, -1.0]]), np.array([[7.0, 4.0], [0.1, 6]])
    mistakes = {
        "the two gradients are in each other's place: dL/da contains b, and dL/db contains a.": (g * a, g * b),
        "the chain rule is missing: multiply the derivatives b and a by g.": (b, a),
    }
    compare(call(multiply_backward, g, a, b), (g * b, g * a), mistakes)


def check_matmul_backward(matmul_backward):
    random = np.random.default_rng(0)
    a, b, g = (random.standard_normal(shape) for shape in ((2, 3), (3, 4), (2, 4)))
    right = (
        numerical_gradient(lambda a: float((g * (a @ b)).sum()), a),
        numerical_gradient(lambda b: float((g * (a @ b)).sum()), b),
    )
    mistakes = {
        "the two results are in each other's place: return dL/dA first.": right[::-1],
        "dL/dA and dL/dB are transposed: each must have the shape of its matrix.": (right[0].T, right[1].T),
    }
    try:
        result = call(matmul_backward, g, a, b)
    except Hint as hint:
        if "ValueError" in str(hint):
            raise Hint(
                f"the shapes do not fit: look at which matrix is transposed, at the order, and for `@` ({hint})"
            ) from hint
        raise
    compare(result, right, mistakes)


def check_relu_backward(relu_backward):
    g, x = np.array([1.0, -2.0, 3.0, -4.0, 5.0]), np.array([2.0, 0.5, -1.0, -3.0, 0.0])
    mistakes = {
        "you asked where g is positive: it is the sign of x that decides.": g * (g > 0),
        "that is ReLU of x, the forward pass: the gradient is g where x > 0.": np.maximum(x, 0),
        "the chain rule is missing: multiply the derivative by g.": (x > 0).astype(float),
        "at x = 0 the derivative is taken as 0: compare with `>`.": g * (x >= 0),
    }
    compare(call(relu_backward, g, x), g * (x > 0), mistakes)


def check_unbroadcast(unbroadcast):
    g = np.arange(40.0).reshape(2, 4, 5) + 1
    for shape in ((5,), (4, 1), (1, 5), (2, 1, 5), (2, 4, 5), ()):
        operand = hlf.autodiff.Tensor(np.zeros(shape), requires_grad=True)
        (operand * np.ones(g.shape)).backward(g)
        right = operand.gradient
        mistakes = {
            "each repetition contributes its whole gradient: sum them, do not average.": right * right.size / g.size
        }
        if right.size == g.size:
            mistakes = {}
        result = call(unbroadcast, g.copy(), shape)
        if np.shape(result) != shape:
            raise Hint(
                f"from (2, 4, 5) to {shape} it returns the shape {np.shape(result)}: sum over leading axes that the"
                " operand does not have, and keep axes of size 1 (keepdims=True)."
            )
        compare(result, right, mistakes)


def check_backpropagate(backpropagate):
    def gradients(backpropagate):
        x, y = Node(3.0), Node(2.0)
        tape = [x, y]
        square = multiply(tape, x, x)
        add(tape, multiply(tape, square, y), multiply(tape, x, square))  # L = x^2 y + x^3
        nodes = list(tape)
        returned = call(backpropagate, tape)
        if not isinstance(returned, list) or returned != nodes or tape != nodes:
            raise Hint("return the tape itself, with all nodes in their order: `reversed(tape)` leaves it as it is.")
        return x.gradient, y.gradient

    def overwrite(tape):
        tape[-1].gradient = 1.0
        for node in reversed(tape):
            for parent, part in zip(node.parents, node.backward(node.gradient) if node.backward else (), strict=True):
                parent.gradient = part
        return tape

    mistakes = {
        "the gradients of the inputs are still 0: begin with dL/dL = 1 at the last node, and go from the last to the"
        " first, so that a node's own gradient is complete when its turn comes.": (0.0, 0.0),
        "a node that is used twice keeps one of its gradients only: add to `parent.gradient`.": gradients(overwrite),
    }
    found = gradients(backpropagate)
    for hint, wrong in mistakes.items():
        if found == wrong:
            raise Hint(hint)
    compare(found[0], 2 * 3 * 2 + 3 * 3**2, of="dL/dx of x^2 y + x^3 at x = 3, y = 2")
    compare(found[1], 3**2, of="dL/dy of x^2 y + x^3 at x = 3, y = 2")
