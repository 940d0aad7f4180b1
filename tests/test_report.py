"""The report: the page and its figures say what was measured, anywhere, to anyone, without a network."""

import html
import io
import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import TINY, made_up, made_up_grid, main, report, rows
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from hlf_np import models
from hlf_np.attacks import PGD
from hlf_np.data import load_fonts
from hlf_np.data.fonts import LETTERS
from hlf_np.experiments.analysis.generalization import on_manifold_robustness
from hlf_np.experiments.configuration.config import PRESETS, Preset
from hlf_np.experiments.measurements.series import EPSILONS, SUCCESS_BY_EPSILON
from hlf_np.experiments.results import Examples
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.experiments.storage.store import Store
from hlf_np.manifolds import stored_vaes
from hlf_np.manifolds.oracle import ClassifierConfig, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.report.curves import curves, table
from hlf_np.report.figures.draw import draw_figures
from hlf_np.report.figures.gallery import gallery_figure, tiles
from hlf_np.report.figures.pictures import Section
from hlf_np.report.figures.plots import curve_figure, error_figure
from hlf_np.report.figures.reconstructions import draw_learned_manifold
from hlf_np.report.figures.sheets import grid
from hlf_np.spaces import ImageBall, LearnedManifold, Norm, TrueManifold
from hlf_np.training import TrainingConfig
from hlf_np.trainings import ADVERSARIAL, NORMAL, PAPER, training_of

pytestmark = pytest.mark.filterwarnings("error")  # a run would print them

VOID = {"meta", "link", "img", "br"}  # HTML's elements without an end
MEASUREMENTS = {  # by the captions of their tables
    "Test error": "test_error",
    "Success rate of regular attacks": "regular_success",
    "Success rate of regular attacks, any restart": "regular_success_worst",
    "Success rate of attacks on the true manifold": "on_true_manifold_success",
    "Success rate of attacks on the true manifold, any restart": "on_true_manifold_success_worst",
    "Success rate of attacks on the learned manifold": "on_learned_manifold_success",
    "Success rate of attacks on the learned manifold, any restart": "on_learned_manifold_success_worst",
    "Share of images whose reconstruction by the autoencoders is misclassified": "reconstruction_error",
    "Tangent share of loss gradients on the true manifold": "gradient_tangent_share",
    "Success rate of attacks unlike those of any training, mean of rotation, elastic, fog, blur": "unseen_success",
    "Seconds per model": "seconds",
}


class Page(HTMLParser):
    """What a page consists of; fails where tags are not balanced."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.tables = [], [], [], {}
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.cells, self.caption = [], ""
        elif tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.cells

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)
        elif "caption" in self.open:
            self.caption = data.split(", by number of training images")[0]


@pytest.fixture(scope="module")
def paper():
    """The page of made-up results on the paper's grid."""
    return report(made_up_grid(PRESETS[Preset.PAPER].sizes, examples=10), PRESETS[Preset.PAPER])


# --- the page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["smoke", "paper"])
def test_page_needs_nothing_from_outside_and_describes_its_pictures(request, source):
    found = request.getfixturevalue(source)
    text = found if source == "paper" else (found / "report.html").read_text()
    parsed = Page(text)
    pictures = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) >= 4
    for attributes in pictures:
        assert len(attributes["alt"]) > 20
        assert attributes["src"].startswith("data:image/png;base64,")
    for _, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#", "explore.html"))
    assert not {tag for tag, _ in parsed.tags} & {"script", "iframe", "object", "embed"}
    assert not re.search(r"url\(|@import", text)
    assert ("html", {"lang": "en"}) in parsed.tags
    assert [tag for tag, _ in parsed.tags].count("h1") == 1


def test_tables_hold_the_means_of_the_table_of_results(smoke):
    parsed = Page((smoke / "report.html").read_text())
    found = rows(smoke)
    assert parsed.tables.keys() == MEASUREMENTS.keys()
    for caption, (head, *body) in parsed.tables.items():
        assert head == ["Training", "100", "200"]
        assert {line[0] for line in body} == {training_of(row["training"]).label for row in found}
        for label, *cells in body:
            for size, cell in zip(head[1:], cells, strict=True):
                values = [
                    float(row[MEASUREMENTS[caption]])
                    for row in found
                    if (training_of(row["training"]).label, row["n_train"]) == (label, size)
                ]
                rounding = 0.5001 * 10.0 ** -len(cell.partition(".")[2])
                assert rounding <= (0.051 if caption.startswith("Seconds") else 0.0005001)
                assert float(cell) == pytest.approx(np.mean(values), abs=rounding)


def test_unmeasured_numbers_are_dashes_and_averages_leave_them_out():
    results = [
        made_up(n_train=10, seed=0, regular_success=0.25, regular_success_worst=0.5),
        made_up(n_train=10, seed=1, regular_success=math.nan),
        made_up(n_train=20, seed=0, regular_success=math.nan),
    ]
    found = Page(report(results)).tables["Success rate of regular attacks"]
    assert found == [["Training", "10", "20"], ["Normal", "0.250", "\u2013"]]
    lines = table(results).split("\n")
    assert [line.split()[1:] for line in lines if line.startswith("Normal")][1] == ["0.250", "-"]


def test_text_from_outside_is_escaped():
    command = "python -m hlf_np run --out '</pre><script>alert(1)</script> $HOME &amp; \"q\"'"
    parsed = Page(report(made_up_grid([10, 20], examples=2), command=command))
    assert command in parsed.text
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_page_shows_settings_claims_and_what_to_repeat(smoke):
    parsed = Page((smoke / "report.html").read_text())
    text = "".join(parsed.text)
    stored = json.loads((smoke / "config.json").read_text())
    assert stored["command"] in text
    assert json.loads(text[text.index("All settings") + 12 : text.rindex("}") + 1]) == stored["run"]
    for claim in json.loads((smoke / "claims.json").read_text()):
        assert f"Claim {claim['number']}. {claim['statement']}" in text
        verdict, _, reason = claim["verdict"].partition(": ")
        assert f"{verdict.capitalize()} {reason.capitalize()}" in text
        assert {claim[name] + "." for name in ("confirmed_if", "refuted_if")} < set(parsed.text)
        assert claim["meaning"] in parsed.text


def test_supported_claims_come_with_their_numbers():
    results = [made_up(n_train=10 + i, test_error=0.1 + i / 50, regular_success=0.9) for i in range(20)]
    text = "".join(Page(report(results)).text)
    assert "Supported Largest change in regular success" in text
    assert ": 0.000 (95 % interval 0.000 to 0.000)" in text.replace("-0.000", "0.000")


def test_a_report_says_what_it_lacks(copy):
    """Models that are not finished, and an explorer that cannot be made of a damaged network."""
    assert "1 of 4 CNN models" in report([made_up()])
    (copy / "explore.html").write_text("of an earlier report")
    next((copy / "models").iterdir()).write_bytes(b"damaged")
    code, *_ = main("report", str(copy))
    assert code == 0
    assert not (copy / "explore.html").exists()
    text = "".join(Page((copy / "report.html").read_text()).text)
    assert "There is no page to try these models by hand: " in text
    assert "is not a model file, or is damaged" in text


def sections(source):
    """The parts of a page that are about a claim, by its number, what comes before, and the rest."""
    before, *parts = source.split('<section class="claim" id="claim-')
    claims, others = zip(*(part.split("</section>") for part in parts), strict=True)
    return {int(part[0]): part for part in claims}, before, "".join(others)


@pytest.mark.slow
def test_each_claim_has_its_figures_its_verdict_and_a_link_from_the_top(smoke):
    found, before, after = sections((smoke / "report.html").read_text())
    claims = json.loads((smoke / "claims.json").read_text())
    assert found.keys() == {1, 2, 3, 4, 5, 6}
    store = Store(smoke, stored_config(smoke))
    places = {Section(f"claim {number}"): part for number, part in found.items()}
    for picture in draw_figures(store.results(), LETTERS):
        shown = places.get(picture.section, after)
        assert html.escape(picture.caption) in shown
        assert len([part for part in (before, after, *found.values()) if html.escape(picture.caption) in part]) == 1
    for claim in claims:
        verdict = claim["verdict"].split(":")[0]
        badge = f'<span class="badge {verdict}">{verdict.capitalize()}</span>'
        assert badge in found[claim["number"]]
        assert f'<a href="#claim-{claim["number"]}">{claim["statement"]}</a> {badge}' in before
        assert "<img" in found[claim["number"]]


@pytest.mark.parametrize("success", [0.0, math.nan])
def test_a_run_without_adversarial_examples_says_so(success):
    assert "No attack succeeded." in report([made_up(regular_success=success, regular_success_worst=success)])


@pytest.mark.parametrize("seconds", [0.0, 0.4, 59.6, 3600.0, 90_061.0])
def test_durations_are_words(seconds):
    text = "".join(Page(report([made_up(seconds=seconds)])).text)
    (duration,) = re.findall(r"Training and attacks took (.*?) in total", text)
    units = {"h": 3600, "min": 60, "s": 1}
    said = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", duration))
    assert said == round(seconds)
    assert duration == "less than a second" or said > 0


# --- figures --------------------------------------------------------------------------------------------------


@pytest.mark.stress
def test_the_same_results_give_the_same_bytes():
    first, second = (draw_figures(made_up_grid([10, 20], examples=3), LETTERS) for _ in range(2))
    assert first == second
    for picture in first:
        assert picture.pdf.startswith(b"%PDF")
        assert not re.search(rb"CreationDate|ModDate|Producer", picture.pdf)
    others = {picture.name: picture for picture in draw_figures(made_up_grid([10, 30], examples=3), LETTERS)}
    (errors,) = (picture for picture in first if picture.name == "test_error")
    assert errors.png != others["test_error"].png
    assert errors.pdf != others["test_error"].pdf


@pytest.mark.slow
def test_figures_on_the_page_are_those_in_the_folder(smoke):
    text = (smoke / "report.html").read_text()
    store = Store(smoke, stored_config(smoke))
    pictures = [*draw_figures(store.results(), LETTERS), *draw_learned_manifold(store)]
    expected = {f"{p.name}.png" for p in pictures} | {f"{p.name}.pdf" for p in pictures if p.pdf is not None}
    assert expected == {path.name for path in (smoke / "figures").iterdir()}
    for picture in pictures:
        assert (smoke / "figures" / f"{picture.name}.png").read_bytes() == picture.png
        assert html.escape(picture.caption) in text
        with Image.open(io.BytesIO(picture.png)) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not blank


@pytest.mark.parametrize("sizes", [[250], [100, 200], [1, 960_000], list(PRESETS[Preset.PAPER].sizes)])
def test_numbers_of_the_size_axis_do_not_overlap(sizes):
    figure = curve_figure(made_up_grid(sizes), "test_error", "test error")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert labels[0].get_text() == str(sizes[0])
    assert len(figure.axes[0].get_xticks()) == len(sizes)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_curves_are_means_and_ranges_over_seeds():
    values = {(10, 0): 0.2, (10, 1): 0.5, (10, 2): 0.8, (5, 0): 0.9, (5, 1): math.nan}
    results = [made_up(n_train=n, seed=seed, regular_success=value) for (n, seed), value in values.items()]
    (curve,) = curves([*results, made_up(ADVERSARIAL, 5)], "regular_success")
    assert curve.training == NORMAL
    np.testing.assert_array_equal(curve.sizes, [5, 10])
    np.testing.assert_allclose(curve.mean, [0.9, 0.5])
    np.testing.assert_allclose(curve.low, [0.9, 0.2])
    np.testing.assert_allclose(curve.high, [0.9, 0.8])


def test_success_against_error_has_a_figure_for_each_kind_of_attack_that_was_measured():
    results = [made_up(test_error=0.2, regular_success=0.9, on_learned_manifold_success=0.4)]
    found = {picture.name: picture.section for picture in draw_figures(results, LETTERS)}
    assert found["regular_success_against_error"] is Section.CLAIM_4
    assert found["on_learned_manifold_success_against_error"] is Section.CLAIM_3
    assert "on_true_manifold_success_against_error" not in found
    figures = [error_figure(results, f"{kind.name}_success", "rate") for kind in (ImageBall, LearnedManifold)]
    assert [f.axes[0].collections[0].get_offsets().tolist() for f in figures] == [[[0.2, 0.9]], [[0.2, 0.4]]]


def test_lines_through_success_against_error_are_those_of_the_claim():
    random = np.random.default_rng(0)
    results = [
        made_up(training, seed=i, test_error=random.random(), on_true_manifold_success=random.random())
        for training, count in ((NORMAL, 9), (ADVERSARIAL, 5))
        for i in range(count)
    ]
    (axes,) = error_figure(results, "on_true_manifold_success", "rate").axes
    (drawn,) = axes.lines  # five models are too few
    (x, y), claim = drawn.get_data(), on_manifold_robustness(results)
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(claim.statistic)
    points = axes.collections[0].get_offsets()
    assert np.interp(points[:, 0].mean(), x, y) == pytest.approx(points[:, 1].mean())


def test_legends_of_all_trainings_lie_outside_of_the_axes():
    results = [made_up(training, size, test_error=0.3) for training in PAPER for size in (10, 20)]
    figure = curve_figure(results, "test_error", "test error")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    legend, (axes,) = figure.legends[0].get_window_extent(renderer), figure.axes
    assert len(figure.legends[0].get_texts()) == len(PAPER)
    assert legend.y1 <= axes.get_tightbbox(renderer).y0


def test_a_gallery_has_a_block_for_each_kind_of_attack_with_examples():
    examples = {kind: made_up(examples=3).examples[kind.name] for kind in (ImageBall, TrueManifold, LearnedManifold)}
    examples[TrueManifold] = made_up(examples=0).examples[TrueManifold.name]
    figure = gallery_figure(examples, LETTERS)
    assert [axes.get_title("left") for axes in figure.axes] == ["Regular attacks", "Attacks on the learned manifold"]
    for axes, space in zip(figure.axes, (ImageBall, LearnedManifold), strict=True):
        words = [text.get_text() for text in axes.texts]
        assert words == ["original", "adversarial", "difference", "A", "\u2192 B", "B", "\u2192 C", "C", "\u2192 D"]
        sheet, found = axes.images[0].get_array(), examples[space]
        differences = found.adversarial - found.originals
        for column in range(3):
            rows = [sheet[top : top + 28, 31 * column :][:, :28] for top in (10, 48, 86)]
            np.testing.assert_array_equal(rows[0], found.originals[column, ..., 0])
            np.testing.assert_array_equal(rows[1], found.adversarial[column, ..., 0])
            scaled = differences[column, ..., 0] / np.abs(differences[column]).max()
            np.testing.assert_allclose(2 * rows[2] - 1, scaled, atol=1e-6)


def test_galleries_show_colours():
    """A change of red and blue by opposite amounts is visible."""
    originals = np.full((1, 2, 2, 3), 0.5, np.float32)
    adversarial = originals + np.float32([0.3, 0, -0.3])
    rows = tiles(Examples(originals, adversarial, np.zeros(1, int), np.ones(1, int)))
    np.testing.assert_allclose(rows[:, 0, 0, 0], [[0.5, 0.5, 0.5], [0.8, 0.5, 0.2], [1, 0.5, 0]], atol=1e-6)
    assert np.asarray(grid(rows)).shape[2] == 3
    assert tiles(Examples(originals[..., :1], adversarial[..., :1], np.zeros(1, int), np.ones(1, int))).ndim == 4


@pytest.mark.slow
def test_distances_are_drawn_for_normal_training_only():
    distances = {"regular": [0.5, 0.7], "on_true_manifold": [0.01], "clean": [0.0, 0.0]}
    results = [made_up(n_train=n, distances=distances) for n in (10, 20)]
    (picture,) = (p for p in draw_figures(results, LETTERS) if p.section is Section.CLAIM_1)
    assert "for 2 normally trained models" in picture.caption
    for others in ([made_up(ADVERSARIAL, distances=distances)], [made_up(distances={"clean": []})]):
        assert Section.CLAIM_1 not in {p.section for p in draw_figures(others, LETTERS)}
    page = report([made_up()])
    assert "Too few models with distances (0; 6 are needed)" in page
    assert "No sheets of images: they show the VAEs of the classes" in page
    assert "This run learned no manifold." in report([made_up()], replace(TINY, n_vae=0))


def test_sheets_show_test_images_their_reconstructions_and_samples(smoke, tmp_path):
    stored = stored_config(smoke)
    reconstructions, samples = draw_learned_manifold(Store(smoke, stored))
    with Image.open(io.BytesIO(reconstructions.png)) as image:
        sheet = np.asarray(image) / 255
    assert sheet.shape == (6 * 58 + 2, 10 * 58 + 2)  # ten classes, images of 28 pixels twice as large
    test, vaes = load_fonts(0, 30).test, stored_vaes(smoke / "manifolds", 10)
    for label, vae in enumerate(vaes):
        image = test.images[test.labels == label][:1]
        for row, expected in enumerate((image, vae.decode(vae.encode(image)))):
            place = sheet[2 + 58 * row :: 2, 2 + 58 * label :: 2][:28, :28]
            np.testing.assert_allclose(place, expected[0, ..., 0], atol=0.5 / 255 + 1e-6)
    assert f"each was trained on {stored.n_vae} images for {stored.vae.epochs} epochs" in reconstructions.caption
    assert "oracle" not in reconstructions.caption
    assert samples.png != reconstructions.png
    assert draw_learned_manifold(Store(tmp_path, stored)) == []
    gone = replace(stored, path=str(tmp_path / "nowhere"), trainings=(NORMAL,), true_manifold=False)
    assert draw_learned_manifold(Store(smoke, gone)) == []


def test_the_caption_says_how_far_the_oracle_can_be_trusted(smoke, tmp_path):
    store = Store(tmp_path, replace(stored_config(smoke), n_oracle=50))
    shutil.copytree(smoke / "manifolds", store.manifolds)
    config = ClassifierConfig(Architecture(Kind.CNN, (4, 8), hidden_units=12), TrainingConfig(epochs=3))
    oracle = train_once("oracle", config, load_fonts(400, 0).train, folder=store.manifolds)
    test = load_fonts(0, 1000).test
    right = (oracle.predict(test.images) == test.labels).mean()
    caption = draw_learned_manifold(store)[0].caption
    assert f"trained on 50 images; it assigns {right:.3f} of 1000 clean test images to their class" in caption
    vaes, wrong = stored_vaes(store.manifolds, 10), 0
    for label in range(10):
        images = test.images[test.labels == label]
        wrong += (oracle.predict(vaes[label].decode(vaes[label].encode(images))) != label).sum()
    said = float(re.search(r"and ([0-9.]+) of their reconstructions", caption)[1])
    assert said == pytest.approx(1 - wrong / 1000, abs=0.003)  # codes in the box only


def test_galleries_show_examples_that_fooled_the_stored_model(smoke):
    store = Store(smoke, stored_config(smoke))
    shown = {}
    for result in store.results():
        model = models.load(store.model_path(result.cell))
        for kind, examples in result.examples.items():
            np.testing.assert_array_equal(model.predict(examples.originals), examples.labels)
            np.testing.assert_array_equal(model.predict(examples.adversarial), examples.predictions)
            assert (examples.predictions != examples.labels).all()
            if kind == "regular":
                assert np.abs(examples.adversarial - examples.originals).max() <= store.config.epsilon
            shown[kind] = shown.get(kind, 0) + len(examples.labels)
    assert shown.keys() == {"regular", "on_true_manifold", "on_learned_manifold"}
    assert min(shown.values()) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "moves a pixel by at most about 0.24 from where it starts, less than the width of its ball"),
        ({"attack": PGD(steps=100)}, "within L-infinity balls of growing radius"),
        ({"norm": Norm.L2, "epsilon": 1.5}, "within L-infinity balls of growing radius"),
    ],
)
def test_a_thorough_attack_is_introduced_as_what_it_adds(settings, words):
    results = [replace(made_up(), series={SUCCESS_BY_EPSILON: np.linspace(0, 1, len(EPSILONS))})]
    assert words in report(results, replace(TINY, **{"attack": PGD()} | settings))
