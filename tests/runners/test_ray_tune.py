"""Searches on a real cluster of two nodes: see `conftest`."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from waiting import job_processes, wait_until

import mnist_cli
from mnist_cli import __version__
from mnist_cli.experiments.search import DONE, load_search
from mnist_cli.runners import ray_cluster

Mnist = Callable[..., Any]
SCHEMAS = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())
SIX = ("tune", "--framework", "fake", "--arch", "mlp", "--batch-size", "20,40", "--trials", "6")


@pytest.fixture
def on_cluster(cluster: Any, small_data: Path, tmp_path: Path) -> list[str]:
    """Options of searches on the cluster, written to the folder ``results``."""
    return [
        *("--address", cluster.address, "--dataset", str(small_data)),
        *("--results-dir", str(tmp_path / "results")),
    ]


@pytest.fixture
def hold(cluster: Any) -> Iterator[Path]:
    """A file: while it is there, no trial of the fake framework gets past its first epoch."""
    path = Path(os.environ["FAKE_FRAMEWORK_HOLD"])
    yield path
    path.unlink(missing_ok=True)


def _trials(folder: Path) -> list[dict[str, Any]]:
    """The trials of the unfinished document."""
    path = folder / "results" / "tune_results.partial.json"
    trials: list[dict[str, Any]] = load_search(path)["trials"] if path.exists() else []
    return trials


def _done(folder: Path) -> list[dict[str, Any]]:
    return [trial for trial in _trials(folder) if trial["state"] in DONE]


def require_all_six(trials: list[dict[str, Any]]) -> None:
    assert [trial["number"] for trial in trials] == list(range(1, 7))
    for trial in trials:
        assert trial["state"] in DONE
        epochs = [row["epoch"] for row in trial["history"]]
        assert epochs == list(range(1, len(epochs) + 1))


def test_the_best_of_exactly_the_trials_asked_for_can_be_trained_by_its_command(
    mnist: Mnist, on_cluster: list[str], tmp_path: Path
) -> None:
    options = ["--framework", "numpy", "--arch", "mlp", "--arch", "conv 2, relu, pool"]
    options += ["--batch-size", "20,40", "--learning-rate", "0.02,0.1,1e30"]
    options += ["--trials", "7", "--epochs", "4", "--json"]
    outcome = mnist("tune", *options, *on_cluster)
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": "#/$defs/tune"}).validate(document)
    trials = document["trials"]
    assert [trial["number"] for trial in trials] == list(range(1, 8))
    for trial in trials:
        epochs = [row["epoch"] for row in trial["history"]]
        assert epochs == list(range(1, len(epochs) + 1))
        if trial["learning_rate"] == 1e30:
            assert (trial["state"], epochs) == ("diverged", [])
            assert "The loss became" in trial["error"]
        else:
            # Stages end after 1 and 3 epochs; the first trial at each goes on.
            assert (trial["state"], len(epochs)) in (
                ("finished", 4),
                ("stopped", 1),
                ("stopped", 3),
            )
    assert (tmp_path / "results" / "tune.png").exists()
    assert load_search(tmp_path / "results" / "tune_results.json") == document

    best = trials[document["best"] - 1]
    words = shlex.split(document["command"])[1:]
    trained = mnist(*words, "--threads", 1, "--json", "--results-dir", tmp_path / "best")
    assert trained.exit_code == 0, trained.stderr
    history = trained.document["history"]
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        # NumPy with one thread is deterministic.
        assert [row[name] for row in history] == [row[name] for row in best["history"]]


def test_processes_and_a_node_killed_amid_the_trials_cost_none_of_them(
    cluster: Any, start: Callable[..., Any], hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    command = start(*SIX)
    wait_until(lambda: len(job_processes()) == 2, "a trial on each node")
    for process in job_processes():
        process.kill()  # as a system does that is out of memory
    begun_again = "two trials that are begun again, and one on each node"
    wait_until(lambda: sum(trial["retries"] for trial in _trials(tmp_path)) == 2, begun_again)
    wait_until(lambda: len(job_processes()) == 2, begun_again)
    node = next(iter(cluster.worker_nodes))
    cluster.remove_node(node, allow_graceful=False)  # SIGKILL
    cluster.add_node(num_cpus=1)
    hold.unlink()
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    trials = load_search(tmp_path / "results" / "tune_results.json")["trials"]
    require_all_six(trials)
    assert sum(trial["retries"] for trial in trials) == stderr.count("; it is begun again") == 3
    assert stderr.count("killed by SIGKILL (out of memory?)") == 2
    assert "the actor's node was terminated" in stderr


def test_a_killed_driver_leaves_no_process_and_its_search_is_resumed(
    mnist: Mnist, start: Callable[..., Any], on_cluster: list[str], hold: Path, tmp_path: Path
) -> None:
    command = start(*SIX)
    wait_until(lambda: len(_done(tmp_path)) >= 2, "two of six trials")
    hold.touch()
    command.kill()
    command.wait()
    before = _done(tmp_path)
    wait_until(lambda: not job_processes(), "no process of a job")
    hold.unlink()
    resumed = mnist(*SIX, "--resume", "--json", *on_cluster)
    assert resumed.exit_code == 0, resumed.stderr
    require_all_six(resumed.document["trials"])
    for trial in before:  # not trained again
        assert resumed.document["trials"][trial["number"] - 1] == trial


def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(
    start: Callable[..., Any], hold: Path
) -> None:
    hold.touch()
    command = start(*SIX)
    wait_until(lambda: bool(job_processes()), "a trial at work")
    command.send_signal(signal.SIGINT)
    _, stderr = command.communicate(timeout=20)
    assert command.returncode == 130
    assert stderr.splitlines()[-1] == "Interrupted. Go on with the same command and --resume."
    wait_until(lambda: not job_processes(), "no process of a job")


def test_more_cores_than_a_node_has_are_named(mnist: Mnist, on_cluster: list[str]) -> None:
    outcome = mnist("tune", "--framework", "fake", "--arch", "mlp", "--threads", 2, *on_cluster)
    assert outcome.exit_code == 1
    assert "No node of the cluster has 2 cores for a run." in outcome.stderr.splitlines()[-1]


def test_a_search_from_python_starts_a_cluster_for_itself_and_ends_it(small_data: Path) -> None:
    before = psutil.Process().children(recursive=True)
    found = mnist_cli.tune(
        "fake",
        arch="mlp",
        batch_size=[20, 40],
        trials=2,
        epochs=1,
        dataset=small_data,
        progress=False,
    )
    assert [trial["state"] for trial in found.trials] == ["finished", "finished"]
    assert found.best in found.trials
    _, alive = psutil.wait_procs(
        [each for each in psutil.Process().children(recursive=True) if each not in before],
        timeout=10,
    )
    assert [each.cmdline() for each in alive] == []


def test_without_what_tune_needs_the_extra_is_named_before_anything_starts(
    mnist: Mnist, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_spec = ray_cluster.importlib.util.find_spec
    monkeypatch.setattr(
        ray_cluster.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pandas" else find_spec(name, *rest),
    )
    outcome = mnist("tune", "--framework", "fake", "--arch", "mlp", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert outcome.stderr == (
        "Error: Pandas is not installed. Install it into this environment: "
        "pip install 'mnist-cli[cluster]'\n"
    )


def test_a_node_without_what_tune_needs_is_named() -> None:
    found = {"version": __version__, "missing": [], "modules": ["pandas"]}
    said = ray_cluster._problem("n1", found)
    assert said == ("The node n1 has no pandas. Install it there: pip install 'mnist-cli[cluster]'")


def test_an_address_without_a_cluster_is_named(mnist: Mnist, tmp_path: Path) -> None:
    options = ["--framework", "fake", "--arch", "mlp", "--results-dir", tmp_path]
    outcome = mnist("tune", *options, "--address", "ray://127.0.0.1:9")
    assert outcome.exit_code == 1
    assert "There is no Ray cluster at ray://127.0.0.1:9" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
