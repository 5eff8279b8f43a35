"""CSV files of pixels: Kaggle's and the ones without a header, and what is said of wrong rows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from dataset_checks import assert_same_content, assert_valid_or_refused, loading_error, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_files import real_digits, write_dataset
from letter_samples import letters

from mnist_cli.data import pixel_csv
from mnist_cli.data.registry import load_dataset
from mnist_cli.names import numbered

HEADER = ",".join(["label", *(f"pixel{number}" for number in range(784))])


def csv_text(images: np.ndarray, labels: np.ndarray | None = None, *, header: str = "") -> str:
    rows = images.reshape(len(images), -1).astype(int)
    if labels is not None:
        rows = np.column_stack([labels, rows])
    return "".join(f"{line}\n" for line in [*[header] * bool(header), *_lines(rows)])


def _lines(rows: np.ndarray) -> list[str]:
    return [",".join(map(str, row)) for row in rows.tolist()]


def write_pair(folder: Path, *, header: str = HEADER, name: str = "{}.csv") -> Path:
    x_train, y_train, x_test, y_test = real_digits()
    (folder / name.format("train")).write_text(csv_text(x_train, y_train, header=header))
    (folder / name.format("test")).write_text(csv_text(x_test, y_test, header=header))
    return folder


@pytest.mark.parametrize(
    ("header", "name"), [(HEADER, "{}.csv"), ("", "mnist_{}.csv"), (HEADER.upper(), "{}.csv")]
)
def test_a_folder_of_two_files_is_the_data_set_of_its_idx_files(
    tmp_path: Path, header: str, name: str
) -> None:
    read = load_dataset(str(write_pair(tmp_path, header=header, name=name)))
    assert_same_content(read, load_dataset(str(write_dataset(tmp_path / "idx"))))


def test_a_quoted_header_a_byte_order_mark_and_blank_ends_are_read(tmp_path: Path) -> None:
    x_train, y_train, *_ = real_digits()
    quoted = ",".join(f'"{name}"' for name in HEADER.split(","))
    text = "\ufeff" + csv_text(x_train, y_train, header=quoted).replace("\n", "\r\n") + "\n\n"
    (tmp_path / "train.csv").write_text(text, encoding="utf-8", newline="")
    (images, labels), *_ = pixel_csv.read_rows(tmp_path / "train.csv", labelled=True)
    np.testing.assert_array_equal(images, x_train)
    np.testing.assert_array_equal(labels, y_train)


def test_of_kaggles_folder_one_training_image_in_six_is_for_the_test(tmp_path: Path) -> None:
    x_train, y_train, x_test, _ = real_digits()
    (tmp_path / "train.csv").write_text(csv_text(x_train, y_train, header=HEADER))
    unlabelled = HEADER.partition(",")[2]
    (tmp_path / "test.csv").write_text(csv_text(x_test, header=unlabelled))
    folder, file = (load_dataset(str(path)) for path in (tmp_path, tmp_path / "train.csv"))
    assert_same_content(folder, file)
    assert np.bincount(folder.test_labels).tolist() == [2] * 10
    assert len(folder.train_labels) + len(folder.test_labels) == 120


def test_any_number_of_classes_is_read(tmp_path: Path) -> None:
    data = letters()
    (tmp_path / "letters.csv").write_text(csv_text(data["x_train"], data["y_train"]))
    assert load_dataset(str(tmp_path / "letters.csv")).class_names == numbered(26)


def test_more_rows_than_are_parsed_at_a_time_keep_their_order(tmp_path: Path) -> None:
    labels = np.arange(2500) % 256
    images = np.zeros((2500, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    path = tmp_path / "many.csv"
    path.write_text(csv_text(images, labels))
    seen: list[tuple[int, int]] = []
    parts = list(
        pixel_csv.read_rows(path, labelled=True, on_progress=lambda *told: seen.append(told))
    )
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    np.testing.assert_array_equal(np.concatenate([part[0][:, 0, 0] for part in parts]), labels)
    assert [done for done, _ in seen] == [1000, 2000, 2500]
    assert seen[-1][1] == 2500


# --- Wrong rows --------------------------------------------------------------------------------


def _with_cell(row: int, column: int, value: str) -> str:
    x_train, y_train, *_ = real_digits()
    lines = csv_text(x_train, y_train, header=HEADER).splitlines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_with_cell(7, 100, "256"), "Line 8 of .* has 256 in column 101; expected a pixel, .* 255"),
        (_with_cell(7, 100, "-1"), "Line 8 of .* has -1 in column 101; expected a pixel"),
        (_with_cell(120, 784, "x"), "Line 121 of .* has x in column 785; expected a pixel"),
        (_with_cell(3, 5, ""), "Line 4 of .* has nothing in column 6"),
        (_with_cell(3, 5, "1.5"), r"Line 4 of .* has 1\.5 in column 6; expected .* whole number"),
        (
            _with_cell(1, 0, "300"),
            "Line 2 of .* has 300 in column 1; expected a label, .* 0 to 255",
        ),
        (_with_cell(9, 783, "1,2"), "Line 10 of .* has 786 values; expected 785: a label and 784"),
        (HEADER + "\n", "has no rows; expected rows of a label and 784 pixels, 0 to 255"),
        ("", "has no rows"),
        (HEADER.partition(",")[2] + "\n1", "784 columns from pixel0 on, .*; expected 785 columns"),
        (HEADER.partition(",")[2] + ",label\n", "the label in column 785; expected 785 columns"),
        ("<html>\n", "has 1 columns from <html> on"),
        ("1,2,3\n", "Line 1 of .* has 3 values; expected 785"),
        ("0," * 40_000, "Line 1 of .* values; expected 785"),
    ],
)
def test_a_wrong_row_is_named_with_what_was_expected(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    message = loading_error(tmp_path / "train.csv")
    assert re.search(said, message), message


def test_a_binary_file_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert "Line 1 of" in (message := loading_error(tmp_path / "train.csv"))
    assert "is no text" in message


@pytest.mark.parametrize("line", [2, 5, 77, 121])
def test_the_line_that_is_no_text_is_named(tmp_path: Path, line: int) -> None:
    x_train, y_train, *_ = real_digits()
    lines = csv_text(x_train, y_train, header=HEADER).encode().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1][:900] + b"\xe4" + lines[line - 1][901:]
    (tmp_path / "train.csv").write_bytes(b"".join(lines))
    assert re.match(f"Line {line} of .* is no text", loading_error(tmp_path / "train.csv"))


def test_a_test_file_without_a_training_file_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "train.csv").unlink()
    assert "has a test.csv, but no train.csv" in loading_error(tmp_path)


SMALL = csv_text(*real_digits(12, 10)[:2], header=HEADER).encode()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(max_size=4)), max_size=4),
    cut=st.none() | st.integers(0, len(SMALL)),
)
def test_a_mutated_file_is_a_valid_data_set_or_refused(
    tmp_path: Path, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    (tmp_path / "train.csv").write_bytes(mutate(SMALL, edits, cut))
    assert_valid_or_refused(tmp_path / "train.csv")
