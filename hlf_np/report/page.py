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
from hlf_np.experiments.store import CellResult, failures
from hlf_np.report.curves import ANY_RESTART, MEASUREMENTS, has, values
from hlf_np.report.pictures import Picture, Section
from hlf_np.spaces import Norm
from hlf_np.training import Training

_BALLS = {Norm.LINF: "L-infinity", Norm.L2: "L2"}


def page(
    config: RunConfig,
    command: str,
    results: Sequence[CellResult],
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
) -> str:
    """The whole page as a string."""
    template = Template(resources.files("hlf_np.report").joinpath("template.html").read_text(encoding="utf-8"))
    curves = {p.name: _figure(p) for p in pictures if p.section is Section.CURVES}
    return template.substitute(
        title="Disentangling adversarial robustness and generalization",
        setting=html.escape(f"{_setting(config, len(results))} {failures(results)}".rstrip()),
        curves="\n".join(curves.get(name, "") + _table(results, name, title) for name, title in MEASUREMENTS.items()),
        any_restart="\n".join(_table(results, name, title) for name, title in ANY_RESTART.items()),
        scatter=_figures(pictures, Section.SCATTER),
        distances=_figures(pictures, Section.DISTANCES) or "<p>No distance was measured.</p>",
        manifold=_figures(pictures, Section.MANIFOLD) or "<p>This run learned no manifold.</p>",
        galleries=_figures(pictures, Section.GALLERY) or "<p>No attack succeeded.</p>",
        claims="\n".join(_claim(claim) for claim in claims),
        duration=_duration(sum(r.measurements.seconds for r in results)),
        command=html.escape(command),
        config=html.escape(json.dumps(config.as_json(), indent=2)),
    )


def _setting(config: RunConfig, cells: int) -> str:
    attack = config.attack
    data, most = f"{config.dataset}, {len(config.classes)} classes, whose true manifold nobody knows", "up to "
    on_manifold = ""
    if config.has_true_manifold:
        data, most = f"letters A to J of 1000 fonts under random affine maps (FONTS, {config.difficulty})", ""
        on_manifold = (
            f"; on the true manifold, within {config.latent_epsilon} of the affine parameters, among"
            f" {config.n_attacked_on_manifold}"
        )
    learned = (
        f" The learned manifold is that of {len(config.classes)} autoencoders, one for each class, trained on"
        f" {most}{config.n_vae} images each whatever N is; attacks stay within {config.latent_epsilon} of their codes."
        if config.n_vae
        else ""
    )
    return (
        f"Dataset: {data}. {cells} models"
        f" ({config.architecture.kind.upper()}), {config.epochs} epochs each. Regular attacks: {attack.steps} steps of"
        f" projected Adam within an {_BALLS[config.norm]} ball of radius {config.epsilon}, {attack.restarts} restarts,"
        f" on the correctly classified among {config.n_attacked} test images{on_manifold}; test error from"
        f" {config.n_test} images.{learned}"
    )


def _figures(pictures: Sequence[Picture], section: Section) -> str:
    return "\n".join(_figure(picture) for picture in pictures if picture.section is section)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(picture.description)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _table(results: Sequence[CellResult], measurement: str, title: str) -> str:
    if not has(results, measurement):
        return ""
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
    lines = [f"<strong>{claim.number}. {html.escape(claim.statement)}</strong>"]
    lines += [html.escape(line) for line in (found, *claim.details)]
    return f'<div class="claim"><p>{"<br>".join(lines)}</p></div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
