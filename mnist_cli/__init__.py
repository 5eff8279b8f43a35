"""Train, evaluate and compare digit classifiers in PyTorch, TensorFlow and from-scratch NumPy.

    from mnist_cli import compare, evaluate, load_model, predict, sweep_batch, train

Importing this package loads nothing heavy: no framework, not even NumPy. Each function is loaded
with its first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_cli.api import compare, evaluate, load_model, predict, sweep_batch, train

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load_model", "predict", "sweep_batch", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mnist_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
