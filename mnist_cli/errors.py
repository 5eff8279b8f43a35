"""Expected errors, which a user may see.

Each message says what was expected, what came, and what to do. The command line prints it in one
line and exits with ``exit_code``; anything that is not a `MnistError` is a defect of this program.
"""


class MnistError(Exception):
    """Base of all expected errors: the run failed (exit code 1).

    ``details`` is what a failed process printed; ``--debug`` shows it. ``was_killed`` says that it
    was killed from outside, as by a system without free memory: it may succeed elsewhere.
    """

    exit_code = 1
    details = ""
    was_killed = False


class UsageError(MnistError):
    """The command was given a name or number it does not take (exit code 2)."""

    exit_code = 2


class DataError(MnistError):
    """A dataset is missing, damaged, or not what its header says."""


class CheckpointError(MnistError):
    """A model file is damaged, foreign, newer than this program, or of another network."""


class FrameworkError(MnistError):
    """A framework is not installed, cannot use the asked device, or failed in its process."""


def not_installed(name: str, extra: str) -> FrameworkError:
    """Return the error for a package, by the name that a user knows, which ``extra`` brings."""
    return FrameworkError(
        f"{name} is not installed. Install it into this environment: "
        f"pip install 'mnist-cli[{extra}]'"
    )


class LostRankError(FrameworkError):
    """Another process of a training that torchrun started is gone."""


class DivergedError(MnistError):
    """The training loss stopped being a number."""


class RecordError(MnistError):
    """The records of an experiment are missing, damaged, or of another experiment."""


class PictureError(MnistError):
    """A picture cannot be read, is too large, or shows no digit."""


class OutputError(MnistError):
    """A result could not be written."""
