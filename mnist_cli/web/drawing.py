"""The view of the drawing itself: what each model reads in it, and keeping it with a label."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mnist_cli.arrays import CLASSES
from mnist_cli.config import ROTATIONS
from mnist_cli.web import keeping, predicting
from mnist_cli.web.http import (
    RequestError,
    content_type,
    field,
    read_json,
    require_between,
)
from mnist_cli.web.state import state_of

_SWITCHES = {"true": True, "false": False}


async def list_models(request: Request) -> Response:
    """`GET /api/models`: the models, files that are none, and where drawings are kept."""
    state = state_of(request)
    return JSONResponse(
        {
            "models": state.models.to_json(),
            "problems": list(state.models.problems),
            "keep_dir": str(state.keep_dir),
            "kept": await state.quick.run(keeping.kept_count, state.keep_dir),
        }
    )


async def predict(request: Request) -> Response:
    """`POST /api/predict`: what each model reads in a picture."""
    state = state_of(request)
    picture, options = await _picture_and_options(request)
    single = field(options, "single", bool, False)
    turn = str(options.get("rotate", "auto"))
    if turn not in ROTATIONS:
        raise RequestError(400, f'"rotate" should be one of {", ".join(ROTATIONS)}.')
    rotation = None if turn == "auto" else int(turn)
    answer = await state.quick.run(
        partial(predicting.predict, state.models, picture, single=single, rotation=rotation)
    )
    return JSONResponse(answer)


async def keep(request: Request) -> Response:
    """`POST /api/keep`: write a drawing into the folder of its label."""
    state = state_of(request)
    document = await read_json(request)
    label = field(document, "label", int)
    require_between("label", label, 0, CLASSES - 1)
    picture = picture_of(document)
    path = await state.quick.run(keeping.keep, state.models.reader, picture, label, state.keep_dir)
    kept = await state.quick.run(keeping.kept_count, state.keep_dir)
    file = path.relative_to(state.keep_dir).as_posix()
    return JSONResponse({"folder": str(state.keep_dir), "file": file, "kept": kept}, 201)


def picture_of(document: dict[str, Any]) -> bytes:
    """Return the picture of a JSON object: a file in base64, or a data URL as a canvas makes it."""
    text = field(document, "picture", str)
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise RequestError(400, '"picture" should be base64, or a data URL of base64.')
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError(400, '"picture" should be base64, or a data URL of base64.') from error


async def _picture_and_options(request: Request) -> tuple[bytes, dict[str, Any]]:
    """Return a request's picture and options: a file and the query, or one JSON object."""
    kind = content_type(request)
    if kind == "application/json":
        document = await read_json(request)
        return picture_of(document), document
    if not kind.startswith("image/") and kind not in (
        "application/pdf",
        "application/octet-stream",
    ):
        raise RequestError(415, "Expected a picture (image/png, ...) or application/json.")
    query = dict(request.query_params)
    single = _SWITCHES.get(query.get("single", "false"))
    return await request.body(), {**query, "single": single}


ROUTES = (
    Route("/api/models", list_models, methods=["GET"]),
    Route("/api/predict", predict, methods=["POST"]),
    Route("/api/keep", keep, methods=["POST"]),
)
