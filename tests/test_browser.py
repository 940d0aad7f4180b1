"""The report in a browser: nothing is cut off, nothing goes wrong, nothing is asked for."""

import html
import json
import re
import shutil
import subprocess

import pytest
from helpers import made_up_grid, report

from hlf_np.experiments.configuration.config import PRESETS, Preset

WIDTHS = (390, 1000, 1280)
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
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium")
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{html.escape(source)}"></iframe>' for w in WIDTHS)
    (folder / "frames.html").write_text(f'<!doctype html><meta charset="utf-8"><script>{MEASURE}</script>{frames}')
    shown = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom"),
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (title,) = re.findall("<title>(.*?)</title>", shown.stdout)[:1]
    return json.loads(html.unescape(title)), [line for line in shown.stderr.split("\n") if ":CONSOLE" in line]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_page_that_breaks_these_rules_is_noticed(tmp_path):
    bad = '<img src="http://127.0.0.1:9/a.png"><p style="width: 2000px">wide</p><script>console.error("no")</script>'
    frames, said = look(f"<!doctype html><title>bad</title>{bad}", tmp_path)
    assert any('"no"' in line for line in said)
    for frame in frames:
        assert frame["needed"] > frame["width"]
        assert frame["requests"] == ["http://127.0.0.1:9/a.png"]
        assert frame["images"][0][0] == 0
