"""How much ten examples of each of a writer's digits improve the packaged model on that writer.

Writers are made: each has a form of every digit, drawn as strokes, with a slant, proportions and a
pen of their own, and no two digits alike. Ten examples of each digit are filled into the template,
photographed, cut out by `mnist collect`, and `mnist train --from pretrained` goes on from them. The
writer's other digits, 50 of each, and MNIST's test set are read before and after.

    python tests/benchmarks/own_writing.py [--writers N] [--options ...]

Prints errors before and after by writer, and those on MNIST. Writers of whom the packaged model
misreads less than 2% are left out: they write like MNIST.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mnist_cli import collect, evaluate
from mnist_cli.pictures import template

# Strokes as points (x, y) in a box of 1x1; a curve is drawn along them. Of each digit a writer has
# one form.
FORMS: tuple[tuple[tuple[tuple[tuple[float, float], ...], ...], ...], ...] = (
    (
        (((0.5, 0), (0.1, 0.2), (0, 0.6), (0.3, 1), (0.8, 0.9), (1, 0.5), (0.8, 0.1), (0.4, 0)),),
        (((0.9, 0.1), (0.4, 0), (0, 0.5), (0.4, 1), (0.9, 0.7), (0.9, 0.2), (0.4, 0.15)),),
    ),
    (
        (((0.1, 0.45), (0.6, 0), (0.6, 0), (0.6, 1)),),
        (((0.1, 0.3), (0.5, 0), (0.5, 0), (0.5, 1), (0.5, 1)), ((0.1, 1), (0.9, 1))),
        (((0, 0.6), (0.3, 0.4), (0.65, 0), (0.65, 0), (0.6, 1)),),
    ),
    (
        (((0, 0.2), (0.5, 0), (0.9, 0.25), (0.5, 0.65), (0, 1), (0, 1), (1, 0.95)),),
        (
            (
                *((0.1, 0.2), (0.5, 0), (0.8, 0.3), (0.3, 0.85), (0, 0.95)),
                *((0.15, 0.75), (0.5, 0.95), (1, 0.9)),
            ),
        ),
        (((0.1, 0.05), (0.9, 0.05), (0.9, 0.05), (0, 1), (0, 1), (1, 1)),),
    ),
    (
        (((0.1, 0.1), (0.6, 0), (0.9, 0.2), (0.4, 0.45), (0.9, 0.7), (0.5, 1), (0, 0.9)),),
        (((0.1, 0), (0.9, 0), (0.9, 0), (0.4, 0.4), (0.95, 0.65), (0.5, 1), (0, 0.95)),),
    ),
    (
        (((0.3, 0), (0.05, 0.6), (0.05, 0.6), (1, 0.6)), ((0.75, 0.25), (0.7, 1))),
        (((0.7, 0), (0, 0.7), (0, 0.7), (1, 0.7)), ((0.7, 0), (0.7, 1))),
        (((0.1, 0), (0.1, 0.5), (0.8, 0.5)), ((0.8, 0), (0.8, 1))),
    ),
    (
        (((0.9, 0), (0.2, 0), (0.2, 0), (0.15, 0.45), (0.7, 0.4), (0.9, 0.7), (0.5, 1), (0, 0.9)),),
        (
            ((0.2, 0.05), (0.1, 0.5), (0.6, 0.45), (0.8, 0.75), (0.4, 1), (0, 0.95)),
            ((0.2, 0.05), (1, 0)),
        ),
        (((0.9, 0.05), (0.3, 0.1), (0.15, 0.35), (0.8, 0.6), (0.7, 0.95), (0, 1)),),
    ),
    (
        (((0.7, 0), (0.1, 0.4), (0.1, 0.9), (0.6, 1), (0.9, 0.7), (0.5, 0.5), (0.1, 0.75)),),
        (((0.3, 0), (0.2, 0.5), (0.2, 1), (0.7, 1), (0.8, 0.75), (0.5, 0.65), (0.2, 0.8)),),
    ),
    (
        (((0, 0.05), (0.9, 0), (0.9, 0), (0.5, 0.5), (0.3, 1)), ((0.2, 0.5), (0.85, 0.5))),
        (((0.05, 0.2), (0.05, 0), (0.05, 0), (0.95, 0), (0.95, 0), (0.35, 1)),),
        (
            ((0, 0.15), (0.3, 0), (0.6, 0.1), (1, 0), (0.6, 0.4), (0.5, 1)),
            ((0.3, 0.45), (0.9, 0.4)),
        ),
    ),
    (
        (
            (
                *((0.8, 0.15), (0.4, 0), (0.15, 0.25), (0.8, 0.7), (0.5, 1)),
                *((0.1, 0.8), (0.7, 0.35), (0.85, 0.1)),
            ),
        ),
        (
            ((0.5, 0), (0.2, 0.2), (0.5, 0.42), (0.8, 0.2), (0.5, 0), (0.4, 0)),
            ((0.5, 0.42), (0.1, 0.7), (0.5, 1), (0.9, 0.7), (0.5, 0.42), (0.4, 0.43)),
        ),
    ),
    (
        (((0.8, 0.15), (0.4, 0), (0.1, 0.25), (0.5, 0.5), (0.8, 0.15), (0.8, 0.15), (0.8, 1)),),
        (
            (
                *((0.85, 0.1), (0.4, 0), (0.1, 0.3), (0.5, 0.5), (0.85, 0.1)),
                *((0.85, 0.7), (0.6, 1), (0.1, 0.9)),
            ),
        ),
        (((0.8, 0.3), (0.5, 0.45), (0.2, 0.2), (0.6, 0), (0.85, 0.3), (0.3, 1)),),
    ),
)
EXAMPLES, OTHERS = 10, 50  # of each digit
UNLIKE_MNIST = 0.02  # share of the other digits that the packaged model misreads
BOX = (16 * 6, 22 * 6)  # pixels of a digit's picture: a box of the template as it is read


class Writer:
    """A made writer: the forms of ten digits, their proportions, and the pen."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.slant = self.rng.uniform(-0.45, 0.35)
        self.aspect = self.rng.uniform(0.45, 0.8)
        self.pen = self.rng.uniform(0.4, 1.2)  # mm
        self.forms = [
            [
                np.array(stroke) + self.rng.normal(0, 0.05, (len(stroke), 2))
                for stroke in forms[self.rng.integers(len(forms))]
            ]
            for forms in FORMS
        ]

    def draw(self, page: np.ndarray, digit: int, middle: tuple[float, float], scale: float) -> None:
        """Draw a digit on a page, dark on light; ``scale`` is pixels per millimetre."""
        height = self.rng.normal(13, 1)
        turn = np.radians(self.rng.normal(0, 3))
        slant = self.slant + self.rng.normal(0, 0.05)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = matrix @ [[self.aspect, -slant * 0.6], [0, 1]] * height * scale
        shift = self.rng.normal(0, 0.7, 2) * scale
        for stroke in self.forms[digit]:
            points = stroke - 0.5 + self.rng.normal(0, 0.025, stroke.shape)
            points = curve(points) @ matrix.T + middle + shift
            width = max(1, round(self.pen * scale))
            cv2.polylines(
                page, [np.int32(points * 16)], False, 40, width, lineType=cv2.LINE_AA, shift=4
            )

    def picture(self, digit: int) -> np.ndarray:
        """Return a picture of one more example."""
        page = np.full(BOX[::-1], 245, np.uint8)
        self.draw(page, digit, (BOX[0] / 2, BOX[1] / 2), 6)
        return page

    def sheet(self) -> np.ndarray:
        """Return a photo of the filled-in template."""
        scale = template._PRINTED_PIXELS_PER_MM
        page = template._template().copy()
        for digit in range(10):
            for column in range(EXAMPLES):
                x = template._GRID[0] + (column + 0.5) * template._BOX_WIDTH
                y = template._GRID[1] + (digit + 0.5) * template._BOX_HEIGHT
                self.draw(page, digit, (x * scale, y * scale), scale)
        return photographed(page, self.rng)


def curve(points: np.ndarray) -> np.ndarray:
    """Return a smooth curve near points (N, 2): corners cut four times (Chaikin, 1974)."""
    for _ in range(4):
        cut = np.stack(
            [0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1
        )
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    return points


def photographed(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a page as a photo: tilted, in perspective, on a dark desk, shaded, with noise."""
    height, width = page.shape
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    inside = corners * 0.9 + np.float32([width, height]) * 0.05
    moved = inside + rng.uniform(-0.04, 0.04, (4, 2)).astype(np.float32) * width
    matrix = cv2.getPerspectiveTransform(corners, np.float32(moved))
    photo = cv2.warpPerspective(page, matrix, (width, height), borderValue=70, flags=cv2.INTER_AREA)
    shade = np.linspace(1, rng.uniform(0.6, 0.8), width)
    return np.uint8(np.clip(photo * shade + rng.normal(0, 4, photo.shape), 0, 255))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--writers", type=int, default=12)
    parser.add_argument("--options", default="", help="of mnist train, in quotes")
    arguments = parser.parse_args()
    mnist_before = evaluate("pretrained", framework="numpy", progress=False).accuracy
    print(f"MNIST before: {mnist_before:.2%}")
    totals = np.zeros(2)
    for seed in range(arguments.writers):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "own"
            writer = Writer(seed)
            for digit in range(10):
                for number in range(OTHERS):
                    path = folder / "test" / str(digit) / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(writer.picture(digit)).save(path)
            found = collect(writer.sheet(), folder / "train")
            before = evaluate("pretrained", framework="numpy", dataset=folder, progress=False)
            if 1 - before.accuracy < UNLIKE_MNIST:
                print(f"writer {seed}: {1 - before.accuracy:.1%} misread, like MNIST's", flush=True)
                continue
            command = [sys.executable, "-m", "mnist_cli", "train", "--framework", "numpy"]
            command += [
                "--from",
                "pretrained",
                "--dataset",
                str(folder),
                "--results-dir",
                temporary,
            ]
            command += shlex.split(arguments.options)
            subprocess.run(command, check=True, capture_output=True)
            model = Path(temporary) / "models" / "numpy-cnn-own.safetensors"
            after = evaluate(model, dataset=folder, progress=False).accuracy
            mnist = evaluate(model, progress=False).accuracy
            totals += 1 - np.array([before.accuracy, after])
            print(
                f"writer {seed}: {len(found)} boxes, misread {1 - before.accuracy:.1%} -> "
                f"{1 - after:.1%}, MNIST {100 * (mnist - mnist_before):+.2f} points",
                flush=True,
            )
    print(f"all: {totals[1] / totals[0]:.0%} of the errors are left")


if __name__ == "__main__":
    main()
