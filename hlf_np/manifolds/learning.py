"""Training of variational autoencoders: one for given images, or one for each class, stored in a folder."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.layers.layer import check_batch_of_one
from hlf_np.models.vae import Vae, VaeConfig, load_vae
from hlf_np.operations import absolute_error, exponential, gaussian_divergence
from hlf_np.optim import Adam
from hlf_np.programs.compiler import vae_training
from hlf_np.random import generator
from hlf_np.support.arrays import Floats, batches
from hlf_np.support.checks import check_images
from hlf_np.support.errors import UserError
from hlf_np.support.files import digest, only_stored, stored_as
from hlf_np.support.serialization import identity


@dataclass(frozen=True)
class VaeLog:
    """The log entry of one epoch of one VAE; errors are means over its images, in training mode.

    Attributes
    ----------
    name : str
        Name of the VAE.
    epoch : int
        The number of the epoch, from 1.
    reconstruction_error : float
        The summed absolute error of an image, in pixels.
    divergence : float
        KL(q(z | x) || N(0, I)), in nats.
    learning_rate : float
        Learning rate of the epoch.
    seconds : float
        Duration of the epoch.
    """

    name: str
    epoch: int
    reconstruction_error: float
    divergence: float
    learning_rate: float
    seconds: float


Progress = Callable[[VaeLog], None]
ALL_CLASSES = "all classes"  # name of their common VAE in logs


def losses(vae: Vae, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two terms of each image's loss, in training mode and without the weight.

    The readable version of what `VaeTraining` computes.

    Parameters
    ----------
    vae : Vae
        The autoencoder.
    images : Tensor, shape (N, H, W, C)
        Images in [0, 1].
    noise : Tensor, shape (N, L)
        Samples of N(0, I).

    Returns
    -------
    error : Tensor, shape (N,)
        The summed absolute error of the reconstruction, in pixels.
    divergence : Tensor, shape (N,)
        KL(q(z | x) || N(0, I)), in nats.
    """
    mean, log_variance = vae.posterior(images, training=True)
    codes = mean + exponential(0.5 * log_variance) * noise  # the reparameterisation trick
    reconstructions = vae.decoder(codes, training=True)
    return absolute_error(reconstructions, images), gaussian_divergence(mean, log_variance)


def train_vae(
    images: Floats, config: VaeConfig | None = None, seed: int = 0, progress: Progress | None = None, name: str = "all"
) -> Vae:
    """Train a VAE on images of one class or, for a class-agnostic manifold, of all classes.

    Parameters
    ----------
    images : ndarray of floats, shape (N, H, W, C)
        Images in [0, 1].
    config : VaeConfig, optional
        Architecture and settings; the defaults for images of this shape if not given.
    seed : int
        Seed of the weights, the order of the images and the noise.
    progress : callable, optional
        Called with the `VaeLog` of each epoch.
    name : str
        Name of the VAE in the log.

    Returns
    -------
    Vae
        The trained VAE.

    Raises
    ------
    UserError
        If images are invalid, a batch is too small for batch norm, or the loss is no longer finite.

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
    count = _images_per_epoch(vae, images)
    program = vae_training(vae, config, _weighted_losses)
    step = program.step if program else _autodiff_step(vae)
    for epoch in range(config.epochs):
        started, rate = time.perf_counter(), config.adam.rate(epoch)
        order = generator(seed, "vae order", epoch).permutation(len(images))
        random = generator(seed, "vae noise", epoch)
        totals = np.zeros(2)
        with np.errstate(over="ignore", invalid="ignore"):  # a non-finite loss is reported below
            for rows in batches(count, config.batch_size):
                noise = random.standard_normal((len(rows), config.latent_dimensions), np.float32)
                errors, divergences = step(images[order[rows]], noise, rate)
                totals += errors.sum(), divergences.sum()
        error, divergence = (totals / count).tolist()
        if not math.isfinite(error + divergence):
            raise UserError(f"the VAE's loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
        if progress:
            progress(VaeLog(name, epoch + 1, error, divergence, rate, time.perf_counter() - started))
    if program:
        program.store()
    return vae


def _images_per_epoch(vae: Vae, images: Floats) -> int:
    """Return how many images an epoch uses: all, or one fewer if batch norm cannot be trained on the one left over."""
    count, size = len(images), vae.config.batch_size
    if 1 in (size, count % size):
        try:
            check_batch_of_one(vae, images[:1])
        except UserError:
            if 1 in (size, count):
                raise
            return count - 1  # another image is left out in each epoch
    return count


def _weighted_losses(vae: Vae, images: Tensor, noise: Floats) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Compute both terms of each image's loss, (N,) each, and the loss of the batch."""
    error, divergence = losses(vae, images, Tensor(noise))
    return (error, divergence), (error * vae.config.reconstruction_weight + divergence).mean()


def _autodiff_step(vae: Vae) -> Callable[[Floats, Floats, float], tuple[Floats, Floats]]:
    """Return a function that takes one training step by autodiff.

    The readable version of `VaeTraining.step`, used where that does not support the images, such as those of many
    channels.
    """
    optimiser = Adam([parameter for _, parameter in vae.named_parameters()], vae.config.adam)

    def step(images: Floats, noise: Floats, learning_rate: float) -> tuple[Floats, Floats]:
        (error, divergence), loss = _weighted_losses(vae, Tensor(images), noise)
        optimiser.clear_gradients()
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
    reuse: bool = False,
) -> tuple[Vae, ...]:
    """Train one VAE for each class, on the images of that class alone.

    Parameters
    ----------
    split : Split
        The training data.
    classes : int
        Number of classes.
    config : VaeConfig, optional
        Architecture and settings; the defaults for images of this shape if not given.
    seed : int
        Seed from which the seed of each VAE is derived.
    folder : Path, optional
        Folder to store the VAEs in. File names contain a digest of config, seed and images, so each VAE is trained only
        once, and other settings never load the wrong file.
    progress : callable, optional
        Called with the `VaeLog` of each epoch of each VAE that is trained.
    reuse : bool
        Load any VAE of this class that the folder has, whatever its digest. This is for folders of a single origin,
        such as that of a run: another processor may generate images that differ in the last digit.

    Returns
    -------
    tuple of Vae
        The VAEs, in the order of the classes.

    Raises
    ------
    UserError
        If images or labels are invalid, a class has no images, or a file in the folder is damaged or of a VAE with
        other settings.
    """
    split = check_split(split, classes, config.image_shape if config else None)
    config = config or VaeConfig(image_shape=split.images.shape[1:])
    vaes = []
    for label in range(classes):
        images = split.images[split.labels == label]
        if not len(images):
            raise UserError(f"there are no images of class {label} to train its VAE on: use more images")
        class_seed = int(generator(seed, "class vae", label).integers(2**31))
        vaes.append(_train_once(f"vae-{label}", images, config, class_seed, folder, progress, f"class {label}", reuse))
    return tuple(vaes)


def all_classes_vae(
    images: Floats,
    config: VaeConfig | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
    reuse: bool = False,
) -> Vae:
    """Train one VAE on the images of all classes, or load it from a folder; see `class_vaes`.

    Parameters
    ----------
    images : ndarray of floats, shape (N, H, W, C)
        The training images.
    config : VaeConfig, optional
        Architecture and settings; the defaults for images of this shape if not given.
    seed : int
        Seed of the weights and the training.
    folder : Path, optional
        Folder to store the VAE in.
    progress : callable, optional
        Called with the `VaeLog` of each epoch.
    reuse : bool
        Load any VAE of all classes that the folder has, whatever its digest.

    Returns
    -------
    Vae
        The trained VAE.

    Raises
    ------
    UserError
        If the images are invalid, or the file in the folder is damaged.
    """
    config = config or VaeConfig(image_shape=images.shape[1:])
    return _train_once("all-classes-vae", images, config, seed, folder, progress, ALL_CLASSES, reuse)


def _train_once(
    stem: str,
    images: Floats,
    config: VaeConfig,
    seed: int,
    folder: Path | None,
    progress: Progress | None,
    name: str,
    reuse: bool,
) -> Vae:
    """Train a VAE, or load it if the folder has it already; the file name is `stem` and a digest of its origin."""
    path = stored_as(stem, folder, lambda: digest(identity([config, seed]), images), reuse)
    if path and path.exists():
        vae = load_vae(path)
        if vae.config != config:  # possible with `reuse` only
            raise UserError(f"{str(path)!r} is a VAE with other settings: delete it, or repeat the run that trained it")
        return vae
    vae = train_vae(images, config, seed, progress, name)
    if path:
        vae.save(path)
    return vae


def stored_all_classes_vae(folder: Path) -> Vae | None:
    """Load the VAE that `all_classes_vae` has stored; None if there is none, UserError if several."""
    path = only_stored("all-classes-vae", folder)
    return load_vae(path) if path else None


def count_vaes(folder: Path) -> int:
    """Return the number of VAEs that `class_vaes` has stored in a folder."""
    return len(list(folder.glob("vae-*.npz")))


def stored_vaes(folder: Path, classes: int) -> tuple[Vae, ...]:
    """Load the VAEs that `class_vaes` has stored in a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    classes : int
        Number of classes.

    Returns
    -------
    tuple of Vae
        The VAEs, in the order of the classes.

    Raises
    ------
    UserError
        If there is not exactly one for each class, or a file is damaged.
    """
    vaes = []
    for label in range(classes):
        paths = list(folder.glob(f"vae-{label}-*.npz"))
        if len(paths) != 1:
            raise UserError(
                f"{str(folder)!r} holds {len(paths)} VAEs of class {label} instead of one:"
                " use the folder `manifolds` of a finished run"
            )
        vaes.append(load_vae(paths[0]))
    if count_vaes(folder) > classes:
        raise UserError(
            f"{str(folder)!r} holds {count_vaes(folder)} VAEs for {classes} classes: use the folder `manifolds` of a"
            " finished run on the same dataset"
        )
    return tuple(vaes)
