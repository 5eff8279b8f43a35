"""The JSON API: its answers, and every way to ask wrongly."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.types import ASGIApp
from web_samples import as_json, ask, drawn, made_app, png, save_model

import mnist_cli
from mnist_cli.arrays import CLASSES
from mnist_cli.data.registry import load_dataset
from mnist_cli.training import checkpoint
from mnist_cli.web import views
from mnist_cli.web.http import MAX_BODY_BYTES, RequestError
from mnist_cli.web.models import load_models
from mnist_cli.web.state import State, model_named

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: two alike, and one that takes each digit for the next; and two broken files."""
    folder = tmp_path_factory.mktemp("web")
    models = folder / "models"
    models.mkdir()
    save_model(models, "numpy-cnn")
    save_model(models, "torch-cnn", framework="torch")
    save_model(models, "z-other", framework="tensorflow", shift=1)
    (models / "broken.safetensors").write_bytes(b"not a model")
    (models / ".torch-cnn.safetensors").write_bytes(b"half written")
    save_model(folder, "outside")
    (models / "link.safetensors").symlink_to(folder / "outside.safetensors")
    return folder


@pytest.fixture(scope="module")
def app(folder: Path) -> ASGIApp:
    return made_app(folder)


def test_a_picture_is_answered_by_every_model(app: ASGIApp) -> None:
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(7))).document
    assert [each["text"] for each in answer["models"]] == ["7", "7", "8"]
    (digit,) = answer["digits"]
    image = np.frombuffer(base64.b64decode(digit["image"]), np.uint8).reshape(28, 28)
    assert image.max() == 255
    assert 0 <= digit["box"][0] < digit["box"][2] <= 280
    for each in answer["models"]:
        (read,) = each["digits"]
        assert read["digit"] == int(np.argmax(read["probabilities"]))
        # Rounding of ten float64 values.
        assert sum(read["probabilities"]) == pytest.approx(1, abs=1e-12)
        assert each["verdict"] == "sure"
        assert each["ms"] > 0
    assert answer["disagreements"] == [
        {
            "position": 0,
            "answers": [
                {"digit": 7, "models": ["numpy-cnn", "torch-cnn"]},
                {"digit": 8, "models": ["z-other"]},
            ],
        }
    ]


def test_an_answer_is_that_of_predict(app: ASGIApp) -> None:
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(3))).document
    expected = mnist_cli.predict(png(drawn(3))).to_json()["digits"][0]
    assert answer["models"][0]["digits"][0]["probabilities"] == expected["probabilities"]
    assert answer["digits"][0]["box"] == expected["box"]


def test_several_digits_are_a_line(app: ASGIApp) -> None:
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(4, 7, 2))).document
    assert answer["models"][0]["text"] == "472"
    assert [digit["line"] for digit in answer["digits"]] == [0, 0, 0]
    assert [each["position"] for each in answer["disagreements"]] == [0, 1, 2]
    single = ask(app, "POST", "/api/predict?single=true", PNG, png(drawn(4, 7))).document
    assert len(single["digits"]) == 1


def test_a_picture_may_be_turned(app: ASGIApp) -> None:
    turned = png(np.rot90(drawn(7)))
    answer = ask(app, "POST", "/api/predict?rotate=90", PNG, turned).document
    assert answer["models"][0]["text"] == "7"
    assert answer["rotation"] == 90


def test_json_takes_base64_and_data_urls(app: ASGIApp) -> None:
    code = base64.b64encode(png(drawn(2))).decode()
    for picture in (code, f"data:image/png;base64,{code}"):
        answer = ask(
            app, "POST", "/api/predict", **as_json({"picture": picture, "rotate": 0})
        ).document
        assert answer["models"][0]["text"] == "2"


def test_a_blank_picture_is_an_answer_without_digits(app: ASGIApp) -> None:
    blank = png(np.full((99, 99), 255, np.uint8))
    response = ask(app, "POST", "/api/predict", PNG, blank)
    assert response.status == 200
    answer = response.document
    assert answer["digits"] == []
    assert {each["verdict"] for each in answer["models"]} == {"no digit"}


def test_a_model_that_rejects_says_no_digit(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = save_model(tmp_path / "models", "rejecting")
    made = checkpoint.load(path)
    # The last bias so low that the eleventh class, whose logit is 0, wins always.
    *_, bias = made.weights
    low = {**made.weights, bias: made.weights[bias] - 1000}
    checkpoint.save(path, replace(made, config=replace(made.config, reject=True), weights=low))
    answer = ask(made_app(tmp_path), "POST", "/api/predict", PNG, png(drawn(7))).document
    assert answer["models"][0]["verdict"] == "no digit"
    assert answer["models"][0]["digits"][0]["verdict"] == "no digit"


def test_models_are_listed_and_broken_files_told_in_a_line_each(app: ASGIApp) -> None:
    listed = ask(app, "GET", "/api/models").document
    names = [each["name"] for each in listed["models"]]
    assert names == ["numpy-cnn", "torch-cnn", "z-other"]
    assert listed["models"][1]["title"] == "PyTorch CNN"
    assert listed["models"][1]["parameters"] == 421_642
    broken, link = listed["problems"]
    assert broken.startswith("broken.safetensors is left out: ")
    assert "leads out of the folder" in link
    assert all("\n" not in line for line in (broken, link))


def test_models_alike_have_titles_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        save_model(tmp_path / "models", name)
    listed = ask(made_app(tmp_path), "GET", "/api/models").document["models"]
    assert [each["title"] for each in listed] == ["NumPy CNN (a)", "NumPy CNN (b)"]


def test_a_request_names_one_of_the_models(folder: Path) -> None:
    state = State(load_models(folder / "models"), folder / "models", folder / "kept")
    assert model_named(state, "torch-cnn").model.checkpoint.framework == "torch"
    with pytest.raises(RequestError, match="no model of that name"):
        model_named(state, "../outside")


def test_without_models_the_packaged_one_answers(tmp_path: Path) -> None:
    app = made_app(tmp_path)
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(5))).document
    assert [(each["name"], each["text"]) for each in answer["models"]] == [("pretrained", "5")]


def test_kept_drawings_are_a_data_set(app: ASGIApp, folder: Path) -> None:
    for digit in range(CLASSES):
        for ink in (0, 60):
            picture = base64.b64encode(png(drawn(digit, ink=ink))).decode()
            answer = ask(app, "POST", "/api/keep", **as_json({"picture": picture, "label": digit}))
            assert answer.status == 201
            assert (folder / "kept" / answer.document["file"]).is_file()
    assert answer.document["kept"] == 2 * CLASSES
    again = ask(app, "POST", "/api/keep", **as_json({"picture": picture, "label": 9}))
    assert again.document == answer.document  # the same drawing counts once
    data = load_dataset(str(folder / "kept"))
    assert sorted(data.test_labels.tolist()) == list(range(CLASSES))
    modes = {path.stat().st_mode & 0o777 for path in (folder / "kept").rglob("*.png")}
    assert modes == {0o644}


@pytest.mark.parametrize("label", [-1, 10, 1.0, True, "3", "../3", None, [3], 10**30])
def test_a_label_is_a_digit(app: ASGIApp, folder: Path, label: object) -> None:
    before = sorted(folder.rglob("*"))
    picture = base64.b64encode(png(drawn(3))).decode()
    answer = ask(app, "POST", "/api/keep", **as_json({"picture": picture, "label": label}))
    assert answer.status == 400
    assert '"label"' in answer.error
    assert sorted(folder.rglob("*")) == before


def test_a_blank_drawing_is_not_kept(app: ASGIApp, folder: Path) -> None:
    picture = base64.b64encode(png(np.full((50, 50), 255, np.uint8))).decode()
    answer = ask(app, "POST", "/api/keep", **as_json({"picture": picture, "label": 3}))
    assert (answer.status, answer.document["error"]) == (422, "no digit found")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    picture = base64.b64encode(png(drawn(3))).decode()
    answer = ask(
        made_app(tmp_path), "POST", "/api/keep", **as_json({"picture": picture, "label": 3})
    )
    assert answer.status == 500
    assert "is not a folder" in answer.error


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "says", "request_"),
    [
        (415, "image/png", ("POST", "/api/predict", {"content-type": "text/plain"}, b"x")),
        (415, "image/png", ("POST", "/api/predict", {}, b"x")),
        (415, "application/json", ("POST", "/api/keep", PNG, b"x")),
        (422, "not a picture", ("POST", "/api/predict", PNG, b"GET / HTTP")),
        (422, "empty", ("POST", "/api/predict", PNG, b"")),
        (422, "damaged", ("POST", "/api/predict", PNG, png(drawn(3))[:200])),
        (400, "no JSON", ("POST", "/api/predict", JSON, b"{")),
        (400, "no JSON", ("POST", "/api/predict", JSON, b"\xff\xfe")),
        (400, "no JSON", ("POST", "/api/predict", JSON, b"[" * 200_000)),
        (400, "no JSON", ("POST", "/api/predict", JSON, b"9" * 10_000)),
        (400, "JSON object", ("POST", "/api/predict", JSON, b"[1]")),
        (400, '"picture"', ("POST", "/api/predict", JSON, b"{}")),
        (400, '"picture"', ("POST", "/api/predict", JSON, b'{"picture": 7}')),
        (400, '"picture"', ("POST", "/api/predict", JSON, b'{"picture": "***"}')),
        (400, '"picture"', ("POST", "/api/predict", JSON, b'{"picture": "data:text,x"}')),
        (400, '"single"', ("POST", "/api/predict", JSON, b'{"picture": "", "single": 1}')),
        (400, '"single"', ("POST", "/api/predict?single=maybe", PNG, png(drawn(3)))),
        (400, '"rotate"', ("POST", "/api/predict?rotate=45", PNG, png(drawn(3)))),
        (405, "method", ("GET", "/api/predict", {}, b"")),
        (405, "method", ("DELETE", "/api/models", {}, b"")),
        (404, "nothing", ("GET", "/api/unknown", {}, b"")),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(
    app: ASGIApp, status: int, says: str, request_: tuple[str, str, dict[str, str], bytes]
) -> None:
    answer = ask(app, *request_)
    assert answer.status == status
    assert says in answer.document["error"]
    assert answer.headers["content-type"] == "application/json"


def test_a_picture_over_the_pixel_limit_is_refused_before_it_is_decoded(app: ASGIApp) -> None:
    # A decompression bomb: 900 million pixels in 110 kB.
    bomb = Image.new("1", (30_000, 30_000))
    file = io.BytesIO()
    bomb.save(file, "PNG")
    answer = ask(app, "POST", "/api/predict", PNG, file.getvalue())
    assert answer.status == 422
    assert "too large: 30,000 x 30,000 pixels" in answer.document["error"]


@pytest.mark.parametrize("tells_its_length", [True, False])
def test_a_body_over_10_mb_is_refused(app: ASGIApp, tells_its_length: bool) -> None:
    headers = {**PNG, "content-length": str(MAX_BODY_BYTES + 1) if tells_its_length else "0"}
    answer = ask(app, "POST", "/api/predict", headers, bytes(MAX_BODY_BYTES + 1), parts=3)
    assert answer.status == 413
    assert "10,000,000 bytes" in answer.error


def test_a_flood_is_refused_while_the_server_is_busy(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_cli.web.state.MAX_WAITING", 0)
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(3)))
    assert answer.status == 429
    assert "busy" in answer.error


def test_a_defect_is_an_error_in_json_without_a_traceback(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr("mnist_cli.web.predicting.predict", fail)
    answer = ask(app, "POST", "/api/predict", PNG, png(drawn(3)))
    assert answer.status == 500
    assert answer.error == "This is a defect of the program: ZeroDivisionError. Report it."
    told = capfd.readouterr().err
    assert told == "POST /api/predict failed: ZeroDivisionError: in the middle\n"


def test_the_api_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "draw-api.md").read_text()
    for route in views.ROUTES:
        (method,) = (route.methods or set()) - {"HEAD"}
        assert f"`{method} {route.path}`" in page
