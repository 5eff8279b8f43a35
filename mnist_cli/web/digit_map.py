"""The view of the map: test digits as points, and where a drawing lands among them."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mnist_cli import mapping
from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.machine import available_cores
from mnist_cli.prediction import Model
from mnist_cli.runners import process
from mnist_cli.runners.base import MapJob
from mnist_cli.tracing import Trace
from mnist_cli.training import recipe
from mnist_cli.web import predicting
from mnist_cli.web.http import RequestError, read_json
from mnist_cli.web.http import field as field_of
from mnist_cli.web.models import LIVE
from mnist_cli.web.state import State, model_named, state_of

# Maps that are kept, the newest: about 6 MB each of a large layer.
MAX_MAPS = 24
# A map that waits for its turn is given up when nobody has asked for it for so long.
FORGOTTEN_SECONDS = 10.0

Key: TypeAlias = tuple[str, int, str]  # model, layer, method


@dataclass
class _Entry:
    """A map of a model, or how far it is. ``asked_at`` is by the monotonic clock."""

    model: Model
    asked_at: float
    phase: str = "waiting for its turn"
    share: float = 0.0
    made: mapping.DigitMap | None = None
    network: Trace | None = None
    error: Exception | None = None


class Maps:
    """Maps by model, layer and method, computed one after the other in processes of their own."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._turn = threading.Lock()

    def ask(self, key: Key, model: Model) -> _Entry:
        """Return a map that may still be computed; of a model of that name before, it is not.

        Raises what has ended the computation; asked again, it begins anew.
        """
        entry = self._entries.get(key)
        if entry is None or entry.model is not model:
            entry = self._entries[key] = _Entry(model, time.monotonic())
            # A daemon: its process ends with the server, which does not wait for it.
            threading.Thread(
                target=self._compute, args=(key, entry), name="map", daemon=True
            ).start()
        entry.asked_at = time.monotonic()
        if entry.error is not None:
            self._entries.pop(key, None)
            raise entry.error
        return entry

    def made(self, key: Key, model: Model) -> _Entry:
        """Return a map that has been computed. Raises `RequestError` if it has not."""
        entry = self._entries.get(key)
        if entry is None or entry.model is not model or entry.made is None:
            raise RequestError(404, "This map has not been computed yet. GET /api/map does it.")
        return entry

    def _compute(self, key: Key, entry: _Entry) -> None:
        with self._turn:
            is_newest = self._entries.get(key) is entry
            if not is_newest or time.monotonic() - entry.asked_at > FORGOTTEN_SECONDS:
                if is_newest:
                    del self._entries[key]
                return
            _, layer, method = key
            threads = max(1, available_cores() - 1)  # one is left to answer drawings

            def on_event(event: Mapping[str, Any]) -> None:
                entry.phase, entry.share = event["name"], event["share"]

            try:
                result = process.run(
                    MapJob(str(entry.model.path), layer, method, threads), on_event
                )
                entry.made = mapping.DigitMap.from_json(result)
            except Exception as error:  # told to whoever asks for the map
                entry.error = error
        made = [key for key, each in self._entries.items() if each.made is not None]
        for old in made[:-MAX_MAPS]:
            self._entries.pop(old, None)


async def show_map(request: Request) -> Response:
    """`GET /api/map`: the points of a layer, or how far their computation is."""
    state = state_of(request)
    key = _key_of(state, dict(request.query_params))
    entry = _maps(state).ask(key, model_named(state, key[0]).model)
    if entry.made is None:
        return JSONResponse({"phase": entry.phase, "share": entry.share}, 202)
    return JSONResponse(
        {
            "points": entry.made.points.tolist(),
            "predictions": entry.made.predictions.astype(int).tolist(),
            "explained": entry.made.explained.tolist(),
        }
    )


async def list_digits(request: Request) -> Response:
    """`GET /api/map/digits`: the test digits whose points the maps show, in their order."""
    return JSONResponse(await state_of(request).slow.run(_digits))


async def place(request: Request) -> Response:
    """`POST /api/map`: where a digit lands in a map that has been computed."""
    state = state_of(request)
    document = await read_json(request)
    key = _key_of(state, document)
    image = _image_of(document)
    entry = _maps(state).made(key, model_named(state, key[0]).model)
    return JSONResponse(await state.quick.run(_place, entry, image, key))


def _maps(state: State) -> Maps:
    maps: Maps = state.memory.setdefault("maps", Maps())
    return maps


def _key_of(state: State, fields: Mapping[str, Any]) -> Key:
    """Return which map a query or a JSON object names. Raises `RequestError`."""
    model = model_named(state, field_of(dict(fields), "model", str))
    if model.name == LIVE:
        raise RequestError(400, "The model that is being trained has no map: it is in no file yet.")
    layers = [each["layer"] for each in mapping.layers(model.model.checkpoint.spec)]
    layer, method = str(fields.get("layer")), fields.get("method")
    if layer not in map(str, layers):
        raise RequestError(400, f'"layer" should be one of {", ".join(map(str, layers))}.')
    if method not in mapping.METHODS:
        raise RequestError(400, f'"method" should be one of {", ".join(mapping.METHODS)}.')
    return model.name, int(layer), method


def _image_of(document: dict[str, Any]) -> Array:
    """Return the digit (28, 28), uint8, in the field ``image``. Raises `RequestError`."""
    try:
        pixels = base64.b64decode(field_of(document, "image", str), validate=True)
        return np.frombuffer(pixels, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
    except ValueError as error:
        raise RequestError(
            400, '"image" should be base64 of 784 bytes, as in the digits of POST /api/predict.'
        ) from error


@cache
def _digits() -> dict[str, Any]:
    from mnist_cli.data.registry import load_dataset

    dataset = load_dataset()
    indices = mapping.chosen(dataset)
    return {
        "indices": indices.tolist(),
        "labels": dataset.test_labels[indices].tolist(),
        "images": predicting.as_base64(dataset.test_images[indices]),
    }


def _place(entry: _Entry, image: Array, key: Key) -> dict[str, Any]:
    """Return what `POST /api/map` says, by the model as it was loaded."""
    assert entry.made is not None
    _, layer, method = key
    made = entry.model.checkpoint
    entry.network = entry.network or Trace(made.spec, made.weights)
    pixels = recipe.normalize(image[np.newaxis], mean=made.pixel_mean, std=made.pixel_std)
    (outputs,) = mapping.outputs(entry.network, pixels, layer)
    point, nearest = entry.made.place(outputs, method)
    return {"point": point.tolist(), "nearest": nearest.tolist()}


ROUTES = (
    Route("/api/map", show_map, methods=["GET"]),
    Route("/api/map", place, methods=["POST"]),
    Route("/api/map/digits", list_digits, methods=["GET"]),
)
