"""Stored runs, and two machines' comparisons side by side, as cells of text and sentences."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.experiments.machines import SIDES
from mnist_cli.names import dataset_name, framework_name, model_name, network_name, plural

if TYPE_CHECKING:
    from mnist_cli.experiments.stored import StoredRun


# How a sentence on what is not compared goes on, by what it is.
_GAPS = {"all": "not compared:", "time": "times not compared:", "runs": "times without"}
# Columns of `runs_table` that stand in the title if they say the same of all runs.
_COMMON = ("data set", "machine", "threads", "device", "file")


def _without_common_folder(files: Sequence[str]) -> list[str]:
    folder = os.path.commonpath([Path(file).parent for file in files]) if files else ""
    return [os.path.relpath(file, folder or None) for file in files]


def runs_table(
    runs: Sequence[StoredRun], *, without: Sequence[str] = ()
) -> tuple[str, list[str], list[list[str]]]:
    """Return title, header and rows of stored runs, but for the columns ``without``.

    What is the same for all runs is in the title.
    """
    columns = {
        "date": [run.date or "unknown" for run in runs],
        "framework": [framework_name(run.framework) for run in runs],
        "network": [network_name(run.arch, run.activation) for run in runs],
        "batch": [str(run.batch_size) for run in runs],
        "seed": [str(run.seed) for run in runs],
        "epochs": [_epochs(run) for run in runs],
        "test accuracy": [f"{run.test_accuracy:.2%}" for run in runs],
        "train seconds": [f"{run.train_seconds:,.1f}" for run in runs],
        "images / second": [f"{run.images_per_second:,.0f}" for run in runs],
        "data set": [dataset_name(run.dataset) for run in runs],
        "machine": [run.machine for run in runs],
        "threads": [str(run.threads or "unknown") for run in runs],
        "device": [run.device or "unknown" for run in runs],
        "file": _without_common_folder([run.file for run in runs]),
    }
    same = [name for name in _COMMON if len(set(columns[name])) == 1]
    told = [f"{name} {columns[name][0]}" for name in same]
    header = [name for name in columns if name not in (*same, *without)]
    rows = [list(cells) for cells in zip(*(columns[name] for name in header), strict=True)]
    return ", ".join([plural(len(runs), "run"), *told]), header, rows


def _epochs(run: StoredRun) -> str:
    """Return ``5``, or ``3 of 5`` of a training that ended early or is unfinished."""
    is_whole = run.epochs_done == run.epochs
    return str(run.epochs) if is_whole else f"{run.epochs_done} of {run.epochs}"


def files_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return a line per file of a comparison of machines: what it is."""
    return [
        f"{side}: {file['path']}, {file['machine']}, {plural(file['runs'], 'run')}, "
        f"{file['created'][:10]}"
        for side, file in zip(SIDES, comparison["files"], strict=True)
    ]


def machines_table(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the cells that are compared."""
    cells = comparison["cells"]
    has_sizes = len({cell["batch_size"] for cell in cells}) > 1
    header = ["framework", "network", *(["batch"] if has_sizes else [])]
    header += [f"accuracy {side}" for side in SIDES] + [f"seconds {side}" for side in SIDES]
    rows = [
        [
            framework_name(cell["framework"]),
            network_name(cell["arch"], cell["activation"]),
            *([str(cell["batch_size"])] if has_sizes else []),
            *(_figure(each, scale=100, decimals=2, unit="%") for each in cell["test_accuracy"]),
            *(_figure(each, decimals=1) for each in cell["train_seconds"]),
            "-" if cell["seconds_ratio"] is None else f"{cell['seconds_ratio']['ratio']:.2f}",
        ]
        for cell in cells
    ]
    return [*header, "time ratio"], rows


def _figure(
    statistic: Mapping[str, Any], *, decimals: int, scale: float = 1, unit: str = ""
) -> str:
    """Return mean ± half-width of the 95% interval; only the mean of one run, ``-`` of none."""
    if statistic["mean"] is None:
        return "-"
    mean = f"{scale * statistic['mean']:,.{decimals}f}{unit}"
    interval = statistic["ci95"]
    return mean if interval is None else f"{mean} ±{scale * interval:,.{decimals}f}"


def machines_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return a sentence or two per cell, and one for all that is not compared."""
    gaps = comparison["not_compared"]
    cells = [*comparison["cells"], *(cell for entry in gaps for cell in entry["cells"])]
    has_sizes = len({cell["batch_size"] for cell in cells}) > 1
    return [
        *(_verdict(cell, has_sizes=has_sizes) for cell in comparison["cells"]),
        *(_gap(entry, has_sizes=has_sizes) for entry in gaps),
        *(
            f"Warning: {side}: {limit}."
            for side, limits in zip(SIDES, comparison["limits"], strict=True)
            for limit in limits
        ),
    ]


def _verdict(cell: Mapping[str, Any], *, has_sizes: bool) -> str:
    points = cell["accuracy_points"]
    parts = [
        f"{_name(cell, has_sizes=has_sizes)}: accuracy differs by {points['difference']:+.2f} pp"
        f"{_interval(points, '.2f')}: {_sure(points, cell['more_accurate'], 'more accurate')}"
    ]
    ratio = cell["seconds_ratio"]
    if ratio is not None:
        parts.append(
            f"the first takes {ratio['ratio']:.2f}x{_interval(ratio, '.2f')} the time of the "
            f"second: {_sure(ratio, cell['faster'], 'faster')}"
        )
    return "; ".join(parts) + "."


def _interval(figure: Mapping[str, Any], form: str) -> str:
    if figure["low"] is None:
        return ""
    return f" (95% CI {figure['low']:{form}} to {figure['high']:{form}})"


def _sure(figure: Mapping[str, Any], winner: str | None, better: str) -> str:
    if figure["low"] is None:
        return "inconclusive with 1 run"
    return f"the {winner} is significantly {better}" if winner else "no significant difference"


def _gap(entry: Mapping[str, Any], *, has_sizes: bool) -> str:
    cells = ", ".join(_name(cell, has_sizes=has_sizes) for cell in entry["cells"])
    return f"{cells}: {_GAPS[entry['what']]} {entry['reason']}."


def _name(cell: Mapping[str, Any], *, has_sizes: bool) -> str:
    name = model_name(cell["framework"], cell["arch"], cell.get("activation", "relu"))
    return f"{name} at batch {cell['batch_size']}" if has_sizes else name
