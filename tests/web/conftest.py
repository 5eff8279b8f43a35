"""A browser for the tests of the page, and the page opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from open_pages import CHROMIUM, Paper, Server, require
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require(CHROMIUM, "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_paper(server: Server, browser: Browser) -> Iterator[Callable[..., Paper]]:
    """Open the page in a context of its own; afterwards nothing may have gone wrong."""
    opened = []

    def open_it(**options: Any) -> Paper:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        paper = Paper(context.new_page(), server)
        paper.page.on("console", lambda message: paper.complaints.append(message.text))
        paper.page.on("pageerror", lambda error: paper.complaints.append(str(error)))
        paper.page.on("request", lambda request: paper.fetched.append(request.url))
        paper.page.goto(server.address)
        paper.page.wait_for_selector("body[data-ready]")
        opened.append((context, paper))
        return paper

    yield open_it
    for context, paper in opened:
        context.close()
        assert paper.complaints == []
        ours = (server.address, f"blob:{server.address}")
        assert [url for url in paper.fetched if not url.startswith(ours)] == []
