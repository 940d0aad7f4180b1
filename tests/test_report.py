"""The report: the page and its figures say what was measured, anywhere, to anyone, without a network."""

import html
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import made_up, made_up_grid, report, rows, smoke_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from hlf_np import models
from hlf_np.data.fonts import LETTERS
from hlf_np.experiments.config import PRESETS, Preset
from hlf_np.experiments.store import Store, stored_config
from hlf_np.report.curves import curves, table
from hlf_np.report.figures import _curve_figure, draw
from hlf_np.training import Training

pytestmark = pytest.mark.filterwarnings("error")  # a run would print them

VOID = {"meta", "link", "img", "br"}  # HTML's elements without an end
MEASUREMENTS = {  # by the captions of their tables
    "Test error": "test_error",
    "Regular success rate (mean over restarts)": "regular_success",
    "Regular success rate (any restart)": "regular_success_worst",
    "On-manifold success rate (mean over restarts)": "on_true_manifold_success",
    "On-manifold success rate (any restart)": "on_true_manifold_success_worst",
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
        elif self.open and self.open[-1] == "caption":
            self.caption = data.split(" by number of training images")[0]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a finished smoke run; not to be changed."""
    return smoke_run(tmp_path_factory.getbasetemp())[0]


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
            assert attributes.get(name, "data:").startswith("data:")
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
        assert {line[0] for line in body} == {Training(row["training"]).label for row in found}
        for label, *cells in body:
            for size, cell in zip(head[1:], cells, strict=True):
                values = [
                    float(row[MEASUREMENTS[caption]])
                    for row in found
                    if (Training(row["training"]).label, row["n_train"]) == (label, size)
                ]
                assert float(cell) == pytest.approx(np.mean(values), abs=0.0005001)


def test_unmeasured_numbers_are_dashes_and_averages_leave_them_out():
    results = [
        made_up(n_train=10, seed=0, regular_success=0.25, regular_success_worst=0.5),
        made_up(n_train=10, seed=1, regular_success=math.nan),
        made_up(n_train=20, seed=0, regular_success=math.nan),
    ]
    found = Page(report(results)).tables["Regular success rate (mean over restarts)"]
    assert found == [["Training", "10", "20"], ["Normal", "0.250", "\u2013"]]
    lines = table(results).split("\n")
    assert [line.split()[1:] for line in lines if line.startswith("Normal")][1] == ["0.250", "-"]


def test_text_from_outside_is_escaped():
    command = "python -m hlf_np run --out '</pre><script>alert(1)</script> $HOME &amp; \"q\"'"
    parsed = Page(report(made_up_grid([10, 20], examples=2), command=command))
    assert command in parsed.text
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_page_shows_settings_claims_and_what_to_repeat(smoke):
    text = "".join(Page((smoke / "report.html").read_text()).text)
    stored = json.loads((smoke / "config.json").read_text())
    assert stored["command"] in text
    assert json.loads(text[text.index("All settings") + 12 : text.rindex("}") + 1]) == stored["run"]
    for claim in json.loads((smoke / "claims.json").read_text()):
        assert f"{claim['number']}. {claim['statement']}" in text
        assert claim["verdict"][1:] in text


def test_supported_claims_come_with_their_numbers():
    results = [made_up(n_train=10 + i, test_error=0.1 + i / 50, regular_success=0.9) for i in range(20)]
    text = "".join(Page(report(results)).text)
    assert "Supported. The change of regular success" in text
    assert "is 0.000 (95 % interval 0.000 to 0.000)" in text.replace("-0.000", "0.000")


@pytest.mark.parametrize("success", [0.0, math.nan])
def test_a_run_without_adversarial_examples_says_so(success):
    assert "No attack succeeded." in report([made_up(regular_success=success, regular_success_worst=success)])


@pytest.mark.parametrize("seconds", [0.0, 0.4, 59.6, 3600.0, 90_061.0])
def test_durations_are_words(seconds):
    text = "".join(Page(report([made_up(seconds=seconds)])).text)
    (duration,) = re.findall(r"Training and attacks took (.*?) on this machine", text)
    units = {"h": 3600, "min": 60, "s": 1}
    said = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", duration))
    assert said == round(seconds)
    assert duration == "less than a second" or said > 0


# --- figures --------------------------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes():
    first, second = (draw(made_up_grid([10, 20], examples=3), LETTERS) for _ in range(2))
    assert first == second
    other = draw(made_up_grid([10, 30], examples=3), LETTERS)
    assert first[0].png != other[0].png


def test_figures_on_the_page_are_those_in_the_folder(smoke):
    text = (smoke / "report.html").read_text()
    store = Store(smoke, stored_config(smoke))
    pictures = draw(store.results(), LETTERS)
    assert {f"{picture.name}.png" for picture in pictures} == {path.name for path in (smoke / "figures").iterdir()}
    for picture in pictures:
        assert (smoke / "figures" / f"{picture.name}.png").read_bytes() == picture.png
        assert html.escape(picture.caption) in text
        with Image.open(io.BytesIO(picture.png)) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not blank


@pytest.mark.parametrize("sizes", [[250], [100, 200], [1, 960_000], list(PRESETS[Preset.PAPER].sizes)])
def test_numbers_of_the_size_axis_do_not_overlap(sizes):
    figure = _curve_figure(made_up_grid(sizes), "test_error", "test error")
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
    (curve,) = curves([*results, made_up(Training.ADVERSARIAL, 5)], "regular_success")
    assert curve.training is Training.NORMAL
    np.testing.assert_array_equal(curve.sizes, [5, 10])
    np.testing.assert_allclose(curve.mean, [0.9, 0.5])
    np.testing.assert_allclose(curve.low, [0.9, 0.2])
    np.testing.assert_allclose(curve.high, [0.9, 0.8])


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
                assert np.abs(examples.adversarial - examples.originals).max() <= store.config.epsilon + 1e-6
            shown[kind] = shown.get(kind, 0) + len(examples.labels)
    assert shown.keys() == {"regular", "on_true_manifold", "on_learned_manifold"}
    assert min(shown.values()) > 0
