"""Declarations of the named trainings: where each perturbs images, how, and which loss it minimises.

The loop that runs them is `training.train`. `Training("adversarial", (ImageBall,))` is a complete declaration: command
line, results, tables and figures derive everything else from it. A training in several spaces perturbs equal shares of
each batch in them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hlf_np.attacks import PGD, Attack, Objective, Start
from hlf_np.losses import CROSS_ENTROPY, Loss, Trades
from hlf_np.spaces import SPACES, DataManifold, ImageBall, LearnedManifold, Need, Space, Transformations, TrueManifold
from hlf_np.spaces.space import check_space
from hlf_np.support.checks import check_choice, check_fields, check_range, choose
from hlf_np.support.errors import UserError


class Variant(StrEnum):
    """How much of each batch is perturbed, and how thoroughly.

    Attributes
    ----------
    HALF
        Half of it, by the full attack, or two thirds for perturbations in two spaces, so that clean images and each
        space have the same weight; the paper's main recipe.
    FULL
        All of it, by the full attack.
    WEAK
        As much as `HALF`, by an attack that stops at the first label change.
    """

    HALF = "half"
    FULL = "full"
    WEAK = "weak"


TRAINING_ATTACK = PGD(stop_early=False)  # the paper's inner maximisation


def with_step_size_of(space: Space, attack: PGD) -> PGD:
    """Return the attack with the step size that the space defines, if it defines one."""
    return replace(attack, step_size=space.step_size) if space.step_size else attack


@dataclass(frozen=True)
class Perturbation:
    """A share of every batch that is replaced by perturbed images.

    Parameters
    ----------
    space : Space
        The space of the perturbations.
    attack : Attack
        The attack that computes them; `PGD(steps=0)` draws them at random.
    fraction : float
        Fraction of the batch, from 0 to 1.

    Raises
    ------
    UserError
        If the fraction is out of range.
    """

    space: Space
    attack: Attack = TRAINING_ATTACK
    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        check_space(self.space)
        if not hasattr(self.attack, "find") or isinstance(self.attack, type):
            raise UserError(f"the attack of a perturbation must be an object such as PGD(), not {self.attack!r}")
        check_range("the fraction of a perturbation", self.fraction, 1)


@dataclass(frozen=True)
class Training:
    """A kind of training. Two trainings are equal if their names are.

    Parameters
    ----------
    name : str
        Name in the results, in lower case with underscores.
    spaces : tuple of Space classes
        The spaces to perturb in, with equal shares of each batch; empty for normal training.
    loss : Loss
        The loss to minimise: the cross-entropy, or any function that is a `losses.Loss`.
    random : bool
        If true, perturbations are the attack's random starts, without any steps. Random and adversarial training then
        differ by the adversary alone.
    attack : Attack, optional
        An attack used unchanged instead of the run's inner maximisation.
    objective : Objective, optional
        The objective of the run's inner maximisation, instead of the run's own.
    fraction : float, optional
        Fraction of each batch to perturb; determined by the `Variant` if not given.
    samples : type of Space, optional
        The manifold from which as many images again are drawn before the training, see `Space.sampled`.
    color : str
        Color of its curves, "#rrggbb"; an unused one is chosen if empty.

    Raises
    ------
    UserError
        If a field is invalid, or `attack` is combined with `random` or `objective`.
    """

    name: str
    spaces: tuple[type[Space], ...] = field(default=(), compare=False)
    loss: Loss = field(default=CROSS_ENTROPY, compare=False)
    random: bool = field(default=False, compare=False)
    attack: Attack | None = field(default=None, compare=False)
    objective: Objective | None = field(default=None, compare=False)
    fraction: float | None = field(default=None, compare=False)
    samples: type[Space] | None = field(default=None, compare=False)
    color: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        are_classes = isinstance(self.spaces, tuple) and all(isinstance(kind, type) for kind in self.spaces)
        if not are_classes or not all(issubclass(kind, Space) for kind in self.spaces):
            raise UserError(f"the spaces of training {self.name} must be a tuple of classes such as (ImageBall,)")
        has_loss = callable(self.loss) and not isinstance(self.loss, type)
        has_attack = hasattr(self.attack, "find") and not isinstance(self.attack, type)
        if not has_loss or not (self.attack is None or has_attack):
            raise UserError(f"training {self.name} needs a callable loss, and an attack with a method `find`")
        if self.attack is not None and (self.random or self.objective):
            raise UserError(f"training {self.name} has an attack of its own: leave `random` and `objective` out")
        if self.samples and not (isinstance(self.samples, type) and issubclass(self.samples, Space)):
            raise UserError(f"the samples of training {self.name} must be a class such as TrueManifold")
        has_codes = self.samples is None or self.samples.needs is Need.TRUE_MANIFOLD
        if not has_codes and any(kind.needs is Need.TRUE_MANIFOLD for kind in self.spaces):
            raise UserError(
                f"training {self.name} would perturb its samples on the true manifold, where they are not: draw them"
                " from TrueManifold"
            )
        if self.fraction is not None:
            check_range(f"the fraction of training {self.name}", self.fraction, 1)
        if not self.spaces and (self.random or self.attack or self.objective or self.fraction is not None):
            raise UserError(f"training {self.name} perturbs nothing without `spaces`: set them, as in (ImageBall,)")
        if self.color and not re.fullmatch("#[0-9a-f]{6}", self.color):
            raise UserError(f"the color of training {self.name} must be of the form #rrggbb, not {self.color!r}")

    def __str__(self) -> str:
        return self.name

    def depends_on(self, variant: Variant) -> bool:
        """Return whether a variant changes this training."""
        if variant is Variant.FULL:
            return bool(self.spaces) and self.fraction is None
        return variant is Variant.HALF or (bool(self.spaces) and not self.random and self.attack is None)

    @property
    def label(self) -> str:
        """The name as figures and tables show it."""
        label = self.name.replace("_", " ").replace("trades", "TRADES")
        return label[:1].upper() + label[1:]

    @property
    def needs(self) -> set[Need]:
        """The requirements of its spaces on a run."""
        used = (*self.spaces, self.samples) if self.samples else self.spaces
        return {space.needs for space in used if space.needs}

    def perturbations(
        self, spaces: Sequence[Space] = (), attack: PGD = TRAINING_ATTACK, variant: str = "half"
    ) -> tuple[Perturbation, ...]:
        """Return the perturbed shares of each batch.

        Parameters
        ----------
        spaces : sequence of Space
            At least those that the training perturbs in, in any order; the paper's `ImageBall` if none is given.
        attack : PGD
            The inner maximisation, unless the training has an attack of its own. It stops early if the variant is
            "weak".
        variant : {"half", "full", "weak"}
            See `Variant`.

        Returns
        -------
        tuple of Perturbation
            One share for each space of the training, in their order.

        Raises
        ------
        UserError
            If the variant is unknown or a space is missing.

        Examples
        --------
        >>> NORMAL.perturbations(), ADVERSARIAL.perturbations()[0].space
        ((), ImageBall(epsilon=0.3, norm=<Norm.LINF: 'linf'>))
        """
        variant = check_choice("variant", variant, Variant)
        objective = self.objective or attack.objective
        attack = replace(attack, stop_early=variant is Variant.WEAK, objective=objective)
        if self.random:
            attack = replace(attack, steps=0, start=Start.RANDOM, restarts=1)
        used = [self.space(kind, spaces) for kind in self.spaces]
        clean = 0.0 if variant is Variant.FULL else 1 / (len(used) + 1)  # clean images have the weight of one space
        fraction = 1 - clean if self.fraction is None else self.fraction
        return tuple(
            Perturbation(space, self.attack or with_step_size_of(space, attack), fraction / len(used)) for space in used
        )

    def space(self, kind: type[Space], spaces: Sequence[Space]) -> Space:
        """Return the space of a class among `spaces`; the paper's `ImageBall` if none is given.

        A space of a subclass is used if there is none of the class itself, and the training does not also perturb in
        the subclass.

        Raises
        ------
        UserError
            If another space is missing, there are several of the class, or one of `spaces` is none.
        """
        others = {*self.spaces, self.samples} - {kind}
        found = [space for space in map(check_space, spaces) if isinstance(space, kind) and type(space) not in others]
        found = [space for space in found if type(space) is kind] or found
        if len(found) > 1:
            raise UserError(f"training {self} needs a single {kind.__name__}, not {len(found)}: leave the others out")
        if found:
            return found[0]
        if kind is ImageBall:
            return ImageBall()
        hint = "" if kind.name else f", or give {kind.__name__} a `name`, so that a run makes one"
        raise UserError(f"training {self} needs its space: pass space={kind.__name__}(...){hint}")


NORMAL = Training("normal", color="#3b6fb6")
ADVERSARIAL = Training("adversarial", (ImageBall,), color="#c8452f")
ON_TRUE_MANIFOLD = Training("on_true_manifold_adversarial", (TrueManifold,), color="#2e8b57")
ON_LEARNED_MANIFOLD = Training("on_learned_manifold_adversarial", (LearnedManifold,), color="#8fbf3f")
REGULAR_AND_LEARNED = Training(
    "regular_and_on_learned_manifold_adversarial", (ImageBall, LearnedManifold), color="#b0703c"
)
# The trainings in the paper's main figures.
MAIN = (
    NORMAL,
    ADVERSARIAL,
    ON_TRUE_MANIFOLD,
    ON_LEARNED_MANIFOLD,
    Training("adversarial_transformations", (Transformations,), color="#8a5fbf"),
    Training("random_transformations", (Transformations,), random=True, color="#7a7a7a"),
)
# Regular training combined with each other kind, as in the paper's trade-off figures.
COMBINED = (
    Training("regular_and_on_true_manifold_adversarial", (ImageBall, TrueManifold), color="#d9a021"),
    REGULAR_AND_LEARNED,
    Training("regular_and_adversarial_transformations", (ImageBall, Transformations), color="#b0508f"),
)
# The paper's baselines: random perturbations in place of an attack.
RANDOM = (
    Training("random_perturbations", (ImageBall,), random=True, color="#e0a090"),
    Training("random_on_true_manifold", (TrueManifold,), random=True, color="#90c8a8"),
    Training("random_on_learned_manifold", (LearnedManifold,), random=True, color="#c8dca0"),
)
CLASS_AGNOSTIC = Training("on_data_manifold_adversarial", (DataManifold,), color="#18a7b5")
PAPER = (*MAIN, *COMBINED)
# Half of the images are drawn from a manifold at random: on-manifold training without the adversary.
SAMPLED = (
    Training("with_true_manifold_samples", samples=TrueManifold, color="#5a9fd4"),
    Training("with_learned_manifold_samples", samples=LearnedManifold, color="#b08fd0"),
)
TRADES_BETAS = (1, 3, 6)  # from accuracy to robustness


def trades(space: type[Space], beta: float) -> Training:
    """Return TRADES (Zhang et al., 2019) in a space.

    All images are perturbed, by maximising the divergence of the model's predictions.

    Parameters
    ----------
    space : Space class
        The space of the perturbations.
    beta : float
        The weight of robustness, see `losses.Trades`.

    Returns
    -------
    Training
        The training.

    Examples
    --------
    >>> trades(ImageBall, 6).name, trades(TrueManifold, 0.5).name
    ('trades_6', 'on_true_manifold_trades_0.5')
    """
    where = "" if space is ImageBall else f"{space.name}_"
    name = f"{where}trades_{beta:g}"
    return Training(name, (space,), Trades(beta), objective=Objective.DIVERGENCE, fraction=1.0)


TRAININGS = (
    *PAPER,
    *RANDOM,
    *SAMPLED,
    CLASS_AGNOSTIC,
    *(trades(space, beta) for space in SPACES if space is not DataManifold for beta in TRADES_BETAS),
)


def training_of(name: str | Training, known: Iterable[Training] = TRAININGS) -> Training:
    """Return the training with the given name.

    Parameters
    ----------
    name : str or Training
        The name; a `Training` is returned unchanged.
    known : iterable of Training
        The trainings to choose from.

    Returns
    -------
    Training
        The training.

    Raises
    ------
    UserError
        If the name is unknown.
    """
    if isinstance(name, Training):
        return name
    return choose("training", name, {training.name: training for training in known})
