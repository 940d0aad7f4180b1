"""Check what a student wrote in a worksheet.

Only imports, functions, classes and constants of the file are executed, not the code between them, which draws pictures
and trains networks: a check takes seconds, and an unfinished worksheet can be checked.
"""

from __future__ import annotations

import ast
import json
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from hlf_np.lessons.hints import Hint
from hlf_np.lessons.lesson import Lesson, lessons
from hlf_np.support.errors import UserError

MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)  # commands to Jupyter


class Status(StrEnum):
    """How far an exercise is."""

    DONE = "done"
    WRONG = "wrong"
    TO_DO = "to do"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one exercise.

    Parameters
    ----------
    exercise : str
        The name of the function.
    status : Status
        How far it is.
    hint : str
        What is wrong with it.
    """

    exercise: str
    status: Status
    hint: str = ""

    def __str__(self) -> str:
        return f"  {self.status:6} {self.exercise}" + (f": {self.hint}" if self.hint else "")


def check(path: Path) -> tuple[Lesson, list[Outcome]]:
    """Check a worksheet.

    Parameters
    ----------
    path : Path
        A Python file or Jupyter notebook, written by `Lesson.worksheet` and filled in.

    Returns
    -------
    lesson : Lesson
        The lesson of the worksheet.
    outcomes : list of Outcome
        One for each exercise, in their order.

    Raises
    ------
    UserError
        If the file cannot be read or executed, or belongs to no lesson.
    """
    source = _read(path)
    lesson = _lesson_of(source, path)
    answers = _definitions(source, str(path))
    checks = _definitions(lesson.source, str(lesson.path))
    return lesson, [_outcome(name, answers.get(name), checks[f"check_{name}"]) for name in lesson.exercises]


def _read(path: Path) -> str:
    """Read a program, or the code of a notebook."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
            text = MAGIC.sub("", "\n\n".join("".join(cell["source"]) for cell in cells))
        ast.parse(text)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise UserError(f"{path} is not valid Python in line {error.lineno} ({error.msg}): `{line}`") from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is neither a Python file nor a Jupyter notebook") from error
    return text


def _lesson_of(source: str, path: Path) -> Lesson:
    """Return the lesson that most functions of a file belong to."""
    written = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    lesson = max(lessons(), key=lambda lesson: len(written.intersection(lesson.exercises)))
    if not written.intersection(lesson.exercises):
        raise UserError(f"{path} has no function of any lesson: check a worksheet from `lessons N --out FILE`")
    return lesson


def _definitions(source: str, name: str) -> dict[str, Any]:
    """Execute the imports, functions, classes and constants of a program, and return its names."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for the lines of errors
    tree = ast.parse(source, name)
    tree.body = [node for node in tree.body if _is_definition(node)]
    names: dict[str, Any] = {"__name__": "worksheet"}
    try:
        exec(compile(tree, name, "exec"), names)
    except Exception as error:
        raise UserError(f"{name} stops with {type(error).__name__}: {error}") from error
    return names


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        try:
            ast.literal_eval(node.value)
        except ValueError:
            return False
        return True
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def _outcome(name: str, answer: Callable[..., Any] | None, check_answer: Callable[..., None]) -> Outcome:
    if not callable(answer):
        return Outcome(name, Status.TO_DO, "there is no function of this name.")
    try:
        with np.errstate(all="ignore"):  # the results of usual mistakes may be infinite
            check_answer(answer)
    except NotImplementedError:
        return Outcome(name, Status.TO_DO)
    except Hint as hint:
        return Outcome(name, Status.WRONG, str(hint))
    return Outcome(name, Status.DONE)
