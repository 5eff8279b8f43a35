"""Slices that cover a range: chunks of one size, or a number of parts of equal size."""

from __future__ import annotations

from itertools import pairwise


def chunk_slices(count: int, size: int) -> list[slice]:
    """Return slices of ``size`` that cover ``range(count)``; the last may be shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def even_slices(count: int, parts: int) -> list[slice]:
    """Return ``parts`` slices that cover ``range(count)``, whose lengths differ by at most 1."""
    bounds = [count * part // parts for part in range(parts + 1)] if parts else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]
