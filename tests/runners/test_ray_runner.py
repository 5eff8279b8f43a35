"""Runs on a real cluster of two nodes, one CPU each, on this machine.

All tests share the cluster: a start takes seconds. The fake framework sleeps in its first epoch
with seed 77, for runs that must still be at work.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import job_processes, wait_until

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.records import RunRecord
from mnist_cli.runners import ray_cluster, ray_runner
from mnist_cli.runners.base import TrainJob
from mnist_cli.training import checkpoint

MEASURED = ("seconds", "per_second", "rss", "wall", "conditions", "environment", "time_to")
# A second or two: time enough to break something meanwhile.
LONG_ENOUGH = ("compare", "--framework", "numpy", "--arch", "mlp", "--epochs", 20)
Mnist = Callable[..., Any]


@pytest.fixture
def on_cluster(cluster: Any, small_data: Path, tmp_path: Path) -> list[str]:
    """Options of quick runs on the cluster, written to the folder ``results``."""
    return [
        *("--runner", "ray", "--address", cluster.address, "--dataset", str(small_data)),
        *("--results-dir", str(tmp_path / "results")),
    ]


def _kept(values: Any) -> Any:
    """A record without what is measured, and where it was."""
    if isinstance(values, dict):
        return {
            name: _kept(value)
            for name, value in values.items()
            if not any(part in name for part in MEASURED)
        }
    return [_kept(value) for value in values] if isinstance(values, (list, tuple)) else values


def _nodes(document: dict[str, Any]) -> Counter[str]:
    return Counter(run["environment"]["node"] for run in document["runs"])


def _finished_runs(folder: Path) -> int:
    """How many runs the unfinished document has."""
    path = folder / "comparison_results.partial.json"
    return len(json.loads(path.read_text())["runs"]) if path.exists() else 0


# --- As at home --------------------------------------------------------------------------------


def test_records_from_nodes_equal_those_from_here_but_for_times_and_node(
    mnist: Mnist, on_cluster: list[str], tmp_path: Path
) -> None:
    quick = ["compare", "--framework", "numpy", "--framework", "fake", "--arch", "mlp"]
    quick += ["--batch-size", 20, "--runs", 3, "--json"]
    there = mnist(*quick, *on_cluster)
    assert there.exit_code == 0, there.stderr
    here = mnist(*quick, "--threads", 1, *on_cluster[4:-1], tmp_path / "home")
    for ours, theirs in zip(there.document["runs"], here.document["runs"], strict=True):
        assert Path(ours["checkpoint"] or "").name == Path(theirs["checkpoint"] or "").name
        ours["checkpoint"] = theirs["checkpoint"]  # in another folder
        assert _kept(ours) == _kept(theirs)
    runs = there.document["runs"]
    assert len(_nodes(there.document)) == 2
    for seed in range(3):  # frameworks that are compared are paired on a node
        assert len({r["environment"]["node"] for r in runs if r["seed"] == seed}) == 1
    assert {run["timing"] for run in runs} == {"exclusive"}
    assert {run["retries"] for run in runs} == {0}
    # The models came home whole.
    model = checkpoint.load(tmp_path / "results" / "models" / "numpy-mlp.safetensors")
    local = checkpoint.load(tmp_path / "home" / "models" / "numpy-mlp.safetensors")
    assert model.dataset == local.dataset
    for name, array in local.weights.items():
        assert (model.weights[name] == array).all()


def test_a_node_trains_on_from_a_model_that_is_here(
    mnist: Mnist, on_cluster: list[str], tmp_path: Path
) -> None:
    options = ["train", "--framework", "numpy", "--from", "pretrained", "--epochs", 1, "--json"]
    options += ["--limit", 440]
    trained = mnist(*options, *on_cluster)
    assert trained.exit_code == 0, trained.stderr
    at_home = mnist(*options, "--threads", 1, *on_cluster[4:-1], tmp_path / "home")
    assert trained.document["started_from"] == at_home.document["started_from"]
    assert trained.document["test_errors"] == at_home.document["test_errors"]
    resumed = mnist(*options, "--resume", *on_cluster)
    assert resumed.exit_code == 0, resumed.stderr
    assert "Nothing is left to train" in resumed.stderr


def test_nodes_that_are_shared_give_no_verdict_on_speed(
    mnist: Mnist, on_cluster: list[str]
) -> None:
    quick = ["--framework", "numpy", "--framework", "fake", "--arch", "mlp", "--runs", 2]
    outcome = mnist("compare", *quick, "--batch-size", 20, "--share-nodes", *on_cluster)
    assert outcome.exit_code == 0, outcome.stderr
    assert "no verdict, because several runs were on a machine" in outcome.stdout
    assert "several at a time on a machine" in " ".join(outcome.stdout.split())


# --- What breaks -------------------------------------------------------------------------------


def test_a_node_killed_amid_twelve_runs_costs_none_of_them_and_a_late_one_helps(
    cluster: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    from mnist_cli.experiments.document import load_document

    command = start(*LONG_ENOUGH, "--runs", 12)
    partial = tmp_path / "results" / "comparison_results.partial.json"
    wait_until(
        lambda: partial.exists() and len(_nodes(json.loads(partial.read_text()))) == 2,
        "a run from each node",
    )
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)  # SIGKILL
    # Held until the late node is at work, or a quick machine would be done before it is there.
    held = job_processes()
    for each in held:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()
    try:
        cluster.add_node(num_cpus=1)
        wait_until(lambda: bool(set(job_processes()) - set(held)), "a run on the late node")
    finally:
        for each in held:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    document = load_document(tmp_path / "results" / "comparison_results.json")
    assert sorted(run["seed"] for run in document["runs"]) == list(range(12))
    retries = sum(run["retries"] for run in document["runs"])
    assert retries == stderr.count("it is begun again")
    assert retries >= 1
    assert len(_nodes(document)) == 3


def test_a_node_that_is_cut_off_for_a_while_costs_no_run_and_gives_none_twice(
    cluster: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    """Its processes are stopped and go on: to the others it is as if its network were cut."""
    from mnist_cli.experiments.document import load_document

    node = cluster.add_node(num_cpus=1)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    command = start(*LONG_ENOUGH, "--runs", 9)
    wait_until(lambda: len(job_processes()) == 3, "a run on each node")
    stopped = [raylet, *raylet.children(recursive=True)]
    for each in stopped:
        each.suspend()
    try:
        _, stderr = command.communicate(timeout=60)
    finally:
        for each in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
    assert command.returncode == 0, stderr
    runs = load_document(tmp_path / "results" / "comparison_results.json")["runs"]
    assert sorted(run["seed"] for run in runs) == list(range(9))
    assert sum(run["retries"] for run in runs) == stderr.count("it is begun again")
    cluster.remove_node(node, allow_graceful=False)


def test_a_killed_driver_leaves_no_process_and_its_comparison_is_resumed(
    mnist: Mnist, start: Callable[..., Any], on_cluster: list[str], tmp_path: Path
) -> None:
    quick = [*LONG_ENOUGH, "--runs", 6]
    command = start(*quick)
    wait_until(lambda: _finished_runs(tmp_path / "results") >= 2, "two of six runs")
    command.kill()
    command.wait()
    done = _finished_runs(tmp_path / "results")
    wait_until(lambda: not job_processes(), "no process of a job")
    resumed = mnist(*quick, "--resume", "--json", *on_cluster)
    assert resumed.exit_code == 0, resumed.stderr
    assert sorted(run["seed"] for run in resumed.document["runs"]) == list(range(6))
    assert resumed.stderr.count(" 1/20") == 6 - done  # only the missing ones were trained


def test_ctrl_c_ends_the_runs_on_all_nodes(start: Callable[..., Any]) -> None:
    quick = ["compare", "--framework", "fake", "--arch", "mlp", "--batch-size", 20]
    command = start(*quick, "--seed", 77)
    wait_until(lambda: bool(job_processes()), "a process of a job")
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    _, stderr = command.communicate(timeout=20)
    assert command.returncode == 130
    assert stderr.splitlines()[-1].startswith("Interrupted.")
    assert not job_processes()


def test_a_run_is_given_up_and_another_goes_on(cluster: Any, small_data: Path) -> None:
    jobs = [
        TrainJob(
            "fake",
            ModelSpec("mlp"),
            TrainConfig(batch_size=20, seed=seed),
            threads=1,
            dataset=str(small_data),
        )
        for seed in (77, 5)
    ]
    with ray_runner.ray_runner(
        cluster.address, frameworks=["fake"], threads=1, device="cpu"
    ) as runner:
        stuck, other = map(runner.submit, jobs)
        events: list[tuple[int, str]] = []

        def note(handle: int, event: dict[str, Any]) -> None:
            events.append((handle, event["event"]))

        outcome = runner.wait(note)
        assert outcome.handle == other
        assert RunRecord.from_json(outcome.value()).seed == 5
        told = [event for handle, event in events if handle == other]
        assert (told[0], told[-1]) == ("started", "epoch")
        runner.cancel(stuck)
        wait_until(lambda: not job_processes(), "no process of a job")


def test_a_run_that_is_killed_each_time_is_a_failure_in_the_end(
    cluster: Any, small_data: Path
) -> None:
    def execute(job: Any, on_event: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    job = TrainJob("fake", ModelSpec("mlp"), TrainConfig(), threads=1, dataset=str(small_data))
    notes: list[str] = []
    with ray_runner.ray_runner(
        cluster.address,
        frameworks=["fake"],
        threads=1,
        device="cpu",
        execute=execute,
        note=notes.append,
    ) as runner:
        runner.submit(job)
        outcome = runner.wait(lambda *_: None)
    assert isinstance(outcome.error, FrameworkError)
    assert sum("begun again" in each for each in notes) == ray_runner.MAX_RETRIES


def test_a_run_whose_process_was_killed_is_begun_again_and_counts_it(
    cluster: Any, small_data: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "was here"

    def execute(job: Any, on_event: Any) -> dict[str, Any]:
        if not mark.exists():
            mark.touch()
            error = FrameworkError("The process was killed.")
            error.was_killed = True
            raise error
        return {"environment": {}}

    job = TrainJob("fake", ModelSpec("mlp"), TrainConfig(), threads=1, dataset=str(small_data))
    with ray_runner.ray_runner(
        cluster.address, frameworks=["fake"], threads=1, device="cpu", execute=execute
    ) as runner:
        runner.submit(job)
        assert runner.wait(lambda *_: None).value()["retries"] == 1


def test_a_training_whose_process_is_killed_goes_on_after_its_last_epoch(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    hold = Path(os.environ["FAKE_FRAMEWORK_HOLD"])
    hold.write_text("2")
    try:
        command = start("train", "--framework", "fake", "--arch", "mlp", "--epochs", 4)
        results = tmp_path / "results"
        wait_until((results / "models" / "fake-mlp.safetensors").exists, "an epoch's checkpoint")
        job_processes()[0].kill()
    finally:
        hold.unlink()
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    assert "Going on after epoch 1" in stderr
    record = json.loads((results / "fake-mlp_training.json").read_text())
    assert record["retries"] == 1
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3, 4]


def test_a_run_whose_speed_is_compared_goes_on_on_its_kind_of_machine_alone() -> None:
    run = ray_runner._Run(0, TrainJob("fake", ModelSpec("mlp"), TrainConfig(), threads=1))
    assert not run.can_go_on("a", compares_speed=False)  # no checkpoint came home
    run.kinds.add("a")
    assert run.can_go_on("a", compares_speed=True)
    assert not run.can_go_on("b", compares_speed=True)
    assert run.can_go_on("b", compares_speed=False)


class EndsWhereItArrives:
    """Ends the process that is sent it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_node_that_never_starts_a_run_is_an_error(cluster: Any) -> None:
    broken: Any = EndsWhereItArrives()
    with ray_runner.ray_runner(
        cluster.address, frameworks=["fake"], threads=1, device="cpu", execute=broken
    ) as runner:
        runner.submit(TrainJob("fake", ModelSpec("mlp"), TrainConfig(), threads=1))
        with pytest.raises(FrameworkError, match=r"The node .+ starts no runs"):
            runner.wait(lambda *_: None)


# --- What is said before any run starts --------------------------------------------------------


def test_another_version_of_ray_is_named(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    version = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with (
        pytest.raises(FrameworkError, match=r"Cannot use .*Version mismatch") as caught,
        ray_cluster.connected(cluster.address, []),
    ):
        pass
    assert version in str(caught.value)
    assert "same versions of Ray and Python" in str(caught.value)


def test_a_framework_that_a_node_lacks_is_named(cluster: Any) -> None:
    with (
        pytest.raises(FrameworkError, match=r"The node .+ has no .*nothing.*\. Install it there"),
        ray_cluster.connected(cluster.address, ["numpy", "nothing"]),
    ):
        pass


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("None", r"has no mnist-cli\. Install it there"),
        (
            "type(sys)('mnist_cli'); sys.modules['mnist_cli'].__version__ = '0.1'",
            "mnist-cli 0.1, h",
        ),
    ],
)
def test_a_node_without_this_version_of_the_program_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    # Ray lets a node search where the driver does, which is this machine: stand in before that.
    code = f"import sys\nsys.modules['mnist_cli'] = {module}\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    with monkeypatch.context() as variables:
        variables.setenv("PYTHONPATH", path)
        node = cluster.add_node(num_cpus=1)
    try:
        with (
            pytest.raises(FrameworkError, match=said),
            ray_cluster.connected(cluster.address, ["numpy"]),
        ):
            pass
    finally:
        cluster.remove_node(node)


def test_more_cores_or_gpus_than_a_node_has_are_named(mnist: Mnist, on_cluster: list[str]) -> None:
    quick = ["compare", "--framework", "fake", "--arch", "mlp"]
    gpus = mnist(*quick, "--device", "cuda", *on_cluster)
    assert gpus.exit_code == 1
    assert "No node of the cluster has 1 GPU and 1 core for a run." in gpus.stderr
    cores = mnist(*quick, "--threads", 2, *on_cluster)
    assert cores.exit_code == 1
    assert "No node of the cluster has 2 cores for a run." in cores.stderr
    assert len(cores.stderr.splitlines()) == 1
