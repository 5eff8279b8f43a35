"""A picture to the answers of all models: pure functions."""

from __future__ import annotations

import base64
import time
from collections import defaultdict
from typing import Any

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.ink import NO_DIGIT
from mnist_cli.pictures.normalise import PreparedPage
from mnist_cli.prediction import Model, prediction_of
from mnist_cli.training import evaluation
from mnist_cli.web.models import Models, NamedModel

SURE, NOT_SURE, NONE = "sure", "not sure", "no digit"


def predict(
    models: Models, picture: bytes, *, single: bool = False, rotation: int | None = 0
) -> dict[str, Any]:
    """Return what each model reads in a picture, a file's bytes, as `POST /api/predict` says it.

    ``single`` and ``rotation`` are those of `normalise.prepare`. A picture without a digit is an
    answer without digits. Raises `PictureError` for what is no picture.
    """
    began = time.perf_counter()
    page = prepare(models.reader, picture, single=single, rotation=rotation)
    images = images_of(page)
    prepare_ms = _ms_since(began)
    answers = [_answer(each, page, images) for each in models.named]
    return {
        "digits": [
            {"box": list(digit.box), "line": digit.line, "image": as_base64(digit.image)}
            for digit in page
        ],
        "rotation": page.rotation,
        "prepare_ms": prepare_ms,
        "models": answers,
        "disagreements": disagreements(answers, len(page)),
    }


def prepare(
    reader: Model, picture: bytes, *, single: bool = False, rotation: int | None = 0
) -> PreparedPage:
    """Return a picture's digits, none for a blank one. Raises `PictureError` for no picture."""
    try:
        return reader.prepare(picture, single=single, rotation=rotation)
    except PictureError as error:
        if str(error) != NO_DIGIT:
            raise
        return PreparedPage((), 0, ())


def images_of(page: PreparedPage) -> Array:
    """Return the digits (N, 28, 28), uint8, of a prepared picture."""
    return np.array([digit.image for digit in page], np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)


def as_base64(image: Array) -> str:
    """Return an image (28, 28), uint8, as base64 of its 784 bytes, row by row."""
    return base64.b64encode(image.tobytes()).decode("ascii")


def disagreements(answers: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return, for each of ``count`` digits that models read differently, who reads what."""
    found = []
    for position in range(count):
        readers = defaultdict(list)
        for answer in answers:
            readers[answer["digits"][position]["digit"]].append(answer["name"])
        if len(readers) > 1:
            by_votes = sorted(readers.items(), key=lambda item: (-len(item[1]), item[0]))
            read = [{"digit": digit, "models": names} for digit, names in by_votes]
            found.append({"position": position, "answers": read})
    return found


def _answer(named: NamedModel, page: PreparedPage, images: Array) -> dict[str, Any]:
    """Return one model's answer: the fields of `mnist predict --json`, verdicts and its time."""
    model = named.model
    began = time.perf_counter()
    logits = model.logits(images) if len(images) else np.zeros((0, 10), np.float32)
    ms = _ms_since(began)
    answer = prediction_of(b"", page, logits, model.calibration).to_json()
    # The logit of "no digit" is 0: it is the most probable where the evidence is below that.
    is_none = model.checkpoint.config.reject & (evaluation.evidence(logits) < 0)
    for digit, none in zip(answer["digits"], is_none.tolist(), strict=True):
        del digit["box"]  # the picture's, the same for all models
        is_sure = digit.pop("sure")
        digit["verdict"] = NONE if none else SURE if is_sure else NOT_SURE
    verdicts = {digit["verdict"] for digit in answer["digits"]}
    verdict = next(each for each in (NONE, NOT_SURE, SURE) if each in verdicts or not verdicts)
    return {
        "name": named.name,
        "text": answer["text"],
        "confidence": answer["confidence"],
        "verdict": verdict,
        "ms": ms,
        "digits": answer["digits"],
    }


def _ms_since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 2)
