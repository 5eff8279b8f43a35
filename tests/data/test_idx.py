"""IDX folders: every layout that is read, every damage that is refused."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_checks import (
    FILES,
    PARTS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    assert_same_content,
    assert_valid_or_refused,
    loading_error,
    mutate,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes, mnist, real_digits, write_dataset

import mnist_cli.data
from mnist_cli.data.registry import load_dataset

EMBEDDED = Path(mnist_cli.data.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "digits")


# --- Layouts -----------------------------------------------------------------------------------


def test_folder_is_read_as_it_was_written(folder: Path) -> None:
    dataset = load_dataset(str(folder))
    for part, written in zip(PARTS, real_digits(), strict=True):
        np.testing.assert_array_equal(getattr(dataset, part), written)
    assert dataset.name == str(folder)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_images.flags.writeable  # torch.from_numpy warns about the other kind


def _gzipped(folder: Path) -> str:
    return str(write_dataset(folder, gz=True))


def _gzipped_without_saying_so(folder: Path) -> str:
    for name in FILES:
        (folder / f"{name}.gz").rename(write_dataset(folder, gz=True) / name)
    return str(folder)


def _unpacked_by_the_browser(folder: Path) -> str:
    write_dataset(folder)
    for name in FILES:
        (folder / name).rename(folder / f"{name}.gz")
    return str(folder)


def _dotted(folder: Path) -> str:
    write_dataset(folder)
    for name in FILES:
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    return str(folder)


def _torchvision_class(folder: Path) -> str:
    write_dataset(folder / "raw")
    return str(folder)


def _torchvision_root(folder: Path) -> str:
    write_dataset(folder / "MNIST/raw")
    return str(folder)


def _whole_below_a_stray_file(folder: Path) -> str:
    write_dataset(folder / "raw")
    (folder / TRAIN_LABELS).write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize(
    "layout",
    [
        _gzipped,
        _gzipped_without_saying_so,
        _unpacked_by_the_browser,
        _dotted,
        _torchvision_class,
        _torchvision_root,
        _whole_below_a_stray_file,
    ],
)
def test_every_idx_layout_gives_the_same_arrays_and_digest(
    layout: Callable[[Path], str], folder: Path, tmp_path: Path
) -> None:
    loaded = load_dataset(layout(tmp_path / "other"))
    assert_same_content(loaded, load_dataset(str(folder)))
    assert loaded.train_images.flags.c_contiguous
    assert loaded.train_labels.dtype == np.int64


def test_unpacked_mnist_has_the_digest_of_the_embedded(tmp_path: Path) -> None:
    for name in FILES:
        packed = (EMBEDDED / f"{name}.gz").read_bytes()
        (tmp_path / name).write_bytes(gzip.decompress(packed))
    assert load_dataset(str(tmp_path)).sha256 == mnist().sha256


def test_written_datasets_are_balanced_real_digits(tmp_path: Path) -> None:
    dataset = load_dataset(str(write_dataset(tmp_path, train=103, test=20)))
    counts = np.bincount(dataset.train_labels, minlength=10)
    assert counts.sum() == 103
    assert set(counts.tolist()) == {10, 11}
    assert np.bincount(dataset.test_labels).tolist() == [2] * 10


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_missing_file_names_what_was_looked_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = loading_error(folder)
    assert f"in {folder}: looked for {name} and {name.replace('-idx', '.idx')}" in message


def test_empty_folder_names_the_folder_given(tmp_path: Path) -> None:
    assert f"No training images in {tmp_path}:" in loading_error(tmp_path)


def _header(*sizes: int, kind: int = 0x08) -> bytes:
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes)


IMAGES, LABELS = (idx_bytes(array) for array in real_digits()[:2])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (TRAIN_IMAGES, b"", "is empty; expected training images"),
        (TRAIN_IMAGES, IMAGES[:3], "is not an IDX file"),
        (TRAIN_IMAGES, IMAGES[:10], "truncated: expected a header of 16 bytes, but it has 10"),
        (TRAIN_IMAGES, IMAGES[:-5], "truncated: its header promises 94080 bytes .* has 94075"),
        (TRAIN_LABELS, LABELS[:-1], "truncated: its header promises 120 bytes .* has 119"),
        (TRAIN_IMAGES, IMAGES + b"\0", "too long: its header promises 94080 bytes .* has more"),
        (TRAIN_IMAGES, b"<htm" + IMAGES[4:], "not an IDX file: .* starts with 3c 68 74 6d"),
        (TRAIN_IMAGES, _header(1, 28, 28, kind=0x0D) + bytes(3136), "type 0x0d; .* type 0x08"),
        (TRAIN_IMAGES, LABELS, "holds labels .* expected training images, .* not swapped"),
        (TRAIN_LABELS, IMAGES, "holds images .* expected training labels, .* not swapped"),
        (TRAIN_IMAGES, _header(9, 784) + bytes(9 * 784), "an array of 2 dimensions"),
        (TRAIN_IMAGES, _header(2, 32, 32) + bytes(2048), r"shape \(2, 32, 32\); .*\(N, 28, 28\)"),
        (TRAIN_IMAGES, _header(0, 28, 28), "holds no training images"),
        (TRAIN_LABELS, _header(0), "holds no training labels"),
        (TRAIN_LABELS, _header(3) + b"\1\2\3", "120 training images but 3 training labels"),
        (TRAIN_IMAGES, b"\x1f\x8b garbage", "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:-9], "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:-8] + bytes(8), "damaged gzip .*CRC"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:99] + b"\xff" * 99, "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES[:-5], mtime=0), "truncated: its header promises 94080"),
        (TRAIN_IMAGES, gzip.compress(b"", mtime=0), "is empty"),
    ],
)
def test_bad_idx_file_is_named_with_what_was_expected_and_came(
    folder: Path, name: str, content: bytes, expected: str
) -> None:
    (folder / name).write_bytes(content)
    message = loading_error(folder)
    assert re.search(expected, message), message
    assert str(folder) in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_header_that_promises_terabytes_takes_no_memory_for_them(
    folder: Path, pack: Callable[[bytes], bytes]
) -> None:
    # 3 TiB: asking for so much fails at once on most machines, and that would be a MemoryError.
    (folder / TRAIN_IMAGES).write_bytes(pack(_header(2**32 - 1, 28, 28) + bytes(100)))
    assert "has 100." in loading_error(folder)


def test_folder_in_the_place_of_a_file_is_missing(folder: Path) -> None:
    (folder / TRAIN_IMAGES).unlink()
    (folder / TRAIN_IMAGES).mkdir()
    assert "No training images" in loading_error(folder)


def test_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by chmod: the tests may run as root, who reads everything.
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert loading_error(folder) == f"Cannot read {folder / TRAIN_IMAGES}: Permission denied."


def test_path_with_a_newline_is_shown_in_one_line(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "two\nlines")
    (folder / TRAIN_IMAGES).write_bytes(b"")
    assert r"two\nlines" in loading_error(folder)


X_SMALL, Y_SMALL = (idx_bytes(array) for array in real_digits(12, 10)[:2])
VICTIMS = {
    "images": (TRAIN_IMAGES, X_SMALL),
    "gzipped images": (TRAIN_IMAGES, gzip.compress(X_SMALL, mtime=0)),
    "labels": (TRAIN_LABELS, Y_SMALL),
}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("mutated"), 12, 10)


@given(
    victim=st.sampled_from(sorted(VICTIMS)),
    # Positions from either end: headers lie at the front, gzip's checksum at the back.
    edits=st.lists(st.tuples(st.integers(-400, 400), st.binary(max_size=4)), max_size=4),
    cut=st.none() | st.integers(-400, 400),
)
@example(victim="labels", edits=[], cut=None)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_idx_file_gives_a_valid_dataset_or_a_data_error(
    small_folder: Path, victim: str, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    name, content = VICTIMS[victim]
    file = small_folder / name
    original = file.read_bytes()
    file.write_bytes(mutate(content, edits, cut))
    try:
        assert_valid_or_refused(small_folder)
    finally:
        file.write_bytes(original)
