"""One line to a network: ``conv 16, relu, pool, conv 32 5x5, relu, pool, dense 64, relu``.

`docs/networks.md` has the grammar. A name stands for its line: a known network's, or that of a TOML
file. Every error points with ``^`` at its place in the line.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from mnist_cli.arrays import CLASSES
from mnist_cli.config import NETWORKS, ModelSpec, is_file_name, takes_activation
from mnist_cli.errors import UsageError
from mnist_cli.networks.spec import (
    INPUT,
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Residual,
    Shape,
)

MAX_PARAMETERS = 100_000_000  # 400 MB; training takes several times that
MAX_VALUES = 4_000_000  # of one image between two layers: 1 GB for a batch of 64
MAX_LAYERS = 200
MAX_NESTING = 8
_CONTEXT = 40  # characters of a line that an error shows on either side of its place
_NAME_CHARACTERS = 24
_TOKEN = re.compile(r"[^\s,()]+|[,()]")


@dataclass
class _Reader:
    """The tokens of a line, of which the next is ``tokens[place]``, and what was counted so far."""

    text: str
    tokens: list[tuple[str, int]]  # with their positions; the last, at the end, is empty
    place: int = 0
    names: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    layers: int = 0
    nesting: int = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place][0]

    def take(self, pattern: str) -> str | None:
        """Return the next token and go on, if all of it matches ``pattern``."""
        if re.fullmatch(pattern, self.next) is None:
            return None
        self.place += 1
        return self.tokens[self.place - 1][0]

    def number(self, what: str, *, least: int = 1) -> int:
        """Return the whole number that must come next."""
        word = self.take("[0-9]{1,15}")
        if word is None or int(word) < least:
            found = word or self.next
            written = "nothing" if found in ("", ",", ")") else f"'{found[:20]}'"
            self.fail(
                f"expected {what}, a whole number from {least} on, not {written}",
                back=word is not None,
            )
        return int(word)

    def name(self, kind: str) -> str:
        """Return the next canonical name of a kind of layer: conv1, conv2, ..."""
        self.names[kind] += 1
        return f"{kind}{self.names[kind]}"

    def fail(self, why: str, *, back: int = 0, at: int | None = None) -> NoReturn:
        """Raise `UsageError` that points at a token: the next, ``back`` before it, or ``at``."""
        _, position = self.tokens[max(self.place - back, 0) if at is None else at]
        before, after = self.text[:position], self.text[position:]
        if len(before) > _CONTEXT:
            before = "..." + before[-_CONTEXT:]
        if len(after) > _CONTEXT:
            after = after[:_CONTEXT] + "..."
        raise UsageError(f"{before}^{after}: {why}{'' if why.endswith('?') else '.'}")


def parse(line: str, classes: int = CLASSES) -> tuple[Layer, ...]:
    """Return the layers of a line, with a last dense layer of ``classes`` unless it ends with one.

    Raises `UsageError` that points at the place.
    """
    tokens = [(match[0].lower(), match.start()) for match in _TOKEN.finditer(line)]
    reader = _Reader(line, [*tokens, ("", len(line))])
    if not tokens:
        reader.fail("an empty line; write layers, such as 'conv 16, relu, pool, dense 64, relu'")
    layers, shape = _read_layers(reader, INPUT)
    if reader.next:
        reader.fail(f"unexpected '{reader.next}'")
    last = layers[-1]
    if not (isinstance(last, Dense) and last.out_features == classes):
        layers, shape = _append(reader, layers, Dense("", math.prod(shape), classes), shape)
    return tuple(layers)


def _read_layers(reader: _Reader, shape: Shape) -> tuple[list[Layer], Shape]:
    """Read layers up to the end, or to the bracket that closes a residual."""
    layers: list[Layer] = []
    while True:
        start = reader.place
        word = reader.take(r"[^,()]+")
        if word is None:
            reader.fail("a layer is missing here")
        if word not in _READERS:
            import difflib

            near = difflib.get_close_matches(word, _READERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(_READERS)}"
            reader.fail(f"unknown layer '{word[:20]}'; {hint}", at=start)
        usage, read = _READERS[word]
        layer = read(reader, word, shape, start)
        if reader.next not in ("", ",", ")"):
            reader.fail(f"unexpected '{reader.next}'; it is written: {usage}")
        layers, shape = _append(reader, layers, layer, shape, at=start)
        if reader.take(",") is None:
            return layers, shape


def _append(
    reader: _Reader, layers: list[Layer], layer: Layer, shape: Shape, *, at: int | None = None
) -> tuple[list[Layer], Shape]:
    """Return the layers with one more, flattened before a dense one, and the shape after it.

    Checks the sizes that would not fit into memory.
    """
    if isinstance(layer, Dense):
        layer = Dense(reader.name("fc"), layer.in_features, layer.out_features)
        if len(shape) > 1:
            layers = [*layers, Flatten()]
            shape = Flatten().output_shape(shape)
    shape = layer.output_shape(shape)
    if not isinstance(layer, Residual):  # whose layers have been counted
        reader.parameters += sum(map(math.prod, layer.parameter_shapes().values()))
    reader.layers += 1
    if reader.parameters > MAX_PARAMETERS:
        reader.fail(
            f"with this layer the network has {reader.parameters:,} parameters; "
            f"at most {MAX_PARAMETERS:,} are allowed",
            at=at,
        )
    if math.prod(shape) > MAX_VALUES:
        reader.fail(
            f"this layer makes {math.prod(shape):,} values of each image ({shape_text(shape)}); "
            f"at most {MAX_VALUES:,} are allowed",
            at=at,
        )
    if reader.layers > MAX_LAYERS:
        reader.fail(f"more than {MAX_LAYERS} layers", at=at)
    return [*layers, layer], shape


def _read_conv(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:
    side = _image_side(reader, word, shape, start)
    filters = reader.number("the number of filters")
    kernel, stride, padding, where = 3, 1, "same", start
    while option := reader.take("[0-9]{1,9}x[0-9]{1,9}|stride|same|valid"):  # in any order
        if option == "stride":
            stride = reader.number("the stride")
        elif option in ("same", "valid"):
            padding = option
        else:
            where = reader.place - 1
            kernel, width = map(int, option.split("x"))
            if kernel != width or not kernel:
                reader.fail("the kernel must be square, such as 3x3", at=where)
    if kernel > side:
        reader.fail(
            f"the kernel must be at most {side}x{side}, the size of the images here", at=where
        )
    if padding == "same" and kernel % 2 == 0:
        reader.fail("the kernel must be odd, or the layer 'valid'", at=where)
    return Conv(reader.name("conv"), shape[0], filters, kernel, stride, padding)


def _read_pool(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:
    side = _image_side(reader, word, shape, start)
    kind = AveragePool if reader.take("max|avg") == "avg" else MaxPool
    size = 2
    if re.match("[0-9]", reader.next):
        size = reader.number("the size of the windows", least=2)
    if size > side:
        reader.fail(f"a pool of {size}x{size} leaves nothing of images of {side}x{side}", at=start)
    return kind(size)


def _read_dense(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:  # noqa: ARG001
    return Dense("", math.prod(shape), reader.number("the number of units"))


def _read_activation(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:  # noqa: ARG001
    return Activation(word)


def _read_batch_norm(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:  # noqa: ARG001
    return BatchNorm(reader.name("bn"), shape[0])


def _read_dropout(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:  # noqa: ARG001
    probability = reader.take(r"0?\.[0-9]{1,6}|0")
    if probability is None:
        reader.fail("expected the share of values to drop, from 0 to below 1, such as 0.5")
    return Dropout(float(probability))


def _read_residual(reader: _Reader, word: str, shape: Shape, start: int) -> Layer:
    if reader.take(r"\(") is None:
        reader.fail(f"expected '(' after {word}")
    reader.nesting += 1
    if reader.nesting > MAX_NESTING:
        reader.fail(f"residuals nested more than {MAX_NESTING} deep", at=start)
    body, output = _read_layers(reader, shape)
    if reader.take(r"\)") is None:
        reader.fail("expected ')'")
    reader.nesting -= 1
    if output != shape:
        reader.fail(
            f"a residual adds its inputs to its outputs, but {shape_text(shape)} goes in and "
            f"{shape_text(output)} comes out",
            at=start,
        )
    return Residual(tuple(body))


def _image_side(reader: _Reader, word: str, shape: Shape, start: int) -> int:
    """Return the height, which is also the width, of the images that come in."""
    if len(shape) == 1:
        reader.fail(f"{word} needs images, but comes after dense", at=start)
    return shape[1]


# How each layer is written, and the function that reads what follows its first word.
_READERS: dict[str, tuple[str, Callable[[_Reader, str, Shape, int], Layer]]] = {
    "conv": ("conv N [KxK] [stride S] [same|valid]", _read_conv),
    "pool": ("pool [max|avg] [K]", _read_pool),
    "dense": ("dense N", _read_dense),
    "relu": ("relu", _read_activation),
    "sigmoid": ("sigmoid", _read_activation),
    "tanh": ("tanh", _read_activation),
    "gelu": ("gelu", _read_activation),
    "batchnorm": ("batchnorm", _read_batch_norm),
    "dropout": ("dropout P", _read_dropout),
    "residual": ("residual(LAYERS)", _read_residual),
}


def write(layers: Sequence[Layer], classes: int = CLASSES) -> str:
    """Return the line of layers, the shortest that `parse` makes them of."""
    written = [str(layer) for layer in layers if not isinstance(layer, Flatten)]
    *others, last = written
    # The last one is understood, unless a line without it would be empty or end with another.
    is_understood = last == f"dense {classes}" and others and others[-1] != last
    return ", ".join(others if is_understood else written)


def shape_text(shape: Shape) -> str:
    """Return ``32x28x28``, channels first, or ``128``."""
    return "x".join(map(str, shape))


def short_name(line: str) -> str:
    """Return a name for files and charts: the line itself if that is short, else its main layers.

    A shortened one ends in a hash of the line, so that two networks do not share a name.
    """
    compact = line.replace(" ", "").replace(",", "-")
    if re.fullmatch(rf"[a-z0-9.-]{{1,{_NAME_CHARACTERS}}}", compact) and "x" not in compact:
        return compact
    import hashlib  # which loads OpenSSL: milliseconds of each start, for a name that is rare

    main = "-".join("".join(pair) for pair in re.findall("(conv|dense) ([0-9]+)", line))
    digest = hashlib.sha256(line.encode()).hexdigest()[:4]
    return f"{main or 'net'}"[: _NAME_CHARACTERS - 5].rstrip("-") + f"-{digest}"


def find_network(
    text: str,
    *,
    activation: str = "relu",
    named: Mapping[str, str] | None = None,
    classes: int = CLASSES,
) -> ModelSpec:
    """Return the network that ``text`` is the name or the line of; ``activation`` is the MLP's.

    ``named`` are the lines of networks beside the known ones, by name. Raises `UsageError`.
    """
    named = named or {}
    if text in named:
        return ModelSpec(text, line=named[text], classes=classes)
    if text in NETWORKS:
        activation = activation if takes_activation(text) else "relu"
        return ModelSpec(text, activation, classes=classes)
    if re.fullmatch(r"\s*[\w.-]+\s*", text) and text.strip().lower() not in _READERS:
        raise UsageError(
            f"Unknown architecture '{text}'. Choose from {', '.join([*NETWORKS, *named])}, or "
            "write its layers, such as 'conv 16, relu, pool, dense 64, relu'."
        )
    line = write(parse(text, classes), classes)
    known = {ModelSpec(name, classes=classes).line: name for name in NETWORKS}
    known |= {line: name for name, line in named.items()}
    return ModelSpec(known.get(line, short_name(line)), line=line, classes=classes)


def read_networks(paths: Iterable[Path]) -> dict[str, str]:
    """Return the lines of TOML files, by name: ``[name]`` with ``layers = "..."``.

    Raises `UsageError` that names the file, and the table or the line.
    """
    found: dict[str, tuple[Path, str]] = {}
    for path in paths:
        for name, table in _read_toml(path).items():
            where = f"{path}, [{name}]"
            if not is_file_name(name):
                raise UsageError(
                    f"{where}: ^{name} is no name for a file. "
                    "Take small letters, digits, '.', '_' and '-', at most 32."
                )
            if name in NETWORKS:
                raise UsageError(f"{where}: ^{name} is the name of a known network already.")
            if name in found:
                raise UsageError(f"{where}: ^{name} is in {found[name][0]} too. Rename one.")
            if not (isinstance(table, dict) and isinstance(table.get("layers"), str)):
                raise UsageError(f'{where}: expected ^layers = "...", a line of layers.')
            if unknown := set(table) - {"layers"}:
                raise UsageError(f"{where}: unknown key ^{min(unknown)}; there is only layers.")
            try:
                found[name] = path, write(parse(table["layers"]))
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error
    return {name: line for name, (_, line) in found.items()}


def _read_toml(path: Path) -> dict[str, object]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:  # also of text that is not UTF-8
        raise UsageError(f"{path} is no TOML file: {error}.") from error
    if not tables:
        raise UsageError(f'{path} names no network. Write [name] and layers = "...".')
    return tables
