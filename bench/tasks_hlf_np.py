"""Tasks of `compare.py` in this package."""

from __future__ import annotations

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


def hlf_np_task(name: str, threads: int) -> Task | None:
    """Prepare a task in this package; return None if there is no such task."""
    import numba

    from hlf_np import training
    from hlf_np.attacks import PGD
    from hlf_np.autodiff import Tensor
    from hlf_np.data.dataset import Split
    from hlf_np.data.fonts import Fonts, load_prototypes
    from hlf_np.operations import warp
    from hlf_np.optim import AdamConfig
    from hlf_np.programs.vae_training import VaeTraining
    from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
    from hlf_np.train_step import make_train_step
    from hlf_np.trainings import ADVERSARIAL, trades

    numba.set_num_threads(threads)
    if name in ATTACKS:
        architecture, count, steps = ATTACKS[name]
        model, split = make_model(architecture), Split(*random_images(count))
        attack = PGD(steps, STEP_SIZE, "sign", "image", stop_early=False)  # type: ignore[arg-type]
        return lambda: attack.find(model, split, ImageBall(EPSILON))
    if name == "train-cnn-100":
        model, (images, labels) = make_model("cnn"), random_images(100)
        train_step = make_train_step(model, AdamConfig())
        return lambda: train_step.step(images, images, labels, 0.01)
    if name in ("adversarial-epoch-1000", "trades-epoch-1000"):
        model, split = make_model("cnn"), Split(*random_images(1000))
        kind = ADVERSARIAL if name == "adversarial-epoch-1000" else trades(ImageBall, BETA)
        start = "random" if kind.objective else "image"  # the gradient of the divergence is zero at the image
        attack = PGD(STEPS, STEP_SIZE, "sign", start, stop_early=False)  # type: ignore[arg-type]
        config = training.TrainingConfig(kind.perturbations(attack=attack), epochs=1, loss=kind.loss)
        return lambda: training.train(model, split, config=config)
    if name == "attack-warp-cnn-500":
        fonts = Fonts(load_prototypes())
        model, split = make_model("cnn"), fonts.split(np.arange(500))
        attack = PGD(STEPS, STEP_SIZE, start="image", stop_early=False)  # type: ignore[arg-type]
        return lambda: attack.find(model, split, TrueManifold(fonts))
    if name == "attack-decoder-cnn-500":
        model, (images, _) = make_model("cnn"), random_images(500)
        split = Split(images, np.zeros(500, np.int64))
        attack = PGD(STEPS, STEP_SIZE, start="image", stop_early=False)  # type: ignore[arg-type]
        space = LearnedManifold([make_vae()])
        return lambda: attack.find(model, split, space)
    if name.startswith("train-vae"):
        count = int(name.split("-")[-1])
        vae = make_vae(count)
        program = VaeTraining(vae, vae.config)
        images, _ = random_images(count)
        noise = np.random.default_rng(1).standard_normal((count, LATENT_DIMENSIONS), np.float32)
        return lambda: program.step(images, noise, 0.01)
    if name == "warp-1000":
        images, parameters = random_images(1000)[0], random_affine_parameters(1000)
        output_gradient = np.ones_like(images)

        def forward_and_gradient() -> None:
            warp(Tensor(images), Tensor(parameters, requires_grad=True)).backward(output_gradient)

        return forward_and_gradient
    return None
