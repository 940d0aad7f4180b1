"""Commands that are independent of the experiment: benchmarks and the FONTS dataset."""

from __future__ import annotations

from pathlib import Path

import click

from hlf_np.cli.options import PATH, option, path_option, reject_unused, seed_option, threads_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@threads_option
def bench(as_json: bool) -> None:
    """Measure the speed of the kernels on this machine.

    Takes about a minute for one thread, and about as long again for each of 2, 4, ... and --threads threads. The
    machine should be otherwise idle.
    """
    import json
    from dataclasses import asdict

    import numba

    from hlf_np.cli.benchmarks import TABLE_HEADER, TILE, measure, table_row

    results = measure(numba.get_num_threads())
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    click.echo(TILE)
    click.echo(TABLE_HEADER)
    for result in results:
        click.echo(table_row(result))


@click.group(invoke_without_command=True)
@path_option("--out", "fonts-sheets", "Folder for the pictures.")
@click.option("--prototypes", type=PATH, help="File created by `fonts build`. [default: the prototypes of FONTS]")
@seed_option
@click.pass_context
def fonts(context: click.Context, out: Path, prototypes: Path | None, seed: int) -> None:
    """Draw sheets of FONTS, or build a new set of prototypes.

    The sheets show the prototypes, and random images of each difficulty.
    """
    if context.invoked_subcommand:
        reject_unused(["out", "prototypes", "seed"], f"before `{context.invoked_subcommand}`")
        return
    from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
    from hlf_np.random import generator
    from hlf_np.report.figures.sheets import contact_sheet, grid
    from hlf_np.support.files import replace_file

    images = load_prototypes(prototypes)
    sheets = {"prototypes": contact_sheet(images, rows_per_column=100)}
    for difficulty in Difficulty:
        source = Fonts(images, difficulty, seed)
        starts = generator(seed, "sheet").integers(source.train_size // source.classes, size=12) * source.classes
        indices = (starts[:, None] + range(source.classes)).ravel()  # each row: the ten letters of one font
        sample = source.split(indices).images.reshape(len(starts), source.classes, *images.shape[2:])
        sheets[str(difficulty)] = grid(sample, scale=2)
    for name, sheet in sheets.items():
        path = out / f"{name}.png"
        with replace_file(path) as stream:
            sheet.save(stream, format="png")
        click.echo(f"Saved {path}")


@fonts.command()
@click.argument("directories", nargs=-1, required=True, type=PATH)
@path_option("--out", "prototypes.npz", "File for the prototypes.")
@click.option("--faces", type=click.IntRange(1), help="Number of faces to keep. [default: all usable ones]")
@option("--per-family", type=click.IntRange(1), default=8, help="Maximum number of faces of one family.")
def build(directories: tuple[Path, ...], out: Path, faces: int | None, per_family: int) -> None:
    """Build prototypes from all font files below DIRECTORIES."""
    from hlf_np.data.fonts import load_prototypes, rendering
    from hlf_np.data.fonts.selection import family_key

    kept, rejected = rendering.build_prototypes(
        directories, faces=faces, per_family=per_family, known=load_prototypes()
    )
    rendering.write_prototypes(kept, out)
    click.echo(f"Saved {out}: {len(kept)} faces of {len({family_key(face.family) for face in kept})} families")
    for line in rendering.rejection_summary(rejected, 10):
        click.echo(f"  left out {line}")
