"""Choose and draw the figures of a report, with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl

from hlf_np.attacks import UNSEEN_ATTACKS
from hlf_np.experiments.analysis.beyond import UNSEEN_COLUMN
from hlf_np.experiments.analysis.claim import MIN_CELLS
from hlf_np.experiments.analysis.data_factor import factor_intervals, factors_by_size
from hlf_np.experiments.analysis.existence import SMALL_SUCCESS_RATE
from hlf_np.experiments.configuration.catalogue import Catalogue
from hlf_np.experiments.measurements import Display
from hlf_np.experiments.measurements.built_in import FURTHER_RATES
from hlf_np.experiments.measurements.distances import (
    CLEAN,
    DISTANCE_REFERENCES,
    SUBSPACE_REFERENCE,
    TRUE_MANIFOLD_REFERENCE,
)
from hlf_np.experiments.measurements.series import (
    ATTACK_PROGRESS,
    EPSILONS,
    ERROR_BY_EPOCH,
    HELD_OUT_BY_EPOCH,
    SUCCESS_BY_EPSILON,
    TANGENT_SHARE_BY_STEP,
)
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.report.curves import has_values
from hlf_np.report.figures.gallery import gallery_figure
from hlf_np.report.figures.pictures import STYLE, Picture, Section, render
from hlf_np.report.figures.plots import (
    columns_figure,
    curve_figure,
    distance_figure,
    error_figure,
    existence_figure,
    factor_figure,
    rate_label,
    series_figure,
)
from hlf_np.report.published import matching_cells
from hlf_np.spaces import ImageBall
from hlf_np.support.arrays import Floats
from hlf_np.trainings import MAIN, NORMAL, REGULAR_AND_LEARNED

DISTANCE_NOTES = {
    TRUE_MANIFOLD_REFERENCE: "The nearest image of the same font and letter is found by gradient descent,"
    " so distances are upper bounds",
    SUBSPACE_REFERENCE: "The subspace passes through the image that the attack started from, which is the original or,"
    " on the learned manifold, its reconstruction; clean images are therefore at distance 0 by construction. The"
    " paper's distances seem to be measured from the original, errors of reconstruction included",
}


def draw_figures(
    results: Sequence[CellResult],
    classes: Sequence[str],
    published: Sequence[CellResult] = (),
    catalogue: Catalogue | None = None,
    distances: Mapping[str, Floats] | None = None,
) -> list[Picture]:
    """Draw all figures for which there are results.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    classes : sequence of str
        Names of the classes.
    published : sequence of CellResult
        Published results for comparison; may be empty.
    catalogue : Catalogue, optional
        Spaces and measurements of the run; by default those that the package declares.
    distances : mapping of str to ndarray, optional
        Published distances to the manifold, see `published.published_distances`.

    Returns
    -------
    list of Picture
        The figures, in the order of the page.
    """
    catalogue = catalogue or Catalogue()
    with mpl.rc_context(STYLE):
        return [
            *_distances(results, distances or {}),
            *_existence(results, classes, catalogue),
            *_success_against_error(results, catalogue, published),
            *_data_factor(results, published),
            *_gradients(results),
            *_epochs(results),
            *_unseen(results),
            *_samples(results),
            *_growing_epsilon(results),
            *_curves(results, catalogue, published),
            *_galleries(results, classes, catalogue),
        ]


def _distances(results: Sequence[CellResult], published: Mapping[str, Floats]) -> Iterator[Picture]:
    """Draw the figure of claim 1."""
    measured = [r for r in results if r.cell.training == NORMAL and any(map(len, r.distances.values()))]
    known = [y for y in DISTANCE_REFERENCES if any(len(r.distances.get(y.key(CLEAN), ())) for r in measured)]
    for reference in known:
        yield render(
            Section.CLAIM_1,
            f"distances{'' if reference is known[0] else reference.suffix}",
            f"Distances of successful adversarial examples and of clean test images to {reference.description}, for"
            f" {len(measured)} normally trained model{'s' * (len(measured) != 1)}. {DISTANCE_NOTES[reference]}; the"
            " last bin contains all larger distances. The vertical axis is logarithmic.",
            "Histograms of distances: of clean images, and of regular and on-manifold adversarial examples.",
            distance_figure(measured, reference, published),
        )


def _existence(results: Sequence[CellResult], classes: Sequence[str], catalogue: Catalogue) -> Iterator[Picture]:
    """Draw the figures of claim 2: on the true manifold or, without one, on the learned manifold."""
    manifolds = (space for space in catalogue.measured if space.needs and has_values(results, f"{space.name}_success"))
    space = next(manifolds, None)
    if space is None:
        return
    yield render(
        Section.CLAIM_2,
        "on_manifold_success",
        f"Success rates of {space.attack_label()}: one point per model. The dotted line marks {SMALL_SUCCESS_RATE}.",
        f"One row of points per training: success rates of {space.attack_label()}, from 0 to 1.",
        existence_figure(results, space),
    )
    with_examples = [r for r in results if space.name in r.examples and len(r.examples[space.name].labels)]
    if with_examples:
        first = with_examples[0]
        yield render(
            Section.CLAIM_2,
            "on_manifold_examples",
            f"Adversarial examples found by {space.attack_label()} for one model ({first.cell}): the original and its"
            " label, the adversarial image and the model's prediction, and their difference.",
            "Images, their adversarial versions and the differences: strokes change, not single pixels.",
            gallery_figure({space: first.examples[space.name]}, classes),
        )


def _success_against_error(
    results: Sequence[CellResult], catalogue: Catalogue, published: Sequence[CellResult]
) -> Iterator[Picture]:
    """Draw the scatter plots of claims 3 and 4, and those of spaces and attacks to which no claim refers."""

    def picture(section: Section, column: str, attacks: str, label: str, prediction: str = "") -> Picture:
        trainings = by_training(results)
        paper = [r for r in published if r.cell.training in trainings]
        comparison = " Dashed: the paper's means, for all of its N." if has_values(paper, column) else ""
        return render(
            section,
            f"{column}_against_error",
            f"Success rate of {attacks} against test error: one point per model, and a least-squares line for each"
            f" training with at least {MIN_CELLS} models.{prediction}{comparison}",
            f"Scatter plot of the success rate of {attacks} against test error, coloured by training.",
            error_figure(results, column, label, paper),
        )

    for space in catalogue.measured:
        if space is ImageBall:
            section = Section.CLAIM_4
            prediction = " Claim 4 predicts flat lines, except for trainings with regular attacks."
        elif not has_values(results, f"{space.name}_success"):
            continue
        elif space.needs:
            section, prediction = Section.CLAIM_3, " Claim 3 predicts rising lines."
        else:
            section, prediction = Section.CURVES, ""
        column, attacks = f"{space.name}_success", space.attack_label()
        yield picture(section, column, attacks, rate_label(space), prediction)
    for measurement in catalogue.measurements:
        if measurement in FURTHER_RATES and has_values(results, measurement.column):
            attacks = measurement.title.removeprefix("Success rate of ")
            yield picture(Section.CURVES, measurement.column, attacks, "success rate")


def _data_factor(results: Sequence[CellResult], published: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the data factor of claim 4."""
    factors = factors_by_size(results)
    if factors:
        yield render(
            Section.CLAIM_4,
            "data_factor",
            "Data factor of adversarial training: how many times as many images it needs as normal training for the"
            " same test error. It is shown at each N where normal training reaches that error too. Above 1,"
            " adversarial training needs more images than normal training; below 1, fewer. Bars are 95 % intervals over"
            " seeds, from four complete seeds on, where the curve of normal training is long enough for them.",
            "The data factor of adversarial training against the number of training images.",
            factor_figure(factors, factors_by_size(published), factor_intervals(results)),
        )


def _gradients(results: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the figures of claims 5 and 6."""
    if any(TANGENT_SHARE_BY_STEP in r.series for r in results):
        yield render(
            Section.CLAIM_5,
            "tangent_share_of_gradients",
            "Tangent share of the gradient of the loss against the number of training images: mean over seeds. A random"
            " direction has a share of 0.008.",
            "Tangent share of gradients against the number of training images, one line per training.",
            curve_figure(results, "gradient_tangent_share", "tangent share", share=False),
        )
        yield render(
            Section.CLAIM_6,
            "tangent_share_of_perturbations",
            "Tangent share of regular perturbations in the course of an attack that starts at the image, averaged over"
            " all N: how much of a perturbation moves along the manifold.",
            "Tangent share against the fraction of the steps, one line per training.",
            series_figure(results, TANGENT_SHARE_BY_STEP, ATTACK_PROGRESS, "fraction of the steps", "tangent share"),
        )


def _epochs(results: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the figures of claim 7, for the largest N."""
    tracked = [r for r in results if ERROR_BY_EPOCH in r.series]
    largest = max((r.cell.n_train for r in tracked), default=0)
    shown = [r for r in tracked if r.cell.n_train == largest]
    texts = {
        ERROR_BY_EPOCH: ("test error", "Test error"),
        HELD_OUT_BY_EPOCH: ("error under regular attacks", "Error under regular attacks, on half of the images"),
    }
    for name, (label, title) in texts.items():
        if shown:
            epochs = range(1, 1 + len(shown[0].series[name]))
            yield render(
                Section.CLAIM_7,
                name,
                f"{title} after every epoch, for N = {largest}: mean over seeds.",
                f"{title} against the epoch, one line per training.",
                series_figure(shown, name, epochs, "epoch", label),
            )


def _unseen(results: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the figures of claim 8."""
    columns = {f"{attack.name}_success": attack.name for attack in UNSEEN_ATTACKS}
    measured = [r for r in results if has_values([r], UNSEEN_COLUMN)]
    if measured and REGULAR_AND_LEARNED in by_training(results):
        yield render(
            Section.CLAIM_8,
            "unseen_attacks",
            "Success rates of attacks unlike those of any training: mean over all N and seeds.",
            "One point per training beside the name of each attack, from 0 to 1.",
            columns_figure(measured, columns, "success rate"),
        )
        yield render(
            Section.CLAIM_8,
            UNSEEN_COLUMN,
            "Their mean against the number of training images: mean over seeds; bands show the range.",
            "The mean success rate of unseen attacks against the number of training images, one line per training.",
            curve_figure(measured, UNSEEN_COLUMN, "success rate, mean"),
        )


def _samples(results: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the figure of claim 9."""
    sampled = [training for training in by_training(results) if training.samples]
    spaces = {(training.samples,) for training in sampled}
    adversaries = [t for t in MAIN if t.spaces in spaces and not t.random]
    shown = [t for t in by_training(results) if t in (NORMAL, *sampled, *adversaries)]
    if sampled:
        yield render(
            Section.CLAIM_9,
            "samples_or_adversary",
            "Test error of normal training, of normal training on as many generated images in addition, and of"
            " on-manifold adversarial training, against the number N of real images: mean over seeds; bands show the"
            " range.",
            "Test error against the number of training images for trainings with and without generated images.",
            curve_figure([r for r in results if r.cell.training in shown], "test_error", "test error"),
        )


def _growing_epsilon(results: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the success of a thorough attack against epsilon."""
    if any(SUCCESS_BY_EPSILON in r.series for r in results):
        yield render(
            Section.ROBUSTNESS,
            SUCCESS_BY_EPSILON,
            "Success rate of a thorough attack (AutoPGD on two objectives, then random search) on correctly classified"
            " images against the radius of the L-infinity ball, for one model per training with the largest N.",
            "Success rate against epsilon, one line per training.",
            series_figure(results, SUCCESS_BY_EPSILON, EPSILONS, "epsilon", "success rate"),
        )


def _curves(results: Sequence[CellResult], catalogue: Catalogue, published: Sequence[CellResult]) -> Iterator[Picture]:
    """Draw the measurements that are displayed as curves against the number of training images."""
    comparison = " Dashed, smaller and lighter: the paper's curves." if matching_cells(published, results) else ""
    spaces = {f"{space.name}_success": space for space in catalogue.measured}
    for measurement in catalogue.measurements:
        column, title = measurement.column, measurement.title
        if measurement.display is not Display.CURVE or not (has_values(results, column) or column == "test_error"):
            continue
        caption, label = f"{title}: mean over seeds; bands show the range over seeds.", title.lower()
        if column == "test_error":
            caption = (
                "Sample complexity: test error against the number of training images. Lines show the mean over seeds,"
                " bands the range."
            )
        elif column in spaces:
            space, label = spaces[column], "success rate"
            images = "correctly classified test images"
            if not space.starts_at_image:
                images = "test images whose reconstruction is classified correctly"
            caption = f"Success rate of {space.attack_label()} among {images}, averaged over restarts."
        yield render(
            Section.CURVES,
            column,
            f"{caption}{comparison}",
            f"{title} against the number of training images, one line per training.",
            curve_figure(results, column, label, published, measurement.share),
        )


def _galleries(results: Sequence[CellResult], classes: Sequence[str], catalogue: Catalogue) -> Iterator[Picture]:
    """Draw one gallery per training: the adversarial examples for the last model that has any."""
    for training, cells in by_training(results).items():
        with_examples = [r for r in cells if any(len(e.labels) for e in r.examples.values())]
        if with_examples:
            last = with_examples[-1]
            examples = {s: last.examples[s.name] for s in catalogue.measured if s.name in last.examples}
            yield render(
                Section.GALLERY,
                f"examples_{training}",
                f"Adversarial examples for one model ({last.cell}): the original and its label, the adversarial image"
                " and the model's prediction, and their difference (grey is 0; scaled to the largest absolute value)."
                " On the learned manifold, attacks start from the reconstruction of the original rather than from the"
                " original itself.",
                "Images, their adversarial versions and the differences: noise for regular attacks, moved strokes for"
                " attacks on a manifold.",
                gallery_figure(examples, classes),
            )
