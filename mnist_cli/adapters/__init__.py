"""The frameworks, found by entry point; `base` has the contract."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from mnist_cli.adapters.base import Adapter
from mnist_cli.config import require_choice
from mnist_cli.errors import FrameworkError, not_installed
from mnist_cli.names import framework_name

_GROUP = "mnist_cli.adapters"
# Our adapters whose frameworks are extras: each is the name of its module and of our extra.
_EXTRAS = ("jax", "tensorflow", "torch")
_COMPARED = ("tensorflow", "torch")  # missed by a comparison if they are not installed


def _entries() -> dict[str, EntryPoint]:
    return {
        entry.name: entry
        for entry in entry_points(group=_GROUP)
        if entry.name not in _EXTRAS or find_spec(entry.name)
    }


def _require_known(name: str, known: tuple[str, ...]) -> None:
    if name in _EXTRAS and name not in known:
        raise FrameworkError(
            f"{not_installed(framework_name(name), name)}, or use one of: {', '.join(known)}."
        )
    require_choice("framework", name, known)


ALIASES = {"pytorch": "torch", "keras": "tensorflow", "tf": "tensorflow"}


def resolve(name: str) -> str:
    """Return the name of the framework called ``name``, which may be one of `ALIASES`.

    No framework is imported. Raises `UsageError` if there is none of that name, `FrameworkError` if
    it is an extra that is not installed.
    """
    known = names()
    name = name if name in known else ALIASES.get(name, name)
    _require_known(name, known)
    return name


def names() -> tuple[str, ...]:
    """Return the names of all frameworks with an adapter, sorted, without extras not installed."""
    return tuple(sorted(_entries()))


def missing() -> tuple[str, ...]:
    """Return which of PyTorch and TensorFlow are not installed."""
    return tuple(name for name in _COMPARED if name not in _entries())


def is_installed(name: str) -> bool:
    """Return whether there is an adapter of that name and its framework, without importing it."""
    entry = _entries().get(name)
    if entry is None:
        return False
    is_ours = entry.value.startswith(f"{__name__}.")
    return not is_ours or find_spec(name) is not None


def load(name: str) -> Adapter:
    """Import and return an adapter, and with it its framework.

    Raises `UsageError` for an unknown name, `FrameworkError` if the framework cannot be imported.
    """
    entries = _entries()
    _require_known(name, tuple(sorted(entries)))
    try:
        adapter: Adapter = entries[name].load()
    except Exception as error:  # a broken binary fails with whatever its loader raises
        raise FrameworkError(
            f"{name} cannot be imported ({type(error).__name__}: {error}). "
            f"Install it into this environment, or leave {name} out with --framework."
        ) from error
    return adapter
