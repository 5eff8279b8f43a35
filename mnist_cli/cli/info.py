"""`mnist info`: versions, devices, threads and data."""

from __future__ import annotations

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json

_PACKAGES = ("numpy", "torch", "tensorflow", "keras", "jax", "scikit-learn", "matplotlib")


def info(as_json: options.AsJson = False) -> None:
    """Show versions, devices, threads and data."""
    from mnist_cli import adapters
    from mnist_cli.data.registry import DATASETS
    from mnist_cli.records import available_cores, describe_machine, version_of
    from mnist_cli.reporting import console

    document = {
        **describe_machine(),
        "threads": available_cores(),
        "frameworks": list(adapters.names()),
        "versions": {name: version_of(name) for name in _PACKAGES},
        "datasets": list(DATASETS),
    }
    if as_json:
        print_json(document)
    else:
        console.stdout().print(console.info_table(document))
