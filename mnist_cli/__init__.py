"""Train, evaluate and compare digit classifiers in PyTorch, TensorFlow and from-scratch NumPy.

Importing this package loads nothing heavy: no framework, not even NumPy. ``predict`` comes with
its first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_cli.prediction import predict as predict

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "predict":
        from mnist_cli.prediction import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
