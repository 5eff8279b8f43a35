"""`mnist info`: versions, the machine and what it is doing, threads and data."""

from __future__ import annotations

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json

_PACKAGES = ("numpy", "torch", "tensorflow", "keras", "jax", "scikit-learn", "matplotlib")


def info(as_json: options.AsJson = False) -> None:
    """Show versions, the machine and what it is doing, threads and data."""
    from dataclasses import asdict

    import numpy  # noqa: F401  # loads its BLAS, which then tells its kernels

    from mnist_cli import adapters
    from mnist_cli.conditions import observe
    from mnist_cli.data.registry import DATASETS
    from mnist_cli.machine import (
        available_cores,
        blas_kernels,
        describe_machine,
        gpu_state,
        version_of,
    )
    from mnist_cli.reporting import console

    document = {
        **describe_machine(),
        "blas_kernels": blas_kernels(),
        "threads": available_cores(),
        "conditions": asdict(observe()),
        "gpu": gpu_state(),
        "frameworks": list(adapters.names()),
        "versions": {name: version_of(name) for name in _PACKAGES},
        "datasets": list(DATASETS),
    }
    if as_json:
        print_json(document)
    else:
        console.stdout().print(console.info_table(document))
