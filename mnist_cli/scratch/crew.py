"""Threads that wait for work.

NumPy lets go of Python's lock while it computes, so threads do run side by side, provided that BLAS
itself takes one thread for each.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from weakref import finalize

import numpy as np

T = TypeVar("T")


class Crew:
    """The caller's own thread and ``threads - 1`` helpers.

    One call at a time, and none from within work.
    """

    def __init__(self, threads: int) -> None:
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
