"""Pack the finished models of a run into a few small archives, from which it can be continued elsewhere.

    python bench/pack_cells.py RESULTS ARCHIVES
    mkdir results && for archive in ARCHIVES/*.tar; do tar -xf $archive -C results; done

Writes `shared.tar` (configuration, autoencoders and oracle) and `seed-K.tar` for each seed. The networks are left out,
which only the explorer needs, and so are the adversarial examples but those of the largest N and the first seed.
The same results give the same bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from hlf_np.experiments.results import Cell
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.experiments.storage.store import CellFiles, Store


def pack(target: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write an archive of named files; without times and owners, so that it is always the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("archives", type=click.Path(path_type=Path))
def main(folder: Path, archives: Path) -> None:
    """Pack a results folder."""
    config = stored_config(folder)
    store = Store(folder, config)
    shared = [folder / "config.json", *sorted(folder.glob("manifolds/*.npz"))]
    pack(archives / "shared.tar", ((str(path.relative_to(folder)), path.read_bytes()) for path in shared))

    def content(cell: Cell) -> bytes:
        result = store.load(cell)
        keeps_examples = cell.seed == 0 and cell.n_train == max(config.sizes)
        return CellFiles.of(result if keeps_examples else replace(result, examples={}), None, config).result

    for seed in range(config.seeds):
        cells = [cell for cell in config.cells() if cell.seed == seed]
        finished = [cell for cell in cells if store.has(cell)]
        if finished:
            pack(archives / f"seed-{seed}.tar", ((f"cells/{cell.name}.npz", content(cell)) for cell in finished))
            print(f"seed {seed}: {len(finished)} of {len(cells)} models")


if __name__ == "__main__":
    main()
