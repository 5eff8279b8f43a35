"""How fast `mnist predict` starts and reads: ``python tests/benchmarks/reading.py``.

Cold start: the median of whole processes, beside what NumPy, Pillow and PyTorch take to import.
Throughput: folders of 1,000 and 5,000 pictures of one digit each, with the peak memory of both.
Run nothing beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_cli.data.registry import load_dataset

REPEATS = 5
COUNTS = (1000, 5000)
MNIST = (sys.executable, "-m", "mnist_cli")


def write_pictures(folder: Path, count: int) -> None:
    """Write test digits on canvases of 40 to 160 pixels as PNG files."""
    rng = np.random.default_rng(0)
    images = load_dataset().test_images
    for number in range(count):
        height, width = rng.integers(40, 160, 2)
        page = np.full((height, width), 240, np.uint8)
        y, x = rng.integers(0, height - 27), rng.integers(0, width - 27)
        page[y : y + 28, x : x + 28] -= (images[number % len(images)] * 0.8).astype(np.uint8)
        Image.fromarray(page).save(folder / f"{number:05}.png")


def run(*command: str) -> tuple[float, float]:
    """Run a command to its end and return its wall seconds and peak memory in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print a line for each figure."""
    model = ("--model", sys.argv[1]) if len(sys.argv) > 1 else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, 1)
        commands = {
            "import numpy, PIL.Image": (sys.executable, "-c", "import numpy, PIL.Image"),
            "import torch": (sys.executable, "-c", "import torch"),
            "mnist --help": (*MNIST, "--help"),
            "mnist predict image.png": (*MNIST, "predict", str(folder / "00000.png"), *model),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(REPEATS):
            for name, command in commands.items():
                seconds[name].append(run(*command)[0])
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name, median in medians.items():
            print(f"{name:28} {1000 * median:6.0f} ms")
        limit = 2.5 * medians["import numpy, PIL.Image"] + 0.15
        share = medians["mnist predict image.png"] / medians["import torch"]
        print(f"{'limit of the cold start':28} {1000 * limit:6.0f} ms; {share:.2f} of import torch")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            write_pictures(Path(name), count)
            wall, peak = run(*MNIST, "predict", name, "--csv", *model)
            print(f"{count:,} pictures: {wall:.1f} s, {count / wall:,.0f} a second, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
