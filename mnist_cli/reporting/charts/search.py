"""The chart of a search: accuracy of all trials by epoch, and by each setting that was searched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.errors import UsageError
from mnist_cli.names import dataset_name, framework_name, network_name
from mnist_cli.reporting.charts.panels import label_panel
from mnist_cli.reporting.charts.style import (
    FONT_POINTS,
    INK,
    NAME_CHARACTERS,
    new_figure,
    save,
    shortened,
)
from mnist_cli.reporting.search import SETTING_NAMES, caption, searched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "tune.png"
DESCRIPTION = (
    "The trials of a search: validation accuracy by epoch, and at the end of each trial by each "
    "setting. Trials that were stopped early are grey."
)
_COLUMNS = 3
_BEST, _FINISHED, _STOPPED = "#AD360A", "#17245C", "#A6A6A6"
_LEAST_ERROR = 0.01  # percent, where an accuracy of 100% is drawn
_MAX_BESIDE = 2  # networks in a panel beside others
_NAME_CHARACTERS = 100  # of networks, in a whole row


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw accuracies by epoch, and by each setting. Raises `UsageError` if no epoch was done."""
    trials = [trial for trial in document["trials"] if trial["history"]]
    if not trials:
        raise UsageError("There is no finished epoch to draw.")
    # The best one last, over the others; before it those that were finished.
    rank = {"finished": 1}
    trials.sort(key=lambda t: (t["number"] == document["best"], rank.get(t["state"], 0)))
    names = searched(document)
    rows = [names[first : first + _COLUMNS] for first in range(0, len(names), _COLUMNS)]
    if "arch" in names and len(document["settings"]["archs"]) > _MAX_BESIDE:
        rows[-1] = rows[-1][:-1]  # the networks have a row of their own
        rows = [*filter(None, rows), ["arch"]]
    heights = [3.6, *[2.9] * len(rows)]
    figure = new_figure(1.6 + sum(heights), _title(document))
    top, *others = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    by_epoch = top.subplots()
    _draw_epochs(by_epoch, trials, document["best"])
    for row, subfigure in zip(rows, others, strict=True):
        is_wide = row == ["arch"]
        panels = subfigure.subplots(1, 1 if is_wide else _COLUMNS, squeeze=False)[0]
        for panel, name in itertools.zip_longest(panels, row):
            if name is None:
                panel.set_axis_off()
                continue
            _draw_setting(panel, trials, name, document)
            _accuracy_axis(panel, trials, "accuracy, %" if name == row[0] else "")
    _accuracy_axis(by_epoch, trials, "validation accuracy, %")
    notes = ["below: accuracy after the last epoch of each trial", "vertically: log of the error"]
    failed = [trial for trial in document["trials"] if trial["error"] is not None]
    if failed:
        notes.append(f"{len(failed)} diverged or failed")
    save(figure, path, [*caption(document).rstrip(".").split(", "), *notes])


def _title(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    networks = [network_name(arch) for arch in settings["archs"]]
    what = networks[0] if len(networks) == 1 else f"{len(networks)} networks"
    title = f"{framework_name(settings['framework'])}: settings for {what} on "
    title += dataset_name(settings["dataset"])
    if document["best"] is None:
        return title
    last = document["trials"][document["best"] - 1]["history"][-1]
    return f"{title}, best {last['validation_accuracy']:.2%} on validation images"


def _look(trial: Mapping[str, Any], best: int | None) -> tuple[str, str]:
    """Return the colour of a trial, and what the legend calls it."""
    if trial["number"] == best:
        return _BEST, f"best: trial {best}"
    return (_FINISHED, "finished") if trial["state"] == "finished" else (_STOPPED, "stopped early")


def _error(epoch: Mapping[str, Any]) -> float:
    return max(100 * (1 - float(epoch["validation_accuracy"])), _LEAST_ERROR)


def _draw_epochs(panel: Axes, trials: Sequence[Mapping[str, Any]], best: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    label_panel(panel, "Accuracy by epoch", "epoch", "")
    for trial in trials:
        color, name = _look(trial, best)
        is_best = trial["number"] == best
        panel.plot(
            [epoch["epoch"] for epoch in trial["history"]],
            [_error(epoch) for epoch in trial["history"]],
            color=color,
            marker="o",
            markersize=8 if is_best else 5,
            linewidth=3 if is_best else 1.4,
            label=name,
            clip_on=False,
        )
    most = max(len(trial["history"]) for trial in trials)
    panel.set_xlim(1 - 0.04 * most, most + 0.04 * most)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    handles = {handle.get_label(): handle for handle in panel.lines}
    order = sorted(handles, key=lambda name: ("best", "fini", "stop").index(str(name)[:4]))
    panel.legend(
        handles=[handles[name] for name in order],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=FONT_POINTS,
        labelcolor=INK,
        frameon=False,
    )


def _draw_setting(
    panel: Axes, trials: Sequence[Mapping[str, Any]], name: str, document: Mapping[str, Any]
) -> None:
    """Draw the accuracy at the end of each trial by one of its settings."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    label_panel(panel, "", SETTING_NAMES.get(name, "network"), "")
    archs = document["settings"]["archs"]
    for trial in trials:
        color, _ = _look(trial, document["best"])
        is_best = trial["number"] == document["best"]
        panel.plot(
            archs.index(trial["arch"]) if name == "arch" else trial[name],
            _error(trial["history"][-1]),
            color=color,
            marker="*" if is_best else "o",
            markersize=15 if is_best else 6.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linewidth=0,
            clip_on=False,
        )
    if name == "arch":
        panel.set_xlim(-0.5, len(archs) - 0.5)
        most = _NAME_CHARACTERS // len(archs) if len(archs) > _MAX_BESIDE else NAME_CHARACTERS
        names = [shortened(network_name(arch), min(most, NAME_CHARACTERS)) for arch in archs]
        panel.set_xticks(range(len(archs)), names)
        return
    space = document["settings"]["space"][name]
    (values,) = space.values()
    if name in ("learning_rate", "batch_size"):
        panel.set_xscale("log")
        decades = math.log10(max(values) / min(values))
        subs = (1, 2, 5) if decades < 1.7 else (1, 3) if decades < 3.5 else (1,)
        panel.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        panel.xaxis.set_minor_locator(NullLocator())
        pad = (max(values) / min(values)) ** 0.05
        panel.set_xlim(min(values) / pad, max(values) * pad)
    else:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        pad = 0.05 * (max(values) - min(values))
        panel.set_xlim(min(values) - pad, max(values) + pad)
    if "choices" in space:
        panel.set_xticks(values)
    panel.xaxis.set_major_formatter("{x:g}")


def _accuracy_axis(panel: Axes, trials: Sequence[Mapping[str, Any]], label: str) -> None:
    """Show accuracies, in percent, as the logarithm of the error: 98% to 99% as 90% to 95%."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    errors = [_error(epoch) for trial in trials for epoch in trial["history"]]
    low, high = min(errors), max(errors)
    pad = (high / low) ** 0.06 * 1.03
    panel.set_yscale("log")
    panel.set_ylim(high * pad, low / pad)  # the most accurate on top
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g}"))
    panel.set_ylabel(label, fontsize=FONT_POINTS, color=INK)
