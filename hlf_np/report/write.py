"""Everything in a results folder that is made from its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hlf_np.experiments.claims import Claim, evaluate_claims
from hlf_np.experiments.results import CellResult
from hlf_np.experiments.store import Store
from hlf_np.files import json_text, write_text
from hlf_np.report.figures import draw
from hlf_np.report.manifolds import draw_manifolds
from hlf_np.report.page import page
from hlf_np.report.pictures import write_pictures
from hlf_np.report.published import published


def write_report(store: Store, results: Sequence[CellResult]) -> list[Claim]:
    """Write results.csv, claims.json, figures/ and report.html; returns what became of the claims."""
    paper = published(store.config)
    claims = evaluate_claims(results, paper)
    store.write_csv(results)
    write_text(store.folder / "claims.json", json_text([claim.as_json() for claim in claims]))
    pictures = [*draw(results, store.config.classes, paper, store.config.catalogue), *draw_manifolds(store)]
    write_pictures(pictures, store.folder)
    record = json.loads((store.folder / "config.json").read_text())
    text = page(store.config, record["command"], record["versions"], results, claims, pictures)
    write_text(store.folder / "report.html", text)
    return claims
