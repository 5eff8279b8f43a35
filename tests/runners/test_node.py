"""What a node does, without the engine between it and the driver."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset, save_copy
from mnist_cli.errors import FrameworkError
from mnist_cli.runners import process
from mnist_cli.runners.base import Job, OnEvent, TrainJob
from mnist_cli.runners.node import NodeAgent, sha256
from mnist_cli.runners.ray_cluster import shares

JOB = TrainJob("fake", ModelSpec("mlp"), TrainConfig(batch_size=20, epochs=1), 1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the node."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist-cli" / "cluster"


def _agent(**options: Any) -> NodeAgent:
    agent = NodeAgent("n1", timing="exclusive", **options)
    agent.probe()
    return agent


def _run(agent: NodeAgent, job: TrainJob, files: dict[str, bytes]) -> dict[str, Any]:
    digests = {name: sha256(content) for name, content in files.items()}
    contents = (np.frombuffer(content, np.uint8) for content in files.values())
    return agent.run(process.job_json(job), None, digests, *contents)


def _packed(data: Path, folder: Path) -> bytes:
    save_copy(load_dataset(str(data)), folder / "copy.npz")
    return (folder / "copy.npz").read_bytes()


def test_a_data_set_is_written_once_and_a_damaged_copy_anew(
    cache: Path, small_data: Path, tmp_path: Path
) -> None:
    content = _packed(small_data, tmp_path)
    job = replace(JOB, dataset="no/such/folder/here")
    agent = _agent()
    first = _run(agent, job, {job.dataset: content})["result"]
    assert first["dataset"] == "no/such/folder/here"
    assert first["environment"]["data_sha256"] == load_dataset(str(small_data)).sha256
    assert first["environment"]["node"] == "n1"
    (copy,) = cache.iterdir()
    written = copy.stat().st_mtime_ns
    _run(agent, job, {job.dataset: content})
    assert copy.stat().st_mtime_ns == written
    copy.write_bytes(content[:-1])
    assert "result" in _run(agent, job, {job.dataset: content})
    assert copy.read_bytes() == content


def test_a_file_that_did_not_arrive_whole_is_named(cache: Path) -> None:
    job = replace(JOB, dataset="folder")
    wrong = np.zeros(3, np.uint8)
    end = _agent().run(process.job_json(job), None, {"folder": sha256(b"right")}, wrong)
    assert end["error"] == "DataError"
    assert "folder did not arrive whole: expected SHA-256" in end["message"]
    assert list(cache.parent.glob("**/*.npz")) == []


def test_the_checkpoint_comes_home_and_goes_out_to_be_resumed(
    cache: Path, small_data: Path, tmp_path: Path
) -> None:
    job = replace(JOB, dataset="data", checkpoint="models/a.safetensors")
    content = _packed(small_data, tmp_path)
    agent = _agent()
    end = _run(agent, job, {"data": content})
    assert end["result"]["checkpoint"] == "models/a.safetensors"
    assert end["checkpoint"][8:9] == b"{"  # of a safetensors file
    assert agent.news() == {"events": [], "checkpoint": None}
    again = replace(job, resume=True)
    end = _run(agent, again, {"data": content, "models/a.safetensors": end["checkpoint"]})
    notes = [event["text"] for event in end["events"] if event["event"] == "note"]
    assert notes == ["Nothing is left to train: the run is finished."]


def test_of_steps_the_latest_is_told_and_of_the_rest_all() -> None:
    def execute(_: Job, on_event: OnEvent) -> dict[str, Any]:
        for event in ("phase", "step", "step", "epoch", "step", "step"):
            on_event({"event": event, "at": time.monotonic()})
        return {}

    end = _run(_agent(execute=execute), JOB, {})
    assert [event["event"] for event in end["events"]] == ["phase", "step", "epoch", "step"]


def test_an_error_comes_home_with_what_was_printed() -> None:
    def execute(_: Job, on_event: OnEvent) -> dict[str, Any]:
        error = FrameworkError("It was killed.")
        error.details, error.was_killed = "all that it said", True
        raise error

    end = _run(_agent(execute=execute), JOB, {})
    assert (end["error"], end["message"]) == ("FrameworkError", "It was killed.")
    assert (end["details"], end["was_killed"]) == ("all that it said", True)


@pytest.mark.parametrize(
    ("resources", "options", "expected"),
    [
        ({"CPU": 8}, {}, (1, 8)),  # the node to itself
        ({"CPU": 8}, {"threads": 9}, None),
        ({"CPU": 8, "GPU": 4}, {"gpus_per_run": 1}, (4, 2)),
        ({"CPU": 8, "GPU": 4}, {"gpus_per_run": 3}, (1, 8)),
        ({"CPU": 8}, {"gpus_per_run": 1}, None),
        ({"CPU": 2, "GPU": 4}, {"gpus_per_run": 1}, None),  # half a core each
        ({"CPU": 8}, {"share_nodes": True}, (8, 1)),
        ({"CPU": 8}, {"share_nodes": True, "threads": 3}, (2, 3)),
        ({}, {}, None),  # a head that computes nothing
    ],
)
def test_what_a_run_gets_on_a_node(
    resources: dict[str, float], options: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    node = {"NodeID": "abcdef", "NodeManagerHostname": "host", "Resources": resources}
    usual: dict[str, Any] = {"threads": None, "share_nodes": False, "gpus_per_run": 0}
    found = shares([node], **{**usual, **options})
    assert [(each.name, each.slots, each.cpus) for each in found] == (
        [("host-abcd", *expected)] if expected else []
    )


def test_a_trial_that_is_stopped_trains_no_further_while_the_next_begins(
    cache: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before Ray is imported, for the clusters of other tests in this process.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_tune = pytest.importorskip("mnist_cli.runners.ray_tune")
    monkeypatch.setattr(ray_tune.ray, "get", lambda reference: None)
    hold = tmp_path / "hold"  # each process in its second epoch, until it is killed
    hold.write_text("2")
    monkeypatch.setenv("FAKE_FRAMEWORK_HOLD", str(hold))
    job = replace(JOB, config=TrainConfig(batch_size=20, epochs=3), dataset=str(small_data))
    trial = ray_tune.TrainTrial.__new__(ray_tune.TrainTrial)
    trial._node, trial._jobs = "n1", dict.fromkeys((1, 2), process.job_json(job))
    trial._files, trial._contents, trial._end = {}, [], None
    trial._search = SimpleNamespace(tell=SimpleNamespace(remote=lambda *event: None))
    trial._pool = ThreadPoolExecutor(1)
    for number in (1, 2):
        trial.reset_config({"number": number})
        assert not psutil.Process().children()
        assert trial.step()["epoch"] == 1
    trial.cleanup()
    assert not psutil.Process().children()
