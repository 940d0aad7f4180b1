"""The results published in the paper, for comparison with those of a run.

`published.csv` contains every curve in the figures of D. Stutz, M. Hein, B. Schiele, *Disentangling Adversarial
Robustness and Generalization*, CVPR 2019, arXiv 1812.00740, on FONTS, EMNIST (digits) and Fashion-MNIST. They were read
from the vector graphics of the paper, and those of its main figures also from the source of the authors' poster. Each
row is a mean over five models (three for combined trainings); empty fields are values that were not published, and an
empty N means that the figure shows success against test error only. `run` tells apart models that were trained anew for
a figure:

main          the main experiments, attacks by transfer and on the class-agnostic manifold
l2            all perturbations in L2, and the attack of Carlini and Wagner
combined      regular training combined with another one
baselines     random perturbations in place of attacks
variant       `full` and `weak` training. The legend of that figure names its two kinds of lines the other way round
              than their values and the text suggest; the names here follow the text.
80 epochs     ResNet-13 on up to 900,000 images

The shapes and the ordering of the curves are comparable with those of a run, the exact values are not: see
`differences`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import resources

import numpy as np

from hlf_np.data.fonts import Difficulty
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.models.architectures import DEFAULTS, Kind
from hlf_np.spaces import PAPER_EPSILONS, Norm
from hlf_np.support.arrays import Floats
from hlf_np.trainings import COMBINED, Training, Variant, training_of

# L2 distances of regular adversarial examples in the poster's histograms: mean, 5th and 95th percentile. They are
# measured to the true manifold on FONTS, and to the subspace of 50 nearest neighbours on EMNIST.
PUBLISHED_DISTANCES = {"fonts": (1.07, 0.35, 1.86), "emnist_digits": (1.12, 1.04, 1.18)}
PAPER_EPOCHS = 20  # but for run "80 epochs"
KEYS = ("dataset", "architecture", "run", "training", "n_train")  # columns that are not measurements


def published(config: RunConfig) -> list[CellResult]:
    """Return the published results for the dataset, the architecture, the perturbations and the trainings of a run.

    Parameters
    ----------
    config : RunConfig
        Configuration of the run.

    Returns
    -------
    list of CellResult
        Means over five models, stored under seed 0; values that were not published are NaN, and an N that was not
        published is 0. Empty if nothing was published for these settings.
    """
    own, papers = config.architecture, DEFAULTS[config.architecture.kind]
    is_papers = all(
        getattr(own, name) == getattr(papers, name)
        for name in ("widths", "blocks", "hidden_units", "classes", "image_shape")
    )
    is_papers = is_papers and (config.epsilon, config.latent_epsilon) == PAPER_EPSILONS[config.norm]
    if not is_papers or (config.true_manifold and config.difficulty is not Difficulty.HARD):
        return []
    text = resources.files("hlf_np.report").joinpath("published.csv").read_text(encoding="utf-8")
    key = (published_name(config), own.kind.value)
    by_run: dict[str, dict[Training, list[CellResult]]] = {}
    for row in csv.DictReader(text.splitlines()):
        if (row["dataset"], row["architecture"]) == key:
            cell = Cell(training_of(row["training"]), int(row["n_train"] or 0), seed=0)
            values = {column: float(row[column] or "nan") for column in row if column not in KEYS}
            of_run = by_run.setdefault(row["run"], {})
            of_run.setdefault(cell.training, []).append(CellResult(cell, values, examples={}, distances={}))
    chosen: dict[Training, list[CellResult]] = {}
    for run in _comparable_runs(config):  # the first run that has a training
        chosen = by_run.get(run, {}) | chosen
    return [result for training in config.trainings for result in chosen.get(training, [])]


def has_published_distances(config: RunConfig) -> bool:
    """Return whether distances were published for the dataset, the norm and the kind of network of a run."""
    is_papers = config.norm is Norm.LINF and config.architecture.kind is Kind.CNN
    return is_papers and published_name(config) in PUBLISHED_DISTANCES


def published_distances(config: RunConfig) -> dict[str, Floats]:
    """Return the distances to the manifold in the paper's histograms, by their keys in `CellResult.distances`.

    Three of the paper's bins are one row of `published_distances.csv`; all images of a row get its centre. Empty where
    `published` is, in L2, and for other networks than the paper's CNN.
    """
    if not has_published_distances(config) or not published(config):
        return {}
    text = resources.files("hlf_np.report").joinpath("published_distances.csv").read_text(encoding="utf-8")
    found: dict[str, list[Floats]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["dataset"] == published_name(config):
            centre = (float(row["left"]) + float(row["right"])) / 2
            found.setdefault(row["distances"], []).append(np.full(int(row["images"]), centre))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _comparable_runs(config: RunConfig) -> list[str]:
    """Return the names of the published runs with the settings of a run, the most similar first."""
    if config.norm is Norm.L2:
        return ["l2"] if config.variant is Variant.HALF and config.epochs == PAPER_EPOCHS else []
    if config.epochs != PAPER_EPOCHS:
        return [f"{config.epochs} epochs"]
    return ["main", "combined", "baselines"] if config.variant is Variant.HALF else [f"variant {config.variant}"]


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
        The published results for the trainings of the run, between its smallest and its largest N; those without N are
        left out.
    """
    cells = [result.cell for result in results]
    low, high = min(cell.n_train for cell in cells), max(cell.n_train for cell in cells)
    trainings = {cell.training for cell in cells}
    return [r for r in published if low <= r.cell.n_train <= high and r.cell.training in trainings]


def differences(config: RunConfig) -> str:
    """Return a sentence on why the values of a run differ from the published ones."""
    fonts = " its letters came from other font files," if config.prototypes else ""
    vgg = (
        " With few images the released settings do not train a VGG, neither here nor in PyTorch: its first steps are"
        " too long. The paper's VGGs, which learned from 500, must have been trained in another way."
        if config.architecture.kind is Kind.VGG
        else ""
    )
    combined = (
        " The curves of its combined trainings agree with batches that are clean by half and whose images all weigh the"
        " same (`bench/combined_weights.py`); here clean images weigh a third."
        if any(training in COMBINED for training in config.trainings)
        else ""
    )
    return (
        f"Expect the shapes and the ordering of the paper's curves, not the same values:{fonts} its manifold was"
        " learned by VAE-GANs rather than VAEs; its random transformations were drawn around 0 rather than around the"
        " identity, with one update for clean and one for transformed images; in training, its attacks kept the"
        f" last perturbation of images that were never misclassified, not that of highest loss.{vgg}{combined}"
    )
