"""The paper's numbers, to see a run's beside them.

`published.csv` holds what the figures of D. Stutz, M. Hein, B. Schiele, *Disentangling Adversarial Robustness and
Generalization*, CVPR 2019, arXiv 1812.00740, show: test errors and success rates by dataset, architecture, training
and N, each the mean of five models. They were read off the source of the curves on the authors' poster, to four or
five digits. An empty field is a number that was not published.

They are comparable in shape and order, not to the digit; `differences` says why.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import resources

from hlf_np.architectures import DEFAULTS
from hlf_np.data.fonts import Difficulty
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.trainings import training_of

# Of regular adversarial examples in the poster's histograms: the mean, and the quantiles 0.05 and 0.95. On FONTS to the
# true manifold, on EMNIST to the subspace of 50 neighbours.
DISTANCES = {"fonts": (1.07, 0.35, 1.86), "emnist_digits": (1.12, 1.04, 1.18)}
MEASURED = ("test_error", "regular_success", "on_true_manifold_success", "on_learned_manifold_success")
SETTINGS = ("architecture", "norm", "epsilon", "latent_epsilon", "variant")  # as in the paper's main results


def published(config: RunConfig) -> list[CellResult]:
    """What the paper has for a run's dataset and architecture, if it trains and attacks as the paper does.

    Each result is a mean of five models, under seed 0; measurements that were not published are NaN.
    """
    paper = RunConfig(architecture=DEFAULTS[config.architecture.kind])
    same = all(getattr(config, name) == getattr(paper, name) for name in SETTINGS)
    if not same or (config.true_manifold and config.difficulty is not Difficulty.HARD):
        return []
    text = resources.files("hlf_np.report").joinpath("published.csv").read_text(encoding="utf-8")
    return [
        CellResult(
            Cell(training_of(row["training"]), int(row["n_train"]), seed=0),
            {column: float(row[column] or "nan") for column in MEASURED},
            examples={},
            distances={},
        )
        for row in csv.DictReader(text.splitlines())
        if (row["dataset"], row["architecture"]) == (published_name(config), config.architecture.kind)
    ]


def published_name(config: RunConfig) -> str:
    """A run's dataset, by the name that it has among the published numbers."""
    return config.dataset.replace("-", "_")


def beside(published: Sequence[CellResult], results: Iterable[CellResult]) -> list[CellResult]:
    """The published results of a run's trainings, between its smallest and its largest N."""
    cells = [result.cell for result in results]
    low, high = min(cell.n_train for cell in cells), max(cell.n_train for cell in cells)
    trainings = {cell.training for cell in cells}
    return [r for r in published if low <= r.cell.n_train <= high and r.cell.training in trainings]


def differences(config: RunConfig) -> str:
    """Why a run's numbers are not the paper's."""
    fonts = " its letters came from other font files," if config.prototypes else ""
    return (
        f"Expect the paper's shapes and orders, not its digits:{fonts} its manifold was learned by VAE-GANs instead of"
        " VAEs, and its random transformations were drawn around 0, here around the identity."
    )
