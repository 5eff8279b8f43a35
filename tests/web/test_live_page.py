"""The view "Train live" in a real browser: a network learns, is steered and drawn on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from open_pages import Paper, Server
from playwright.sync_api import expect
from web_samples import running, save_model

# For what another process does; it waits for a framework and may share the machine.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
STATE, ACCURACY = ".live-state", ".live-curves >> nth=1 >> .is-second strong"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    save_model(folder, "numpy-cnn")
    with running("--no-browser", "--models-dir", folder, "--keep-dir", folder / "kept") as (
        address,
        _,
    ):
        yield Server(address, folder / "kept")


@pytest.fixture
def live(open_paper: Callable[..., Paper]) -> Iterator[Callable[..., Paper]]:
    """Open the view; afterwards its training is stopped."""
    opened = []

    def open_it(**options: Any) -> Paper:
        paper = open_paper(**options)
        paper.page.set_default_timeout(PATIENCE_MS)
        paper.page.get_by_role("tab", name="Train live").click()
        expect(button(paper, "Train")).to_be_visible()
        opened.append(paper)
        return paper

    yield open_it
    for paper in opened:
        paper.page.get_by_role("tab", name="Train live").click()
        if button(paper, "Stop").is_visible():
            button(paper, "Stop").click()
            expect(button(paper, "Train")).to_be_visible()


def button(paper: Paper, name: str) -> Any:
    return paper.page.get_by_role("button", name=name, exact=True)


def start(paper: Paper, *, epochs: int, line: str = "mlp", rate: float = 0.05) -> None:
    paper.page.locator("#live-arch").fill(line)
    paper.page.locator("#live-framework").select_option("numpy")
    paper.page.locator("#live-epochs").fill(str(epochs))
    paper.page.locator("#live-rate").fill(str(rate))
    button(paper, "Train").click()


def steps(paper: Paper) -> int:
    text = paper.text(".live-figures").split(", ", 1)[1]
    return int(text.split(" step")[0].replace(",", ""))


def test_a_network_learns_and_can_be_drawn_on(live: Callable[..., Paper]) -> None:
    paper = live()
    start(paper, epochs=2)
    expect(paper.page.locator(STATE)).to_contain_text("All epochs are done.")
    assert int(paper.text(ACCURACY).split(".")[0].rstrip("%")) > 90
    for curve in paper.page.locator(".live-curve").all():
        assert len(str(curve.get_attribute("points")).split()) >= 2
    assert paper.page.locator(".live-layer").count() == 2
    assert paper.page.locator(".live-bars").first.get_attribute("d")
    before = steps(paper)
    button(paper, "One more epoch").click()
    expect(paper.page.locator(".live-figures")).to_contain_text("Epoch 3 of 3")
    expect(paper.page.locator(STATE)).to_contain_text("All epochs are done.")
    assert steps(paper) == before * 3 // 2
    paper.draw(7)
    expect(paper.page.locator(".live-charts .is-best")).to_have_text("7")
    paper.page.get_by_role("tab", name="Answers").click()
    expect(paper.page.locator("[data-model=live]")).to_have_attribute("data-answer", "7")
    assert paper.text("[data-model=live] h3") == "NumPy MLP, live"
    assert "trained on this page" in paper.text("[data-model=live] .note")
    paper.page.get_by_role("tab", name="Train live").click()
    button(paper, "Stop").click()
    expect(paper.page.locator(STATE)).to_contain_text("Ended.")
    expect(button(paper, "Train")).to_be_visible()


def test_it_is_paused_slowed_and_given_another_learning_rate(live: Callable[..., Paper]) -> None:
    paper = live()
    start(paper, epochs=1000)
    expect(paper.page.locator(STATE)).to_have_text("Training.")
    button(paper, "Pause").click()
    expect(paper.page.locator(STATE)).to_contain_text("Paused.")
    before = steps(paper)
    paper.page.get_by_role("tab", name="Answers").click()
    paper.draw(1)  # in mid-training
    expect(paper.page.locator("[data-model=live]")).to_have_attribute("data-answer", "1")
    paper.page.get_by_role("tab", name="Train live").click()
    assert steps(paper) == before
    rate = paper.page.locator("#live-new-rate")
    rate.fill("0.01")
    rate.press("Enter")
    slow = button(paper, "Slow motion")
    slow.click()
    expect(slow).to_have_attribute("aria-pressed", "true")
    button(paper, "Go on").click()
    expect(paper.page.locator(STATE)).to_have_text("Training.")
    expect(paper.page.locator(".live-figures")).not_to_contain_text(f" {before:,} steps")
    told = paper.page.evaluate("fetch('api/live').then((answer) => answer.json())")
    assert told["training"]["settings"] == {
        "epochs": 1000,
        "learning_rate": 0.01,
        "paused": False,
        "slow": True,
    }
    rate.fill("-1")
    rate.press("Enter")
    expect(paper.page.locator(".live-error")).to_contain_text("must be a number above 0, not -1")
    paper.complaints.clear()  # the browser's own word on the refusal
    paper.page.reload()  # the training goes on, and the page with it
    expect(paper.page.locator(STATE)).to_have_text("Training.")
    expect(button(paper, "Slow motion")).to_have_attribute("aria-pressed", "true")


def test_a_wrong_line_and_a_failed_training_are_a_line(live: Callable[..., Paper]) -> None:
    paper = live()
    start(paper, epochs=1, line="conv 8, rellu, pool")
    error = paper.page.locator(".live-error")
    expect(error).to_have_text("conv 8, ^rellu, pool: unknown layer 'rellu'; did you mean relu?")
    paper.complaints.clear()  # the browser's own word on the refusal
    start(paper, epochs=1, rate=1e30)
    expect(error).to_contain_text("The loss is no longer a number after step")
    expect(button(paper, "Train")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_the_view_is_accessible_and_nothing_is_cut_off(
    scheme: str, width: int, live: Callable[..., Paper]
) -> None:
    paper = live(color_scheme=scheme, viewport={"width": width, "height": 900})
    assert paper.grave_faults() == []
    start(paper, epochs=1)
    expect(paper.page.locator(STATE)).to_contain_text("All epochs are done.")
    assert paper.grave_faults() == []
    assert paper.page.evaluate("document.documentElement.scrollWidth") <= width
