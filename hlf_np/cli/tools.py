"""Commands beside the experiment: how fast this machine is, and what FONTS looks like."""

from __future__ import annotations

from pathlib import Path

import click

from hlf_np.cli.options import PATH, option, path_option, refuse_unused, seed_option, threads_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON list.")
@threads_option
def bench(as_json: bool) -> None:
    """Measure what this machine can do and how near the kernels come.

    Takes about a minute for one thread, and again for 2, 4, ... up to --threads. Let nothing else run meanwhile.
    """
    import json
    from dataclasses import asdict

    import numba

    from hlf_np.benchmarks import HEAD, line, measure

    measurements = measure(numba.get_num_threads())
    if as_json:
        click.echo(json.dumps([asdict(measurement) for measurement in measurements], indent=2))
        return
    click.echo(HEAD)
    for measurement in measurements:
        click.echo(line(measurement))


@click.group(invoke_without_command=True)
@path_option("--out", "fonts-sheets", "Folder of the pictures.")
@click.option("--prototypes", type=PATH, help="A file of `fonts build`. [default: the shipped one]")
@seed_option
@click.pass_context
def fonts(context: click.Context, out: Path, prototypes: Path | None, seed: int) -> None:
    """Draw the prototypes and random images of each difficulty; or build your own set."""
    if context.invoked_subcommand:
        refuse_unused(["out", "prototypes", "seed"], f"`fonts` before `{context.invoked_subcommand}`")
        return
    from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
    from hlf_np.files import replace_file
    from hlf_np.random import generator
    from hlf_np.report.sheets import contact_sheet, grid

    images = load_prototypes(prototypes)
    sheets = {"prototypes": contact_sheet(images, rows_per_column=100)}
    for difficulty in Difficulty:
        source = Fonts(images, difficulty, seed)
        chosen = generator(seed, "sheet").integers(source.train_size // source.classes, size=12) * source.classes
        numbers = (chosen[:, None] + range(source.classes)).ravel()  # each row: the ten letters of one font
        sample = source.split(numbers).images.reshape(len(chosen), source.classes, *images.shape[2:])
        sheets[str(difficulty)] = grid(sample, scale=2)
    for name, sheet in sheets.items():
        with replace_file(out / f"{name}.png") as stream:
            sheet.save(stream, format="png")
        click.echo(f"Saved {out / f'{name}.png'}")


@fonts.command()
@click.argument("directories", nargs=-1, required=True, type=PATH)
@path_option("--out", "prototypes.npz", "File of the prototypes.")
@click.option("--faces", type=click.IntRange(1), help="How many to keep. [default: all usable ones]")
@option("--per-family", type=click.IntRange(1), default=8, help="Most faces of one family.")
def build(directories: tuple[Path, ...], out: Path, faces: int | None, per_family: int) -> None:
    """Make prototypes from the font files below DIRECTORIES."""
    from hlf_np.data import font_files
    from hlf_np.data.font_selection import family_key
    from hlf_np.data.fonts import load_prototypes

    kept, rejected = font_files.build(directories, faces=faces, per_family=per_family, known=load_prototypes())
    font_files.write(kept, out)
    click.echo(f"Saved {out}: {len(kept)} faces of {len({family_key(face.family) for face in kept})} families")
    for line in font_files.summary(rejected, 10):
        click.echo(f"  left out {line}")
