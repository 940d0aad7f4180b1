"""The lessons: model answers pass, usual mistakes get their own hints, and worksheets run as notebooks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import main
from lesson_mistakes import WRONG

from hlf_np.lessons import Hint, Status, call, check, compare, hints, lessons, numerical_gradient
from hlf_np.lessons.check import definitions

LESSONS = lessons()
by_title = pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.path.stem for lesson in LESSONS])


@by_title
@pytest.mark.parametrize("ending", [".py", ".ipynb"])
def test_model_answers_pass_and_an_empty_worksheet_is_to_do(lesson, ending, tmp_path):
    for answers, status in ((True, Status.DONE), (False, Status.TO_DO)):
        path = tmp_path / f"{answers}{ending}"
        path.write_text(lesson.worksheet(ending == ".ipynb", answers))
        found, outcomes = check(path)
        assert found == lesson
        assert [(outcome.exercise, outcome.status) for outcome in outcomes] == [(n, status) for n in lesson.exercises]


@by_title
def test_worksheets_have_the_tasks_but_neither_answers_nor_checks(lesson):
    model, blank = lesson.worksheet(answers=True), lesson.worksheet()
    assert len(lesson.exercises) >= 5
    assert blank.count("raise NotImplementedError") == len(lesson.exercises)
    assert "check_" not in model
    for name in lesson.exercises:
        body = model.split(f"def {name}(")[1].split('"""')[2].split("\n\n")[0].strip().splitlines()[-1]
        assert body in model
        assert body not in blank.split(f"def {name}(")[1].split("\n\n\n")[0]


def test_exercises_are_unique_and_their_names_say_which_lesson_a_file_belongs_to():
    names = [name for lesson in LESSONS for name in lesson.exercises]
    assert len(LESSONS) == 8
    assert len(names) == len(set(names))


@by_title
def test_no_mistake_looks_like_the_right_answer_or_another_mistake(lesson):
    seen = []

    def compared(actual, right, mistakes=None, of=""):
        for hint, mistake in (mistakes or {}).items():
            assert not hints._same(mistake, right), hint
            earlier = list(mistakes)[: list(mistakes).index(hint)]
            assert not [other for other in earlier if hints._same(mistake, mistakes[other])], hint
            seen.append(hint)
        return compare(actual, right, mistakes, of)

    names = definitions(lesson.source, lesson.path)
    names["compare"] = compared
    with np.errstate(all="ignore"):
        for name in lesson.exercises:
            names[f"check_{name}"](names[name])
    assert len(set(seen)) >= 8


@pytest.mark.parametrize(("number", "right", "wrong", "hint"), WRONG)
def test_usual_mistakes_get_their_own_hints(number, right, wrong, hint, tmp_path):
    text = LESSONS[number - 1].worksheet(answers=True)
    assert right in text
    path = tmp_path / "worksheet.py"
    path.write_text(text.replace(right, wrong, 1))
    _, outcomes = check(path)
    found = [outcome.hint for outcome in outcomes if outcome.status is Status.WRONG]
    assert found, "the mistake was not noticed"
    assert hint in found[0]


def test_other_mistakes_are_described():
    right = np.arange(12.0).reshape(3, 4) ** 2
    for actual, words in (
        (right.T, "is transposed"),
        (right[:2], "has shape (2, 4) instead of (3, 4)"),
        (-right, "wrong sign"),
        (3 * right, "is 3 times"),
        (np.roll(right, 1, axis=1), "shifted by one entry along axis 1"),
        (right + 1e-3 * (right == 9), "entry [0, 3] of the result is 9.001 instead of 9"),
        (np.where(right == 9, np.nan, right), "contains NaN"),
        ("text", "must return real numbers or arrays of them, not str"),
    ):
        with pytest.raises(Hint) as raised:
            compare(actual, right)
        assert words in str(raised.value)


def test_a_function_that_fails_is_quoted():
    def divide(a, b):
        return a / b["x"]

    with pytest.raises(Hint, match=r"it stops with IndexError: .* in line .*: `return a / b"):
        call(divide, np.ones(2), np.ones(2))
    with pytest.raises(NotImplementedError):
        call(_not_written)


def _not_written():
    raise NotImplementedError


def test_numerical_gradients():
    x = np.array([[1.0, 2.0], [3.0, -4.0]])
    np.testing.assert_allclose(numerical_gradient(lambda x: float((x**3).sum()), x), 3 * x**2, rtol=1e-6)


def test_a_walk_through_the_commands(tmp_path):
    code, output, _ = main("lessons")
    assert code == 0
    assert [line.split(":")[0] for line in output.splitlines()[:8]] == [f"Lesson {n}" for n in range(1, 9)]
    teaching = Path(output.splitlines()[-1].removeprefix("For teachers: "))
    assert all(lesson.path.stem[2:].split("_")[-1] in teaching.read_text() for lesson in LESSONS)
    path = tmp_path / "four.ipynb"
    code, output, _ = main("lessons", "4", "--out", path)
    assert (code, path.exists()) == (0, True)
    code, output, _ = main("lessons", "check", path)
    assert (code, output.splitlines()[-1]) == (1, f"{path}: 0 of 6 done")
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if "def fgsm" in "".join(cell["source"]))
    solved = "".join(cell["source"]).replace(
        'raise NotImplementedError("your code")', "return np.clip(images + epsilon * np.sign(gradient), 0, 1)"
    )
    notebook["cells"].insert(1, {"cell_type": "code", "source": ["%matplotlib inline\n", "!ls\n"], "metadata": {}})
    cell["source"] = solved.splitlines(keepends=True)
    path.write_text(json.dumps(notebook))
    code, output, _ = main("lessons", "check", path)
    assert (code, output.splitlines()[-1]) == (1, f"{path}: 1 of 6 done")
    full = tmp_path / "full.py"
    assert main("lessons", "4", "--out", full, "--answers")[0] == 0
    assert main("lessons", "check", full)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["9", "--out", "x.py"], "there is no lesson 9"),
        (["four"], "neither the number of a lesson nor check"),
        (["4"], "choose a file for the worksheet"),
        (["4", "--out", "x.txt"], ".py or .ipynb file"),
        (["4", "x.py"], "use --out"),
        (["check"], "which worksheet?"),
        (["check", "none.py"], "cannot read none.py"),
        (["check", "--answers", "x.py"], "--answers"),
        (["--out", "x.py"], "--out"),
    ],
)
def test_errors_are_one_line(arguments, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = main("lessons", *arguments)
    assert code == 2
    assert errors.count("\n") == 1
    assert error in errors


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.py", "def fgsm(:\n", "not valid Python in line 1"),
        ("a.py", "x = 1\n", "no function of any lesson"),
        (
            "a.py",
            "import nothing_of_this_name\n\n\ndef fgsm():\n    pass\n",
            "stops in line 1 with ModuleNotFoundError",
        ),
        ("a.ipynb", "{}", "neither a Python file nor a Jupyter notebook"),
        ("a.ipynb", "[1]", "neither a Python file nor a Jupyter notebook"),
    ],
)
def test_unusable_worksheets_are_refused_in_one_line(name, text, error, tmp_path):
    (tmp_path / name).write_text(text)
    code, _, errors = main("lessons", "check", tmp_path / name)
    assert (code, errors.count("\n")) == (2, 1)
    assert error in errors


def test_a_worksheet_is_never_written_over_answers(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("answers")
    code, _, errors = main("lessons", "1", "--out", path)
    assert (code, path.read_text()) == (2, "answers")
    assert "may hold answers" in errors


@pytest.mark.stress
@by_title
def test_worksheets_run_in_a_jupyter_kernel(lesson, tmp_path):
    """With the model answers, from the first cell to the last, in trainings of two epochs."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.reads(lesson.worksheet(notebook=True, answers=True), 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        for epochs in (8, 10, 20):
            cell.source = cell.source.replace(f"epochs={epochs})", "epochs=2)").replace(
                f"epochs={epochs},", "epochs=2,"
            )
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]


def replaced(lesson, exercise, body, folder, before=""):
    """A worksheet with model answers, but another body for one of them, and code before it."""
    text = LESSONS[lesson - 1].worksheet(answers=True)
    head, rest = text.split(f"def {exercise}(", 1)
    signature, after = rest.split(":\n", 1)
    end = after.index("\n\n#")
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    path = folder / f"{exercise}.py"
    path.write_text(f"{head}{before}\ndef {exercise}({signature}:\n{indented}{after[end:]}")
    return path


def outcome(path, exercise):
    return next(found for found in check(path)[1] if found.exercise == exercise)


@pytest.mark.parametrize(
    ("lesson", "exercise", "body", "before"),
    [
        (1, "multiply_backward", "return np.array([g * b, g * a])", ""),
        (1, "multiply_backward", "return [g * b, g * a]", ""),
        (1, "multiply_backward", "print('hello')\nreturn times(g, b), times(g, a)", "times = lambda p, q: p * q\n"),
        (1, "relu_backward", "return np.where(x > ZERO, g, ZERO)", "ZERO = np.float64(1) - 2 / 2\n"),
        (1, "relu_backward", "return g * (x > 0)", "try:\n    import nothing\nexcept ImportError:\n    pass\n"),
        (4, "pgd", "one = [slice(i, i + 1) for i in range(len(images))]\nreturn np.concatenate("
                   "[of_all(loss_and_gradient, images[i], labels[i], epsilon, step_size, steps) for i in one])", "PGD"),
        (5, "tangent_basis", "return np.linalg.qr(j.astype(np.float32))[0]", ""),
        (7, "half_perturbed", "half = len(images) // 2\nreturn np.stack([*images[:half], *(attack(images[k : k + 1],"
                              " labels[k : k + 1])[0] for k in range(half, len(images)))])", ""),
        (1, "unbroadcast", "while axis is None:\n    axis = g.ndim - 1\nif axis < 0:\n    return g\n"
                           "if axis < g.ndim - len(shape):\n    g = g.sum(axis=axis)\n"
                           "elif shape[axis - g.ndim] == 1:\n    g = g.sum(axis=axis, keepdims=True)\n"
                           "return unbroadcast(g, shape, axis - 1)", "AXIS"),
        (1, "relu_backward", "return Rule(1.0).scale * g * (x > 0)",
         "import dataclasses\n\n\n@dataclasses.dataclass\nclass Rule:\n    scale: float\n    other: float = 0.0\n"),
        (8, "interval", "return np.quantile(values, [(1 - level) / 2, (1 + level) / 2])", ""),
    ],
)  # fmt: skip
def test_other_ways_to_write_a_right_answer_are_accepted(lesson, exercise, body, before, tmp_path):
    if before == "PGD":  # the model answer under another name, called for one image after the other
        text = LESSONS[lesson - 1].worksheet(answers=True)
        answer = text[text.index("def pgd(") : text.index("\n\n\n", text.index("def pgd("))]
        before = answer.replace("def pgd(", "def of_all(") + "\n\n\n"
    path = replaced(lesson, exercise, body, tmp_path, "" if before == "AXIS" else before)
    if before == "AXIS":  # an argument more, for calls of itself
        path.write_text(path.read_text().replace("def unbroadcast(g, shape)", "def unbroadcast(g, shape, axis=None)"))
    found = outcome(path, exercise)
    assert found.status is Status.DONE, found


@pytest.mark.parametrize(
    ("lesson", "exercise", "body", "hint"),
    [
        (1, "multiply_backward", "exit()", "SystemExit"),
        (1, "multiply_backward", "yield g * b\nyield g * a", "iterator"),
        (1, "multiply_backward", "return (g * b).astype(str), g * a", "real numbers"),
        (1, "multiply_backward", "return g * b + 1j, g * a", "real numbers"),
        (1, "multiply_backward", "return None, g * a", "value number 1 is None"),
        (1, "multiply_backward", "return multiply_backward(g, a, b)", "RecursionError"),
        (1, "multiply_backward", "return [10**400, 10**400]", "real numbers"),
        (1, "relu_backward", "return relu_backward(g, x)", "RecursionError"),
        (3, "cross_entropy_gradient", "p = np.exp(np.minimum(logits, 700))\np /= p.sum(axis=1, keepdims=True)\n"
                                      "return (p - np.eye(p.shape[1])[labels]) / len(p)", "for logits of 1000"),
        (3, "cross_entropy_gradient", "p = np.exp(logits - logits.max())\np /= p.sum(axis=1, keepdims=True)\n"
                                      "return (p - np.eye(p.shape[1])[labels]) / len(p)", "for logits of 1000"),
        (1, "backpropagate", "while tape:\n    node = tape.pop()\nreturn tape", "the tape itself"),
        (2, "pad", "y = np.zeros((len(x), x.shape[1] + 2 * p, x.shape[2] + 2 * p, x.shape[3]))\ny[:, p:-p, p:-p] = x\n"
                   "return y", "ValueError"),
        (3, "epoch_batches", "return list(random.permutation(count))", "array of integers"),
        (3, "epoch_batches", "return 3", "check cannot use"),
        (4, "success_rate", "right = before == labels\nreturn np.array([(after != labels)[right].mean()])", "single"),
        (4, "project_l2", "return perturbations * np.minimum(1, epsilon / np.maximum(np.sqrt(np.square(perturbations)"
                          ".sum(axis=(1, 2), keepdims=True)), 1e-12))", "entry"),
        (5, "tangent_basis", "return np.linalg.qr(j)", "real numbers"),
        (5, "climb", "best = start\nreturn best", "returns the start"),
        (8, "verdict", "return lower > threshold", "instead of 'supported'"),
    ],
)  # fmt: skip
def test_odd_answers_get_a_hint_and_nothing_stops(lesson, exercise, body, hint, tmp_path):
    path = replaced(lesson, exercise, body, tmp_path)
    found = outcome(path, exercise)
    assert found.status is Status.WRONG
    assert hint in found.hint
    others = [found.status for found in check(path)[1] if found.exercise != exercise]
    assert set(others) == {Status.DONE}  # even those that call the wrong one


def test_a_function_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[check.__module__], "SECONDS_PER_EXERCISE", 1)
    found = outcome(replaced(1, "unbroadcast", "while True:\n    pass", tmp_path), "unbroadcast")
    assert "has not ended after 1 seconds" in found.hint


def notebook_with(cell, folder):
    notebook = json.loads(LESSONS[0].worksheet(notebook=True, answers=True))
    notebook["cells"].insert(2, {"cell_type": "code", "source": cell, "metadata": {}, "outputs": []})
    path = folder / "ONE.IPYNB"
    path.write_text(json.dumps(notebook))
    return path


@pytest.mark.parametrize(
    "cell",
    [
        "np.sum?",
        "files = !ls",
        "%%bash\nls -l | wc",
        "for i in range(2):\n    %time x = i",
        "a b c",
        "n = (7\n  % 2)",
        "%pip list",
        "%matplotlib inline\nn = (7\n  % 2)",
    ],
)
def test_notebooks_may_have_commands_to_jupyter_and_scratch_cells(cell, tmp_path):
    assert {found.status for found in check(notebook_with(cell, tmp_path))[1]} == {Status.DONE}


@pytest.mark.parametrize("command", ["%%time", "%%capture output"])
def test_a_function_in_a_timed_cell_counts(command, tmp_path):
    path = notebook_with(f"{command}\ndef relu_backward(g, x):\n    return -g", tmp_path)
    notebook = json.loads(path.read_text())
    notebook["cells"].append(notebook["cells"].pop(2))  # after the right answer, which it replaces
    path.write_text(json.dumps(notebook))
    assert outcome(path, "relu_backward").status is Status.WRONG


def test_a_broken_cell_with_a_function_is_named(tmp_path):
    code, _, errors = main("lessons", "check", notebook_with("def f(:\n    pass", tmp_path))
    assert (code, errors.count("\n")) == (2, 1)
    assert "cell 3, line 1" in errors


def test_files_are_checked_one_by_one_and_do_not_disturb_each_other(tmp_path, capfd):
    broken, leak, good = tmp_path / "broken.py", tmp_path / "leak.py", tmp_path / "good.py"
    broken.write_text("def fgsm(:\n")
    good.write_text("\ufeff" + LESSONS[0].worksheet(answers=True))  # as Windows' editor writes it
    leak.write_text(LESSONS[0].worksheet(answers=True).replace("return g * b, g * a", "np.sum = None\n    exit()"))
    code, _, _ = main("lessons", "check", broken, leak, good)
    output, errors = capfd.readouterr()
    assert code == 1
    assert f"hlf_np: {broken} is not valid Python" in errors
    assert [line for line in output.splitlines() if "done" in line and "of" in line] == [
        f"{leak}: 4 of 5 done",
        f"{good}: 5 of 5 done",
    ]
