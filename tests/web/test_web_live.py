"""A training by the API: started, followed, steered and ended; and every way to ask wrongly."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp
from web_samples import as_json, ask, drawn, made_app, png, running, save_model

from mnist_cli.web import trainer
from mnist_cli.web.models import load_models

MLP = {"arch": "mlp", "framework": "numpy", "epochs": 1, "learning_rate": 0.05}
PATIENCE_SECONDS = 60


def until(condition: Callable[[], Any]) -> Any:
    """What a condition returns once it is true, which another process will make it."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.02)
    return found


@pytest.fixture(autouse=True)
def _nobody_need_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "UNWATCHED_SECONDS", 600.0)


@contextmanager
def app_of(folder: Path) -> Iterator[ASGIApp]:
    """An application without models of its own; its training is ended afterwards."""
    app = made_app(folder)
    try:
        yield app
    finally:
        ask(app, "POST", "/api/live/stop", **as_json({}))
        until(lambda: state_of(app) in (None, "ended"))


def training_of(app: ASGIApp) -> Any:
    return ask(app, "GET", "/api/live").document["training"]


def state_of(app: ASGIApp) -> str | None:
    training = training_of(app)
    return training and str(training["status"])


def events_of(app: ASGIApp) -> list[dict[str, Any]]:
    """The events so far: the sender hangs up at once."""
    stream = ask(app, "GET", "/api/live/events").body.decode()
    return [json.loads(part.removeprefix("data: ")) for part in stream.split("\n\n") if part]


def change(app: ASGIApp, **settings: object) -> Any:
    return ask(app, "POST", "/api/live/settings", **as_json(settings)).document


def test_a_network_is_trained_steered_and_answers_meanwhile(tmp_path: Path) -> None:
    with app_of(tmp_path) as app:
        started = ask(app, "POST", "/api/live", **as_json({**MLP, "epochs": 1000}))
        assert started.status == 201
        assert started.document["line"] == "dense 128, relu"
        again = ask(app, "POST", "/api/live", **as_json(MLP))
        assert again.status == 409
        assert "A training is running" in again.error

        def has_learnt() -> bool:
            return any(each.get("validation_accuracy", 0) > 0.9 for each in events_of(app))

        until(has_learnt)
        change(app, paused=True)
        until(lambda: state_of(app) == "paused")
        *_, live = ask(app, "GET", "/api/models").document["models"]
        assert (live["name"], live["title"]) == ("live", "NumPy MLP, live")
        assert live["test_accuracy"] is None
        read = ask(app, "POST", "/api/predict", {"content-type": "image/png"}, png(drawn(7)))
        assert [each["name"] for each in read.document["models"]] == ["pretrained", "live"]
        count = len(events_of(app))
        assert len(events_of(app)) == count  # it rests

        assert change(app, paused=False, learning_rate=0.01)["settings"]["learning_rate"] == 0.01
        until(
            lambda: any(
                each.get("learning_rate") == 0.01 and each["event"] == "step"
                for each in events_of(app)
            )
        )
        change(app, slow=True)

        def is_slow() -> bool:
            steps = [each["step"] for each in events_of(app) if each["event"] == "step"][-3:]
            return len(steps) == 3 and steps[2] - steps[0] == 2

        until(is_slow)
        ask(app, "POST", "/api/live/stop", **as_json({}))
        until(lambda: state_of(app) == "ended")
        last = events_of(app)[-1]
        assert last == {"event": "status", "status": "ended", "error": None}
        after = ask(app, "GET", "/api/models").document["models"]
        assert [each["name"] for each in after] == ["pretrained", "live"]


def test_one_more_epoch_follows_the_last(tmp_path: Path) -> None:
    with app_of(tmp_path) as app:
        ask(app, "POST", "/api/live", **as_json(MLP))
        until(lambda: state_of(app) == "finished")
        samples = [each for each in events_of(app) if each["event"] == "sample"]
        steps = samples[-1]["step"]
        (first, second) = samples[-1]["layers"]
        assert (first["name"], second["name"]) == ("fc1", "fc2")
        assert sum(first["counts"]) > 0
        assert first["gradient"] > 0
        change(app, epochs=2)
        until(lambda: events_of(app)[-1].get("status") == "finished")
        assert [each for each in events_of(app) if each["event"] == "sample"][-1][
            "step"
        ] == 2 * steps


def test_a_training_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    with app_of(tmp_path) as app:
        ask(app, "POST", "/api/live", **as_json({**MLP, "learning_rate": 1e30}))
        until(lambda: state_of(app) == "ended")
        error = training_of(app)["error"]
        assert error.startswith("The loss is no longer a number after step ")
        assert error.endswith("Start again with a lower learning rate than 1e+30.")
        assert events_of(app)[-1]["error"] == error
        assert ask(app, "POST", "/api/live", **as_json(MLP)).status == 201


def test_a_training_that_nobody_watches_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "UNWATCHED_SECONDS", 0.5)
    with app_of(tmp_path) as app:
        ask(app, "POST", "/api/live", **as_json({**MLP, "epochs": 1000}))
        until(lambda: state_of(app) == "ended")
        assert training_of(app)["error"] is None


@pytest.mark.parametrize(
    ("says", "wrong"),
    [
        ("^cnov 3, relu: unknown layer 'cnov'; did you mean conv?", {"arch": "cnov 3, relu"}),
        ("conv 3 5x5, dense^: expected the number of units", {"arch": "conv 3 5x5, dense"}),
        ("at most 100,000,000 are allowed", {"arch": "dense 999999"}),
        ("^../../x: unknown layer", {"arch": "../../x"}),
        ("Unknown architecture 'mlpp'", {"arch": "mlpp"}),
        ('"arch" should be a string', {"arch": 7}),
        ("Unknown framework 'x; rm'", {"framework": "x; rm"}),
        ('"framework" should be a string', {"framework": None}),
        ("epochs must be from 1 to 10000, not 0", {"epochs": 0}),
        ("epochs must be from 1 to 10000, not 10001", {"epochs": 10_001}),
        ('"epochs" should be a whole number', {"epochs": 1.5}),
        ("learning rate must be a number above 0, not 0", {"learning_rate": 0}),
        ("learning rate must be a number above 0, not nan", {"learning_rate": float("nan")}),
        ('"learning_rate" should be a number', {"learning_rate": "fast"}),
    ],
)
def test_what_cannot_be_trained_is_refused(
    says: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    app = made_app(tmp_path)
    answer = ask(app, "POST", "/api/live", **as_json({**MLP, **wrong}))
    assert answer.status == 400
    assert says in answer.document["error"]
    assert training_of(app) is None


def test_settings_are_checked_as_those_of_a_start(tmp_path: Path) -> None:
    with app_of(tmp_path) as app:
        ask(app, "POST", "/api/live", **as_json({**MLP, "epochs": 1000}))
        before = training_of(app)["settings"]
        for wrong, says in (
            ({"epochs": 10_001}, "epochs must be from 1 to 10000"),
            ({"learning_rate": -1}, "learning rate must be a number above 0"),
            ({"paused": "yes"}, '"paused" should be true or false'),
            ({"slow": 1}, '"slow" should be true or false'),
        ):
            answer = ask(app, "POST", "/api/live/settings", **as_json(wrong))
            assert answer.status == 400
            assert says in answer.document["error"]
        assert training_of(app)["settings"] == before


def test_nothing_runs_yet(tmp_path: Path) -> None:
    app = made_app(tmp_path)
    known = ask(app, "GET", "/api/live").document
    assert known["training"] is None
    assert known["networks"]["mlp"] == "dense 128, relu"
    assert "numpy" in [each["name"] for each in known["frameworks"]]
    for path in ("/api/live/settings", "/api/live/stop"):
        answer = ask(app, "POST", path, **as_json({}))
        assert answer.status == 409
        assert "No training is running" in answer.error
    assert ask(app, "GET", "/api/live/events").status == 404


def test_a_file_cannot_take_the_name_of_the_live_model(tmp_path: Path) -> None:
    save_model(tmp_path, "live")
    models = load_models(tmp_path)
    assert [each.name for each in models.named] == ["pretrained"]
    assert "live.safetensors is left out: the model that the page trains" in models.problems[0]


def test_the_process_is_gone_after_the_server_ends() -> None:
    with running("--no-browser") as (address, process):
        request = urllib.request.Request(
            f"{address}api/live",
            json.dumps({**MLP, "epochs": 1000}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=20).close()
        with urllib.request.urlopen(f"{address}api/live/events", timeout=20) as stream:
            while b'"step"' not in stream.readline():
                pass
            children = children_of(process.pid)
            assert children
            process.send_signal(2)
            assert process.wait(20) == 130
        # Workers of the killed process end within a fraction of a second.
        until(lambda: not any(is_running(child) for child in children))
        assert process.stderr is not None
        assert process.stderr.read().endswith("Interrupted.\n")


def children_of(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *children_of(child)]
    return found


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
