"""Does a model resist attacks, or does it only hide its gradients?

Attacks of this package follow gradients. A model whose gradients vanish, or point nowhere, stops them without being
robust: its gradients are *masked*. Layers that round do this, and logits so large that the softmax saturates. There
are signs of it (Athalye et al., 2018; Croce and Hein, 2020), which `look_for` measures:

- the loss has no gradient at many images;
- attacks that do not use the model's gradients find more than those that do;
- a larger ball does not make attacks more successful. In one of size 1 lies every image there is, so that close to all
  attacks must succeed.

None of them proves that gradients are masked, and a model without them may still mask its gradients. Whoever gets a
warning should not trust the success rates before it is explained.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hlf_np.arrays import Booleans, batches
from hlf_np.attacks.ascent import IMAGES_PER_BATCH, PGD, Rule
from hlf_np.attacks.black_box import random_search, transfer
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.spaces import ImageBall

NEGLIGIBLE = 1e-8  # Adam's epsilon: along smaller gradients its steps shrink to nothing
SOME = 0.1  # share of images without a gradient that is worth a warning
LUCK = 0.02  # difference of two rates that is not
NEARLY_ALL = 0.95  # rate that attacks should reach where every image is allowed
LARGEST = 1.0  # L_inf distance of any two images


@dataclass(frozen=True)
class Signs:
    """What `look_for` measured; rates are fractions of `count` images.

    vanished : images where no entry of the loss gradient is above `NEGLIGIBLE`.
    white_box : images that `thorough` gradient attacks fool, in any restart.
    searched : that random search fools.
    transferred : that adversarial examples of another model fool; NaN without one.
    growth : (epsilon, rate) of gradient attacks in larger and larger balls.
    """

    count: int
    vanished: float
    white_box: float
    searched: float
    transferred: float
    growth: tuple[tuple[float, float], ...]

    def warnings(self) -> list[str]:
        """A sentence for each sign of masked gradients; none for an ordinary model."""
        luck, found = max(LUCK, 2 / max(1, self.count)), []  # of a few images, two may be luck
        if self.vanished > SOME:
            found.append(f"the loss has no gradient at {self.vanished:.1%} of the images")
        for name, rate in (("random search", self.searched), ("another model's examples", self.transferred)):
            if rate > self.white_box + luck:
                found.append(f"success is {rate:.1%} for {name} and only {self.white_box:.1%} along gradients")
        for (smaller, before), (larger, after) in pairwise(self.growth):
            if after < before - luck:
                found.append(f"success falls from {before:.1%} at epsilon {smaller:.2g} to {after:.1%} at {larger:.2g}")
        epsilon, rate = self.growth[-1]
        if epsilon >= LARGEST and rate < NEARLY_ALL - luck:
            found.append(f"success is only {rate:.1%} at epsilon {epsilon:.2g}, where every image is allowed")
        return found


def look_for(model: Model, split: Split, epsilon: float = 0.3, source: Model | None = None, seed: int = 0) -> Signs:
    """Measure signs of masked gradients.

    Parameters
    ----------
    model : attacked in evaluation mode.
    split : images that it classifies correctly; 200 are enough.
    epsilon : size of the regular perturbations, L_inf.
    source : another model, trained on the same task, whose adversarial examples are tried too.
    seed : of every random choice.

    Raises
    ------
    UserError : for bad images, labels or settings, or no images.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> data, model = hlf.data.load_fonts(200, 30, difficulty="easy"), hlf.models.cnn()
    >>> log = hlf.training.train(model, data.train, epochs=3)
    >>> right = data.test.take(model.predict(data.test.images) == data.test.labels)
    >>> look_for(model, right).warnings()
    []
    """
    if not len(split):
        raise UserError("there are no images to look for masked gradients on: give some that are classified correctly")
    split = split.checked(model.classes, model.image_shape)
    space, transferred = ImageBall(epsilon), math.nan
    if source is not None:
        _, shown = transfer(source, model, split, space, thorough(epsilon), seed)
        transferred = float(shown.success.sum() / len(split))
    epsilons = np.linspace(epsilon, LARGEST, 4).tolist() if epsilon < LARGEST else [epsilon]
    growth = [(each, _rate(thorough(each).find(model, split, ImageBall(each), seed).success)) for each in epsilons]
    return Signs(
        len(split),
        _rate(_without_gradient(model, split)),
        growth[0][1],
        _rate(random_search(model, split.images, split.labels, space, seed=seed).success),
        transferred,
        tuple(growth),
    )


def thorough(epsilon: float) -> PGD:
    """An attack that crosses a ball of this size four times over.

    The paper's attack does not: 40 steps of Adam, 0.005 each, end at most 0.2 from where they start. What it misses at
    epsilon 0.3 must not be blamed on the gradients.
    """
    return PGD(steps=40, step_size=epsilon / 10, rule=Rule.SIGN, restarts=2)


def _rate(which: Booleans) -> float:
    return float(which.mean())


def _without_gradient(model: Model, split: Split) -> Booleans:
    """Where the loss gradient is negligible in every pixel, (N,)."""
    vanished: list[Booleans] = []
    for rows in batches(len(split), IMAGES_PER_BATCH):
        part = split.take(rows)
        images = Tensor(part.images, requires_grad=True)
        cross_entropy(model.forward(images), part.labels).backward()
        assert images.gradient is not None
        vanished.append(np.asarray((np.abs(np.nan_to_num(images.gradient)) <= NEGLIGIBLE).all(axis=(1, 2, 3))))
    return np.concatenate(vanished)
