"""Check what a student wrote in a worksheet.

Only imports, functions, classes and simple constants of the file are executed, not the code between them, which draws
pictures and trains networks: a check takes a second, and an unfinished worksheet can be checked. While one exercise is
checked, the others are replaced by their model answers, so that a mistake is reported where it is.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from hlf_np.lessons.hints import Hint
from hlf_np.lessons.lesson import Lesson, lessons
from hlf_np.support.errors import UserError

SECONDS_PER_EXERCISE = 30
# Commands to Jupyter: `%magic`, `!command`, `name?` and `x = !command`, alone on a line.
COMMAND = re.compile(r"^([ \t]*)(?:[%!?].*|[\w.]+\?\??|[\w, ]+=\s*[%!].*)$")
PYTHON_COMMANDS = {"%%time", "%%timeit", "%%capture", "%%prun"}  # for cells of Python
PURE_MODULES = {"np", "numpy", "math"}  # whose functions constants may call


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


def check(path: Path) -> tuple[Lesson, Iterator[Outcome]]:
    """Check a worksheet.

    Parameters
    ----------
    path : Path
        A Python file or Jupyter notebook, written by `Lesson.worksheet` and filled in.

    Returns
    -------
    lesson : Lesson
        The lesson of the worksheet.
    outcomes : iterator of Outcome
        One for each exercise, in their order, as it is checked.

    Raises
    ------
    UserError
        If the file cannot be read or executed, or belongs to no lesson.
    """
    source = _read(path)
    lesson = _lesson_of(source, path)
    return lesson, _outcomes(lesson, definitions(source, path))


def _outcomes(lesson: Lesson, answers: dict[str, Any]) -> Iterator[Outcome]:
    model = definitions(lesson.source, lesson.path)
    written = {name: answers.get(name) for name in lesson.exercises}
    for name in lesson.exercises:
        answers.update({other: model[other] for other in lesson.exercises} | {name: written[name]})
        yield _outcome(name, written[name], model[f"check_{name}"])


def _outcome(name: str, answer: Callable[..., Any] | None, check_answer: Callable[..., None]) -> Outcome:
    if not callable(answer):
        return Outcome(name, Status.TO_DO, "there is no function of this name.")
    try:
        # the results of usual mistakes may be infinite, and whatever the function prints would be in the way
        with np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()), _time_limit():
            check_answer(answer)
    except NotImplementedError:
        return Outcome(name, Status.TO_DO)
    except Hint as hint:
        return Outcome(name, Status.WRONG, str(hint))
    except (Exception, SystemExit) as error:
        return Outcome(name, Status.WRONG, f"the check cannot use what it does or returns ({_described(error)}).")
    return Outcome(name, Status.DONE)


def _described(error: BaseException) -> str:
    """Return the type and the text of an error, which may be empty."""
    return ": ".join(filter(None, (type(error).__name__, str(error))))


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Stop a function that does not end, with a hint."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hint(f"it has not ended after {SECONDS_PER_EXERCISE} seconds: does a loop never end?")

    if threading.current_thread() is not threading.main_thread():  # the only one that gets signals
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_PER_EXERCISE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- reading a file -------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """Read a program, or the code of a notebook."""
    is_notebook = path.suffix.lower() == ".ipynb"
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
        cells = json.loads(text)["cells"] if is_notebook else []
        code = [(number, _source(cell)) for number, cell in enumerate(cells, 1) if cell["cell_type"] == "code"]
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8: save it in that encoding") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is neither a Python file nor a Jupyter notebook") from error
    if is_notebook:
        return "\n\n".join(_python(cell, number, path) for number, cell in code)
    if problem := _syntax_error(text):
        raise UserError(f"{path} is not valid Python in {problem}")
    return text


def _source(cell: Mapping[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _python(cell: str, number: int, path: Path) -> str:
    """Return a cell without Jupyter's commands, or nothing if it is not in Python and defines no function."""
    error = _syntax_error(cell)
    if not error:
        return cell
    if cell.lstrip().startswith("%%"):
        command, _, cell = cell.lstrip().partition("\n")
        if command.split()[0] not in PYTHON_COMMANDS:
            return ""
    without = _without_commands(cell)
    if _syntax_error(without):
        if re.search(r"^def ", cell, re.MULTILINE):
            raise UserError(f"{path} is not valid Python in cell {number}, {error}")
        return ""
    return without


def _without_commands(cell: str) -> str:
    """Replace the lines that Python does not understand and Jupyter may, one after the other."""
    lines = cell.split("\n")
    for _ in lines:
        try:
            ast.parse("\n".join(lines))
        except (SyntaxError, ValueError) as error:
            number = (getattr(error, "lineno", 0) or 0) - 1
            command = COMMAND.match(lines[number]) if 0 <= number < len(lines) else None
            if not command:
                break
            lines[number] = f"{command[1]}pass"
    return "\n".join(lines)


def _syntax_error(text: str) -> str:
    """Return where the first error is, or nothing."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno} ({error.msg}): `{(error.text or '').strip()}`"
    except ValueError as error:  # zero bytes
        return f"some line ({error})"
    return ""


def _lesson_of(source: str, path: Path) -> Lesson:
    """Return the lesson that most names of a file belong to."""
    written = {name for node in ast.parse(source).body for name in _names(node)}
    lesson = max(lessons(), key=lambda lesson: len(written.intersection(lesson.exercises)))
    if not written.intersection(lesson.exercises):
        raise UserError(f"{path} has no function of any lesson: check a worksheet from `lessons N --out FILE`")
    return lesson


def _names(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    return [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]


def definitions(source: str, path: Path) -> dict[str, Any]:
    """Execute the imports, functions, classes and simple constants of a program, and return its names."""
    name = str(path)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for the lines of errors
    module = ModuleType("worksheet")
    names = vars(module)
    sys.modules[module.__name__] = module  # where dataclasses look up annotations
    sys.path.insert(0, str(path.parent))
    try:
        for node in ast.parse(source, name).body:
            if _is_definition(node):
                with contextlib.redirect_stdout(io.StringIO()), _time_limit():
                    exec(compile(ast.Module([node], []), name, "exec", dont_inherit=True), names)
    except (Exception, SystemExit) as error:
        raise UserError(f"{name} stops in line {node.lineno} with {_described(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return names


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try | ast.If):
        parts = [
            *node.body,
            *node.orelse,
            *(part for handler in getattr(node, "handlers", ()) for part in handler.body),
        ]
        return all(isinstance(part, ast.Import | ast.ImportFrom | ast.Pass) for part in parts)
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        return isinstance(node.value, ast.Lambda) or _is_constant(node.value)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def _is_constant(value: ast.expr) -> bool:
    """Whether an expression consists of literals and calls of NumPy, so that it is harmless to compute."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            root = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if not (isinstance(root, ast.Name) and root.id in PURE_MODULES):
                return False
        elif isinstance(node, ast.Name) and node.id not in PURE_MODULES:
            return False
    return True
