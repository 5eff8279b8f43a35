"""The house rules that keep the code navigable: who imports whom, and how long things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mnist_cli"
FRAMEWORKS = {
    "jax": "jax",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
}
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_COMMAND_LINES = 119
TO_SPLIT = {}
LONG_FUNCTIONS = {
    "api/comparing.py compare": "a keyword for each option of the command, and their documentation",
    "api/comparing.py sweep_batch": "the same",
    "api/training.py train": "a keyword for each option of the command, and their documentation",
    "api/tuning.py tune": "the same",
    "cli/compare.py compare": "an argument for each option, handed on one by one",
    "cli/predict.py predict": "an argument for each option, handed on one by one",
    "cli/sweep_batch.py sweep_batch": "the same",
    "cli/train.py train": "an argument for each option, handed on one by one",
    "cli/tune.py tune": "the same",
}


def modules(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """What a file imports anywhere: modules, and names as ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_its_adapter_imports_a_framework(path: Path) -> None:
    for module in imported(path):
        framework = FRAMEWORKS.get(module.partition(".")[0])
        assert framework is None or name_of(path).startswith(f"adapters/{framework}_"), module


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_two_files_import_ray(path: Path) -> None:
    if name_of(path) not in ("runners/ray_cluster.py", "runners/ray_tune.py"):
        assert not [module for module in imported(path) if module.partition(".")[0] == "ray"]


@pytest.mark.parametrize("path", modules(PACKAGE / "scratch"), ids=name_of)
def test_the_scratch_network_imports_nothing_of_the_package_but_array_types(path: Path) -> None:
    ours = [module for module in imported(path) if module.startswith("mnist_cli")]
    allowed = ("mnist_cli.arrays.", "mnist_cli.scratch.")
    assert [module for module in ours if not module.startswith(allowed)] == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_imports_the_command_line(path: Path) -> None:
    if name_of(path) != "__main__.py" and path.parent.name != "cli":
        assert not [module for module in imported(path) if module.startswith("mnist_cli.cli")]


def test_the_ground_floor_imports_nothing_above_it() -> None:
    ground = {"arrays", "conditions", "config", "errors", "machine"}
    ground |= {"names", "randomness", "records", "torchrun"}
    # Records show themselves: that import is made in the method that does it.
    allowed = {*(f"mnist_cli.{name}" for name in ground), "mnist_cli.reporting.notebook"}
    for name in ground:
        for module in imported(PACKAGE / f"{name}.py"):
            if module.startswith("mnist_cli"):
                assert module.rpartition(".")[0] in allowed, (name, module)


@pytest.mark.parametrize("path", [*modules(), *modules(ROOT / "tests")], ids=name_of)
def test_files_and_functions_are_short_enough_to_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    is_command = path.parent == PACKAGE / "cli" and path.name != "options.py"
    assert len(text.splitlines()) <= (MAX_COMMAND_LINES if is_command else MAX_FILE_LINES)
    if path.is_relative_to(PACKAGE):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                is_long = lines > MAX_FUNCTION_LINES
                assert not is_long or f"{name_of(path)} {node.name}" in LONG_FUNCTIONS, node.name
