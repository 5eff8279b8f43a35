"""What people expect of any command line: -h, completion, aliases, shared options."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mnist_cli


def test_h_is_help(mnist: Callable[..., Any]) -> None:
    for arguments in (["-h"], ["train", "-h"]):
        outcome = mnist(*arguments)
        assert outcome.exit_code == 0
        assert "Usage: mnist" in outcome.stdout


def completions(folder: Path, line: str) -> list[str]:
    """What a shell in ``folder`` offers for the last word of ``line``."""
    environment = {
        **os.environ,
        "_MNIST_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    command = [sys.executable, "-m", "mnist_cli"]
    # The completion is asked of the program's name, not of how it was started.
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mnist sw", ["sweep-batch"]),
        ("mnist train --framework py", ["pytorch"]),
        ("mnist train --framework tensor", ["tensorflow"]),
        ("mnist train --arch ", ["cnn", "mlp", "lenet5", "linear", "deep", "resnet", "best"]),
        ("mnist compare --precision b", ["bfloat16"]),
        ("mnist compare --dataset k", ["kmnist"]),
        ("mnist evaluate ", ["numpy-mlp", "torch-cnn"]),
        ("mnist predict x.png --model t", ["torch-cnn"]),
    ],
)
def test_a_shell_completes_commands_and_values(
    line: str, offered: list[str], tmp_path: Path
) -> None:
    models = tmp_path / "results" / "models"
    models.mkdir(parents=True)
    for name in ("torch-cnn", "numpy-mlp"):
        (models / f"{name}.safetensors").touch()
    assert completions(tmp_path, line) == offered


@pytest.mark.parametrize(("alias", "framework"), [("pytorch", "torch"), ("tf", "tensorflow")])
def test_a_framework_has_aliases(alias: str, framework: str) -> None:
    from mnist_cli import adapters

    assert adapters.resolve(alias) == framework
    assert adapters.resolve(framework) == framework


def test_an_alias_trains_and_names_files_as_the_framework_does(
    mnist: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = mnist(
        *("train", "--framework", "pytorch", "--arch", "mlp", "--limit", "200", "--epochs", "1"),
        *("--results-dir", tmp_path, "--json"),
    )
    assert outcome.document["framework"] == "torch"
    assert (tmp_path / "models" / "torch-mlp.safetensors").exists()


@pytest.mark.parametrize("command", ["compare", "sweep_batch"])
def test_comparisons_augment_and_take_activation_and_precision(
    command: str, small_data: Path
) -> None:
    sizes = {"batch_sizes": [20]} if command == "sweep_batch" else {"batch_size": 20}
    comparison = getattr(mnist_cli, command)(
        framework="numpy",
        **sizes,
        epochs=1,
        activation="sigmoid",
        augment=True,
        dataset=str(small_data),
        progress=False,
    )
    assert {(run.arch, run.activation) for run in comparison.runs} == {
        ("cnn", "relu"),
        ("mlp", "sigmoid"),
    }
    assert all(run.augment for run in comparison.runs)
    assert comparison.document["settings"]["activation"] == "sigmoid"
    assert "MLP sigmoid" in comparison.table()
    refused = getattr(mnist_cli, command)(
        framework="numpy",
        arch="mlp",
        **sizes,
        precision="bfloat16",
        dataset=str(small_data),
        progress=False,
    )
    assert "float32 only" in refused.failures[0]["error"]
