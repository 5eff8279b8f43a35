"""The view that trains a network: what may be asked of it, and its events as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mnist_cli import adapters
from mnist_cli.config import NETWORKS, ModelSpec, TrainConfig
from mnist_cli.errors import MnistError
from mnist_cli.machine import available_cores
from mnist_cli.names import framework_name
from mnist_cli.networks.language import find_network
from mnist_cli.runners.base import TrainJob
from mnist_cli.training.live import Settings
from mnist_cli.web.http import RequestError, field, read_json
from mnist_cli.web.state import State, state_of
from mnist_cli.web.trainer import Training

# Between two looks at what is new: the curves move smoothly, and a page costs next to nothing.
_SECONDS_BETWEEN_LOOKS = 0.1


async def show(request: Request) -> Response:
    """`GET /api/live`: what may be trained, and the training that runs or was the last."""
    state = state_of(request)
    frameworks = [{"name": each, "title": framework_name(each)} for each in adapters.names()]
    return JSONResponse(
        {
            "networks": {name: ModelSpec(name).line for name in NETWORKS},
            "frameworks": frameworks,
            "training": None if state.training is None else state.training.to_json(),
        }
    )


async def start(request: Request) -> Response:
    """`POST /api/live`: train a network."""
    state = state_of(request)
    document = await read_json(request)
    job = await state.quick.run(_job, document)
    if state.training is not None and not state.training.has_ended:
        raise RequestError(409, "A training is running. Stop it before you start another.")
    settings = Settings(job.config.epochs, job.config.learning_rate)
    state.training = Training(job, state.models, settings)
    state.training.start()
    return JSONResponse(state.training.to_json(), 201)


async def change(request: Request) -> Response:
    """`POST /api/live/settings`: pause, go on, slow motion, more epochs, another learning rate."""
    document = await read_json(request)
    training = _running(state_of(request))
    now = training.settings
    settings = Settings(
        epochs=field(document, "epochs", int, now.epochs),
        learning_rate=field(document, "learning_rate", float, now.learning_rate),
        paused=field(document, "paused", bool, now.paused),
        slow=field(document, "slow", bool, now.slow),
    )
    _config(settings.epochs, settings.learning_rate)
    training.change(settings)
    return JSONResponse(training.to_json())


async def stop(request: Request) -> Response:
    """`POST /api/live/stop`: end the training; its model stays among the answers."""
    training = _running(state_of(request))
    training.stop()
    return JSONResponse(training.to_json())


async def events(request: Request) -> Response:
    """`GET /api/live/events`: the events of the training from its start, as they come."""
    training = state_of(request).training
    if training is None:
        raise RequestError(404, "Nothing was trained yet. POST /api/live starts a training.")
    return StreamingResponse(
        _stream(training), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def _stream(training: Training) -> AsyncIterator[str]:
    """Yield the events of a training as server-sent events, until it has ended."""
    training.watchers += 1
    number = 0
    try:
        while True:
            has_ended = training.has_ended  # asked first, so that the last event is not missed
            new = training.events_after(number)
            for _, event in new:
                yield f"data: {json.dumps(event)}\n\n"
            number = new[-1][0] if new else number
            if has_ended:
                return
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        training.watchers -= 1
        training.end_unless_watched()


def _job(document: dict[str, Any]) -> TrainJob:
    """Return the training that a request asks for. Raises `RequestError`."""
    line, framework = field(document, "arch", str), field(document, "framework", str)
    config = _config(field(document, "epochs", int), field(document, "learning_rate", float))
    try:
        spec, framework = find_network(line), adapters.resolve(framework)
    except MnistError as error:
        raise RequestError(400, str(error)) from error
    # A core is left to answer drawings meanwhile.
    return TrainJob(framework, spec, config, threads=max(1, available_cores() - 1), live=True)


def _config(epochs: int, learning_rate: float) -> TrainConfig:
    """Return the recipe of a training. Raises `RequestError` for numbers out of range."""
    try:
        return replace(TrainConfig(), epochs=epochs, learning_rate=learning_rate)
    except MnistError as error:
        raise RequestError(400, str(error)) from error


def _running(state: State) -> Training:
    if state.training is None or state.training.has_ended:
        raise RequestError(409, "No training is running. POST /api/live starts one.")
    return state.training


ROUTES = (
    Route("/api/live", show, methods=["GET"]),
    Route("/api/live", start, methods=["POST"]),
    Route("/api/live/settings", change, methods=["POST"]),
    Route("/api/live/stop", stop, methods=["POST"]),
    Route("/api/live/events", events, methods=["GET"]),
)
