"""Pack the finished models of a run into a few small archives, from which it can be continued elsewhere.

    python bench/pack_cells.py RESULTS ARCHIVES
    mkdir results && for archive in ARCHIVES/*.tar; do tar -xf $archive -C results; done

Writes `shared.tar` (configuration, autoencoders and oracle) and `seed-K.tar` for each seed. The networks are left out,
which only the explorer needs, and so are the adversarial examples but those of the largest N and the first seed.
The same results give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np

from hlf_np.experiments.results import Cell
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.support.files import read_arrays


def without_examples(path: Path) -> bytes:
    """Return the file of a cell without its adversarial examples."""
    arrays = {name: array for name, array in read_arrays(path).items() if not name.startswith("examples/")}
    content = json.loads(str(arrays.pop("content")))
    stream = io.BytesIO()
    np.savez_compressed(stream, content=np.array(json.dumps(content | {"examples": []})), **arrays)
    return stream.getvalue()


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
    shared = [folder / "config.json", *sorted(folder.glob("manifolds/*.npz"))]
    pack(archives / "shared.tar", ((str(path.relative_to(folder)), path.read_bytes()) for path in shared))

    def content(cell: Cell, path: Path) -> bytes:
        keeps_examples = cell.seed == 0 and cell.n_train == max(config.sizes)
        return path.read_bytes() if keeps_examples else without_examples(path)

    for seed in range(config.seeds):
        named = [(cell, f"cells/{cell.name}.npz") for cell in config.cells() if cell.seed == seed]
        finished = [(cell, name) for cell, name in named if (folder / name).exists()]
        if finished:
            pack(archives / f"seed-{seed}.tar", ((name, content(cell, folder / name)) for cell, name in finished))
            print(f"seed {seed}: {len(finished)} of {len(named)} models")


if __name__ == "__main__":
    main()
