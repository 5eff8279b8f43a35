"""The view of the records: what `mnist report` says of them, and the figures of its charts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mnist_cli.errors import RecordError
from mnist_cli.experiments.document import load_document, records_of
from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.experiments.statistics import statistic
from mnist_cli.names import model_name
from mnist_cli.records import RunRecord
from mnist_cli.reporting import tables
from mnist_cli.reporting.charts.captions import facts
from mnist_cli.reporting.charts.style import Cell, group_by_cell
from mnist_cli.reporting.page import TITLES
from mnist_cli.reporting.results import training_paths, training_record
from mnist_cli.reporting.verdicts import network_lines, verdicts
from mnist_cli.web.state import state_of

# What a record may raise that is JSON and has all fields, but not the values it should have.
_DAMAGED = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(ArithmeticError, RecursionError),
)
_EPOCH = {"name": "epoch"}
_SECONDS = {"name": "training seconds", "unit": "s"}
_LOSS = {"name": "loss per image"}


def _accuracy(of: str) -> dict[str, str]:
    return {"name": f"{of} accuracy", "unit": "share"}


async def list_records(request: Request) -> Response:
    """`GET /api/records`: the records of the results folder, and files that are none."""
    state = state_of(request)
    return JSONResponse(await state.slow.run(read_records, state.results_dir))


def read_records(folder: Path) -> dict[str, Any]:
    """Return what `GET /api/records` says. A broken file is a line of ``problems``."""
    records, problems = [], []
    sources: list[tuple[Path, Callable[[Path], dict[str, Any]]]] = [
        *((folder / f"{name}.json", _experiment) for name in TITLES),
        *((path, _training) for path in training_paths(folder)),
    ]
    for path, read in sources:
        if not path.is_file():
            continue
        try:
            record = read(path)
            json.dumps(record, allow_nan=False)  # or the whole answer would fail
            records.append(record)
        except RecordError as error:
            problems.append(" ".join(str(error).split()))
        except _DAMAGED as error:
            problems.append(
                f"{path} is damaged ({type(error).__name__}: {error}). Remove it, or measure anew."
            )
    return {"results_dir": str(folder), "records": records, "problems": problems}


def _experiment(path: Path) -> dict[str, Any]:
    """Return a comparison or a sweep, as `mnist report` tells it."""
    document = load_document(path)
    header, rows = tables.table(document)
    runs = records_of(document)
    cells = group_by_cell(runs) if runs else []
    charts = _sweep_charts if tables.is_sweep(document) else _comparison_charts
    return {
        "name": path.stem,
        "title": TITLES[path.stem],
        "caption": tables.caption(document),
        "warnings": tables.warning_lines(document),
        "table": {"header": header, "rows": rows},
        "lines": [*network_lines(document), *verdicts(document)],
        "failures": [
            f"{model_name(each['framework'], each['arch'])} failed: {each['error']}"
            for each in document["failures"]
        ],
        "series": [_series(cell) for cell in cells],
        "charts": charts(cells) if cells else [],
    }


def _training(path: Path) -> dict[str, Any]:
    """Return one training: each series of its charts is a part of the data."""
    record = training_record(path)
    header, rows = tables.history_table(record)
    (cell,) = group_by_cell([record])
    look = _series(cell)
    parts = {"train": "training", "validation": "validation", "test": "test"}
    markers, styles = ("s", "o", "^"), ("--", "-", ":")
    return {
        "name": path.stem,
        "title": f"Training of {look['name']}",
        "caption": f"{', '.join(facts([record]))}; {record.test_accuracy:.2%} test accuracy.",
        "warnings": [f"Warning: {text}." for text in machine_warnings([record])],
        "table": {"header": header, "rows": rows},
        "lines": [],
        "failures": [],
        "series": [
            {**look, "name": name, "marker": marker, "line_style": style}
            for name, marker, style in zip(parts.values(), markers, styles, strict=True)
        ],
        "charts": [
            _lines("Loss by epoch", _EPOCH, _LOSS, _parts(record, parts, "loss")),
            _lines(
                "Accuracy by epoch",
                _EPOCH,
                {"name": "accuracy", "unit": "share"},
                _parts(record, parts, "accuracy"),
            ),
        ],
    }


def _parts(record: RunRecord, parts: Sequence[str] | dict[str, str], field: str) -> list[Any]:
    """Return a figure by epoch for each part of the data that has it, else an empty list."""
    return [
        [
            [row.epoch, getattr(row, f"{part}_{field}")]
            for row in record.history
            if hasattr(row, f"{part}_{field}")
        ]
        for part in parts
    ]


def _series(cell: Cell) -> dict[str, Any]:
    """Return name and look of a framework and network, the same in every chart."""
    run = cell.runs[0]
    return {
        "name": model_name(run.framework, run.arch, run.activation),
        "framework": run.framework,
        "marker": cell.look.marker,
        "line_style": cell.line_style,
        "line_width": cell.look.line_width,
    }


def _comparison_charts(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the panels of `charts.comparison`: means of runs by epoch, and all runs at the end."""
    return [
        _by_epoch("Test accuracy by epoch", cells, _accuracy("test"), "test_accuracy"),
        _lines(
            "Validation accuracy by training time",
            _SECONDS,
            _accuracy("validation"),
            [_curve(cell, "train_seconds", "validation_accuracy") for cell in cells],
            step="epoch",
        ),
        _by_epoch("Validation loss by epoch", cells, _LOSS, "validation_loss"),
        _by_epoch("Training loss by epoch", cells, _LOSS, "train_loss"),
        _bars("Final test accuracy", cells, _accuracy("test"), "test_accuracy"),
        _bars("Total training time", cells, _SECONDS, "train_seconds"),
        _bars("Throughput", cells, {"name": "images per second"}, "images_per_second"),
        _bars("Peak memory", cells, {"name": "peak memory", "unit": "MiB"}, "peak_rss_mib"),
    ]


def _sweep_charts(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the panels of `charts.batch_size`: means of runs by batch size."""
    panels: tuple[tuple[str, dict[str, str], Callable[[RunRecord], float | None]], ...] = (
        ("Final test accuracy", _accuracy("test"), lambda run: run.test_accuracy),
        ("Time per epoch", _SECONDS, lambda run: run.train_seconds / len(run.history)),
        ("Throughput", {"name": "images per second"}, lambda run: run.images_per_second),
        (
            "Time to 98% validation accuracy",
            _SECONDS,
            lambda run: run.time_to_accuracy["0.98"],
        ),
    )
    return [
        _lines(
            title,
            {"name": "batch size", "scale": "log"},
            axis,
            [_by_batch_size(cell, value) for cell in cells],
        )
        for title, axis, value in panels
    ]


def _by_epoch(title: str, cells: Sequence[Cell], axis: dict[str, str], field: str) -> Any:
    return _lines(title, _EPOCH, axis, [_curve(cell, "epoch", field) for cell in cells])


def _curve(cell: Cell, x: str, y: str) -> list[list[float]]:
    """Return points of two `EpochRecord` fields, means of runs, of epochs that all completed."""
    epochs = zip(*(run.history for run in cell.runs), strict=False)
    return [
        [_mean([getattr(row, field) for row in rows]) for field in (x, y)]
        for rows in map(list, epochs)
    ]


def _by_batch_size(cell: Cell, value: Callable[[RunRecord], float | None]) -> list[list[float]]:
    """Return a point for each batch size: the mean of the runs that have the value."""
    found: dict[int, list[float]] = {}
    for run in cell.runs:
        if (figure := value(run)) is not None:
            found.setdefault(run.batch_size, []).append(figure)
    return [[size, _mean(figures)] for size, figures in sorted(found.items())]


def _mean(values: Sequence[float]) -> float:
    return float(statistic(values)["mean"])


def _lines(
    title: str,
    x: dict[str, str],
    y: dict[str, str],
    points: list[Any],
    *,
    step: str = "",
) -> dict[str, Any]:
    """Return a chart of lines: points (x, y) of each series.

    ``step`` names the number of a point where x is not the same for all series.
    """
    return {"kind": "lines", "title": title, "x": x, "y": y, "points": points, "step": step}


def _bars(title: str, cells: Sequence[Cell], axis: dict[str, str], field: str) -> dict[str, Any]:
    """Return a chart of bars: the statistic of a `RunRecord` field of each series, and its runs."""
    bars = []
    for cell in cells:
        values = [getattr(run, field) for run in cell.runs]
        bars.append({**statistic(values), "runs": values})
    return {"kind": "bars", "title": title, "x": axis, "bars": bars}


ROUTES = (Route("/api/records", list_records, methods=["GET"]),)
