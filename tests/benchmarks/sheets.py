"""How `mnist predict` reads sheets: ``python tests/benchmarks/sheets.py``.

Prints, for each kind of made picture, how many of 40 are read right, and how many are wrong and yet
sure; then the same for pictures of strangers (``--photos``, `manifest.csv` in it), for
scikit-learn's `load_digits` and for letters. The made pictures show MNIST's test digits;
``--split validation`` shows validation digits with other seeds, to develop with. ``--save FOLDER``
writes the pictures that are read wrong.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_cli.arrays import Array
from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import split
from mnist_cli.errors import PictureError
from mnist_cli.prediction import Model, Prediction

PICTURES_PER_KIND = 40
PHOTOS = Path(__file__).parents[3] / "shared" / "photos"
PAPER, INK = 245, 35  # grey levels


class Writer:
    """Draws seeded pages with the digits of a data set, each digit used with equal probability."""

    def __init__(self, images: Array, labels: Array, rng: np.random.Generator) -> None:
        """``images`` (N, 28, 28), uint8, ink 255; ``labels`` (N,)."""
        self._images, self._labels, self.rng = images, labels, rng

    def digit(self, height: int) -> tuple[Array, str]:
        """Return a digit enlarged so that MNIST's 20 pixels become ``height``, and its label.

        The image (h, w) float32, ink 1, is cropped to its ink.
        """
        index = int(self.rng.integers(len(self._images)))
        scale = height / 20
        side = round(28 * scale)
        method = cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA
        image = cv2.resize(self._images[index], (side, side), interpolation=method) / 255
        ink = image > 0.1
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        cropped = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cropped.astype(np.float32), str(self._labels[index])

    def line(self, count: int, height: int, *, gap: tuple[float, float]) -> tuple[Array, str]:
        """Return ``count`` digits side by side, (H, W) float32, and their text.

        ``gap`` is the range of the space between two digits, in heights; below 0 they overlap.
        """
        digits = [self.digit(height) for _ in range(count)]
        gaps = [round(height * self.rng.uniform(*gap)) for _ in digits]
        width = sum(image.shape[1] for image, _ in digits) + sum(max(each, 0) for each in gaps)
        cover = np.zeros((round(1.3 * height), width + height), np.float32)
        x = 0
        for (image, _), space in zip(digits, gaps, strict=True):
            shift = round(height * self.rng.uniform(0, 0.1))
            bottom = round(1.15 * height) + shift
            part = cover[bottom - image.shape[0] : bottom, x : x + image.shape[1]]
            np.maximum(part, image, out=part)
            x = max(x + image.shape[1] + space, 0)
        right = int(np.flatnonzero(cover.any(axis=0))[-1]) + 1
        return cover[:, :right], "".join(label for _, label in digits)

    def page(
        self,
        lines: int = 3,
        count: int = 6,
        height: int = 50,
        *,
        gap: tuple[float, float] = (0.15, 0.5),
        margin: float = 1.2,
        leading: tuple[float, float] = (0.3, 0.6),
    ) -> tuple[Array, str]:
        """Return a page of lines as ink, (H, W) float32, 0-1, and its text.

        ``margin`` and ``leading`` (the space between lines) are in heights of a digit.
        """
        drawn = [self.line(count, height, gap=gap) for _ in range(lines)]
        leads = [round(height * self.rng.uniform(*leading)) for _ in drawn]
        edge = round(margin * height)
        width = 2 * edge + max(image.shape[1] for image, _ in drawn)
        size = sum(image.shape[0] for image, _ in drawn) + sum(leads) + 2 * edge
        cover = np.zeros((size, width), np.float32)
        y = edge
        for (image, _), lead in zip(drawn, leads, strict=True):
            cover[y : y + image.shape[0], edge : edge + image.shape[1]] = image
            y += image.shape[0] + lead
        return cover, "\n".join(text for _, text in drawn)


def drawn(cover: Array, *, paper: int = PAPER, ink: int = INK) -> Array:
    """Return ink (H, W), 0-1, as a picture (H, W), uint8."""
    return np.rint(paper + (ink - paper) * np.clip(cover, 0, 1)).astype(np.uint8)


def photographed(grey: Array, rng: np.random.Generator) -> Array:
    """Return a picture (H, W), uint8, as a photo: light from a side, a shade, blur and noise."""
    height, width = grey.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    light = 0.8 + 0.25 * along
    light *= 1 - 0.35 / (1 + np.exp(-rng.uniform(15, 40) * (along - rng.uniform(-0.2, 0.3))))
    blurred = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.8)
    return np.clip(blurred * light + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8)


def turned_by(cover: Array, degrees: float) -> Array:
    """Return ink (H, W) turned counterclockwise on a page that is large enough."""
    height, width = cover.shape
    cosine, sine = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return np.asarray(cv2.warpAffine(cover, matrix, size, flags=cv2.INTER_CUBIC))


Made = tuple[Array, str]  # a picture, uint8, and its text


def _large_digit(writer: Writer) -> tuple[Array, str]:
    image, text = writer.digit(int(writer.rng.integers(120, 220)))
    margin = int(writer.rng.integers(25, 70))
    return np.pad(image, margin), text


def _framed(thickness: int, tone: int) -> Callable[[Writer], Made]:
    def make(writer: Writer) -> Made:
        cover, text = _large_digit(writer)
        return np.pad(drawn(cover), thickness, constant_values=tone), text

    return make


def _plain(writer: Writer) -> Made:
    cover, text = writer.page(height=int(writer.rng.integers(35, 70)))
    return drawn(cover), text


def _photo(writer: Writer) -> Made:
    picture, text = _plain(writer)
    return photographed(picture, writer.rng), text


def _with_strips(writer: Writer) -> Made:
    picture, text = _photo(writer)
    rng, tone = writer.rng, int(writer.rng.integers(20, 90))
    edges = rng.permutation(4)[:2]
    for edge in edges:
        turned = np.rot90(picture, edge)
        depth = int(rng.integers(6, max(8, round(0.06 * turned.shape[0]))))
        turned[:depth] = np.clip(rng.normal(tone, 3, turned[:depth].shape), 0, 255)
    return picture, text


def _desk(writer: Writer) -> Made:
    """A sheet that lies askew: the desk shows along two edges, as wedges."""
    picture, text = _photo(writer)
    rng, (height, width) = writer.rng, picture.shape
    y, x = np.mgrid[:height, :width]
    desk = np.zeros(picture.shape, bool)
    for along, across, size in ((x / width, y, height), (y / height, x, width)):
        near, far = rng.uniform(0.01, 0.07, 2) * size
        desk |= (across if rng.random() < 0.5 else size - 1 - across) < near + (far - near) * along
    picture[desk] = np.clip(rng.normal(rng.integers(20, 110), 4, np.count_nonzero(desk)), 0, 255)
    return picture, text


def _turned(quarters: int) -> Callable[[Writer], Made]:
    def make(writer: Writer) -> Made:
        picture, text = _photo(writer) if writer.rng.random() < 0.5 else _plain(writer)
        return np.ascontiguousarray(np.rot90(picture, quarters)), text

    return make


def _tilted(degrees: float) -> Callable[[Writer], Made]:
    def make(writer: Writer) -> Made:
        cover, text = writer.page(height=int(writer.rng.integers(40, 70)))
        sign = 1 if writer.rng.random() < 0.5 else -1
        return drawn(turned_by(cover, sign * degrees)), text

    return make


def _phone_number(writer: Writer) -> Made:
    """Ten to twelve digits, 20 pixels high, on one line, without tuning of their size."""
    cover, text = writer.page(1, int(writer.rng.integers(10, 13)), 20, gap=(0.1, 0.3))
    return drawn(cover), text


def _keystone(writer: Writer) -> Made:
    cover, text = writer.page(height=60)
    height, width = cover.shape
    near = writer.rng.uniform(0.12, 0.22) * width
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = corners.copy()
    top = writer.rng.random() < 0.5
    seen[0 if top else 3, 0] += near
    seen[1 if top else 2, 0] -= near
    matrix = cv2.getPerspectiveTransform(corners, seen)
    return drawn(cv2.warpPerspective(cover, matrix, (width, height))), text


def _two_columns(writer: Writer) -> Made:
    """A telephone list: a short number, a wide gap, a long number; four rows."""
    rows, width = [], 0
    for _ in range(4):
        left, left_text = writer.line(3, 40, gap=(0.1, 0.3))
        right, right_text = writer.line(6, 40, gap=(0.1, 0.3))
        rows.append((left, right, left_text + right_text))
        width = max(width, right.shape[1])
    cover = np.zeros((60 + 4 * 75, 300 + width), np.float32)
    for number, (left, right, _) in enumerate(rows):
        y = 40 + 75 * number + int(writer.rng.integers(-6, 7))
        cover[y : y + left.shape[0], 40 : 40 + left.shape[1]] = left
        cover[y : y + right.shape[0], 260 : 260 + right.shape[1]] = right
    return drawn(cover), "\n".join(text for *_, text in rows)


def _one_per_line(writer: Writer) -> Made:
    cover, text = writer.page(7, 1, 45)
    return drawn(np.pad(cover, ((0, 0), (0, 150)))), text


def _tight(low: float, high: float) -> Callable[[Writer], Made]:
    def make(writer: Writer) -> Made:
        cover, text = writer.page(2, 8, 50, gap=(low, high))
        return drawn(cover), text

    return make


def _touching_lines(writer: Writer) -> Made:
    """Lines so close that some digits touch those of the next line."""
    cover, text = writer.page(3, 6, 50, leading=(-0.27, -0.22))
    return drawn(cover), text


def _yellow_beside_blue(writer: Writer) -> Made:
    """Digits in strong and light colours in turn, on white."""
    colors = np.array([[255, 235, 40], [20, 40, 180], [120, 230, 240], [200, 20, 30]], np.float32)
    cover, text = writer.page(2, 6, 55, gap=(0.3, 0.5))
    _, labels = cv2.connectedComponents((cover > 0.02).astype(np.uint8))
    chosen = colors[writer.rng.integers(4, size=labels.max() + 1)]
    picture = 255 + (chosen[labels] - 255) * np.clip(cover, 0, 1)[..., None]
    return np.rint(picture).astype(np.uint8), text


def _pencil_beside_marker(writer: Writer) -> Made:
    first, text = writer.page(1, 6, 55, gap=(0.3, 0.5))
    second, other = writer.page(1, 6, 55, gap=(0.3, 0.5))
    width = max(first.shape[1], second.shape[1])
    pages = [np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (first, second)]
    return np.vstack([drawn(pages[0]), drawn(pages[1], ink=185)]), f"{text}\n{other}"


def _printed(font_name: str, size: int, *, outline: bool = False) -> Callable[[Writer], Made]:
    """Printed digits in DejaVu, which Matplotlib brings."""

    def make(writer: Writer) -> Made:
        import matplotlib

        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font_name
        font = ImageFont.truetype(str(path), size)
        rows = ["".join(map(str, writer.rng.integers(10, size=8))) for _ in range(2)]
        image = Image.new("L", (8 * size, 4 * size), 255)
        pen = ImageDraw.Draw(image)
        for number, row in enumerate(rows):
            place, stroke = (size, size * (0.7 + 1.3 * number)), max(1, size // 25)
            if outline:
                pen.text(place, row, 255, font, stroke_width=stroke, stroke_fill=0)
            else:
                pen.text(place, row, 0, font)
        return np.asarray(image), "\n".join(rows)

    return make


# The kinds of the requirement, then others of what it asks for.
KINDS: dict[str, Callable[[Writer], Made]] = {
    "one large digit, frame of 1 px black": _framed(1, 0),
    "one large digit, frame of 3 px mid-grey": _framed(3, 128),
    "3 lines of 6, plain": _plain,
    "3 lines of 6, as a photo with a shade": _photo,
    "the photo with a dark strip along two edges": _with_strips,
    "turned by 90 degrees": _turned(1),
    "turned by 180 degrees": _turned(2),
    "tilted by 8 degrees": _tilted(8),
    "tilted by 15 degrees": _tilted(15),
    "a phone number of 20 px high digits": _phone_number,
    "turned by 270 degrees": _turned(3),
    "tilted by 30 degrees": _tilted(30),
    "desk along two edges, askew": _desk,
    "keystone": _keystone,
    "two columns": _two_columns,
    "one digit per line": _one_per_line,
    "close digits, some touch": _tight(-0.02, 0.08),
    "digits that touch or overlap": _tight(-0.08, 0.02),
    "yellow beside blue on white": _yellow_beside_blue,
    "pencil beside marker": _pencil_beside_marker,
    "bold print": _printed("DejaVuSans-Bold.ttf", 60),
    "outlines": _printed("DejaVuSans-Bold.ttf", 60, outline=True),
    "12 px screen text": _printed("DejaVuSans.ttf", 12),
    "lines that touch": _touching_lines,
}


def sheets(images: Array, labels: Array, kind: str, *, seed: int) -> Iterator[Made]:
    """Yield the pictures of a kind with their texts."""
    number = list(KINDS).index(kind)
    for picture in range(PICTURES_PER_KIND):
        rng = np.random.default_rng([seed, number, picture])
        yield KINDS[kind](Writer(images, labels, rng))


def read(
    reader: Model, sources: Sequence[object], texts: Sequence[str], *, single: bool = False
) -> tuple[int, int, list[str]]:
    """Return how many sources are read right, how many wrong and yet sure, and what was read."""
    right = wrong_and_sure = 0
    answers = []
    for answer, text in zip(reader.read(sources, single=single), texts, strict=True):
        is_right = isinstance(answer, Prediction) and answer.text == text
        right += is_right
        wrong_and_sure += isinstance(answer, Prediction) and answer.sure and not is_right
        answers.append(str(answer) if isinstance(answer, PictureError) else answer.text)
    return right, wrong_and_sure, answers


def enlarged_digits() -> tuple[list[Array], list[str]]:
    """Return scikit-learn's 1,797 digits, 12 times enlarged, dark on light with a margin."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pages = []
    for image in data.images:
        large = cv2.resize(
            np.rint(image * 255 / 16).astype(np.uint8),
            None,
            fx=12,
            fy=12,
            interpolation=cv2.INTER_CUBIC,
        )
        pages.append(255 - np.pad(large, 24))
    return pages, [str(label) for label in data.target]


# Letters that do not look like a digit to people, and fonts of Matplotlib that `--reject` does not
# train with.
LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhijkmnprtuvwxy"
OTHER_FONTS = ("cmr10", "cmss10", "cmtt10", "cmti10", "cmb10")


def letters() -> list[Array]:
    """Return pictures of single letters, each in three sizes and five fonts, some aslant."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rng = np.random.default_rng(0)
    pages = []
    for name in OTHER_FONTS:
        for size in (40, 70, 110):
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), size)
            for letter in LETTERS:
                image = Image.new("L", (2 * size, 2 * size), 255)
                ImageDraw.Draw(image).text((size, size), letter, 30, font, anchor="mm")
                pages.append(np.asarray(image.rotate(rng.uniform(-10, 10), fillcolor=255)))
    return pages


def sure_letters(reader: Model) -> tuple[int, int]:
    """Return how many letters are taken for sure digits, and how many there are."""
    answers = list(reader.read(letters()))
    return sum(isinstance(each, Prediction) and each.sure for each in answers), len(answers)


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--kinds", default="", help="only kinds whose name contains this")
    parser.add_argument("--save", type=Path, help="folder for the pictures that are read wrong")
    options = parser.parse_args()
    reader = Model(options.model)
    data = load_dataset()
    images, labels, seed = data.test_images, data.test_labels, 0
    if options.split == "validation":
        parts = split(data, seed=0)
        images, labels, seed = parts.validation_images, parts.validation_labels, 1
    print(f"{'kind':45} right  wrong, sure")
    for kind in KINDS:
        if options.kinds not in kind:
            continue
        pictures, texts = zip(*sheets(images, labels, kind, seed=seed), strict=True)
        right, sure, answers = read(reader, pictures, texts)
        print(f"{kind:45} {right:5} {sure:12}", flush=True)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
                if text != answer:
                    name = f"{kind.replace(' ', '_')}-{number}.png"
                    Image.fromarray(pictures[number]).save(options.save / name)
                    print(f"    {number}: {text!r} read as {answer!r}")
    if options.photos.exists() and not options.kinds:
        with (options.photos / "manifest.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for name, folder in (("photos of one digit", "single"), ("photos of sheets", "multi")):
            chosen = [row for row in rows if row["file"].startswith(folder)]
            right, sure, answers = read(
                reader,
                [options.photos / row["file"] for row in chosen],
                [row["text"].replace("/", "\n") for row in chosen],
            )
            print(f"{name + f', of {len(chosen)}':45} {right:5} {sure:12}", flush=True)
    if options.split == "test" and not options.kinds:
        digits, texts = enlarged_digits()
        right, sure, _ = read(reader, digits, texts, single=True)
        print(f"{f'load_digits, of {len(digits):,}':45} {right:5,} {sure:12}")
        sure, count = sure_letters(reader)
        print(f"{f'letters, of {count}':45} {'':5} {sure:12}")


if __name__ == "__main__":
    main()
