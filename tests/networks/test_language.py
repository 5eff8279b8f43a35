"""One line to a network: what is read, what is written, and what is refused, with its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from network_lines import lines

from mnist_cli.config import NETWORKS, ModelSpec
from mnist_cli.errors import UsageError
from mnist_cli.networks import language
from mnist_cli.networks.language import find_network, parse, read_networks, short_name, write
from mnist_cli.networks.spec import (
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Residual,
)


def test_every_layer_is_read_with_its_options_in_any_order() -> None:
    line = (
        "conv 16, conv 4 5x5 valid stride 2, conv 4 same stride 1 1x1, relu, pool, pool avg, "
        "batchnorm, residual(conv 4, tanh), dropout 0.5, dense 64, gelu, batchnorm, sigmoid"
    )
    assert parse(line) == (
        Conv("conv1", 1, 16),
        Conv("conv2", 16, 4, 5, 2, "valid"),
        Conv("conv3", 4, 4, 1),
        Activation("relu"),
        MaxPool(2),
        AveragePool(2),
        BatchNorm("bn1", 4),
        Residual((Conv("conv4", 4, 4), Activation("tanh"))),
        Dropout(0.5),
        Flatten(),
        Dense("fc1", 36, 64),
        Activation("gelu"),
        BatchNorm("bn2", 64),
        Activation("sigmoid"),
        Dense("fc2", 64, 10),
    )


@pytest.mark.parametrize(
    ("line", "shortest"),
    [
        ("Conv 16 3X3 same stride 1,RELU ,  pool max 2", "conv 16, relu, pool"),
        ("dense 10", "dense 10"),
        ("dense 64, relu, dense 10", "dense 64, relu"),
        ("dense 10, dense 10", "dense 10, dense 10"),
        ("dropout .50", "dropout 0.5"),
        ("residual( relu )", "residual(relu)"),
    ],
)
def test_a_line_has_one_shortest_form(line: str, shortest: str) -> None:
    assert write(parse(line)) == shortest
    assert parse(shortest) == parse(line)


@given(lines())
def test_what_is_written_is_read_back(line: str) -> None:
    layers = parse(line)
    assert parse(write(layers)) == layers


@pytest.mark.parametrize("name", NETWORKS)
def test_the_known_networks_are_lines_in_their_shortest_form(name: str) -> None:
    spec = find_network(name)
    assert spec == ModelSpec(name)
    assert write(parse(spec.line)) == spec.line
    assert find_network(spec.line) == spec  # the line is known by its name


# The mark stands before the first character that is wrong.
BAD_LINES = [
    ("", "^: an empty line"),
    ("  ", "^: an empty line"),
    ("conv 16, poool, relu", "conv 16, ^poool, relu: unknown layer 'poool'; did you mean pool?"),
    ("conv 16, qqqq", "^qqqq: unknown layer 'qqqq'; choose from conv, pool, dense"),
    ("conv", "conv^: expected the number of filters, a whole number from 1 on, not nothing."),
    ("conv x", "conv ^x: expected the number of filters, a whole number from 1 on, not 'x'."),
    ("conv 0", "conv ^0: expected the number of filters"),
    ("conv 16 4x4", "conv 16 ^4x4: the kernel must be odd, or the layer 'valid'."),
    ("conv 16 3x5", "conv 16 ^3x5: the kernel must be square"),
    ("conv 16 0x0", "conv 16 ^0x0: the kernel must be square"),
    ("conv 16 29x29", "conv 16 ^29x29: the kernel must be at most 28x28"),
    ("pool 4, conv 8 9x9", "pool 4, conv 8 ^9x9: the kernel must be at most 7x7"),
    ("conv 16 stride", "conv 16 stride^: expected the stride"),
    ("conv 16 7", "conv 16 ^7: unexpected '7'; it is written: conv N [KxK] [stride S]"),
    ("pool 29", "^pool 29: a pool of 29x29 leaves nothing of images of 28x28."),
    (
        "pool 7, pool 4, pool",
        "pool 7, pool 4, ^pool: a pool of 2x2 leaves nothing of images of 1x1",
    ),
    ("pool 1", "pool ^1: expected the size of the windows, a whole number from 2 on"),
    ("dense 5 6", "dense 5 ^6: unexpected '6'; it is written: dense N."),
    ("dense 2000000", "^dense 2000000: with this layer the network has 1,570,000,000 parameters"),
    ("dense 9, conv 3", "dense 9, ^conv 3: conv needs images, but comes after dense."),
    ("dense 9, pool", "dense 9, ^pool: pool needs images, but comes after dense."),
    ("conv 9999 1x1", "^conv 9999 1x1: this layer makes 7,839,216 values of each image"),
    ("dropout 1", "dropout ^1: expected the share of values to drop, from 0 to below 1"),
    ("residual", "residual^: expected '(' after residual."),
    ("residual()", "residual(^): a layer is missing here."),
    ("residual(relu", "residual(relu^: expected ')'."),
    ("relu)", "relu^): unexpected ')'."),
    ("relu,", "relu,^: a layer is missing here."),
    ("relu,,relu", "relu,^,relu: a layer is missing here."),
    ("relu, residual(conv 8)", "relu, ^residual(conv 8): a residual adds its inputs to its "),
    ("residual(conv 8)", "but 1x28x28 goes in and 8x28x28 comes out."),
    ("residual(dense 4)", "but 1x28x28 goes in and 4 comes out."),
    ("relu, " * 300 + "relu", "more than 200 layers"),
    ("residual(" * 30, "residuals nested more than 8 deep"),
    ("dense 9" + "9" * 5000, "expected the number of units"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line[:20] for line, _ in BAD_LINES])
def test_an_error_points_at_its_place(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300 + len(message)


def test_the_parameters_of_all_layers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "MAX_PARAMETERS", 20_000)
    parse("dense 20, residual(dense 20)")  # 15,700 + 420 + 210
    with pytest.raises(
        UsageError, match=r"^dense 20, residual\(dense 90, \^dense 90, dense 20\).*"
    ):
        parse("dense 20, residual(dense 90, dense 90, dense 20)")


@given(lines())
def test_half_a_line_is_a_network_or_an_error_in_one_sentence(line: str) -> None:
    cut = random.Random(line).randrange(len(line) + 1)
    message = "^"
    try:
        parse(line[:cut])
    except UsageError as error:
        message = str(error)
    assert "^" in message
    assert "\n" not in message


def test_a_word_that_is_no_layer_is_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"Unknown architecture 'rnn'.*best, mine, or write"):
        find_network("rnn", named={"mine": "dense 5"})


def test_a_name_from_a_file_comes_with_its_line() -> None:
    named = {"mine": "dense 5"}
    assert find_network("mine", named=named) == ModelSpec("mine", line="dense 5")
    assert find_network("dense 5, dense 10", named=named).arch == "mine"


def test_the_activation_is_that_of_the_mlp_alone() -> None:
    assert find_network("mlp", activation="sigmoid") == ModelSpec("mlp", "sigmoid")
    assert ModelSpec("mlp", "sigmoid").line == "dense 128, sigmoid"
    assert find_network("cnn", activation="sigmoid") == ModelSpec("cnn")
    with pytest.raises(UsageError, match=r"'mine' are in its line.*--activation"):
        ModelSpec("mine", "sigmoid", "dense 5")


@given(lines(), lines())
def test_short_names_fit_file_names_and_differ(one: str, other: str) -> None:
    one, other = write(parse(one)), write(parse(other))
    for line in (one, other):
        assert len(short_name(line)) <= 24
        assert not set(short_name(line)) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert (short_name(one) == short_name(other)) == (one == other)


def test_short_lines_are_their_own_names() -> None:
    assert short_name("dense 64, relu") == "dense64-relu"
    assert short_name("conv 16, relu, pool, dense 64, relu").startswith("conv16-dense64-")


def test_files_name_networks(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('[tiny]\nlayers = "Conv 4, relu"\n[small]\nlayers = "dense 5"\n')
    second.write_text('[other]\nlayers = "pool"\n')
    assert read_networks([first, second]) == {
        "tiny": "conv 4, relu",
        "small": "dense 5",
        "other": "pool",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nlayers = "conv 4 4x4"', "[a]: conv 4 ^4x4: the kernel must be odd"),
        ('[A b]\nlayers = "relu"', "is no TOML file"),
        ('["A b"]\nlayers = "relu"', "[A b]: ^A b is no name for a file"),
        ('[cnn]\nlayers = "relu"', "[cnn]: ^cnn is the name of a known network already."),
        ('[first]\nlayers = "relu"', "[first]: ^first is in "),
        ("[a]\nlayers = 5", "[a]: expected ^layers ="),
        ("a = 5", "[a]: expected ^layers ="),
        ('[a]\nlayers = "relu"\nlayer = "relu"', "unknown key ^layer; there is only layers."),
        ("", "names no network"),
        ("[a", "is no TOML file"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "first.toml").write_text('[first]\nlayers = "relu"\n')
    path = tmp_path / "second.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_networks([tmp_path / "first.toml", path])
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[a]\nlayers = "\xff"')
    for name in ("absent.toml", "latin.toml"):
        with pytest.raises(UsageError, match=name):
            read_networks([tmp_path / name])
