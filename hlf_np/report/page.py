"""The report: one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.claims import Claim, data_factor
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.measurements import Shown
from hlf_np.experiments.results import CellResult, failures
from hlf_np.report.curves import compared, sizes_of
from hlf_np.report.pictures import Picture, Section
from hlf_np.report.published import DISTANCES, beside, differences, published, published_name
from hlf_np.spaces import Norm

_BALLS = {Norm.LINF: "L-infinity", Norm.L2: "L2"}
_COMPARED = 'Rows and dashed lines called "paper" are the published means of five models. '


def page(
    config: RunConfig,
    command: str,
    versions: Mapping[str, str],
    results: Sequence[CellResult],
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
) -> str:
    """The whole page as a string."""
    template = Template(resources.files("hlf_np.report").joinpath("template.html").read_text(encoding="utf-8"))
    paper = published(config)
    same_sizes = beside(paper, results)
    measured, curves = config.measurements, {p.name: _figure(p) for p in pictures if p.section is Section.CURVES}
    return template.substitute(
        title="Disentangling adversarial robustness and generalization",
        summary="\n".join(_summary(claim) for claim in claims),
        setting=html.escape(f"{_setting(config, len(results))} {failures(results)}".rstrip()),
        claims="\n".join(
            _claim(claim, _figures(pictures, Section(f"claim {claim.number}")), _beside(claim, config, results, paper))
            for claim in claims
        ),
        differences=f"<p>{html.escape(_COMPARED + differences(config))}</p>" if same_sizes else "",
        curves="\n".join(
            curves.pop(m.column, "") + _table(results, m.column, m.title, same_sizes)
            for m in measured
            if m.shown in (Shown.CURVE, Shown.TABLE)
        )
        + "\n".join(curves.values()),
        any_restart="\n".join(_table(results, m.column, m.title) for m in measured if m.shown is Shown.ASIDE),
        manifold=_figures(pictures, Section.MANIFOLD) or "<p>This run learned no manifold.</p>",
        galleries=_figures(pictures, Section.GALLERY) or "<p>No attack succeeded.</p>",
        duration=_duration(sum(r.value("seconds") for r in results)),
        seconds=_table(results, "seconds", "Seconds for a model", digits=1),
        command=html.escape(command),
        versions=html.escape(", ".join(f"{name} {version}" for name, version in versions.items())),
        config=html.escape(json.dumps(config.as_json(), indent=2)),
    )


def _setting(config: RunConfig, cells: int) -> str:
    attack = config.attack
    known = "is known" if config.true_manifold else "nobody knows"
    data, most = f"{config.dataset}, {len(config.classes)} classes, whose true manifold {known}", "up to "
    on_manifold = ""
    if config.prototypes:
        data, most = f"letters A to J of 1000 fonts under random affine maps (FONTS, {config.difficulty})", ""
    if config.true_manifold:
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
    way = attack.steps * attack.step_size
    reach = (
        f" Such an attack moves a pixel by about {way:.1f} from where it starts: its rates compare models, as the paper"
        " does, and say less about robustness against everything within the ball."
        if way < config.epsilon and config.norm is Norm.LINF
        else ""
    )
    return (
        f"Dataset: {data}. {cells} models"
        f" ({config.architecture.kind.upper()}), {config.epochs} epochs each. Regular attacks: {attack.steps} steps of"
        f" projected Adam within an {_BALLS[config.norm]} ball of radius {config.epsilon}, {attack.restarts} restarts,"
        f" on the correctly classified among {config.n_attacked} test images{on_manifold}; test error from"
        f" {config.n_test} images.{reach}{learned}"
    )


def _figures(pictures: Sequence[Picture], section: Section) -> str:
    return "\n".join(_figure(picture) for picture in pictures if picture.section is section)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(picture.description)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _table(
    results: Sequence[CellResult], measurement: str, title: str, published: Sequence[CellResult] = (), digits: int = 3
) -> str:
    """Means by training and N; below each training, what was published for the same N and how far ours is from it."""
    bodies = ""
    for training, ours, papers in compared(results, published, measurement):
        rows = _row(training.label, ours, f".{digits}f")
        if np.isfinite(ours - papers).any():
            rows += _row("paper", papers, f".{digits}f", "beside")
            rows += _row("difference", ours - papers, f"+.{digits}f", "beside")
        bodies += f"<tbody>{rows}</tbody>"
    head = "".join(f'<th scope="col">{size}</th>' for size in sizes_of(results))
    return bodies and (
        f'<div class="scroll"><table><caption>{html.escape(title)} by number of training images</caption>'
        f'<thead><tr><th scope="col">Training</th>{head}</tr></thead>{bodies}</table></div>'
    )


def _row(name: str, numbers: Floats, form: str, kind: str = "own") -> str:
    cells = "".join(f"<td>{number:{form}}</td>" if np.isfinite(number) else "<td>\u2013</td>" for number in numbers)
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}</tr>'


def _badge(verdict: str) -> str:
    """The verdict's first word, framed."""
    word = verdict.split(":")[0]
    return f'<span class="badge {word}">{word.capitalize()}</span>'


def _summary(claim: Claim) -> str:
    link = f'<a href="#claim-{claim.number}">{html.escape(claim.statement)}</a>'
    return f"<li>{link} {_badge(claim.verdict)}</li>"


def _claim(claim: Claim, figures: str, paper: Iterable[str]) -> str:
    """A section: what the claim says, its figures, what was found, and what the paper's numbers say."""
    details = "".join(f"<li>{html.escape(line)}</li>" for line in claim.details)
    beside = "".join(f"<li>{html.escape(line)}</li>" for line in paper)
    return f"""<section class="claim" id="claim-{claim.number}">
<h2>Claim {claim.number}. {html.escape(claim.statement)}</h2>
<p>{html.escape(claim.meaning)}</p>
{figures}
<div class="finding">
<p>{_badge(claim.verdict)} {html.escape(_found(claim))}</p>
<dl>
<dt>Supported if</dt><dd>{html.escape(claim.confirmed_if)}.</dd>
<dt>Refuted if</dt><dd>{html.escape(claim.refuted_if)}.</dd>
</dl>
</div>
{f"<ul>{details}</ul>" if details else ""}
{f"<h3>In the paper</h3><ul>{beside}</ul>" if beside else ""}
</section>"""


def _found(claim: Claim) -> str:
    """The statistic, and why nothing is decided where that is so."""
    reason = claim.verdict.partition(": ")[2]
    sentences = [f"{reason[:1].upper()}{reason[1:]}."] if reason else []
    if claim.statistic is not None and claim.interval is not None:
        low, high = claim.interval
        sentences += [f"The {claim.statistic_name} is {claim.statistic:.3f} (95 % interval {low:.3f} to {high:.3f})."]
    else:
        sentences += [f"What would decide it is the {claim.statistic_name}."]
    return " ".join(sentences)


def _beside(
    claim: Claim, config: RunConfig, results: Sequence[CellResult], paper: Sequence[CellResult]
) -> Iterator[str]:
    """What the paper's own numbers say of a claim."""
    if claim.published is not None and claim.published.statistic is not None and claim.published.interval is not None:
        low, high = claim.published.interval
        yield (
            f"By the same rule, the paper's own numbers for all of its N give {claim.published.statistic:.3f}"
            f" ({low:.3f} to {high:.3f}): {claim.published.verdict}."
        )
    if claim.number == 1 and paper and published_name(config) in DISTANCES:
        mean_distance, low, high = DISTANCES[published_name(config)]
        yield (
            f"On the poster, regular adversarial examples are at a mean distance of {mean_distance}, nine of ten"
            f" between {low} and {high}."
        )
    if claim.number == 4 and paper:
        yield from _price_beside(data_factor(beside(paper, results), fewest=2), data_factor(paper))


def _price_beside(same: Mapping[str, Any] | None, whole: Mapping[str, Any] | None) -> Iterator[str]:
    """The data factor of the paper's numbers: for the N of this run, and for all."""
    if same is not None:
        yield (
            f"The paper's numbers for the same N, from {same['sizes'][0]} to {same['sizes'][1]}, give a data factor of"
            f" {same['factor']:.2f}."
        )
    if whole is not None:
        (low, high), (fewest, most) = whole["interval"], whole["sizes"]
        turned = same is not None and same["factor"] < 1 < whole["factor"]
        conclusion = ": with few images adversarial training helps, its price shows with many" if turned else ""
        yield (
            f"For all of its N, from {fewest} to {most}, they give {whole['factor']:.2f} ({low:.2f} to"
            f" {high:.2f}){conclusion}."
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
