"""Training variational autoencoders: one for all images given, or one for each class, kept in a folder."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hlf_np.arrays import Floats, batches
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_batches, check_images
from hlf_np.data.dataset import Split
from hlf_np.errors import UserError
from hlf_np.files import digest
from hlf_np.manifolds.vae import Vae, VaeConfig, load_vae
from hlf_np.operations import absolute_error, exponential, gaussian_divergence
from hlf_np.optim import Adam
from hlf_np.programs.compiler import vae_training
from hlf_np.random import generator


@dataclass(frozen=True)
class VaeLog:
    """One epoch of one VAE: means over its images, in training mode.

    name : of the VAE; epoch : its number from 1.
    reconstruction_error : the summed absolute error, in pixels.
    divergence : KL(q(z | x) || N(0, I)), in nats.
    """

    name: str
    epoch: int
    reconstruction_error: float
    divergence: float
    learning_rate: float
    seconds: float


Progress = Callable[[VaeLog], None]


def losses(vae: Vae, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of each image's loss in training mode, not weighted: summed absolute error and KL, (N,) each.

    What `VaeTraining` computes, to read.

    images : (N, H, W, C); noise : (N, L), from N(0, I).
    """
    average, log_variance = vae.posterior(images, training=True)
    codes = average + exponential(0.5 * log_variance) * noise
    reconstructions = vae.decoder(codes, training=True)
    return absolute_error(reconstructions, images), gaussian_divergence(average, log_variance)


def train_vae(
    images: Floats, config: VaeConfig | None = None, seed: int = 0, progress: Progress | None = None, name: str = "all"
) -> Vae:
    """A VAE of the manifold that images (N, H, W, C) lie on; of one class, or, class-agnostic, of all.

    Parameters
    ----------
    seed : of the weights, the order of the images and the noise.
    progress : called after each epoch; name : what it calls the VAE.

    Raises
    ------
    UserError : for bad images, a batch too small for batch norm, or when the loss is no longer finite.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> images = hlf.data.load_fonts(n_train=100, n_test=0).train.images[::10]  # the letter A
    >>> vae = train_vae(images, VaeConfig(channels=(4, 8), epochs=1))
    >>> vae.encode(images).shape, vae.decode(vae.encode(images)).shape
    ((10, 10), (10, 28, 28, 1))
    """
    images = check_images(images, config.image_shape if config else None)
    config = config or VaeConfig(image_shape=images.shape[1:])
    if not len(images):
        raise UserError("there are no images to train a VAE on")
    vae = Vae(config, seed)
    check_batches(vae, images, config.batch_size)
    program = vae_training(vae, _reference)
    step = program.step if program else _autodiff_step(vae)
    for epoch in range(config.epochs):
        started, rate = time.perf_counter(), config.adam.rate(epoch)
        order = generator(seed, "vae order", epoch).permutation(len(images))
        random = generator(seed, "vae noise", epoch)
        totals = np.zeros(2)
        with np.errstate(over="ignore", invalid="ignore"):  # the loss tells, below
            for rows in batches(len(images), config.batch_size):
                noise = random.standard_normal((len(rows), config.latent_dimensions), np.float32)
                errors, divergences = step(images[order[rows]], noise, rate)
                totals += errors.sum(), divergences.sum()
        error, divergence = (totals / len(images)).tolist()
        if not math.isfinite(error + divergence):
            raise UserError(f"the VAE's loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
        if progress:
            progress(VaeLog(name, epoch + 1, error, divergence, rate, time.perf_counter() - started))
    if program:
        program.store()
    return vae


def _reference(vae: Vae, images: Tensor, noise: Floats) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Both terms of each image's loss, and the loss."""
    error, divergence = losses(vae, images, Tensor(noise))
    return (error, divergence), (error * vae.config.reconstruction_weight + divergence).mean()


def _autodiff_step(vae: Vae) -> Callable[[Floats, Floats, float], tuple[Floats, Floats]]:
    """What `VaeTraining.step` does, to read, and for what it does not know: images of many channels."""
    optimiser = Adam([parameter for _, parameter in vae.named_parameters()], vae.config.adam)

    def step(images: Floats, noise: Floats, learning_rate: float) -> tuple[Floats, Floats]:
        (error, divergence), loss = _reference(vae, Tensor(images), noise)
        loss.backward()
        optimiser.step(learning_rate)
        return error.data, divergence.data

    return step


def class_vaes(
    split: Split,
    classes: int,
    config: VaeConfig | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Vae, ...]:
    """One VAE for each class, trained on the images of that class alone.

    Parameters
    ----------
    split : the training data; classes : how many there are.
    folder : where the VAEs are kept. A file's name holds a digest of config, seed and images, so a VAE is
        trained once, and another setting never meets the wrong file.
    progress : called after each epoch of each VAE that is trained.

    Raises
    ------
    UserError : for bad images or labels, a class without images, or a damaged file in the folder.
    """
    split = split.checked(classes, config.image_shape if config else None)
    config = config or VaeConfig(image_shape=split.images.shape[1:])
    vaes = []
    for label in range(classes):
        images = split.images[split.labels == label]
        if not len(images):
            raise UserError(f"there are no images of class {label} to train its VAE on: use more images")
        class_seed = int(generator(seed, "class vae", label).integers(2**31))
        path = folder and folder / f"vae-{label}-{digest([asdict(config), class_seed], images)}.npz"
        if path and path.exists():
            vaes.append(load_vae(path))
            continue
        vaes.append(train_vae(images, config, class_seed, progress, f"class {label}"))
        if path:
            vaes[-1].save(path)
    return tuple(vaes)


def count_vaes(folder: Path) -> int:
    """How many VAEs `class_vaes` has left in a folder."""
    return len(list(folder.glob("vae-*.npz")))


def stored_vaes(folder: Path, classes: int) -> tuple[Vae, ...]:
    """The VAEs that `class_vaes` left in a folder, in the order of the classes.

    Raises
    ------
    UserError : unless there is exactly one for each class, or if a file is damaged.
    """
    found = []
    for label in range(classes):
        paths = list(folder.glob(f"vae-{label}-*.npz"))
        if len(paths) != 1:
            raise UserError(
                f"{str(folder)!r} holds {len(paths)} VAEs of class {label} instead of one:"
                " give the folder `manifolds` of a finished run"
            )
        found.append(load_vae(paths[0]))
    return tuple(found)
