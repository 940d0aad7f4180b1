"""The report in a browser: nothing is cut off, nothing goes wrong, nothing is asked for."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import made_up_grid, main, report, rows
from PIL import Image

from hlf_np import models
from hlf_np.experiments.configuration.config import PRESETS, Preset

pytestmark = pytest.mark.stress
WIDTHS = (360, 390, 1000, 1280, 1600)
MEASURE = """
onload = () => document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => ({
  width: frame.contentWindow.innerWidth,
  needed: frame.contentDocument.documentElement.scrollWidth,
  images: [...frame.contentDocument.images].map(image => [image.naturalWidth, image.getBoundingClientRect()]),
  requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
})));
"""


def look(source, folder):
    """A page as Chromium shows it in narrow and wide windows, and what it says to the console."""
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{html.escape(source)}"></iframe>' for w in WIDTHS)
    return title_of(f'<!doctype html><meta charset="utf-8"><script>{MEASURE}</script>{frames}', folder)


def title_of(source, folder):
    """The title of a page, which is JSON, after Chromium has run its scripts, and what it says to the console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium")
    (folder / "page.html").write_text(source)
    shown = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom"),
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (title,) = re.findall("<title>(.*?)</title>", shown.stdout)[:1]
    return json.loads(html.unescape(title)), [line for line in shown.stderr.split("\n") if ":CONSOLE" in line]


@pytest.mark.parametrize("preset", [Preset.SMOKE, Preset.PAPER])
def test_browsers_show_the_page_at_any_width_and_ask_nobody(smoke, tmp_path, preset):
    if preset is Preset.SMOKE:
        text = (smoke / "report.html").read_text()
    else:
        text = report(made_up_grid(PRESETS[preset].sizes, examples=10), PRESETS[preset])
    frames, said = look(text, tmp_path)
    assert said == []
    assert [frame["width"] for frame in frames] == list(WIDTHS)
    for frame in frames:
        assert frame["needed"] <= frame["width"]
        assert frame["requests"] == []
        assert len(frame["images"]) == text.count("<img ") >= 4
        for natural, place in frame["images"]:
            assert natural > 0
            assert min(place["width"], place["height"]) > 50
            assert 0 <= place["left"] < place["right"] <= frame["width"]


def test_a_page_that_breaks_these_rules_is_noticed(tmp_path):
    bad = '<img src="http://127.0.0.1:9/a.png"><p style="width: 2000px">wide</p><script>console.error("no")</script>'
    frames, said = look(f"<!doctype html><title>bad</title>{bad}", tmp_path)
    assert any('"no"' in line for line in said)
    for frame in frames:
        assert frame["needed"] > frame["width"]
        assert frame["requests"] == ["http://127.0.0.1:9/a.png"]
        assert frame["images"][0][0] == 0


# --- the explorer ---------------------------------------------------------------------------------------------


def test_the_explorer_fits_any_window_and_asks_nobody(smoke, tmp_path):
    frames, said = look((smoke / "explore.html").read_text(), tmp_path)
    assert said == []
    assert [frame["width"] for frame in frames] == list(WIDTHS)
    for frame in frames:
        assert frame["needed"] <= frame["width"]
        assert frame["requests"] == []


COLOURS = """
<script>
onload = () => {
  const middle = (canvas) => [...canvas.getContext("2d").getImageData(4, 4, 1, 1).data];
  const cells = [...document.querySelectorAll("#compare-models th")].map((cell) => cell.textContent);
  document.title = JSON.stringify({ seen: [...document.querySelectorAll("#letters canvas")].map(middle), cells });
};
</script>
"""


def test_the_explorer_shows_colours_and_long_names_of_classes(tmp_path):
    names = {"red_" + 20 * "x": (200, 0, 0), "blue_" + 20 * "y": (0, 0, 200)}
    random = np.random.default_rng(0)
    for name, colour in names.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            noise = random.integers(55, size=(8, 8, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    folder = tmp_path / "results"
    options = ("--preset", "smoke", "--trainings", "normal", "--sizes", "20", "--vae-images", "0")
    assert main("run", *options, "--dataset", tmp_path / "images", "--out", folder)[0] == 0
    page = (folder / "explore.html").read_text()
    results, said = title_of(page + COLOURS, tmp_path)
    assert said == []
    assert results["cells"] == ["Normal"]
    blue, red = results["seen"][0], results["seen"][-1]  # classes in alphabetical order
    assert blue[2] > 2 * blue[0]
    assert red[0] > 2 * red[2]
    frames, _ = look(page, tmp_path)
    assert all(frame["needed"] <= frame["width"] for frame in frames)


TRY = """
<script>
onload = async () => {
  const text = (id) => document.getElementById(id).textContent, results = {};
  const pixels = Array.from({ length: 784 }, (_, i) => ((i * 37) % 101) / 100);
  results.logits = Object.fromEntries(hlf_np.models.map((name) => [name, hlf_np.logits(name, pixels)]));
  const said = (space) => document.querySelector(`#attack-${space} .said`).textContent;
  results.before = said("image");
  for (let k = 0; k < 200; k++) document.getElementById("attack-step").click();
  for (const space of ["image", "true", "learned"]) results[space] = said(space);
  const slider = document.querySelector("#walk-sliders input");
  const walk = text("walk-models");
  slider.value = slider.max; slider.dispatchEvent(new Event("input"));
  results.walked = text("walk-models") !== walk;
  const started = performance.now();
  for (let k = 0; k < 20; k++) slider.dispatchEvent(new Event("input"));
  results.drag = (performance.now() - started) / 20;
  document.querySelectorAll("#letters button")[4].click();
  results.pressed = [...document.querySelectorAll("#letters button")].map((b) => b.getAttribute("aria-pressed"));
  results.rows = document.querySelectorAll("#learned-models tr").length;
  document.title = JSON.stringify(results);
};
</script>
"""


def test_the_explorer_attacks_walks_and_answers_scripts_as_python_does(smoke, tmp_path):
    results, said = title_of((smoke / "explore.html").read_text() + TRY, tmp_path)
    assert said == []
    trainings = list(dict.fromkeys(row["training"] for row in rows(smoke)))
    assert list(results["logits"]) == trainings
    pixels = (np.arange(784) * 37 % 101 / 100).astype(np.float32).reshape(1, 28, 28, 1)
    for training, logits in results["logits"].items():
        (expected,) = models.load(smoke / "models" / f"{training}-200-0.npz").logits(pixels)
        np.testing.assert_allclose(logits, expected, atol=5e-3 * np.abs(expected).max())
    assert results["before"].startswith("After 0 steps: ")
    distances = {}
    for space in ("image", "true", "learned"):
        steps, change = re.search(r"After (\d+) steps.* of a pixel: ([0-9]+.[0-9]+)", results[space]).groups()
        assert int(steps) >= 1
        assert float(change) > 0
        distances[space] = float(re.search("manifold: ([0-9]+.[0-9]+)", results[space])[1])
    assert distances["true"] < 0.3
    assert distances["image"] > 0
    assert results["walked"]
    assert results["pressed"].index("true") == 4
    assert results["pressed"].count("true") == 1
    assert results["rows"] == len(trainings)
