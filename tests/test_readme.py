"""README and docs are true: their commands, options and figures are those of code and records."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.console import Console

from mnist_cli.cli import app
from mnist_cli.experiments.document import load_document, records_of
from mnist_cli.experiments.plan import COMPARISON, SWEEP
from mnist_cli.reporting import console, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
COMMANDS = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    assert f"`mnist {name}`" in README


@pytest.mark.parametrize(
    "option",
    sorted({o for c in COMMANDS.values() for p in c.params for o in p.opts if o.startswith("--")}),
)
def test_every_option_is_documented(option: str) -> None:
    page = ROOT / "docs" / "commands.md"
    assert re.search(rf"{option}\b", PAGES[page]), f"{option} is not in {page.name}"


def test_every_documented_command_line_is_one_that_the_program_takes() -> None:
    lines = [line for text in (README, *PAGES.values()) for line in _command_lines(text)]
    assert len(lines) >= 20
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        COMMANDS[name].make_context(name, list(arguments), resilient_parsing=False)


def _command_lines(text: str) -> list[str]:
    return re.findall(r"^mnist .*$", text, re.M)


def test_every_linked_picture_and_file_exists() -> None:
    for page, text in {ROOT / "README.md": README, **PAGES}.items():
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / path).exists(), (page.name, path)


def test_each_page_is_linked_from_the_readme_and_short() -> None:
    for page, text in PAGES.items():
        is_log = page.stem.endswith("-log")  # linked from the page that sums it up
        assert is_log or f"docs/{page.name}" in README
        assert is_log or len(text.splitlines()) < 200


@pytest.fixture
def committed(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The records as committed: a comparison of one's own may have replaced them since."""

    def document(name: str) -> dict[str, Any]:
        command = ["git", "-C", str(ROOT), "show", f"HEAD:results/{name}.json"]
        shown = subprocess.run(command, capture_output=True, check=False)
        if shown.returncode:
            pytest.skip("not in a git checkout")
        (tmp_path / "document.json").write_bytes(shown.stdout)
        return load_document(tmp_path / "document.json")

    return document


def test_the_readme_shows_the_committed_records(
    committed: Callable[[str], dict[str, Any]],
) -> None:
    document = committed(COMPARISON)
    block = re.search(r"a test compares them\. -->\n(.*)<!-- end of the report -->", README, re.S)
    assert block is not None
    assert block[1].strip() == tables.as_markdown(document).strip()


def test_the_committed_records_are_a_full_comparison_and_sweep(
    committed: Callable[[str], dict[str, Any]],
) -> None:
    comparison = committed(COMPARISON)
    assert [row["n"] for row in comparison["summary"]] == [3] * 6
    assert comparison["failures"] == []
    assert comparison["settings"]["limit"] is None
    for arch, least in (("cnn", 0.992), ("mlp", 0.980)):
        rows = [row for row in comparison["summary"] if row["arch"] == arch]
        assert all(row["test_accuracy"]["mean"] >= least for row in rows)
    by_seed: dict[tuple[str, int], list[float]] = {}
    for run in records_of(comparison):
        accuracy = run.history[-1].validation_accuracy
        by_seed.setdefault((run.arch, run.seed), []).append(accuracy)
        overhead = run.wall_seconds - run.train_seconds - run.evaluate_seconds - run.import_seconds
        if run.arch == "cnn":
            assert overhead <= 0.05 * run.wall_seconds
            assert run.framework != "numpy" or run.peak_rss_mib <= 1024
    for accuracies in by_seed.values():
        assert len(accuracies) == 3
        assert max(accuracies) - min(accuracies) <= 0.003
    sweep = committed(SWEEP)
    assert {row["batch_size"] for row in sweep["summary"]} == {16, 32, 64, 128, 256, 512}
    assert sweep["failures"] == []


def test_the_committed_comparison_stands_in_80_columns_uncut_and_a_line_each(
    committed: Callable[[str], dict[str, Any]],
) -> None:
    screen = Console(width=80)
    with screen.capture() as shown:
        screen.print(console.experiment_table(committed(COMPARISON)))
    assert "…" not in shown.get()
    rows = re.findall(r"^ *(?:NumPy|TensorFlow|PyTorch) +(?:CNN|MLP) .*\d$", shown.get(), re.M)
    assert len(rows) == 6
