"""A folder of pictures sorted by class: a folder for each, also below ``train`` and ``test``.

The folders' names are those of the classes: ``0`` to ``9`` for digits, or any others. Each picture
shows one digit, letter, ... and is prepared as `mnist predict --single` prepares it, so that a
model trained on them sees what it will see when it reads others. Without ``train`` and ``test``,
one picture in six of each class is kept for the test, spread evenly over their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.data.dataset import (
    Arrays,
    ClassNames,
    Format,
    OnProgress,
    require_class_count,
    split_off_test,
)
from mnist_cli.data.idx import SUBFOLDERS
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError, MnistError
from mnist_cli.names import DIGITS, plural

_PARTS = ("train", "test")
# The pictures of each class, by its name, in the order of the labels.
_Files: TypeAlias = dict[str, list[Path]]


def is_sorted_by_class(path: Path) -> bool:
    """Return whether a path is a folder with a folder of pictures in it, or below ``train``.

    It is not if it has IDX files too, also where torchvision stores them.
    """
    if any(any((path / below).glob("*ubyte*")) for below in SUBFOLDERS):
        return False
    places = [path / below for below in ("", *_PARTS)]
    if any((place / digit).is_dir() for place in places for digit in DIGITS):
        return True
    folders = [folder for place in places for folder in _folders(place)]
    return any(map(_has_pictures, folders))


def read_folder(folder: Path, on_progress: OnProgress | None = None) -> tuple[Arrays, ClassNames]:
    """Return training images, their labels, test images and theirs, from a folder of pictures.

    Labels number the classes; these are returned too. ``on_progress`` is called after each picture.
    Raises `DataError` if a class has no pictures or too few, and for pictures that cannot be read.
    """
    if not any((folder / part).is_dir() for part in _PARTS):
        pictures = _find_pictures(folder, _class_names(folder), minimum=2)
        images, labels = _read(folder, [pictures], on_progress)
        return split_off_test(images, labels, source=folder), tuple(pictures)
    names = _class_names(*(folder / part for part in _PARTS))
    parts = [_find_pictures(folder / part, names, minimum=1) for part in _PARTS]
    images, labels = _read(folder, parts, on_progress)
    count = sum(map(len, parts[0].values()))
    return [images[:count], labels[:count], images[count:], labels[count:]], names


FORMAT = Format(
    "a folder of pictures sorted into folders 0 to 9 or of other names",
    matches=is_sorted_by_class,
    read=read_folder,
)


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place, if it is a folder; hidden ones are left out."""
    if not place.is_dir():
        return []
    return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and its subfolders, but not in theirs.

    A mistyped path, such as that of all of one's files, is thus answered soon.
    """
    from mnist_cli.pictures.opening import SUFFIXES  # imports OpenCV

    for pattern in ("[!.]*", "[!.]*/[!.]*"):  # not the hidden ones
        yield from (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def _has_pictures(folder: Path) -> bool:
    return next(_pictures(folder), None) is not None


def _class_names(*places: Path) -> tuple[str, ...]:
    """Return the names of all folders of pictures in some places: digits, or those that are there.

    Numbers are in their order, other names in that of the alphabet. Raises `DataError` for too few
    or too many.
    """
    found = {path.name for place in places for path in _folders(place) if _has_pictures(path)}
    if found <= set(DIGITS):
        return DIGITS
    require_class_count(len(found), where=printable(places[0]))
    return tuple(sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name)))


def _find_pictures(folder: Path, names: tuple[str, ...], *, minimum: int) -> _Files:
    """Return the pictures of each class. Raises `DataError` if one has fewer than ``minimum``."""
    found = {name: sorted(_pictures(folder / name)) for name in names}
    fewest = min(len(files) for files in found.values())
    if fewest < minimum:
        few = [printable(name) for name, files in found.items() if len(files) == fewest]
        kind = "digit" if names == DIGITS else "class"
        expected = "folders 0 to 9" if names == DIGITS else f"{len(names)} folders"
        each = "this" if len(few) == 1 else "these"
        raise DataError(
            f"{printable(folder)} has {_counted(fewest)} of {', '.join(few)}; "
            f"expected {expected} with at least {_counted(minimum)} in each. Add pictures of "
            f"{each} {kind}{'' if len(few) == 1 else 's' if kind == 'digit' else 'es'}."
        )
    return found


def _counted(count: int) -> str:
    return plural(count, "picture") if count else "no pictures"


def _read(folder: Path, parts: list[_Files], on_progress: OnProgress | None) -> tuple[Array, Array]:
    """Return the prepared pictures of some parts, one after the other, and their labels.

    Raises `DataError` that names the first of all bad ones.
    """
    from mnist_cli.pictures.normalise import UNEXPECTED_ERRORS, prepare  # imports OpenCV

    labelled = [
        (path, label)
        for part in parts
        for label, files in enumerate(part.values())
        for path in files
    ]
    images = np.zeros((len(labelled), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    errors = []
    for number, (path, _) in enumerate(labelled):
        try:
            images[number] = prepare(path, single=True)[0].image
        except (MnistError, *UNEXPECTED_ERRORS) as error:
            errors.append(f"{printable(path.relative_to(folder))}: {error}")
        if on_progress is not None:
            on_progress(number + 1, len(labelled))
    if errors:
        raise DataError(
            f"{len(errors)} of {len(labelled)} pictures in {printable(folder)} cannot be read "
            f"({errors[0]}{', ...' * (len(errors) > 1)}). Mend or remove "
            f"{'it' if len(errors) == 1 else 'them'}."
        )
    return images, np.array([label for _, label in labelled], dtype=np.uint8)
