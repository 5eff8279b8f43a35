"""A search as an object: its trials, table, best command and chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.config import NETWORKS
from mnist_cli.names import dataset_name, framework_name, network_name, plural
from mnist_cli.reporting.notebook import Chart, chart

if TYPE_CHECKING:
    from rich.table import Table

# What a table and a chart call the settings.
SETTING_NAMES = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "label_smoothing": "label smoothing",
    "warmup_fraction": "warm-up fraction",
    "decay_power": "decay power",
}


@dataclass(frozen=True)
class Search:
    """The result of `tune`: ``document`` is what the command writes as JSON.

    ``files`` are those that were written, the document first.
    """

    document: dict[str, Any]
    files: tuple[Path, ...] = ()

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Settings, history, state and error of each trial."""
        return list(self.document["trials"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The finished trial with the highest validation accuracy, if any was finished."""
        number = self.document["best"]
        return None if number is None else self.trials[number - 1]

    @property
    def command(self) -> str | None:
        """The command line that trains as the best trial did."""
        command: str | None = self.document["command"]
        return command

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The trials that failed otherwise than by diverging."""
        return [trial for trial in self.trials if trial["state"] == "failed"]

    def table(self) -> str:
        """Return the trials as a Markdown table, the best first."""
        header, rows = table(self.document)
        lines = [header, ["---:"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def plot(self) -> Chart:
        """Draw the chart. Raises `UsageError` if no trial has completed an epoch."""
        from mnist_cli.reporting.charts import search

        return chart(lambda path: search.draw(self.document, path))

    def to_json(self) -> dict[str, Any]:
        """Return the search as JSON values."""
        return self.document

    def __repr__(self) -> str:
        """Return caption, table and result as text."""
        return "\n".join([caption(self.document), "", self.table(), "", *lines(self.document)])

    def _repr_html_(self) -> str:
        import html

        from mnist_cli.reporting.page import table_html

        texts = [caption(self.document), *lines(self.document)]
        first, *others = (f"<p>{html.escape(text)}</p>" for text in texts)
        return "\n".join([first, table_html(*table(self.document)), *others])


def searched(document: Mapping[str, Any]) -> list[str]:
    """Return the settings that have more than one value in the space; a network is ``arch``."""
    space = document["settings"]["space"]
    networks = ["arch"] if len(document["settings"]["archs"]) > 1 else []
    return [name for name in SETTING_NAMES if len(next(iter(space[name].values()))) > 1] + networks


def caption(document: Mapping[str, Any]) -> str:
    """Return one sentence on what was searched, and how."""
    settings = document["settings"]
    names = searched(document)
    fixed = [
        f"{SETTING_NAMES[name]} {next(iter(space.values()))[0]:g}"
        for name, space in settings["space"].items()
        if name not in names
    ]
    network = [] if "arch" in names else [network_name(settings["archs"][0])]
    parts = [
        f"{plural(settings['trials'], 'trial')} of {framework_name(settings['framework'])}",
        *network,
        f"at most {plural(settings['epochs'], 'epoch')}",
        f"about 1 in {settings['reduction_factor']} goes on at each stage",
        *fixed,
        *(["augmented images"] if settings["augment"] else []),
        dataset_name(settings["dataset"])
        + (f" (at most {settings['limit']:,} training images)" if settings["limit"] else ""),
        f"seed {settings['seed']}",
    ]
    return ", ".join(parts) + "."


def table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the trials as text: finished ones first, then by accuracy."""
    names = searched(document)
    called = {**SETTING_NAMES, "arch": "network"}
    header = ["trial", "validation accuracy", "epochs", *(called[name] for name in names)]
    rows = [
        [
            str(trial["number"]),
            f"{trial['history'][-1]['validation_accuracy']:.2%}" if trial["history"] else "-",
            _epochs(trial, document["settings"]["epochs"]),
            *(_shown(trial, name) for name in names),
        ]
        for trial in ranked(document)
    ]
    return header, rows


def screen_table(document: Mapping[str, Any]) -> Table:
    """Return the table of `mnist tune` for a terminal, the best trial in bold."""
    from rich.text import Text

    from mnist_cli.reporting.console import plain_table

    header, rows = table(document)
    shown = plain_table(caption(document), [name.replace(" ", "\n", 1) for name in header])
    shown.columns[-1].overflow = "fold"  # the name of a network may be long
    for row in rows:
        is_best = row[0] == str(document["best"])
        shown.add_row(*map(Text, row), style="bold" if is_best else None)
    return shown


def ranked(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials, the best first; those that got further are before others."""

    def quality(trial: Mapping[str, Any]) -> tuple[bool, int, float, float]:
        last = trial["history"][-1] if trial["history"] else None
        return (
            trial["state"] == "finished",
            len(trial["history"]),
            last["validation_accuracy"] if last else 0.0,
            -last["validation_loss"] if last else 0.0,
        )

    return sorted(document["trials"], key=quality, reverse=True)


def lines(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of networks that have no name, and the best trial with its command."""
    named = {trial["arch"]: trial["line"] for trial in document["trials"]}
    texts = [f"{arch}: {line}" for arch, line in named.items() if arch not in NETWORKS]
    if document["best"] is None:
        return [*texts, "No trial was finished."]
    best = document["trials"][document["best"] - 1]
    accuracy = best["history"][-1]["validation_accuracy"]
    return [
        *texts,
        f"Best: trial {best['number']}, {accuracy:.2%} validation accuracy. To train it:",
        document["command"],
    ]


def _epochs(trial: Mapping[str, Any], most: int) -> str:
    """Return ``3 of 5``, or why there are no more, unless that is Tune's decision."""
    is_usual = trial["state"] in ("finished", "stopped")
    return f"{len(trial['history'])} of {most}" if is_usual else str(trial["state"])


def _shown(trial: Mapping[str, Any], name: str) -> str:
    value = trial[name]
    return network_name(value) if name == "arch" else f"{value:g}"
