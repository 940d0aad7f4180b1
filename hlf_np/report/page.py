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

from hlf_np.experiments.analysis.claim import Claim
from hlf_np.experiments.analysis.data_factor import data_factor
from hlf_np.experiments.analysis.existence import on_manifold_examples
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.measurements import Display
from hlf_np.experiments.results import CellResult, failures, mixture
from hlf_np.report.curves import compare_means, training_sizes
from hlf_np.report.figures.pictures import Picture, Section
from hlf_np.report.published import (
    PUBLISHED_DISTANCES,
    differences,
    has_published_distances,
    matching_cells,
    published,
    published_name,
)
from hlf_np.spaces import Norm
from hlf_np.support.arrays import Floats

NORM_NAMES = {Norm.LINF: "L-infinity", Norm.L2: "L2"}
PAPER_CLAIMS = 4
ADAM_REACH = 1.2  # of all steps together: while gradients grow, Adam's steps are longer than the step size
NO_SHEETS = "No sheets of images: they show the VAEs of the classes, if their files and the images can be read."
BEYOND = "<h2>Beyond the paper</h2><p>What the paper argues or leaves open, measured on the same models.</p>"
NO_EXPLORER = "There is no page to try these models by hand: "
EXPLORER_LINK = (
    '<p>Try it by hand: <a href="explore.html">explore</a> the models of this run, along the manifold and off it.</p>'
)
LEGEND = (
    'Rows and dashed lines labelled "paper" are the published means over five models, or over three for combinations of'
    " trainings. "
)


def page(
    config: RunConfig,
    command: str,
    versions: Mapping[str, str],
    results: Sequence[CellResult],
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
    no_explorer: str = "",
) -> str:
    """Return the report as an HTML page without external resources.

    Parameters
    ----------
    config : RunConfig
        Configuration of the run.
    command : str
        Command that started the run.
    versions : mapping of str to str
        Versions of the software and the hardware, by name.
    results : sequence of CellResult
        The finished cells; at least one.
    claims : sequence of Claim
        The evaluated claims.
    pictures : sequence of Picture
        The figures.
    no_explorer : str
        Why there is no explorer beside the report; empty if there is one.

    Returns
    -------
    str
        The page.
    """
    template = Template(resources.files("hlf_np.report").joinpath("template.html").read_text(encoding="utf-8"))
    paper = published(config)
    comparable = matching_cells(paper, results)
    papers, further = claims[:PAPER_CLAIMS], claims[PAPER_CLAIMS:]
    measured, curves = config.measurements, {p.name: _figure(p) for p in pictures if p.section is Section.CURVES}
    return template.substitute(
        title="Disentangling adversarial robustness and generalization",
        summary="\n".join(_summary(claim) for claim in papers),
        explorer=f"<p>{html.escape(NO_EXPLORER + no_explorer)}.</p>" if no_explorer else EXPLORER_LINK,
        further_summary=_further_summary(further),
        setting=html.escape(" ".join([_setting(config, len(results)), failures(results), mixture(results)]).rstrip()),
        claims="\n".join(_claim(claim, pictures, in_the_paper(claim, config, results, paper)) for claim in papers),
        beyond=_beyond(further, pictures, config),
        differences=f"<p>{html.escape(LEGEND + differences(config))}</p>" if paper else "",
        curves="\n".join(
            curves.pop(m.column, "") + _table(results, m.column, m.title, comparable)
            for m in measured
            if m.display in (Display.CURVE, Display.TABLE)
        )
        + "\n".join(curves.values()),
        any_restart="\n".join(_table(results, m.column, m.title) for m in measured if m.display is Display.RESTARTS),
        manifold=_figures(pictures, Section.MANIFOLD)
        or f"<p>{NO_SHEETS if config.n_vae or config.n_data_vae else 'This run learned no manifold.'}</p>",
        galleries=_figures(pictures, Section.GALLERY) or "<p>No attack succeeded.</p>",
        duration=_duration(sum(r.value("seconds") for r in results)),
        seconds=_table(results, "seconds", "Seconds per model", digits=1),
        command=html.escape(command),
        versions=html.escape(", ".join(f"{name} {version}" for name, version in versions.items())),
        config=html.escape(json.dumps(config.as_json(), indent=2)),
    )


def _setting(config: RunConfig, cells: int) -> str:
    """Describe the data, the models and the attacks of a run."""
    attack = config.attack
    known = "known" if config.true_manifold else "unknown"
    data, up_to = f"{config.dataset}, {len(config.classes)} classes, whose true manifold is {known}", "up to "
    if config.prototypes:
        data, up_to = f"letters A to J of 1000 fonts under random affine maps (FONTS, {config.difficulty})", ""
    total = sum(1 for _ in config.cells())
    count = f"{cells} of {total}" if cells < total else f"{cells}"
    models = f"{count} {config.architecture.kind.upper()} model{'s' * (total > 1)}, trained for {config.epochs} epochs"
    sentences = [
        f"Dataset: {data}.",
        f"Models: {models}{' each' * (total > 1)}; the test error is measured on {config.n_test} images.",
        f"Regular attacks: {attack.steps} steps of projected Adam within an {NORM_NAMES[config.norm]} ball of radius"
        f" {config.epsilon}, {attack.restarts} restarts, on those of {config.n_attacked} test images that the model"
        " classifies correctly.",
    ]
    if reach := _reach_within_ball(config):
        sentences.append(
            f"Such an attack moves a pixel by at most about {reach:.2g} from where it starts. Its success rates compare"
            " models, as in the paper; they do not show how robust a model is to all perturbations within the ball."
        )
    if config.true_manifold:
        sentences.append(
            f"Attacks on the true manifold change the parameters of the affine map by at most {config.latent_epsilon},"
            f" for those of {config.n_attacked_on_manifold} test images that the model classifies correctly."
        )
    if config.n_vae:
        sentences.append(
            f"The learned manifold is that of {len(config.classes)} autoencoders, one per class, each trained on"
            f" {up_to}{config.n_vae} images, independently of N; attacks on it change the codes by at most"
            f" {config.latent_epsilon}. They start at reconstructions: success is a fraction of the images whose"
            " reconstruction is classified correctly, and images whose code lies outside of [-2, 2] in some dimension,"
            " where the decoder is not to be trusted, count as withstanding."
        )
    return " ".join(sentences)


def _figures(pictures: Sequence[Picture], section: Section) -> str:
    return "\n".join(_figure(picture) for picture in pictures if picture.section is section)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(picture.description)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _table(
    results: Sequence[CellResult], column: str, title: str, published: Sequence[CellResult] = (), digits: int = 3
) -> str:
    """Return a table of means by training and N, with published means and the difference below each training."""
    bodies = ""
    for training, own, paper in compare_means(results, published, column):
        rows = _row(training.label, own, f".{digits}f")
        if np.isfinite(own - paper).any():
            rows += _row("paper", paper, f".{digits}f", "reference")
            rows += _row("difference", own - paper, f"+z.{digits}f", "reference")
        bodies += f"<tbody>{rows}</tbody>"
    head = "".join(f'<th scope="col">{size}</th>' for size in training_sizes(results))
    return bodies and (
        f'<div class="scroll"><table><caption><span>{html.escape(title)}, by number of training images</span></caption>'
        f'<thead><tr><th scope="col">Training</th>{head}</tr></thead>{bodies}</table></div>'
    )


def _row(name: str, values: Floats, number_format: str, css_class: str = "own") -> str:
    cells = "".join(f"<td>{v:{number_format}}</td>" if np.isfinite(v) else "<td>\u2013</td>" for v in values)
    return f'<tr class="{css_class}"><th scope="row">{name}</th>{cells}</tr>'


def _badge(verdict: str) -> str:
    """Return the first word of a verdict as a badge."""
    word = verdict.split(":")[0]
    return f'<span class="badge {word}">{word.capitalize()}</span>'


def _summary(claim: Claim) -> str:
    link = f'<a href="#claim-{claim.number}">{html.escape(claim.statement)}</a>'
    return f"<li>{link} {_badge(claim.verdict)}</li>"


def _reach_within_ball(config: RunConfig) -> float:
    """Return how far regular attacks can move a pixel from where they start; 0 if as far as the ball allows."""
    reach = ADAM_REACH * config.attack.steps * config.attack.step_size
    return reach if config.norm is Norm.LINF and reach < config.epsilon else 0.0


def _beyond(claims: Sequence[Claim], pictures: Sequence[Picture], config: RunConfig) -> str:
    """Return the sections on what goes beyond the paper; empty if nothing was measured."""
    sections = [_claim(claim, pictures, ()) for claim in claims]
    if robustness := _figures(pictures, Section.ROBUSTNESS):
        text = "A more thorough attack than that of the run, within L-infinity balls of growing radius."
        if reach := _reach_within_ball(config):
            text = (
                f"The attack of the run moves a pixel by at most about {reach:.2g} from where it starts, less than the"
                " width of its ball. This one reaches all of it: where its success is far higher than that of regular"
                " attacks above, the robustness reported there is that against a weak attack."
            )
        sections.append(f"<h2>How robust, really</h2><p>{text}</p>{robustness}")
    return BEYOND + "\n".join(sections) if sections else ""


def _further_summary(claims: Sequence[Claim]) -> str:
    """Return the list of the claims beyond the paper; empty if there are none."""
    if not claims:
        return ""
    items = "\n".join(_summary(claim) for claim in claims)
    return f'<p>Beyond the paper:</p><ol class="summary" start="{PAPER_CLAIMS + 1}">{items}</ol>'


def _claim(claim: Claim, pictures: Sequence[Picture], paper: Iterable[str]) -> str:
    """Return the section of a claim: its meaning, figures, verdict, details and the paper's values."""
    details = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in claim.details)
    in_the_paper = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in paper)
    return f"""<section class="claim" id="claim-{claim.number}">
<h2>Claim {claim.number}. {html.escape(claim.statement)}</h2>
<p>{html.escape(claim.meaning)}</p>
{_figures(pictures, Section(f"claim {claim.number}"))}
<div class="finding">
<p>{_badge(claim.verdict)} {html.escape(_finding(claim))}</p>
<dl>
<dt>Supported if</dt><dd>{html.escape(claim.confirmed_if)}.</dd>
<dt>Refuted if</dt><dd>{html.escape(claim.refuted_if)}.</dd>
</dl>
</div>
{f"<ul>{details}</ul>" if details else ""}
{f"<h3>In the paper</h3><ul>{in_the_paper}</ul>" if in_the_paper else ""}
</section>"""


def _finding(claim: Claim) -> str:
    """Return the statistic of a claim and, if the claim is undecided, the reason."""
    reason = claim.verdict.partition(": ")[2]
    sentences = [_sentence(reason)] if reason else []
    if claim.statistic is not None and claim.interval is not None:
        low, high = claim.interval
        value = f"{claim.statistic:z.3f} (95 % interval {low:z.3f} to {high:z.3f})"
        sentences += [_sentence(f"{claim.statistic_name}: {value}")]
    else:
        sentences += [f"The deciding statistic is the {claim.statistic_name}."]
    return " ".join(sentences)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def in_the_paper(
    claim: Claim, config: RunConfig, results: Sequence[CellResult], paper: Sequence[CellResult]
) -> Iterator[str]:
    """Yield sentences on what the published values say about a claim."""
    if claim.published is not None and claim.published.statistic is not None and claim.published.interval is not None:
        low, high = claim.published.interval
        yield (
            f"By the same rule, the paper's own values, over all of its N, give {claim.published.statistic:.3f}"
            f" ({low:.3f} to {high:.3f}): {claim.published.verdict}."
        )
    if claim.number == 2 and paper:
        own, papers = (on_manifold_examples(cells) for cells in _shared(results, paper))
        differ = own.statistic != claim.statistic or papers.statistic != (claim.published or claim).statistic
        if own.interval and papers.interval and differ:
            yield (
                f"For the trainings and N that both have, this run gives {own.statistic:.3f} ({own.interval[0]:.3f} to"
                f" {own.interval[1]:.3f}), the paper {papers.statistic:.3f} ({papers.interval[0]:.3f} to"
                f" {papers.interval[1]:.3f})."
            )
    if claim.number == 1 and paper and has_published_distances(config):
        mean_distance, low, high = PUBLISHED_DISTANCES[published_name(config)]
        yield (
            f"On the authors' poster, regular adversarial examples have a mean distance of {mean_distance}, and 90 % of"
            f" them lie between {low} and {high}."
        )
    if claim.number == 4 and paper:
        yield from _published_data_factor(data_factor(matching_cells(paper, results), min_cells=2), data_factor(paper))


def _shared(results: Sequence[CellResult], paper: Sequence[CellResult]) -> Iterator[list[CellResult]]:
    """Yield the results of a run and of the paper for the trainings and N that both have."""
    for cells, others in ((results, paper), (paper, results)):
        known = {(r.cell.training, r.cell.n_train) for r in others}
        yield [r for r in cells if (r.cell.training, r.cell.n_train) in known]


def _published_data_factor(matching: Mapping[str, Any] | None, overall: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield sentences on the data factor of the published values: within the range of the run's N, and over all N."""
    if matching is not None and matching["sizes"] != (overall or {}).get("sizes"):
        low, high = matching["sizes"]
        yield (
            f"The paper's values in the range of this run, for N from {low} to {high}, give a data factor of"
            f" {matching['factor']:.2f}."
        )
    if overall is not None:
        (low, high), (fewest, most) = overall["interval"], overall["sizes"]
        reverses = matching is not None and matching["factor"] < 1 < overall["factor"]
        conclusion = ": adversarial training saves images if there are few, and costs images if there are many"
        yield (
            f"The paper's values for all of its N, from {fewest} to {most}, give a data factor of"
            f" {overall['factor']:.2f} ({low:.2f} to {high:.2f}){conclusion if reverses else ''}."
        )


def _duration(seconds: float) -> str:
    """Format a duration: "1 h 2 min 3 s"."""
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (remainder, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
