"""Named data sets: files of the published forms become upright 28x28 images with labels from 0."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_checks import FILES, loading_error
from idx_files import idx_bytes, mnist, real_digits, write_idx
from letter_samples import LETTERS, letters
from scipy.io import savemat

from mnist_cli.data import published, registry
from mnist_cli.data.orientation import orientation
from mnist_cli.data.registry import load_dataset
from mnist_cli.names import DIGITS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Put a torchvision in place whose dataset writes files; return what it was called with."""

    def install(class_name: str, write: Callable[..., None]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def dataset(*, root: str, download: bool, **arguments: Any) -> None:
            assert download
            calls.append(arguments)
            write(Path(root), **arguments)

        module = types.ModuleType("torchvision")
        module.datasets = types.SimpleNamespace(**{class_name: dataset})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", module)
        monkeypatch.setattr(registry, "_download_in_subprocess", registry._download)
        return calls

    return install


def without_checksums(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A stand-in has other bytes than the published file."""
    made = replace(published.PUBLISHED[name], sha256={})
    monkeypatch.setitem(published.PUBLISHED, name, made)


def write_emnist(root: Path, *, split: str) -> None:
    raw = root / "EMNIST" / "raw"
    if split == "letters":
        arrays, first = list(letters().values()), 1
    else:
        arrays, first = list(real_digits()), 0
    for name, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        stem = raw / f"emnist-{split}-{name}"
        write_idx(Path(f"{stem}-images-idx3-ubyte"), images.swapaxes(1, 2))
        write_idx(Path(f"{stem}-labels-idx1-ubyte"), labels + first)
    (raw / "gzip.zip").write_bytes(b"a stand-in")


def write_qmnist(root: Path, *, train: bool) -> None:
    x_train, y_train, x_test, y_test = real_digits()
    name, images, labels = ("train", x_train, y_train) if train else ("test", x_test, y_test)
    raw = root / "QMNIST" / "raw"
    write_idx(raw / f"qmnist-{name}-images-idx3-ubyte.gz", images)
    table = np.zeros((len(labels), 8), ">i4")
    table[:, 0], table[:, 1:] = labels, 300_000
    content = struct.pack(">III", 0x0C02, *table.shape) + table.tobytes()
    (raw / f"qmnist-{name}-labels-idx2-int.gz").write_bytes(gzip.compress(content))


def write_usps(root: Path, *, train: bool) -> None:
    x_train, y_train, x_test, y_test = real_digits()
    name, images, labels = (
        ("usps.bz2", x_train, y_train) if train else ("usps.t.bz2", x_test, y_test)
    )
    rows = []
    for image, label in zip(images, labels, strict=True):
        pixels = cv2.resize(image[4:24, 4:24], (16, 16), interpolation=cv2.INTER_AREA) / 127.5 - 1
        cells = (f"{place}:{value:.4g}" for place, value in enumerate(pixels.ravel(), 1))
        rows.append(f"{label + 1} {' '.join(cells)} \n")
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(bz2.compress("".join(rows).encode()))


def write_svhn(root: Path, *, split: str) -> None:
    x_train, y_train, x_test, y_test = real_digits()
    images, labels = (x_train, y_train) if split == "train" else (x_test, y_test)
    larger = np.array([cv2.resize(image, (32, 32)) for image in images])
    colours = larger[..., None].repeat(3, axis=3)
    labels = np.where(labels == 0, 10, labels)[:, None]
    savemat(root / f"{split}_32x32.mat", {"X": colours.transpose(1, 2, 3, 0), "y": labels})


def test_emnists_letters_are_upright_from_0_and_named(
    cache: Path, torchvision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = torchvision("EMNIST", write_emnist)
    without_checksums(monkeypatch, "emnist-letters")
    data = load_dataset("emnist-letters")
    assert calls == [{"split": "letters"}]
    expected = letters()
    np.testing.assert_array_equal(data.train_images, expected["x_train"])
    np.testing.assert_array_equal(data.test_labels, expected["y_test"])
    assert data.class_names == LETTERS
    assert not data.shows_digits


def test_emnists_digits_are_upright(
    cache: Path, torchvision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision("EMNIST", write_emnist)
    without_checksums(monkeypatch, "emnist-digits")
    data = load_dataset("emnist-digits")
    np.testing.assert_array_equal(data.train_images, real_digits()[0])
    np.testing.assert_array_equal(data.train_labels, real_digits()[1])
    assert data.class_names == DIGITS


@pytest.mark.parametrize(
    ("name", "class_name", "write", "calls"),
    [
        ("qmnist", "QMNIST", write_qmnist, [{"train": True}, {"train": False}]),
        ("usps", "USPS", write_usps, [{"train": True}, {"train": False}]),
        ("svhn", "SVHN", write_svhn, [{"split": "train"}, {"split": "test"}]),
    ],
)
def test_other_digits_have_mnists_form(
    name: str,
    class_name: str,
    write: Any,
    calls: list[dict[str, Any]],
    cache: Path,
    torchvision: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = torchvision(class_name, write)
    without_checksums(monkeypatch, name)
    data = load_dataset(name)
    assert called == calls
    _, y_train, _, y_test = real_digits()
    np.testing.assert_array_equal(data.train_labels, y_train)
    np.testing.assert_array_equal(data.test_labels, y_test)
    assert data.train_images.shape == (120, 28, 28)
    found = orientation(data)
    assert found is not None
    assert found.is_usual
    assert found.likeness > 0.9  # of the mean digits with MNIST's, after scaling there and back


def test_usps_is_enlarged_to_20_pixels_around_its_centre_of_mass() -> None:
    digit = np.full((16, 16), -1.0, np.float32)
    digit[:, 5:9] = 1
    page = published._enlarged(digit).astype(float)
    rows, columns = np.nonzero(page > 127)
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 == 5
    centre = [(page * axis).sum() / page.sum() for axis in np.mgrid[:28, :28]]
    assert centre == pytest.approx([13.5, 13.5], abs=0.51)  # moved by whole pixels


def test_svhn_is_grey_by_luminance_and_inks_stay_as_they_are(tmp_path: Path) -> None:
    colours = np.zeros((32, 32, 3, 2), np.uint8)
    colours[:, :, 1, 0] = 200  # green
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": colours, "y": np.array([[10], [3]])})
    images, labels, *_ = published._svhn(tmp_path)
    assert images[:, 5, 5].tolist() == [round(0.587 * 200), 0]
    assert labels.tolist() == [0, 3]


def test_the_origin_of_a_fetched_data_set_is_kept_with_sha256_sums(
    cache: Path, torchvision: Any
) -> None:
    torchvision("QMNIST", write_qmnist)
    data = load_dataset("qmnist")
    origin = json.loads((cache / "qmnist" / "origin.json").read_text())
    assert origin["sha256"] == data.sha256
    assert sorted(origin["files"]) == [
        f"QMNIST/raw/qmnist-{part}-{kind}.gz"
        for part in ("test", "train")
        for kind in ("images-idx3-ubyte", "labels-idx2-int")
    ]
    assert {len(digest) for digest in origin["files"].values()} == {64}
    assert sorted(path.name for path in (cache / "qmnist").iterdir()) == sorted(
        [*FILES, "origin.json"]
    )


def test_a_changed_pixel_of_a_fetched_data_set_is_noticed(cache: Path, torchvision: Any) -> None:
    torchvision("QMNIST", write_qmnist)
    images = load_dataset("qmnist").train_images.copy()
    images[7, 7, 7] ^= 1
    (cache / "qmnist" / FILES[0]).write_bytes(idx_bytes(images))
    message = loading_error("qmnist")
    assert "The cached qmnist is damaged (its SHA-256 is" in message
    assert f"delete {cache / 'qmnist'}" in message


@pytest.mark.parametrize("name", ["emnist-letters", "emnist-digits"])
def test_other_bytes_than_the_published_ones_are_refused(
    name: str, cache: Path, torchvision: Any
) -> None:
    torchvision("EMNIST", write_emnist)
    message = loading_error(name)
    assert "EMNIST/raw/gzip.zip has the SHA-256" in message
    assert "not the published fb9bb67e3377" in message
    assert list(cache.iterdir()) == []


def _cut(root: Path, *, train: bool) -> None:
    write_usps(root, train=train)
    path = root / ("usps.bz2" if train else "usps.t.bz2")
    path.write_bytes(path.read_bytes()[:-20])


def _text(root: Path, *, train: bool) -> None:
    (root / ("usps.bz2" if train else "usps.t.bz2")).write_bytes(bz2.compress(b"3 1:0.5\n"))


@pytest.mark.parametrize(
    ("write", "said"), [(_cut, "Cannot fetch usps"), (_text, "Line 1 of usps.bz2 is no digit")]
)
def test_damaged_files_leave_nothing_behind(
    write: Any, said: str, cache: Path, torchvision: Any
) -> None:
    torchvision("USPS", write)
    assert said in loading_error("usps")
    assert list(cache.iterdir()) == []


def test_no_file_of_a_matlab_program_is_taken_for_pictures(
    cache: Path, torchvision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(root: Path, *, split: str) -> None:
        savemat(root / f"{split}_32x32.mat", {"X": np.zeros((3, 3)), "y": np.zeros((3, 1))})

    torchvision("SVHN", write)
    without_checksums(monkeypatch, "svhn")
    assert "pictures of shape (3, 3)" in loading_error("svhn")


def test_how_far_a_download_is_says_how_long_the_rest_takes(tmp_path: Path) -> None:
    folder = tmp_path / "svhn"
    assert registry._how_far("svhn", folder, 1.0) == "fetching svhn, 246 MB"
    part = tmp_path / ".svhn-abc" / "raw"
    part.mkdir(parents=True)
    (part / "train_32x32.mat").write_bytes(bytes(82_000_000))
    said = registry._how_far("svhn", folder, 10.0)
    assert said == "fetching svhn: 82 of 246 MB, 20 s left"


def test_every_named_data_set_but_mnist_is_fetched() -> None:
    assert set(registry.DATASETS) == {"mnist", *published.PUBLISHED}
    assert mnist().class_names == DIGITS
