"""Threads that wait for work, and matrix products shared out to them.

NumPy lets go of Python's lock while it computes, so threads do run side by side, provided that BLAS
itself takes one thread for each. BLAS's own threads could share the products, but they wait for
one another without ever sleeping: beside any other busy program they were up to a hundred times
slower than one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from weakref import finalize

import numpy as np

from mnist_cli.architectures import Array

# Multiplications in a product that is worth sharing: about 40 microseconds of one thread.
MIN_PRODUCT = 2_000_000
# What a helper takes of an equal share: it starts some 30 microseconds after it is called, and
# whoever waits for it loses as much again.
HELPER_SHARE = 0.8

T = TypeVar("T")


class Crew:
    """The caller's own thread and ``threads - 1`` helpers.

    Only the thread that made it may call it, and not from within work.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._queues: list[tuple[SimpleQueue[Any], SimpleQueue[Any]]] = []
        for _ in range(threads - 1):
            calls: SimpleQueue[Any] = SimpleQueue()
            results: SimpleQueue[Any] = SimpleQueue()
            Thread(target=_serve, args=(calls, results), daemon=True).start()
            finalize(self, calls.put, None)
            self._queues.append((calls, results))

    def run(self, work: Callable[[int], T], threads: int) -> list[T]:
        """Return ``[work(0), ..., work(threads - 1)]``: the first done here, others by helpers."""
        queues = self._queues[: max(0, threads - 1)]
        for thread, (calls, _) in enumerate(queues, start=1):
            calls.put((work, thread))
        try:
            own = [work(0)] if threads else []
        finally:  # whatever happens here, no helper's result is left for the next call
            others = [results.get() for _, results in queues]
        for _, error in others:
            if error is not None:
                raise error
        return [*own, *(result for result, _ in others)]

    def spans(self, count: int) -> list[slice]:
        """Return a slice of ``range(count)`` for each thread; the caller's is the longest."""
        # Of whole eights: the rows that BLAS works on at a time.
        part = int(count * HELPER_SHARE / self.threads) // 8 * 8
        own = count - part * (self.threads - 1)
        starts = [own + part * helper for helper in range(self.threads - 1)]
        return [slice(0, own), *(slice(start, start + part) for start in starts)]

    def matmul(self, left: Array, right: Array, out: Array) -> None:
        """Put ``left @ right``, (m, k) times (k, n), in ``out``, each thread some of its rows."""
        if self.threads < 2 or left.size * right.shape[1] < MIN_PRODUCT:
            np.matmul(left, right, out=out)
            return
        spans = self.spans(len(left))

        def product(thread: int) -> None:
            np.matmul(left[spans[thread]], right, out=out[spans[thread]])

        self.run(product, self.threads)


def _serve(calls: SimpleQueue[Any], results: SimpleQueue[Any]) -> None:
    """Answer each call with its result and None, or None and its error, until None is called."""
    # Whoever asked for the loss sees that it is no number; warnings would say it again.
    with np.errstate(over="ignore", invalid="ignore"):
        while (call := calls.get()) is not None:
            work, thread = call
            try:
                results.put((work(thread), None))
            except Exception as error:
                results.put((None, error))
            del work, call  # what they hold may be waiting to be freed
