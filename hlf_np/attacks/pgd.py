"""Projected gradient ascent (PGD): adversarial examples in any perturbation space.

An adversarial example for (x, y) is an image decode(code), with a code inside the space, for which the model f predicts
another label than y. PGD starts at a random code, ascends an objective such as the cross-entropy L(f(decode(code)), y)
by its gradient with respect to the code, and projects the code back into the space after each step:

    code = project(code + step(d L(f(decode(code)), y) / d code))

The paper takes Adam steps; `rule="sign"` steps in the direction of steepest ascent, as in Madry et al. (2018).

`_ascent` is the algorithm with autodiff, to read; `_compiled_ascent` runs the same in a compiled program, much faster.
`PGD.find` prepares both: chart, random starts, restarts. `hlf_np.spaces` follows one image through an attack.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np

from hlf_np.attacks.attack import AttackResult, checked_chart, input_gradient
from hlf_np.attacks.objectives import Objective, Targets
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split, check_split
from hlf_np.engine import Engine
from hlf_np.kernels.interpreter import attack as kernels
from hlf_np.models import Model
from hlf_np.programs.evaluation import ascend
from hlf_np.random import generator
from hlf_np.spaces import Chart, Norm, Space
from hlf_np.spaces.chart import Compiled
from hlf_np.spaces.space import can_compile, check_space, projected, random_start
from hlf_np.support.arrays import IMAGES_PER_BATCH, Booleans, Floats, Integers, batches, flat_rows
from hlf_np.support.checks import check_choice, check_fields, check_positive, store_counts
from hlf_np.support.errors import UserError

COMPILED_OBJECTIVES = (Objective.CROSS_ENTROPY, Objective.DIVERGENCE)


class Rule(StrEnum):
    """The rule that turns gradients into steps: Adam, or steepest ascent (the sign of the gradient in L_inf)."""

    ADAM = "adam"
    SIGN = "sign"


class Start(StrEnum):
    """Where the ascent starts: at a random perturbation of the image, or at the image."""

    RANDOM = "random"
    IMAGE = "image"


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent, an `Attack`. The defaults are the paper's.

    Parameters
    ----------
    steps : int
        Number of gradient steps per restart.
    step_size : float
        Size of one step, in units of the code. An Adam step changes every entry by about this much.
    rule : {"adam", "sign"}
        The step rule, see `Rule`.
    start : {"random", "image"}
        Where the ascent starts, see `Start`.
    restarts : int
        Number of independent attempts. Without a random start all are the same.
    stop_early : bool
        If true, stop at an image's first label change (for evaluation); otherwise take all steps and keep the code of
        highest loss (for training).
    objective : {"cross-entropy", "margin", "dlr", "kl"}
        The function to maximise, see `objectives`.
    engine : {"program", "autodiff"}
        The fast or the readable implementation; they agree up to rounding. "program" supports the layers and spaces of
        this package, and the objectives cross-entropy and kl; everything else is computed by autodiff.

    Raises
    ------
    UserError
        If a setting is out of range or unknown.
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
        check_fields(self)
        store_counts(self, steps=0, restarts=1)
        check_positive("step_size", self.step_size)
        for name, kind in (("rule", Rule), ("start", Start), ("objective", Objective), ("engine", Engine)):
            object.__setattr__(self, name, check_choice(name, getattr(self, name), kind))
        if self.objective is Objective.DIVERGENCE and self.start is Start.IMAGE:
            raise UserError("the objective kl has no gradient at the image itself: use start='random'")

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find` and `pgd`."""
        split = check_split(split, model.classes, model.image_shape)
        images, labels = split.images, split.labels
        model.check_shapes()
        chart = checked_chart(space, images, labels, split.codes)
        best = None  # over all restarts
        restart_success = np.zeros((self.restarts, len(labels)), bool)
        targets = self.objective.targets(model, images, labels)
        try_program = self.engine is Engine.PROGRAM and self.objective in COMPILED_OBJECTIVES and len(labels) > 0
        compiled = chart.compiled(model) if try_program and can_compile(space, chart) else None
        for restart in range(self.restarts):
            codes = chart.start
            if self.start is Start.RANDOM:
                random = generator(seed, "attack", restart)
                codes = random_start(space, chart, random)
            if compiled:
                result = _compiled_ascent(compiled, chart, labels, targets, space, self, codes)
            else:
                result = _ascent(model, chart, labels, targets, space, self, codes)
            restart_success[restart] = result.success
            if best is None:
                best = result
            else:
                best.update(np.arange(len(labels)), result.codes, result.success, result.iterations, result.loss)
        assert best is not None  # there is at least one restart
        if compiled and chart.codes_are_images and np.isfinite(best.loss).all():
            # the program has evaluated these very images; `Model.logits` would return the same bits
            perturbations = best.codes - chart.start
            return AttackResult(best.codes, perturbations, best.success, best.iterations, best.loss, restart_success)
        final = chart.decoded(best.codes)
        logits, predictions = model.logits_and_predictions(final)
        success = predictions != labels
        losses = self.objective.of(Tensor(logits), targets).data
        return AttackResult(final, best.codes - chart.start, success, best.iterations, losses, restart_success)


class BestCodes:
    """The best code found so far for each image, with its success, iteration and loss.

    A code of higher loss is better; with `prefer_success`, the first successful code is the best. The codes of the
    images themselves remain if no loss is a number.
    """

    def __init__(self, codes: Floats, prefer_success: bool) -> None:
        n = len(codes)
        self.prefer_success = prefer_success
        self.codes = codes.copy()
        self.success = np.zeros(n, bool)
        self.iterations = np.zeros(n, np.int64)
        self.loss = np.full(n, -np.inf, np.float32)

    def update(self, rows: Integers, codes: Floats, success: Booleans, iterations: Integers, loss: Floats) -> Integers:
        """Keep those of the given codes of the images `rows` that are better, and return their images."""
        better = loss > self.loss[rows]
        if self.prefer_success:
            better = ~self.success[rows] & (success | better)
        improved = rows[better]
        self.codes[improved], self.success[improved] = codes[better], success[better]
        self.iterations[improved], self.loss[improved] = iterations[better], loss[better]
        return improved


class _StepRule:
    """The step rule of an attack, with Adam's running moments of each entry of the codes."""

    def __init__(self, attack: PGD, space: Space, codes: Floats) -> None:
        self.attack, self.space, self.count = attack, space, 0
        self.first, self.second = np.zeros_like(codes), np.zeros_like(codes)

    def select(self, rows: Integers) -> None:
        """Continue with some of the images only."""
        self.first, self.second = self.first[rows], self.second[rows]

    def step(self, gradients: Floats) -> Floats:
        """Return what to add to the codes. Adam is that of `optim`, but ascending, with betas (0.9, 0.999)."""
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
) -> BestCodes:
    """Run one restart for all images, from the codes `start` (N, ...)."""
    best = BestCodes(chart.start, prefer_success=attack.stop_early)
    for rows in batches(len(labels), IMAGES_PER_BATCH):  # the images still under attack
        codes, part = start[rows], chart.take(rows)
        rule = _StepRule(attack, space, codes)
        for iteration in range(attack.steps + 1):
            variable = Tensor(codes, requires_grad=True)  # (n, ...)
            images = part.image_of(variable)
            logits = model.forward(images)  # (n, classes)
            losses = attack.objective.of(logits, targets[rows])
            success = model.predictions_of(images.data, logits.data) != labels[rows]
            best.update(rows, codes, success, np.full(len(rows), iteration), losses.data)
            if iteration == attack.steps or (attack.stop_early and success.all()):
                break
            gradients = input_gradient(losses, variable)  # of the sum: a loss depends on its own image's code only
            if attack.stop_early and success.any():
                remaining = np.flatnonzero(~success)
                rows, codes, gradients = rows[remaining], codes[remaining], gradients[remaining]
                part = part.take(remaining)
                rule.select(remaining)
            codes = projected(space, part, codes + rule.step(gradients))
    return best


def _compiled_ascent(
    compiled: Compiled, chart: Chart, labels: Integers, targets: Targets, space: Space, attack: PGD, codes: Floats
) -> BestCodes:
    """Run the algorithm of `_ascent` in the compiled program, with all images in one call."""
    best = BestCodes(chart.start, prefer_success=attack.stop_early)
    shape = codes.shape[1:]
    settings = kernels.AscentSettings(
        attack.steps,
        np.float32(attack.step_size),
        kernels.ADAM if attack.rule is Rule.ADAM else kernels.STEEPEST,
        kernels.LINF if space.norm is Norm.LINF else kernels.L2,
        np.float32(space.radius),
        attack.stop_early,
    )
    lower, upper = (np.array(np.broadcast_to(bound, shape), np.float32).ravel() for bound in (chart.lower, chart.upper))
    log_probabilities = np.asarray(targets if targets.ndim > 1 else np.empty((len(labels), 0)), np.float32)
    origins, starts = flat_rows(chart.start), flat_rows(codes)
    tasks = kernels.AttackTasks(origins, starts, log_probabilities, labels, compiled.groups, compiled.sources)
    ascend(
        compiled.program, settings, kernels.Box(lower, upper), tasks,
        kernels.BestCodes(flat_rows(best.codes), best.success, best.iterations, best.loss),
    )  # fmt: skip
    return best


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
    """Search for adversarial examples by projected gradient ascent.

    Parameters
    ----------
    model : Model
        The classifier, attacked in evaluation mode.
    images : ndarray of floats, shape (N, H, W, C)
        Images in [0, 1].
    labels : ndarray of integers, shape (N,)
        Their classes. An image that is misclassified without a perturbation counts as a success.
    space : Space
        The allowed perturbations.
    codes : Codes, optional
        Codes of the images on the true manifold, for spaces that need them.
    steps, step_size, rule, start, restarts, stop_early, engine, objective
        See `PGD`.
    seed : int
        Seed of the random starts.

    Returns
    -------
    AttackResult
        The adversarial examples and which of them succeed.

    Raises
    ------
    UserError
        If images, labels or settings are invalid.

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


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method (Goodfellow et al., 2015), an `Attack`: one step of size epsilon from the image.

    This is projected gradient ascent with a single step and without randomness. An image that is misclassified without
    the step, or whose loss the step would lower, is left unchanged.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = FGSM().find(model, test, hlf.spaces.ImageBall(0.1))
    >>> bool((abs(result.perturbations) <= 0.1).all())
    True
    """

    name: ClassVar[str] = "fgsm"
    random: ClassVar[bool] = False

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`."""
        return PGD(1, check_space(space).epsilon, Rule.SIGN, Start.IMAGE).find(model, split, space)
