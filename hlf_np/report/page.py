"""The report: one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from importlib import resources
from string import Template

from hlf_np.experiments.claims import Claim
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.store import CellResult
from hlf_np.report.curves import values
from hlf_np.report.figures import Picture
from hlf_np.training import Training

CURVES = ("test_error", "regular_success", "on_true_manifold_success")
SCATTER = ("success_against_error",)


def page(
    config: RunConfig,
    command: str,
    results: Sequence[CellResult],
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
) -> str:
    """The whole page as a string."""
    template = Template(resources.files("hlf_np.report").joinpath("template.html").read_text(encoding="utf-8"))
    galleries = [p for p in pictures if p.name not in CURVES + SCATTER]
    return template.substitute(
        title="Disentangling adversarial robustness and generalization",
        setting=html.escape(_setting(config, len(results))),
        curves="\n".join(_figure(p) for p in pictures if p.name in CURVES),
        scatter="\n".join(_figure(p) for p in pictures if p.name in SCATTER),
        galleries="\n".join(_figure(p) for p in galleries) or "<p>No attack succeeded.</p>",
        tables="\n".join(
            (
                _table(results, "test_error", "Test error"),
                _table(results, "regular_success", "Regular success rate (mean over restarts)"),
                _table(results, "regular_success_worst", "Regular success rate (any restart)"),
                _table(results, "on_true_manifold_success", "On-manifold success rate (mean over restarts)"),
                _table(results, "on_true_manifold_success_worst", "On-manifold success rate (any restart)"),
            )
        ),
        claims="\n".join(_claim(claim) for claim in claims),
        duration=_duration(sum(r.measurements.seconds for r in results)),
        command=html.escape(command),
        config=html.escape(json.dumps(config.as_json(), indent=2)),
    )


def _setting(config: RunConfig, cells: int) -> str:
    attack = config.attack
    return (
        f"Dataset: letters A to J of 1000 fonts under random affine maps (FONTS, {config.difficulty}). {cells} models"
        f" ({config.architecture.kind.upper()}), {config.epochs} epochs each. Regular attacks: {attack.steps} steps of"
        f" projected Adam within an L-infinity ball of radius {config.epsilon}, {attack.restarts} restarts, on the"
        f" correctly classified among {config.n_attacked} test images; on the true manifold, within"
        f" {config.latent_epsilon} of the affine parameters, among {config.n_attacked_on_manifold}; test error from"
        f" {config.n_test} images."
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(picture.description)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _table(results: Sequence[CellResult], measurement: str, title: str) -> str:
    sizes = sorted({r.cell.n_train for r in results})
    head = "".join(f'<th scope="col">{size}</th>' for size in sizes)
    rows = []
    for training in Training:
        cells = [values(results, training, measurement, size) for size in sizes]
        if any(cell.size for cell in cells):
            numbers = "".join(f"<td>{cell.mean():.3f}</td>" if cell.size else "<td>\u2013</td>" for cell in cells)
            rows.append(f'<tr><th scope="row">{training.label}</th>{numbers}</tr>')
    return (
        f'<div class="scroll"><table><caption>{title} by number of training images</caption>'
        f'<thead><tr><th scope="col">Training</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _claim(claim: Claim) -> str:
    found = f"{claim.verdict.capitalize()}."
    if claim.statistic is not None and claim.interval is not None:
        low, high = claim.interval
        found += f" The {claim.statistic_name} is {claim.statistic:.3f} (95 % interval {low:.3f} to {high:.3f})."
    statement = html.escape(claim.statement)
    return f'<div class="claim"><p><strong>{claim.number}. {statement}</strong><br>{html.escape(found)}</p></div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
