"""`export_model`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from mnist_cli.api.arguments import PathLike, checked_threads, checks_arguments
from mnist_cli.errors import FrameworkError, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnist_cli.arrays import Array
    from mnist_cli.export.formats import Format

VERIFIED_IMAGES = 1000
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Export:
    """A model in another format.

    ``largest_difference`` is that of its logits from the model's, over `VERIFIED_IMAGES` digits.
    """

    format: str
    path: str
    size_bytes: int
    largest_difference: float


@checks_arguments
def export_model(
    model: PathLike,
    to: str | Iterable[str],
    *,
    output: PathLike | None = None,
    raw: bool = False,
    threads: int | None = None,
    results_dir: PathLike = "results",
    progress: bool = True,
) -> list[Export]:
    """Write a model in other formats, and return what was written.

    ``model`` is a file, a name in the models of ``results_dir``, or ``pretrained``. ``to`` are
    names in `export.formats.FORMATS`. ``output`` is the file or folder of one format, or the folder
    for several; by default ``exports`` in ``results_dir``. With ``raw`` files take normalised
    images and give logits. Each is loaded again by its own runtime: unless its logits of 1,000 test
    digits agree within 1e-4, nothing is kept. Raises `CheckpointError`, `UsageError`, `OutputError`
    and `FrameworkError`.
    """
    import numpy as np

    from mnist_cli.data.registry import load_dataset
    from mnist_cli.prediction import Model
    from mnist_cli.reporting import console
    from mnist_cli.runners import process
    from mnist_cli.runners.base import ExportJob
    from mnist_cli.training.checkpoint import model_path

    formats = _formats(to, raw=raw)
    path = model_path(model, Path(results_dir))
    numpy_model = Model(path, threads=checked_threads(threads))
    images = load_dataset().test_images[:VERIFIED_IMAGES]
    expected = numpy_model.logits(images)
    places = _places(formats, path.stem, output, Path(results_dir))
    written = []
    with saved(images) as images_path:
        for name, place in places.items():
            text = f"{name}: writing {place}, then loading it again"
            with (
                console.stderr().status(escape(text)) if progress else nullcontext(),
                replacing_any(place, formats[name]) as temporary,
            ):
                job = ExportJob(
                    framework=formats[name].runtime,
                    checkpoint=str(path),
                    threads=checked_threads(threads),
                    to=name,
                    path=str(temporary),
                    images=str(images_path),
                    raw=raw,
                )
                found = np.array(process.run(job, lambda _: None)["logits"], dtype=np.float32)
                difference = require_agreement(expected, found, name)
            written.append(Export(name, str(place), _size(place), difference))
    return written


@contextmanager
def saved(images: Array) -> Iterator[Path]:
    """Yield a .npy file of images, for a job, in a temporary folder. Raises `OutputError`."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="mnist-") as folder:
        path = Path(folder) / "images.npy"
        try:
            np.save(path, images)
        except OSError as error:
            raise OutputError(
                f"Cannot write to the folder for temporary files, {folder}: "
                f"{error.strerror or error}. Free space, or name another with TMPDIR."
            ) from error
        yield path


def require_agreement(expected: Array, found: Array, name: str) -> float:
    """Return the largest difference of logits; raise `FrameworkError` if it is too large.

    Two runtimes add float32 numbers in different orders, whose rounding grows with the logits:
    beyond 30, so does the tolerance of `MAX_DIFFERENCE`.
    """
    import numpy as np

    tolerance = MAX_DIFFERENCE * max(1.0, float(np.abs(expected).max()) / 30)
    difference = float(np.abs(expected - found).max())
    if not difference <= tolerance:  # also NaN
        raise FrameworkError(
            f"The logits of the {name} file differ from the model's by up to {difference:.2g}; "
            f"expected at most {tolerance:.2g}. Nothing is kept: report this with the network's "
            "line."
        )
    return difference


def _formats(to: str | Iterable[str], *, raw: bool) -> dict[str, Format]:
    """Return the formats asked for, each once. Raises before anything takes long."""
    from mnist_cli import adapters
    from mnist_cli.config import require_choice
    from mnist_cli.export.formats import FORMATS, require_onnx

    names = list(dict.fromkeys([to] if isinstance(to, str) else to))
    if not names:
        raise UsageError(f"Name at least one format: {', '.join(FORMATS)}.")
    for name in names:
        require_choice("format", name, tuple(FORMATS))
        if raw and not FORMATS[name].suffix:
            raise UsageError(f"--raw does not go with {name}, which has both as functions.")
        if FORMATS[name].runtime == "onnx":
            require_onnx()
        else:
            adapters.resolve(FORMATS[name].runtime)
    return {name: FORMATS[name] for name in names}


def _places(
    formats: dict[str, Format], stem: str, output: PathLike | None, results_dir: Path
) -> dict[str, Path]:
    """Return the path of each format; see `export_model`."""
    folder = results_dir / "exports" if output is None else Path(output)
    if output is not None and len(formats) == 1:
        (only,) = formats.values()
        if folder.suffix.lower() == only.suffix or (not only.suffix and not folder.is_dir()):
            return dict.fromkeys(formats, folder)
        if only.suffix and folder.suffix and not folder.is_dir():
            raise UsageError(f"--output must end in {only.suffix}, or be a folder, not {folder}.")
        if not only.suffix and {each.name for each in folder.iterdir()} <= set(only.files):
            return dict.fromkeys(formats, folder)
    return {name: folder / each.default_name(name, stem) for name, each in formats.items()}


@contextmanager
def replacing_any(path: Path, kind: Format) -> Iterator[Path]:
    """Yield a temporary path, a file or a folder, that takes the place of ``path`` at the end.

    Raises `OutputError` if that cannot be written, or is a folder with other files than ``kind``'s.
    """
    from mnist_cli.records import replacing

    if kind.suffix:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; expected the name of a file for --output.")
        with replacing(path) as temporary:
            yield temporary
        return
    if path.exists() and not (
        path.is_dir() and {each.name for each in path.iterdir()} <= set(kind.files)
    ):
        raise OutputError(
            f"{path} is there already, with other files than an export's. Choose another --output."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as parent:
            temporary = Path(parent) / "new"
            temporary.mkdir()
            yield temporary
            if path.exists():
                path.rename(Path(parent) / "old")
            temporary.rename(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Free space, or choose a folder that can be written."
        ) from error


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.iterdir()
    return sum(each.stat().st_size for each in files)
