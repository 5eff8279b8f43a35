"""`load_dataset`: a dataset by its name or path.

The named datasets are MNIST, which is part of the package, and those in `published`, which
torchvision fetches. `FORMATS` lists the formats that a path may have.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.data import folders, idx, npz, parquet, pixel_csv, published
from mnist_cli.data.dataset import PARTS, Dataset, OnProgress, from_arrays, idx_sha256
from mnist_cli.data.messages import one_line, printable, reason
from mnist_cli.errors import DataError, UsageError
from mnist_cli.names import class_names, dataset_name, numbered

# The first that matches a path reads it. A new format is a file that defines a `Format`, and its
# place in this tuple.
FORMATS = (pixel_csv.FORMAT, parquet.FORMAT, folders.FORMAT, idx.FORMAT, npz.FORMAT)

# All names, as messages list them.
DATASETS = tuple(sorted(("mnist", *published.PUBLISHED)))
# In the folder of a fetched dataset: the SHA-256 of its content, and of the files it came from.
_ORIGIN = "origin.json"
_SECONDS_BETWEEN_LOOKS = 0.5  # at how much of a download is there

# Of the authors' uncompressed IDX files, in the order of `PARTS`. README.md here lists them too.
_EMBEDDED_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)


def load_dataset(name_or_path: str = "mnist", *, on_progress: OnProgress | None = None) -> Dataset:
    """Return the dataset with that name, or the one at that path.

    ``mnist`` is part of the package. The others in `DATASETS` are fetched by torchvision once, into
    the user's cache folder. A path has one of `FORMATS`: a folder of IDX files (gzipped or not,
    also in torchvision's layout), of pictures in a folder for each class, of Parquet or CSV files,
    one such file, or a Keras-style ``.npz``. A name takes precedence over a folder of that name:
    write ``./mnist`` for the folder. ``on_progress`` is told how many of how many images have been
    read.

    Raises `UsageError` for what is neither a name nor a path, `DataError` for what cannot be read.
    """
    with _os_errors_as_data_errors(name_or_path):
        if name_or_path == "mnist":
            return _load_embedded()
        if name_or_path in published.PUBLISHED:
            return _load_cached(name_or_path)
        return _load_path(name_or_path, on_progress)


def require_same_classes(
    model: str, names: tuple[str, ...], trained_on: str, dataset: Dataset
) -> None:
    """Raise `UsageError` unless a model tells the classes of a dataset apart.

    ``names`` are those of the model's classes, and ``trained_on`` its dataset. Where one of the two
    has numbers for names, and is no named dataset, their number decides: a dataset without names
    may lack some of the model's classes, but has no label beyond them.
    """
    found = dataset.class_names
    if names == found:
        return
    highest = max(dataset.train_labels.max(), dataset.test_labels.max())
    if dataset.name not in DATASETS and found == numbered(len(found)) and highest < len(names):
        return
    is_numbered = trained_on not in DATASETS and names == numbered(len(names))
    if is_numbered and len(names) == len(found):
        return
    raise UsageError(
        f"{printable(model)} tells {_listed(names)} apart, but "
        f"{printable(dataset_name(dataset.name))} has {_listed(found)}. "
        "Choose models of one kind, and their data set with --dataset."
    )


def _listed(names: tuple[str, ...]) -> str:
    shown = names if len(names) <= 3 else (names[0], names[1], "...", names[-1])
    return f"{len(names)} classes ({printable(', '.join(shown))})"


def save_copy(dataset: Dataset, path: Path) -> None:
    """Write a dataset as one ``.npz`` file, for `load_copy` on another machine."""
    arrays: dict[str, Any] = {
        "x_train": dataset.train_images,
        "y_train": dataset.train_labels.astype(np.uint8),
        "x_test": dataset.test_images,
        "y_test": dataset.test_labels.astype(np.uint8),
        npz.CLASS_NAMES: np.array(dataset.class_names),
    }
    np.savez(path, **arrays)


def load_copy(name_or_path: str, path: Path) -> Dataset:
    """Return the dataset that `load_dataset` would, from the copy of it at ``path``.

    Raises `DataError` for a damaged copy.
    """
    with _os_errors_as_data_errors(path):
        arrays, names = npz.read_archive(path)
        return from_arrays(name_or_path, arrays, source=str(path), class_names=names)


def fetch(name_or_path: str, say: Callable[[str], None] = lambda _: None) -> None:
    """Let torchvision fetch the dataset into the cache if it is a named one that is not there yet.

    `load_dataset` does the same when needed; call this to have it done beforehand. Meanwhile
    ``say`` is told how far it is. Raises `DataError` if it fails.
    """
    if name_or_path not in published.PUBLISHED:
        return
    folder = _cache_folder() / name_or_path
    with _os_errors_as_data_errors(folder):
        if not folder.is_dir():
            _download_in_subprocess(name_or_path, folder, say)


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
        names = class_names(name)
        arrays = idx.read_folder(folder)
        dataset = from_arrays(name, arrays, source=str(folder), class_names=names)
        _require_recorded(dataset, folder / _ORIGIN)
        return dataset
    except DataError as error:
        raise DataError(
            f"The cached {name} is damaged ({one_line(str(error))}); "
            f"delete {printable(folder)} and it is fetched again."
        ) from error


def _require_recorded(dataset: Dataset, origin: Path) -> None:
    """Raise `DataError` unless the content is what was fetched; older folders have no record."""
    if not origin.is_file():
        return
    try:
        recorded = json.loads(origin.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{_ORIGIN} cannot be read") from error
    if recorded != dataset.sha256:
        raise DataError(f"its SHA-256 is {dataset.sha256[:12]}..., not {str(recorded)[:12]}...")


def _cache_folder() -> Path:
    from platformdirs import user_cache_path  # not needed for the embedded data

    return user_cache_path("mnist-cli")


def _download_in_subprocess(name: str, folder: Path, say: Callable[[str], None]) -> None:
    """Run `_download` in a process of its own; raises `DataError` if it fails.

    torchvision imports torch, and no process may hold two frameworks. ``say`` is told how much is
    there of what is downloaded, and how long the rest will take.
    """
    script = (
        "import sys, pathlib; from mnist_cli.data import registry; "
        "registry._download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, name, str(folder)]
    # A file, because nobody empties a pipe meanwhile.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process:
            began = time.monotonic()
            try:
                while process.poll() is None:
                    say(_how_far(name, folder, time.monotonic() - began))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_SECONDS_BETWEEN_LOOKS)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            errors.seek(0)
            # The last line of a traceback: the error's class, a colon, its message.
            last_line = (errors.read().strip().splitlines() or [f"Cannot fetch {name}."])[-1]
            raise DataError(
                last_line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")
            )


def _how_far(name: str, folder: Path, seconds: float) -> str:
    """Return how much of a download is there after some seconds, and what is left of it."""
    total = published.PUBLISHED[name].megabytes
    done = 0.0
    for path in folder.parent.glob(f".{name}-*/**/*"):
        with contextlib.suppress(OSError):  # files are renamed meanwhile
            done += path.stat().st_size / 1e6 * path.is_file()
    if done < 1 or done >= total:
        return f"fetching {name}, {total} MB" if done < 1 else f"unpacking {name}"
    return f"fetching {name}: {done:.0f} of {total} MB, {seconds * (total / done - 1):.0f} s left"


def _download(name: str, folder: Path, _say: object = None) -> None:
    """Fetch a dataset with torchvision, which checks its MD5, as IDX files in ``folder``.

    The files arrive in a temporary folder, which is renamed when complete: no other process reads
    an incomplete dataset, and an interrupted download leaves nothing. Raises `DataError` if it
    fails.
    """
    try:
        from torchvision import datasets  # noqa: F401  # whether it can be imported
    except Exception as error:  # a torch of another version makes it fail with almost anything
        raise DataError(
            f"Cannot fetch {name}: torchvision cannot be imported ({reason(error)}). "
            "Install the torchvision that fits your torch, or give a folder of the IDX files."
        ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            raw, downloaded = (Path(temporary) / each for each in ("raw", "idx"))
            raw.mkdir()
            downloaded.mkdir()
            arrays, files = published.download(name, raw)
            dataset = from_arrays(name, arrays, source=name, class_names=class_names(name))
            idx.write_folder(downloaded, arrays)
            origin = {"sha256": dataset.sha256, "files": files}
            (downloaded / _ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", "utf-8")
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
    arrays, names = found.read(path, on_progress)
    return from_arrays(name, arrays, source=name, class_names=names)
