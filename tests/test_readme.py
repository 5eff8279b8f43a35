"""The README keeps its word: commands, options and figures are those of the code and records."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from mnist_cli import cli, experiments, reports

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    assert f"`mnist {name}`" in README


@pytest.mark.parametrize(
    "option",
    sorted({o for c in COMMANDS.values() for p in c.params for o in p.opts if o.startswith("--")}),
)
def test_every_option_is_documented(option: str) -> None:
    assert re.search(rf"{option}\b", README), f"{option} is not in the README"


def test_every_documented_command_line_is_one_that_the_program_takes() -> None:
    lines = re.findall(r"^mnist .*$", README, re.M)
    assert len(lines) >= 8
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        COMMANDS[name].make_context(name, list(arguments), resilient_parsing=False)


def test_every_picture_and_file_in_the_readme_exists() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_readme_shows_the_committed_records() -> None:
    document = experiments.load(ROOT / "results" / f"{experiments.COMPARISON}.json")
    block = re.search(r"a test compares them\. -->\n(.*)<!-- end of the report -->", README, re.S)
    assert block is not None
    assert block[1].strip() == reports.as_markdown(document).strip()


def test_the_committed_records_are_a_full_comparison_and_sweep() -> None:
    comparison = experiments.load(ROOT / "results" / f"{experiments.COMPARISON}.json")
    assert [row["n"] for row in comparison["summary"]] == [3] * 6
    assert comparison["failures"] == []
    assert comparison["settings"]["limit"] is None
    for arch, least in (("cnn", 0.992), ("mlp", 0.980)):
        rows = [row for row in comparison["summary"] if row["arch"] == arch]
        assert all(row["test_accuracy"]["mean"] >= least for row in rows)
    sweep = experiments.load(ROOT / "results" / f"{experiments.SWEEP}.json")
    assert {row["batch_size"] for row in sweep["summary"]} == {16, 32, 64, 128, 256, 512}
    assert sweep["failures"] == []
