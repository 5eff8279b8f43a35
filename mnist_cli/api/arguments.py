"""Arguments that the functions of the API share, and their checks."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from mnist_cli.config import (
    ARCHITECTURES,
    DEVICES,
    ModelSpec,
    TrainConfig,
    require_choice,
    require_range,
)
from mnist_cli.errors import UsageError
from mnist_cli.records import available_cores

PathLike: TypeAlias = "str | os.PathLike[str]"
# One name or several; None for all there are.
Names: TypeAlias = "str | Iterable[str] | None"
_P = ParamSpec("_P")
_R = TypeVar("_R")
DEFAULTS = TrainConfig()


def checks_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Raise `UsageError` for an unknown keyword, naming the nearest known one."""

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        known = function.__code__.co_varnames[: _parameter_count(function)]
        for name in kwargs:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean '{near[0]}'?" if near else f"It takes {', '.join(known)}."
                raise UsageError(f"{function.__name__}() has no keyword '{name}'. {hint}")
        return function(*args, **kwargs)

    return checked


def _parameter_count(function: Callable[..., Any]) -> int:
    code = function.__code__
    return code.co_argcount + code.co_kwonlyargcount


def results_folder(results_dir: PathLike | None, *, resume: bool = False) -> Path | None:
    """Return the folder to write to, or None to write nothing."""
    if results_dir is None and resume:
        raise UsageError("resume needs results_dir, the folder of what is to be resumed.")
    return None if results_dir is None else Path(results_dir)


def _listed(names: str | Iterable[str]) -> list[str]:
    """Return names, each once."""
    return list(dict.fromkeys([names] if isinstance(names, str) else names))


def resolve_frameworks(names: Names) -> list[str]:
    """Return the frameworks asked for, by default all; none is imported."""
    from mnist_cli import adapters

    return _listed(adapters.resolve(name) for name in _listed(names or adapters.names()))


def resolve_archs(names: Names) -> list[str]:
    """Return the networks asked for, by default all."""
    return [ModelSpec(arch).arch for arch in _listed(names or ARCHITECTURES)]


def checked_device(name: str) -> str:
    """Return the device. Raises `UsageError` for an unknown one."""
    require_choice("device", name, DEVICES)
    return name


def checked_threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked for, else one for each available core."""
    if threads is None:
        return available_cores()
    # With more threads than cores they wait for one another, up to a standstill.
    require_range("threads", threads, 1, available_cores())
    return threads
