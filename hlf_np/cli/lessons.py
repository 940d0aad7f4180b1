"""The command for the lessons: list them, write worksheets, check them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from hlf_np.cli.options import PATH, reject_unused
from hlf_np.support.errors import UserError

CHECK = "check"


@click.command()
@click.argument("what", required=False, metavar="[N|check]")
@click.argument("files", nargs=-1, type=PATH)
@click.option("--out", type=PATH, help="File for the worksheet: a Python program (.py) or Jupyter notebook (.ipynb).")
@click.option("--answers", is_flag=True, help="Leave the model answers in the worksheet, for teachers.")
def lessons(what: str | None, files: tuple[Path, ...], out: Path | None, answers: bool) -> None:
    """List the lessons, write the worksheet of lesson N, or check worksheets.

    \b
    lessons                     list the lessons
    lessons 4 --out four.py     write the worksheet of lesson 4
    lessons check four.py       check the functions written so far

    A check executes the functions of the files. Its exit code is 0 if all exercises are done, and 1 otherwise.
    """
    if what == CHECK:
        reject_unused(["out", "answers"], "with check")
        _check(files)
    elif what is None:
        reject_unused(["out", "answers"], "without the number of a lesson")
        _list()
    elif files:
        raise UserError(f"{str(files[0])!r} is one argument too many: use --out for the file of the worksheet")
    else:
        _write(what, out, answers)


def _list() -> None:
    from hlf_np.lessons import lessons

    for lesson in lessons():
        click.echo(f"{lesson.title} ({', '.join(lesson.exercises)})")
    click.echo("\nWrite a worksheet with `lessons N --out FILE.py` or FILE.ipynb, check it with `lessons check FILE`.")
    click.echo(f"For teachers: {Path(__file__).parents[1] / 'lessons' / 'TEACHING.md'}")


def _write(number: str, out: Path | None, answers: bool) -> None:
    """Write a worksheet, but never over another file, which may hold somebody's answers."""
    from hlf_np.lessons.lesson import lesson_of
    from hlf_np.support.files import write_bytes

    if not number.isdecimal():
        raise UserError(f"{number!r} is neither the number of a lesson nor check")
    lesson = lesson_of(int(number))
    if out is None:
        raise UserError(
            f"choose a file for the worksheet: --out lesson{lesson.number}.py or lesson{lesson.number}.ipynb"
        )
    if out.suffix not in (".py", ".ipynb"):
        raise UserError(f"a worksheet is a .py or .ipynb file, not {str(out)!r}")
    if out.exists():
        raise UserError(f"{str(out)!r} exists, and may hold answers: choose another file, or delete it first")
    write_bytes(out, lesson.worksheet(notebook=out.suffix == ".ipynb", answers=answers).encode())
    click.echo(f"Saved {out}: {lesson.title}, {len(lesson.exercises)} exercises")


def _check(files: tuple[Path, ...]) -> None:
    """Check worksheets, and exit with 1 if an exercise is not done, or a file cannot be checked."""
    from hlf_np.lessons import Status, check

    if not files:
        raise UserError("which worksheet? use `lessons check FILE`")
    if len(files) > 1:  # each in its own process, as what one file does must not change the others
        command = [sys.executable, "-m", "hlf_np", "lessons", CHECK]
        codes = [subprocess.run([*command, str(file)], check=False).returncode for file in files]
        sys.exit(int(any(codes)))
    (file,) = files
    lesson, outcomes = check(file)
    click.echo(f"{file}: {lesson.title}")
    done = 0
    for outcome in outcomes:
        click.echo(outcome)
        done += outcome.status is Status.DONE
    click.echo(f"{file}: {done} of {len(lesson.exercises)} done")
    if done < len(lesson.exercises):
        sys.exit(1)
