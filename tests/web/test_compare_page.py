"""The view of the records in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_records import make_record
from open_pages import Paper, Server
from web_samples import running

from mnist_cli.records import write_json

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the records of this repository, a training and a broken file."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("comparison_results.json", "batch_size_comparison.json"):
        (folder / name).write_text((RESULTS / name).read_text())
    write_json(folder / "torch-cnn_training.json", make_record(epochs=4).to_json())
    (folder / "broken_training.json").write_text("{")
    with running("--no-browser", "--results-dir", folder) as (address, _):
        yield Server(address, folder / "kept")


@pytest.fixture
def compare(open_paper: Callable[..., Paper]) -> Callable[..., Paper]:
    def open_it(**options: object) -> Paper:
        paper = open_paper(**options)
        paper.page.get_by_role("tab", name="Compare").click()
        paper.page.wait_for_selector(".record[open] .plot text")
        return paper

    return open_it


def test_records_are_drawn_and_hover_shows_the_figures(compare: Callable[..., Paper]) -> None:
    paper = compare()
    assert paper.page.locator(".record").count() == 3
    assert "broken_training.json is damaged" in paper.text(".problem")
    record = paper.page.locator("[data-record=comparison_results]")
    assert record.locator(".chart").count() == 8
    plot = record.locator(".plot").first
    assert plot.locator("> svg .line").count() == 6
    box = plot.bounding_box()
    assert box is not None
    paper.page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)  # the last epoch
    tip = plot.locator(".tip")
    assert tip.locator(".tip-title").inner_text() == "epoch 5"
    # The table beside the chart has the same figures, as the last row.
    record.locator(".figures summary").first.click()
    cells = record.locator(".figures table").first.locator("tbody tr").last.locator("td")
    assert tip.locator("b").all_inner_texts() == cells.all_inner_texts()
    assert "significant" in record.locator(".verdicts").inner_text()


def test_keys_go_from_figure_to_figure_and_are_read_out(compare: Callable[..., Paper]) -> None:
    paper = compare()
    plot = paper.page.locator(".plot").first
    plot.focus()
    paper.page.keyboard.press("End")
    paper.page.keyboard.press("ArrowLeft")
    assert plot.locator(".tip-title").inner_text() == "epoch 4"
    assert plot.locator("[role=status]").inner_text().startswith("epoch 4: NumPy CNN 9")
    paper.page.keyboard.press("Escape")
    assert plot.locator(".tip").is_hidden()


def test_a_series_can_be_taken_out_of_the_charts(compare: Callable[..., Paper]) -> None:
    paper = compare()
    lines = paper.page.locator(".plot").first.locator("> svg .line")
    before = lines.count()
    button = paper.page.get_by_role("button", name="PyTorch MLP").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert lines.count() == before - 1
    plot = paper.page.locator(".plot").first
    plot.hover()
    assert "PyTorch MLP" not in plot.locator(".tip").inner_text()
    button.click()
    assert lines.count() == before


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_it_fits_and_axe_finds_no_serious_fault(
    scheme: str, width: int, compare: Callable[..., Paper]
) -> None:
    paper = compare(color_scheme=scheme, viewport={"width": width, "height": 900})
    for summary in paper.page.locator(".record > summary").all()[1:]:
        summary.click()
    paper.page.locator(".figures summary").first.click()
    paper.page.wait_for_selector("[data-record=torch-cnn_training] .plot text")
    assert paper.page.evaluate("document.documentElement.scrollWidth") <= width
    assert paper.grave_faults() == []
