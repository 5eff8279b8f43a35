"""Where runs are executed: on this machine, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mnist_cli.api.arguments import checked_threads
from mnist_cli.config import RUNNERS, require_choice, require_range
from mnist_cli.errors import UsageError
from mnist_cli.runners.base import Runner

_MAX_THREADS = 1024  # of a run on a node, whose cores are not known here
_MAX_GPUS = 64


@dataclass(frozen=True)
class Place:
    """The arguments that say where runs are executed; each is documented in `comparing.compare`.

    Raises `UsageError` for one out of range, or that needs another runner.
    """

    runner: str
    address: str | None
    share_nodes: bool
    gpus_per_run: int | None
    threads: int | None
    device: str
    quiet_machine: bool = False

    def __post_init__(self) -> None:
        require_choice("runner", self.runner, RUNNERS)
        if not self.is_cluster:
            if self.address is not None or self.share_nodes or self.gpus_per_run is not None:
                raise UsageError(
                    "address, share_nodes and gpus_per_run are of a cluster: "
                    "give --runner ray too, or leave them out."
                )
            return
        if self.quiet_machine:
            raise UsageError(
                "quiet_machine waits for this machine, but the runs are on others: "
                "leave --quiet-machine out, or --runner ray."
            )
        if self.threads is not None:
            require_range("threads", self.threads, 1, _MAX_THREADS)
        if self.gpus_per_run is not None:
            require_range("GPUs per run", self.gpus_per_run, 1, _MAX_GPUS)
            if self.device == "cpu":
                raise UsageError(
                    "gpus_per_run needs runs on GPUs, but their device is the cpu: "
                    "give --device cuda, or leave --gpus-per-run out."
                )

    @property
    def is_cluster(self) -> bool:
        """Whether the runs are on other machines, or several at a time."""
        return self.runner == "ray"

    def settings(self) -> dict[str, str]:
        """Return what must be equal for an experiment to be resumed."""
        return {"runner": self.runner, "timing": "shared" if self.share_nodes else "exclusive"}

    @contextmanager
    def opened(
        self, frameworks: Sequence[str], *, timeout: float | None, note: Callable[[str], None]
    ) -> Iterator[tuple[Runner | None, int]]:
        """Yield the runner, None for this machine's, and the threads of each run.

        ``note`` gets messages for the user. Raises `FrameworkError` for a cluster on which the runs
        would fail.
        """
        if not self.is_cluster:
            yield None, checked_threads(self.threads)
            return
        from mnist_cli.runners.ray_runner import ray_runner

        with ray_runner(
            self.address or "auto",
            frameworks=frameworks,
            threads=self.threads,
            device=self.device,
            share_nodes=self.share_nodes,
            gpus_per_run=self.gpus_per_run,
            timeout_seconds=timeout,
            note=note,
        ) as runner:
            yield runner, runner.threads
