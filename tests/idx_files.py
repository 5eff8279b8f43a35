"""Small real datasets on disk, for any test: `from idx_files import write_dataset`."""

from __future__ import annotations

import functools
import gzip
import struct
from pathlib import Path

import numpy as np

from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset


@functools.cache
def mnist() -> Dataset:
    """The embedded MNIST, loaded once for the whole test session. Do not write to its arrays."""
    return load_dataset("mnist")


def idx_bytes(array: np.ndarray) -> bytes:
    """Return a uint8 array as the content of an uncompressed IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    """Write an array as an IDX file of unsigned bytes, gzipped if the name ends in .gz."""
    content = idx_bytes(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Level 1: these files live for one test.
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def real_digits(
    train: int = 120, test: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x_train, y_train, x_test, y_test (uint8): digits of MNIST, classes nearly equal.

    Real handwriting, so a few hundred of them can be learned from: a network that trains must
    get far above one in ten right.
    """
    dataset = mnist()
    rng = np.random.default_rng(seed)
    train_rows = _balanced_rows(dataset.train_labels, train, rng)
    test_rows = _balanced_rows(dataset.test_labels, test, rng)
    return (
        dataset.train_images[train_rows],
        dataset.train_labels[train_rows].astype(np.uint8),
        dataset.test_images[test_rows],
        dataset.test_labels[test_rows].astype(np.uint8),
    )


def _balanced_rows(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` random row numbers, every class as often as every other, give or take 1."""
    order = rng.permutation(len(labels))
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for digit in range(10):
        rows = order[labels[order] == digit]
        rank_in_class[rows] = np.arange(len(rows))
    chosen = order[np.argsort(rank_in_class[order], kind="stable")][:count]
    return rng.permutation(chosen)


def write_dataset(
    folder: Path, train: int = 120, test: int = 40, seed: int = 0, *, gz: bool = False
) -> Path:
    """Write the four IDX files of a small learnable dataset into ``folder`` and return it."""
    x_train, y_train, x_test, y_test = real_digits(train, test, seed)
    ending = ".gz" if gz else ""
    write_idx(folder / f"train-images-idx3-ubyte{ending}", x_train)
    write_idx(folder / f"train-labels-idx1-ubyte{ending}", y_train)
    write_idx(folder / f"t10k-images-idx3-ubyte{ending}", x_test)
    write_idx(folder / f"t10k-labels-idx1-ubyte{ending}", y_test)
    return folder
