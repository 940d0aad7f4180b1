"""Write every file of a results folder that is derived from its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hlf_np.experiments.analysis.claim import Claim
from hlf_np.experiments.analysis.claims import evaluate_claims
from hlf_np.experiments.results import CellResult
from hlf_np.experiments.storage.store import Store
from hlf_np.report.explorer.build import explorer
from hlf_np.report.figures.draw import draw_figures
from hlf_np.report.figures.pictures import write_pictures
from hlf_np.report.figures.reconstructions import draw_learned_manifold
from hlf_np.report.page import page
from hlf_np.report.published import published, published_distances
from hlf_np.support.errors import UserError
from hlf_np.support.files import json_text, write_text

EXPLORER = "explore.html"


def write_report(store: Store, results: Sequence[CellResult]) -> list[Claim]:
    """Write results.csv, claims.json, figures/, report.html and, if it can show the run, explore.html.

    Parameters
    ----------
    store : Store
        Results folder to write to.
    results : sequence of CellResult
        The finished cells.

    Returns
    -------
    list of Claim
        The evaluated claims.
    """
    paper = published(store.config)
    claims = evaluate_claims(results, paper)
    store.write_csv(results)
    write_text(store.folder / "claims.json", json_text([claim.as_json() for claim in claims]))
    distances = published_distances(store.config)
    figures = draw_figures(results, store.config.classes, paper, store.config.catalogue, distances)
    pictures = [*figures, *draw_learned_manifold(store)]
    write_pictures(pictures, store.folder)
    record = json.loads((store.folder / "config.json").read_text())
    no_explorer = ""
    try:
        write_explorer(store, results)
    except UserError as error:  # networks or images that the page cannot show, or damaged files
        (store.folder / EXPLORER).unlink(missing_ok=True)
        no_explorer = str(error)
    text = page(store.config, record["command"], record["versions"], results, claims, pictures, no_explorer)
    write_text(store.folder / "report.html", text)
    return claims


def write_explorer(store: Store, results: Sequence[CellResult]) -> Path:
    """Write explore.html, and return its path.

    Raises
    ------
    UserError
        If the page cannot show the models or the images of the run.
    """
    path = store.folder / EXPLORER
    write_text(path, explorer(store, results))
    return path
