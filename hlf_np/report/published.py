"""The results published in the paper, for comparison with those of a run.

`published.csv` contains the values plotted in the figures of D. Stutz, M. Hein, B. Schiele, *Disentangling Adversarial
Robustness and Generalization*, CVPR 2019, arXiv 1812.00740: test errors and success rates by dataset, architecture,
training and N, each the mean over five models. They were extracted from the source of the curves on the authors'
poster and have four or five significant digits. Empty fields are values that were not published.

The shapes and the ordering of the curves are comparable with those of a run, the exact values are not: see
`differences`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import resources

from hlf_np.data.fonts import Difficulty
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.models.architectures import DEFAULTS
from hlf_np.trainings import training_of

# L2 distances of regular adversarial examples in the poster's histograms: mean, 5th and 95th percentile. They are
# measured to the true manifold on FONTS, and to the subspace of 50 nearest neighbours on EMNIST.
PUBLISHED_DISTANCES = {"fonts": (1.07, 0.35, 1.86), "emnist_digits": (1.12, 1.04, 1.18)}
PUBLISHED_COLUMNS = ("test_error", "regular_success", "on_true_manifold_success", "on_learned_manifold_success")
# Settings in which a run must agree with the paper's main experiments.
REQUIRED_SETTINGS = ("architecture", "norm", "epsilon", "latent_epsilon", "variant")


def published(config: RunConfig) -> list[CellResult]:
    """Return the published results for the dataset and the architecture of a run.

    Parameters
    ----------
    config : RunConfig
        Configuration of the run.

    Returns
    -------
    list of CellResult
        Means over five models, stored under seed 0; values that were not published are NaN. Empty if nothing was
        published for this dataset and architecture, or if the run differs from the paper in `REQUIRED_SETTINGS`.
    """
    paper = RunConfig(architecture=DEFAULTS[config.architecture.kind])
    same = all(getattr(config, name) == getattr(paper, name) for name in REQUIRED_SETTINGS)
    if not same or (config.true_manifold and config.difficulty is not Difficulty.HARD):
        return []
    text = resources.files("hlf_np.report").joinpath("published.csv").read_text(encoding="utf-8")
    return [
        CellResult(
            Cell(training_of(row["training"]), int(row["n_train"]), seed=0),
            {column: float(row[column] or "nan") for column in PUBLISHED_COLUMNS},
            examples={},
            distances={},
        )
        for row in csv.DictReader(text.splitlines())
        if (row["dataset"], row["architecture"]) == (published_name(config), config.architecture.kind)
    ]


def published_name(config: RunConfig) -> str:
    """Return the name of a run's dataset in `published.csv`."""
    return config.dataset.replace("-", "_")


def matching_cells(published: Sequence[CellResult], results: Iterable[CellResult]) -> list[CellResult]:
    """Select the published results that are comparable with those of a run.

    Parameters
    ----------
    published : sequence of CellResult
        Published results, see `published`.
    results : iterable of CellResult
        Results of the run; at least one.

    Returns
    -------
    list of CellResult
        The published results for the trainings of the run, between its smallest and its largest N.
    """
    cells = [result.cell for result in results]
    low, high = min(cell.n_train for cell in cells), max(cell.n_train for cell in cells)
    trainings = {cell.training for cell in cells}
    return [r for r in published if low <= r.cell.n_train <= high and r.cell.training in trainings]


def differences(config: RunConfig) -> str:
    """Return a sentence on why the values of a run differ from the published ones."""
    fonts = " its letters came from other font files," if config.prototypes else ""
    return (
        f"Expect the shapes and the ordering of the paper's curves, not the same values:{fonts} its manifold was"
        " learned by VAE-GANs rather than VAEs, and its random transformations were drawn around 0 rather than around"
        " the identity."
    )
