"""What all requests share: the models, where drawings are kept, and the threads that compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from starlette.requests import Request

from mnist_cli.prediction import Model
from mnist_cli.web.http import RequestError
from mnist_cli.web.models import Models, NamedModel
from mnist_cli.web.trainer import Training

# Computations that may wait for their turn; a 65th is refused, so that a flood takes no memory.
MAX_WAITING = 64

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Lane:
    """One thread that computes one thing after the other.

    A network's buffers belong to one computation at a time, and Python computes on one core.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Return what the function returns, called in the thread. Raises `RequestError` if busy."""
        if self._waiting >= MAX_WAITING:
            raise RequestError(429, "The server is busy. Try again in a moment.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        finally:
            self._waiting -= 1


@dataclass
class State:
    """What a request's endpoint finds with `state_of`.

    ``training`` is the one that runs, or the last one.
    ``quick`` computes answers of milliseconds, with ``models``. ``slow`` is for what takes longer;
    it must not use the classifiers of ``models`` but build its own. ``memory`` has what a view
    keeps between requests, by a name of its own. ``gathered`` is what `inside` has computed of many
    digits, while a model is loaded; it belongs to ``slow``.
    """

    models: Models
    models_dir: Path
    keep_dir: Path
    results_dir: Path = Path("results")
    quick: Lane = field(default_factory=lambda: Lane("quick"))
    slow: Lane = field(default_factory=lambda: Lane("slow"))
    training: Training | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    gathered: WeakKeyDictionary[Model, Any] = field(default_factory=WeakKeyDictionary)


def state_of(request: Request) -> State:
    """Return the state of the server that a request came to."""
    state: State = request.app.state.mnist
    return state


def model_named(state: State, name: str) -> NamedModel:
    """Return the model that a request names. Raises `RequestError` if there is none."""
    for named in state.models.named:
        if named.name == name:
            return named
    raise RequestError(404, "There is no model of that name. GET /api/models lists them.")
