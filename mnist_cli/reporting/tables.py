"""Tables of an experiment's summary: as cells of text, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mnist_cli.config import ARCHITECTURES
from mnist_cli.experiments.document import records_of
from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.machine import machine_kind
from mnist_cli.names import dataset_name, framework_name, network_name, plural
from mnist_cli.records import RunRecord
from mnist_cli.reporting.verdicts import network_lines, verdicts

# An experiment's document, as `experiments.document` builds it.
Document: TypeAlias = Mapping[str, Any]

# How the learning rate of a sweep follows the batch size, after "at batch 64".
_SCALINGS = {
    "none": " and every other",
    "linear": ", proportional to batch size",
    "sqrt": ", proportional to the square root of batch size",
}

_AT_A_TIME = {"exclusive": "one at a time", "shared": "several at a time on a machine"}


def is_sweep(document: Document) -> bool:
    """Return whether a document is that of a batch-size sweep."""
    return "batch_sizes" in document["settings"]


def table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a document's summary as text, failures last.

    Figures over several runs are given as mean ± half-width of the 95% interval. The number of
    parameters is given if other networks than the CNN and the MLP are compared.
    """
    sweep = is_sweep(document)
    is_sized = not {row["arch"] for row in document["summary"]} <= set(ARCHITECTURES)
    header = ["framework", "network", *(["batch size"] if sweep else [])]
    header += ["test accuracy", "train seconds", "images / second"]
    header += ["seconds to 98%", "seconds to 99%", "peak MiB"]
    header += ["parameters"] if is_sized else []
    rows = []
    for row in document["summary"]:
        accuracy, speed = row["test_accuracy"], row["images_per_second"]
        rows.append(
            [
                framework_name(row["framework"]),
                network_name(row["arch"], row.get("activation", "relu")),
                *([f"{row['batch_size']}"] if sweep else []),
                f"{accuracy['mean']:.2%}" + _plus_minus(accuracy, lambda v: f"{100 * v:.2f}"),
                f"{row['train_seconds']['mean']:.1f}",
                f"{speed['mean']:,.0f}" + _plus_minus(speed, lambda v: f"{v:,.0f}"),
                *(_time_to(seconds, row["n"]) for seconds in row["time_to_accuracy"].values()),
                f"{row['peak_rss_mib']['mean']:,.0f}",
                *([f"{row['parameters']:,}"] if is_sized else []),
            ]
        )
    for failure in document["failures"]:
        names = [framework_name(failure["framework"]), network_name(failure["arch"])]
        cells = [*names, *([str(failure["batch_size"])] if sweep else []), "failed"]
        rows.append(cells + [""] * (len(header) - len(cells)))
    return header, rows


def caption(document: Document) -> str:
    """Return one sentence on how the figures of a document were measured."""
    runs = max((row["n"] for row in document["summary"]), default=0)
    settings = document["settings"]
    smoothing = settings.get("label_smoothing")
    scaling = _SCALINGS[settings.get("lr_scaling", "none")]
    devices = sorted({run["environment"]["device"] for run in document["runs"]})
    precision = settings.get("precision", "float32")
    parts = [
        f"{plural(runs, 'run')} of each, {_AT_A_TIME[settings.get('timing', 'exclusive')]}",
        plural(settings["epochs"], "epoch"),
        *([] if is_sweep(document) else [f"batch {settings['batch_size']}"]),
        f"peak learning rate {settings['learning_rate']:g}"
        + (f" at batch {settings['batch_size']}{scaling}" if is_sweep(document) else ""),
        *([f"label smoothing {smoothing:g}"] if smoothing else []),
        *([precision] if precision != "float32" else []),
        *(["augmented images"] if settings.get("augment") else []),
        dataset_name(settings["dataset"])
        + (f" (at most {settings['limit']:,} training images)" if settings.get("limit") else ""),
        plural(settings["threads"], "thread"),
        _machines(document),
        *(f"device {device}" for device in devices),
        document["created"][:10],
    ]
    return ", ".join(parts) + ("; mean ± 95% interval (Student's t)." if runs > 1 else ".")


def _machines(document: Document) -> str:
    """Return the processor or, of a cluster, how many nodes of how many kinds there were."""
    environments = [run["environment"] for run in document["runs"]]
    nodes = {each["node"] for each in environments if "node" in each}
    if not nodes:
        return str(document["environment"]["cpu"])
    kinds = list(dict.fromkeys(map(machine_kind, environments)))
    named = "; ".join(kinds)
    return f"{plural(len(nodes), 'node')} of {plural(len(kinds), 'kind')} of machine ({named})"


def warning_lines(document: Document) -> list[str]:
    """Return a line for each way in which the machine spoilt the runs of a document."""
    return [f"Warning: {text}." for text in machine_warnings(records_of(document))]


def history_table(record: RunRecord) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one run's history as text, a row per epoch."""
    header = ["epoch", "train loss", "validation loss", "validation accuracy", "test accuracy"]
    header += ["train seconds", "images / second"]
    rows = [
        [
            str(row.epoch),
            f"{row.train_loss:.4f}",
            f"{row.validation_loss:.4f}",
            f"{row.validation_accuracy:.2%}",
            f"{row.test_accuracy:.2%}",
            f"{row.train_seconds:.1f}",
            f"{row.images_per_second:,.0f}",
        ]
        for row in record.history
    ]
    return header, rows


def as_markdown_table(document: Document) -> str:
    """Return the table of a document in Markdown."""
    header, rows = table(document)
    left = header.index("test accuracy")
    lines = [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * left + ["---:"] * (len(header) - left)) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def as_markdown(document: Document) -> str:
    """Return caption, table, lines of layers, warnings and verdicts in Markdown."""
    lines = [*network_lines(document), *warning_lines(document), *verdicts(document)]
    bullets = [f"- {line}" for line in lines]
    parts = [caption(document), as_markdown_table(document)]
    return "\n\n".join([*parts, *(["\n".join(bullets)] if bullets else [])]) + "\n"


def as_csv(document: Document) -> str:
    """Return the summary as CSV: one row per cell, each statistic as mean, sd and ci95."""
    text = io.StringIO()
    rows = [dict(_flatten(row)) for row in document["summary"]]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flatten(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}_")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _time_to(seconds: Mapping[str, Any], runs: int) -> str:
    """Return the mean time to an accuracy, and how many runs reached it unless all did."""
    if seconds["mean"] is None:
        return "-"
    reached = "" if seconds["n"] == runs else f" ({seconds['n']} of {runs})"
    return f"{seconds['mean']:.1f}{reached}"


def _plus_minus(statistic: Mapping[str, Any], show: Callable[[float], str]) -> str:
    """Return " ± half-width" of a statistic's 95% interval, or nothing for a single run."""
    return "" if statistic["ci95"] is None else f" ± {show(statistic['ci95'])}"
