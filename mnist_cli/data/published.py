"""The named data sets that torchvision fetches: what it is asked, and its files to four arrays.

torchvision checks the MD5 of each file; where a SHA-256 is known (from the checksums of TensorFlow
Datasets) that is checked too. No pickle is read: images come from IDX, LIBSVM and MATLAB files.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.data import idx
from mnist_cli.data.dataset import PARTS, Arrays, require_labels, require_shape
from mnist_cli.errors import DataError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Published:
    """A data set: ``class_name`` is torchvision's, called with each of ``calls``.

    ``read`` makes the four arrays of the folder that torchvision was given: upright, labels from 0.
    ``sha256`` are those of files by their path in that folder. ``megabytes`` are downloaded.
    """

    class_name: str
    read: Callable[[Path], Arrays]
    megabytes: int
    calls: tuple[Mapping[str, Any], ...] = ({},)
    sha256: Mapping[str, str] = field(default_factory=dict)


def _as_mnist(class_name: str, folder: Path) -> Arrays:
    return idx.read_folder(folder / class_name / "raw")


def _emnist(split: str, first_label: int, folder: Path) -> Arrays:
    """Return a split of EMNIST, whose pictures are stored transposed (Cohen et al., 2017)."""
    arrays = []
    for part, name in zip(PARTS, ("train", "train", "test", "test"), strict=True):
        kind = "images" if part.dims == 3 else "labels"
        stem = f"emnist-{split}-{name}-{kind}-idx{part.dims}-ubyte"
        array = idx.read_file(folder / "EMNIST" / "raw" / stem, part)
        if part.dims == 3:
            array = np.ascontiguousarray(array.transpose(0, 2, 1))
        elif array.min() < first_label:
            raise DataError(f"{stem} has the label 0; expected labels from {first_label} on.")
        else:
            array = array - np.uint8(first_label)
        arrays.append(array)
    return arrays


def _qmnist(folder: Path) -> Arrays:
    """Return QMNIST (Yadav and Bottou, 2019), with all 60,000 test images."""
    raw = folder / "QMNIST" / "raw"
    arrays = []
    for part, name in zip(PARTS, ("train", "train", "test", "test"), strict=True):
        if part.dims == 3:
            array = idx.read_file(raw / f"qmnist-{name}-images-idx3-ubyte.gz", part)
        else:
            array = _qmnist_labels(raw / f"qmnist-{name}-labels-idx2-int.gz")
            require_labels(array, part, where=f"qmnist-{name}-labels-idx2-int.gz")
        arrays.append(array.astype(np.uint8, copy=False))
    return arrays


def _qmnist_labels(path: Path) -> Array:
    """Return the first of the eight columns of a file of int32, which is the label: (N,)."""
    with gzip.open(path) as file:
        magic, rows, columns = struct.unpack(">III", file.read(12))
        content = file.read()
    if magic != 0x0C02 or columns != 8 or len(content) != 4 * rows * columns:
        raise DataError(f"{path.name} is no IDX file of 8 columns of int32.")
    return np.frombuffer(content, ">i4").reshape(rows, columns)[:, 0]


def _usps(folder: Path) -> Arrays:
    """Return USPS (Hull, 1994) from LIBSVM's files, enlarged from 16x16 as MNIST was prepared."""
    arrays = []
    for name in ("usps.bz2", "usps.t.bz2"):
        images, labels = [], []
        with bz2.open(folder / name, "rt", encoding="ascii") as file:
            for number, line in enumerate(file, start=1):
                label, *values = line.split()
                pixels = np.array([value.partition(":")[2] for value in values], np.float32)
                if pixels.size != 16 * 16 or not 1 <= int(float(label)) <= CLASSES:
                    raise DataError(f"Line {number} of {name} is no digit of 16x16 pixels.")
                images.append(_enlarged(pixels.reshape(16, 16)))
                labels.append(int(float(label)) - 1)
        arrays += [np.array(images, np.uint8), np.array(labels, np.uint8)]
    return arrays


def _enlarged(image: Array) -> Array:
    """Return an image (16, 16), -1 to 1, as (28, 28), uint8.

    USPS's digits fill 16x16 pixels; MNIST's fill 20x20, antialiased, with their centre of mass in
    the middle of 28x28.
    """
    import cv2

    ink = np.clip((image + 1) / 2 * 255, 0, 255)
    digit = np.clip(cv2.resize(ink, (20, 20), interpolation=cv2.INTER_CUBIC), 0, 255)
    weight = max(float(digit.sum()), 1.0)
    rows, columns = np.mgrid[:20, :20]
    centre = [(digit * axis).sum() / weight for axis in (rows, columns)]
    top, left = (int(np.clip(round(13.5 - place), 0, 8)) for place in centre)
    page = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    page[top : top + 20, left : left + 20] = np.rint(digit)
    return page


def _svhn(folder: Path) -> Arrays:
    """Return SVHN (Netzer et al., 2011), cropped digits, in grey and 28x28 in place of 32x32."""
    import cv2
    from scipy.io import loadmat

    arrays = []
    for name in ("train_32x32.mat", "test_32x32.mat"):
        content = loadmat(folder / name, variable_names=["X", "y"])
        pictures, labels = content["X"], content["y"].ravel()
        if pictures.shape[:3] != (32, 32, 3) or pictures.dtype != np.uint8:
            raise DataError(f"{name} has pictures of shape {pictures.shape}, not (32, 32, 3, N).")
        grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in np.moveaxis(pictures, 3, 0)]
        size = (IMAGE_SIZE, IMAGE_SIZE)
        images = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in grey]
        arrays += [np.array(images, np.uint8), (labels % CLASSES).astype(np.uint8)]  # 10 is 0
    return arrays


_TRAIN_AND_TEST = ({"train": True}, {"train": False})
_EMNIST_SHA256 = {
    "EMNIST/raw/gzip.zip": "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
}
PUBLISHED = {
    "emnist-digits": Published(
        "EMNIST", partial(_emnist, "digits", 0), 562, ({"split": "digits"},), _EMNIST_SHA256
    ),
    "emnist-letters": Published(
        "EMNIST", partial(_emnist, "letters", 1), 562, ({"split": "letters"},), _EMNIST_SHA256
    ),
    "fashion-mnist": Published("FashionMNIST", partial(_as_mnist, "FashionMNIST"), 31),
    "kmnist": Published("KMNIST", partial(_as_mnist, "KMNIST"), 21),
    "qmnist": Published("QMNIST", _qmnist, 21, _TRAIN_AND_TEST),
    "svhn": Published(
        "SVHN",
        _svhn,
        246,
        ({"split": "train"}, {"split": "test"}),
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
    ),
    "usps": Published("USPS", _usps, 9, _TRAIN_AND_TEST),
}


def download(name: str, folder: Path) -> tuple[Arrays, dict[str, str]]:
    """Let torchvision fetch a data set into an empty folder; return it, and SHA-256 by file.

    Raises `DataError` for other bytes than the published ones; torchvision, the network and the
    disk have errors of their own.
    """
    from torchvision import datasets

    published = PUBLISHED[name]
    for arguments in published.calls:
        getattr(datasets, published.class_name)(root=str(folder), download=True, **arguments)
    digests = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".gz", ".bz2", ".mat", ".zip")  # as they came; others are unpacked
    }
    for file, expected in published.sha256.items():
        if digests.get(file) != expected:
            raise DataError(
                f"{file} has the SHA-256 {digests.get(file, 'of no file')[:12]}..., not the "
                f"published {expected[:12]}..."
            )
    arrays = published.read(folder)
    for array, part in zip(arrays, PARTS, strict=True):
        require_shape(array.shape, part, where=name)
    return arrays, digests


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
