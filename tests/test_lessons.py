"""The lessons: model answers pass, usual mistakes get their own hints, and worksheets run as notebooks."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import main

from hlf_np.lessons import Hint, Status, call, check, compare, hints, lessons, numerical_gradient
from hlf_np.lessons.check import _definitions

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

    names = _definitions(lesson.source, str(lesson.path))
    names["compare"] = compared
    with np.errstate(all="ignore"):
        for name in lesson.exercises:
            names[f"check_{name}"](names[name])
    assert len(set(seen)) >= 10


# What students write: lesson, the line of the model answer, the line instead of it, words of the hint.
WRONG = [
    (1, "return g * b, g * a", "return g * a, g * b", "in each other's place"),
    (1, "return g * b, g * a", "return b, a", "chain rule is missing"),
    (1, "return g * b, g * a", "return g * b", "must return 2 values"),
    (1, "return g @ b.T, a.T @ g", "return g @ b, a @ g", "must be transposed"),
    (1, "return g @ b.T, a.T @ g", "return b @ g.T, g.T @ a", "are transposed"),
    (1, "return g * (x > 0)", "return g * (g > 0)", "the sign of x that decides"),
    (1, "return g * (x > 0)", "return np.maximum(x, 0)", "the forward pass"),
    (1, "return g * (x > 0)", "g *= x > 0\n    return g", "argument number 1"),
    (1, "return g * (x > 0)", "g * (x > 0)", "end it with `return`"),
    (1, "return g * (x > 0)", "return g * y", "NameError"),
    (1, "keepdims=True)\n", "keepdims=False)\n", "keepdims=True"),
    (
        1,
        "g = g.sum(axis=tuple(range(g.ndim - len(shape))))",
        "g = g.mean(axis=tuple(range(g.ndim - len(shape))))",
        "average",
    ),
    (1, "parent.gradient += part", "parent.gradient = part", "used twice"),
    (1, "for node in reversed(tape)", "for node in tape", "begin with dL/dL"),
    (
        2,
        "rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1",
        "rows, columns = x.shape[1] - kh, x.shape[2] - kw",
        "H - kh + 1",
    ),
    (2, "@ w[:, :, a, b].T", "@ w[:, :, kh - 1 - a, kw - 1 - b].T", "turned around"),
    (2, "y += x[:, a", "y = x[:, a", "overwrites the one before"),
    (2, "np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))", "np.pad(x, p)", "images and channels"),
    (
        2,
        "((0, 1, 2), (0, 1, 2)))\n    return gradient",
        "((0, 1, 2), (0, 1, 2)))\n    return gradient / len(x)",
        "averages over the images",
    ),
    (2, "+= g @ w[:, :, a, b]", "= g @ w[:, :, a, b]", "add to the slice"),
    (2, "+= g @ w[:, :, a, b]", "+= g @ w[:, :, -1 - a, -1 - b]", "turned around"),
    (2, "np.where(x == enlarged, g, 0)", "g / 4", "average pooling"),
    (3, "shifted = logits - logits.max(axis=1, keepdims=True)", "shifted = logits", "subtract the largest logit"),
    (3, "[np.arange(len(labels)), labels]\n", "[np.arange(len(labels))].max()\n", "entry [0]"),
    (3, ".sum(axis=1)) - shifted", ".sum()) - shifted", "over the classes of one image"),
    (3, "return gradient / len(labels)", "return gradient", "divide by the number of images"),
    (3, "gradient[np.arange(len(labels)), labels] -= 1", "pass", "subtract 1"),
    (3, "if training:\n        mean", "if not training:\n        mean", "modes are exchanged"),
    (3, "if training:\n        mean", "if True:\n        mean", "in evaluation mode the batch"),
    (
        3,
        "running_mean = 0.9 * running_mean + 0.1 * mean",
        "running_mean = 0.1 * running_mean + 0.9 * mean",
        "value number 2",
    ),
    (3, "np.sqrt(variance + 1e-5)", "np.sqrt(variance)", "the 1e-5 is missing"),
    (
        3,
        "step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)",
        "step = m / (np.sqrt(v) + epsilon)",
        "corrections",
    ),
    (3, "return w - learning_rate * step, m, v", "return w + learning_rate * step, m, v", "subtract the step"),
    (3, "range(0, count, size)]", "range(0, count - size + 1, size)]", "last three images"),
    (3, "order = random.permutation(count)", "order = np.arange(count)", "not random"),
    (3, "order = random.permutation(count)", "order = random.integers(count, size=count)", "without replacement"),
    (4, "losses.backward()", "losses.mean().backward()", "must not depend on how many"),
    (4, "model.forward(x), labels", "model.forward(x, training=True), labels", "training mode"),
    (4, "np.clip(images + epsilon * np.sign(gradient), 0, 1)", "images + epsilon * np.sign(gradient)", "leave [0, 1]"),
    (
        4,
        "np.clip(images + epsilon * np.sign(gradient), 0, 1)",
        "np.clip(images - epsilon * np.sign(gradient), 0, 1)",
        "descends",
    ),
    (
        4,
        "np.clip(images + np.clip(perturbed - images, -epsilon, epsilon), 0, 1)",
        "np.clip(perturbed, 0, 1)",
        "longer than epsilon",
    ),
    (
        4,
        "np.clip(images + np.clip(perturbed - images, -epsilon, epsilon), 0, 1)",
        "np.clip(perturbed, -epsilon, epsilon)",
        "around 0",
    ),
    (4, "np.minimum(1, epsilon / np.maximum(norms, 1e-12))", "epsilon / np.maximum(norms, 1e-12)", "made longer"),
    (
        4,
        "current = project(current + step_size * np.sign(gradient), images, epsilon)",
        "current = current + step_size * np.sign(gradient)",
        "projection is missing",
    ),
    (
        4,
        "+ step_size * np.sign(gradient), images",
        "+ step_size * np.sign(gradient), current",
        "around the *original*",
    ),
    (4, "return best\n", "return current\n", "not always the best"),
    (4, "(after[correct] != labels[correct]).mean()", "(after != labels).mean()", "misclassified before count"),
    (5, "/ (2 * h))", "/ h)", "2 h apart"),
    (5, "decode(t - step)) / (2 * h)", "decode(t)) / h", "forward difference"),
    (5, "axis=1)\n", "axis=0)\n", "the rows are the columns"),
    (5, "np.linalg.qr(jacobian)[0]", "jacobian / np.linalg.norm(jacobian, axis=0)", "not orthogonal"),
    (5, "return tangent, v - tangent", "return v - tangent, tangent", "in each other's place"),
    (
        5,
        "np.square(basis.T @ v).sum() / np.square(v).sum()",
        "np.linalg.norm(basis.T @ v) / np.linalg.norm(v)",
        "square them",
    ),
    (5, "return jacobian.T @ pixel_gradient", "return jacobian @ pixel_gradient", "must be transposed"),
    (5, "t = np.clip(t, lower, upper)", "pass", "leaves the box"),
    (5, "if loss > highest:", "if True:", "not always the best"),
    (6, "np.exp(log_variance / 2) * noise", "np.exp(log_variance) * noise", "is the variance"),
    (6, "g * noise * np.exp(log_variance / 2) / 2", "g * noise * np.exp(log_variance / 2)", "factor 1 / 2"),
    (6, "- log_variance - 1).sum(axis=1) / 2", "- log_variance - 1).sum(axis=1)", "1 / 2 is missing"),
    (6, "- log_variance - 1).sum(axis=1) / 2", "- log_variance - 1).mean(axis=1) / 2", "add up"),
    (6, "return mean, (np.exp(log_variance) - 1) / 2", "return mean, np.exp(log_variance) / 2", "the -1"),
    (6, ".sum(axis=(1, 2, 3))\n", ".mean(axis=(1, 2, 3))\n", "mean over pixels"),
    (
        6,
        "(weight * errors + gaussian_divergence(mean, log_variance))",
        "(errors + weight * gaussian_divergence(mean, log_variance))",
        "weighs the divergence",
    ),
    (
        7,
        "return np.concatenate([images[:half], attack(images[half:], labels[half:])])",
        "return attack(images, labels)",
        "first half must stay",
    ),
    (7, "attack(images[half:], labels[half:])", "attack(images[half:], labels)", "take the same rows"),
    (7, "attack(images[half:], labels[half:])", "attack(images, labels)[half:]", "not used"),
    (7, "step / steps)", "step // steps)", "with `/`"),
    (7, "(epoch + 1 + step / steps)", "(epoch + step / steps)", "counts from 0"),
    (7, "((clean != labels) | (attacked != labels)).mean()", "(attacked != labels).mean()", "before the attack counts"),
    (
        7,
        "np.exp(np.interp(target, errors[::-1], np.log(sizes[::-1])))",
        "np.interp(target, errors[::-1], sizes[::-1])",
        "interpolate the logarithm",
    ),
    (
        7,
        "np.exp(np.interp(target, errors[::-1], np.log(sizes[::-1])))",
        "np.exp(np.interp(target, errors, np.log(sizes)))",
        "ascending",
    ),
    (7, "if not min(errors) <= target <= max(errors):\n        return np.nan", "", "return NaN"),
    (
        7,
        "images_needed(sizes, adversarial_errors, error) / size",
        "size / images_needed(sizes, adversarial_errors, error)",
        "wrong way round",
    ),
    (8, "+ (differences == 0).mean() / 2", "", "counts nothing"),
    (
        8,
        "((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum()",
        "(x * y).sum() / np.square(x).sum()",
        "through the origin",
    ),
    (8, "slope(x[rows], y[rows])", "slope(x[rows], y[random.permutation(rows)])", "independently"),
    (
        8,
        "draws = random.integers(len(x), size=(count, len(x)))",
        "draws = [random.permutation(len(x)) for _ in range(count)]",
        "with replacement",
    ),
    (8, "size=(count, len(x)))", "size=(count, 5))", "as many points"),
    (8, "[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]", "90 %"),
    (8, "if lower > threshold:", "if lower + upper > 2 * threshold:", "threshold lies inside"),
]


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
        ("text", "must return numbers, not str"),
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
    code, output, _ = main("lessons", "check", full, path)
    assert code == 1
    assert f"{full}: 6 of 6 done" in output


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
        ("a.py", "import nothing_of_this_name\n\n\ndef fgsm():\n    pass\n", "stops with ModuleNotFoundError"),
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


@pytest.mark.slow
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
