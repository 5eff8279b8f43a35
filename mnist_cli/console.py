"""What a person sees in the terminal: progress while a run lasts, tables when it is done.

Progress goes to standard error, tables to standard output, so that ``--json`` and pipes stay clean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mnist_cli.records import RunRecord

# How long a CNN's run takes against an MLP's, roughly: only the bar over all runs needs it.
_RELATIVE_COST = {"cnn": 15, "mlp": 1}


def stdout() -> Console:
    """Return the console for tables."""
    return Console()


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return Console(stderr=True, highlight=False)


class TrainingProgress:
    """Follows one or several runs: live bars in a terminal, one line an epoch elsewhere."""

    def __init__(self, archs: Sequence[str]) -> None:
        """``archs`` names the architecture of each run to come, in order."""
        self._console = stderr()
        self._costs = [_RELATIVE_COST.get(arch, 1) for arch in archs]
        self._finished = 0
        self._label = ""
        self._progress = Progress(
            # Two lines a task: all of it fits a terminal of 80 columns.
            TextColumn("{task.description}\n  {task.fields[status]}", markup=False),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task(
            "all runs", total=sum(self._costs), status="", visible=len(archs) > 1
        )
        self._run = self._progress.add_task("", total=None, status="")

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

    def start_run(self, label: str) -> None:
        """Show that a run begins."""
        self._label = label
        self._progress.reset(self._run, description=label, total=None, status="starting")
        self._progress.update(self._all, status=f"run {self._finished + 1} of {len(self._costs)}")

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show an event of the current run (see `training.fit`)."""
        if event["event"] == "phase":
            self._progress.update(self._run, status=event["name"])
        elif event["event"] == "step":
            self._progress.update(
                self._run,
                completed=event["step"],
                total=event["total_steps"],
                status=f"epoch {event['epoch']}  step {event['step']}/{event['total_steps']}  "
                f"loss {event['loss']:.4f}  {event['images_per_second']:,.0f} images/s",
            )
            done = event["step"] / event["total_steps"] * self._costs[self._finished]
            self._progress.update(self._all, completed=self._cost_so_far() + done)
        elif event["event"] == "epoch":
            self._console.print(
                f"{self._label}  {event['epoch']}/{event['epochs']}  "
                f"loss {event['train_loss']:.4f}  "
                f"validation {event['validation_accuracy']:.2%}  "
                f"test {event['test_accuracy']:.2%}  {event['train_seconds']:.1f} s",
                soft_wrap=True,
            )

    def finish_run(self, failure: str | None = None) -> None:
        """Show that the current run has ended, well or with ``failure``."""
        self._finished += 1
        self._progress.update(self._all, completed=self._cost_so_far())
        if failure is not None:
            self._console.print(f"[red]failed[/red] {self._label}: ", end="")
            self._console.print(failure, markup=False, soft_wrap=True)

    def _cost_so_far(self) -> int:
        return sum(self._costs[: self._finished])


def history_table(record: RunRecord) -> Table:
    """Return the closing table of one training run."""
    table = _table(
        f"{record.framework} {record.arch}: {record.parameters:,} parameters, "
        f"batch {record.batch_size}, seed {record.seed}",
        (
            "epoch",
            "train\nloss",
            "validation\nloss",
            "validation\naccuracy",
            "test\naccuracy",
            "train\nseconds",
            "images\n/ second",
        ),
    )
    for row in record.history:
        table.add_row(
            str(row.epoch),
            f"{row.train_loss:.4f}",
            f"{row.validation_loss:.4f}",
            f"{row.validation_accuracy:.2%}",
            f"{row.test_accuracy:.2%}",
            f"{row.train_seconds:.1f}",
            f"{row.images_per_second:,.0f}",
        )
    marks = "; ".join(
        f"{float(mark):.0%} validation accuracy "
        + ("not reached" if seconds is None else f"after {seconds:.1f} s")
        for mark, seconds in record.time_to_accuracy.items()
    )
    table.caption = (
        f"seconds: training only, summed; import {record.import_seconds:.1f} s, "
        f"warm-up {record.warmup_seconds:.1f} s, evaluation {record.evaluate_seconds:.1f} s. "
        f"{marks}. Peak memory {record.peak_rss_mib:,.0f} MiB."
    )
    return table


def comparison_table(document: Mapping[str, Any]) -> Table:
    """Return the closing table of a comparison, failures included."""
    runs = max((row["n"] for row in document["summary"]), default=0)
    table = _table(
        f"{runs} run{'s' if runs != 1 else ''} of each, one at a time, "
        "same weights, batches, learning rates and optimiser",
        (
            "framework",
            "network",
            "test\naccuracy",
            "train\nseconds",
            "images\n/ second",
            "seconds\nto 98%",
            "seconds\nto 99%",
            "peak\nMiB",
        ),
        left=2,
    )
    for row in document["summary"]:
        table.add_row(
            row["framework"],
            row["arch"],
            _interval(row["test_accuracy"], lambda value: f"{value:.2%}"),
            _interval(row["train_seconds"], lambda value: f"{value:.1f}"),
            _interval(row["images_per_second"], lambda value: f"{value:,.0f}"),
            *(
                "-" if statistic["mean"] is None else f"{statistic['mean']:.1f}"
                for statistic in row["time_to_accuracy"].values()
            ),
            f"{row['peak_rss_mib']['mean']:,.0f}",
        )
    for failure in document["failures"]:
        table.add_row(failure["framework"], failure["arch"], "[red]failed[/red]")
    return table


def evaluation_table(report: Mapping[str, Any]) -> Table:
    """Return the per-digit table of `mnist evaluate`."""
    table = _table(
        f"{report['accuracy']:.2%} of {report['images']:,} right, loss {report['loss']:.4f} "
        f"({report['checkpoint']}, read by {report['framework']})",
        ("digit", "precision", "recall", "F1", "images"),
    )
    for row in report["per_class"]:
        table.add_row(
            str(row["digit"]),
            f"{row['precision']:.4f}",
            f"{row['recall']:.4f}",
            f"{row['f1']:.4f}",
            f"{row['support']:,}",
        )
    return table


def info_table(info: Mapping[str, Any]) -> Table:
    """Return the table of `mnist info`."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in info.items():
        if isinstance(value, Mapping):
            text = "\n".join(f"{key}: {_plain(item)}" for key, item in value.items())
        else:
            text = _plain(value)
        table.add_row(name.replace("_", " "), text)
    return table


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)


def _interval(statistic: Mapping[str, Any], show: Callable[[float], str]) -> str:
    """Return ``mean`` or ``mean ± half-width of its 95% interval``."""
    text = show(statistic["mean"])
    if statistic["ci95"] is not None:
        text += f" ± {show(statistic['ci95'])}"
    return text


def _table(title: str, columns: Sequence[str], *, left: int = 0) -> Table:
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=0
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table
