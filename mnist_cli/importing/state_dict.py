"""Weights by name without a graph: the line is given, or inferred from their shapes.

What shapes leave open (pools, padding, strides, activations) is chosen by accuracy on training
digits, and said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.errors import CheckpointError
from mnist_cli.importing.flow import ACTIVATIONS, Network, cannot, named
from mnist_cli.networks.language import parse, write
from mnist_cli.networks.spec import EPSILON, BatchNorm, Conv, Dense, leaves

MOST_TRIED = 12  # geometries that fit the shapes, the likeliest first
_MANY = 4  # convolutions from which on all are taken to be alike
Score = Callable[[Network], float]


@dataclass(frozen=True)
class _Modules:
    """The weights by kind, each kind in the order of the file."""

    convs: list[dict[str, Array]]
    denses: list[dict[str, Array]]
    norms: list[dict[str, Array]]


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors of a file and its metadata. Raises `CheckpointError`."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except Exception as error:  # dtypes that NumPy lacks raise various errors
        raise CheckpointError(
            f"{path} is not a whole safetensors file of floats ({error}). Copy it again."
        ) from error
    # The file has them by name or size, not by layer: 2 before 10, convolutions first.
    return dict(sorted(tensors.items(), key=lambda item: _natural(item[0]))), metadata


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split("([0-9]+)", name.rpartition(".")[0])
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def with_line(tensors: Mapping[str, Array], line: str, classes: int = CLASSES) -> Network:
    """Return the network of a line with these weights, those of each kind in their order.

    Raises `UsageError` for a line that is none, `CheckpointError` if the weights are not its.
    """
    layers = parse(line, classes)
    modules = _modules(tensors)
    kinds = {Conv: iter(modules.convs), Dense: iter(modules.denses), BatchNorm: iter(modules.norms)}
    arrays = []
    for layer, _ in leaves(layers):
        if isinstance(layer, (Conv, Dense, BatchNorm)):
            found = next(kinds[type(layer)], None)
            if found is None:
                raise CheckpointError(
                    f"The file has too few weights for '{line}': none are left for {layer.name}."
                )
            arrays.append(found)
    if any(next(rest, None) is not None for rest in kinds.values()):
        raise CheckpointError(f"The file has weights of more layers than '{line}'.")
    try:
        return Network(write(layers, classes), named(layers, arrays), classes=classes)
    except CheckpointError as error:
        raise CheckpointError(f"The weights are not those of '{line}': {error}") from error


def infer(
    tensors: Mapping[str, Array], score: Score, classes: int = CLASSES
) -> tuple[Network, int]:
    """Return the network that fits the shapes and scores best, and how many were tried."""
    modules = _modules(tensors)
    geometries = list(itertools.islice(_geometries(modules, classes), MOST_TRIED))
    if not geometries:
        cannot("no padding, stride and pools of 2 fit its shapes; say its line with --arch")
    tried: dict[str, tuple[float, Network]] = {}

    def attempt(geometry: Sequence[str], activation: str, pool: str) -> None:
        words = {"ACTIVATION": activation, "POOL": pool}
        line = ", ".join(re.sub("ACTIVATION|POOL", lambda m: words[m[0]], w) for w in geometry)
        if line not in tried:
            network = with_line(tensors, line, classes)
            tried[line] = score(network), network

    for geometry in geometries:
        attempt(geometry, "relu", "pool")
    best = max(range(len(geometries)), key=lambda index: list(tried.values())[index][0])
    for activation, pool in itertools.product(ACTIVATIONS, ("pool", "pool avg")):
        attempt(geometries[best], activation, pool)
    return max(tried.values(), key=lambda pair: pair[0])[1], len(tried)


def _modules(tensors: Mapping[str, Array]) -> _Modules:
    """Return the tensors by layer. Raises `CheckpointError` for what no layer of a line has."""
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            grouped.setdefault(prefix, {})[kind] = np.asarray(array, np.float32)
    modules = _Modules([], [], [])
    for prefix, arrays in grouped.items():
        weight = arrays.get("weight")
        known = {"weight", "bias"}
        if "running_mean" in arrays and "running_var" in arrays:
            channels = len(arrays["running_mean"])
            arrays.setdefault("weight", np.ones(channels, np.float32))
            known |= {"running_mean", "running_var"}
            modules.norms.append(arrays)
        elif weight is not None and weight.ndim in (2, 4):
            (modules.convs if weight.ndim == 4 else modules.denses).append(arrays)
        else:
            shapes = {kind: array.shape for kind, array in arrays.items()}
            cannot(f"{prefix or 'the file'} has {shapes}, no layer's weights")
        if set(arrays) - known:
            cannot(f"{prefix} has {min(set(arrays) - known)}, which no layer has")
        arrays.setdefault("bias", np.zeros(len(arrays["weight"]), np.float32))
    return modules


def _geometries(modules: _Modules, classes: int) -> Iterator[list[str]]:
    """Yield lists of words, likelier ones first, whose shapes fit, with ACTIVATION and POOL."""
    if not modules.denses or len(modules.denses[-1]["weight"]) != classes:
        cannot(f"its last weights are not those of a dense layer of {classes}")
    ways = list(itertools.product(("same", "valid"), ((1, True), (1, False), (2, False))))
    if len(modules.convs) > _MANY:
        choices: Iterator[tuple[tuple[str, tuple[int, bool]], ...]] = (
            (way,) * len(modules.convs) for way in ways
        )
    else:
        choices = itertools.product(ways, repeat=len(modules.convs))
    # Likelier: the same padding and the same reduction everywhere, no strides.
    ordered = sorted(
        choices,
        key=lambda chosen: (
            len({padding for padding, _ in chosen}),
            sum(stride > 1 for _, (stride, _) in chosen),
            len({way for _, way in chosen}),
        ),
    )
    for chosen in ordered:
        words = _words(modules, chosen)
        if words is not None:
            yield words


def _words(modules: _Modules, chosen: Sequence[tuple[str, tuple[int, bool]]]) -> list[str] | None:
    """Return the words of a network, or None if the shapes do not fit."""
    norms = list(modules.norms)

    def norm_of(units: int) -> list[str]:
        """Return the batch norm that fits after a layer, each once: before its activation."""
        if norms and len(norms[0]["running_mean"]) == units:
            norms.pop(0)
            return ["batchnorm"]
        return []

    words: list[str] = []
    channels, side = 1, IMAGE_SIZE
    for arrays, (padding, (stride, pools)) in zip(modules.convs, chosen, strict=True):
        out, into, kernel, width = arrays["weight"].shape
        if into != channels or kernel != width or (padding == "same" and kernel % 2 == 0):
            return None
        side = (side + (kernel // 2 * 2 if padding == "same" else 0) - kernel) // stride + 1
        channels = out
        words += [f"conv {out} {kernel}x{kernel} stride {stride} {padding}", *norm_of(out)]
        words += ["ACTIVATION", *["POOL"] * pools]
        side = side // 2 if pools else side
        if side < 1:
            return None
    features = channels * side * side
    for index, arrays in enumerate(modules.denses):
        units, into = arrays["weight"].shape
        if index == 0 and into == channels != features:
            words.append(f"pool avg {side}")
        elif into != features:
            return None
        features = units
        words.append(f"dense {units}")
        if index < len(modules.denses) - 1:
            words += [*norm_of(units), "ACTIVATION"]
    return None if norms else words


def described(network: Network, count: int) -> str:
    """Return what was assumed of a network without a graph."""
    return (
        f"The file has weights and no graph. Assumed from their shapes, and from the accuracy of "
        f"{count} networks that fit them: {network.line}; batch norm with epsilon {EPSILON:g}. "
        "If that is wrong, say the line with --arch."
    )
