"""The view of the map in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from open_pages import Paper, Server
from playwright.sync_api import expect
from web_samples import running, save_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("map")
    save_model(folder, "cnn")
    save_model(folder, "wrong", framework="torch", shift=1)
    with running("--no-browser", "--models-dir", folder) as (address, _):
        yield Server(address, folder / "kept")


@pytest.fixture
def map_page(open_paper: Callable[..., Paper]) -> Callable[..., Paper]:
    """Open the map and wait until it is drawn."""

    def open_it(**options: object) -> Paper:
        paper = open_paper(**options)
        paper.page.get_by_role("tab", name="Map").click()
        paper.page.wait_for_selector("#panel-map[aria-busy=false] .digit", timeout=120_000)
        return paper

    return open_it


def test_digits_are_drawn_and_the_drawing_moves_among_them(map_page: Callable[..., Paper]) -> None:
    paper = map_page(reduced_motion="reduce")
    assert paper.page.locator(".map-plot .digit").count() == 1_000
    assert paper.text(".map .landing") == "Draw a digit: it lands on the map."
    landing = paper.page.locator(".map .landing")
    places = []
    for digit in (7, 0):
        paper.draw(digit)
        nearest = f"{digit}, {digit}, {digit}, {digit} and {digit}"
        expect(landing).to_contain_text(f"The nearest in this layer are {nearest}.")
        # Drawn anew with each answer: for a moment there may be none.
        place = "document.querySelector('.drawing circle')?.getBoundingClientRect().toJSON()"
        places.append(paper.page.wait_for_function(place).json_value())
        assert paper.page.locator(".drawing text").text_content() == str(digit)
        assert paper.page.locator(".links path").count() == 5
        paper.page.keyboard.press("c")
        expect(paper.page.locator(".drawing circle")).to_have_count(0)
    one, other = places
    assert abs(one["x"] - other["x"]) + abs(one["y"] - other["y"]) > 50


def test_hover_and_keys_show_the_digit(map_page: Callable[..., Paper]) -> None:
    paper = map_page()
    plot = paper.page.locator(".map-plot")
    plot.locator(".digit").nth(12).hover(force=True)
    tip = plot.locator(".tip")
    assert tip.inner_text().startswith("Test digit ")
    assert "read as" in tip.inner_text()
    picture = "document.querySelector('.tip canvas').getContext('2d').getImageData(0, 0, 28, 28)"
    assert paper.page.evaluate(f"{picture}.data.filter((v, i) => i % 4 < 3 && v > 99).length") > 60
    paper.page.mouse.move(0, 0)
    assert tip.is_hidden()
    plot.focus()
    paper.page.keyboard.press("ArrowRight")
    first = plot.locator("[role=status]").inner_text()
    assert first.startswith("Test digit 0: a 7, read as 7")
    paper.page.keyboard.press("ArrowUp")
    assert plot.locator("[role=status]").inner_text() != first
    paper.page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_misread_digits_are_marked_and_listed(map_page: Callable[..., Paper]) -> None:
    paper = map_page()
    rings = paper.page.locator(".map-plot .is-wrong")
    assert rings.count() == paper.page.locator(".misread button").count() == 4
    paper.page.locator(".misread button").first.click()
    told = paper.page.locator(".misread button").first.get_attribute("aria-label")
    label, read = str(told).split(": ")[1].split(" read as ")
    assert f"a {label}, read as {read}" in paper.text(".map-plot .tip")
    paper.page.get_by_label("Model").select_option("wrong")  # takes each digit for the next
    expect(paper.page.locator(".map .sentence")).to_contain_text("99", timeout=120_000)
    assert rings.count() > 990


def test_by_tsne_progress_is_shown_and_the_page_answers_meanwhile(
    map_page: Callable[..., Paper],
) -> None:
    paper = map_page()
    paper.page.get_by_role("button", name="t-SNE").click()
    expect(paper.page.locator(".working progress")).to_be_visible()
    paper.draw(3)
    paper.page.get_by_role("tab", name="Answers").click()
    assert paper.answers()[0] == "3"
    paper.page.get_by_role("tab", name="Map").click()
    paper.page.wait_for_selector("#panel-map[aria-busy=false] .digit", timeout=120_000)
    landing = paper.page.locator(".map .landing")
    expect(landing).to_contain_text("yours stands at the mean of its nearest test digits")
    expect(landing).to_contain_text("are 3, 3, 3, 3 and 3.")
    assert paper.page.locator(".working").is_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_it_fits_and_axe_finds_no_serious_fault(
    scheme: str, width: int, map_page: Callable[..., Paper]
) -> None:
    paper = map_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    paper.draw(7)
    expect(paper.page.locator(".map .landing")).to_contain_text("nearest")
    assert paper.page.evaluate("document.documentElement.scrollWidth") <= width
    assert paper.grave_faults() == []
