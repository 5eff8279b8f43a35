"""`load_dataset`: a dataset by its name or path.

The named datasets are MNIST, which is part of the package, and two of the same form that
torchvision fetches. `FORMATS` lists the formats that a path may have.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.data import folders, idx, npz
from mnist_cli.data.dataset import PARTS, Dataset, OnProgress, from_arrays, idx_sha256
from mnist_cli.data.messages import one_line, printable, reason
from mnist_cli.errors import DataError, UsageError

# The first that matches a path reads it. A new format is a file that defines a `Format`, and its
# place in this tuple.
FORMATS = (folders.FORMAT, idx.FORMAT, npz.FORMAT)

_TORCHVISION_CLASSES = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
DATASETS = (*_TORCHVISION_CLASSES, "mnist")  # all names, as messages list them

# Of the authors' uncompressed IDX files, in the order of `PARTS`. README.md here lists them too.
_EMBEDDED_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)


def load_dataset(name_or_path: str = "mnist", *, on_progress: OnProgress | None = None) -> Dataset:
    """Return the dataset with that name, or the one at that path.

    ``mnist`` is part of the package. ``fashion-mnist`` and ``kmnist`` are fetched by torchvision
    once, into the user's cache folder. A path is a folder of IDX files (gzipped or not, also in
    torchvision's layout), a folder of pictures in folders ``0`` to ``9``, or a Keras-style
    ``.npz``. A name takes precedence over a folder of that name: write ``./mnist`` for the folder.
    ``on_progress`` is told how many of how many pictures have been read.

    Raises `UsageError` for what is neither a name nor a path, `DataError` for what cannot be read.
    """
    with _os_errors_as_data_errors(name_or_path):
        if name_or_path == "mnist":
            return _load_embedded()
        if name_or_path in _TORCHVISION_CLASSES:
            return _load_cached(name_or_path)
        return _load_path(name_or_path, on_progress)


def labels_of(name: str) -> str:
    """Return what the labels of the dataset with this name stand for."""
    return f"the classes of {name}" if name in _TORCHVISION_CLASSES else "digits"


def save_copy(dataset: Dataset, path: Path) -> None:
    """Write a dataset as one ``.npz`` file, for `load_copy` on another machine."""
    arrays: dict[str, Any] = {
        "x_train": dataset.train_images,
        "y_train": dataset.train_labels.astype(np.uint8),
        "x_test": dataset.test_images,
        "y_test": dataset.test_labels.astype(np.uint8),
    }
    np.savez(path, **arrays)


def load_copy(name_or_path: str, path: Path) -> Dataset:
    """Return the dataset that `load_dataset` would, from the copy of it at ``path``.

    Raises `DataError` for a damaged copy.
    """
    with _os_errors_as_data_errors(path):
        dataset = from_arrays(name_or_path, npz.read_archive(path), source=str(path))
    return replace(dataset, shows_digits=name_or_path not in _TORCHVISION_CLASSES)


def fetch(name_or_path: str) -> None:
    """Let torchvision fetch the dataset into the cache if it is a named one that is not there yet.

    `load_dataset` does the same when needed; call this to have it done beforehand. Raises
    `DataError` if it fails.
    """
    if name_or_path not in _TORCHVISION_CLASSES:
        return
    folder = _cache_folder() / name_or_path
    with _os_errors_as_data_errors(folder):
        if not folder.is_dir():
            _download_in_subprocess(name_or_path, folder)


@contextlib.contextmanager
def _os_errors_as_data_errors(default: str | Path) -> Iterator[None]:
    """Turn an `OSError` into a `DataError` that names its file, or else ``default``."""
    try:
        yield
    except OSError as error:
        file = error.filename or default
        raise DataError(f"Cannot read {printable(file)}: {reason(error)}.") from error


# --- The embedded MNIST ----------------------------------------------------------------------


def _load_embedded() -> Dataset:
    """Return MNIST from the package's own files; raises `DataError` unless every byte is right."""
    folder = importlib.resources.files("mnist_cli.data")
    try:
        with contextlib.ExitStack() as stack:
            arrays = []
            for part in PARTS:
                resource = folder / f"{idx.file_names(part)[0]}.gz"
                # as_file, because the package may be imported from a zip.
                path = stack.enter_context(importlib.resources.as_file(resource))
                arrays.append(idx.read_file(path, part))
    except (DataError, OSError) as error:
        raise _damaged_package(str(error)) from error
    digests = [idx_sha256(array) for array in arrays]
    for part, digest, expected in zip(PARTS, digests, _EMBEDDED_SHA256, strict=True):
        if digest != expected:
            raise _damaged_package(f"SHA-256 of the {part.description} is {digest[:12]}...")
    return from_arrays("mnist", arrays, source="mnist", digests=digests)


def _damaged_package(detail: str) -> DataError:
    return DataError(
        f"The embedded MNIST is damaged ({one_line(detail)}); reinstall mnist-cli, "
        "or name a folder of the original files."
    )


# --- The datasets that torchvision fetches ---------------------------------------------------


def _load_cached(name: str) -> Dataset:
    """Return a dataset from the user's cache folder, after fetching it if it is not there."""
    fetch(name)
    folder = _cache_folder() / name
    try:
        dataset = from_arrays(name, idx.read_folder(folder), source=str(folder))
        return replace(dataset, shows_digits=False)  # but clothes or Japanese characters
    except DataError as error:
        raise DataError(
            f"The cached {name} is damaged ({one_line(str(error))}); "
            f"delete {printable(folder)} and it is fetched again."
        ) from error


def _cache_folder() -> Path:
    from platformdirs import user_cache_path  # not needed for the embedded data

    return user_cache_path("mnist-cli")


def _download_in_subprocess(name: str, folder: Path) -> None:
    """Run `_download` in a process of its own; raises `DataError` if it fails.

    torchvision imports torch, and no process may hold two frameworks.
    """
    script = (
        "import sys, pathlib; from mnist_cli.data import registry; "
        "registry._download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The last line of a traceback: the error's class, a colon, its message.
        last_line = (done.stderr.strip().splitlines() or [f"Cannot fetch {name}."])[-1]
        raise DataError(last_line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: "))


def _download(name: str, folder: Path) -> None:
    """Fetch a dataset with torchvision, which checks its MD5, and put its IDX files in ``folder``.

    The files arrive in a temporary folder, which is renamed when complete: no other process reads
    an incomplete dataset, and an interrupted download leaves nothing. Raises `DataError` if it
    fails.
    """
    class_name = _TORCHVISION_CLASSES[name]
    try:
        from torchvision import datasets
    except Exception as error:  # a torch of another version makes it fail with almost anything
        raise DataError(
            f"Cannot fetch {name}: torchvision cannot be imported ({reason(error)}). "
            "Install the torchvision that fits your torch, or give a folder of the IDX files."
        ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            getattr(datasets, class_name)(root=temporary, download=True)
            downloaded = Path(temporary) / class_name / "raw"
            idx.read_folder(downloaded)  # raises before anything wrong becomes visible to others
            _publish(downloaded, folder)
    except Exception as error:  # torchvision's own errors, the network's, the disk's
        raise DataError(
            f"Cannot fetch {name} into {printable(folder.parent)} ({reason(error)}). "
            "Check the network and the folder, or give a folder of the IDX files."
        ) from error


def _publish(downloaded: Path, folder: Path) -> None:
    """Rename a complete download to ``folder``, or delete it if another process was faster."""
    try:
        downloaded.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(downloaded)


# --- A user's own files ----------------------------------------------------------------------


def _load_path(name: str, on_progress: OnProgress | None) -> Dataset:
    """Return the dataset at a path; raises `UsageError` if nothing is there."""
    path = Path(name)
    if "\0" in name or not name or not path.exists():
        raise UsageError(
            f"Unknown dataset {name!r}: neither a known name nor an existing path. Choose from "
            f"{', '.join(DATASETS)}, or give "
            f"{' or '.join(known.description for known in FORMATS)}."
        )
    # There always is one: IDX takes any folder and NPZ anything else.
    found = next(known for known in FORMATS if known.matches(path))
    return from_arrays(name, found.read(path, on_progress), source=name)
