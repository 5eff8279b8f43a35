"""The page in a real browser, for the tests of its views."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page
from web_samples import STROKES

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(sys.prefix) / "node_modules" / "axe-core" / "axe.min.js"


def require(path: Path, how: str) -> None:
    """Skip without a file that the test needs; on CI, where it must be, fail."""
    if not path.exists():
        message = f"{path} is missing: {how}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)


@dataclass
class Server:
    """A running server with six models, one of which takes each digit for the next."""

    address: str
    kept: Path


@dataclass
class Paper:
    """The open page, and what the browser complained of or fetched meanwhile."""

    page: Page
    server: Server
    complaints: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def point(self, x: float, y: float, place: int = 0, places: int = 1) -> tuple[float, float]:
        """Where (x, y) percent of a digit's square is on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        side = min(box["height"], box["width"] / places)
        left = box["x"] + (place + 0.5) * box["width"] / places - side / 2
        return left + (0.15 + 0.7 * x / 100) * side, box["y"] + (0.15 + 0.7 * y / 100) * side

    def draw(self, *digits: int) -> None:
        """Draw digits side by side by the mouse."""
        mouse = self.page.mouse
        for place, digit in enumerate(digits):
            for stroke in STROKES[digit]:
                start, *others = (self.point(x, y, place, len(digits)) for x, y in stroke)
                mouse.move(*start)
                mouse.down()
                for x, y in others:
                    mouse.move(x, y, steps=2)
                mouse.up()

    def answers(self) -> list[str]:
        """What each model reads, once the newest drawing is answered."""
        self.page.wait_for_selector("#panel-answers[aria-busy=false]")
        models = self.page.locator(".model")
        return [str(each.get_attribute("data-answer")) for each in models.all()]

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def grave_faults(self) -> list[tuple[str, list[str]]]:
        """What axe finds on the page that is serious or worse, with the elements."""
        require(AXE, f"npm install --prefix {sys.prefix} axe-core")
        self.page.evaluate(AXE.read_text())
        return [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in self.page.evaluate("axe.run()")["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
