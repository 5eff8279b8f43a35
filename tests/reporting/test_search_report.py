"""Chart and table of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chart_checks import Drawn, require_readable, texts
from made_search import epoch_event, make_search
from rich.console import Console

from mnist_cli.errors import UsageError
from mnist_cli.reporting import results, search
from mnist_cli.reporting.charts import search as chart

LINE = "conv 8, relu, pool, dense 32, relu"
ONE_VALUE = {"batch_size": 64, "label_smoothing": 0.1, "warmup_fraction": 0.2, "decay_power": 1}


def perfect(jobs: Any, finished: Any, on_event: Any) -> None:
    for number in jobs:
        on_event(number, {"event": "started", "node": "n1"})
        on_event(number, epoch_event(1, 1.0, 1))
        on_event(number, {"event": "ended", "state": "finished", "error": None})


@pytest.mark.parametrize(
    "made",
    [
        {"count": 20, "archs": ["mlp", LINE]},
        {"count": 30, "archs": ["mlp", "cnn", "lenet5", "deep", "resnet", "linear", LINE]},
        {"count": 4, **ONE_VALUE},
        {"count": 3, "epochs": 1, "execute": perfect, "batch_size": "16:4096"},
        {"count": 40, "epochs": 60, "learning_rate": "0.05,0.1,0.2"},
    ],
    ids=["all settings", "many networks", "one setting", "perfect, one epoch", "many epochs"],
)
def test_a_search_is_drawn_with_no_text_cut_or_overlapping(
    made: dict[str, Any], tmp_path: Path, drawn: Drawn
) -> None:
    document = make_search(**made)
    chart.draw(document, tmp_path / "tune.png")
    require_readable(tmp_path / "tune.png", drawn)
    shown = texts(drawn)
    assert f"best: trial {document['best']}" in shown
    for name in search.searched(document):
        assert search.SETTING_NAMES.get(name, "network") in shown


def test_trials_that_were_stopped_are_grey_and_the_best_one_is_on_top(
    tmp_path: Path, drawn: Drawn
) -> None:
    document = make_search(20)
    chart.draw(document, tmp_path / "tune.png")
    by_epoch = drawn.figure.axes[0]
    colors = {len(line.get_xdata()): line.get_color() for line in by_epoch.lines[:-1]}
    assert colors == {1: chart._STOPPED, 5: chart._FINISHED}
    assert by_epoch.lines[-1].get_color() == chart._BEST
    errors = [line.get_ydata()[-1] for line in by_epoch.lines]
    assert errors[-1] == min(errors)
    assert any("diverged or failed" in text for text in texts(drawn))


def test_a_search_without_an_epoch_has_no_chart(tmp_path: Path) -> None:
    def nothing(jobs: Any, finished: Any, on_event: Any) -> None:
        for number in jobs:
            on_event(number, {"event": "started", "node": "n1"})
            on_event(number, {"event": "ended", "state": "failed", "error": "out of memory"})

    document = make_search(2, execute=nothing)
    assert results.draw_search(document, tmp_path) == []
    with pytest.raises(UsageError, match="no finished epoch"):
        search.Search(document).plot()
    assert search.lines(document) == ["No trial was finished."]


def test_the_table_has_the_best_trial_first_and_stands_in_80_columns() -> None:
    document = make_search(20)
    screen = Console(width=80)
    with screen.capture() as shown:
        screen.print(search.screen_table(document))
    assert "…" not in shown.get()
    assert max(map(len, shown.get().splitlines())) <= 80
    rows = [line.split() for line in shown.get().splitlines() if line.strip()[:1].isdigit()][1:]
    assert rows[0][0] == str(document["best"])
    assert len(rows) == 20
    assert rows[0][2:5] == ["5", "of", "5"]
    assert rows[-1][1:3] == ["-", "diverged"]


def test_a_search_shows_itself_as_text_and_as_html() -> None:
    document = make_search(6, ["mlp", LINE])
    found = search.Search(document)
    assert found.best is not None
    assert found.command == document["command"]
    for shown in (repr(found), found._repr_html_()):
        assert "mnist train --framework numpy" in shown
        assert LINE in shown
    assert len(found.table().splitlines()) == 2 + 6
    assert found.plot().png.startswith(b"\x89PNG")
