"""Side by side with PyTorch: the same networks, weights, batches and numbers of steps.

    python bench/compare.py [--threads 2] [--rounds 9] [--only attack-cnn] [--compile]

Every contender lives in a process of its own, and only one of them computes at a time. A round goes through all tasks,
each in all contenders in turn, so a slow minute of the machine hits all contenders alike, and no task more than the
others. What is printed are medians over the rounds, ratios of medians, and between which ratios the middle half of the
rounds lies. Needs PyTorch; Foolbox, torchattacks and ART take part in the CNN attack where they are installed.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np

STEPS = 40
EPSILON = 0.3
STEP_SIZE = 0.0075
BETA = 6.0  # of TRADES
SECONDS = 0.5  # a task is repeated for so long in each contender and round, after once to warm up

# name: (architecture, images, steps)
ATTACKS = {
    "attack-cnn-100": ("cnn", 100, STEPS),
    "attack-cnn-1000": ("cnn", 1000, STEPS),
    "attack-mlp-100": ("mlp", 100, STEPS),
    "attack-mlp-1000": ("mlp", 1000, STEPS),
    "attack-resnet16-96": ("resnet16", 96, 10),
    "attack-resnet64-24": ("resnet64", 24, 10),
    "attack-vgg-24": ("vgg", 24, 10),
}
OTHERS = (
    "train-cnn-100",
    "adversarial-epoch-1000",
    "trades-epoch-1000",
    "warp-1000",
    "attack-warp-cnn-500",
    "attack-decoder-cnn-500",
    "train-vae-25",
    "train-vae-100",
)
PYTORCH = ("torch", "torch channels_last", "torch.compile")
LATENTS = 10
TASKS = (*ATTACKS, *OTHERS)

Task = Callable[[], object]


def _model(architecture: str) -> Any:
    from hlf_np import models

    makers = {
        "cnn": models.cnn,
        "mlp": models.mlp,
        "resnet16": lambda: models.resnet(widths=(16, 32, 64)),
        "resnet64": models.resnet,
        "vgg": models.vgg,
    }
    return makers[architecture]()


def _vae(batch_size: int = 25) -> Any:
    from hlf_np.manifolds.vae import Vae, VaeConfig

    return Vae(VaeConfig(latent_dimensions=LATENTS, batch_size=batch_size))


def _images(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count)


def _parameters(count: int) -> np.ndarray:
    from hlf_np.data.fonts import BOXES, Difficulty

    return BOXES[Difficulty.HARD].sample(np.random.default_rng(1), count)


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(name: str, threads: int) -> Task | None:
    """A task in this package."""
    import numba

    from hlf_np import training
    from hlf_np.attacks import PGD
    from hlf_np.autodiff import Tensor
    from hlf_np.data.dataset import Split
    from hlf_np.data.fonts import Fonts, load_prototypes
    from hlf_np.learners import learner
    from hlf_np.operations import warp
    from hlf_np.optim import AdamConfig
    from hlf_np.programs.training import VaeTraining
    from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
    from hlf_np.trainings import ADVERSARIAL, trades

    numba.set_num_threads(threads)
    if name in ATTACKS:
        architecture, count, steps = ATTACKS[name]
        model, split = _model(architecture), Split(*_images(count))
        attack = PGD(steps, STEP_SIZE, "sign", "image", stop_early=False)  # type: ignore[arg-type]
        return lambda: attack.find(model, split, ImageBall(EPSILON))
    if name == "train-cnn-100":
        model, (images, labels) = _model("cnn"), _images(100)
        learns = learner(model, AdamConfig())
        return lambda: learns.step(images, images, labels, 0.01)
    if name in ("adversarial-epoch-1000", "trades-epoch-1000"):
        model, split = _model("cnn"), Split(*_images(1000))
        kind = ADVERSARIAL if name == "adversarial-epoch-1000" else trades(ImageBall, BETA)
        start = "random" if kind.objective else "image"  # the divergence has no slope at the image
        attack = PGD(STEPS, STEP_SIZE, "sign", start, stop_early=False)  # type: ignore[arg-type]
        config = training.TrainingConfig(kind.perturbations(attack=attack), epochs=1, loss=kind.loss)
        return lambda: training.train(model, split, config=config)
    if name == "attack-warp-cnn-500":
        fonts = Fonts(load_prototypes())
        model, split = _model("cnn"), fonts.split(np.arange(500))
        attack = PGD(STEPS, STEP_SIZE, start="image", stop_early=False)  # type: ignore[arg-type]
        return lambda: attack.find(model, split, TrueManifold(fonts))
    if name == "attack-decoder-cnn-500":
        model, (images, _) = _model("cnn"), _images(500)
        split = Split(images, np.zeros(500, np.int64))
        attack = PGD(STEPS, STEP_SIZE, start="image", stop_early=False)  # type: ignore[arg-type]
        space = LearnedManifold([_vae()])
        return lambda: attack.find(model, split, space)
    if name.startswith("train-vae"):
        count = int(name.split("-")[-1])
        program = VaeTraining(_vae(count))
        images, noise = _images(count)[0], np.random.default_rng(1).standard_normal((count, LATENTS), np.float32)
        return lambda: program.step(images, noise, 0.01)
    if name == "warp-1000":
        images, parameters = _images(1000)[0], _parameters(1000)
        behind = np.ones_like(images)  # the gradient that comes from behind

        def forward_and_gradient() -> None:
            warp(Tensor(images), Tensor(parameters, requires_grad=True)).backward(behind)

        return forward_and_gradient
    return None


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def _torch_module(layer: Any) -> Any:
    """The PyTorch module of one of our layers, weights included."""
    import torch
    from torch import nn

    from hlf_np import layers

    class Flatten(nn.Module):  # channel after channel, whatever the memory format
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
        more = {"stride": layer.stride, "padding": layer.padding, "output_padding": layer.output_padding}
        return nn.ConvTranspose2d(channels, out, tuple(kernel), **more)
    if isinstance(layer, layers.Unflatten):
        return nn.Unflatten(1, (-1, layer.height, layer.width))
    if isinstance(layer, layers.Sigmoid):
        return nn.Sigmoid()
    if isinstance(layer, layers.BatchNorm):
        return _Norm(shapes["weight"][0])
    if isinstance(layer, layers.MaxPool):
        return nn.MaxPool2d(layer.kernel, layer.stride)
    if isinstance(layer, layers.AveragePool):
        return nn.AvgPool2d(layer.kernel, layer.stride)
    return Flatten() if isinstance(layer, layers.Flatten) else nn.ReLU()


def _Norm(channels: int) -> Any:  # noqa: N802
    """Batch norm behind a convolution or a linear layer alike."""
    import torch
    from torch import nn

    class BatchNorm(nn.modules.batchnorm._BatchNorm):
        def _check_input_dim(self, input: torch.Tensor) -> None:
            pass

    return BatchNorm(channels)


def _torch_model(architecture: str) -> Any:
    import torch

    own = _model(architecture)
    module = _torch_module(own.network)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in own.state_dict().items()})
    return module


def _torch_copy(own: Any) -> Any:
    import torch

    module = _torch_module(own)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in own.named_arrays()}, strict=False)
    return module


def _matrix(t: Any) -> Any:
    """`operations.affine_matrix` in PyTorch."""
    import torch

    u, v, hx, hy, s, r = t.unbind(1)
    c, n = torch.cos(r), torch.sin(r)
    rows = [s * c - s * hx * n, s * hx * c - s * n, u, s * hy * c + s * n, s * c - s * hy * n, v]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def _latent_pgd(logits: Callable[[Any], Any], start: Any, y: Any, bounds: tuple[Any, Any]) -> Any:
    """Projected Adam over codes."""
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


def _torch_pgd(model: Any, x: Any, y: Any, steps: int, noise: float = 0.0) -> Any:
    """From Gaussian noise of this size; y : labels (N,), or (N, classes) p, and then the divergence KL(p || q) ascends,
    which is the cross-entropy up to what does not change."""
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


def torch_task(name: str, threads: int, channels_last: bool = False, compiled: bool = False) -> Task | None:
    """A task in PyTorch."""
    import torch
    from torch.nn.functional import affine_grid, cross_entropy, grid_sample, kl_div

    from hlf_np.autodiff import Tensor
    from hlf_np.operations import affine_matrix

    torch.set_num_threads(threads)
    memory = torch.channels_last if channels_last else torch.contiguous_format

    def data(count: int) -> tuple[Any, Any]:
        images, labels = _images(count)
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(memory_format=memory), torch.from_numpy(labels)

    def prepared(architecture: str) -> Any:
        module = _torch_model(architecture).to(memory_format=memory)
        return torch.compile(module) if compiled else module

    if name in ATTACKS:
        architecture, count, steps = ATTACKS[name]
        model, (x, y) = prepared(architecture).eval(), data(count)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return lambda: _torch_pgd(model, x, y, steps)
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
                batch[50:] += _torch_pgd(model, batch[50:].clone(), labels[50:], STEPS).detach()
                step(batch, labels)

        def trades_epoch() -> None:  # perturbed as in the authors' code
            for first in range(0, 1000, 100):
                batch, labels = x[first : first + 100], y[first : first + 100]
                model.eval()
                with torch.no_grad():
                    p = model(batch).softmax(dim=1)
                perturbed = batch + _torch_pgd(model, batch, p, STEPS, noise=0.001).detach()
                model.train()
                optimiser.zero_grad()
                clean, other = model(torch.cat([batch, perturbed])).chunk(2)
                divergence = kl_div(other.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean")
                (cross_entropy(clean, labels) + BETA * divergence).backward()
                optimiser.step()

        return {"train-cnn-100": lambda: step(x, y), "trades-epoch-1000": trades_epoch}.get(name, epoch)
    if name == "attack-warp-cnn-500" and not compiled:
        from hlf_np.data.fonts import BOXES, Difficulty, Fonts, load_prototypes

        fonts = Fonts(load_prototypes())
        split, box = fonts.split(np.arange(500)), BOXES[Difficulty.HARD]
        assert split.codes is not None
        letters = fonts.letters[split.codes.font * fonts.classes + split.labels]
        model, x = prepared("cnn").eval(), torch.from_numpy(letters.transpose(0, 3, 1, 2).copy())
        x = x.to(memory_format=memory)

        def warped(t: Any) -> Any:
            return grid_sample(x, affine_grid(_matrix(t), list(x.shape), align_corners=True), align_corners=True)

        bounds = torch.tensor(box.lower), torch.tensor(box.upper)
        start, y = torch.from_numpy(split.codes.parameters), torch.from_numpy(split.labels)
        return lambda: _latent_pgd(lambda t: model(warped(t)), start, y, bounds)
    if name == "attack-decoder-cnn-500" and not compiled:
        own = _vae()
        decoder = _torch_copy(own.decoder).to(memory_format=memory).eval()
        model, y = prepared("cnn").eval(), torch.zeros(500, dtype=torch.int64)
        start = torch.from_numpy(np.clip(own.encode(_images(500)[0]), -2, 2))
        bounds = torch.tensor([-2.0]), torch.tensor([2.0])
        return lambda: _latent_pgd(lambda z: model(decoder(z).contiguous(memory_format=memory)), start, y, bounds)
    if name.startswith("train-vae") and not compiled:
        own, count = _vae(), int(name.split("-")[-1])
        encoder, decoder = (_torch_copy(part).to(memory_format=memory) for part in (own.encoder, own.decoder))
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.01, betas=(0.5, 0.9))
        x, _ = data(count)
        noise = torch.from_numpy(np.random.default_rng(1).standard_normal((count, LATENTS), np.float32))

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
        matrices = torch.from_numpy(affine_matrix(Tensor(_parameters(1000))).data).requires_grad_()
        behind = torch.ones_like(x)

        def forward_and_gradient() -> None:
            grid = affine_grid(matrices, list(x.shape), align_corners=True)
            torch.autograd.grad(grid_sample(x, grid, align_corners=True), matrices, behind)

        return forward_and_gradient
    return None


def attack_library(library: str, name: str, threads: int) -> Task | None:
    """The CNN attack in an attack library."""
    import torch

    if not name.startswith("attack-cnn"):
        return None
    torch.set_num_threads(threads)
    _, count, steps = ATTACKS[name]
    model = _torch_model("cnn").eval()
    images, labels = _images(count)
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


# --- the race ---------------------------------------------------------------------------------------------------------


def contenders(compile_too: bool) -> dict[str, Callable[[str, int], Task | None]]:
    """Who takes part; the first is us."""
    found: dict[str, Callable[[str, int], Task | None]] = {"hlf_np": ours}
    if importlib.util.find_spec("torch"):
        found["torch"] = torch_task
        found["torch channels_last"] = _channels_last
        if compile_too:
            found["torch.compile"] = _compiled
        libraries = {"foolbox": _foolbox, "torchattacks": _torchattacks, "art": _art}
        found |= {name: task for name, task in libraries.items() if importlib.util.find_spec(name)}
    return found


def _channels_last(name: str, threads: int) -> Task | None:
    return torch_task(name, threads, channels_last=True)


def _compiled(name: str, threads: int) -> Task | None:
    return torch_task(name, threads, compiled=True)


def _foolbox(name: str, threads: int) -> Task | None:
    return attack_library("foolbox", name, threads)


def _torchattacks(name: str, threads: int) -> Task | None:
    return attack_library("torchattacks", name, threads)


def _art(name: str, threads: int) -> Task | None:
    return attack_library("art", name, threads)


def worker(make: Callable[[str, int], Task | None], threads: int, parent: Connection) -> None:
    """Answer every task's name with the seconds it took, None if it does not take part."""
    tasks: dict[str, Task | None] = {}
    while (name := parent.recv()) is not None:
        if name not in tasks:
            tasks[name] = make(name, threads)
        task = tasks[name]
        if task is None:
            parent.send(None)
            continue
        task()  # warm up: compile, fill caches
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            task()
            count += 1
        parent.send((time.perf_counter() - started) / count)


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--only", default="", help="Tasks whose names contain this.")
@click.option("--compile", "compile_too", is_flag=True, help="Let torch.compile take part (needs a C++ compiler).")
def main(threads: int, rounds: int, only: str, compile_too: bool) -> None:
    """Print medians and ratios."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, make in contenders(compile_too).items():
        here, there = context.Pipe()
        context.Process(target=worker, args=(make, threads, there), daemon=True).start()
        lines[name] = here
    tasks = [task for task in TASKS if only in task]
    seconds: dict[str, dict[str, list[float]]] = {task: {} for task in tasks}
    for number in range(rounds):
        click.echo(f"round {number + 1} of {rounds}", err=True)
        for task in tasks:
            for name, line in lines.items():
                line.send(task)
                if (taken := line.recv()) is not None:
                    seconds[task].setdefault(name, []).append(taken)
    click.echo(f"{threads} threads, medians of {rounds} rounds; ratio: best PyTorch variant / hlf_np (middle half)\n")
    for task, contestants in seconds.items():
        click.echo(f"{task:<24} {_ratio(contestants)}   {_medians(contestants)}")
    for line in lines.values():
        line.send(None)


def _ratio(seconds: dict[str, list[float]]) -> str:
    """Of medians, against the variant of PyTorch with the smallest; in brackets the middle half of the rounds'."""
    variants = [np.array(times) for name, times in seconds.items() if name in PYTORCH]
    if not variants:
        return "-"
    own, best = np.array(seconds["hlf_np"]), min(variants, key=np.median)
    low, high = np.quantile(best / own, (0.25, 0.75))
    return f"{np.median(best) / np.median(own):6.2f}x ({low:.2f}-{high:.2f})"


def _medians(seconds: dict[str, list[float]]) -> str:
    return "  ".join(f"{name} {1000 * statistics.median(times):.2f} ms" for name, times in seconds.items())


if __name__ == "__main__":
    main()
