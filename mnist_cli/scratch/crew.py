"""Members of a crew, who work side by side: processes where the system forks, threads elsewhere.

A forked process reads the caller's arrays without a copy and has an interpreter of its own, with a
lock of its own: a step of small matrices is many short calls, and threads would wait for that
lock in each. What a member changes is its own, save for arrays from `shared_array`.
"""

from __future__ import annotations

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

from mnist_cli.architectures import Array
from mnist_cli.errors import FrameworkError

# How often to look before sleeping: about half a millisecond, several times what members that have
# a core each wait for one another. Who sleeps is woken 50 microseconds late, a quarter of a step.
SPINS = 4_000
_SECONDS_BETWEEN_CHECKS = 0.2  # that the other members are still there


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return zeros that the members of a crew started later see one another change."""
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def can_fork() -> bool:
    """Return whether crews are processes.

    Only Linux: on macOS neither NumPy's Accelerate nor the system's own libraries bear it.
    """
    if sys.platform != "linux":
        return False
    with suppress(ImportError, OSError):  # a sandbox without shared semaphores
        from multiprocessing import get_context

        get_context("fork").Semaphore(0)
        return True
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
            from multiprocessing import (
                dummy,
                get_context,
            )  # not for `mnist predict`: a member alone

            self._is_forked = can_fork()
            self._context: Any = get_context("fork") if self._is_forked else dummy
            self._arrivals = [self._context.Semaphore(0) for _ in range(members)]
            self._is_broken = shared_array((1,), bool)
            # Twice: a fast member may be at the next sum while a slow one still reads this one.
            self._terms = shared_array((2, members, capacity), dtype)
            self._sums = [0] * members  # that each member has been at

    @contextmanager
    def working(self, work: Callable[[int], object]) -> Iterator[None]:
        """Let the helpers do ``work(1)``, ``work(2)``, ... while the body does member 0's part.

        At the end they are waited for. When one fails all are stopped, and `FrameworkError` tells.
        """
        if self.members == 1:
            yield
            return
        try:
            self._start(work)
            yield
        except BaseException:
            self._break_up()
            raise
        finally:
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

    def all_reduce(self, member: int, term: Any) -> Any:
        """Return the sum of all members' terms, numbers or arrays of one shape, in a fixed order.

        It is a meeting too.
        """
        if self.members == 1:
            return term
        shape = np.shape(term)
        terms = self._terms[self._sums[member] % 2, :, : math.prod(shape)]
        self._sums[member] += 1
        terms[member] = np.reshape(term, -1)
        self.meet(member)
        total = terms[0] + terms[1]
        for other in terms[2:]:
            total += other
        return total.reshape(shape)

    def _start(self, work: Callable[[int], object]) -> None:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside other threads. Theirs are not needed in a helper.
            warnings.simplefilter("ignore", DeprecationWarning)
            for member in range(1, self.members):
                helper = self._context.Process(target=self._help, args=(work, member))
                helper.daemon = True
                helper.start()
                self._helpers.append(helper)

    def _help(self, work: Callable[[int], object], member: int) -> None:
        if self._is_forked:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what Ctrl-C means
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            # Whoever asked for the loss sees that it is no number; warnings would say it again.
            with np.errstate(over="ignore", invalid="ignore"):
                work(member)
        except BrokenBarrierError:  # the caller has stopped, or is gone
            pass
        except BaseException:
            self._break_up()
            raise

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
                end = f" with {codes[0]}" if codes else ""
                raise FrameworkError(
                    f"A helper process of the NumPy network ended early{end} (-9: killed, "
                    "perhaps for want of memory). Try --threads 1, which has none."
                )
        elif self._is_broken[0] or (self._is_forked and os.getppid() != self._caller):
            raise BrokenBarrierError
