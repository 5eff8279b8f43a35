"""Pictures to digits: `predict` for one picture, `Reader` for many.

The default is the model inside this package, computed by NumPy: neither PyTorch nor TensorFlow is
imported. Another framework reads in a process of its own, as everywhere (see `worker`).

When an answer is sure depends on its model: see `calibration`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mnist_cli.adapters.base import Classifier
from mnist_cli.arrays import CLASSES, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.normalise import DEFECTS, PreparedDigit, prepare
from mnist_cli.pictures.opening import Source, brief
from mnist_cli.pictures.segmentation import Box
from mnist_cli.records import available_cores
from mnist_cli.training import checkpoint, recipe
from mnist_cli.training.calibration import judge
from mnist_cli.training.checkpoint import Calibration

PRETRAINED = Path(__file__).parent / "pretrained" / "cnn.safetensors"
NUMPY = "numpy"
SUFFIXES = frozenset(
    [
        ".bmp",
        ".gif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)

# Of the model in the package, by `tests/benchmarks/calibration.py`. Models as old carry none.
CALIBRATION = Calibration(temperature=1.15, sure_probability=0.78, sure_evidence=7.7)

_BATCH = 64  # pictures: enough for the network to be fast, few enough to show progress


@dataclass(frozen=True)
class Digit:
    """One digit of a picture.

    ``probabilities`` are those of 0 to 9 and sum to 1; ``confidence`` is that of ``digit``, the
    largest. ``box`` is (left, top, right, bottom) in pixels of the upright picture. ``sure``:
    see `calibration`. ``image`` (28, 28), uint8, is what the network saw, ink 255.
    """

    digit: int
    confidence: float
    probabilities: tuple[float, ...]
    box: Box
    sure: bool
    image: Array = field(repr=False, compare=False)

    def top(self, count: int = 3) -> list[tuple[int, float]]:
        """Return the most probable digits with their probabilities."""
        order = sorted(range(CLASSES), key=lambda digit: -self.probabilities[digit])
        return [(digit, self.probabilities[digit]) for digit in order[:count]]


@dataclass(frozen=True)
class Prediction:
    """What a picture shows: ``text`` has a newline between lines, ``digits`` are in its order.

    ``confidence`` is that all digits are right: the product of theirs. ``file`` is None for what
    did not come from a file.
    """

    file: str | None
    text: str
    digits: tuple[Digit, ...]

    @property
    def confidence(self) -> float:
        """The probability, 0-1, that the whole text is right."""
        return float(np.prod([digit.confidence for digit in self.digits]))

    @property
    def sure(self) -> bool:
        """Whether every digit is."""
        return all(digit.sure for digit in self.digits)

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        return {
            "file": self.file,
            "text": self.text,
            "confidence": self.confidence,
            "sure": self.sure,
            "digits": [
                {
                    "digit": digit.digit,
                    "confidence": digit.confidence,
                    "sure": digit.sure,
                    "probabilities": list(digit.probabilities),
                    "box": list(digit.box),
                }
                for digit in self.digits
            ],
        }

    def _repr_html_(self) -> str:
        from mnist_cli.reporting.notebook import prediction_html  # needed only to show it

        return prediction_html(self)


def find_pictures(name: str) -> list[str]:
    """Return the files that a name given on the command line stands for, sorted.

    A folder stands for the pictures in it and below it, a pattern such as ``scans/*.png`` for what
    it matches. Raises `PictureError` if there is none.
    """
    if Path(name).is_dir():
        found = [
            str(path)
            for path in sorted(Path(name).rglob("*"))
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ]
        if not found:
            raise PictureError(f"a folder without pictures ({', '.join(sorted(SUFFIXES))})")
        return found
    if Path(name).exists() or not glob.has_magic(name):
        return [name]  # what is not there is reported when it is read
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # Path.glob is for one folder
    found = [path for path in matches if Path(path).is_file()]
    if not found:
        raise PictureError("no file matches this pattern")
    return found


class Reader:
    """Reads pictures with one model."""

    def __init__(
        self,
        model: Path | None = None,
        *,
        framework: str = NUMPY,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        """``threads`` compute the network; by default one for each core."""
        # Not by its entry point: to look through those of all installed packages takes longer than
        # to read a picture.
        from mnist_cli.adapters.numpy_adapter import adapter

        def classifier_of(model: checkpoint.Checkpoint) -> Classifier:
            return model.classifier(adapter, device="cpu", threads=self._threads)

        self._path = model or PRETRAINED
        self._model = checkpoint.load(self._path)
        self.calibration = self._model.calibration or CALIBRATION
        self._framework = framework
        self._device = device
        self._threads = threads or available_cores()
        self._classifier = classifier_of(self._model)
        # Whatever the model, the one in the package tells touching digits from wide ones.
        self._segmenter = (
            self._classifier if model is None else classifier_of(checkpoint.load(PRETRAINED))
        )

    def read(
        self, sources: Iterable[Source], *, single: bool = False
    ) -> Iterator[Prediction | PictureError]:
        """Yield what each source shows, or why it cannot be read, in order.

        With NumPy, memory does not grow with the number of sources. Another framework gets all
        digits at once, since each start of its process takes seconds: 784 bytes a digit are kept.
        """
        prepared = self._prepared(sources, single=single)
        size = _BATCH if self._framework == NUMPY else None
        while batch := list(islice(prepared, size)):
            images = [
                digit.image for _, found in batch if isinstance(found, list) for digit in found
            ]
            logits: Iterator[Array] = iter(
                self.logits(np.array(images, np.uint8)) if images else []
            )
            for source, found in batch:
                if isinstance(found, PictureError):
                    yield found
                else:
                    rows = np.array([next(logits) for _ in found])
                    yield _prediction(source, found, rows, self.calibration)

    def _prepared(
        self, sources: Iterable[Source], *, single: bool
    ) -> Iterator[tuple[Source, Found]]:
        """Yield each source with its digits, prepared.

        One after the other: the work on a small picture is many short calls, and Python threads
        spend more time waiting for each other than they save (preparation of MNIST arrays alone:
        1,100 a second in two threads, 1,800 in one). On a large one OpenCV uses all cores itself.
        """

        def prepare_one(source: Source) -> Found:
            try:
                return prepare(source, single=single, classify=self._segmenting_logits)
            except PictureError as error:
                return error
            except MemoryError:
                return PictureError("too large for this machine's memory; scale it down")
            except DEFECTS as error:  # one should cost a folder of thousands one picture, not all
                return PictureError(f"cannot be prepared ({brief(error)})")

        for source in sources:
            yield source, prepare_one(source)

    def _segmenting_logits(self, images: Array) -> Array:
        return self._segmenter.predict_logits(recipe.normalize(images))

    def logits(self, images: Array) -> Array:
        """Return logits (N, 10) of prepared images (N, 28, 28), uint8, by the chosen framework."""
        if self._framework == NUMPY:
            return self._classifier.predict_logits(
                recipe.normalize(images, mean=self._model.pixel_mean, std=self._model.pixel_std)
            )
        import tempfile

        from mnist_cli.runners import process
        from mnist_cli.runners.base import PredictJob

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            np.save(path, images)
            job = PredictJob(
                framework=self._framework,
                checkpoint=str(self._path),
                threads=self._threads,
                images=str(path),
                device=self._device,
            )
            return np.array(process.run(job, lambda _: None)["logits"], dtype=np.float32)


Found: TypeAlias = "list[PreparedDigit] | PictureError"


def _prediction(
    source: Source, prepared: list[PreparedDigit], logits: Array, limits: Calibration
) -> Prediction:
    """Return the answer for one picture; logits (N, 10) for its N digits."""
    probabilities, sure = (array.tolist() for array in judge(logits, limits))
    digits = []
    text = ""
    for number, (one, row) in enumerate(zip(prepared, probabilities, strict=True)):
        confidence = max(row)
        digit = row.index(confidence)
        digits.append(Digit(digit, confidence, tuple(row), one.box, sure[number], one.image))
        if number and one.line != prepared[number - 1].line:
            text += "\n"
        text += str(digit)
    file = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    return Prediction(file, text, tuple(digits))
