"""Which frameworks there are, and what is said about one that is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mnist_cli import adapters
from mnist_cli.errors import FrameworkError


def test_jax_is_a_framework_if_it_is_installed() -> None:
    assert "jax" in adapters.names()
    assert adapters.resolve("jax") == "jax"


@pytest.mark.parametrize("ask", [adapters.resolve, adapters.load])
def test_jax_is_absent_unless_installed_and_asked_for_names_the_command(
    ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    assert "jax" not in adapters.names()
    assert "numpy" in adapters.names()
    with pytest.raises(FrameworkError, match=r"JAX is not installed.*pip install 'mnist-cli\[jax"):
        ask("jax")


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "others"), [("tensorflow", "jax torch"), ("jax", "torch")])
def test_a_framework_loads_no_other(framework: str, others: str) -> None:
    program = (
        f"import sys; from mnist_cli import adapters; adapters.load('{framework}')\n"
        f"print([name for name in '{others}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
