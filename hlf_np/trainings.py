"""The trainings that are known by name, and what one is: where it perturbs, how, and what it minimises.

`Training("adversarial", (ImageBall,))` is a whole declaration: command line, results, tables and figures take
everything else from it. With several spaces each batch has equal shares in them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hlf_np.attacks import PGD, Attack, Objective, Start
from hlf_np.checks import check_choice
from hlf_np.errors import UserError
from hlf_np.losses import CROSS_ENTROPY, Loss, Trades
from hlf_np.spaces import SPACES, ImageBall, LearnedManifold, Need, Space, Transformations, TrueManifold


class Variant(StrEnum):
    """How much of a batch is perturbed, and how thoroughly.

    HALF : half of it, by the full attack; the paper's main recipe.
    FULL : all of it.
    WEAK : half of it, by an attack that stops at the first label change.
    """

    HALF = "half"
    FULL = "full"
    WEAK = "weak"


TRAINING_ATTACK = PGD(stop_early=False)  # the paper's inner maximisation


def in_units_of(space: Space, attack: Attack) -> Attack:
    """An attack of projected gradients with the step size of a space that has one of its own."""
    return replace(attack, step_size=space.step_size) if isinstance(attack, PGD) and space.step_size else attack


@dataclass(frozen=True)
class Perturbation:
    """A share of every batch that is perturbed.

    space : where.
    attack : what finds the perturbations; one of no steps leaves them where it starts, at random.
    fraction : of the batch, from 0 to 1.
    """

    space: Space
    attack: Attack = TRAINING_ATTACK
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise UserError(f"the fraction of a perturbation must lie between 0 and 1, not {self.fraction}")


@dataclass(frozen=True)
class Training:
    """A way to train. Two are equal if their names are.

    name : in the results, in lower case with underscores.
    spaces : where it perturbs, equal shares of each batch; none for normal training.
    loss : what it minimises, the cross-entropy or any `losses.Loss`.
    random : whether perturbations are drawn as an attack draws its start, and stay there: what adversarial ones begin
        with, so that the two differ by the adversary alone.
    attack : what finds the perturbations, just as it is, instead of the run's inner maximisation.
    objective : what the run's inner maximisation ascends, instead of its own objective.
    fraction : of each batch that is perturbed; by the `Variant` if not given.
    color : of its curves, "#rrggbb"; one that is free if not given.
    """

    name: str
    spaces: tuple[type[Space], ...] = field(default=(), compare=False)
    loss: Loss = field(default=CROSS_ENTROPY, compare=False)
    random: bool = field(default=False, compare=False)
    attack: Attack | None = field(default=None, compare=False)
    objective: Objective | None = field(default=None, compare=False)
    fraction: float | None = field(default=None, compare=False)
    color: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        known = isinstance(self.spaces, tuple) and all(isinstance(kind, type) for kind in self.spaces)
        if not known or not all(issubclass(kind, Space) for kind in self.spaces):
            raise UserError(f"the spaces of training {self.name} must be a tuple of classes, as (ImageBall,)")
        if not callable(self.loss) or (self.attack is not None and not hasattr(self.attack, "find")):
            raise UserError(f"training {self.name} needs a loss that can be called, and an attack with `find`")
        if self.attack is not None and (self.random or self.objective):
            raise UserError(f"training {self.name} has an attack of its own: leave `random` and `objective` out")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise UserError(f"the fraction of training {self.name} must lie between 0 and 1, not {self.fraction}")
        if self.color and not re.fullmatch("#[0-9a-f]{6}", self.color):
            raise UserError(f"the color of training {self.name} must be of the form #rrggbb, not {self.color!r}")

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """As a person would write it."""
        label = self.name.replace("_", " ").replace("trades", "TRADES")
        return label[:1].upper() + label[1:]

    @property
    def needs(self) -> set[Need]:
        """What a run must have for it."""
        return {space.needs for space in self.spaces if space.needs}

    def perturbations(
        self, spaces: Sequence[Space] = (), attack: Attack | None = None, variant: str = "half"
    ) -> tuple[Perturbation, ...]:
        """Its perturbed shares; UserError for an unknown variant, or if a space is missing.

        spaces : at least those that the training perturbs in, in any order; a missing `ImageBall` is the paper's.
        attack : the inner maximisation, the paper's if not given; one of projected gradients stops early if the
            variant is weak.
        variant : see `Variant`.

        Examples
        --------
        >>> NORMAL.perturbations(), ADVERSARIAL.perturbations()[0].space
        ((), ImageBall(epsilon=0.3, norm=<Norm.LINF: 'linf'>))
        """
        variant = check_choice("variant", variant, Variant)
        attack = attack or TRAINING_ATTACK
        if isinstance(attack, PGD):
            objective = self.objective or attack.objective
            attack = replace(attack, stop_early=variant is Variant.WEAK, objective=objective)
            if self.random:
                attack = replace(attack, steps=0, start=Start.RANDOM, restarts=1)
        found = [self._space(kind, spaces) for kind in self.spaces]
        whole = (1.0 if variant is Variant.FULL else 0.5) if self.fraction is None else self.fraction
        return tuple(
            Perturbation(space, self.attack or in_units_of(space, attack), whole / len(found)) for space in found
        )

    def _space(self, kind: type[Space], spaces: Sequence[Space]) -> Space:
        for space in spaces:
            if isinstance(space, kind):
                return space
        if kind is ImageBall:
            return ImageBall()
        raise UserError(f"training {self} needs to know its space: give space={kind.__name__}(...)")


NORMAL = Training("normal", color="#3b6fb6")
ADVERSARIAL = Training("adversarial", (ImageBall,), color="#c8452f")
# Those of the paper's main figures.
MAIN = (
    NORMAL,
    ADVERSARIAL,
    Training("on_true_manifold_adversarial", (TrueManifold,), color="#2e8b57"),
    Training("on_learned_manifold_adversarial", (LearnedManifold,), color="#8fbf3f"),
    Training("adversarial_transformations", (Transformations,), color="#8a5fbf"),
    Training("random_transformations", (Transformations,), random=True, color="#7a7a7a"),
)
PAPER = (*MAIN, Training("regular_and_on_true_manifold_adversarial", (ImageBall, TrueManifold), color="#d9a021"))
BETAS = (1, 3, 6)  # of TRADES, from accuracy to robustness


def trades(space: type[Space], beta: float) -> Training:
    """TRADES (Zhang et al., 2019) in a space: all images are perturbed, to where the model's predictions differ most.

    Examples
    --------
    >>> trades(ImageBall, 6).name, trades(TrueManifold, 0.5).name
    ('trades_6', 'on_true_manifold_trades_0.5')
    """
    where = "" if space is ImageBall else f"{space.name}_"
    name = f"{where}trades_{beta:g}"
    return Training(name, (space,), Trades(beta), objective=Objective.DIVERGENCE, fraction=1.0)


TRAININGS = (*PAPER, *(trades(space, beta) for space in SPACES for beta in BETAS))


def training_of(name: str | Training, known: Iterable[Training] = TRAININGS) -> Training:
    """A training by its name, UserError for one that is unknown; one that is already one stays."""
    if isinstance(name, Training):
        return name
    known = tuple(known)
    for training in known:
        if training.name == name:
            return training
    raise UserError(f"unknown training {name!r}: use one of {', '.join(map(str, known))}")
