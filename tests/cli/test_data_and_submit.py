"""`mnist data` and `mnist submit`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from idx_files import mnist as digits
from idx_files import real_digits
from letter_samples import write_letters
from outcomes import Outcome

from mnist_cli import inspect_data, submit
from mnist_cli.errors import DataError, OutputError
from mnist_cli.prediction import Model

SCHEMAS = json.loads((Path(__file__).parents[1] / "schemas.json").read_text())
Run = Callable[..., Outcome]
HEADER = ",".join(f"pixel{number}" for number in range(784))


def write_images(path: Path, images: np.ndarray, *, header: str = HEADER) -> Path:
    rows = (",".join(map(str, row)) for row in images.reshape(len(images), -1).tolist())
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# --- mnist data --------------------------------------------------------------------------------


def test_a_data_set_is_described_in_a_table_sentences_and_a_sheet(
    small_data: Path, tmp_path: Path, mnist: Run
) -> None:
    outcome = mnist("data", small_data, "--results-dir", tmp_path)
    assert outcome.exit_code == 0
    rows = [line.split() for line in outcome.stdout.splitlines()]
    assert ["0", "48", "10"] in rows
    assert "480 training and 100 test images of 10 classes." in outcome.stdout
    assert "Digits look upright, compared with MNIST's." in outcome.stdout
    sheet = tmp_path / f"data_{small_data.stem}.png"
    assert sheet.is_file()
    assert f"written: {sheet}" in outcome.stderr


def test_its_json_has_counts_pixels_duplicates_and_the_verdict(
    small_data: Path, tmp_path: Path, mnist: Run
) -> None:
    document = mnist("data", small_data, "--results-dir", tmp_path, "--json").document
    jsonschema.validate(document, {"$defs": SCHEMAS["$defs"], **SCHEMAS["$defs"]["data"]})
    images = inspect_data(small_data, progress=False).data.train_images
    assert document["pixel_mean"] == pytest.approx(images.mean() / 255)  # exact but for rounding
    assert document["pixel_std"] == pytest.approx(images.std() / 255)
    assert document["orientation"] == "upright"
    assert document["duplicates"]["training"] == 0


def test_equal_images_are_counted_with_those_of_another_label(tmp_path: Path) -> None:
    x_train, y_train, x_test, y_test = real_digits()
    x_train, y_train, x_test, y_test = (a.copy() for a in (x_train, y_train, x_test, y_test))
    x_train[5] = x_train[9] = x_train[2]
    y_train[5] = y_train[2]
    y_train[9] = (y_train[2] + 1) % 10
    x_test[3], y_test[3] = x_train[7], y_train[7]
    path = tmp_path / "twice.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    found = inspect_data(path, progress=False).duplicates
    assert (found.training, found.between, found.with_other_label) == (2, 1, 1)
    assert found.pairs == ((7, 3),)


def test_digits_that_lie_otherwise_are_told_and_turned(tmp_path: Path, mnist: Run) -> None:
    x_train, y_train, x_test, y_test = real_digits()
    arrays = {"x_train": 255 - x_train, "y_train": y_train, "x_test": 255 - x_test}
    np.savez(tmp_path / "dark.npz", **arrays, y_test=y_test)
    outcome = mnist("data", tmp_path / "dark.npz", "--results-dir", tmp_path)
    assert "Digits look dark on light, compared with MNIST's. Give --fix-orient" in outcome.stdout
    fixed = inspect_data(tmp_path / "dark.npz", fix_orientation=True, progress=False)
    assert fixed.orientation == "upright"
    np.testing.assert_array_equal(fixed.data.train_images, x_train)


def test_letters_are_not_compared_with_digits(tmp_path: Path, mnist: Run) -> None:
    outcome = mnist("data", write_letters(tmp_path), "--results-dir", tmp_path)
    assert "not compared" in outcome.stdout
    assert inspect_data(tmp_path / "letters.npz", progress=False).plot().png


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "Unknown dataset 'nothing'"),
        (["a[/b]"], 2, "Unknown dataset 'a[/b]'"),
        (["damaged.npz"], 1, "not a whole .npz file"),
        (["mnist", "--results-dir", "damaged.npz/x"], 1, "Cannot write to the folder"),
    ],
)
def test_what_is_no_data_set_ends_in_one_line(
    arguments: list[str], code: int, said: str, tmp_path: Path, mnist: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    outcome = mnist("data", *arguments)
    assert outcome.exit_code == code
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1


# --- mnist submit ------------------------------------------------------------------------------


def test_a_submission_numbers_the_images_from_1_and_answers_as_the_model(
    tmp_path: Path, mnist: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = digits().test_images[:1200]  # more than are read at a time
    write_images(tmp_path / "test.csv", images)
    outcome = mnist("submit", "pretrained", "test.csv")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("1,200 images predicted, ")
    assert outcome.stderr.strip() == "written: submission.csv"
    with (tmp_path / "submission.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ImageId", "Label"]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 1201)]
    expected = Model(threads=1).logits(images).argmax(axis=1)
    assert [int(row[1]) for row in rows] == expected.tolist()


def test_a_submission_in_json_says_how_many_are_sure(tmp_path: Path, mnist: Run) -> None:
    write_images(tmp_path / "test.csv", digits().test_images[:20])
    output = tmp_path / "mine.csv"
    document = mnist(
        "submit", "pretrained", tmp_path / "test.csv", "--output", output, "--json"
    ).document
    assert document["images"] == 20
    assert 10 < document["sure"] <= 20
    assert document["path"] == str(output)


def _labelled(path: Path) -> None:
    write_images(path, digits().test_images[:2], header=f"label,{HEADER}")


def _wrong_row(path: Path) -> None:
    write_images(path, digits().test_images[:5])
    lines = path.read_text().splitlines()
    lines[3] += ",7"
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_labelled, "has 785 columns from label on, the label in column 1; expected 784 columns"),
        (_wrong_row, "Line 4 of .* has 785 values; expected 784: 784 pixels"),
        (lambda path: path.write_text(""), "has no rows; expected rows of 784 pixels"),
        (lambda path: path.write_text(HEADER), "has no rows"),
        (lambda path: None, r"Cannot read .*test\.csv: No such file"),
        (lambda path: path.mkdir(), "Cannot read"),
    ],
)
def test_wrong_files_leave_no_submission(tmp_path: Path, write: Any, said: str) -> None:
    write(tmp_path / "test.csv")
    output = tmp_path / "out" / "submission.csv"
    with pytest.raises(DataError, match=said):
        submit("pretrained", tmp_path / "test.csv", output=output, threads=1, progress=False)
    assert not output.exists()


def test_a_full_disk_leaves_the_older_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "test.csv", digits().test_images[:3])
    output = tmp_path / "submission.csv"
    output.write_text("older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnist_cli.prediction.Model.logits", full)  # as writing beside it would
    with pytest.raises(OutputError, match="No space left on device"):
        submit("pretrained", tmp_path / "test.csv", output=output, threads=1, progress=False)
    assert output.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["submission.csv", "test.csv"]
