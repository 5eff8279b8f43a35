"""`list_results` and `compare_records`: what was measured before, here and elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.api.arguments import PathLike, checks_arguments
from mnist_cli.config import SORTS, require_choice
from mnist_cli.errors import RecordError

if TYPE_CHECKING:
    from mnist_cli.experiments.stored import StoredRun

# How each of `SORTS` orders runs: the newest, most accurate or fastest first, names by letter.
_ORDERS: dict[str, Any] = {
    "accuracy": lambda run: -run.test_accuracy,
    "seconds": lambda run: run.train_seconds,
    "speed": lambda run: -run.images_per_second,
    "framework": lambda run: run.framework,
    "network": lambda run: (run.arch, run.activation),
    "batch-size": lambda run: run.batch_size,
    "seed": lambda run: run.seed,
}


@dataclass(frozen=True)
class Results:
    """The runs of a folder, and a line for each file in it that could not be read."""

    runs: list[StoredRun]
    problems: list[str]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the runs as JSON values."""
        return [asdict(run) for run in self.runs]


@checks_arguments
def list_results(
    folder: PathLike = "results",
    *,
    sort: str = "date",
    reverse: bool = False,
    framework: str | None = None,
    arch: str | None = None,
) -> Results:
    """Return the runs in the records and models of a folder, of one framework or network if given.

    ``sort`` is one of `config.SORTS`: the newest, most accurate or fastest first, else ascending;
    ``reverse`` turns that round. Raises `UsageError` for an unknown one, and `RecordError` if there
    is no such folder or no such run in it.
    """
    from mnist_cli.adapters import ALIASES
    from mnist_cli.experiments.stored import stored_runs

    require_choice("order", sort, SORTS)
    runs, problems = stored_runs(Path(folder))
    if not runs:
        said = "".join(f" {line}" for line in problems)
        raise RecordError(f"No runs in {folder}.{said} Make some with 'mnist train'.")
    name = framework and ALIASES.get(framework, framework)
    chosen = [run for run in runs if name in (None, run.framework) and arch in (None, run.arch)]
    if not chosen:
        asked = " ".join(filter(None, [name, arch]))
        raise RecordError(f"None of the {len(runs)} runs in {folder} is of {asked}.")
    if sort == "date":
        chosen.sort(key=lambda run: run.date or "", reverse=True)
    else:
        chosen.sort(key=_ORDERS[sort])
    return Results(chosen[::-1] if reverse else chosen, problems)


@checks_arguments
def compare_records(first: PathLike, second: PathLike) -> dict[str, Any]:
    """Return two comparisons or sweeps side by side, as `experiments.machines` does.

    ``files`` are their records with the date of each. Raises `RecordError` for a file that is
    missing, damaged, of another schema version, or of no comparison.
    """
    from mnist_cli.experiments.document import load_document
    from mnist_cli.experiments.machines import compare_machines

    paths = [Path(first), Path(second)]
    for path in paths:
        _require_runs(path)
    documents = [load_document(path) for path in paths]
    files = [
        {
            "path": str(path),
            "created": document["created"],
            "machine": document["environment"]["cpu"],
            "runs": len(document["runs"]),
        }
        for path, document in zip(paths, documents, strict=True)
    ]
    return {"files": files, **compare_machines(*documents)}


def _require_runs(path: Path) -> None:
    """Raise `RecordError` for a JSON file of another kind; `load_document` reads the others."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(document, dict) or "runs" not in document:
        raise RecordError(
            f"{path} is no record of a comparison or a sweep: it has no runs. "
            "Give what 'mnist compare' or 'mnist sweep-batch' wrote."
        )
