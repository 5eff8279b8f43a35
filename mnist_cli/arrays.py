"""The array types that all parts share, and the sizes of an image and an answer."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

CLASSES = 10  # of digits; a data set may have others: see `config.ModelSpec`
NO_DIGIT = CLASSES  # the label of an image that shows no digit
IMAGE_SIZE = 28

Array: TypeAlias = npt.NDArray[Any]
# Canonical names to float32 arrays; see `networks.spec`.
Weights: TypeAlias = dict[str, Array]
