"""Seeded random numbers: each purpose draws from a stream of its own.

So one purpose can draw more or fewer numbers without changing what the others get.
"""

from __future__ import annotations

import numpy as np

_STREAMS = {
    "weights": 0,
    "split": 1,
    "order": 2,
    "warmup": 3,
    "augment": 4,
    "calibration": 5,
    "non-digits": 6,
    "dropout": 7,
    "disturbances": 8,
    "search": 9,
}


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return the generator for one ``purpose`` of a run: a key of `_STREAMS`."""
    return np.random.default_rng((seed, _STREAMS[purpose], index))
