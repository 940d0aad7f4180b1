"""Operations, gradients, training and attacks compared with PyTorch.

Comparisons are in float64 where both libraries support it, with tight tolerances: rounding errors are 1e-16 there, and
even after a whole training they are far smaller than the effect of any mistake.
"""

from itertools import pairwise

import numpy as np
import pytest

from hlf_np import models, operations
from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor
from hlf_np.layers import BatchNorm, ReLU
from hlf_np.losses import Trades
from hlf_np.manifolds import Vae, VaeConfig, learning
from hlf_np.optim import Adam, AdamConfig
from hlf_np.programs.training import TradesTraining
from hlf_np.spaces import ImageBall
from hlf_np.train_step import make_train_step

torch = pytest.importorskip("torch")
F = torch.nn.functional
nn = torch.nn

pytestmark = pytest.mark.parity


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def channels_first(array):
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def assert_same_map(ours, theirs, image, *arrays, tolerance=1e-11):
    """Check that two functions of images (N, H, W, C) and more arrays agree, and all their gradients.

    Images that `theirs` takes and returns are channels first.
    """
    mine = [Tensor(array, requires_grad=True) for array in (image, *arrays)]
    other = [torch.tensor(array, requires_grad=True) for array in (channels_first(image), *arrays)]
    y, expected = ours(*mine), theirs(*other)
    images = y.data.ndim == 4
    np.testing.assert_allclose(
        channels_first(y.data) if images else y.data, expected.detach().numpy(), rtol=0, atol=tolerance
    )
    g = normal(*y.shape, seed=1)
    y.backward(g)
    expected.backward(torch.tensor(channels_first(g) if images else g))
    np.testing.assert_allclose(channels_first(mine[0].gradient), other[0].grad.numpy(), rtol=0, atol=tolerance)
    for leaf, twin in zip(mine[1:], other[1:], strict=True):
        np.testing.assert_allclose(leaf.gradient, twin.grad.numpy(), rtol=0, atol=tolerance)


# --- operations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "padding", "kernel"), [(1, 0, (3, 3)), (2, 1, (4, 4)), (3, 2, (5, 2)), (2, 0, (1, 1))]
)
@pytest.mark.parametrize(("channels", "out_channels"), [(1, 16), (3, 5), (17, 33)])
def test_convolution(channels, out_channels, stride, padding, kernel):
    assert_same_map(
        lambda x, w, b: operations.convolution(x, w, b, stride, padding),
        lambda x, w, b: F.conv2d(x, w, b, stride, padding),
        normal(5, 9, 8, channels),
        normal(out_channels, channels, *kernel),
        normal(out_channels),
    )


@pytest.mark.parametrize(("stride", "padding", "output_padding"), [(1, 0, 0), (2, 1, 0), (2, 1, 1), (3, 2, 2)])
@pytest.mark.parametrize(("channels", "out_channels"), [(16, 1), (5, 3), (17, 33)])
def test_transposed_convolution(channels, out_channels, stride, padding, output_padding):
    assert_same_map(
        lambda x, w, b: operations.transposed_convolution(x, w, b, stride, padding, output_padding),
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, output_padding),
        normal(3, 5, 4, channels),
        normal(channels, out_channels, 4, 3),
        normal(out_channels),
    )


def test_flatten_and_linear():
    assert_same_map(
        lambda x, w, b: operations.linear(operations.flatten(x), w, b),
        lambda x, w, b: F.linear(x.flatten(1), w, b),
        normal(4, 3, 2, 5),
        normal(7, 30),
        normal(7),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (operations.relu, F.relu),
        (lambda x: operations.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
        (operations.sigmoid, torch.sigmoid),
        (operations.tanh, torch.tanh),
        (operations.max_pool, lambda x: F.max_pool2d(x, 2)),
        (lambda x: operations.max_pool(x, 3, 2), lambda x: F.max_pool2d(x, 3, 2)),
        (operations.average_pool, lambda x: F.avg_pool2d(x, 2)),
        (lambda x: operations.average_pool(x, 3, 1), lambda x: F.avg_pool2d(x, 3, 1)),
    ],
    ids=["relu", "leaky relu", "sigmoid", "tanh", "max pool", "max pool 3/2", "average pool", "average pool 3/1"],
)
def test_activations_and_pooling(ours, theirs):
    assert_same_map(ours, theirs, normal(3, 7, 8, 4))


def test_cross_entropy():
    logits, labels = 5 * normal(20, 10), np.random.default_rng(1).integers(0, 10, 20)
    ours, theirs = Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
    losses = operations.cross_entropy(ours, labels)
    expected = F.cross_entropy(theirs, torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(losses.data, expected.detach().numpy(), rtol=0, atol=1e-12)
    losses.mean().backward()
    expected.mean().backward()
    np.testing.assert_allclose(ours.gradient, theirs.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training):
    ours, theirs = BatchNorm(6), nn.BatchNorm2d(6).double()
    for batch in range(3):  # the running statistics change, and are then used by the evaluation
        x, g = 3 + 2 * normal(5, 4, 3, 6, seed=batch), normal(5, 4, 3, 6, seed=9)
        ours(Tensor(x), training=True)
        theirs(torch.tensor(channels_first(x)))
        # our statistics are kept in float32
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(ours.buffers[name], getattr(theirs, name).numpy(), rtol=1e-6)

    theirs.train(training)
    mine, other = Tensor(x, requires_grad=True), torch.tensor(channels_first(x), requires_grad=True)
    y, expected = ours(mine, training), theirs(other)
    tolerance = 1e-11 if training else 1e-5
    np.testing.assert_allclose(channels_first(y.data), expected.detach().numpy(), rtol=0, atol=tolerance)
    y.backward(g)
    expected.backward(torch.tensor(channels_first(g)))
    np.testing.assert_allclose(channels_first(mine.gradient), other.grad.numpy(), rtol=0, atol=tolerance)
    if training:
        for name in ("weight", "bias"):
            gradient = getattr(theirs, name).grad.numpy()
            np.testing.assert_allclose(ours.parameters[name].gradient, gradient, rtol=0, atol=tolerance)


def torch_warp(images, parameters):
    u, v, hx, hy, s, r = parameters.unbind(1)
    c, n = torch.cos(r), torch.sin(r)
    rows = [s * c - s * hx * n, -s * n + s * hx * c, u, s * hy * c + s * n, -s * hy * n + s * c, v]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def hard_parameters(count):
    """Draw affine parameters from the hard protocol."""
    upper = np.array([0.2, 0.2, 0.5, 0.5, 0.2, np.pi / 2])
    return np.array([0, 0, 0, 0, 0.95, 0]) + np.random.default_rng(2).uniform(-upper, upper, (count, 6))


def test_warp():
    images = np.random.default_rng(0).random((20, 28, 28, 2))
    assert_same_map(operations.warp, torch_warp, images, hard_parameters(20), tolerance=1e-9)


def test_warp_in_float32():
    images = np.random.default_rng(0).random((50, 28, 28, 1), np.float32)
    parameters = hard_parameters(50).astype(np.float32)
    ours = operations.warp(Tensor(images), Tensor(parameters)).data
    theirs = torch_warp(torch.tensor(channels_first(images)), torch.tensor(parameters)).numpy()
    # Positions of up to 28 pixels are rounded by some 2e-6, and neighbouring pixels differ by up to 1.
    np.testing.assert_allclose(channels_first(ours), theirs, rtol=0, atol=2e-5)
    assert np.abs(channels_first(ours) - theirs).mean() < 1e-6


@pytest.mark.parametrize("weight_decay", [0, 1e-4, 0.1])
def test_adam(weight_decay):
    start, gradients = normal(4, 5), normal(40, 4, 5, seed=1)
    ours, theirs = Tensor(start.copy(), requires_grad=True), torch.tensor(start, requires_grad=True)
    config = AdamConfig(weight_decay=weight_decay)
    mine = Adam([ours], config)
    other = torch.optim.Adam([theirs], lr=config.learning_rate, betas=config.betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(other, config.decay)
    for epoch in range(4):
        for gradient in gradients[10 * epoch : 10 * epoch + 10]:
            ours.gradient, theirs.grad = gradient, torch.tensor(gradient)
            mine.step(config.rate(epoch))
            other.step()
        schedule.step()
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=0, atol=1e-12)


# --- whole networks -------------------------------------------------------------------------------------------


class TorchResidual(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body = body
        if shortcut:
            self.shortcut = shortcut

    def forward(self, x):
        return F.relu(self.body(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def norm_relu(channels):
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def torch_cnn():
    """Build the paper's classifier in PyTorch."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), *norm_relu(16)),
        *(nn.Conv2d(16, 32, 4, 2, 1), *norm_relu(32)),
        *(nn.Conv2d(32, 64, 4, 2, 1), *norm_relu(64)),
        *(nn.Flatten(), nn.Linear(576, 100), nn.Linear(100, 10)),
    )


def torch_mlp():
    hidden = [layer for i in (784, 20) for layer in (nn.Linear(i, 20), nn.ReLU(), nn.BatchNorm1d(20))]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(20, 10))


def conv3(channels, out_channels, stride=1):
    return [nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels)]


def torch_resnet():
    shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
    return nn.Sequential(
        *(*conv3(1, 4), nn.ReLU()),
        TorchResidual(nn.Sequential(*conv3(4, 4), nn.ReLU(), *conv3(4, 4)), None),
        TorchResidual(nn.Sequential(*conv3(4, 6, 2), nn.ReLU(), *conv3(6, 6)), shortcut),
        *(nn.AvgPool2d(14), nn.Flatten(), nn.Linear(6, 10)),
    )


def torch_vgg():
    def stage(channels, out_channels):
        return [nn.Conv2d(channels, out_channels, 3, 1, 1), nn.BatchNorm2d(out_channels), nn.ReLU()]

    stages = [*stage(1, 4), nn.MaxPool2d(2), *stage(4, 6), *stage(6, 6), nn.Flatten()]
    return nn.Sequential(*stages, nn.Linear(6 * 196, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 10))


NETWORKS = {
    "cnn": (models.cnn, torch_cnn, 50),
    # few steps: of a unit that is active for all images of a batch, batch norm subtracts the bias again, as below
    "mlp": (lambda: models.mlp(widths=(20, 20)), torch_mlp, 5),
    "resnet": (lambda: models.resnet(widths=(4, 6), blocks=(1, 1)), torch_resnet, 10),
    "vgg": (lambda: models.vgg(widths=(4, 6, 6), hidden_units=30), torch_vgg, 10),
}


def twins(kind):
    """Return our network and PyTorch's with the same weights."""
    build, build_torch, _ = NETWORKS[kind]
    ours, theirs = build(), build_torch()
    state = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
    counters = {name: torch.tensor(0) for name in theirs.state_dict() if name.endswith("num_batches_tracked")}
    theirs.load_state_dict(state | counters, strict=True)
    return ours, theirs


def to_float64(layer):
    """Convert the weights and statistics of our network to double precision, in place."""
    for parameter in layer.parameters.values():
        parameter.data = parameter.data.astype(np.float64)
    for name, buffer in layer.buffers.items():
        layer.buffers[name] = buffer.astype(np.float64)
    for child in layer.children().values():
        to_float64(child)


def batches(split, dtype, count):
    """Yield batches of 30 images and labels, starting again at the end."""
    for step in range(count):
        rows = (np.arange(30) + 30 * step) % len(split)
        yield split.images[rows].astype(dtype), split.labels[rows]


def train_both(ours, theirs, split, dtype, count, weight_decay=1e-4):
    """Train both networks as the protocol does, and return the losses of both at every step."""
    config = AdamConfig(weight_decay=weight_decay)
    mine = Adam(ours.parameters(), config)
    other = torch.optim.Adam(
        theirs.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    theirs.train()
    losses = []
    for images, labels in batches(split, dtype, count):
        loss = operations.cross_entropy(ours.forward(Tensor(images), training=True), labels).mean()
        loss.backward()
        mine.step(config.learning_rate)
        other.zero_grad()
        expected = F.cross_entropy(theirs(torch.tensor(channels_first(images))), torch.tensor(labels))
        expected.backward()
        other.step()
        losses.append((float(loss.data), float(expected.detach())))
    return np.array(losses)


def names_determined_by_rounding(network):
    """Yield the names of biases before a batch norm, and of its running means.

    The batch norm subtracts such a bias again, so the exact gradient is 0 and the computed one about 1e-17. Adam
    divides by |gradient| + 1e-8; with weight decay 1e-4 a step multiplies the bias by about 1 - 0.01 * 1e-4 / 1e-8
    = -99, until it has grown to about 1e-4. Its final value is determined by rounding errors and has no effect.
    """
    for index, (layer, following) in enumerate(pairwise(network.layers)):
        if isinstance(following, BatchNorm) and "bias" in layer.parameters:
            yield from (f"{index}.bias", f"{index + 1}.running_mean")
        if isinstance(following, ReLU) and isinstance(network.layers[index + 2], BatchNorm):
            yield from (f"{index}.bias", f"{index + 2}.running_mean")  # of units that are active for all images


@pytest.mark.parametrize("weight_decay", [0, 1e-4])
@pytest.mark.parametrize("kind", NETWORKS)
def test_training_in_float64(kind, weight_decay, split):
    """Tolerances allow rounding errors of 1e-16 to grow by a factor of some million."""
    ours, theirs = twins(kind)
    to_float64(ours.network)
    theirs.double()
    losses = train_both(ours, theirs, split, np.float64, NETWORKS[kind][2], weight_decay)
    assert losses[-1, 0] < losses[0, 0]
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-8)
    state = theirs.state_dict()
    free = set(names_determined_by_rounding(ours.network)) if weight_decay or kind == "vgg" else set()
    for name, array in ours.network.named_arrays():
        assert array.dtype == np.float64
        if name not in free:
            np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-7, atol=1e-7, err_msg=name)


def torch_trades(model, clean, perturbed, labels):
    """Return the losses, with beta 6, and the logits of the concatenated batch, whose halves share their statistics."""
    logits = model(torch.tensor(channels_first(np.concatenate([clean, perturbed]).astype(np.float64))))
    natural, robust = logits.chunk(2)
    divergence = F.kl_div(F.log_softmax(robust, dim=1), F.softmax(natural, dim=1), reduction="none").sum(dim=1)
    return F.cross_entropy(natural, torch.tensor(labels), reduction="none") + 6.0 * divergence, logits


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("kind", NETWORKS)
def test_trades(kind, precision, split):
    """In double precision by autodiff, in single precision by the compiled training program."""
    ours, theirs = twins(kind)
    theirs.double().train()
    clean, labels = split.images[:30].astype(precision), split.labels[:30]
    perturbed = np.clip(clean + 0.3 * normal(*clean.shape), 0, 1).astype(precision)
    expected, logits = torch_trades(theirs, clean, perturbed, labels)
    expected.mean().backward()
    if precision is np.float64:
        to_float64(ours.network)
        losses = Trades(6.0)(lambda x: ours.forward(x, True), Tensor(clean), Tensor(perturbed), labels)
        losses.mean().backward()
        losses, tolerance = losses.data, 1e-10
        gradients = {name: parameter.gradient for name, parameter in ours.network.named_parameters()}
    else:
        program, tolerance = make_train_step(ours, AdamConfig(), Trades(6.0)), 1e-3
        assert isinstance(program, TradesTraining)
        pairs = np.stack((clean, perturbed), axis=1).reshape(60, -1)
        results = program.gradients(pairs, np.repeat(labels, 2).astype(np.float32)[:, None])
        program.store()
        losses, predictions = results[::2, 0], np.concatenate([results[::2, 1], results[1::2, 1]])
        assert (predictions == logits.argmax(dim=1).numpy()).mean() > 0.95
        gradients = dict(zip([name for name, _ in ours.network.named_arrays()], program.gradient(), strict=True))
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=tolerance)
    largest = max(np.linalg.norm(parameter.grad) for parameter in theirs.parameters())
    for name, parameter in theirs.named_parameters():
        off = np.linalg.norm(gradients[name] - parameter.grad.numpy())
        assert off < tolerance * max(np.linalg.norm(parameter.grad), largest / 20), name
    state = theirs.state_dict()
    for name, array in ours.network.named_arrays():
        np.testing.assert_allclose(array, state[name].numpy(), rtol=tolerance, atol=tolerance / 100, err_msg=name)


def test_training_in_float32(split):
    """Both are compared with double precision, as rounding errors of 1e-7 grow with every step.

    On average over the steps, our losses must have as many correct digits as PyTorch's. After a ReLU has become active
    in one training and not in another, their difference is a matter of chance.
    """
    losses = train_both(*twins("cnn"), split, np.float32, 50)
    ours, theirs = twins("cnn")
    to_float64(ours.network)
    exact = train_both(ours, theirs.double(), split, np.float64, 8)[:, 0]
    off, off_torch = np.abs(losses[:8] - exact[:, None]).T
    assert np.log(off).mean() <= np.log(off_torch).mean()
    np.testing.assert_allclose(losses[:5, 0], exact[:5], rtol=1e-3)  # in the sixth step both differ from it
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0.05, atol=0.05)
    assert losses[-5:].max() < losses[0].min() / 2


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_travel_to_pytorch_and_back(kind, split):
    ours, theirs = twins(kind)
    train_both(ours, theirs, split, np.float32, 3)
    ours.load_state_dict({name: array.numpy() for name, array in theirs.state_dict().items()})
    theirs.eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(channels_first(split.images))).numpy()
    # sums of hundreds of products in float32, through up to ten layers
    np.testing.assert_allclose(ours.logits(split.images), expected, rtol=1e-4, atol=1e-4)


def torch_pgd(model, images, labels, epsilon, steps, step_size):
    """Run PGD with the sign of the gradient, starting at the images, and return the last images."""
    x = start = torch.tensor(channels_first(images))
    for _ in range(steps):
        x = x.detach().requires_grad_()
        F.cross_entropy(model(x), torch.tensor(labels), reduction="sum").backward()
        x = torch.clamp(x + step_size * x.grad.sign(), start - epsilon, start + epsilon).clamp(0, 1)
    return np.moveaxis(x.detach().numpy(), 1, -1)


def test_sign_pgd_moves_every_pixel_alike(split):
    ours, theirs = twins("cnn")
    train_both(ours, theirs, split, np.float32, 30)
    ours.load_state_dict({name: array.numpy() for name, array in theirs.state_dict().items()})
    theirs.eval()
    settings = {"steps": 10, "step_size": 0.01, "rule": "sign", "start": "image", "stop_early": False}
    result = pgd(ours, split.images, split.labels, ImageBall(0.08), **settings)
    last = result.iterations == 10  # the others had their highest loss earlier
    assert last.mean() > 0.8
    expected = torch_pgd(theirs, split.images, split.labels, 0.08, 10, 0.01)
    different = np.abs(result.images - expected)[last] > 1e-6
    # A gradient so close to 0 that rounding decides its sign moves a pixel the other way.
    assert different.mean() < 1e-3


# --- autoencoders ---------------------------------------------------------------------------------------------


class TorchVae(nn.Module):
    """Our small VAE as one writes it in PyTorch."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 4, 4, 2, 1), *norm_relu(4)),
            *(nn.Conv2d(4, 6, 4, 2, 1), *norm_relu(6)),
            *(nn.Conv2d(6, 8, 4, 2, 1), *norm_relu(8)),
            *(nn.Flatten(), nn.Linear(72, 10)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(5, 72), nn.Unflatten(1, (8, 3, 3)), *norm_relu(8)),
            *(nn.ConvTranspose2d(8, 6, 4, 2, 1, output_padding=1), *norm_relu(6)),
            *(nn.ConvTranspose2d(6, 4, 4, 2, 1), *norm_relu(4)),
            *(nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid()),
        )

    def losses(self, x, noise):
        average, log_variance = self.encoder(x).chunk(2, dim=1)
        posterior = torch.distributions.Normal(average, (log_variance / 2).exp())
        prior = torch.distributions.Normal(torch.zeros_like(average), torch.ones_like(average))
        reconstructions = self.decoder(average + posterior.scale * noise)
        divergences = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
        return F.l1_loss(reconstructions, x, reduction="none").sum(dim=(1, 2, 3)), divergences


def twin_vaes():
    ours, theirs = Vae(VaeConfig(channels=(4, 6, 8), latent_dimensions=5)), TorchVae()
    state = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
    counters = {name: torch.tensor(0) for name in theirs.state_dict() if name.endswith("num_batches_tracked")}
    theirs.load_state_dict(state | counters, strict=True)
    to_float64(ours)
    return ours, theirs.double()


def test_losses_and_gradients_of_a_vae(split):
    ours, theirs = twin_vaes()
    images, noise = split.images.astype(np.float64), normal(len(split), 5)
    actual = learning.losses(ours, Tensor(images), Tensor(noise))
    expected = theirs.losses(torch.tensor(channels_first(images)), torch.tensor(noise))
    for mine, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=1e-10, atol=1e-12)
    (actual[0] * Tensor(np.array(0.7)) + actual[1]).mean().backward()
    (0.7 * expected[0] + expected[1]).mean().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.gradient, gradients[name], rtol=0, atol=1e-9, err_msg=name)
        assert np.abs(gradients[name]).max() > 1e-3 or name.endswith(".bias"), name
    assert gradients.keys() == dict(ours.named_parameters()).keys()


def test_a_vae_encodes_and_decodes_alike_in_evaluation(split):
    ours, theirs = twin_vaes()
    for seed in range(5):  # the running statistics move
        images, noise = split.images.astype(np.float64), normal(len(split), 5, seed=seed)
        learning.losses(ours, Tensor(images), Tensor(noise))
        theirs.losses(torch.tensor(channels_first(images)), torch.tensor(noise))
    theirs.eval()
    with torch.no_grad():
        expected = theirs.encoder(torch.tensor(channels_first(images))).numpy()
        decoded = np.moveaxis(theirs.decoder(torch.tensor(expected[:, :5])).numpy(), 1, -1)
    average, log_variance = ours.posterior(Tensor(images))
    # our running statistics are kept in float32
    np.testing.assert_allclose(average.data, expected[:, :5], rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_variance.data, expected[:, 5:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.decoder(Tensor(expected[:, :5])).data, decoded, rtol=0, atol=1e-5)
