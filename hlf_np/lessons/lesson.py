"""A lesson: one file, from which worksheets are written.

The file is a Python program in cells, as many editors show it. A line `# %%` begins a cell of code, `# %% [markdown]` a
cell of text in comments, and `# %% [checks]` the rest, which worksheets leave out: a function `check_NAME` for each
exercise, which is the function NAME in a cell. Its body is the model answer, its docstring the task.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hlf_np.support.errors import UserError

FOLDER = Path(__file__).parent / "worksheets"
CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
TO_DO = 'raise NotImplementedError("your code")'


@dataclass(frozen=True)
class Cell:
    """A cell of a worksheet: code, or Markdown text."""

    source: str
    is_text: bool = False


@dataclass(frozen=True)
class Lesson:
    """A lesson.

    Parameters
    ----------
    path : Path
        Its file; the name begins with its number.
    """

    path: Path

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return int(self.path.name.split("_")[0])

    @cached_property
    def source(self) -> str:
        """The text of the file, with answers and checks."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def title(self) -> str:
        """The heading of its first cell."""
        return self.cells[0].source.splitlines()[0].lstrip("# ")

    @cached_property
    def exercises(self) -> tuple[str, ...]:
        """The names of the functions to write, in their order."""
        names = [node.name for node in ast.parse(self.source).body if isinstance(node, ast.FunctionDef)]
        return tuple(name for name in names if f"check_{name}" in names)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of the worksheet, with the model answers."""
        _, *parts = CELL.split(self.source)
        cells = []
        for kind, source in zip(parts[::2], parts[1::2], strict=True):
            if kind.strip() == "[checks]":
                break
            is_text = kind.strip() == "[markdown]"
            text = re.sub(r"^# ?", "", source, flags=re.MULTILINE) if is_text else source
            cells.append(Cell(text.strip(), is_text))
        return tuple(cells)

    def worksheet(self, notebook: bool = False, answers: bool = False) -> str:
        """Return the worksheet.

        Parameters
        ----------
        notebook : bool
            Whether to return a Jupyter notebook, or else a Python program in cells.
        answers : bool
            Whether to leave the model answers in.

        Returns
        -------
        str
            The content of the file.
        """
        cells = [
            cell if cell.is_text or answers else Cell(_without_answers(cell.source, self.exercises))
            for cell in self.cells
        ]
        if not notebook:
            return "\n\n".join(_as_program(cell) for cell in cells) + "\n"
        return json.dumps(_as_notebook(cells), indent=1, ensure_ascii=False) + "\n"


def _without_answers(source: str, exercises: tuple[str, ...]) -> str:
    """Replace the body of each exercise in a cell, after its docstring."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and node.name in exercises:
            docstring = node.body[0]
            lines[docstring.end_lineno : node.end_lineno] = [f"    {TO_DO}"]
    return "\n".join(lines)


def _as_program(cell: Cell) -> str:
    if not cell.is_text:
        return f"# %%\n{cell.source}"
    return "# %% [markdown]\n" + "\n".join(f"# {line}".rstrip() for line in cell.source.splitlines())


def _as_notebook(cells: list[Cell]) -> dict[str, object]:
    """Return the cells in the notebook format, version 4.5."""
    code: dict[str, object] = {"execution_count": None, "outputs": []}
    return {
        "cells": [
            {
                "cell_type": "markdown" if cell.is_text else "code",
                "id": f"cell-{number}",
                "metadata": {},
                "source": cell.source.splitlines(keepends=True),
                **({} if cell.is_text else code),
            }
            for number, cell in enumerate(cells, 1)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def lessons() -> list[Lesson]:
    """Return all lessons, in their order."""
    return sorted((Lesson(path) for path in FOLDER.glob("*.py")), key=lambda lesson: lesson.number)


def lesson_of(number: int) -> Lesson:
    """Return the lesson with the given number.

    Raises
    ------
    UserError
        If there is none.
    """
    known = lessons()
    for lesson in known:
        if lesson.number == number:
            return lesson
    raise UserError(f"there is no lesson {number}: choose one from 1 to {len(known)}")
