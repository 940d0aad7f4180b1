"""Which figures a run has, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib as mpl

from hlf_np.experiments.catalogue import Catalogue
from hlf_np.experiments.claims import FEWEST_CELLS, factors_by_size
from hlf_np.experiments.claims.existence import RARE
from hlf_np.experiments.measurements import CLEAN, SUBSPACE, TRUE, YARDSTICKS, Shown
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.report.curves import has
from hlf_np.report.gallery import gallery_figure
from hlf_np.report.pictures import STYLE, Picture, Section, drawing
from hlf_np.report.plots import curve_figure, distance_figure, error_figure, existence_figure, factor_figure
from hlf_np.report.published import beside
from hlf_np.spaces import ImageBall
from hlf_np.trainings import NORMAL

HOW_MEASURED = {
    TRUE: "The nearest image of the same font and letter is found by gradient descent, so distances are upper bounds",
    SUBSPACE: "It goes through the image that the attack started from, the original or, on the learned manifold, its"
    " reconstruction; so clean images are at distance 0 by construction",
}


def draw(
    results: Sequence[CellResult],
    classes: Sequence[str],
    published: Sequence[CellResult] = (),
    declared: Catalogue | None = None,
) -> list[Picture]:
    """All figures that these results allow, beside the published numbers if there are any.

    declared : what the run could name, if it is more than the package declares.
    """
    declared = declared or Catalogue()
    with mpl.rc_context(STYLE):
        return [
            *_distances(results),
            *_existence(results, classes, declared),
            *_success_against_error(results, declared),
            *_data_factor(results, published),
            *_curves(results, declared, published),
            *_galleries(results, classes, declared),
        ]


def _distances(results: Sequence[CellResult]) -> Iterator[Picture]:
    """For claim 1."""
    projected = [r for r in results if r.cell.training == NORMAL and any(map(len, r.distances.values()))]
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


def _existence(results: Sequence[CellResult], classes: Sequence[str], declared: Catalogue) -> Iterator[Picture]:
    """For claim 2: on the true manifold, or, without one, on the learned one."""
    manifolds = (space for space in declared.measured if space.needs and has(results, f"{space.name}_success"))
    space = next(manifolds, None)
    if space is None:
        return
    yield drawing(
        Section.CLAIM_2,
        "on_manifold_success",
        f"How often {space.called()} succeed: one point for each model. The dotted line is at {RARE}.",
        f"A row of points for each training: success rates of {space.called()}, from 0 to 1.",
        existence_figure(results, space),
    )
    shown = [r for r in results if space.name in r.examples and len(r.examples[space.name].labels)]
    if shown:
        yield drawing(
            Section.CLAIM_2,
            "on_manifold_examples",
            f"What {space.called()} found for one model ({shown[0].cell}): the original and its label, the adversarial"
            " image and the model's label for it, the difference.",
            "Images, their adversarial versions, and the differences: what changes are strokes, not pixels.",
            gallery_figure({space: shown[0].examples[space.name]}, classes),
        )


def _success_against_error(results: Sequence[CellResult], declared: Catalogue) -> Iterator[Picture]:
    """For claims 3 and 4, and for spaces that they say nothing of."""
    for space in declared.measured:
        if space is ImageBall:
            section, expected = Section.CLAIM_4, " Claim 4 expects flat lines, except with regular attacks."
        elif not has(results, f"{space.name}_success"):
            continue
        elif space.needs:
            section, expected = Section.CLAIM_3, " Claim 3 expects rising lines."
        else:
            section, expected = Section.CURVES, ""
        yield drawing(
            section,
            f"{space.name}_success_against_error",
            f"Success rate of {space.called()} against test error: one point for each model, and the line of least"
            f" squares for each training of at least {FEWEST_CELLS} models.{expected}",
            f"Scatter plot of the success rate of {space.called()} against test error, coloured by training.",
            error_figure(results, space),
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


def _curves(results: Sequence[CellResult], declared: Catalogue, published: Sequence[CellResult]) -> Iterator[Picture]:
    """For sample complexity."""
    compared = " Dashed, smaller and lighter: the paper's." if beside(published, results) else ""
    rates = {f"{space.name}_success": space for space in declared.measured}
    for measurement in declared.measurements:
        column, title = measurement.column, measurement.title
        if measurement.shown is not Shown.CURVE or not (has(results, column) or column == "test_error"):
            continue
        what, label = f"{title}, mean over seeds; bands reach from the lowest to the highest.", title.lower()
        if column == "test_error":
            what = (
                "Sample complexity: test error against the number of training images. Lines are means over seeds, bands"
                " reach from the lowest to the highest."
            )
        elif column in rates:
            attacks, label = rates[column].called(), "success rate"
            what = f"How often {attacks} succeed on correctly classified test images (mean over restarts)."
        yield drawing(
            Section.CURVES,
            column,
            f"{what}{compared}",
            f"{title} against the number of training images, one line per training.",
            curve_figure(results, column, label, published, measurement.share),
        )


def _galleries(results: Sequence[CellResult], classes: Sequence[str], declared: Catalogue) -> Iterator[Picture]:
    """One for each training: of its last model that was fooled."""
    for training, cells in by_training(results).items():
        shown = [r for r in cells if any(len(e.labels) for e in r.examples.values())]
        if shown:
            examples = {s: shown[-1].examples[s.name] for s in declared.measured if s.name in shown[-1].examples}
            yield drawing(
                Section.GALLERY,
                f"examples_{training}",
                f"Adversarial examples of a model ({shown[-1].cell}): the original and its label, the adversarial"
                " image and the model's label for it, the difference (grey is 0, scaled to its largest value). On the"
                " learned manifold an attack starts from the reconstruction of the original, not from itself.",
                "Images, their adversarial versions, and the differences: noise for regular attacks, moved strokes"
                " for attacks on a manifold.",
                gallery_figure(examples, classes),
            )
