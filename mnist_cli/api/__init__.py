"""The Python API: what the commands do, as functions that return records.

Names and defaults are those of the command line's options, except that nothing is written unless
``results_dir`` is given. The functions work in scripts (no ``__main__`` guard is needed), in
threads and in notebooks: each run trains in a process of its own, started by its command line.
Errors are those of `mnist_cli.errors`; an unknown keyword names the nearest known one.
"""

from mnist_cli.api.comparing import compare, sweep_batch
from mnist_cli.api.reading import load_model, predict
from mnist_cli.api.training import evaluate, train

__all__ = ["compare", "evaluate", "load_model", "predict", "sweep_batch", "train"]
