"""The page in a real browser: drawing, opening pictures, keys, themes, accessibility."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from open_pages import Paper, Server
from playwright.sync_api import expect
from web_samples import STROKES, drawn, png, running, save_model

from mnist_cli.arrays import CLASSES

WIDTHS = (360, 1440, 3840)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    for framework in ("numpy", "tensorflow", "torch"):
        save_model(folder, f"{framework}-cnn", framework=framework)
        save_model(folder, f"{framework}-own", framework=framework)
    save_model(folder, "torch-own", framework="torch", shift=1)
    kept = folder / "kept"
    with running("--no-browser", "--models-dir", folder, "--keep-dir", kept) as (address, _):
        yield Server(address, kept)


def test_ten_drawn_digits_are_read_by_every_model(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    read = []
    for digit in range(CLASSES):
        paper.draw(digit)
        answers = paper.answers()
        assert len(answers) == 6
        assert len(set(answers[:5])) == 1  # the same weights
        read.append(answers[0])
        paper.page.keyboard.press("c")
    right = sum(answer == str(digit) for digit, answer in enumerate(read))
    assert right >= 9, read


def test_each_model_shows_ten_probabilities_a_verdict_and_its_time(
    open_paper: Callable[..., Paper],
) -> None:
    paper = open_paper()
    paper.draw(7)
    paper.answers()
    card = paper.page.locator(".model").first
    assert card.locator(".bar").count() == 10
    assert (card.locator(".bars").get_attribute("aria-label") or "").startswith(
        "NumPy CNN (numpy-cnn): 7 "
    )
    assert card.locator(".is-best").inner_text() == "7"
    assert card.locator(".verdict").inner_text() == "sure"
    assert card.locator(".ms").inner_text().endswith(" ms")
    seen = (
        "document.querySelector('.seen-digit canvas').getContext('2d').getImageData(0, 0, 28, 28)"
    )
    assert max(paper.page.evaluate(f"[...{seen}.data].filter((_, i) => i % 4 < 3)")) == 255
    assert paper.text("#reading") == "read as 7"


def test_the_page_says_where_models_disagree(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    paper.draw(3)
    assert paper.answers() == ["3", "3", "3", "3", "3", "4"]
    assert paper.text(".sentence") == "Models disagree: 5 of 6 read 3."
    assert "reads 4" in paper.text(".summary .note")
    assert paper.page.locator(".model.differs").count() == 1


def test_several_digits_are_a_line_and_one_can_be_chosen(
    open_paper: Callable[..., Paper],
) -> None:
    paper = open_paper()
    paper.draw(4, 7)
    assert paper.answers()[0] == "47"
    assert paper.page.locator(".boxes rect").count() == 2
    best = paper.page.locator(".model .is-best").first
    assert best.inner_text() == "4"
    paper.page.get_by_role("button", name="Digit 2").click()
    assert best.inner_text() == "7"


def test_keys_clear_undo_and_keep(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    paper.draw(4)
    assert paper.answers()[0] == "4"
    keys = paper.page.keyboard
    keys.press("u")  # leaves the first of its two strokes
    keys.press("u")
    assert set(paper.answers()) == {""}
    assert paper.text(".sentence") == "Draw a digit."
    paper.draw(4)
    keys.press("c")
    assert set(paper.answers()) == {""}
    keys.press("u")
    assert paper.answers()[0] == "4"
    keys.press("4")
    expect(paper.page.locator("#kept")).to_contain_text("Kept as 4")
    assert len(list((paper.server.kept / "4").glob("*.png"))) == 1
    keys.press("c")
    keys.press("5")
    assert paper.text("#kept") == "Draw a digit first, then label it."
    assert not (paper.server.kept / "5").exists()


def test_the_eraser_takes_ink_away(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    paper.draw(1)
    assert paper.answers()[0] == "1"
    paper.page.get_by_role("button", name="Eraser").click()
    paper.page.locator("#width").fill("64")
    paper.draw(1)
    assert set(paper.answers()) == {""}
    assert paper.text(".sentence") == "No digit found."


def test_a_finger_draws_and_the_page_stays_where_it_is(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper(viewport={"width": 360, "height": 640}, has_touch=True)
    touch = paper.page.context.new_cdp_session(paper.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    paper.page.evaluate("scrollTo(0, 40)")
    for stroke in STROKES[7]:
        start, *others = (paper.point(x, y) for x, y in stroke)
        send("touchStart", start)
        for point in others:
            send("touchMove", point)
        send("touchEnd")
    assert paper.answers()[0] == "7"
    assert paper.page.evaluate("scrollY") == 40


def test_a_pen_draws_wider_with_more_pressure(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    pen = paper.page.context.new_cdp_session(paper.page)
    dark = """() => document.querySelector('#canvas').getContext('2d')
        .getImageData(0, 0, 560, 560).data.filter((value, i) => i % 4 == 0 && value < 99).length"""
    ink = []
    for force in (0.1, 0.9):
        for kind, x in (("mousePressed", 20), ("mouseMoved", 80), ("mouseReleased", 80)):
            left, top = paper.point(x, 50)
            where = {"x": left, "y": top, "button": "left", "buttons": 1, "clickCount": 1}
            pressed = {"type": kind, "pointerType": "pen", "force": force, **where}
            pen.send("Input.dispatchMouseEvent", pressed)
        ink.append(paper.page.evaluate(dark))
        paper.page.keyboard.press("c")
    assert ink[1] > 1.5 * ink[0] > 0


@pytest.mark.parametrize("way", ["open", "drop", "paste"])
def test_a_picture_is_read_as_predict_reads_it(way: str, open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    picture = png(drawn(8, 2, ink=90, paper=200))
    if way == "open":
        file = {"name": "sheet.png", "mimeType": "image/png", "buffer": picture}
        paper.page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    else:
        event = {"drop": "DragEvent", "paste": "ClipboardEvent"}[way]
        data = {"drop": "dataTransfer", "paste": "clipboardData"}[way]
        paper.page.evaluate(
            f"""bytes => {{
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], 'a.png', {{type: 'image/png'}}));
                const init = {{{data}: data, bubbles: true, cancelable: true}};
                document.body.dispatchEvent(new {event}('{way}', init));
            }}""",
            list(picture),
        )
    paper.page.wait_for_selector(".boxes rect")
    assert paper.answers()[0] == "82"
    paper.page.keyboard.press("u")
    assert set(paper.answers()) == {""}


def test_what_is_no_picture_is_told_and_forgotten(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    file = {"name": "notes.txt", "mimeType": "image/png", "buffer": b"no picture"}
    paper.page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    paper.page.wait_for_selector("#notice:not([hidden])")
    assert "not a picture" in paper.text("#notice")
    paper.page.keyboard.press("c")
    paper.draw(7)
    assert paper.answers()[0] == "7"
    assert paper.page.locator("#notice").is_hidden()
    # The browser itself writes a line for an answer of 422.
    assert [each for each in paper.complaints if "422" not in each] == []
    paper.complaints.clear()


def test_without_the_server_the_page_says_so(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    paper.page.context.set_offline(True)
    paper.draw(1)
    paper.page.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in paper.text("#notice")
    paper.complaints.clear()  # the browser's own lines of the network


def test_the_theme_is_the_systems_or_ones_own(open_paper: Callable[..., Paper]) -> None:
    def is_dark() -> bool:
        color = paper.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(","))) < 200

    paper = open_paper(color_scheme="dark")
    button = paper.page.locator("#theme")
    assert (button.inner_text(), is_dark()) == ("Theme: auto", True)
    button.click()
    assert (button.inner_text(), is_dark()) == ("Theme: light", False)
    paper.page.reload()
    assert (button.inner_text(), is_dark()) == ("Theme: light", False)
    button.click()
    assert (button.inner_text(), is_dark()) == ("Theme: dark", True)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_any_width(width: int, open_paper: Callable[..., Paper]) -> None:
    paper = open_paper(viewport={"width": width, "height": 900})
    paper.draw(4, 7)
    paper.answers()
    assert paper.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_answer_is_read_out(open_paper: Callable[..., Paper]) -> None:
    paper = open_paper()
    paper.draw(7)
    status = paper.page.locator("#status[role=status]")
    expect(status).to_have_text("Models disagree: 5 of 6 read 7.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_no_serious_fault(
    scheme: str, width: int, open_paper: Callable[..., Paper]
) -> None:
    paper = open_paper(color_scheme=scheme, viewport={"width": width, "height": 900})
    for digits in ((), (4, 7)):
        paper.draw(*digits)
        paper.answers()
        assert paper.grave_faults() == []
