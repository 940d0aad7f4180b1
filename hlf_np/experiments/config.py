"""What a run does: presets, and the grid of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import product
from typing import Any

from hlf_np.architectures import DEFAULTS, Architecture, Kind
from hlf_np.attacks import PGD, CarliniWagner
from hlf_np.checks import check_count, check_positive
from hlf_np.data.fonts import LETTERS, Difficulty, prototypes_digest
from hlf_np.errors import UserError
from hlf_np.experiments.catalogue import Catalogue, catalogue
from hlf_np.experiments.measurements import Measurement
from hlf_np.experiments.plugins import Plugin, PluginError
from hlf_np.experiments.results import Cell
from hlf_np.manifolds import VaeConfig
from hlf_np.optim import AdamConfig
from hlf_np.plain import from_plain, to_plain
from hlf_np.spaces import Need, Norm
from hlf_np.trainings import MAIN, PAPER, TRAINING_ATTACK, Training, Variant, training_of


class Preset(StrEnum):
    """Sizes of the experiment."""

    SMOKE = "smoke"
    QUICK = "quick"
    STANDARD = "standard"
    PAPER = "paper"


SURROGATE_IMAGES = 10_000  # that the paper's surrogate is trained on
MOST_SEEDS = 10_000  # a grid has few enough cells to be listed


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines the numbers of a run.

    dataset : its name in the results, "fonts" or another; classes : the names of its classes.
    data_seed : of the parameters of FONTS, or of the order in which images of files are taken.
    difficulty : of FONTS; prototypes : the digest of its prototypes.
    path, digest, image_size : of the images of another dataset, see `StoredSource`; empty for FONTS.
    true_manifold : whether anybody knows the manifold of the images.
    plugins : what they declare may be named here, too.
    trainings, sizes, seeds : the grid; one model for each training, number of training images, and seed
        below `seeds`.
    architecture, epochs, batch_size, adam : of every model.
    training_attack, variant : the inner maximisation of every adversarial training, and how much it perturbs.
    attack : the attack that measures success rates.
    norm : of regular perturbations and of those on manifolds, in trainings and in attacks; transformations
        stay within L_inf, whose ball is a box of parameters.
    epsilon : size of the regular perturbations; latent_epsilon : of the manifolds' codes and of
        transformations.
    n_test : test images for the test error; n_attacked : the first of them, attacked where classified
        correctly; n_attacked_on_manifold : likewise on the manifolds.
    n_examples : adversarial examples of each kind kept for the gallery.
    n_projected : images of each kind, at most, whose distance to the manifold is measured.
    n_neighbours : without a true manifold, among how many images their nearest neighbours are sought, which stand
        for it: the first of all training images, whatever the sizes in the grid.
    vae : of the learned manifold; n_vae : images of each class that its VAEs are trained on, fewer where a class
        has not so many, 0 for no learned manifold. They are the first of all training images, whatever the sizes
        in the grid: the paper's manifold is learned from all data, so that only the classifier's data varies.
    n_oracle : images that the judge of labels is trained on, 0 for none. It is not needed without a
        learned manifold.
    carlini_wagner : the attack that looks for the smallest regular perturbations in L2; None to leave it out.
    n_transfer : images that the surrogate is trained on, a model whose adversarial examples are shown to the others;
        0 for none.
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
    n_examples: int = 10
    n_projected: int = 200
    n_neighbours: int = 20_000
    attack_seed: int = 0
    vae: VaeConfig = field(default_factory=VaeConfig)
    n_vae: int = 10_000
    n_oracle: int = 100_000
    carlini_wagner: CarliniWagner | None = None
    n_transfer: int = 0

    def __post_init__(self) -> None:
        if not self.trainings or len(set(self.trainings)) < len(self.trainings):
            raise UserError("give at least one training, each of them once")
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise UserError("give at least one number of training images, each of them once")
        for size in self.sizes:
            check_count("sizes", size)
        check_count("seeds", self.seeds, 1, MOST_SEEDS)
        check_count("n_test", self.n_test)
        for name in ("n_attacked", "n_attacked_on_manifold"):
            check_count(name, getattr(self, name), 1, self.n_test)
        for name in ("n_projected", "n_neighbours", "n_vae", "n_oracle", "n_transfer"):
            check_count(name, getattr(self, name), least=0)
        for name in ("epsilon", "latent_epsilon"):
            check_positive(name, getattr(self, name))
        for training in self.trainings:
            for need in sorted(training.needs - self.has):
                raise UserError(f"training {training} needs {need}, {LACKING[need]}")

    @property
    def has(self) -> set[Need]:
        """What the run has of all that trainings, spaces and measurements may need."""
        return needs_met(self.true_manifold, bool(self.n_vae))

    @property
    def catalogue(self) -> Catalogue:
        """What the package and the run's plugins declare."""
        return catalogue(self.plugins)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What is measured, in the order of the columns."""
        return self.catalogue.measurements

    def cells(self) -> Iterator[Cell]:
        """The grid, small models first, so that a broken setting shows early."""
        for size, seed, training in product(sorted(self.sizes), range(self.seeds), self.trainings):
            yield Cell(training, size, seed)

    def as_json(self) -> dict[str, Any]:
        """Plain types only; of plugins their names and digests."""
        plain: dict[str, Any] = to_plain(self, (Training,))
        return plain | {"plugins": {plugin.name: plugin.digest for plugin in self.plugins}}

    @classmethod
    def from_json(cls, values: dict[str, Any], plugins: tuple[Plugin, ...] = ()) -> RunConfig:
        """The configuration that `as_json` described; a setting that an older version did not have is at its default.

        plugins : the same that it was made with.

        Raises
        ------
        TypeError, ValueError, LookupError : for anything else; PluginError for other plugins.
        """
        older = {"true_manifold": not values.get("path")}
        digests = values.get("plugins", {})
        given = {plugin.name: plugin for plugin in plugins}
        for name, digest in digests.items():
            if name not in given or given[name].digest != digest:
                how = "needs" if name not in given else "was made with another version of"
                hint = f"give the one in its folder, --plugin DIR/plugins/{name}, if you trust it"
                raise PluginError(f"this run {how} the plugin {name}: {hint}")
        used = tuple(given[name] for name in digests)
        known = catalogue(used).trainings
        plain = older | values | {"plugins": []}
        config: RunConfig = from_plain(cls, plain, {Training: lambda name: training_of(name, known)})
        return replace(config, plugins=used)


def needs_met(true_manifold: bool, learned_manifold: bool) -> set[Need]:
    """The needs of trainings, spaces and measurements that are met where these manifolds are known, or not."""
    known = {Need.TRUE_MANIFOLD: true_manifold, Need.LEARNED_MANIFOLD: learned_manifold}
    return {need for need, is_known in known.items() if is_known}


LACKING = {
    Need.TRUE_MANIFOLD: "which nobody knows for this dataset: leave it out",
    Need.LEARNED_MANIFOLD: "for which VAEs are trained on some images: give it some, or leave it out",
}
_SMOKE_ATTACK = PGD(steps=5)

PRESETS = {
    Preset.SMOKE: RunConfig(
        sizes=(100, 200),
        epochs=5,
        training_attack=replace(_SMOKE_ATTACK, stop_early=False),
        attack=replace(_SMOKE_ATTACK, restarts=2),
        n_test=200,
        n_attacked=50,
        n_attacked_on_manifold=50,
        n_examples=4,
        n_projected=20,
        vae=VaeConfig(channels=(4, 8), epochs=4, adam=AdamConfig(learning_rate=0.01, decay=0.5)),
        n_vae=200,
        n_oracle=0,
    ),
    Preset.QUICK: RunConfig(trainings=MAIN, n_attacked_on_manifold=500, n_projected=100, n_vae=8000, n_oracle=20_000),
    Preset.STANDARD: RunConfig(
        trainings=MAIN, sizes=(250, 500, 1000, 2500, 5000), seeds=2, n_test=40_000, n_attacked_on_manifold=1000
    ),
    Preset.PAPER: RunConfig(
        sizes=(250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 40_000),
        seeds=5,
        n_test=160_000,
    ),
}
