"""Which figures a run has, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib as mpl

from hlf_np.experiments.claims import FEWEST_CELLS, factors_by_size
from hlf_np.experiments.claims.existence import RARE
from hlf_np.experiments.evaluation import CLEAN, SUBSPACE, TRUE, YARDSTICKS
from hlf_np.experiments.results import CellResult
from hlf_np.report.curves import has
from hlf_np.report.gallery import gallery_figure
from hlf_np.report.pictures import KINDS, STYLE, Picture, Section, drawing
from hlf_np.report.plots import curve_figure, distance_figure, error_figure, existence_figure, factor_figure
from hlf_np.report.published import beside
from hlf_np.training import Training

HOW_MEASURED = {
    TRUE: "The nearest image of the same font and letter is found by gradient descent, so distances are upper bounds",
    SUBSPACE: "It goes through the image that the attack started from, the original or, on the learned manifold, its"
    " reconstruction; so clean images are at distance 0 by construction",
}
ON_MANIFOLDS = tuple(kind for kind in KINDS if kind != "regular")


def draw(results: Sequence[CellResult], classes: Sequence[str], published: Sequence[CellResult] = ()) -> list[Picture]:
    """All figures that these results allow, beside the published numbers if there are any."""
    with mpl.rc_context(STYLE):
        return [
            *_distances(results),
            *_existence(results, classes),
            *_success_against_error(results),
            *_data_factor(results, published),
            *_curves(results, published),
            *_galleries(results, classes),
        ]


def _attacks(kind: str) -> str:
    return "regular attacks" if kind == "regular" else f"attacks {KINDS[kind]}"


def _distances(results: Sequence[CellResult]) -> Iterator[Picture]:
    """For claim 1."""
    projected = [r for r in results if r.cell.training is Training.NORMAL and any(map(len, r.distances.values()))]
    if projected:
        yardstick = next(y for y in YARDSTICKS if any(y.key(CLEAN) in r.distances for r in projected))
        yield drawing(
            Section.CLAIM_1,
            "distances",
            f"How far successful adversarial examples and clean test images are from {yardstick.words}, for"
            f" {len(projected)} normally trained models. {HOW_MEASURED[yardstick]}; the last bar holds all that are"
            " larger. The axis of shares is logarithmic.",
            "Histograms of distances: clean images and on-manifold examples near 0, regular examples farther out.",
            distance_figure(projected, yardstick),
        )


def _existence(results: Sequence[CellResult], classes: Sequence[str]) -> Iterator[Picture]:
    """For claim 2: on the true manifold, or, without one, on the learned one."""
    kind = next((kind for kind in ON_MANIFOLDS if has(results, f"{kind}_success")), None)
    if kind is None:
        return
    yield drawing(
        Section.CLAIM_2,
        "on_manifold_success",
        f"How often {_attacks(kind)} succeed: one point for each model. The dotted line is at {RARE}.",
        f"A row of points for each training: success rates of {_attacks(kind)}, from 0 to 1.",
        existence_figure(results, kind),
    )
    shown = [r for r in results if kind in r.examples and len(r.examples[kind].labels)]
    if shown:
        yield drawing(
            Section.CLAIM_2,
            "on_manifold_examples",
            f"What {_attacks(kind)} found for one model ({shown[0].cell}): the original and its label, the adversarial"
            " image and the model's label for it, the difference.",
            "Images, their adversarial versions, and the differences: what changes are strokes, not pixels.",
            gallery_figure({kind: shown[0].examples[kind]}, classes),
        )


def _success_against_error(results: Sequence[CellResult]) -> Iterator[Picture]:
    """For claims 3 and 4."""
    for kind in KINDS:
        if kind != "regular" and not has(results, f"{kind}_success"):
            continue
        section, expected = (
            (Section.CLAIM_4, "Claim 4 expects flat lines, except of trainings with regular attacks.")
            if kind == "regular"
            else (Section.CLAIM_3, "Claim 3 expects rising lines.")
        )
        yield drawing(
            section,
            f"{kind}_success_against_error",
            f"Success rate of {_attacks(kind)} against test error: one point for each model, and the line of least"
            f" squares for each training of at least {FEWEST_CELLS} models. {expected}",
            f"Scatter plot of the success rate of {_attacks(kind)} against test error, coloured by training.",
            error_figure(results, kind),
        )


def _data_factor(results: Sequence[CellResult], published: Sequence[CellResult]) -> Iterator[Picture]:
    """For claim 4."""
    factors = factors_by_size(results)
    if factors:
        yield drawing(
            Section.CLAIM_4,
            "data_factor",
            "How many times the images of normal training adversarial training needs for the same test error, at each"
            " N whose error normal training reaches too. Above 1 it costs images, below 1 it saves them.",
            "The data factor of adversarial training against the number of training images.",
            factor_figure(factors, factors_by_size(published)),
        )


def _curves(results: Sequence[CellResult], published: Sequence[CellResult]) -> Iterator[Picture]:
    """For sample complexity."""
    compared = " Dashed, smaller and lighter: the paper's." if beside(published, results) else ""
    yield drawing(
        Section.CURVES,
        "test_error",
        "Sample complexity: test error against the number of training images. Lines are means over seeds, bands"
        f" reach from the lowest to the highest.{compared}",
        "Test error against the number of training images, one line per training.",
        curve_figure(results, "test_error", "test error", published),
    )
    for kind in KINDS:
        name = f"{kind}_success"
        if kind == "regular" or has(results, name):
            yield drawing(
                Section.CURVES,
                name,
                f"How often {_attacks(kind)} succeed on correctly classified test images (mean over restarts)."
                f"{compared}",
                f"Success rate of {_attacks(kind)} against the number of training images, one line per training.",
                curve_figure(results, name, "success rate", published),
            )


def _galleries(results: Sequence[CellResult], classes: Sequence[str]) -> Iterator[Picture]:
    """One for each training: of its last model that was fooled."""
    for training in Training:
        shown = [r for r in results if r.cell.training is training and any(len(e.labels) for e in r.examples.values())]
        if shown:
            yield drawing(
                Section.GALLERY,
                f"examples_{training}",
                f"Adversarial examples of a model ({shown[-1].cell}): the original and its label, the adversarial"
                " image and the model's label for it, the difference (grey is 0, scaled to its largest value). On the"
                " learned manifold an attack starts from the reconstruction of the original, not from itself.",
                "Images, their adversarial versions, and the differences: noise for regular attacks, moved strokes"
                " for attacks on a manifold.",
                gallery_figure(shown[-1].examples, classes),
            )
