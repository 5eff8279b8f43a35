"""Connections that send too slowly are closed, so that a thousand of them take nothing down.

Uvicorn limits how long a connection may be idle after a request, but not how long a request may
take to arrive, and answers 503 to all where there are too many.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# A request must have arrived within this time: 10 MB over a slow wireless network.
REQUEST_SECONDS = 30.0
# Connections at a time; for one more, the one that has been sending longest is closed. Far below
# 1,024, the usual limit of a process's files.
MAX_CONNECTIONS = 256


class Connection(H11Protocol):
    """A connection that is closed if a request takes too long to arrive."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, and make room if there are too many connections."""
        super().connection_made(transport)
        self._set_clock()
        if len(self.connections) > MAX_CONNECTIONS:
            receiving = [
                each for each in self.connections if isinstance(each, Connection) and each._deadline
            ]
            min(receiving, key=_deadline_of).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the clock if the request is now complete."""
        super().data_received(data)
        self._set_clock()

    def on_response_complete(self) -> None:
        """Start the clock for the next request."""
        super().on_response_complete()
        self._set_clock()

    def _set_clock(self) -> None:
        """Let the clock run while a request is awaited or is arriving, and only then."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._stop_clock()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _deadline_of(connection: Connection) -> float:
    return connection._deadline.when() if connection._deadline else 0.0
