"""Members of a crew, who work side by side: processes where the system forks, threads elsewhere.

A forked process reads the caller's arrays without a copy and has an interpreter of its own, with a
lock of its own: a step of small matrices is many short calls, and threads would wait for that
lock in each. What a member changes is its own, save for arrays from `shared_array`.
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
from mnist_cli.errors import FrameworkError

# How often to look before sleeping: about half a millisecond, several times what members that have
# a core each wait for one another. Who sleeps is woken 50 microseconds late, a quarter of a step.
SPINS = 4_000
_SECONDS_BETWEEN_CHECKS = 0.2  # that the other members are still there
_CAUSE_BYTES = 300  # of what a failed helper can tell


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return zeros that the members of a crew started later see one another change."""
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def can_fork() -> bool:
    """Return whether crews are processes.

    Only on Linux: on macOS neither NumPy's Accelerate nor the system's own libraries bear it. Nor
    where there are no shared semaphores, or in the process of a pool, which may have no children.
    """
    if sys.platform != "linux":
        return False
    with suppress(ImportError, OSError):
        from multiprocessing import current_process, get_context

        get_context("fork").Semaphore(0)
        return not current_process().daemon
    return False


class Crew:
    """``members`` who do one piece of work together: member 0 is the caller, the rest its helpers.

    ``capacity`` is how many numbers of ``dtype`` they can `all_reduce`.
    """

    def __init__(self, members: int, *, capacity: int = 0, dtype: DTypeLike = np.float32) -> None:
        self.members = members
        self._caller = os.getpid()
        self._helpers: list[Any] = []
        self._arrivals: list[Any] = []
        self._is_forked = False
        if members > 1:
            # Not at the top: a member alone, as in `mnist predict`, has no use for it.
            from multiprocessing import dummy, get_context

            self._is_forked = can_fork()
            self._context: Any = get_context("fork") if self._is_forked else dummy
            self._arrivals = [self._context.Semaphore(0) for _ in range(members)]
            self._is_broken = shared_array((1,), bool)
            self._cause = shared_array((_CAUSE_BYTES,), np.uint8)
            # Twice: a fast member may be at the next sum while a slow one still reads this one.
            self._terms = shared_array((2, members, capacity), dtype)
            self._slots: dict[tuple[int, ...], list[list[Array]]] = {}  # of them, by shape
            self._sums = [0] * members  # that each member has been at

    @contextmanager
    def working(self, work: Callable[[int], object]) -> Iterator[None]:
        """Let the helpers do ``work(1)``, ``work(2)``, ... while the body does member 0's part.

        At the end they are waited for. When one fails all are stopped, and `FrameworkError` tells;
        so it does when one cannot be started.
        """
        if self.members == 1:
            yield
            return
        try:
            self._start(work)
            yield
        except BaseException:
            if os.getpid() == self._caller:  # and no process that the caller was copied to
                self._break_up()
            raise
        finally:
            if os.getpid() == self._caller:
                for helper in self._helpers:
                    helper.join()
        self._require_whole(0)

    def meet(self, member: int) -> None:
        """Wait until every member has come here; then go on."""
        if self.members == 1:
            return
        for other, arrivals in enumerate(self._arrivals):
            if other != member:
                arrivals.release()
        come = self._arrivals[member].acquire
        for _ in range(self.members - 1):
            if not (self._is_forked and any(come(False) for _ in range(SPINS))):
                while not come(True, _SECONDS_BETWEEN_CHECKS):
                    self._require_whole(member)
        if self._is_broken[0]:
            self._require_whole(member)

    @contextmanager
    def own_core(self, member: int) -> Iterator[None]:
        """Keep this member on one core meanwhile, where the crew takes all cores there are.

        Else the system may leave two of them on one core for some milliseconds, looking for one
        another in turn. In a smaller crew the same cores would be every program's choice.
        """
        is_bound = False
        with suppress(OSError):  # a sandbox that forbids it
            cores = sorted(os.sched_getaffinity(0)) if self._is_forked else []
            if len(cores) == self.members:
                os.sched_setaffinity(0, {cores[member]})
                is_bound = True
        try:
            yield
        finally:
            if is_bound:
                with suppress(OSError):  # they may have been taken away meanwhile
                    os.sched_setaffinity(0, cores)

    def all_reduce(self, member: int, term: Array) -> Array:
        """Return the sum of all members' terms, arrays of one shape, in a fixed order.

        It is a meeting too.
        """
        if self.members == 1:
            return term
        if term.shape not in self._slots:
            self._slots[term.shape] = [
                [slot[: term.size].reshape(term.shape) for slot in slots] for slots in self._terms
            ]
        terms = self._slots[term.shape][self._sums[member] % 2]
        self._sums[member] += 1
        np.copyto(terms[member], term)
        self.meet(member)
        total: Array = terms[0] + terms[1]
        for other in terms[2:]:
            total += other
        return total

    def _start(self, work: Callable[[int], object]) -> None:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside other threads. Theirs are not needed in a helper.
            warnings.simplefilter("ignore", DeprecationWarning)
            for member in range(1, self.members):
                helper = self._context.Process(target=self._help, args=(work, member))
                helper.daemon = True
                try:
                    helper.start()
                except (OSError, RuntimeError) as error:  # of processes, of threads
                    raise FrameworkError(
                        f"A helper of the NumPy network could not be started: {error}. "
                        "Use --threads 1, which has none."
                    ) from error
                self._helpers.append(helper)

    def _help(self, work: Callable[[int], object], member: int) -> None:
        if self._is_forked:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what Ctrl-C means
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.freeze()  # the caller's garbage is the caller's to collect: it may be another crew
        try:
            with self.own_core(member):
                work(member)
        except BrokenBarrierError:  # the caller has stopped, or is gone
            pass
        except Exception as error:
            try:
                cause = f"{type(error).__name__}: {error}".encode(errors="replace")[:_CAUSE_BYTES]
                self._cause[: len(cause)] = list(cause)
            finally:  # whatever the error's text does, nobody may wait for this member
                self._break_up()

    def _break_up(self) -> None:
        """Let nobody wait any longer."""
        self._is_broken[0] = True
        for arrivals in self._arrivals:
            for _ in range(self.members):
                arrivals.release()

    def _require_whole(self, member: int) -> None:
        """Raise unless all others are still at work, or have done it."""
        if member == 0:
            codes = [helper.exitcode for helper in self._helpers if helper.exitcode]
            if codes or self._is_broken[0]:
                end = f"ended with exit code {codes[0]}" if codes else "failed"
                cause = self._cause.tobytes().rstrip(b"\0").decode(errors="ignore")
                if -9 in codes:  # SIGKILL, a name that Windows lacks
                    cause = "killed, perhaps for want of memory"
                raise FrameworkError(
                    f"A helper of the NumPy network {end} ({cause or 'it said nothing'}). "
                    "Try --threads 1, which has none."
                )
        elif self._is_broken[0] or (self._is_forked and os.getppid() != self._caller):
            raise BrokenBarrierError
