"""Terminal and notebook output: progress of runs, tables of results.

Progress goes to standard error, tables to standard output, so that ``--json`` and pipes stay clean.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.experiments.machines import SIDES
from mnist_cli.experiments.robustness import Robustness
from mnist_cli.names import DIGITS, dataset_name, framework_name, model_name
from mnist_cli.records import RunRecord
from mnist_cli.reporting import stored, tables

if TYPE_CHECKING:
    from mnist_cli.experiments.stored import StoredRun

_WIDE = 120  # columns of a terminal


def stdout() -> Console:
    """Return the console for tables."""
    return Console()


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return Console(stderr=True, highlight=False)


class TrainingProgress:
    """Shows one or several runs: live bars in a terminal or notebook, else one line per epoch."""

    def __init__(self, costs: Sequence[float], *, is_shown: bool = True) -> None:
        """``costs`` are the relative durations of the runs; ``is_shown`` False shows nothing."""
        self._console = stderr() if is_shown else Console(quiet=True)
        self._costs = costs
        self._shares = [0.0] * len(costs)  # how much of each run is done
        self._labels: dict[int, str] = {}  # of the runs at work, by their number in the plan
        self._bars: dict[int, TaskID] = {}
        self._latest = -1
        self._said: set[str] = set()
        self._finished = 0
        is_live = _is_live(self._console)
        # Live bars show the epochs already; of several runs, each finished run leaves one line.
        self._one_line_per_run = len(costs) > 1 and is_live
        self._progress = Progress(
            # Two lines per task, of a fixed width, so that it fits a terminal of 80 columns.
            TextColumn(
                "{task.description}\n  {task.fields[status]}",
                markup=False,
                table_column=Column(width=51, no_wrap=True),
            ),
            BarColumn(bar_width=8),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not is_live,
        )
        self._all = self._progress.add_task(
            "all runs", total=sum(self._costs), status="", visible=len(costs) > 1
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def start_run(self, label: str, *, run: int | None = None) -> None:
        """Show that a run begins; ``run`` is its number in the plan, by default the next."""
        self._latest = run = self._latest + 1 if run is None else run
        if run not in self._labels:  # else it is begun again, on another node
            self._bars[run] = self._progress.add_task("", total=None, status="")
        self._labels[run] = label
        self._progress.reset(self._bars[run], description=label, total=None, status="starting")
        self._show_all()

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        """Show an event of a run, by default of the one that began last (see `loop.fit`)."""
        run = self._latest if run is None else run
        if event["event"] == "phase":
            self._progress.update(self._bars[run], status=event["name"])
        elif event["event"] == "step":
            self._progress.update(
                self._bars[run],
                completed=event["step"],
                total=event["total_steps"],
                status=f"epoch {event['epoch']}  {event['step']}/{event['total_steps']}  "
                f"loss {event['loss']:.4f}  {event['images_per_second']:,.0f} images/s",
            )
            self._shares[run] = event["step"] / event["total_steps"]
            self._show_all()
        elif event["event"] == "note" and event["text"] not in self._said:  # by another run
            self._said.add(event["text"])
            self.note(event["text"])
        elif event["event"] == "epoch" and not self._one_line_per_run:
            self._console.print(
                f"{self._labels[run]}  {event['epoch']}/{event['epochs']}  "
                f"loss {event['train_loss']:.4f}  "
                f"validation {event['validation_accuracy']:.2%}  "
                + (f"test {event['test_accuracy']:.2%}  " if "test_accuracy" in event else "")
                + f"{event['train_seconds']:.1f} s",
                soft_wrap=True,
            )

    def finish_run(
        self, record: RunRecord | None = None, *, failure: str = "", run: int | None = None
    ) -> None:
        """Show that a run has ended: with a record, or with the cause of its failure."""
        run = self._latest if run is None else run
        self._shares[run] = 1.0
        self._finished += 1
        self._progress.remove_task(self._bars.pop(run))
        label = self._labels.pop(run)
        self._show_all()
        if failure:
            self._console.print(Text.assemble(("failed", "red"), f" {label}: {failure}"))
        elif record is not None and self._one_line_per_run:
            self.note(
                f"{label:32} test {record.test_accuracy:.2%}  "
                f"{record.train_seconds:6.1f} s  {record.images_per_second:8,.0f} images/s"
            )

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _show_all(self) -> None:
        """Show how much of the whole plan is done, by the costs of its runs."""
        done = sum(cost * share for cost, share in zip(self._costs, self._shares, strict=True))
        count = len(self._costs)
        status = f"run {min(self._finished + 1, count)} of {count}"
        if len(self._labels) > 1:
            status = f"{self._finished} of {count} finished, {len(self._labels)} at work"
        self._progress.update(self._all, completed=done, status=status)


@contextmanager
def reading_progress(count: int) -> Iterator[Callable[..., None]]:
    """Show a bar over ``count`` pictures on standard error; yield what advances it by some."""
    with Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=stderr(),
        transient=True,
        # Answers printed to the same terminal appear above the bar; a pipe or file is left alone.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task("", total=count, speed="")

        def advance(number: int = 1) -> None:
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, advance=number, speed=f"{speed:,.0f} / s" if speed else "")

        yield advance


def _is_live(console: Console) -> bool:
    """Return whether bars can be redrawn in place: in a terminal, or a notebook with widgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal


def half_blocks(images: Sequence[Array], *, err: bool = False) -> str:
    """Return images (28, 28), uint8, side by side as text, two pixels per character.

    In 24 shades of grey on a terminal (standard error's with ``err``), else in black and white.
    """
    console = stderr() if err else stdout()
    fit = max(1, (console.width + 2) // (IMAGE_SIZE + 2))
    rows = []
    for start in range(0, len(images), fit):
        gap = np.zeros((IMAGE_SIZE, 2), dtype=np.uint8)
        parts = [part for image in images[start : start + fit] for part in (image, gap)][:-1]
        pixels = np.hstack(parts)
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
            if console.is_terminal and not console.no_color:
                # 232 to 255 are the greys of the 256 colours, black to white.
                cells = (
                    f"\x1b[38;5;{232 + above * 23 // 255};48;5;{232 + below * 23 // 255}m▀"
                    for above, below in zip(upper, lower, strict=True)
                )
                rows.append("".join(cells) + "\x1b[0m")
            else:
                cells = (
                    " ▄▀█"[2 * (above > 127) + (below > 127)]
                    for above, below in zip(upper, lower, strict=True)
                )
                rows.append("".join(cells).rstrip())
    return "\n".join(rows)


def history_table(record: RunRecord) -> Table:
    """Return the table of one training run, one row per epoch."""
    header, rows = tables.history_table(record)
    precision = "" if record.precision == "float32" else f", {record.precision}"
    processes = record.environment.get("world_size", 1)
    shared = f" shared by {processes} processes" if processes > 1 else ""
    table = plain_table(
        f"{model_name(record.framework, record.arch, record.activation)}: "
        f"{record.parameters:,} parameters\n"
        f"{record.train_images:,} training images{', augmented' * record.augment}"
        f"{', some no digits' * record.reject}, "
        f"batch {record.batch_size}{shared}, seed {record.seed}{precision}",
        [name.replace(" ", "\n", 1) for name in header],
    )
    for row in rows:
        table.add_row(*row)
    marks = "; ".join(
        f"{float(mark):.0%} validation accuracy "
        + ("not reached" if seconds is None else f"after {seconds:.1f} s")
        for mark, seconds in record.time_to_accuracy.items()
    )
    table.caption = (
        f"seconds: training only, summed; import {record.import_seconds:.1f} s, "
        f"warm-up {record.warmup_seconds:.1f} s, evaluation {record.evaluate_seconds:.1f} s. "
        f"{marks}. "
        + (
            f"The model is that of epoch {record.model_epoch}. "
            if record.model_epoch not in (None, len(record.history))
            else ""
        )
        + f"Peak memory {record.peak_rss_mib:,.0f} MiB."
        + "".join(f"\nWarning: {escape(text)}." for text in machine_warnings([record]))
    )
    return table


def experiment_table(document: Mapping[str, Any]) -> Table:
    """Return the summary table of a comparison or a sweep, failures included."""
    header, rows = tables.table(document)
    left = header.index("test accuracy")
    table = plain_table(
        tables.caption(document), [name.replace(" ", "\n", 1) for name in header], left
    )
    for row in rows:
        # Six figures with their intervals must fit the 80 columns of a usual terminal.
        cells = [cell.replace(" ± ", " ±").replace(" of ", "/") for cell in row]
        table.add_row(*("[red]failed[/red]" if cell == "failed" else cell for cell in cells))
    return table


def evaluation_table(report: Mapping[str, Any]) -> Table:
    """Return the table of `mnist evaluate`, one row per class."""
    kind = "digit" if tuple(report["class_names"]) == DIGITS else "class"
    table = plain_table(
        f"{report['accuracy']:.2%} of {report['images']:,} correct, loss {report['loss']:.4f} "
        f"({Path(report['checkpoint']).name}, computed by {framework_name(report['framework'])})",
        (kind, "precision", "recall", "F1", "images"),
    )
    for row in report["per_class"]:
        table.add_row(
            Text(row["name"]),
            f"{row['precision']:.4f}",
            f"{row['recall']:.4f}",
            f"{row['f1']:.4f}",
            f"{row['support']:,}",
        )
    return table


def evaluations_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of several evaluations, one row per model, or ensemble of models."""
    table = plain_table(
        f"{reports[0]['images']:,} test images of {dataset_name(reports[0]['dataset'])}",
        ("model", "correct", "wrong", "loss"),
        left=1,
    )
    for report in reports:
        wrong = round(report["images"] * (1 - report["accuracy"]))
        name = report["checkpoint"].removesuffix(".safetensors")
        name = name if name.startswith("ensemble of ") else Path(name).name
        figures = f"{report['accuracy']:.2%}", f"{wrong:,}", f"{report['loss']:.4f}"
        table.add_row(Text(name), *figures)
    return table


def robustness_table(robustness: Robustness) -> Table:
    """Return the accuracy of each model under each disturbance, by degree."""
    most = max(len(curve.points) for curve in robustness.curves)
    table = plain_table(
        f"Accuracy in percent on {robustness.images:,} test images of "
        f"{dataset_name(robustness.dataset)}, by degree of disturbance;\n"
        "last column: most images that are wrong and yet called sure, in percent",
        ("", *[""] * most, "sure,\nwrong"),
        left=1,
    )
    previous = ""
    for curve in robustness.curves:
        if curve.disturbance != previous:
            previous = curve.disturbance
            degrees = (f"{point.degree:g}" for point in curve.points)
            table.add_row(Text(f"{previous}, {curve.unit}", style="bold"), *degrees)
        cells = [f"{100 * point.accuracy:.1f}" for point in curve.points]
        cells += [""] * (most - len(cells))
        worst = max(point.sure_and_wrong for point in curve.points)
        table.add_row(Text(f"  {curve.model}"), *cells, f"{100 * worst:.1f}")
    return table


def networks_table(networks: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of `mnist networks`: known networks with their size and line."""
    table = plain_table("", ("network", "parameters", "operations\nper image", "layers"))
    table.columns[3].justify = "left"
    for each in networks:
        sizes = f"{each['parameters']:,}", f"{each['operations']:,}"
        table.add_row(each["name"], *sizes, Text(f"  {each['line']}"))
    return table


def network_table(network: Mapping[str, Any]) -> Table:
    """Return the table of one network, one row per layer."""
    table = plain_table(
        f"{network['name']}: {network['parameters']:,} parameters, "
        f"{network['operations']:,} operations per image",
        ("layer", "output", "parameters", "operations"),
        left=1,
    )
    for each in network["layers"]:
        sizes = (f"{each[name]:,}" for name in ("parameters", "operations"))
        table.add_row(Text(each["layer"]), "x".join(map(str, each["output"])), *sizes)
    return table


def stored_runs_table(runs: Sequence[StoredRun], *, width: int) -> Table:
    """Return the table of `mnist results`; a wide one has speeds and files too."""
    without = () if width >= _WIDE else ("images / second", "file")
    title, header, rows = stored.runs_table(runs, without=without)
    columns = [name.replace(" ", "\n", 1) for name in header]
    table = plain_table(title, columns, left=header.index("batch"))
    for column, name in zip(table.columns, header, strict=True):
        is_text = name in ("data set", "machine", "device", "file")
        column.justify = "left" if is_text else column.justify
        column.overflow = "fold"
        column.no_wrap = name == "date"
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def machines_table(comparison: Mapping[str, Any]) -> Table:
    """Return the table of `mnist compare-records`, one row per cell that is compared."""
    header, rows = stored.machines_table(comparison)
    columns = [name.replace(" ", "\n", 1) for name in header]
    table = plain_table("", columns, left=2)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def differences_table(differences: Sequence[Mapping[str, str | None]]) -> Table:
    """Return the table of what differs between two machines."""
    table = plain_table("\nThe machines differ in:", ("", *SIDES), left=3)
    for each in differences:
        cells = (each["name"] or "", *(each[side] or "-" for side in SIDES))
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    return table


def info_table(info: Mapping[str, Any]) -> Table:
    """Return the table of `mnist info`."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in info.items():
        table.add_row(name.replace("_", " "), _INFO_TEXTS.get(name, _plain)(value))
    return table


def _versions(versions: Mapping[str, str | None]) -> str:
    return "\n".join(f"{name}: {version or 'not installed'}" for name, version in versions.items())


def _conditions(figures: Mapping[str, float | None]) -> str:
    """Return what the system tells, a line each, shares in percent."""
    told = {
        name.replace("_", " "): f"{value:.0%}" if name.endswith("_share") else f"{value:,.4g}"
        for name, value in figures.items()
        if value is not None
    }
    return "\n".join(f"{name}: {text}" for name, text in told.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{name}: {item}" for name, item in value.items()]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


_INFO_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "versions": _versions,
    "conditions": _conditions,
    "cpu_quota": lambda cores: "none" if cores is None else f"{cores:g} cores",
    "gpu": lambda state: "none" if state is None else _conditions(state),
}


def plain_table(title: str, columns: Sequence[str], left: int = 0) -> Table:
    """Return an empty table; its first ``left`` columns are aligned to the left."""
    table = Table(
        title=escape(title),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right")
    return table
