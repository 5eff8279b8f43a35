"""NPZ files: every layout that is read, every damage that is refused, no pickle ever opened."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_checks import (
    assert_same_content,
    assert_valid_or_refused,
    loading_error,
    mutate,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes, real_digits, write_dataset

from mnist_cli.data.registry import load_dataset

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


# --- Layouts -----------------------------------------------------------------------------------


def _npz_file(folder: Path, **changes: np.ndarray) -> str:
    arrays = dict(zip(NPZ_KEYS, real_digits(), strict=True))
    folder.mkdir(exist_ok=True)
    np.savez(folder / "digits.npz", **(arrays | changes))
    return str(folder / "digits.npz")


def _compressed_npz(folder: Path) -> str:
    folder.mkdir()
    np.savez_compressed(folder / "digits.npz", **dict(zip(NPZ_KEYS, real_digits(), strict=True)))
    return str(folder / "digits.npz")


def _npz_with_a_channel_axis(folder: Path) -> str:
    x_train, _, x_test, _ = real_digits()
    return _npz_file(folder, x_train=x_train[..., None], x_test=x_test[..., None])


def _npz_in_fortran_order(folder: Path) -> str:
    return _npz_file(folder, x_train=np.asfortranarray(real_digits()[0]))


def _npz_with_wide_labels(folder: Path) -> str:
    return _npz_file(folder, y_train=real_digits()[1].astype(">i8"))


@pytest.mark.parametrize(
    "layout",
    [
        _npz_file,
        _compressed_npz,
        _npz_with_a_channel_axis,
        _npz_in_fortran_order,
        _npz_with_wide_labels,
    ],
)
def test_every_npz_layout_gives_the_arrays_and_digest_of_idx(
    layout: Callable[[Path], str], tmp_path: Path
) -> None:
    loaded = load_dataset(layout(tmp_path / "other"))
    assert_same_content(loaded, load_dataset(str(write_dataset(tmp_path / "digits"))))
    assert loaded.train_images.flags.c_contiguous
    assert loaded.train_labels.dtype == np.int64


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x_train": np.zeros((120, 28, 28))}, "x_train in .* is float64; expected uint8, 0-255"),
        ({"y_train": np.zeros(120)}, "y_train in .* is float64; expected uint8, 0-255"),
        ({"y_train": np.full(120, -1)}, "label -1 at position 0; expected 0 to 255"),
        ({"y_train": np.arange(180, 300)}, "label 256 at position 76; expected 0 to 255"),
        ({"y_train": np.zeros((120, 10), np.uint8)}, r"shape \(120, 10\); expected .* \(N,\)"),
        ({"x_train": np.zeros((120, 784), np.uint8)}, r"shape \(120, 784\); .*\(N, 28, 28\)"),
        ({"x_test": np.zeros((9, 28, 28, 3), np.uint8)}, r"shape \(9, 28, 28, 3\)"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8)}, "no training images"),
        ({"y_test": np.zeros(3, np.uint8)}, "40 test images but 3 test labels"),
        ({"x_train": np.zeros(3, [("a", "u1")])}, "expected uint8"),
    ],
)
def test_bad_npz_array_is_named_with_what_was_expected_and_came(
    tmp_path: Path, changes: dict[str, np.ndarray], expected: str
) -> None:
    message = loading_error(_npz_file(tmp_path, **changes))
    assert re.search(expected, message), message
    assert "digits.npz" in message


def test_npz_with_other_keys_lists_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros(3), labels=np.zeros(3))
    message = loading_error(tmp_path / "other.npz")
    assert "no x_train (training images)" in message
    assert "expected x_train, y_train, x_test, y_test, found images, labels" in message


class _Bomb:
    """Leaves a mark where it was unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("as_object_array", [True, False])
def test_pickle_is_refused_and_never_opened(tmp_path: Path, as_object_array: bool) -> None:
    mark = tmp_path / "unpickled"
    bomb = np.array([_Bomb(mark)], dtype=object)
    if as_object_array:
        message = loading_error(_npz_file(tmp_path, x_train=bomb))
        assert "not a whole .npz file of plain arrays" in message
    else:
        bomb.dump(tmp_path / "digits.npz")
        assert "not a whole .npz" in loading_error(tmp_path / "digits.npz")
    assert not mark.exists()


def _npz_of_members(path: Path, members: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"not an array",
        b"\x93NUMPY\2\0\xff\xff\xff\xff",
        b"\x93NUMPY\1\0\xff\xff",
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28)"),
        _npy("{[]: 1}"),
        _npy("(" * 5000),
        _npy("{'descr': 'what', 'fortran_order': False, 'shape': (1, 28, 28), }\n"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 28, 28), }\n"),
    ],
)
def test_malformed_npy_member_is_a_data_error(tmp_path: Path, member: bytes) -> None:
    assert "digits.npz" in loading_error(
        _npz_of_members(tmp_path / "digits.npz", {"x_train.npy": member})
    )


def test_npy_header_that_promises_terabytes_takes_no_memory_for_them(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 28, 28), }\n"
    members = {"x_train.npy": _npy(header, bytes(100))}
    message = loading_error(_npz_of_members(tmp_path / "digits.npz", members, zipfile.ZIP_DEFLATED))
    assert "not a whole .npz" in message


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut short", idx_bytes(real_digits()[0])])
def test_file_that_is_no_zip_says_what_was_expected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits").write_bytes(content)
    message = loading_error(tmp_path / "digits")
    assert "not a whole .npz file" in message
    assert "expected a folder of IDX files, or an .npz of x_train" in message


def _packed_npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict(zip(NPZ_KEYS, real_digits(12, 10), strict=True)))
    return file.getvalue()


PACKED = _packed_npz()


@pytest.fixture(scope="module")
def npz_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "digits.npz"


@given(
    # Positions from either end: headers lie at the front, a zip's directory at the back.
    edits=st.lists(st.tuples(st.integers(-400, 400), st.binary(max_size=4)), max_size=4),
    cut=st.none() | st.integers(-400, 400),
)
@example(edits=[], cut=None)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_npz_gives_a_valid_dataset_or_a_data_error(
    npz_path: Path, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    npz_path.write_bytes(mutate(PACKED, edits, cut))
    assert_valid_or_refused(npz_path)
