"""How fast `mnist draw` starts and answers: ``python tests/benchmarks/drawing.py [MODELS_DIR]``.

Start: from the command to the page, the median of whole processes. Then, with six models: from the
last stroke in a browser to the answers on the page; 20 pages' worth of requests at once; and the
server's memory over 10,000 predictions. Needs /usr/bin/chromium. Run nothing beside it.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).parents[1] / "web"))
from web_samples import STROKES, drawn, png, running, save_model

STARTS, STROKES_DRAWN, PAGES, REQUESTS_A_PAGE, PREDICTIONS = 9, 100, 20, 40, 10_000
HEADERS = {"Content-Type": "image/png"}
# Resolves with the milliseconds from now to when the page has the answer and has drawn it.
ANSWERED = """() => new Promise((resolve) => {
    const began = performance.now();
    const panel = document.querySelector('#panel-answers');
    const look = () => panel.getAttribute('aria-busy') === 'false'
        ? resolve(performance.now() - began) : requestAnimationFrame(look);
    look();
})"""


def six_models(folder: Path) -> Path:
    """Write the packaged model under six names: as long to compute as six CNNs."""
    for framework in ("numpy", "tensorflow", "torch"):
        for name in ("cnn", "cnn-2"):
            save_model(folder, f"{framework}-{name}", framework=framework)
    return folder


def p50_p95(ms: list[float]) -> str:
    """Median and 95th percentile as text."""
    return f"median {statistics.median(ms):.0f} ms, 95% {statistics.quantiles(ms, n=20)[-1]:.0f} ms"


def connect(address: str) -> http.client.HTTPConnection:
    """Return a connection that is kept open, as a browser keeps it."""
    parts = urlsplit(address)
    return http.client.HTTPConnection(str(parts.hostname), parts.port)


def predict(connection: http.client.HTTPConnection, picture: bytes) -> float:
    """Ask for one prediction and return its milliseconds."""
    began = time.perf_counter()
    connection.request("POST", "/api/predict?rotate=0", picture, HEADERS)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise SystemExit(f"answered {response.status}")
    return 1000 * (time.perf_counter() - began)


def measure_start(models: Path) -> None:
    """Print the time from the command to the page."""
    ms = []
    for _ in range(STARTS):
        began = time.perf_counter()
        with running("--no-browser", "--models-dir", models) as (address, _process):
            connection = connect(address)
            connection.request("GET", "/")
            connection.getresponse().read()
            ms.append(1000 * (time.perf_counter() - began))
    print(f"start to page          median {statistics.median(ms):.0f} ms")


def measure_strokes(address: str) -> None:
    """Print the time from a stroke's last move to the answers on the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        ms = []
        for number in range(STROKES_DRAWN):
            for stroke in STROKES[number % 10]:
                for index, (x, y) in enumerate(stroke):
                    side = box["height"]
                    page.mouse.move(box["x"] + side * (0.3 + x / 150), box["y"] + side * y / 100)
                    if not index:
                        page.mouse.down()
                page.mouse.up()
                ms.append(page.evaluate(ANSWERED))
            page.keyboard.press("c")
            page.evaluate(ANSWERED)
        browser.close()
    print(f"stroke to answers      {p50_p95(ms)}")


def main() -> None:
    """Print a line for each figure."""
    with tempfile.TemporaryDirectory() as name:
        models = Path(sys.argv[1]) if len(sys.argv) > 1 else six_models(Path(name))
        measure_start(models)
        picture = png(drawn(7))
        with running("--no-browser", "--models-dir", models) as (address, process):
            measure_strokes(address)

            def one_page(_: int) -> list[float]:
                connection = connect(address)
                return [predict(connection, picture) for _ in range(REQUESTS_A_PAGE)]

            with ThreadPoolExecutor(PAGES) as pool:
                ms = [each for page in pool.map(one_page, range(PAGES)) for each in page]
            print(f"{PAGES} pages at once       {p50_p95(ms)}")
            memory = psutil.Process(process.pid).memory_info
            connection = connect(address)
            mib = []
            for number in range(PREDICTIONS + 1):
                if number % (PREDICTIONS // 4) == 0:
                    mib.append(memory().rss / 2**20)
                predict(connection, picture)
            steps = ", ".join(f"{each:.0f}" for each in mib)
            print(
                f"memory                 {steps} MiB, after each {PREDICTIONS // 4:,} predictions"
            )


if __name__ == "__main__":
    main()
