"""`mnist networks`: the known networks, or one explained."""

from __future__ import annotations

from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json


def networks(
    line: Annotated[
        str | None,
        typer.Argument(
            metavar="[LINE]",
            help="A network by name or as a line of layers, to explain.",
            show_default="all known ones",
        ),
    ] = None,
    arch_file: options.ArchFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the networks, or explain one: shapes, parameters and operations of each layer."""
    from mnist_cli.config import NETWORKS
    from mnist_cli.networks.language import find_network, read_networks
    from mnist_cli.networks.picture import draw_shapes, to_json
    from mnist_cli.reporting import console

    named = read_networks(arch_file or [])
    names = [*NETWORKS, *named] if line is None else [line]
    found = [find_network(name, named=named) for name in names]
    out = console.stdout()
    if as_json:
        documents = [to_json(spec) for spec in found]
        print_json(documents if line is None else documents[0])
    elif line is None:
        out.print(console.networks_table([to_json(spec) for spec in found]))
    else:
        out.print(console.network_table(to_json(found[0])))
        typer.echo(f"\n{draw_shapes(found[0])}")
