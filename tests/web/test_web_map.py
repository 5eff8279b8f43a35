"""The map in the API: computed in a process, told how far it is, kept; and every wrong request."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from starlette.types import ASGIApp
from web_samples import Answer, as_json, ask, drawn, made_app, png, save_model

from mnist_cli import mapping
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import CheckpointError
from mnist_cli.runners import process
from mnist_cli.runners.base import MapJob
from mnist_cli.web import digit_map
from mnist_cli.web.models import NamedModel, load_models
from mnist_cli.web.server import create_app
from mnist_cli.web.state import State

MAP = "/api/map?model=cnn&layer=10&method=pca"
BLANK = base64.b64encode(bytes(784)).decode()
PLACE = {"model": "cnn", "layer": 10, "method": "pca", "image": BLANK}


@pytest.fixture
def app(tmp_path: Path) -> ASGIApp:
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models", "cnn")
    return made_app(tmp_path)


def map_of(app: ASGIApp, address: str = MAP) -> tuple[Answer, list[Any]]:
    """The final answer at a map's address, and what was told before."""
    told = []
    end = time.monotonic() + 120
    while (answer := ask(app, "GET", address)).status == 202:
        told.append(answer.document)
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer, told


def made_map() -> mapping.DigitMap:
    """A map of 1,000 points, made up."""
    rng = np.random.default_rng(0)
    reduced = rng.standard_normal((1_000, 10)).astype(np.float32)
    return mapping.DigitMap(
        points=reduced[:, :2],
        predictions=np.zeros(1_000, np.float32),
        explained=np.array([0.5, 0.25], np.float32),
        mean=np.zeros(10, np.float32),
        components=np.eye(10, dtype=np.float32),
        reduced=reduced,
    )


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[MapJob]:
    """The jobs that would have run in a process; each has a made-up map as its result."""
    seen: list[MapJob] = []

    def run(job: MapJob, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        seen.append(job)
        on_event({"event": "phase", "name": "in the test", "share": 0.5})
        return made_map().to_json()

    monkeypatch.setattr(process, "run", run)
    return seen


def test_a_map_is_computed_by_scikit_learn_in_a_process_of_its_own(app: ASGIApp) -> None:
    answer, told = map_of(app)
    assert answer.status == 200
    assert all(0 <= each["share"] <= 1 for each in told)
    assert any(each["phase"].startswith("layer outputs") for each in told)
    digits = ask(app, "GET", "/api/map/digits").document
    dataset = load_dataset()
    images = np.frombuffer(base64.b64decode(digits["images"]), np.uint8).reshape(-1, 28, 28)
    assert images.tolist() == dataset.test_images[digits["indices"]].tolist()
    assert digits["labels"] == dataset.test_labels[digits["indices"]].tolist()
    from mnist_cli.prediction import Model

    logits = Model(threads=1).logits(images)
    found = answer.document
    assert found["predictions"] == logits.argmax(axis=1).tolist()
    exact = PCA(2, svd_solver="full")
    expected = exact.fit_transform(logits.astype(np.float64))
    points = np.array(found["points"])
    signs = np.sign((points * expected).sum(axis=0))  # of no meaning in PCA
    # Logits of up to 20 in float32, computed in two ways, as in test_mapping.
    np.testing.assert_allclose(points * signs, expected, atol=1e-3)
    np.testing.assert_allclose(found["explained"], exact.explained_variance_ratio_, rtol=1e-4)

    # A drawing lands where the same digit is.
    one = {**PLACE, "image": base64.b64encode(images[123].tobytes()).decode()}
    landed = ask(app, "POST", "/api/map", **as_json(one)).document
    assert landed["point"] == pytest.approx(found["points"][123], abs=1e-3)
    assert landed["nearest"][0] == 123
    assert len(landed["nearest"]) == 5


def test_by_tsne_a_drawing_stands_among_its_nearest(app: ASGIApp, jobs: list[MapJob]) -> None:
    points = np.array(map_of(app, MAP.replace("pca", "tsne"))[0].document["points"])
    answer = ask(app, "POST", "/api/predict", {"content-type": "image/png"}, png(drawn(7)))
    image = answer.document["digits"][0]["image"]
    landed = ask(app, "POST", "/api/map", **as_json({**PLACE, "method": "tsne", "image": image}))
    nearest = landed.document["nearest"]
    # A mean of five float32 numbers.
    assert landed.document["point"] == pytest.approx(points[nearest].mean(axis=0), abs=1e-5)


def test_a_map_is_computed_once_for_each_model_layer_and_method(
    app: ASGIApp, jobs: list[MapJob]
) -> None:
    for address in (MAP, MAP, MAP.replace("10", "9"), MAP.replace("pca", "tsne"), MAP):
        assert map_of(app, address)[0].status == 200
    assert [(job.layer, job.method) for job in jobs] == [(10, "pca"), (9, "pca"), (10, "tsne")]


def test_another_model_of_the_name_has_a_map_of_its_own(tmp_path: Path, jobs: list[MapJob]) -> None:
    models = tmp_path / "models"
    models.mkdir()
    save_model(models, "cnn")
    state = State(load_models(models), models, tmp_path)
    app = create_app(state)
    assert map_of(app)[0].status == 200
    (old,) = state.models.named
    object.__setattr__(old, "model", load_models(models).named[0].model)
    assert ask(app, "POST", "/api/map", **as_json(PLACE)).status == 404
    assert map_of(app)[0].status == 200
    assert len(jobs) == 2


def test_the_model_that_is_being_trained_has_no_map(tmp_path: Path, jobs: list[MapJob]) -> None:
    state = State(load_models(tmp_path), tmp_path, tmp_path)
    state.models.put(NamedModel("live", state.models.reader))
    answer = ask(create_app(state), "GET", MAP.replace("cnn", "live"))
    assert answer.status == 400
    assert "is being trained" in answer.error
    assert jobs == []


def test_old_maps_are_given_up(
    app: ASGIApp, jobs: list[MapJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digit_map, "MAX_MAPS", 2)
    for layer in (8, 9, 10, 10, 9, 8):
        map_of(app, MAP.replace("10", str(layer)))
    assert [job.layer for job in jobs] == [8, 9, 10, 8]


def test_maps_are_computed_one_after_the_other_and_forgotten_ones_not_at_all(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, began = threading.Event(), []

    def run(job: MapJob, _: object) -> dict[str, Any]:
        began.append(job.layer)
        assert may_end.wait(20)
        return made_map().to_json()

    monkeypatch.setattr(process, "run", run)
    assert ask(app, "GET", MAP).status == 202
    while not began:
        time.sleep(0.01)
    waiting = ask(app, "GET", MAP.replace("10", "9"))
    assert waiting.document == {"phase": "waiting for its turn", "share": 0.0}
    monkeypatch.setattr(digit_map, "FORGOTTEN_SECONDS", -1.0)  # nobody asks for it any more
    may_end.set()
    assert map_of(app)[0].status == 200
    while any(thread.name == "map" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert began == [10]


def test_what_ends_a_computation_is_told_and_tried_again(app: ASGIApp, tmp_path: Path) -> None:
    path = tmp_path / "models" / "cnn.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:1_000])
    answer, _ = map_of(app)
    assert answer.status == 500
    assert "is not a whole safetensors file" in answer.error
    path.write_bytes(whole)
    assert map_of(app)[0].status == 200


def test_a_defect_in_a_computation_is_told_and_forgotten(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(process, "run", fail)
    answer, _ = map_of(app)
    assert answer.status == 500
    assert answer.error == "This is a defect of the program: ZeroDivisionError. Report it."
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "says", "query"),
    [
        (400, '"model"', "layer=10&method=pca"),
        (404, "no model of that name", "model=../cnn&layer=10&method=pca"),
        (400, '"layer" should be one of 0, 1, 2', "model=cnn&method=pca"),
        (400, '"layer"', "model=cnn&layer=7&method=pca"),  # flatten changes nothing
        (400, '"layer"', "model=cnn&layer=11&method=pca"),
        (400, '"layer"', "model=cnn&layer=-1&method=pca"),
        (400, '"layer"', "model=cnn&layer=x&method=pca"),
        (400, '"method" should be one of pca, tsne', "model=cnn&layer=10"),
        (400, '"method"', "model=cnn&layer=10&method=umap"),
    ],
)
def test_a_map_that_there_is_not_is_refused(
    app: ASGIApp, jobs: list[MapJob], status: int, says: str, query: str
) -> None:
    answer = ask(app, "GET", f"/api/map?{query}")
    assert answer.status == status
    assert says in answer.error
    assert jobs == []


@pytest.mark.parametrize(
    ("status", "says", "change"),
    [
        (404, "has not been computed", {"layer": 9}),
        (404, "no model of that name", {"model": "other"}),
        (400, '"model"', {"model": 7}),
        (400, '"layer"', {"layer": 9.5}),
        (400, '"layer"', {"layer": [10]}),
        (400, '"method"', {"method": ["pca"]}),
        (400, '"image"', {"image": None}),
        (400, '"image"', {"image": "***"}),
        (400, '"image"', {"image": base64.b64encode(bytes(783)).decode()}),
    ],
)
def test_a_drawing_that_cannot_be_placed_is_refused(
    app: ASGIApp, jobs: list[MapJob], status: int, says: str, change: dict[str, Any]
) -> None:
    map_of(app)
    answer = ask(app, "POST", "/api/map", **as_json({**PLACE, **change}))
    assert answer.status == status
    assert says in answer.error


def test_a_place_needs_json(app: ASGIApp) -> None:
    assert ask(app, "POST", "/api/map", {"content-type": "text/plain"}, b"x").status == 415


def test_the_process_tells_which_model_it_cannot_read(tmp_path: Path) -> None:
    job = MapJob(str(tmp_path / "none.safetensors"), 1, "pca", threads=1)
    with pytest.raises(CheckpointError, match="No model at"):
        process.run(job, lambda _: None)


def test_models_list_their_layers(app: ASGIApp) -> None:
    (model,) = ask(app, "GET", "/api/models").document["models"]
    assert model["layers"][0] == {"layer": 0, "name": "input pixels", "shape": [1, 28, 28]}
    assert model["layers"][-1] == {"layer": 10, "name": "dense 10", "shape": [10]}
