"""The view "Look inside" in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from open_pages import Paper, Server
from playwright.sync_api import expect
from web_samples import running, save_model

# How many pixels of the map number `at` are lit.
LIT = """at => {
    const copy = new OffscreenCanvas(28, 28).getContext('2d', {willReadFrequently: true});
    copy.drawImage(document.querySelectorAll('.feature-map canvas')[at], 0, 0);
    return [...copy.getImageData(0, 0, 28, 28).data].filter((v, i) => i % 4 == 0 && v > 99).length;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("inside-page")
    save_model(folder, "cnn")
    save_model(folder, "wrong", framework="torch", shift=1)
    with running("--no-browser", "--models-dir", folder) as (address, _):
        yield Server(address, folder / "kept")


@pytest.fixture
def inside_page(open_paper: Callable[..., Paper]) -> Callable[..., Paper]:
    """Open the view and draw a 7 in it."""

    def open_it(**options: object) -> Paper:
        paper = open_paper(**options)
        paper.page.get_by_role("tab", name="Look inside").click()
        paper.draw(7)
        expect(paper.page.locator(".speak h3")).to_have_text("Pixels for and against 7")
        return paper

    return open_it


def test_layers_light_up_as_one_draws_and_name_their_neighbours(
    inside_page: Callable[..., Paper],
) -> None:
    paper = inside_page()
    titles = paper.page.locator(".layer h3").all_inner_texts()
    assert titles == [
        "conv 32, relu",
        "pool",
        "conv 64, relu",
        "pool",
        "dense 128, relu",
        "dense 10",
    ]
    assert paper.page.locator(".feature-map").count() == 32 + 32 + 64 + 64
    assert paper.page.locator(".unit-cell").count() == 128 + 10
    seven = [paper.page.evaluate(LIT, at) for at in range(32)]
    assert max(seven) > 20
    labels = paper.page.locator(".near figcaption")
    # The first look at 10,000 digits takes some seconds, on a busy machine more.
    expect(labels).to_have_text(["7"] * 10, timeout=120_000)
    paper.page.keyboard.press("c")
    paper.draw(0)
    expect(paper.page.locator(".speak h3")).to_have_text("Pixels for and against 0")
    expect(labels).to_have_text(["0"] * 10)
    assert [paper.page.evaluate(LIT, at) for at in range(32)] != seven
    best = paper.page.locator(".softmax tr.is-best th")
    assert best.inner_text() == "0"
    share = paper.page.locator(".softmax tr.is-best td").nth(3)
    before = share.inner_text()
    paper.page.get_by_label("Temperature").fill("10")
    assert float(share.inner_text().rstrip("%")) < float(before.rstrip("%"))


def test_pointing_at_a_unit_shows_what_it_responds_to(inside_page: Callable[..., Paper]) -> None:
    paper = inside_page()
    unit = paper.page.locator("#unit")
    paper.page.locator(".feature-map").nth(3).hover()
    expect(unit.locator("h3")).to_have_text("conv 32, relu: map 3")
    expect(unit.locator(".samples figcaption").first).not_to_be_empty(timeout=120_000)
    assert unit.locator("canvas.weights").is_visible()
    assert unit.locator(".sums").is_hidden()
    paper.page.locator(".unit-cell").first.focus()  # keys do what a pointer does
    paper.page.keyboard.press("ArrowRight")
    expect(unit.locator("h3")).to_have_text("dense 128, relu: unit 1")
    expect(unit.locator("canvas.weights")).to_be_hidden()
    paper.page.keyboard.press("Enter")
    expect(unit.locator(".sums tbody tr")).to_have_count(12)  # ten terms, the rest, the bias
    paper.page.locator(".unit-cell").nth(5).hover()
    expect(unit.locator("h3")).to_have_text("dense 128, relu: unit 5")
    paper.page.mouse.move(0, 0)  # back to the one that was clicked
    expect(unit.locator("h3")).to_have_text("dense 128, relu: unit 1")


def test_a_unit_is_switched_off_and_reset(inside_page: Callable[..., Paper]) -> None:
    paper = inside_page()
    told = paper.page.locator("#edits")
    expect(told).to_have_text("Reads 99.3% of the first 1,000 test digits right.", timeout=60_000)
    scores = paper.page.locator(".scores .unit-cell")
    scores.nth(7).click()
    expect(paper.page.locator(".sums tfoot tr").first).to_contain_text("Sum")
    paper.page.locator("#switch-off").click()
    expect(paper.page.locator(".speak h3")).not_to_have_text("Pixels for and against 7")
    expect(paper.page.locator(".softmax tbody tr").nth(7).locator("td").first).to_have_text("0.00")
    expect(told).to_contain_text("1 unit changed: 99.3% →", timeout=60_000)
    assert paper.page.locator(".unit-off").count() == 1
    paper.page.locator("#reset-edits").click()
    expect(told).to_have_text("Reads 99.3% of the first 1,000 test digits right.")
    expect(paper.page.locator(".speak h3")).to_have_text("Pixels for and against 7")
    assert paper.page.locator(".unit-off").count() == 0
    paper.page.locator("#bias").fill("-5")
    expect(told).to_contain_text("1 unit changed", timeout=60_000)
    paper.page.get_by_label("Model").select_option("wrong")  # another model, not edited
    expect(told).to_contain_text("Reads 0.", timeout=60_000)


def test_a_hidden_view_asks_nothing(inside_page: Callable[..., Paper]) -> None:
    paper = inside_page()
    expect(paper.page.locator(".near figcaption")).to_have_text(["7"] * 10, timeout=120_000)
    paper.page.get_by_role("tab", name="Answers").click()
    paper.fetched.clear()
    paper.draw(1)
    paper.answers()
    assert [url for url in paper.fetched if "/api/predict" in url]
    assert [url for url in paper.fetched if "/api/inside" in url] == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_the_inside_fits_and_axe_finds_no_serious_fault(
    scheme: str, width: int, inside_page: Callable[..., Paper]
) -> None:
    paper = inside_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    paper.page.locator(".feature-map").nth(3).click()
    paper.page.locator("#switch-off").click()
    expect(paper.page.locator(".unit-off")).to_have_count(1)
    expect(paper.page.locator("#unit .samples figcaption").first).not_to_be_empty(timeout=120_000)
    assert paper.page.evaluate("document.documentElement.scrollWidth") <= width
    assert paper.grave_faults() == []
