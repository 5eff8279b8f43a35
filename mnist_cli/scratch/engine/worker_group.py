"""Workers that compute in parallel: processes where the system can fork, else threads.

A forked process reads the caller's arrays without copying them and has an interpreter with a lock
of its own. A step of small matrices consists of many short calls, and threads would wait for the
interpreter's lock in each of them. Workers see one another's changes only in arrays from
`shared_array`.
"""

from __future__ import annotations

import gc
import math
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import BrokenBarrierError
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import Array

# Polls of a semaphore before a worker sleeps: about half a millisecond, several times what workers
# with a core each wait for one another. A sleeping worker wakes up 50 microseconds late, a quarter
# of a step.
SPINS = 4_000
_SECONDS_BETWEEN_CHECKS = 0.2  # that the other workers are still alive
_CAUSE_BYTES = 300  # of a failed worker's error message


class WorkerError(RuntimeError):
    """A worker could not be started, failed or was killed."""


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return zeros in memory that is shared with all workers started later."""
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def can_fork() -> bool:
    """Return whether workers are processes.

    Only on Linux: on macOS neither NumPy's Accelerate nor the system libraries support forking. Not
    without shared semaphores, nor in a process of a pool, which must not have children.
    """
    if sys.platform != "linux":
        return False
    with suppress(ImportError, OSError):
        from multiprocessing import current_process, get_context

        get_context("fork").Semaphore(0)
        return not current_process().daemon
    return False


class WorkerGroup:
    """``size`` workers that compute together; the caller is the one of rank 0.

    ``capacity`` is how many values of ``dtype`` they can `all_reduce`.
    """

    def __init__(self, size: int, *, capacity: int = 0, dtype: DTypeLike = np.float32) -> None:
        self.size = size
        self._caller = os.getpid()
        self._workers: list[Any] = []
        self._semaphores: list[Any] = []
        self._is_forked = False
        if size > 1:
            # Imported late: a single worker, as in `mnist predict`, does not need it.
            from multiprocessing import dummy, get_context

            self._is_forked = can_fork()
            self._context: Any = get_context("fork") if self._is_forked else dummy
            self._semaphores = [self._context.Semaphore(0) for _ in range(size)]
            self._is_broken = shared_array((1,), bool)
            self._cause = shared_array((_CAUSE_BYTES,), np.uint8)
            # Two buffers: a fast worker may write its next term while a slow one reads this sum.
            self._terms = shared_array((2, size, capacity), dtype)
            self._slots: dict[tuple[int, ...], list[list[Array]]] = {}  # views of them, by shape
            self._reductions = [0] * size  # completed by each worker

    @contextmanager
    def running(self, work: Callable[[int], object]) -> Iterator[None]:
        """Run ``work(rank)`` on every other worker while the body does the part of rank 0.

        All workers are joined at the end. If one fails, all are stopped. Raises `WorkerError` if a
        worker cannot start, fails or dies.
        """
        if self.size == 1:
            yield
            return
        try:
            self._start(work)
            yield
        except BaseException:
            if os.getpid() == self._caller:  # not in a process forked from the caller
                self._break()
            raise
        finally:
            if os.getpid() == self._caller:
                for worker in self._workers:
                    worker.join()
        self._require_alive(0)

    def barrier(self, rank: int) -> None:
        """Wait until every worker has called this."""
        if self.size == 1:
            return
        for other, semaphore in enumerate(self._semaphores):
            if other != rank:
                semaphore.release()
        acquire = self._semaphores[rank].acquire
        for _ in range(self.size - 1):
            if not (self._is_forked and any(acquire(False) for _ in range(SPINS))):
                while not acquire(True, _SECONDS_BETWEEN_CHECKS):
                    self._require_alive(rank)
        if self._is_broken[0]:
            self._require_alive(rank)

    @contextmanager
    def pinned_to_core(self, rank: int) -> Iterator[None]:
        """Pin this worker to one core within the block, if the group has a worker per core.

        Otherwise the system may leave two workers on one core for some milliseconds, polling for
        one another in turn. Smaller groups are not pinned: every program would choose the same
        cores.
        """
        is_pinned = False
        with suppress(OSError):  # a sandbox that forbids it
            cores = sorted(os.sched_getaffinity(0)) if self._is_forked else []
            if len(cores) == self.size:
                os.sched_setaffinity(0, {cores[rank]})
                is_pinned = True
        try:
            yield
        finally:
            if is_pinned:
                with suppress(OSError):  # cores may have been taken away meanwhile
                    os.sched_setaffinity(0, cores)

    def all_reduce(self, rank: int, term: Array) -> Array:
        """Return the sum of all workers' terms, arrays of one shape, added in order of rank.

        It is a barrier, too.
        """
        if self.size == 1:
            return term
        if term.shape not in self._slots:
            self._slots[term.shape] = [
                [slot[: term.size].reshape(term.shape) for slot in slots] for slots in self._terms
            ]
        terms = self._slots[term.shape][self._reductions[rank] % 2]
        self._reductions[rank] += 1
        np.copyto(terms[rank], term)
        self.barrier(rank)
        total: Array = terms[0] + terms[1]
        for other in terms[2:]:
            total += other
        return total

    def _start(self, work: Callable[[int], object]) -> None:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking a process with threads. Workers do not need the others.
            warnings.simplefilter("ignore", DeprecationWarning)
            for rank in range(1, self.size):
                worker = self._context.Process(target=self._run, args=(work, rank))
                worker.daemon = True
                try:
                    worker.start()
                except (OSError, RuntimeError) as error:  # from processes, from threads
                    raise WorkerError(
                        f"A worker of the NumPy network could not be started: {error}. "
                        "Use --threads 1, which starts none."
                    ) from error
                self._workers.append(worker)

    def _run(self, work: Callable[[int], object], rank: int) -> None:
        if self._is_forked:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles Ctrl-C
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.freeze()  # never collect the caller's garbage here: it may hold another group
        try:
            with self.pinned_to_core(rank):
                work(rank)
        except BrokenBarrierError:  # the caller has stopped, or is gone
            pass
        except Exception as error:
            try:
                cause = f"{type(error).__name__}: {error}".encode(errors="replace")[:_CAUSE_BYTES]
                self._cause[: len(cause)] = list(cause)
            finally:  # also if formatting the error fails, nobody may wait for this worker
                self._break()

    def _break(self) -> None:
        """Release all workers from their barriers, which then raise."""
        self._is_broken[0] = True
        for semaphore in self._semaphores:
            for _ in range(self.size):
                semaphore.release()

    def _require_alive(self, rank: int) -> None:
        """Raise unless all other workers are running or have finished.

        `WorkerError` with the cause in the caller, `BrokenBarrierError` in the others.
        """
        if rank == 0:
            codes = [worker.exitcode for worker in self._workers if worker.exitcode]
            if codes or self._is_broken[0]:
                end = f"ended with exit code {codes[0]}" if codes else "failed"
                cause = self._cause.tobytes().rstrip(b"\0").decode(errors="ignore")
                if -9 in codes:  # SIGKILL, a name that Windows lacks
                    cause = "killed, perhaps for want of memory"
                raise WorkerError(
                    f"A worker of the NumPy network {end} ({cause or 'no message'}). "
                    "Try --threads 1, which starts none."
                )
        elif self._is_broken[0] or (self._is_forked and os.getppid() != self._caller):
            raise BrokenBarrierError
