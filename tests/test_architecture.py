"""The packages depend on each other in one direction: a reader can go through them from the first to the last."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hlf_np

ROOT = Path(hlf_np.__file__).parent
# Each may import those above it, and nothing below.
# fmt: off
PACKAGES = [
    "support", "random", "autodiff", "kernels", "operations", "layers", "losses", "optim", "engine", "programs",
    "models", "data", "spaces", "attacks", "trainings", "train_step", "training", "manifolds", "adapters",
    "experiments", "report", "lessons", "cli", "__main__",
]
KERNELS = [
    "numba_internals", "layout", "buffers", "instructions", "products", "winograd", "operations", "interpreter",
]
EXPERIMENTS = ["results", "measurements", "configuration", "storage", "analysis", "grid"]
# fmt: on


def modules() -> dict[str, Path]:
    """The file of every module, by its dotted name without `hlf_np`; the package itself is the empty name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("hlf_np.") in MODULES else node.module for name in inside]
        yield from (name.removeprefix("hlf_np.") for name in names if name.startswith("hlf_np."))


def arrows(depth: int, inside: str = "") -> set[tuple[str, str]]:
    """(importer, imported) between the rooms at a depth: 0 for the packages, 1 for what stands in one of them."""
    found = set()
    for name, path in MODULES.items():
        for other in imported(path):
            if name.startswith(inside) and other.startswith(inside) and len(name.split(".")) > depth:
                rooms = name.split(".")[depth], (other.split(".") + ["__init__"] * depth)[depth]
                found.update([rooms] if rooms[0] != rooms[1] and name else [])
    return found


@pytest.mark.parametrize(
    ("depth", "inside", "order"),
    [(0, "", PACKAGES), (1, "kernels.", KERNELS), (1, "experiments.", EXPERIMENTS)],
    ids=["packages", "kernels", "experiments"],
)
def test_imports_point_downwards_only(depth, inside, order):
    found = arrows(depth, inside)
    assert {room for arrow in found for room in arrow} == set(order), "name every room in the order of reading"
    assert len(found) > len(order)
    upwards = [arrow for arrow in found if order.index(arrow[1]) > order.index(arrow[0])]
    assert not upwards


def test_internals_of_numba_and_llvm_are_used_in_one_place():
    private = ("llvmlite", "numba.core", "numba.extending", "numba.misc", "numba.np")
    users = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            users.update(name for module in names if f"{module}.".startswith(tuple(f"{p}." for p in private)))
    assert users
    assert {name for name in users if not name.startswith("kernels.numba_internals.")} == set()


def test_modules_do_not_import_each_other_in_circles():
    graph = {name: set(imported(path)) & set(MODULES) - {name} for name, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle
