"""Networks of one's own on the command line: lines, files of names, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import Outcome

from mnist_cli.config import NETWORKS, ModelSpec
from mnist_cli.training import checkpoint

Mnist = Callable[..., Outcome]
LINE = "conv 4, batchnorm, relu, pool, dropout 0.2, dense 8, relu"


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> tuple[object, ...]:
    folder = tmp_path / "results"
    return ("--dataset", small_data, "--results-dir", folder, "--epochs", 2, "--batch-size", 20)


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.toml"
    path.write_text(f'[tiny]\nlayers = "{LINE}"\n[flat]\nlayers = "dense 5"\n')
    return path


def test_networks_lists_the_known_ones_and_those_of_files(mnist: Mnist, nets: Path) -> None:
    outcome = mnist("networks", "--arch-file", nets, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert [each["name"] for each in outcome.document] == [*NETWORKS, "tiny", "flat"]
    assert outcome.document[0]["parameters"] == 421_642
    assert outcome.document[-2]["line"] == LINE
    table = mnist("networks").stdout
    for word in ("cnn", "421,642", "lenet5", "residual("):
        assert word in table


def test_networks_explains_one_with_a_picture_of_its_shapes(mnist: Mnist) -> None:
    outcome = mnist("networks", LINE)
    assert outcome.exit_code == 0, outcome.stderr
    for text in ("6,418 parameters", "batchnorm", "4x14x14", "dropout 0.2", "1x28x28", "█"):
        assert text in outcome.stdout
    document = mnist("networks", "mlp", "--json").document
    assert [layer["layer"] for layer in document["layers"]] == ["dense 128", "relu", "dense 10"]


@pytest.mark.parametrize("framework", ["fake", "numpy"])
def test_a_line_is_trained_saved_under_a_short_name_and_resumed(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, framework: str
) -> None:
    outcome = mnist("train", "--framework", framework, "--arch", LINE.upper(), *quick, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    record = outcome.document
    assert record["arch"].startswith("conv4-dense8-")
    assert (record["line"], record["parameters"]) == (LINE, 6_418)
    path = tmp_path / "results" / "models" / f"{framework}-{record['arch']}.safetensors"
    assert record["checkpoint"] == str(path)
    assert checkpoint.load(path).spec == ModelSpec(record["arch"], line=LINE)
    again = mnist("train", "--framework", framework, "--arch", LINE, *quick, "--resume")
    assert "Nothing is left to train" in again.stderr
    assert (tmp_path / "results" / f"{framework}-{record['arch']}_training.png").exists()


def test_a_file_of_networks_is_compared_as_a_whole_or_by_name(
    mnist: Mnist, quick: tuple[object, ...], nets: Path, tmp_path: Path
) -> None:
    options = ("--framework", "fake", "--arch-file", nets, *quick, "--json")
    document = mnist("compare", *options).document
    assert [run["arch"] for run in document["runs"]] == ["tiny", "flat"]
    assert document["settings"]["lines"] == {"tiny": LINE, "flat": "dense 5"}
    assert [row["line"] for row in document["summary"]] == [LINE, "dense 5"]
    (pair,) = document["architectures"]
    assert (pair["first"], pair["second"], pair["n"]) == ("tiny", "flat", 1)
    some = mnist("compare", *options, "--arch", "flat", "--arch", "cnn").document
    assert [run["arch"] for run in some["runs"]] == ["flat", "cnn"]
    assert (tmp_path / "results" / "models" / "fake-tiny.safetensors").exists()


def test_the_table_tells_sizes_and_lines_of_own_networks(
    mnist: Mnist, quick: tuple[object, ...], nets: Path
) -> None:
    shown = mnist("compare", "--framework", "fake", "--arch-file", nets, *quick).stdout
    for text in ("parameters", "6,418", f"tiny: {LINE}", "tiny is 0.00 percentage points"):
        assert text in shown


def test_train_takes_one_network_of_a_file(
    mnist: Mnist, quick: tuple[object, ...], nets: Path, tmp_path: Path
) -> None:
    options = ("--framework", "fake", "--arch-file", nets, *quick)
    assert mnist("train", *options, "--arch", "flat", "--json").document["arch"] == "flat"
    outcome = mnist("train", *options)
    assert outcome.exit_code == 2
    assert "several networks to train: tiny, flat. Choose with --arch." in outcome.stderr
    one = tmp_path / "one.toml"
    one.write_text('[only]\nlayers = "dense 7"\n')
    options = ("--framework", "fake", "--arch-file", one, *quick)
    assert mnist("train", *options, "--json").document["arch"] == "only"


def test_a_name_in_two_files_is_refused(mnist: Mnist, nets: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[flat]\nlayers = "dense 6"\n')
    outcome = mnist("compare", "--arch-file", nets, "--arch-file", other)
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert f"{other}, [flat]: ^flat is in {nets} too. Rename one." in line


def test_a_comparison_is_not_resumed_with_another_line_of_that_name(
    mnist: Mnist, quick: tuple[object, ...], nets: Path
) -> None:
    command = ("compare", "--framework", "fake", "--arch-file", nets, *quick)
    assert mnist(*command).exit_code == 0
    nets.write_text(nets.read_text().replace("dense 5", "dense 6"))
    outcome = mnist(*command, "--resume")
    assert outcome.exit_code == 1
    assert "it was measured with lines" in outcome.stderr


def test_a_batch_of_one_image_has_no_variance(mnist: Mnist, quick: tuple[object, ...]) -> None:
    options = ("--framework", "fake", "--arch", "dense 5, batchnorm", *quick, "--batch-size", 1)
    outcome = mnist("train", *options)
    assert outcome.exit_code == 2
    assert "needs at least 2 images per step, not 1" in outcome.stderr
