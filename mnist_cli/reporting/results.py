"""A folder of results: its records are read, its charts and its page are drawn from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mnist_cli.data.dataset import Dataset
from mnist_cli.errors import DataError, RecordError, UsageError
from mnist_cli.experiments.document import load_document, records_of
from mnist_cli.experiments.plan import COMPARISON, SWEEP
from mnist_cli.experiments.search import SEARCH, load_search
from mnist_cli.records import RunRecord, replacing
from mnist_cli.reporting.charts import batch_size, comparison, model_samples, search, training
from mnist_cli.reporting.page import render_page
from mnist_cli.reporting.tables import Document

# The charts of each experiment, the main one first. A new chart is a module and its name here.
CHARTS = {COMPARISON: (comparison,), SWEEP: (batch_size,)}
# A chart file and its description on the page.
Chart = tuple[Path, str]


def load_documents(folder: Path) -> Mapping[str, Document]:
    """Return the documents of experiments in a results folder, by the experiment's name.

    Raises `RecordError` if there is none, nor a record of `mnist train` or `mnist tune`.
    """
    paths = {name: folder / f"{name}.json" for name in CHARTS}
    documents = {name: load_document(path) for name, path in paths.items() if path.exists()}
    if not documents and not training_paths(folder) and not (folder / f"{SEARCH}.json").exists():
        raise RecordError(
            f"No records in {folder}. Make them with 'mnist compare', 'mnist sweep-batch', "
            "'mnist train' or 'mnist tune', or name another folder with --results-dir."
        )
    return documents


def draw_document(name: str, document: Document, folder: Path) -> list[Chart]:
    """Draw the charts of one experiment into ``folder`` and return them."""
    records = records_of(document)
    if not records:
        return []
    charts = []
    for module in CHARTS[name]:
        path = folder / module.FILE_NAME
        module.draw(records, path, failures=document["failures"])
        charts.append((path, module.DESCRIPTION))
    if name == COMPARISON:
        charts += _draw_samples(records, folder / model_samples.FILE_NAME)
    return charts


def draw_search(document: Document, folder: Path) -> list[Path]:
    """Draw the chart of a search into ``folder``, if an epoch was done, and return it."""
    if not any(trial["history"] for trial in document["trials"]):
        return []
    path = folder / search.FILE_NAME
    search.draw(document, path)
    return [path]


def _draw_samples(records: list[RunRecord], path: Path) -> list[Chart]:
    """Draw sample predictions, unless the data set of the records is not on this machine."""
    dataset = dataset_of(records[0])
    if dataset is None:
        return []
    model_samples.draw(
        dataset.test_images, dataset.test_labels, records, path, class_names=dataset.class_names
    )
    return [(path, model_samples.DESCRIPTION)]


def dataset_of(record: RunRecord) -> Dataset | None:
    """Return the data set of a record, or None if it is not on this machine."""
    from mnist_cli.data.orientation import checked
    from mnist_cli.data.registry import load_dataset

    try:
        dataset = load_dataset(record.dataset)
    except (DataError, UsageError):  # the record may come from another machine
        return None
    if dataset.sha256 != record.environment["data_sha256"]:
        dataset = checked(dataset, fix=True, say=lambda _: None)  # as --fix-orientation does
    return dataset if dataset.sha256 == record.environment["data_sha256"] else None


def draw_report(documents: Mapping[str, Document], folder: Path) -> list[Path]:
    """Draw every chart whose records are in ``folder``, and the page; return their paths."""
    charts = [chart for name in documents for chart in draw_document(name, documents[name], folder)]
    for path in training_paths(folder):
        chart = path.with_suffix(".png")
        training.draw(training_record(path), chart)
        charts.append((chart, training.DESCRIPTION))
    if (path := folder / f"{SEARCH}.json").exists():
        found = draw_search(load_search(path), folder)
        charts += [(chart, search.DESCRIPTION) for chart in found]
    page = folder / "report.html"
    with replacing(page) as temporary:
        temporary.write_text(render_page(documents, charts), encoding="utf-8")
    return [*(path for path, _ in charts), page]


def training_paths(folder: Path) -> list[Path]:
    """Return the records of `mnist train` in a results folder, by name."""
    return sorted(folder.glob("*_training.json"))


def training_record(path: Path) -> RunRecord:
    """Return a record of `mnist train`. Raises `RecordError` if it is damaged."""
    try:
        return RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Remove it, or train that model anew."
        ) from error
