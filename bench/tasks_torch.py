"""Tasks of `compare.py` in PyTorch and in attack libraries for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tasks import (
    ATTACKS,
    BETA,
    EPSILON,
    LATENT_DIMENSIONS,
    STEP_SIZE,
    STEPS,
    Task,
    make_model,
    make_vae,
    random_affine_parameters,
    random_images,
)


def _torch_module(layer: Any) -> Any:
    """Convert a layer, without its weights, to a PyTorch module."""
    import torch
    from torch import nn

    from hlf_np import layers

    class Flatten(nn.Module):  # in the order (C, H, W), for both memory formats
        def forward(self, x: Any) -> Any:
            return x.reshape(len(x), -1)

    class Residual(nn.Module):
        def __init__(self, body: Any, shortcut: Any) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + (self.shortcut(x) if self.shortcut else x))

    if isinstance(layer, layers.Sequential):
        return nn.Sequential(*(_torch_module(inner) for inner in layer.layers))
    if isinstance(layer, layers.Residual):
        return Residual(_torch_module(layer.body), _torch_module(layer.shortcut) if layer.shortcut else None)
    shapes = {name: parameter.shape for name, parameter in layer.parameters.items()}
    if isinstance(layer, layers.Convolution):
        out, channels, *kernel = shapes["weight"]
        return nn.Conv2d(channels, out, tuple(kernel), layer.stride, layer.padding, bias="bias" in shapes)
    if isinstance(layer, layers.Linear):
        return nn.Linear(shapes["weight"][1], shapes["weight"][0])
    if isinstance(layer, layers.TransposedConvolution):
        channels, out, *kernel = shapes["weight"]
        settings = {"stride": layer.stride, "padding": layer.padding, "output_padding": layer.output_padding}
        return nn.ConvTranspose2d(channels, out, tuple(kernel), **settings)
    if isinstance(layer, layers.Unflatten):
        return nn.Unflatten(1, (-1, layer.height, layer.width))
    if isinstance(layer, layers.Sigmoid):
        return nn.Sigmoid()
    if isinstance(layer, layers.BatchNorm):
        return _batch_norm(shapes["weight"][0])
    if isinstance(layer, layers.MaxPool):
        return nn.MaxPool2d(layer.kernel, layer.stride)
    if isinstance(layer, layers.AveragePool):
        return nn.AvgPool2d(layer.kernel, layer.stride)
    return Flatten() if isinstance(layer, layers.Flatten) else nn.ReLU()


def _batch_norm(channels: int) -> Any:
    """Create a batch normalization layer that accepts inputs of any number of dimensions."""
    import torch
    from torch import nn

    class BatchNorm(nn.modules.batchnorm._BatchNorm):
        def _check_input_dim(self, input: torch.Tensor) -> None:
            pass

    return BatchNorm(channels)


def torch_model(architecture: str) -> Any:
    import torch

    own = make_model(architecture)
    module = _torch_module(own.network)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in own.state_dict().items()})
    return module


def _torch_copy(own: Any) -> Any:
    import torch

    module = _torch_module(own)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in own.named_arrays()}, strict=False)
    return module


def _torch_affine_matrix(t: Any) -> Any:
    """Compute `operations.affine_matrix` in PyTorch."""
    import torch

    u, v, hx, hy, s, r = t.unbind(1)
    c, n = torch.cos(r), torch.sin(r)
    rows = [s * c - s * hx * n, s * hx * c - s * n, u, s * hy * c + s * n, s * c - s * hy * n, v]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def latent_pgd(logits: Callable[[Any], Any], start: Any, y: Any, bounds: tuple[Any, Any]) -> Any:
    """Run projected gradient ascent with Adam over codes."""
    import torch
    from torch.nn.functional import cross_entropy

    code = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([code], STEP_SIZE, maximize=True)
    for _ in range(STEPS):
        (code.grad,) = torch.autograd.grad(cross_entropy(logits(code), y, reduction="sum"), code)
        optimiser.step()
        with torch.no_grad():
            code.copy_(start + (code - start).clamp(-EPSILON, EPSILON))
            code.copy_(torch.minimum(torch.maximum(code, bounds[0]), bounds[1]))
    return code


def torch_pgd(model: Any, x: Any, y: Any, steps: int, noise: float = 0.0) -> Any:
    """Run projected gradient ascent with sign steps, starting from Gaussian noise of standard deviation `noise`.

    `y` contains labels, shape (N,), or probabilities p, shape (N, classes). For probabilities, the ascent maximizes
    KL(p || q), which differs from the cross-entropy by a constant.
    """
    import torch
    from torch.nn.functional import cross_entropy

    delta = (noise * torch.randn_like(x) if noise else torch.zeros_like(x)).requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(cross_entropy(model(x + delta), y, reduction="sum"), delta)
        with torch.no_grad():
            delta += STEP_SIZE * gradient.sign()
            delta.clamp_(-EPSILON, EPSILON)
            delta.copy_((x + delta).clamp(0, 1) - x)
    return delta


def warp_problem(count: int, memory: Any) -> tuple[Callable[[Any], Any], Any, Any, tuple[Any, Any]]:
    """Return the arguments of `latent_pgd` for letters of FONTS on the true manifold."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    from hlf_np.data.fonts import BOXES, Difficulty, Fonts, load_prototypes

    fonts = Fonts(load_prototypes())
    split, box = fonts.split(np.arange(count)), BOXES[Difficulty.HARD]
    assert split.codes is not None
    letters = fonts.letters[split.codes.font * fonts.classes + split.labels]
    model = torch_model("cnn").to(memory_format=memory).eval()
    x = torch.from_numpy(letters.transpose(0, 3, 1, 2).copy()).to(memory_format=memory)

    def logits(t: Any) -> Any:
        grid = affine_grid(_torch_affine_matrix(t), list(x.shape), align_corners=True)
        return model(grid_sample(x, grid, align_corners=True))

    bounds = torch.tensor(box.lower), torch.tensor(box.upper)
    return logits, torch.from_numpy(split.codes.parameters), torch.from_numpy(split.labels), bounds


def decoder_problem(count: int, memory: Any) -> tuple[Callable[[Any], Any], Any, Any, tuple[Any, Any]]:
    """Return the arguments of `latent_pgd` for random images on a learned manifold of a single class."""
    import torch

    own = make_vae()
    decoder = _torch_copy(own.decoder).to(memory_format=memory).eval()
    model, y = torch_model("cnn").to(memory_format=memory).eval(), torch.zeros(count, dtype=torch.int64)
    start = torch.from_numpy(np.clip(own.encode(random_images(count)[0]), -2, 2))
    bounds = torch.tensor([-2.0]), torch.tensor([2.0])
    return lambda z: model(decoder(z).contiguous(memory_format=memory)), start, y, bounds


def torch_task(name: str, threads: int, channels_last: bool = False, compiled: bool = False) -> Task | None:
    """Prepare a task in PyTorch; return None if there is no such task."""
    import torch
    from torch.nn.functional import affine_grid, cross_entropy, grid_sample, kl_div

    from hlf_np.autodiff import Tensor
    from hlf_np.operations import affine_matrix

    torch.set_num_threads(threads)
    memory = torch.channels_last if channels_last else torch.contiguous_format

    def data(count: int) -> tuple[Any, Any]:
        images, labels = random_images(count)
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(memory_format=memory), torch.from_numpy(labels)

    def prepared(architecture: str) -> Any:
        module = torch_model(architecture).to(memory_format=memory)
        return torch.compile(module) if compiled else module

    if name in ATTACKS:
        architecture, count, steps = ATTACKS[name]
        model, (x, y) = prepared(architecture).eval(), data(count)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return lambda: torch_pgd(model, x, y, steps)
    if name in ("train-cnn-100", "adversarial-epoch-1000", "trades-epoch-1000"):
        model, (x, y) = prepared("cnn"), data(100 if name == "train-cnn-100" else 1000)
        optimiser = torch.optim.Adam(model.parameters(), 0.01, betas=(0.5, 0.9), weight_decay=1e-4)

        def step(x: Any, y: Any) -> None:
            model.train()
            optimiser.zero_grad()
            cross_entropy(model(x), y).backward()
            optimiser.step()

        def epoch() -> None:
            for first in range(0, 1000, 100):
                batch, labels = x[first : first + 100].clone(), y[first : first + 100]
                model.eval()
                batch[50:] += torch_pgd(model, batch[50:].clone(), labels[50:], STEPS).detach()
                step(batch, labels)

        def trades_epoch() -> None:  # starts from noise, as the code of the TRADES authors
            for first in range(0, 1000, 100):
                batch, labels = x[first : first + 100], y[first : first + 100]
                model.eval()
                with torch.no_grad():
                    p = model(batch).softmax(dim=1)
                perturbed = batch + torch_pgd(model, batch, p, STEPS, noise=0.001).detach()
                model.train()
                optimiser.zero_grad()
                clean, other = model(torch.cat([batch, perturbed])).chunk(2)
                divergence = kl_div(other.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean")
                (cross_entropy(clean, labels) + BETA * divergence).backward()
                optimiser.step()

        return {"train-cnn-100": lambda: step(x, y), "trades-epoch-1000": trades_epoch}.get(name, epoch)
    if name == "attack-warp-cnn-500" and not compiled:
        return partial(latent_pgd, *warp_problem(500, memory))
    if name == "attack-decoder-cnn-500" and not compiled:
        return partial(latent_pgd, *decoder_problem(500, memory))
    if name.startswith("train-vae") and not compiled:
        own, count = make_vae(), int(name.split("-")[-1])
        encoder, decoder = (_torch_copy(part).to(memory_format=memory) for part in (own.encoder, own.decoder))
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.01, betas=(0.5, 0.9))
        x, _ = data(count)
        noise = torch.from_numpy(np.random.default_rng(1).standard_normal((count, LATENT_DIMENSIONS), np.float32))

        def vae_step() -> None:
            optimiser.zero_grad()
            average, log_variance = encoder(x).chunk(2, dim=1)
            decoded = decoder(average + torch.exp(log_variance / 2) * noise)
            divergence = 0.5 * (average.square() + log_variance.exp() - log_variance - 1).sum()
            (((decoded - x).abs().sum() + divergence) / count).backward()
            optimiser.step()

        return vae_step
    if name == "warp-1000" and not compiled:
        x, _ = data(1000)
        matrices = torch.from_numpy(affine_matrix(Tensor(random_affine_parameters(1000))).data).requires_grad_()
        output_gradient = torch.ones_like(x)

        def forward_and_gradient() -> None:
            grid = affine_grid(matrices, list(x.shape), align_corners=True)
            torch.autograd.grad(grid_sample(x, grid, align_corners=True), matrices, output_gradient)

        return forward_and_gradient
    return None


def attack_library(library: str, name: str, threads: int) -> Task | None:
    """Prepare the CNN attack in an attack library; return None for other tasks."""
    import torch

    if not name.startswith("attack-cnn"):
        return None
    torch.set_num_threads(threads)
    _, count, steps = ATTACKS[name]
    model = torch_model("cnn").eval()
    images, labels = random_images(count)
    x, y = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    if library == "torchattacks":
        import torchattacks

        attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP_SIZE, steps=steps, random_start=False)
        return lambda: attack(x, y)
    if library == "foolbox":
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        linf = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps, random_start=False)
        return lambda: linf.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPSILON)
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0))
    pgd = ProjectedGradientDescentPyTorch(
        classifier, eps=EPSILON, eps_step=STEP_SIZE, max_iter=steps, batch_size=count, verbose=False
    )
    return lambda: pgd.generate(x.numpy(), labels)
