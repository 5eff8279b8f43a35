"""The API of "Look inside": its answers, and every way to ask wrongly."""

from __future__ import annotations

import base64
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.types import ASGIApp
from web_samples import Answer, as_json, ask, made_app, save_model

from mnist_cli.arrays import Array
from mnist_cli.config import ModelSpec
from mnist_cli.data.registry import load_dataset
from mnist_cli.prediction import Model
from mnist_cli.training import checkpoint
from mnist_cli.training.checkpoint import PRETRAINED, load
from mnist_cli.training.recipe import normalize, starting_weights
from mnist_cli.web.inside import responses
from mnist_cli.web.models import load_models
from mnist_cli.web.state import State

IMAGE = base64.b64encode(load_dataset("mnist").test_images[0].tobytes()).decode()  # a 7
CONV, POOL, DENSE, SCORES = 0, 1, 4, 5  # layers of the packaged model


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    folder = tmp_path_factory.mktemp("inside")
    (folder / "models").mkdir()
    path = save_model(folder / "models", "cnn")
    spec = ModelSpec("own", line="residual(conv 1, relu), pool, dense 800")
    own = replace(checkpoint.load(path), spec=spec, weights=starting_weights(spec, 0))
    checkpoint.save(folder / "models" / "own.safetensors", own)
    return made_app(folder)


def edit(layer: int, unit: int, **change: Any) -> dict[str, Any]:
    return {"layer": layer, "unit": unit, **change}


def asked(app: ASGIApp, what: str = "", **fields: Any) -> Answer:
    document = {"model": "cnn", "image": IMAGE, **fields}
    return ask(app, "POST", f"/api/inside{what}", **as_json(document))


def asked_until_done(app: ASGIApp, what: str, **fields: Any) -> dict[str, Any]:
    """The answer once all digits are seen; each request must see some."""
    seen = -1
    while True:
        answer: dict[str, Any] = asked(app, what, **fields).document
        assert seen < answer["done"] <= answer["of"]
        seen = answer["done"]
        if seen == answer["of"]:
            return answer


def values_of(layer: dict[str, Any], shape: tuple[int, ...]) -> Array:
    rounded = np.frombuffer(base64.b64decode(layer["values"]), np.int8).reshape(shape)
    values: Array = rounded * (layer["scale"] / 127)
    return values


def test_every_layer_is_shown_and_the_scores_are_the_models(app: ASGIApp) -> None:
    answer = asked(app).document
    assert [each["title"] for each in answer["layers"]] == [
        *("conv 32, relu", "pool", "conv 64, relu", "pool", "dense 128, relu", "dense 10"),
    ]
    assert [each["units"] for each in answer["layers"]] == [32, 0, 64, 0, 128, 10]
    expected = Model(threads=1).logits(load_dataset("mnist").test_images[:1])[0]
    # float32 sums in another order.
    assert answer["logits"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert answer["digit"] == 7
    maps = values_of(answer["layers"][CONV], (32, 28, 28))
    pooled = values_of(answer["layers"][POOL], (32, 14, 14))
    assert maps.min() >= 0 < maps.max()
    # The largest of each window, both in steps of 1/127 of the same largest value.
    windows = maps.reshape(32, 14, 2, 14, 2).max(axis=(2, 4))
    np.testing.assert_allclose(pooled, windows, atol=answer["layers"][CONV]["scale"] / 127)
    against = asked(app, digit=3).document
    assert against["digit"] == 3
    assert against["pixels"] != answer["pixels"]


def test_a_network_of_ones_own_is_shown_with_its_residual_and_the_first_of_many_units(
    app: ASGIApp,
) -> None:
    layers = asked(app, model="own").document["layers"]
    titles = ["conv 1, relu", "residual sum", "pool", "dense 800", "dense 10"]
    assert [each["title"] for each in layers] == titles
    assert [each["inside"] for each in layers] == [1, 0, 0, 0, 0]
    inner, total = (values_of(each, (28, 28)) for each in layers[:2])
    image = normalize(load_dataset("mnist").test_images[0])
    # Both in steps of 1/127 of their largest values.
    rounding = sum(each["scale"] for each in layers[:2]) / 127
    np.testing.assert_allclose(total, image + inner, atol=rounding)
    assert layers[3]["units"] == 800
    assert values_of(layers[3], (256,)).any()
    # 16 MB of 800 features in float32.
    assert asked(app, "/neighbours", model="own").document["of"] == 5_000


def test_a_unit_is_told_number_by_number(app: ASGIApp) -> None:
    answer = asked(app, "/unit", layer=DENSE, unit=3).document
    assert len(answer["terms"]) == 10
    assert answer["rest"]["count"] == 3136 - 10
    listed = sum(each["x"] * each["weight"] for each in answer["terms"])
    total, rectified = (step["value"] for step in answer["steps"])
    # 3,136 products in float32.
    assert listed + answer["rest"]["sum"] + answer["bias"] == pytest.approx(total, abs=1e-4)
    assert answer["value"] == rectified == max(total, 0)
    assert answer["place"] == []
    off = asked(app, "/unit", layer=DENSE, unit=3, edits=[edit(DENSE, 3, off=True)]).document
    assert off["value"] == 0
    there = asked(app, "/unit", layer=CONV, unit=3, place=[0, 0]).document
    assert there["place"] == [0, 0]
    assert len(there["terms"]) == 4  # the other five are outside of the image


def test_edits_change_answers_and_accuracy_but_not_the_model(app: ASGIApp) -> None:
    before = asked(app).document
    always_one = [edit(SCORES, 1, bias=1000)]
    edited = asked(app, edits=always_one).document
    assert np.argmax(edited["logits"]) == 1
    ones = int((load_dataset("mnist").test_labels[:1000] == 1).sum())
    assert asked(app, "/accuracy", edits=always_one).document == {"right": ones, "of": 1000}
    assert asked(app).document == before
    logits = Model(threads=1).logits(load_dataset("mnist").test_images[:1000])
    right = int((logits.argmax(axis=1) == load_dataset("mnist").test_labels[:1000]).sum())
    assert asked(app, "/accuracy").document == {"right": right, "of": 1000}


def test_a_unit_responds_to_its_strongest_test_digits(app: ASGIApp) -> None:
    answer = asked_until_done(app, "/responds", layer=DENSE, unit=5)
    values = [each["value"] for each in answer["strongest"]]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    assert answer["weights"] is None
    strongest = answer["strongest"][0]
    shown = asked(app, image=strongest["image"]).document["layers"][DENSE]
    # In 8 bits.
    assert values_of(shown, (128,))[5] == pytest.approx(values[0], abs=shown["scale"] / 127)
    assert strongest["label"] == load_dataset("mnist").test_labels[strongest["index"]]


def test_the_first_layers_weights_are_an_image(app: ASGIApp) -> None:
    answer = asked(app, "/responds", layer=CONV, unit=2).document["weights"]
    assert answer["shape"] == [3, 3]
    expected = load(PRETRAINED).weights["conv1.weight"][2, 0]
    np.testing.assert_allclose(values_of(answer, (3, 3)), expected, atol=answer["scale"] / 127)


def test_a_training_digit_is_nearest_to_itself(app: ASGIApp) -> None:
    data = load_dataset("mnist")
    image = base64.b64encode(data.train_images[4321].tobytes()).decode()
    answer = asked_until_done(app, "/neighbours", image=image)
    assert answer["of"] == 10_000
    nearest, *others = answer["neighbours"]
    assert nearest["index"] == 4321
    assert nearest["label"] == data.train_labels[4321]
    # The features of a chunk and of one image: float32 sums in another order.
    assert nearest["distance"] == pytest.approx(0, abs=1e-3)
    assert len(others) == 9
    distances = [each["distance"] for each in others]
    assert distances == sorted(distances)


@pytest.mark.parametrize(
    ("status", "says", "what", "fields"),
    [
        (404, "no model", "", {"model": "x"}),
        (404, "no model", "/accuracy", {"model": "../cnn"}),
        (400, '"model"', "/neighbours", {"model": 1}),
        (400, "784 bytes", "", {"image": "AAAA"}),
        (400, "784 bytes", "/neighbours", {"image": "***"}),
        (400, '"image"', "/unit", {"image": None}),
        (400, '"digit"', "", {"digit": 10}),
        (400, '"digit"', "", {"digit": "7"}),
        (400, '"layer"', "/unit", {}),
        (400, '"layer"', "/unit", {"layer": 6, "unit": 0}),
        (400, '"layer"', "/responds", {"layer": -1, "unit": 0}),
        (400, '"layer"', "/responds", {"layer": True, "unit": 0}),
        (400, "one with weights, not pool", "/unit", {"layer": POOL, "unit": 0}),
        (400, '"unit"', "/unit", {"layer": CONV, "unit": 32}),
        (400, '"unit"', "/responds", {"layer": CONV, "unit": 1.5}),
        (400, '"place"', "/unit", {"layer": CONV, "unit": 0, "place": [28, 0]}),
        (400, '"place"', "/unit", {"layer": CONV, "unit": 0, "place": [1]}),
        (400, '"place"', "/unit", {"layer": DENSE, "unit": 0, "place": [1, 1]}),
        (400, '"place"', "/unit", {"layer": CONV, "unit": 0, "place": "1"}),
        (400, "a list of objects", "", {"edits": {}}),
        (400, "a list of objects", "", {"edits": [3]}),
        (400, "at most 100", "", {"edits": [edit(CONV, 0, off=True)] * 101}),
        (400, '"layer"', "", {"edits": [{}]}),
        (400, "layers with weights, not pool", "/accuracy", {"edits": [edit(POOL, 0, off=True)]}),
        (400, '"unit"', "/unit", {"layer": CONV, "unit": 0, "edits": [edit(SCORES, 10)]}),
        (400, '"bias"', "/accuracy", {"edits": [edit(CONV, 0, bias=1001)]}),
        (400, '"bias"', "", {"edits": [edit(CONV, 0, bias=float("nan"))]}),
        (400, '"bias"', "", {"edits": [edit(CONV, 0, bias="1")]}),
        (400, '"off"', "", {"edits": [edit(CONV, 0, off=1)]}),
    ],
)
def test_a_wrong_request_about_the_inside_is_refused(
    app: ASGIApp, status: int, says: str, what: str, fields: dict[str, Any]
) -> None:
    answer = asked(app, what, **fields)
    assert answer.status == status
    assert says in answer.error


def test_what_was_gathered_goes_with_its_model(tmp_path: Path) -> None:
    models = load_models(tmp_path)
    state = State(models, tmp_path, tmp_path)
    responses(state, models.named[0].model, CONV, 0)
    assert len(state.gathered) == 1
    responses(state, models.named[0].model, CONV, 1)
    assert len(state.gathered) == 1
    other = Model(threads=1)
    responses(state, other, CONV, 0)
    assert len(state.gathered) == 2
    del other
    gc.collect()  # a model refers to itself
    assert len(state.gathered) == 1
