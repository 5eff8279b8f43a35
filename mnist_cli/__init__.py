"""Train, evaluate and compare digit classifiers in PyTorch, TensorFlow and from-scratch NumPy.

    from mnist_cli import collect, compare, compare_records, evaluate, evaluate_all, export_model
    from mnist_cli import import_model, inspect_data, list_results, load_model, measure_robustness
    from mnist_cli import predict, submit, sweep_batch, train, tune

Importing this package loads nothing heavy: no framework, not even NumPy. Each function is loaded
with its first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_cli.api.collecting import collect
    from mnist_cli.api.comparing import compare, sweep_batch
    from mnist_cli.api.evaluating import evaluate_all, measure_robustness
    from mnist_cli.api.exporting import export_model
    from mnist_cli.api.importing import import_model
    from mnist_cli.api.inspecting import inspect_data
    from mnist_cli.api.reading import load_model, predict
    from mnist_cli.api.results import compare_records, list_results
    from mnist_cli.api.submitting import submit
    from mnist_cli.api.training import evaluate, train
    from mnist_cli.api.tuning import tune

__version__ = "0.1.0"
__all__ = [
    "collect",
    "compare",
    "compare_records",
    "evaluate",
    "evaluate_all",
    "export_model",
    "import_model",
    "inspect_data",
    "list_results",
    "load_model",
    "measure_robustness",
    "predict",
    "submit",
    "sweep_batch",
    "train",
    "tune",
]

_MODULES = {
    "collect": "collecting",
    "compare": "comparing",
    "compare_records": "results",
    "evaluate": "training",
    "evaluate_all": "evaluating",
    "export_model": "exporting",
    "import_model": "importing",
    "inspect_data": "inspecting",
    "list_results": "results",
    "load_model": "reading",
    "measure_robustness": "evaluating",
    "predict": "reading",
    "submit": "submitting",
    "sweep_batch": "comparing",
    "train": "training",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"mnist_cli.api.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
