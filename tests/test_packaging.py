"""The small installation, with neither PyTorch nor TensorFlow, and what a release needs.

The small environment holds the base requirements alone, linked from the one that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urljoin

import pytest
from outcomes import Outcome
from packaging.requirements import Requirement
from prediction_samples import save_digits

import mnist_cli

FRAMEWORKS = ("torch", "torchvision", "tensorflow", "keras", "jax", "onnx", "ray")
Mnist = Callable[..., Outcome]
ROOT = Path(__file__).parents[1]


def _base_requirements(name: str = "mnist-cli") -> set[str]:
    """Names of the distributions that an installation without extras brings, with `name`."""
    found = {name}
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if (marker is None or marker.evaluate({"extra": ""})) and requirement.name not in found:
            found |= _base_requirements(requirement.name)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the base requirements alone."""
    folder = tmp_path_factory.mktemp("small")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in _base_requirements():
        installed = distribution(name)
        for part in {Path(file).parts[0] for file in installed.files or ()} - {".."}:
            link, target = packages / part, Path(str(installed.locate_file(part)))
            if not link.exists() and target.exists() and not part.startswith("__editable__"):
                link.symlink_to(target)
    package = packages / "mnist_cli"
    if not package.exists():  # an editable installation has its files elsewhere
        package.symlink_to(Path(mnist_cli.__file__).parent)
    return folder / "bin" / "python"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture
def mnist_there(small: Path, tmp_path: Path) -> Mnist:
    """Run ``mnist`` in the small environment, in an empty folder."""

    def run(*arguments: object) -> Outcome:
        done = subprocess.run(
            [small, "-m", "mnist_cli", *map(str, arguments)],
            cwd=tmp_path,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


def test_no_framework_but_numpy_is_there(small: Path, mnist_there: Mnist) -> None:
    program = (
        "from importlib.util import find_spec\n"
        f"print([name for name in {FRAMEWORKS} if find_spec(name)])"
    )
    found = subprocess.run([small, "-c", program], env=_environment(), capture_output=True)
    assert found.stdout.decode().strip() == "[]", found.stderr
    assert mnist_there("info", "--json").document["frameworks"] == ["numpy"]


def test_pictures_are_read(mnist_there: Mnist, tmp_path: Path) -> None:
    save_digits(tmp_path / "digits")
    read = mnist_there("predict", "digits/7.png", "--json")
    assert read.exit_code == 0, read.stderr
    assert '"text": "7"' in read.stdout


def test_a_comparison_names_what_is_left_out_and_its_records_are_drawn(
    mnist_there: Mnist, small_data: Path, tmp_path: Path
) -> None:
    options = ("--arch", "mlp", "--epochs", 1, "--threads", 1, "--dataset", small_data)
    compared = mnist_there("compare", *options, "--json")
    assert compared.exit_code == 0, compared.stderr
    assert [run["framework"] for run in compared.document["runs"]] == ["numpy"]
    said = "Left out, because not installed: TensorFlow, PyTorch. Install with: "
    assert said + "pip install 'mnist-cli[tensorflow,torch]'" in compared.stderr
    evaluated = mnist_there("evaluate", "numpy-mlp", "--dataset", small_data, "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    reported = mnist_there("report")
    assert reported.exit_code == 0, reported.stderr
    assert (tmp_path / "results" / "report.html").exists()


@contextmanager
def _page(small: Path, folder: Path) -> Iterator[str]:
    """Yield the address of the page of ``mnist draw`` in the small environment."""
    command = [small, "-m", "mnist_cli", "draw", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def test_the_page_is_served(small: Path, tmp_path: Path) -> None:
    with (
        _page(small, tmp_path) as address,
        urllib.request.urlopen(urljoin(address, "/api/models"), timeout=30) as answer,
    ):
        models = json.load(answer)["models"]
    assert [model["name"] for model in models] == ["pretrained"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "PyTorch is not installed. Install it into this environment: pip install"),
        (["train", "--framework", "tf"], "TensorFlow is not installed."),
        (["compare", "--framework", "jax"], "JAX is not installed."),
        (["export", "pretrained", "--to", "keras"], "TensorFlow is not installed."),
        (["export", "pretrained", "--to", "torch"], "PyTorch is not installed."),
        (["export", "pretrained", "--to", "onnx"], "onnx is not installed."),
        (["import", "model.keras"], "TensorFlow is not installed."),
        (["import", "model.pt"], "PyTorch is not installed."),
        (["import", "model.onnx"], "onnx is not installed."),
        (["compare", "--runner", "ray"], "pip install 'mnist-cli[cluster]'"),
        (["train", "--framework", "numpy", "--dataset", "kmnist"], "torchvision"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_more_says_so_in_one_line(
    mnist_there: Mnist, tmp_path: Path, arguments: list[str], said: str
) -> None:
    if arguments[0] == "import":
        (tmp_path / arguments[1]).write_bytes(b"PK\3\4 what only its runtime can read")
    failed = mnist_there(*arguments)
    assert failed.exit_code == 1
    assert said in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert sys.executable not in failed.stderr


# --- Releases ----------------------------------------------------------------------------------


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {mnist_cli.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_extra_all_brings_what_every_other_one_does_but_the_tests() -> None:
    def brought(extra: str) -> set[str]:
        requirements = map(Requirement, distribution("mnist-cli").requires or ())
        return {
            each.name
            for each in requirements
            if each.marker is not None
            and each.marker.evaluate({"extra": extra})
            and not each.marker.evaluate({"extra": ""})
        }

    extras = set(distribution("mnist-cli").metadata.get_all("Provides-Extra") or ())
    assert extras > {"all", "test", "torch", "tensorflow"}
    assert set.union(*map(brought, extras - {"all", "test"})) == brought("all")
    documented = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/install.md").read_text("utf-8"), re.M)
    assert set(documented) == extras


@pytest.mark.parametrize(("extras", "named"), [("", "x.whl"), ("torch,jax", "x.whl[torch,jax]")])
def test_the_container_has_the_extras_that_are_named_or_none(extras: str, named: str) -> None:
    found = re.search(r'"\$\(ls /wheels/\*\.whl\)(.*?)"', (ROOT / "Dockerfile").read_text("utf-8"))
    assert found is not None
    command = ["sh", "-c", f'printf %s "x.whl{found[1]}"']
    shown = subprocess.run(command, env={"EXTRAS": extras}, capture_output=True, check=True)
    assert shown.stdout.decode() == named


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("", "name a version, such as 0.2.0, not ''."),
        ("1.2", "name a version, such as 0.2.0, not '1.2'."),
        ("9.9.9", "__version__ in mnist_cli/__init__.py is not 9.9.9."),
    ],
)
def test_a_release_that_is_not_ready_is_refused(tmp_path: Path, version: str, said: str) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "mnist_cli").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci")
    (tmp_path / "mnist_cli" / "__init__.py").write_text('__version__ = "1.0.0"\n')
    git = ("git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    done = subprocess.run(
        [tmp_path / ".ci" / "release", version], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"release: {said}\n"
