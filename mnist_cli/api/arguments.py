"""Arguments that the functions of the API share, and their checks."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from mnist_cli.config import (
    ARCHITECTURES,
    DEVICES,
    ModelSpec,
    TrainConfig,
    require_choice,
    require_range,
    takes_activation,
)
from mnist_cli.errors import UsageError
from mnist_cli.machine import available_cores
from mnist_cli.torchrun import current_rank

if TYPE_CHECKING:
    from mnist_cli.logs.runs import Logs

PathLike: TypeAlias = "str | os.PathLike[str]"
# One name or several; None for all there are.
Names: TypeAlias = "str | Iterable[str] | None"
Paths: TypeAlias = "PathLike | Iterable[PathLike] | None"
_P = ParamSpec("_P")
_R = TypeVar("_R")
DEFAULTS = TrainConfig()


def checks_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Check keywords and simple types, and convert NumPy's numbers to Python's.

    Raises `UsageError` for an unknown keyword, naming the nearest known one, and for a value that
    does not have the annotated type.
    """
    known = function.__code__.co_varnames[: _parameter_count(function)]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                hint = _hint(name, known)
                raise UsageError(f"{function.__name__}() has no keyword '{name}'. {hint}")
        named = zip(known, args, strict=False)
        positional = [_checked(function, name, value) for name, value in named]
        keywords = {name: _checked(function, name, value) for name, value in kwargs.items()}
        too_many = args[len(known) :]  # Python's own message
        return function(*positional, *too_many, **keywords)  # type: ignore[arg-type]

    return checked


def _hint(name: str, known: tuple[str, ...]) -> str:
    """Return which of the ``known`` keywords is meant by an unknown one."""
    import difflib

    abbreviated = [each for each in known if name == "".join(word[0] for word in each.split("_"))]
    near = abbreviated or difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"It takes {', '.join(known)}."


def _checked(function: Callable[..., Any], name: str, value: object) -> Any:
    """Return a value converted to its annotated type, if that is a simple one."""
    annotation = str(function.__annotations__[name])
    kind = annotation.removesuffix(" | None")
    if kind not in _CONVERTERS or (value is None and kind != annotation):
        return value
    expected, convert = _CONVERTERS[kind]
    try:
        return convert(value)
    except TypeError:
        raise UsageError(f"{name} must be {expected}, not {value!r}.") from None


def _whole_number(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's was bool_ before version 2
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


# Annotations with what they are called in messages, and a function that raises `TypeError`.
_CONVERTERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "int": ("a whole number", _whole_number),
    "float": ("a number", _number),
    "bool": ("True or False", _truth),
    "str": ("a string", _text),
    "PathLike": ("a path", os.fspath),
}


def _parameter_count(function: Callable[..., Any]) -> int:
    code = function.__code__
    return code.co_argcount + code.co_kwonlyargcount


def results_folder(results_dir: PathLike | None, *, resume: bool = False) -> Path | None:
    """Return the folder to write to, or None to write nothing."""
    if results_dir is None and resume:
        raise UsageError("resume needs results_dir, the folder of what is to be resumed.")
    return None if results_dir is None else Path(results_dir)


def _listed(what: str, names: Names, default: Iterable[str]) -> list[str]:
    """Return names, each once. Raises `UsageError` for none, or for what is no list of names."""
    if names is None:
        names = default
    try:
        listed = [_text(name) for name in ([names] if isinstance(names, str) else names)]
    except TypeError:
        listed = []
    if not listed:
        raise UsageError(f"{what} must be a name or a list of names, not {names!r}.")
    return list(dict.fromkeys(listed))


def resolve_frameworks(names: Names) -> list[str]:
    """Return the frameworks asked for, by default all; none is imported."""
    from mnist_cli import adapters

    asked = _listed("framework", names, adapters.names())
    return list(dict.fromkeys(adapters.resolve(name) for name in asked))


def resolve_archs(names: Names, *, activation: str, arch_file: Paths) -> list[ModelSpec]:
    """Return the networks asked for, each once: names or lines of layers.

    By default those of ``arch_file``, one TOML file or several, else `ARCHITECTURES`.
    """
    from mnist_cli.networks.language import find_network, read_networks

    paths = [arch_file] if isinstance(arch_file, (str, os.PathLike)) else arch_file or ()
    named = read_networks(map(Path, paths))
    asked = _listed("arch", names, named or ARCHITECTURES)
    found = [find_network(each, activation=activation, named=named) for each in asked]
    if activation != "relu" and not any(takes_activation(each.arch) for each in found):
        ModelSpec(found[0].arch, activation, found[0].line)  # raises, and says what to do
    return list(dict.fromkeys(found))


def checked_logs(log: Names, log_dir: PathLike | None, folder: Path | None) -> Logs:
    """Return the logs asked for, by default none; they go beside the results in ``folder``."""
    from mnist_cli.logs.runs import Logs

    formats = _listed("log", log, ()) if log else []
    if log_dir is not None and not formats:
        raise UsageError("log_dir is the folder of logs: give --log too, or leave --log-dir out.")
    return Logs(formats, Path(log_dir or (folder or Path("results")) / "logs"))


def checked_batch_sizes(sizes: Iterable[int]) -> list[int]:
    """Return batch sizes, each once, ascending. Raises `UsageError` unless there are some."""
    try:
        listed = sorted({_whole_number(size) for size in sizes})
    except TypeError:
        listed = []
    if not listed or isinstance(sizes, (str, bytes)):
        raise UsageError(f"batch_sizes must be a list of whole numbers, not {sizes!r}.")
    return listed


def checked_device(name: str) -> str:
    """Return the device. Raises `UsageError` for an unknown one."""
    require_choice("device", name, DEVICES)
    return name


def checked_threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked for, else one for each available core.

    Processes that torchrun started on this machine share its cores.
    """
    rank = current_rank()
    cores = available_cores() // rank.local_world_size if rank else available_cores()
    if threads is None:
        return max(1, cores)
    # With more threads than cores they wait for one another, up to a standstill.
    require_range("threads", threads, 1, max(1, cores))
    return threads
