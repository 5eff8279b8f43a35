"""`mnist draw`: a page to draw on, every model answering live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say


def draw(
    results_dir: options.ResultsDir = RESULTS,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of models; the packaged one answers if it has none.",
            show_default="models in the results folder",
        ),
    ] = None,
    keep_dir: Annotated[
        Path, typer.Option(help="Folder for drawings that are kept with a label.")
    ] = Path("my-digits"),
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 is any free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open no browser.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Open a page to draw digits on; each model answers while you draw."""
    from mnist_cli.errors import UsageError
    from mnist_cli.names import plural
    from mnist_cli.web import security, server
    from mnist_cli.web.models import load_models
    from mnist_cli.web.state import State

    if results_dir != RESULTS and not results_dir.is_dir():
        raise UsageError(f"--results-dir should be a folder, not {results_dir}.")
    if models_dir is not None and not models_dir.is_dir():
        raise UsageError(f"--models-dir should be a folder, not {models_dir}.")
    models_dir = models_dir or results_dir / "models"
    listening = server.listen(host, port)
    token = None if security.is_loopback(host) else security.new_token()
    models = load_models(models_dir)
    for line in models.problems:
        say(" ".join(line.split()))
    state = State(models, models_dir, keep_dir, results_dir)
    address = server.address_of(listening, token)
    if as_json:
        print_json({"address": address, "models": [named.name for named in models.named]})
    else:
        typer.echo(address)
    count = len(models.named)
    answer = "answers" if count == 1 else "answer"
    say(f"{plural(count, 'model')} {answer}. Ctrl-C ends the server.")
    if not no_browser:
        _open_browser(address)
    try:
        server.serve(server.create_app(state, host=host, token=token), listening)
    finally:
        if state.training is not None:
            state.training.close()


def _open_browser(address: str) -> None:
    """Open a browser beside the server, or say that there is none."""
    import os
    import sys
    import threading
    import webbrowser

    def open_it() -> None:
        # Without a screen, the standard library would start a browser in this terminal.
        has_screen = sys.platform != "linux" or any(
            os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
        )
        if not (has_screen and webbrowser.open(address)):
            say("No browser was found: open the address above in one.")

    threading.Thread(target=open_it, daemon=True).start()
