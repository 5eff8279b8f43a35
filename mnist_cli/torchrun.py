"""Which of the processes of one training this is, by the variables that torchrun sets.

Every process runs the same command; rank 0 alone writes files and prints. The training itself is in
`adapters.torch_distributed`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from mnist_cli.errors import LostRankError, UsageError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_REPORT_SECONDS = 3.0  # torchrun ends the other processes within one of the first failure


@dataclass(frozen=True)
class Rank:
    """One of ``world_size`` processes, and of the ``local_world_size`` on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    def rows(self, batch_size: int) -> range:
        """Return this process's part of the rows of a batch; the first have one more if need be."""
        size, left = divmod(batch_size, self.world_size)
        start = self.rank * size + min(self.rank, left)
        return range(start, start + size + (self.rank < left))

    def require(self, framework: str, *, runner: str, batch_size: int) -> None:
        """Raise `UsageError` for a training that cannot be shared by several processes."""
        if framework != "torch":
            raise UsageError(
                f"Under torchrun PyTorch trains, not {framework}: give --framework torch, or start "
                "mnist without torchrun."
            )
        if runner != "process":
            raise UsageError(
                f"torchrun and --runner {runner} both distribute the training: leave one out."
            )
        if batch_size < self.world_size:
            raise UsageError(
                f"batch size must be at least {self.world_size}, an image for each process of "
                f"torchrun, not {batch_size}."
            )


def current_rank() -> Rank | None:
    """Return which process this is, or None if it is the only one.

    Raises `UsageError` for variables that are no such numbers.
    """
    if not all(map(os.environ.get, _NEEDED)):
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name) or os.environ[name.removeprefix("LOCAL_")] for name in names]
    try:
        rank, size, local_rank, local_size = map(int, values)
    except ValueError:
        rank, size, local_rank, local_size = -1, 0, 0, 0
    if not (0 <= rank < size and 0 <= local_rank < local_size):
        found = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UsageError(f"The variables of torchrun contradict one another: {found}. Unset them.")
    return Rank(rank, size, local_rank, local_size) if size > 1 else None


def require_alone(command: str) -> None:
    """Raise `UsageError` if several processes run a command that does not share its work."""
    if (here := current_rank()) is not None:
        raise UsageError(
            f"torchrun started {here.world_size} processes, but 'mnist {command}' is not shared by "
            "several. Start it without torchrun; 'mnist train --framework torch' is."
        )


def is_main() -> bool:
    """Return whether this process is the only one or rank 0: the one that writes and prints."""
    return not all(map(os.environ.get, _NEEDED)) or os.environ["RANK"] == "0"


def wait_to_report(error: BaseException) -> None:
    """Let the process that knows most report an error that all have: torchrun then ends this one.

    Rank 0 reports at once, others later; last of all one that merely lost another.
    """
    turns = (not is_main()) + 2 * isinstance(error, LostRankError)
    time.sleep(_REPORT_SECONDS * turns)
