"""Projected gradient ascent: adversarial examples in any perturbation space.

An adversarial example of (x, y) is the decoded image of a code within the space where the model predicts
another label than y. It is sought by ascending an objective, as the cross-entropy L(f(decode(code)), y),
from a random start, and projecting back into the space after each step. The paper steps with Adam;
`rule="sign"` steps along the steepest direction of the norm, as Madry et al. (2018).
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, batches, flat_rows
from hlf_np.attacks.attack import AttackResult, checked_chart
from hlf_np.attacks.objectives import Objective, Targets
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice, check_count, check_positive
from hlf_np.data.dataset import Codes, Split
from hlf_np.engine import Engine
from hlf_np.kernels import attack as kernels
from hlf_np.models import Model
from hlf_np.programs.evaluation import Tasks, ascend
from hlf_np.random import generator
from hlf_np.spaces import Chart, Norm, Space
from hlf_np.spaces.space import Compiled

IMAGES_PER_BATCH = 200  # attacked together; the result does not depend on it
COMPILED = (Objective.CROSS_ENTROPY, Objective.DIVERGENCE)


class Rule(StrEnum):
    """How a gradient becomes a step."""

    ADAM = "adam"
    SIGN = "sign"


class Start(StrEnum):
    """Where the ascent begins."""

    RANDOM = "random"
    IMAGE = "image"


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent, an `Attack`; the defaults are the paper's.

    steps : gradient steps per restart.
    step_size : of one step, in the units of the code; Adam moves about this far in every entry.
    rule : "adam" or "sign".
    start : "random", a random perturbation, or "image", none.
    restarts : independent attempts; without a random start all are the same.
    stop_early : leave an image alone at its first label change (evaluation), or take all steps and keep
        the code of highest loss (training).
    objective : what is maximised, "cross-entropy", "margin", "dlr" or "kl"; see `objectives`.
    engine : "program" (fast) or "autodiff" (readable); they agree to rounding. The program knows the layers and
        spaces of this package, cross-entropy and kl only; the rest is always done by autodiff.
    """

    name: ClassVar[str] = "pgd"

    steps: int = 40
    step_size: float = 0.005
    rule: Rule = Rule.ADAM
    start: Start = Start.RANDOM
    restarts: int = 1
    stop_early: bool = True
    objective: Objective = Objective.CROSS_ENTROPY
    engine: Engine = Engine.PROGRAM

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=0)
        check_count("restarts", self.restarts)
        check_positive("step_size", self.step_size)
        for name, kind in (("rule", Rule), ("start", Start), ("objective", Objective), ("engine", Engine)):
            object.__setattr__(self, name, check_choice(name, getattr(self, name), kind))

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """See `Attack.find` and `pgd`."""
        split = split.checked(model.classes, model.image_shape)
        images, labels = split.images, split.labels
        model.check_shapes()
        chart = checked_chart(space, images, labels, split.codes)
        best = _Kept(chart.start, prefer_success=self.stop_early)
        restart_success = np.zeros((self.restarts, len(labels)), bool)
        targets = self.objective.targets(model, images, labels)
        wanted = self.engine is Engine.PROGRAM and self.objective in COMPILED and len(labels) > 0
        compiled = chart.compiled(model) if wanted and _known(space, chart) else None
        for restart in range(self.restarts):
            codes = chart.start
            if self.start is Start.RANDOM:
                random = generator(seed, "attack", restart)
                codes = space.project(chart, codes + space.random_perturbations(random, codes.shape))
            if compiled:
                kept = _compiled_ascent(compiled, chart, labels, targets, space, self, codes)
            else:
                kept = _ascent(model, chart, labels, targets, space, self, codes)
            best.offer(np.arange(len(labels)), kept.codes, kept.success, kept.iterations, kept.loss)
            restart_success[restart] = kept.success
        if compiled and chart.codes_are_images and np.isfinite(best.loss).all():
            # the program has judged these very images; `Model.logits` would find the same bits
            perturbations = best.codes - chart.start
            return AttackResult(best.codes, perturbations, best.success, best.iterations, best.loss, restart_success)
        final = np.clip(chart.decoded(best.codes), 0, 1)
        logits = model.logits(final)
        success = logits.argmax(axis=1) != labels
        losses = self.objective.of(Tensor(logits), targets).data
        return AttackResult(final, best.codes - chart.start, success, best.iterations, losses, restart_success)


def _known(space: Space, chart: Chart) -> bool:
    """Whether compiled code projects and decodes as these do: classes that inherit from them may do it otherwise."""
    decoding = next(cls for cls in type(chart).__mro__ if "decode" in vars(cls))
    compiling = next(cls for cls in type(chart).__mro__ if "compiled" in vars(cls))
    return type(space).project is Space.project and decoding is compiling


class _Kept:
    """The best code so far of each image."""

    def __init__(self, codes: Floats, prefer_success: bool) -> None:
        n = len(codes)
        self.prefer_success = prefer_success
        self.codes = codes.copy()
        self.success = np.zeros(n, bool)
        self.iterations = np.zeros(n, np.int64)
        self.loss = np.full(n, -np.inf, np.float32)

    def offer(self, rows: Integers, codes: Floats, success: Booleans, iterations: Integers, loss: Floats) -> None:
        """Keep what is better for the images `rows`: codes of higher loss, or the first success if that counts."""
        better = loss > self.loss[rows]
        if self.prefer_success:
            better = ~self.success[rows] & (success | better)
        chosen = rows[better]
        self.codes[chosen], self.success[chosen] = codes[better], success[better]
        self.iterations[chosen], self.loss[chosen] = iterations[better], loss[better]


class _Steps:
    """The steps of one rule, with Adam's running moments for each entry of the codes."""

    def __init__(self, attack: PGD, space: Space, codes: Floats) -> None:
        self.attack, self.space, self.count = attack, space, 0
        self.first, self.second = np.zeros_like(codes), np.zeros_like(codes)

    def take(self, rows: Integers) -> None:
        """Go on with some of the images."""
        self.first, self.second = self.first[rows], self.second[rows]

    def next(self, gradients: Floats) -> Floats:
        """What to add to the codes. Adam is as in `optim`, uphill, with the usual betas 0.9 and 0.999."""
        if self.attack.rule is Rule.SIGN:
            return self.attack.step_size * self.space.norm.steepest(gradients)
        self.count += 1
        self.first += (1 - 0.9) * (gradients - self.first)
        self.second += (1 - 0.999) * (np.square(gradients) - self.second)
        scale = self.attack.step_size / (1 - 0.9**self.count)
        correction = 1 / math.sqrt(1 - 0.999**self.count)
        return scale * self.first / (np.sqrt(self.second) * correction + 1e-8)


def _ascent(
    model: Model, chart: Chart, labels: Integers, targets: Targets, space: Space, attack: PGD, start: Floats
) -> _Kept:
    """One restart for all images, from given codes (N, ...)."""
    kept = _Kept(start, prefer_success=attack.stop_early)
    for rows in batches(len(labels), IMAGES_PER_BATCH):  # the images still under attack
        codes, part = start[rows], chart.take(rows)
        steps = _Steps(attack, space, codes)
        for iteration in range(attack.steps + 1):
            variable = Tensor(codes, requires_grad=True)
            logits = model.forward(part.decode(variable))
            losses, changed = attack.objective.of(logits, targets[rows]), logits.data.argmax(axis=1) != labels[rows]
            kept.offer(rows, codes, changed, np.full(len(rows), iteration), losses.data)
            if iteration == attack.steps or (attack.stop_early and changed.all()):
                break
            losses.backward()
            assert variable.gradient is not None
            gradients = variable.gradient
            if attack.stop_early and changed.any():
                going = np.flatnonzero(~changed)
                rows, codes, gradients, part = rows[going], codes[going], gradients[going], part.take(going)
                steps.take(going)
            codes = space.project(part, codes + steps.next(gradients))
    return kept


def _compiled_ascent(
    compiled: Compiled, chart: Chart, labels: Integers, targets: Targets, space: Space, attack: PGD, codes: Floats
) -> _Kept:
    """The same in the compiled program, all images in one call."""
    kept = _Kept(codes, prefer_success=attack.stop_early)
    shape = codes.shape[1:]
    settings = (
        attack.steps,
        np.float32(attack.step_size),
        kernels.ADAM if attack.rule is Rule.ADAM else kernels.STEEPEST,
        kernels.LINF if space.norm is Norm.LINF else kernels.L2,
        np.float32(space.radius),
        attack.stop_early,
    )
    lower, upper = (np.array(np.broadcast_to(bound, shape), np.float32).ravel() for bound in (chart.lower, chart.upper))
    soft = np.asarray(targets if targets.ndim > 1 else np.empty((len(labels), 0)), np.float32)
    tasks = Tasks(flat_rows(chart.start), flat_rows(codes), soft, labels, compiled.groups, compiled.sources)
    ascend(
        compiled.program, settings, (lower, upper), tasks,
        (flat_rows(kept.codes), kept.success, kept.iterations, kept.loss),
    )  # fmt: skip
    return kept


def pgd(
    model: Model,
    images: Floats,
    labels: Integers,
    space: Space,
    codes: Codes | None = None,
    steps: int = 40,
    step_size: float = 0.005,
    rule: str = "adam",
    start: str = "random",
    restarts: int = 1,
    stop_early: bool = True,
    seed: int = 0,
    engine: str = "program",
    objective: str = "cross-entropy",
) -> AttackResult:
    """Adversarial examples by projected gradient ascent.

    Parameters
    ----------
    model : the classifier, attacked in evaluation mode.
    images, labels : (N, H, W, C) floating-point in [0, 1] and (N,) whole numbers. An image that is misclassified
        from the start succeeds at once.
    space : the allowed perturbations.
    codes : places of the images on the true manifold, for spaces that need them.
    steps, step_size, rule, start, restarts, stop_early, objective, engine : see `PGD`.
    seed : of the random starts.

    Raises
    ------
    UserError : for bad images, labels or settings.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> space = hlf.spaces.ImageBall(epsilon=0.3)
    >>> result = pgd(model, test.images, test.labels, space, steps=5, restarts=2)
    >>> result.restart_success.shape, bool(abs(result.perturbations).max() <= 0.3)
    ((2, 20), True)
    """
    attack = PGD(steps, step_size, rule, start, restarts, stop_early, objective, engine)  # type: ignore[arg-type]
    return attack.find(model, Split(images, labels, codes), space, seed)


def fgsm(model: Model, images: Floats, labels: Integers, space: Space, codes: Codes | None = None) -> AttackResult:
    """The fast gradient sign method (Goodfellow et al., 2015): one step of size epsilon from the image.

    It is projected gradient ascent with a single step, so an image that is misclassified without it, or
    whose loss the step would lower, stays as it is. Parameters, result and errors as for `pgd`.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = fgsm(model, test.images, test.labels, hlf.spaces.ImageBall(0.1))
    >>> bool((abs(result.perturbations) <= 0.1).all())
    True
    """
    return FGSM().find(model, Split(images, labels, codes), space)


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method as an `Attack`; nothing is random."""

    name: ClassVar[str] = "fgsm"
    random: ClassVar[bool] = False

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        return PGD(1, space.epsilon, Rule.SIGN, Start.IMAGE).find(model, split, space)
