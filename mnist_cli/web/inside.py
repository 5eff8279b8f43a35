"""The view "Look inside": what every layer of one model computes, and what follows from edits.

Edits come with each request and change no loaded model. What needs many digits is computed in
short turns of the slow lane: a page asks again until it is done.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from threadpoolctl import ThreadpoolController

from mnist_cli import tracing
from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.prediction import Model
from mnist_cli.tracing import Edit, Stage, Trace
from mnist_cli.training import evaluation, recipe
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.web.http import RequestError, field, read_json, require_between
from mnist_cli.web.predicting import as_base64
from mnist_cli.web.state import State, model_named, state_of

MAX_EDITS = 100
MAX_BIAS = 1_000.0
MAX_SHOWN = 256  # units of a layer whose values are sent
TERMS = 10  # products of a unit's sum that are listed
NEAREST = 10
TRAIN_DIGITS, TEST_DIGITS = 10_000, 1_000  # the first of MNIST's
MAX_FEATURE_BYTES = 16_000_000  # of a model's last hidden layer; a wide one has fewer digits
_CHUNK = 50  # images at a time: some MB of values
_TURN_SECONDS = 0.25  # so that an answer about edits waits no longer


async def look(request: Request) -> Response:
    """`POST /api/inside`: what every layer makes of an image, and which pixels speak for what."""
    state, document = state_of(request), await read_json(request)
    model, image = model_named(state, field(document, "model", str)).model, _image(document)
    digit = document.get("digit")
    if digit is not None:
        require_between("digit", field(document, "digit", int), 0, CLASSES - 1)
    edits = _edits(document, model)
    return JSONResponse(await state.quick.run(partial(inside, model, image, edits, digit)))


async def look_at_unit(request: Request) -> Response:
    """`POST /api/inside/unit`: the sum of one unit, number by number."""
    state, document = state_of(request), await read_json(request)
    model, image = model_named(state, field(document, "model", str)).model, _image(document)
    stage, unit = _stage_and_unit(document, _trace(model).stages)
    if not tracing.unit_count(stage):
        raise RequestError(400, f'"layer" should be one with weights, not {stage.title}.')
    place = _place(document, stage)
    work = partial(arithmetic, model, image, _edits(document, model), document["layer"], unit)
    return JSONResponse(await state.quick.run(work, place))


async def responds(request: Request) -> Response:
    """`POST /api/inside/responds`: a unit's weights and the test digits it responds to most."""
    state, document = state_of(request), await read_json(request)
    model = model_named(state, field(document, "model", str)).model
    _, unit = _stage_and_unit(document, _trace(model).stages)
    work = partial(responses, state, model, document["layer"], unit)
    return JSONResponse(await state.slow.run(work))


async def neighbours(request: Request) -> Response:
    """`POST /api/inside/neighbours`: the nearest training digits in the last hidden layer."""
    state, document = state_of(request), await read_json(request)
    model, image = model_named(state, field(document, "model", str)).model, _image(document)
    return JSONResponse(await state.slow.run(partial(nearest, state, model, image)))


async def accuracy(request: Request) -> Response:
    """`POST /api/inside/accuracy`: how many of the first test digits an edited model reads."""
    state, document = state_of(request), await read_json(request)
    model = model_named(state, field(document, "model", str)).model
    return JSONResponse(await state.slow.run(partial(accuracy_of, model, _edits(document, model))))


# --- Requests to checked values --------------------------------------------------------------


def _image(document: dict[str, Any]) -> Array:
    """Return the image (28, 28), uint8, of a request: as `POST /api/predict` gives it."""
    try:
        pixels = base64.b64decode(field(document, "image", str), validate=True)
        return np.frombuffer(pixels, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
    except ValueError as error:
        raise RequestError(400, '"image" should be base64 of 784 bytes.') from error


def _stage_and_unit(document: dict[str, Any], stages: Sequence[Stage]) -> tuple[Stage, int]:
    """Return what "layer" and "unit" name."""
    number = field(document, "layer", int)
    require_between("layer", number, 0, len(stages) - 1)
    unit = field(document, "unit", int)
    require_between("unit", unit, 0, stages[number].after[0] - 1)
    return stages[number], unit


def _place(document: dict[str, Any], stage: Stage) -> tuple[int, ...] | None:
    """Return the (row, column) that is asked for; None for where the unit is largest."""
    place = document.get("place")
    if place is None:
        return None
    sizes = stage.after[1:]
    is_place = isinstance(place, list) and [type(each) for each in place] == [int] * len(sizes)
    if not is_place or not all(0 <= at < size for at, size in zip(place, sizes, strict=True)):
        raise RequestError(400, f'"place" should be a row and a column within {list(sizes)}.')
    return tuple(place)


def _edits(document: dict[str, Any], model: Model) -> list[Edit]:
    """Return the checked edits of a request, none if it has none."""
    listed = document.get("edits", [])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise RequestError(400, '"edits" should be a list of objects with "layer" and "unit".')
    if len(listed) > MAX_EDITS:
        raise RequestError(400, f'"edits" should be at most {MAX_EDITS}.')
    stages = _trace(model).stages if listed else []
    edits = []
    for each in listed:
        stage, unit = _stage_and_unit(each, stages)
        if not tracing.unit_count(stage):
            raise RequestError(400, f'"edits" should name layers with weights, not {stage.title}.')
        bias = None
        if each.get("bias") is not None:
            bias = field(each, "bias", float)
            require_between("bias", bias, -MAX_BIAS, MAX_BIAS)
        edits.append(Edit(each["layer"], unit, off=field(each, "off", bool, False), bias=bias))
    return edits


# --- Answers: functions of a model -----------------------------------------------------------


def inside(
    model: Model, image: Array, edits: Sequence[Edit] = (), digit: int | None = None
) -> dict[str, Any]:
    """Return what `POST /api/inside` answers for an image (28, 28), uint8.

    ``digit`` is the one that pixels speak for, by default the one with the highest score.
    """
    trace = _trace(model, edits)
    with _one_thread():
        logits = trace.forward(_normalised(model.checkpoint, image[np.newaxis]))[0]
        layers = [_layer_json(stage) for stage in trace.stages]
        chosen = int(logits.argmax()) if digit is None else digit
        pixels = gradient_times_ink(model, trace, image, chosen)
    return {
        "layers": layers,
        "logits": [float(each) for each in logits],
        "temperature": model.calibration.temperature,
        "digit": chosen,
        "pixels": _as_int8(pixels),
    }


def gradient_times_ink(model: Model, trace: Trace, image: Array, digit: int) -> Array:
    """Return how much each pixel's ink speaks for a digit: (28, 28), after `Trace.forward`.

    That is the gradient of the digit's score by the ink (0-1) of a pixel, times its ink: how much
    the score would fall without it, if the network were linear.
    """
    gradient = trace.backward(digit)[0] / model.checkpoint.pixel_std
    return np.asarray(gradient * (image / np.float32(255)))


def arithmetic(
    model: Model,
    image: Array,
    edits: Sequence[Edit],
    number: int,
    unit: int,
    place: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return what `POST /api/inside/unit` answers: the sum of a unit at a place, term by term."""
    trace = _trace(model, edits)
    with _one_thread():
        trace.forward(_normalised(model.checkpoint, image[np.newaxis]))
    stage = trace.stages[number]
    place = tracing.peak(stage, unit) if place is None else place
    at = (unit, *place, 0)
    terms, bias = trace.terms(stage, unit, place)
    shown, rest = terms[:TERMS], terms[TERMS:]
    return {
        "place": list(place),
        "terms": [
            {"place": [int(at) for at in each.place], "x": each.x, "weight": each.weight}
            for each in shown
        ],
        "rest": {"count": len(rest), "sum": float(sum(each.x * each.weight for each in rest))},
        "bias": bias,
        "steps": [
            {"layer": name, "value": value} for name, value in trace.steps(stage, unit, place)
        ],
        "value": float(stage.outputs[at]),
    }


def accuracy_of(model: Model, edits: Sequence[Edit]) -> dict[str, Any]:
    """Return how many of the first test digits the edited model reads right."""
    digits = _digits()
    trace = _trace(model, edits)
    right = 0
    for chunk, labels in _chunks(digits.test_images, digits.test_labels):
        with _one_thread():
            logits = trace.forward(_normalised(model.checkpoint, chunk))
        right += round(evaluation.accuracy(logits, labels) * len(labels))
    return {"right": right, "of": len(digits.test_labels)}


def responses(state: State, model: Model, number: int, unit: int) -> dict[str, Any]:
    """Return what a unit responds to, the test digits once all are seen."""
    gathered = _gathered(state, model)
    gathered.see_test_digits()
    digits = _digits()
    trace = _trace(model)
    weights = tracing.weight_image(trace, trace.stages[number], unit)
    found = []
    if gathered.strongest:
        indices, values = (each[:, unit] for each in gathered.strongest[number])
        found = [
            _digit_json(digits.test_images, digits.test_labels, index, value=float(value))
            for index, value in zip(indices, values, strict=True)
        ]
    return {
        "weights": None if weights is None else {"shape": weights.shape, **_as_int8(weights)},
        "done": gathered.tested,
        "of": TEST_DIGITS,
        "strongest": found,
    }


def nearest(state: State, model: Model, image: Array) -> dict[str, Any]:
    """Return the training digits nearest to an image, once all are seen."""
    gathered = _gathered(state, model)
    gathered.see_train_digits()
    digits = _digits()
    count, found = len(gathered.features), []
    if gathered.trained == count:
        trace = _trace(model)
        with _one_thread():
            trace.forward(_normalised(model.checkpoint, image[np.newaxis]))
            distances = np.linalg.norm(gathered.features - trace.features[0], axis=1)
        order = np.argsort(distances, kind="stable")[:NEAREST]
        found = [
            _digit_json(
                digits.train_images, digits.train_labels, index, distance=float(distances[index])
            )
            for index in order
        ]
    return {"done": gathered.trained, "of": count, "neighbours": found}


# --- What is computed once of many digits ----------------------------------------------------


class _Digits:
    """The digits of MNIST that the view compares with, whatever a model was trained on."""

    def __init__(self) -> None:
        from mnist_cli.data.registry import load_dataset  # not needed until a view looks inside

        data = load_dataset("mnist")
        self.train_images = data.train_images[:TRAIN_DIGITS].copy()  # lets go of the rest
        self.train_labels = data.train_labels[:TRAIN_DIGITS].copy()
        self.test_images = data.test_images[:TEST_DIGITS].copy()
        self.test_labels = data.test_labels[:TEST_DIGITS].copy()


@cache
def _digits() -> _Digits:
    return _Digits()


class _Gathered:
    """What one model makes of many digits, computed turn by turn.

    ``features`` (N, F), float32, is the last hidden layer of training digits, the first ``trained``
    of them so far. ``strongest`` has for each stage the indices and values (10, units) of the test
    digits that its units respond to most, once ``tested`` is all of them.
    """

    def __init__(self, model: Model) -> None:
        self._trace = _trace(model)
        self._normalised = partial(_normalised, model.checkpoint)  # the model must be free to go
        width = int(np.prod(self._trace.stages[-1].before))
        count = max(NEAREST, min(TRAIN_DIGITS, MAX_FEATURE_BYTES // (4 * width)))
        self.features = np.empty((count, width), np.float32)
        self.trained = self.tested = 0
        self.strongest: list[tuple[Array, Array]] = []
        self._responses: list[list[Array]] = []

    def see_train_digits(self) -> None:
        """Go on with the training digits for one turn."""
        images = _digits().train_images[: len(self.features)]
        for chunk in _turn(images, self.trained):
            self._forward(chunk)
            stop = self.trained + len(chunk)
            self.features[self.trained : stop] = self._trace.features
            self.trained = stop

    def see_test_digits(self) -> None:
        """Go on with the test digits for one turn."""
        if self.strongest:
            return
        for chunk in _turn(_digits().test_images, self.tested):
            self._forward(chunk)
            self._responses.append(
                [np.array(tracing.strongest(stage.outputs)) for stage in self._trace.stages]
            )
            self.tested += len(chunk)
        if self.tested == TEST_DIGITS:
            for parts in zip(*self._responses, strict=True):
                values = np.concatenate(parts)
                order = np.argsort(-values, axis=0, kind="stable")[:NEAREST]
                self.strongest.append((order, np.take_along_axis(values, order, axis=0)))
            self._responses = []

    def _forward(self, images: Array) -> None:
        with _one_thread():
            self._trace.forward(self._normalised(images))


def _turn(images: Array, start: int) -> Iterator[Array]:
    """Yield chunks of images from ``start`` on, for the seconds of a turn."""
    end = time.perf_counter() + _TURN_SECONDS
    while start < len(images):
        yield images[start : start + _CHUNK]
        start += _CHUNK
        if time.perf_counter() > end:
            return


def _gathered(state: State, model: Model) -> _Gathered:
    if model not in state.gathered:
        state.gathered[model] = _Gathered(model)
    found: _Gathered = state.gathered[model]
    return found


# --- Small parts -----------------------------------------------------------------------------


def _trace(model: Model, edits: Sequence[Edit] = ()) -> Trace:
    """Return a network of the model's weights; nothing is copied but what edits change."""
    return Trace(model.checkpoint.spec, model.checkpoint.weights, edits)


def _normalised(made: Checkpoint, images: Array) -> Array:
    return recipe.normalize(images, mean=made.pixel_mean, std=made.pixel_std)


def _chunks(images: Array, labels: Array) -> Iterator[tuple[Array, Array]]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK], labels[start : start + _CHUNK]


def _layer_json(stage: Stage) -> dict[str, Any]:
    """Return a stage with the values of its first image."""
    return {
        "title": stage.title,
        "shape": stage.after,
        "inputs": stage.before,
        "inside": stage.inside,
        "units": tracing.unit_count(stage),
        **_as_int8(stage.outputs[:MAX_SHOWN, ..., 0]),
    }


def _as_int8(values: Array) -> dict[str, Any]:
    """Return values in 8 bits: ``scale`` is the largest, which 127 stands for."""
    scale = float(np.abs(values).max())
    rounded = np.rint(values * (127 / scale if scale else 0)).astype(np.int8)
    return {"scale": scale, "values": as_base64(rounded)}


def _digit_json(images: Array, labels: Array, index: int, **figures: float) -> dict[str, Any]:
    label = int(labels[index])
    return {"index": int(index), "label": label, "image": as_base64(images[index]), **figures}


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit BLAS to one thread: the other cores are for the answers to others."""
    with _blas().limit(limits=1):
        yield


ROUTES = (
    Route("/api/inside", look, methods=["POST"]),
    Route("/api/inside/unit", look_at_unit, methods=["POST"]),
    Route("/api/inside/responds", responds, methods=["POST"]),
    Route("/api/inside/neighbours", neighbours, methods=["POST"]),
    Route("/api/inside/accuracy", accuracy, methods=["POST"]),
)
