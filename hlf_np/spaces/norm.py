"""The norms of perturbations, and the balls that they define."""

from enum import StrEnum

import numpy as np

from hlf_np.support.arrays import Floats, flat_rows, per_row

MIN_NORM = float(np.finfo(np.float32).tiny)  # smallest divisor, so that zero perturbations stay zero


class Norm(StrEnum):
    """The norm of a perturbation, taken over all entries of one image's code.

    Examples
    --------
    >>> import numpy as np
    >>> perturbation = np.array([[3.0, -4.0]])
    >>> Norm.LINF.of(perturbation).item(), Norm.L2.of(perturbation).item()
    (4.0, 5.0)
    >>> Norm.LINF.clip(perturbation, 1).tolist(), Norm.L2.clip(perturbation, 1).round(3).tolist()
    ([[1.0, -1.0]], [[0.6, -0.8]])
    """

    LINF = "linf"
    L2 = "l2"

    def of(self, perturbations: Floats) -> Floats:
        """Return the norm of each perturbation: (N, ...) to (N,)."""
        flat = flat_rows(perturbations)
        if self is Norm.LINF:
            return np.asarray(np.abs(flat).max(axis=1))
        squares = np.square(flat, dtype=np.float64).sum(axis=1)  # float32 sums lose the last digits
        return np.asarray(np.sqrt(squares), flat.dtype)

    def clip(self, perturbations: Floats, epsilon: float) -> Floats:
        """Project perturbations (N, ...) onto the ball of radius epsilon."""
        if self is Norm.LINF:
            return np.clip(perturbations, -epsilon, epsilon)
        norms = per_row(self.of(perturbations), perturbations)
        return perturbations * (epsilon / np.maximum(norms, max(epsilon, MIN_NORM)))

    def steepest(self, gradients: Floats) -> Floats:
        """Return the direction of steepest ascent of norm 1 for each gradient; in L_inf this is the sign."""
        if self is Norm.LINF:
            return np.sign(gradients)
        return gradients / np.maximum(per_row(self.of(gradients), gradients), MIN_NORM)


# The paper's epsilons for each norm: in image space, and on manifolds.
PAPER_EPSILONS = {Norm.LINF: (0.3, 0.3), Norm.L2: (1.5, 0.3)}
