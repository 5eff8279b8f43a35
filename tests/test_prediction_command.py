"""`mnist predict`: its output, and what it does with files of any kind."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pillow_heif
import pytest
from outcomes import Outcome
from PIL import Image
from prediction_samples import save_digits

from mnist_cli import prediction
from mnist_cli.arrays import Array
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.records import EpochRecord
from mnist_cli.training import checkpoint, recipe
from mnist_cli.training.checkpoint import Checkpoint

Mnist = Callable[..., Outcome]
SCHEMAS = json.loads(Path(__file__).with_name("schemas.json").read_text())
MUTATED = 2000


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save_digits(tmp_path / "pictures")


def test_on_a_terminal_each_answer_has_its_own_line(
    pictures: Path, on_terminal: Callable[..., bytes]
) -> None:
    seen = on_terminal("predict", pictures).decode()
    assert "0/10" in seen  # the progress bar was there
    lines = re.split(r"[\r\n]+|\x1b\[[\d;?]*[A-Zh-l]", seen)  # as the screen shows them
    answers = [line for line in lines if ".png:" in line]
    assert len(answers) == 10
    assert all(line.startswith(str(pictures)) for line in answers)  # nothing of the bar precedes it
    assert "10 pictures in" in lines[-2]


def test_one_picture_is_one_line(mnist: Mnist, pictures: Path) -> None:
    outcome = mnist("predict", pictures / "4.png")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    (line,) = outcome.stdout.splitlines()
    assert line.startswith(f"{pictures / '4.png'}: 4  (4 ")
    assert line.count("%") == 3


def test_json_is_as_documented(mnist: Mnist, pictures: Path) -> None:
    outcome = mnist("predict", pictures, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    schema = {"$defs": SCHEMAS["$defs"], **SCHEMAS["$defs"]["predict"]}
    jsonschema.validate(outcome.document, schema)
    assert [item["text"] for item in outcome.document] == [str(label) for label in range(10)]
    assert outcome.document[3]["file"] == str(pictures / "3.png")
    assert "10 pictures in" in outcome.stderr
    assert "per second" in outcome.stderr


def test_csv_has_a_header_and_one_line_per_picture(mnist: Mnist, pictures: Path) -> None:
    outcome = mnist("predict", pictures / "[12].png", "--csv")
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [row["text"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {"file", "text", "confidence", "sure"}


def test_folders_patterns_and_several_names_are_read(mnist: Mnist, pictures: Path) -> None:
    (pictures / "below").mkdir()
    (pictures / "9.png").rename(pictures / "below" / "9.PNG")
    (pictures / "notes.txt").write_text("not looked at")
    (pictures / "._0.png").write_bytes(b"a hidden file of macOS")
    names = [pictures, pictures / "[0-3].png", pictures / "5.png"]
    outcome = mnist("predict", *names, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "".join(item["text"] for item in outcome.document) == "012345678901235"


def test_standard_input_is_read_as_a_picture(pictures: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mnist_cli", "predict", "-", "--json"],
        input=(pictures / "8.png").read_bytes(),
        capture_output=True,
        check=True,
    )
    (item,) = json.loads(done.stdout)
    assert (item["file"], item["text"]) == ("-", "8")


def test_show_draws_the_input_of_the_network(mnist: Mnist, pictures: Path) -> None:
    outcome = mnist("predict", pictures / "0.png", "--show")
    lines = outcome.stdout.splitlines()[1:]
    assert len(lines) == 14
    # Without a terminal there are no colours. A 0 has ink on both sides of a gap.
    assert set("".join(lines)) <= set(" ▀▄█")
    middle = lines[7].strip()
    assert " " in middle
    outcome = mnist("predict", pictures / "0.png", "--show", "--json")
    assert outcome.document[0]["text"] == "0"
    assert "█" in outcome.stderr


def test_a_pattern_without_matches_is_not_counted_as_a_picture(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    outcome = mnist("predict", pictures, tmp_path / "*.jpg")
    assert outcome.exit_code == 1
    assert "could not be read" not in outcome.stderr
    assert outcome.stderr.count("no file matches") == 1


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_read(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    for path, exit_code, said in (
        (tmp_path / "plot.jpg", 2, "ends in .png"),
        (tmp_path / "folder.png", 2, "must be a file"),
        (pictures / "1.png" / "plot.png", 1, "Choose another with --save-plot"),
        (tmp_path / ("p" * 300) / "plot.png", 1, "name too long"),
    ):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        outcome = mnist("predict", pictures / "1.png", "--save-plot", path)
        assert outcome.exit_code == exit_code
        assert outcome.stdout == ""
        assert said in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


def test_unprintable_names_take_one_line_and_can_be_drawn(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    odd = pictures / "two\nlines \x1b[31m.png"
    (pictures / "3.png").rename(odd)
    os.rename(pictures / "4.png", os.fsencode(pictures) + b"/\xff.png")  # noqa: PTH104  # no text
    outcome = mnist("predict", pictures, "--save-plot", tmp_path / "plot.png")
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.stdout.splitlines()) == 10
    assert "two?lines ?[31m.png: 3" in outcome.stdout
    assert "?.png: 4" in outcome.stdout


def test_another_model_classifies_the_digits_that_the_packages_model_segments(
    pictures: Path, tmp_path: Path, mnist: Mnist
) -> None:
    path = tmp_path / "mine" / "models" / "numpy-mlp.safetensors"
    path.parent.mkdir(parents=True)
    spec = ModelSpec("mlp")
    untrained = Checkpoint(
        spec=spec,
        config=TrainConfig(),
        framework="numpy",
        dataset="mnist",
        dataset_sha256="",
        train_images=0,
        history=(EpochRecord(1, 2.3, 2.3, 0.1, 2.3, 0.1, 1.0, 1.0),),
        weights=recipe.starting_weights(spec, 0),
    )
    checkpoint.save(path, untrained)
    names = [np.asarray(Image.open(pictures / f"{label}.png")) for label in (1, 4, 7)]
    Image.fromarray(np.hstack(names)).save(pictures / "147.png")
    outcome = mnist("predict", pictures / "147.png", "--model", path, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.document[0]["digits"]) == 3
    assert outcome.document[0]["text"] != "147"
    by_name = ("--model", "numpy-mlp", "--results-dir", tmp_path / "mine", "--json")
    assert mnist("predict", pictures / "147.png", *by_name).document == outcome.document


def test_save_plot_draws_boxes_digits_and_probabilities(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plots" / "plot.png"
    outcome = mnist("predict", pictures, "--save-plot", path)
    assert outcome.exit_code == 0, outcome.stderr
    assert str(path) in outcome.stderr
    with Image.open(path) as image:
        assert image.width == 1600
        drawn = np.asarray(image.convert("RGB"))
    # Six pictures are drawn, each with a prepared digit: a black square beside a white page.
    rows = (drawn[:, 400:].max(axis=2) < 10).mean(axis=1) > 0.03
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= 6


def test_a_page_on_its_side_is_turned_as_asked(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    digits = [np.asarray(Image.open(pictures / f"{label}.png")) for label in (2, 4, 3, 7, 4)]
    path = pictures / "side.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(np.hstack(digits)))).save(path)
    outcome = mnist("predict", path, "--save-plot", tmp_path / "plot.png")
    assert "side.png: 24374  (" in outcome.stdout
    assert "turned by 90 degrees" in outcome.stdout
    assert (tmp_path / "plot.png").exists()
    (item,) = mnist("predict", path, "--rotate", "90", "--json").document
    assert (item["text"], item["rotation"]) == ("24374", 90)
    (item,) = mnist("predict", path, "--rotate", "0", "--json").document
    assert item["rotation"] == 0
    assert item["text"] != "24374"


def test_a_text_has_lines_and_digits_that_are_not_sure_are_marked(
    mnist: Mnist, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [np.asarray(Image.open(pictures / f"{label}.png")) for label in (1, 2, 7, 4)]
    page = np.vstack([np.hstack(pages[:2]), np.hstack(pages[2:])])
    Image.fromarray(page).save(pictures / "page.png")
    outcome = mnist("predict", pictures / "page.png")
    assert "page.png: 12 / 74  (" in outcome.stdout
    assert len(outcome.stdout.splitlines()) == 5  # and the three most probable digits of each
    never = replace(prediction.DEFAULT_CALIBRATION, sure_probability=1.1)
    monkeypatch.setattr(prediction, "DEFAULT_CALIBRATION", never)
    outcome = mnist("predict", pictures / "page.png")
    assert "page.png: 1?2? / 7?4?  (" in outcome.stdout
    assert "not sure" in outcome.stdout
    outcome = mnist("predict", pictures / "page.png", "--csv")
    assert outcome.stdout.splitlines()[1].split(",")[1] == "12 / 74"
    outcome = mnist("predict", pictures / "page.png", "--json")
    assert outcome.document[0]["text"] == "12\n74"
    assert outcome.document[0]["sure"] is False
    outcome = mnist("predict", pictures / "page.png", "--single", "--json")
    assert len(outcome.document[0]["digits"]) == 1


def test_bad_files_are_one_line_each_and_the_others_are_read(
    mnist: Mnist, pictures: Path, tmp_path: Path
) -> None:
    whole = (pictures / "1.png").read_bytes()
    bad = {
        "text.png": b"Dear reader,\n",
        "empty.png": b"",
        "cut.png": whole[:-40],
        "blank.png": _png(np.full((40, 40), 200, np.uint8)),
        "noise.png": _png(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)),
        "dot.png": _png(np.zeros((1, 1), np.uint8)),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    names = [pictures / "1.png", *(tmp_path / name for name in bad), tmp_path / "absent.png"]
    names += [tmp_path / "nothing", tmp_path / "*.jpg", pictures / "2.png"]
    outcome = mnist("predict", *names, "--json")
    assert outcome.exit_code == 1
    assert [item["text"] for item in outcome.document] == ["1", "2"]
    lines = outcome.stderr.splitlines()
    assert len(lines) == len(bad) + 3 + 1  # the throughput
    for name in (*bad, "absent.png", "nothing", "*.jpg"):
        assert sum(f"{name}: " in line for line in lines) == 1, name
    assert sum("no digit found" in line for line in lines) == 3


def _png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_wrong_usage_is_one_line(mnist: Mnist, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "1.png"
    for arguments, exit_code in (
        ((picture, "--json", "--csv"), 2),
        ((picture, "--framework", "jaxx"), 2),
        ((picture, "--rotate", "45"), 2),
        ((picture, "--threads", 0), 2),
        ((picture, "--model", tmp_path / "absent.safetensors"), 1),
        ((), 2),
    ):
        outcome = mnist("predict", *arguments)
        assert outcome.exit_code == exit_code
        assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
        assert outcome.stderr.startswith("Error: ")


def test_numpy_imports_no_framework(pictures: Path) -> None:
    script = (
        "import sys; from mnist_cli.cli import app\n"
        f"sys.argv = ['mnist', 'predict', {str(pictures / '1.png')!r}]\n"
        "try: app.main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    heavy = {"torch", "tensorflow", "keras", "sklearn", "scipy", "matplotlib", "rich"}
    assert not loaded & heavy, loaded & heavy


@pytest.mark.slow
def test_mutated_files_give_answers_or_one_line_each(pictures: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = _every_format(pictures)
    folder = tmp_path / "mutated"
    folder.mkdir()
    for number in range(MUTATED):
        suffix, content = whole[number % len(whole)]
        data = bytearray(content)
        for _ in range(rng.integers(1, 12)):
            kind, place = rng.integers(0, 5), int(rng.integers(0, len(data)))
            if kind == 0:
                data[place] = rng.integers(0, 256)
            elif kind == 1:
                data[place] ^= 1 << rng.integers(0, 8)
            elif kind == 2:
                del data[place : place + int(rng.integers(1, 30))]
            elif kind == 3:
                data[place:place] = rng.bytes(int(rng.integers(1, 30)))
            else:  # in the header, which has sizes and offsets
                data[min(len(data) - 1, int(rng.integers(0, 64)))] = rng.integers(0, 256)
            if not data:
                break
        (folder / f"{number:04}.{suffix}").write_bytes(bytes(data))
    done = subprocess.run(
        [sys.executable, "-m", "mnist_cli", "predict", folder, "--json"],
        capture_output=True,
        text=True,
        timeout=300,  # against a hang; usually it takes a few seconds
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    read = [item["file"] for item in json.loads(done.stdout)]
    *bad, summary = done.stderr.splitlines()
    # One file in 19 is a PDF of two pages, and a mutation may give or take a page.
    assert MUTATED <= len(read) + len(bad) <= 1.1 * MUTATED
    assert summary.startswith(f"{len(read) + len(bad):,} pictures in"), summary
    assert "Traceback" not in done.stderr
    assert [line for line in bad if not line.startswith(str(folder))] == []
    assert len(bad) >= MUTATED / 20  # the mutations do damage files


def _every_format(pictures: Path) -> list[tuple[str, bytes]]:
    """A small picture in each format and in several modes, with its suffix."""
    with Image.open(pictures / "3.png") as image:
        grey = image.convert("L")
    kinds = [
        ("png", grey, {}),
        ("png", grey.convert("1"), {}),
        ("png", grey.convert("P"), {}),
        ("png", grey.convert("RGBA"), {}),
        ("jpg", grey, {}),
        ("jpg", grey.convert("CMYK"), {}),
        ("gif", grey, {"save_all": True, "append_images": [grey.rotate(9)]}),
        ("bmp", grey.convert("RGB"), {}),
        ("tiff", grey, {}),
        ("tiff", grey.convert("1"), {"compression": "group4"}),
        ("tiff", grey.convert("RGB"), {"compression": "tiff_lzw"}),
        ("tiff", grey.convert("RGB"), {"compression": "jpeg"}),
        ("webp", grey.convert("RGB"), {}),
        ("webp", grey.convert("RGBA"), {"lossless": True}),
        ("pgm", grey, {}),
        ("avif", grey.convert("RGB"), {}),
        ("heif", grey.convert("RGB"), {}),
        ("pdf", grey, {"save_all": True, "append_images": [grey.rotate(9)]}),
        ("pdf", grey.convert("1"), {}),
    ]
    pillow_heif.register_heif_opener()
    files = []
    for suffix, picture, options in kinds:
        file = io.BytesIO()
        file_format = {"jpg": "JPEG", "pgm": "PPM"}.get(suffix, suffix.upper())
        picture.save(file, file_format, **options)
        files.append((suffix, file.getvalue()))
    return files
