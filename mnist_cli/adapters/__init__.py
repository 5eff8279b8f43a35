"""The frameworks, found by entry point; `base` has the contract."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from mnist_cli.adapters.base import Adapter
from mnist_cli.config import require_choice
from mnist_cli.errors import FrameworkError

_GROUP = "mnist_cli.adapters"


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


ALIASES = {"pytorch": "torch", "keras": "tensorflow", "tf": "tensorflow"}


def resolve(name: str) -> str:
    """Return the name of the framework called ``name``, which may be one of `ALIASES`.

    No framework is imported. Raises `UsageError` if there is none of that name.
    """
    known = names()
    name = name if name in known else ALIASES.get(name, name)
    require_choice("framework", name, known)
    return name


def names() -> tuple[str, ...]:
    """Return the names of all frameworks with an adapter, installed or not, sorted."""
    return tuple(sorted(_entries()))


def load(name: str) -> Adapter:
    """Import and return an adapter, and with it its framework.

    Raises `UsageError` for an unknown name, `FrameworkError` if the framework cannot be imported.
    """
    entries = _entries()
    require_choice("framework", name, tuple(sorted(entries)))
    try:
        adapter: Adapter = entries[name].load()
    except Exception as error:  # a broken binary fails with whatever its loader raises
        raise FrameworkError(
            f"{name} cannot be imported ({type(error).__name__}: {error}). "
            f"Install it into this environment, or leave {name} out with --framework."
        ) from error
    return adapter
