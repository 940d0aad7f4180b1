"""The configuration of a run: presets, and the grid of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from itertools import product
from typing import Any

from hlf_np.attacks import PGD, CarliniWagner
from hlf_np.data.fonts import LETTERS, Difficulty, prototypes_digest
from hlf_np.experiments.configuration.catalogue import Catalogue, catalogue
from hlf_np.experiments.configuration.plugins import Plugin, PluginError
from hlf_np.experiments.measurements import Measurement
from hlf_np.experiments.results import Cell
from hlf_np.manifolds import VaeConfig
from hlf_np.models.architectures import DEFAULTS, Architecture, Kind
from hlf_np.optim import AdamConfig
from hlf_np.spaces import Need, Norm
from hlf_np.support.checks import check_count, check_positive
from hlf_np.support.errors import UserError
from hlf_np.support.serialization import from_builtins, to_builtins
from hlf_np.trainings import MAIN, PAPER, REGULAR_AND_LEARNED, SAMPLED, TRAINING_ATTACK, Training, Variant, training_of


class Preset(StrEnum):
    """The sizes of the experiment."""

    SMOKE = "smoke"
    QUICK = "quick"
    STANDARD = "standard"
    PAPER = "paper"


SURROGATE_IMAGES = 10_000  # training images of the paper's surrogate
# 2: learning rates fall within epochs, batches are full, success on the learned manifold counts from reconstructions
PROTOCOL = 2
MAX_SEEDS = 10_000  # so that the cells of a grid can be listed


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines the results of a run.

    Parameters
    ----------
    dataset : str
        Name of the dataset in the results.
    classes : tuple of str
        Names of its classes.
    difficulty : Difficulty
        Difficulty of FONTS.
    data_seed : int
        Seed of the parameters of FONTS, or of the order of the images of other datasets.
    prototypes : str
        Digest of the prototypes of FONTS; empty for other datasets.
    path, digest : str
        Path and digest of the images of a stored dataset (see `ArraySource`); empty for FONTS.
    image_size : int
        Side to which the images of a stored dataset are scaled, in pixels; 0 to keep their size.
    true_manifold : bool
        Whether the true manifold of the images is known.
    plugins : tuple of Plugin
        The plugins whose declarations the run may use.
    trainings, sizes : tuple of Training, tuple of int
        The grid has one model for each training, number of training images and seed.
    seeds : int
        The number of seeds, which are 0 to `seeds` - 1.
    architecture : Architecture
        The network of every model.
    epochs, batch_size : int
        Passes over the training images, and images per update.
    adam : AdamConfig
        The optimiser of every model.
    training_attack : PGD
        The inner maximisation of adversarial training.
    variant : Variant
        How much of each batch adversarial training perturbs.
    attack : PGD
        The attack that measures success rates.
    norm : Norm
        Norm of perturbations of images, of codes on manifolds and of transformations, in trainings and attacks.
    epsilon : float
        Radius of the ball of perturbations of images.
    latent_epsilon : float
        Radius of the ball of perturbations of codes on manifolds and of transformations.
    n_test : int
        Test images for the test error.
    n_attacked, n_attacked_on_manifold : int
        Number of test images, taken from the first on, that are attacked if they are classified correctly: in image
        space, and on the manifolds.
    n_unseen : int
        Number of test images that are attacked in ways that no training uses; 0 for none.
    n_examples : int
        Maximum number of adversarial examples of each kind that are stored for the gallery.
    n_tracked : int
        Number of test images on which every model is measured and attacked after each epoch; 0 for none.
    n_thorough : int
        Number of test images on which the models of the largest size and the first seed are attacked thoroughly, with
        growing epsilon; 0 for none.
    n_projected : int
        Maximum number of images of each kind whose distance to the manifold is measured.
    n_neighbours : int
        Number of images among which nearest neighbours are searched to approximate the manifold; 0 for none. They are
        the first training images, whatever the sizes in the grid.
    attack_seed : int
        Seed of the attacks that measure success rates.
    vae : VaeConfig
        The VAEs of the learned manifold.
    n_vae : int
        Images of each class on which its VAE is trained, or all of a smaller class; 0 for no learned manifold. They
        are the first training images, whatever the sizes in the grid: as in the paper, the manifold is learned from
        all data, so that only the data of the classifier varies.
    n_data_vae : int
        Images of all classes on which the VAE of the class-agnostic manifold is trained, the first ones; 0 for none.
    n_oracle : int
        Images on which the oracle is trained; 0 for none. Ignored without a learned manifold.
    carlini_wagner : CarliniWagner, optional
        The attack that searches for small perturbations in L2, of images and on manifolds; None to leave it out.
    n_transfer : int
        Images on which the surrogate is trained, the source model of transfer attacks; 0 for none.
    protocol : int
        Version of the rules of training and measurement, so that results by different rules are never mixed.

    Raises
    ------
    UserError
        If a value is out of range, or a training needs a manifold that the run does not have.
    """

    dataset: str = "fonts"
    classes: tuple[str, ...] = LETTERS
    difficulty: Difficulty = Difficulty.HARD
    data_seed: int = 0
    prototypes: str = field(default_factory=prototypes_digest)
    path: str = ""
    digest: str = ""
    image_size: int = 0
    true_manifold: bool = True
    plugins: tuple[Plugin, ...] = ()
    trainings: tuple[Training, ...] = PAPER
    sizes: tuple[int, ...] = (250, 500, 1000, 1500)
    seeds: int = 1
    architecture: Architecture = DEFAULTS[Kind.CNN]
    epochs: int = 20
    batch_size: int = 100
    adam: AdamConfig = field(default_factory=AdamConfig)
    training_attack: PGD = TRAINING_ATTACK
    variant: Variant = Variant.HALF
    attack: PGD = field(default_factory=lambda: PGD(restarts=5))
    norm: Norm = Norm.LINF
    epsilon: float = 0.3
    latent_epsilon: float = 0.3
    n_test: int = 10_000
    n_attacked: int = 1000
    n_attacked_on_manifold: int = 2500
    n_unseen: int = 0
    n_examples: int = 10
    n_tracked: int = 0
    n_thorough: int = 0
    n_projected: int = 200
    n_neighbours: int = 20_000
    attack_seed: int = 0
    vae: VaeConfig = field(default_factory=VaeConfig)
    n_vae: int = 10_000
    n_data_vae: int = 0
    n_oracle: int = 100_000
    carlini_wagner: CarliniWagner | None = None
    n_transfer: int = 0
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        if not self.trainings or len(set(self.trainings)) < len(self.trainings):
            raise UserError("give at least one training, and each only once")
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise UserError("give at least one number of training images, and each only once")
        for size in self.sizes:
            check_count("sizes", size)
        check_count("seeds", self.seeds, 1, MAX_SEEDS)
        for name in (f.name for f in fields(self) if f.name.startswith("n_")):
            check_count(name, getattr(self, name), minimum=0)
        check_count("n_test", self.n_test)
        for name in ("n_attacked", "n_attacked_on_manifold"):
            check_count(name, getattr(self, name), 1, self.n_test)
        if self.n_tracked:  # half of them choose the best epoch, the others assess it
            check_count("n_tracked", self.n_tracked, 2, self.n_test)
        for name in ("epsilon", "latent_epsilon"):
            check_positive(name, getattr(self, name))
        for training in self.trainings:
            for need in sorted(training.needs - self.has):
                raise UserError(f"training {training} needs {need}, {MISSING_NEED_HINTS[need]}")

    @property
    def has(self) -> set[Need]:
        """The needs of trainings, spaces and measurements that the run meets."""
        return needs_met(self.true_manifold, bool(self.n_vae), bool(self.n_data_vae))

    @property
    def catalogue(self) -> Catalogue:
        """The declarations of the package and of the run's plugins."""
        return catalogue(self.plugins)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measurements of every model, in the order of the columns."""
        return self.catalogue.measurements

    def cells(self) -> Iterator[Cell]:
        """Iterate over the grid in order of size, so that an error shows up early."""
        for size, seed, training in product(sorted(self.sizes), range(self.seeds), self.trainings):
            yield Cell(training, size, seed)

    def attacks_thoroughly(self, cell: Cell) -> bool:
        """Return whether a model is attacked thoroughly, too: one for each training, of the largest size."""
        return bool(self.n_thorough) and cell.n_train == max(self.sizes) and cell.seed == 0

    def extends(self, other: RunConfig) -> bool:
        """Return whether the grid contains another one, with each of its cells computed in the same way.

        The largest size must be the same, as other settings may depend on it: which models are attacked thoroughly, and
        which images define the boxes of codes. Files of the same images may lie elsewhere.
        """
        settings = {f.name for f in fields(self)} - {"trainings", "sizes", "seeds", "path"}
        if bool(self.path) != bool(other.path):
            return False
        return (
            all(getattr(self, name) == getattr(other, name) for name in settings)
            and max(self.sizes) == max(other.sizes)
            and set(self.cells()) >= set(other.cells())
        )

    def differences(self, other: RunConfig) -> str:
        """Return the names of the settings that are not those of another run, separated by commas."""
        return ", ".join(sorted(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)))

    def settings_of(self, cell: Cell) -> RunConfig:
        """Return a configuration that has all settings on which a cell of this one may depend."""
        return replace(self, trainings=(cell.training,), sizes=(max(self.sizes),), seeds=1)

    def as_json(self) -> dict[str, Any]:
        """Return the configuration in JSON types, with names and digests of the plugins."""
        plain: dict[str, Any] = to_builtins(self, (Training,))
        return plain | {"plugins": {plugin.name: plugin.digest for plugin in self.plugins}}

    @classmethod
    def from_json(cls, values: dict[str, Any], plugins: tuple[Plugin, ...] = ()) -> RunConfig:
        """Return the configuration that `as_json` described.

        Settings that an older version did not have take their defaults.

        Parameters
        ----------
        values : dict
            What `as_json` returned.
        plugins : tuple of Plugin
            The plugins that the configuration was made with.

        Raises
        ------
        TypeError, ValueError, LookupError
            If the values do not describe a configuration.
        PluginError
            If a plugin is missing or differs.
        """
        older = {"true_manifold": not values.get("path"), "protocol": 1}
        digests = values.get("plugins", {})
        by_name = {plugin.name: plugin for plugin in plugins}
        for name, digest in digests.items():
            if name not in by_name or by_name[name].digest != digest:
                relation = "needs" if name not in by_name else "was made with another version of"
                hint = f"if you trust the copy in its folder, pass --plugin DIR/plugins/{name}"
                raise PluginError(f"this run {relation} the plugin {name}: {hint}")
        used = tuple(by_name[name] for name in digests)
        known = catalogue(used).trainings
        plain = older | values | {"plugins": []}
        config: RunConfig = from_builtins(cls, plain, {Training: lambda name: training_of(name, known)})
        return replace(config, plugins=used)


def needs_met(true_manifold: bool, learned_manifold: bool, data_manifold: bool) -> set[Need]:
    """Return the needs that are met, given which manifolds are known."""
    known = {
        Need.TRUE_MANIFOLD: true_manifold,
        Need.LEARNED_MANIFOLD: learned_manifold,
        Need.DATA_MANIFOLD: data_manifold,
    }
    return {need for need, is_known in known.items() if is_known}


MISSING_NEED_HINTS = {
    Need.TRUE_MANIFOLD: "which is unknown for this dataset: leave it out",
    Need.LEARNED_MANIFOLD: "but the run trains no VAEs: give them training images, or leave it out",
    Need.DATA_MANIFOLD: "but the run trains no VAE on all classes: give --data-vae-images, or leave it out",
}
_SMOKE_ATTACK = PGD(steps=5)

PRESETS = {
    Preset.SMOKE: RunConfig(
        trainings=MAIN,
        sizes=(100, 200),
        epochs=5,
        training_attack=replace(_SMOKE_ATTACK, stop_early=False),
        attack=replace(_SMOKE_ATTACK, restarts=2),
        n_test=200,
        n_attacked=50,
        n_attacked_on_manifold=50,
        n_unseen=50,
        n_examples=4,
        n_projected=20,
        n_neighbours=1000,
        vae=VaeConfig(channels=(4, 8), epochs=4, adam=AdamConfig(learning_rate=0.01, decay=0.5)),
        n_vae=200,
        n_oracle=0,
    ),
    Preset.QUICK: RunConfig(
        trainings=MAIN[:5],
        sizes=(400, 550, 750, 1050, 1450, 2000),
        attack=PGD(restarts=3),
        n_attacked_on_manifold=500,
        n_projected=80,
        n_neighbours=10_000,
        vae=VaeConfig(channels=(8, 16, 32)),
        n_vae=3500,
        n_oracle=10_000,
    ),
    Preset.STANDARD: RunConfig(
        trainings=(*MAIN, REGULAR_AND_LEARNED, *SAMPLED),
        sizes=(250, 500, 1000, 2500, 5000),
        seeds=2,
        n_test=40_000,
        n_attacked_on_manifold=1000,
        n_unseen=1000,
        n_tracked=200,
        n_thorough=100,
    ),
    Preset.PAPER: RunConfig(
        trainings=(*PAPER, *SAMPLED),
        sizes=(250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 40_000),
        seeds=5,
        n_test=160_000,
        n_unseen=1000,
        n_tracked=400,
        n_thorough=500,
    ),
}
