"""The command line: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from mnist_cli import __version__
from mnist_cli.cli.collect import collect
from mnist_cli.cli.compare import compare
from mnist_cli.cli.compare_records import compare_records
from mnist_cli.cli.data import data
from mnist_cli.cli.draw import draw
from mnist_cli.cli.evaluate import evaluate
from mnist_cli.cli.export import export
from mnist_cli.cli.import_file import import_file
from mnist_cli.cli.info import info
from mnist_cli.cli.networks import networks
from mnist_cli.cli.output import say
from mnist_cli.cli.predict import predict
from mnist_cli.cli.report import report
from mnist_cli.cli.results import results
from mnist_cli.cli.submit import submit
from mnist_cli.cli.sweep_batch import sweep_batch
from mnist_cli.cli.train import train
from mnist_cli.cli.tune import tune
from mnist_cli.errors import MnistError
from mnist_cli.torchrun import is_main, require_alone, wait_to_report

_RESUMABLE = ("train", "compare", "sweep-batch", "tune")
_INTERRUPTED = 130  # Typer's exit code for Ctrl-C, and every shell's

app = typer.Typer(
    name="mnist",
    help="Train, evaluate, compare and use digit classifiers in PyTorch, TensorFlow and NumPy.",
    epilog="Add --debug to any command to see the cause of an error.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for command in (
    *(train, evaluate, compare, sweep_batch, tune, networks, predict, data),
    *(submit, collect, draw, export, report, results, compare_records, info),
):
    app.command()(command)
app.command("import")(import_file)  # a word of Python


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mnist {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train, evaluate, compare and use digit classifiers in PyTorch, TensorFlow and NumPy."""
    if context.invoked_subcommand != "train":
        require_alone(str(context.invoked_subcommand))


def main() -> None:
    """Run the command line; every expected error ends in one line and its exit code."""
    arguments = sys.argv[1:] or ["--help"]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        code = app(arguments, prog_name="mnist", standalone_mode=False)
        if code == _INTERRUPTED and is_main():
            resumable = arguments[0] in _RESUMABLE
            say("Interrupted." + " Go on with the same command and --resume." * resumable)
    except MnistError as error:
        wait_to_report(error)
        code = _fail(str(error), error.exit_code)
        if debug:
            traceback.print_exc()
            say(error.details)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "mnist"
        wait_to_report(error)
        said = error.format_message().rstrip(".")
        end = "" if said.endswith("?") else "."
        code = _fail(f"{said}{end} See '{command} --help'.", error.exit_code)
    except Exception as error:
        wait_to_report(error)
        if debug:
            traceback.print_exc()
        code = _fail(
            f"This is a defect of the program, not of your command: {type(error).__name__}: "
            f"{error}. Run it again with --debug and report what it prints.",
            1,
        )
    sys.exit(code)


def _fail(message: str, exit_code: int) -> int:
    say("Error: " + " ".join(message.split()))
    return exit_code
