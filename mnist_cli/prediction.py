"""Predict the digits in pictures with a `Model`.

The default model is the one in this package, computed by NumPy, so that neither PyTorch nor
TensorFlow is imported. Any other framework runs in a process of its own, as in training.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mnist_cli.adapters.base import Classifier
from mnist_cli.arrays import Array
from mnist_cli.config import ROTATIONS, require_choice
from mnist_cli.errors import PictureError
from mnist_cli.machine import available_cores
from mnist_cli.names import DIGITS
from mnist_cli.pictures.components import Box
from mnist_cli.pictures.documents import pages
from mnist_cli.pictures.normalise import UNEXPECTED_ERRORS, PreparedPage, prepare
from mnist_cli.pictures.opening import SUFFIXES, Source, pictures_below, short_message
from mnist_cli.training import checkpoint, evaluation, recipe
from mnist_cli.training.calibration import judge
from mnist_cli.training.checkpoint import PRETRAINED, Calibration

NUMPY = "numpy"
# For the model in this package, by `tests/benchmarks/calibration.py`, and for other models that
# were saved without a calibration.
DEFAULT_CALIBRATION = Calibration(temperature=1.15, sure_probability=0.78, sure_evidence=7.7)

# Pictures per call of the network: enough for it to be fast, few enough to show progress.
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Digit:
    """One digit of a picture, or what else a model tells apart.

    ``digit`` is the most probable class, 0-9 for digits, and ``confidence`` its probability.
    ``probabilities`` are those of all classes, in the order of ``class_names``, and sum to 1.
    ``box`` is the bounding box (left, top, right, bottom) in pixels of the upright picture, right
    and bottom exclusive. ``sure`` is explained in `calibration`. ``image`` (28, 28), uint8, ink
    255, is the input of the network.
    """

    digit: int
    confidence: float
    probabilities: tuple[float, ...]
    box: Box
    sure: bool
    image: Array = field(repr=False, compare=False)
    class_names: tuple[str, ...] = field(default=DIGITS, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The name of the most probable class: of a digit, the digit."""
        return self.class_names[self.digit]

    def top(self, count: int = 3) -> list[tuple[int, float]]:
        """Return the ``count`` most probable classes with their probabilities, best first."""
        order = sorted(range(len(self.probabilities)), key=lambda each: -self.probabilities[each])
        return [(digit, self.probabilities[digit]) for digit in order[:count]]

    def top_names(self, count: int = 3) -> list[tuple[str, float]]:
        """Return what `top` does, with the names of the classes."""
        return [(self.class_names[digit], share) for digit, share in self.top(count)]


@dataclass(frozen=True)
class Prediction:
    """The digits in a picture.

    ``text`` has a newline between lines, and blanks between classes with names of several letters;
    ``digits`` are in its order. ``file`` is None for a source
    that is no path. ``rotation`` is by how many degrees clockwise the picture was turned to be
    read: 0, 90, 180 or 270. ``rejected`` are the boxes of ink that was taken for no digit.
    """

    file: str | None
    text: str
    digits: tuple[Digit, ...]
    rotation: int = 0
    rejected: tuple[Box, ...] = field(default=(), repr=False)

    @property
    def confidence(self) -> float:
        """The probability, 0-1, that the whole text is right: the product over the digits."""
        return float(np.prod([digit.confidence for digit in self.digits]))

    @property
    def sure(self) -> bool:
        """Whether every digit is sure."""
        return all(digit.sure for digit in self.digits)

    def lines(self) -> list[tuple[Digit, ...]]:
        """Return the digits of each line of the text."""
        digits, found = iter(self.digits), []
        for line in self.text.split("\n"):
            written = [next(digits)]
            while len(_joined(written)) < len(line):
                written.append(next(digits))
            found.append(tuple(written))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        return {
            "file": self.file,
            "text": self.text,
            "confidence": self.confidence,
            "sure": self.sure,
            "rotation": self.rotation,
            "digits": [
                {
                    "digit": digit.digit,
                    "label": digit.label,
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
    """Return the files that a name on the command line stands for, sorted.

    A folder stands for the pictures in it and in its subfolders, a pattern such as ``scans/*.png``
    for the files that match, a file of several pages for each of them, such as ``scan.pdf#2``.
    Raises `PictureError` if there are none.
    """
    return [page for path in _find_files(name) for page in pages(path)]


def _find_files(name: str) -> list[str]:
    if Path(name).is_dir():
        found = [str(path) for path in pictures_below(Path(name))]
        if not found:
            raise PictureError(f"a folder without pictures ({', '.join(sorted(SUFFIXES))})")
        return found
    if Path(name).exists() or not glob.has_magic(name):
        return [name]  # a missing file is reported when it is read
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # Path.glob is for one folder
    found = [path for path in matches if Path(path).is_file()]
    if not found:
        raise PictureError("no file matches this pattern")
    return found


class Model:
    """A model loaded from ``path`` that reads pictures; ``checkpoint`` has weights and history."""

    def __init__(
        self,
        model: Path | None = None,
        *,
        framework: str = NUMPY,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        """Load a model.

        ``model`` is the path of a checkpoint, by default the one in this package; ``framework``
        and ``device`` compute it. ``threads`` is the number of its threads, by default one per
        core. Raises `CheckpointError` if it cannot be loaded.
        """
        # Imported directly, because searching the entry points of all installed packages takes
        # longer than reading a picture.
        from mnist_cli.adapters.numpy_adapter import adapter

        def classifier_of(model: checkpoint.Checkpoint) -> Classifier:
            return model.classifier(adapter, device="cpu", threads=self._threads)

        self.path = model or PRETRAINED
        self.checkpoint = checkpoint.load(self.path)
        self.calibration = self.checkpoint.calibration or DEFAULT_CALIBRATION
        self.class_names = self.checkpoint.class_names
        self._framework = framework
        self._device = device
        self._threads = threads or available_cores()
        self._classifier = classifier_of(self.checkpoint)
        self._classifier_of = classifier_of

    @cached_property
    def _segmenter(self) -> Classifier:
        """The model that splits touching digits: the package's, whichever model reads them.

        The limits of evidence for a split were measured with it.
        """
        if self.path == PRETRAINED:
            return self._classifier
        return self._classifier_of(checkpoint.load(PRETRAINED))

    def predict(
        self, source: Source, *, single: bool = False, rotate: str | int = "auto"
    ) -> Prediction:
        """Return the digits in one picture: a path, a file's bytes, an array or a PIL image.

        ``single`` and ``rotate`` are explained in `read`. Raises `PictureError` for a source that
        is no picture or shows no digit.
        """
        (answer,) = self.read([source], single=single, rotate=rotate)
        if isinstance(answer, PictureError):
            raise answer
        return answer

    def read(
        self, sources: Iterable[Source], *, single: bool = False, rotate: str | int = "auto"
    ) -> Iterator[Prediction | PictureError]:
        """Yield a prediction for each source, or the reason why it cannot be read, in order.

        ``single`` takes all ink of a picture as one digit. ``rotate`` is by how many degrees
        clockwise a picture is turned to be read, 0, 90, 180 or 270; ``auto`` chooses the turn in
        which its digits have the most evidence, and never turns a lone digit. Raises `UsageError`
        for another one.

        With NumPy, memory does not grow with the number of sources. Another framework gets the
        digits of all sources at once, because each start of its process takes seconds; this needs
        784 bytes per digit.
        """
        require_choice("rotate", str(rotate), ROTATIONS)
        if isinstance(sources, (str, bytes, os.PathLike)):  # else its characters would be read
            sources = [sources]
        rotation = None if rotate == "auto" else int(rotate)
        prepared = self._prepared(sources, single=single, rotation=rotation)
        size = _BATCH_SIZE if self._framework == NUMPY else None
        while batch := list(islice(prepared, size)):
            images = [
                digit.image
                for _, found in batch
                if not isinstance(found, PictureError)
                for digit in found
            ]
            logits: Iterator[Array] = iter(
                self.logits(np.array(images, np.uint8)) if images else []
            )
            for source, found in batch:
                if isinstance(found, PictureError):
                    yield found
                else:
                    rows = np.array([next(logits) for _ in found])
                    yield prediction_of(
                        source, found, rows, self.calibration, class_names=self.class_names
                    )

    def _prepared(
        self, sources: Iterable[Source], *, single: bool, rotation: int | None
    ) -> Iterator[tuple[Source, Found]]:
        """Yield each source with its prepared digits.

        Without threads: preparing a small picture is many short calls, for which Python threads
        lose more time in waiting than they gain (MNIST arrays: 1,100 pictures per second in two
        threads, 1,800 in one). For a large picture OpenCV uses all cores itself.
        """
        for source in sources:
            found: Found
            try:
                found = self.prepare(source, single=single, rotation=rotation)
            except PictureError as error:
                found = error
            yield source, found

    def prepare(
        self, source: Source, *, single: bool = False, rotation: int | None = None
    ) -> PreparedPage:
        """Return the digits of one picture, as `normalise.prepare` does.

        Raises `PictureError` also for a picture that meets a defect of this program, because one
        picture must not end the reading of others.
        """
        try:
            # How much letters look like digits says nothing: their pages are not turned.
            evidence = self._segmentation_evidence if self.class_names == DIGITS else None
            return prepare(source, single=single, rotation=rotation, evidence=evidence)
        except MemoryError as error:
            raise PictureError("too large for this machine's memory; scale it down") from error
        except UNEXPECTED_ERRORS as error:
            raise PictureError(f"cannot be prepared ({short_message(error)})") from error

    def _segmentation_evidence(self, images: Array) -> Array:
        """Return the evidence (N,) that each image (N, 28, 28), uint8, shows a digit."""
        return evaluation.evidence(self._segmenter.predict_logits(recipe.normalize(images)))

    def logits(self, images: Array) -> Array:
        """Return the logits (N, classes), float32, of prepared images (N, 28, 28), uint8.

        The chosen framework computes them. Raises `FrameworkError` if it fails.
        """
        if self._framework == NUMPY:
            return self._classifier.predict_logits(
                recipe.normalize(
                    images, mean=self.checkpoint.pixel_mean, std=self.checkpoint.pixel_std
                )
            )
        import tempfile

        from mnist_cli.runners import process
        from mnist_cli.runners.base import PredictJob

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            np.save(path, images)
            job = PredictJob(
                framework=self._framework,
                checkpoint=str(self.path),
                threads=self._threads,
                images=str(path),
                device=self._device,
            )
            return np.array(process.run(job, lambda _: None)["logits"], dtype=np.float32)


Found: TypeAlias = "PreparedPage | PictureError"


def prediction_of(
    source: Source,
    prepared: PreparedPage,
    logits: Array,
    limits: Calibration,
    *,
    class_names: tuple[str, ...] = DIGITS,
) -> Prediction:
    """Return the prediction for one picture with N digits, given their logits (N, classes)."""
    probabilities, sure = (array.tolist() for array in judge(logits, limits))
    digits = []
    lines: list[list[Digit]] = []
    for number, (found, row) in enumerate(zip(prepared, probabilities, strict=True)):
        confidence = max(row)
        best, is_sure = row.index(confidence), sure[number]
        digit = Digit(best, confidence, tuple(row), found.box, is_sure, found.image, class_names)
        digits.append(digit)
        if not number or found.line != prepared[number - 1].line:
            lines.append([])
        lines[-1].append(digit)
    text = "\n".join(map(_joined, lines))
    file = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    return Prediction(file, text, tuple(digits), prepared.rotation, prepared.rejected)


def _joined(digits: Sequence[Digit]) -> str:
    """Return the text of a line: with blanks between names if any class's has several letters."""
    is_wide = any(len(name) > 1 for name in digits[0].class_names)
    return (" " if is_wide else "").join(digit.label for digit in digits)
