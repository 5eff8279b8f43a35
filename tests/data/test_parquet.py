"""Parquet files in the layout of Hugging Face's mnist, and what is said of others."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_checks import assert_same_content, assert_valid_or_refused, loading_error, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_files import real_digits, write_dataset
from letter_samples import LETTERS, letters
from PIL import Image
from pyarrow import parquet

from mnist_cli.data.registry import load_dataset
from mnist_cli.names import DIGITS


def as_png(image: np.ndarray) -> bytes:
    return as_file(image, "PNG")


def as_file(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=kind)
    return file.getvalue()


def write_parquet(
    path: Path, images: list[Any], labels: list[Any], names: tuple[str, ...] | None = None
) -> Path:
    """Write what ``datasets`` writes: the names of the classes are JSON in the metadata."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [image if image is None else {"bytes": image, "path": "a.png"} for image in images]
    columns = {"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64())}
    table = pa.table(columns)
    if names is not None:
        feature = {"names": list(names), "_type": "ClassLabel"}
        facts = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def write_mnist(folder: Path) -> Path:
    x_train, y_train, x_test, y_test = real_digits()
    for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        path = folder / f"{part}-00000-of-00001.parquet"
        write_parquet(path, [as_png(each) for each in images], labels.tolist(), DIGITS)
    return folder


@pytest.mark.parametrize("below", ["", "mnist", "data"])
def test_the_folder_of_hugging_faces_mnist_is_the_data_set_of_its_idx_files(
    tmp_path: Path, below: str
) -> None:
    write_mnist(tmp_path / "hub" / below)
    read = load_dataset(str(tmp_path / "hub"))
    assert_same_content(read, load_dataset(str(write_dataset(tmp_path / "idx"))))
    assert read.class_names == DIGITS


def test_a_single_file_is_divided_and_names_its_classes(tmp_path: Path) -> None:
    data = letters()
    images = [as_png(each) for each in data["x_train"]]
    path = write_parquet(tmp_path / "l.parquet", images, data["y_train"].tolist(), LETTERS)
    read = load_dataset(str(path))
    assert read.class_names == LETTERS
    assert len(read.train_labels) + len(read.test_labels) == len(images)
    assert np.bincount(read.test_labels).tolist() == [2] * 26


def test_training_files_in_several_parts_are_put_together(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    x_train, y_train, *_ = real_digits()
    images = [as_png(each) for each in x_train]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", images[:70], y_train[:70].tolist())
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[70:], y_train[70:].tolist())
    np.testing.assert_array_equal(load_dataset(str(tmp_path)).train_images, x_train)


# --- Refused -----------------------------------------------------------------------------------

GOOD = as_png(real_digits()[0][0])


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        ([GOOD, GOOD[:60]], [0, 1], "Row 1 of .* has an image that cannot be read"),
        ([GOOD, None], [0, 1], "Row 1 of .* has no image; expected the bytes of a PNG or"),
        ([GOOD, b""], [0, 1], "Row 1 of .* has no image"),
        ([as_png(np.zeros((32, 30), np.uint8))], [0], "Row 0 of .* 30x32 pixels; expected 28x28"),
        ([GOOD, GOOD], [0, 300], "Row 1 of .* has the label 300; expected 0 to 255"),
        ([GOOD, GOOD], [0, -1], "Row 1 of .* has the label -1"),
        ([GOOD, GOOD], [0, None], "Row 1 of .* has the label None"),
        ([], [], "has no rows"),
    ],
)
def test_a_wrong_row_is_named_with_what_was_expected(
    tmp_path: Path, images: list[Any], labels: list[Any], said: str
) -> None:
    message = loading_error(write_parquet(tmp_path / "bad.parquet", images, labels))
    assert re.search(said, message), message


def test_jpeg_files_are_read_and_other_kinds_are_refused(tmp_path: Path) -> None:
    image = real_digits()[0][0]
    rows = [as_file(image, "JPEG"), GOOD] * 2
    read = load_dataset(str(write_parquet(tmp_path / "jpeg.parquet", rows, [0, 0, 1, 1])))
    assert len(read.train_labels) == 2
    write_parquet(tmp_path / "bmp.parquet", [GOOD, as_file(image, "BMP")], [0, 1])
    message = loading_error(tmp_path / "bmp.parquet")
    assert message.startswith("Row 1 of")
    assert "cannot be read" in message
    assert "expected the bytes of a PNG or JPEG file" in message


@pytest.mark.parametrize("name", ["", "a\x1b", 7, None, "a"])
def test_names_in_the_metadata_that_cannot_be_shown_are_refused(tmp_path: Path, name: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", [GOOD] * 4, [0, 0, 1, 1], ("a", name))
    assert f"named {name!r}; expected" in loading_error(path)


def test_other_columns_are_named(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "other.parquet")
    message = loading_error(tmp_path / "other.parquet")
    assert "has the columns text (string), label (int64); expected image (a struct" in message


def test_a_folder_without_test_files_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    assert "has no test*.parquet" in loading_error(tmp_path)


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'mnist-cli[parquet]'" in loading_error(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    x_train, y_train, *_ = real_digits(12, 10)
    path = tmp_path_factory.mktemp("small") / "a.parquet"
    return write_parquet(path, [as_png(each) for each in x_train], y_train.tolist()).read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"label", b"\xffabel"),  # names of columns are UTF-8
        (b"\x16\x18\x19\x1c", b"\x16\x02\x19\x1c"),  # 1 row instead of 12, in zigzag code
        (b"\x16\x18\x19\x1c", b"\x16\x50\x19\x1c"),  # 40 rows
    ],
)
def test_a_footer_that_contradicts_the_rows_is_refused(
    tmp_path: Path, small: bytes, before: bytes, after: bytes
) -> None:
    assert before in small
    (tmp_path / "a.parquet").write_bytes(small.replace(before, after))
    assert "is no whole Parquet file" in loading_error(tmp_path / "a.parquet")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_is_a_valid_data_set_or_refused(
    tmp_path: Path, small: bytes, data: st.DataObject
) -> None:
    places = st.integers(0, len(small) - 1)
    edits = data.draw(st.lists(st.tuples(places, st.binary(max_size=4)), max_size=4))
    cut = data.draw(st.none() | places)
    (tmp_path / "a.parquet").write_bytes(mutate(small, edits, cut))
    assert_valid_or_refused(tmp_path / "a.parquet")
