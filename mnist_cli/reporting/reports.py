"""Records to reading matter: tables, sentences, charts and one self-contained page."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnist_cli.errors import DataError, RecordError, UsageError
from mnist_cli.experiments.document import load_document, records_of
from mnist_cli.experiments.plan import COMPARISON, SWEEP
from mnist_cli.records import RunRecord, replacing

Document = Mapping[str, Any]

_TITLES = {
    COMPARISON: "Comparison of frameworks and networks",
    SWEEP: "Comparison of batch sizes",
}
_EXPLANATIONS = {
    "comparison_results.png": "Six views of one comparison. Loss and accuracy by epoch show "
    "whether the frameworks learn alike: given the same weights and batches, their lines should "
    "lie on each other. Accuracy against training seconds shows who gets there first. The bars "
    "below tell what it costs in time and memory.",
    "sample_predictions.png": "The same test digits as each model reads them: green with a check "
    "mark is right, red with a cross is wrong. Digits on which the models disagree come first.",
    "batch_size_comparison.png": "Larger batches use the processor better but take fewer steps: "
    "what they do to accuracy, to the time of an epoch, to throughput and to the time until 98% of "
    "the validation images are read right.",
}
# How a sweep's learning rate goes with the batch size, after "at batch 64".
_SCALINGS = {
    "none": " and every other",
    "linear": ", in proportion to batch size",
    "sqrt": ", in proportion to the square root of batch size",
}
_TRAINING = "Training and validation loss, and accuracy, after each epoch of one training run."


def load_all(folder: Path) -> Mapping[str, Document]:
    """Return the documents in a results folder by name.

    Raises `RecordError` if there is none, nor a record of `mnist train`.
    """
    paths = {name: folder / f"{name}.json" for name in _TITLES}
    documents = {name: load_document(path) for name, path in paths.items() if path.exists()}
    if not documents and not _training_paths(folder):
        raise RecordError(
            f"No records in {folder}. Make them with 'mnist compare', 'mnist sweep-batch' or "
            "'mnist train', or name another folder with --results-dir."
        )
    return documents


def draw(name: str, document: Document, folder: Path) -> list[Path]:
    """Draw the charts of one document into ``folder`` and return their paths."""
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.reporting import charts

    records = records_of(document)
    if not records:
        return []
    chart = folder / f"{name}.png"
    if name == SWEEP:
        charts.batch_size_chart(records, chart, failures=document["failures"])
        return [chart]
    charts.comparison_chart(records, chart, failures=document["failures"])
    samples = folder / "sample_predictions.png"
    try:
        test = load_dataset(records[0].dataset)
    except (DataError, UsageError):  # the records may have come from another machine
        return [chart]
    if test.sha256 != records[0].environment["data_sha256"]:
        return [chart]
    charts.model_samples_chart(test.test_images, test.test_labels, records, samples)
    return [chart, samples]


def draw_all(documents: Mapping[str, Document], folder: Path) -> list[Path]:
    """Draw every chart whose records are in ``folder``, and the page; return their paths."""
    from mnist_cli.reporting import charts

    written = [path for name in documents for path in draw(name, documents[name], folder)]
    for path in _training_paths(folder):
        charts.training_chart(_training_record(path), path.with_suffix(".png"))
        written.append(path.with_suffix(".png"))
    page = folder / "report.html"
    with replacing(page) as temporary:
        temporary.write_text(_page(documents, written), encoding="utf-8")
    return [*written, page]


def _training_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*_training.json"))


def _training_record(path: Path) -> RunRecord:
    try:
        return RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Remove it, or train that model anew."
        ) from error


def table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a document's summary, failures last, as text.

    A figure over several runs is given as mean ± half-width of its 95% interval.
    """
    sweep = _is_sweep(document)
    header = ["framework", "network", *(["batch size"] if sweep else [])]
    header += ["test accuracy", "train seconds", "images / second"]
    header += ["seconds to 98%", "seconds to 99%", "peak MiB"]
    rows = []
    for row in document["summary"]:
        accuracy, speed = row["test_accuracy"], row["images_per_second"]
        rows.append(
            [
                row["framework"],
                row["arch"],
                *([f"{row['batch_size']}"] if sweep else []),
                f"{accuracy['mean']:.2%}" + _plus_minus(accuracy, lambda v: f"{100 * v:.2f}"),
                f"{row['train_seconds']['mean']:.1f}",
                f"{speed['mean']:,.0f}" + _plus_minus(speed, lambda v: f"{v:,.0f}"),
                *(_time_to(seconds, row["n"]) for seconds in row["time_to_accuracy"].values()),
                f"{row['peak_rss_mib']['mean']:,.0f}",
            ]
        )
    for failure in document["failures"]:
        size = [str(failure["batch_size"])] if sweep else []
        cells = [failure["framework"], failure["arch"], *size, "failed"]
        rows.append(cells + [""] * (len(header) - len(cells)))
    return header, rows


def caption(document: Document) -> str:
    """Return one sentence on how the figures of a document were measured."""
    runs = max((row["n"] for row in document["summary"]), default=0)
    settings = document["settings"]
    smoothing = settings.get("label_smoothing")
    scaling = _SCALINGS[settings.get("lr_scaling", "none")]
    devices = sorted({run["environment"]["device"] for run in document["runs"]})
    parts = [
        f"{_plural(runs, 'run')} of each, one at a time",
        _plural(settings["epochs"], "epoch"),
        *([] if _is_sweep(document) else [f"batch {settings['batch_size']}"]),
        f"peak learning rate {settings['learning_rate']:g}"
        + (f" at batch {settings['batch_size']}{scaling}" if _is_sweep(document) else ""),
        *([f"labels smoothed by {smoothing:g}"] if smoothing else []),
        settings["dataset"]
        + (f" (at most {settings['limit']:,} training images)" if settings.get("limit") else ""),
        _plural(settings["threads"], "thread"),
        document["environment"]["cpu"],
        *(f"device {device}" for device in devices),
        document["created"][:10],
    ]
    return ", ".join(parts) + ("; mean ± 95% interval (Student's t)." if runs > 1 else ".")


def verdicts(document: Document) -> list[str]:
    """Return a sentence for each pair of frameworks, and for each CNN against its MLP."""
    lines = []
    for row in document["frameworks"]:
        first, second, speed = row["first"], row["second"], row["speed_ratio"]
        tests = [test["p_value"] for test in row["mcnemar"]]
        p_values = f"{min(tests):.2g}" + (f" to {max(tests):.2g}" if len(tests) > 1 else "")
        lines.append(
            f"{row['arch']}: {first} trains {_times(speed)} as fast as {second}: "
            f"{_verdict(row, 'faster')}. Test accuracy {_points(row)}, "
            f"McNemar's p {p_values}: {_verdict(row, 'more_accurate')}."
        )
    lines += [
        f"{row['framework']}: the cnn reads {_points(row)} more right than the mlp, for "
        f"{_times(row['seconds_ratio'])} the training time and "
        f"{row['parameters_ratio']:.1f}x the parameters."
        for row in document["architectures"]
    ]
    return lines


def as_markdown(document: Document) -> str:
    """Return caption, table and verdicts in Markdown."""
    header, rows = table(document)
    left = header.index("test accuracy")
    lines = [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * left + ["---:"] * (len(header) - left)) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    bullets = [f"- {line}" for line in verdicts(document)]
    return "\n".join([caption(document), "", *lines, *([""] if bullets else []), *bullets]) + "\n"


def as_csv(document: Document) -> str:
    """Return the summary as CSV: a row a cell, each statistic as mean, sd and ci95."""
    text = io.StringIO()
    rows = [dict(_flatten(row)) for row in document["summary"]]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flatten(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}_")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _page(documents: Mapping[str, Document], charts: list[Path]) -> str:
    """Return the page: every table, verdict and chart, nothing fetched from anywhere."""
    parts = []
    for name, document in documents.items():
        header, rows = table(document)
        parts += [
            f"<h2>{_TITLES[name]}</h2>",
            f"<p>{html.escape(caption(document))}</p>",
            "<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>",
            *(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            ),
            "</table>",
        ]
        if lines := verdicts(document):
            parts += ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
        for failure in document["failures"]:
            said = f"{failure['framework']} {failure['arch']} failed: {failure['error']}"
            parts.append(f"<p>{html.escape(said)}</p>")
    parts.append("<h2>Charts</h2>")
    for path in charts:
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        explanation = _EXPLANATIONS.get(path.name, _TRAINING)
        parts.append(
            f'<figure><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{image}">'
            f"<figcaption>{explanation}</figcaption></figure>"
        )
    return _PAGE.format(body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>mnist report</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
img {{ width: 100%; }}
figure {{ margin: 2rem 0; }}
figcaption {{ color: #555; }}
</style>
<h1>mnist report</h1>
{body}
</html>
"""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _is_sweep(document: Document) -> bool:
    return "batch_sizes" in document["settings"]


def _time_to(seconds: Mapping[str, Any], runs: int) -> str:
    """Return the mean time to an accuracy, and how many runs reached it unless all did."""
    if seconds["mean"] is None:
        return "-"
    reached = "" if seconds["n"] == runs else f" ({seconds['n']} of {runs})"
    return f"{seconds['mean']:.1f}{reached}"


def _verdict(row: Mapping[str, Any], what: str) -> str:
    if row[what]:
        return f"{row[what]} is {what.replace('_', ' ')}"
    return "no clear winner" if row["n"] > 1 else "one run cannot tell, --runs 3 can"


def _times(ratio: Mapping[str, Any]) -> str:
    if ratio["low"] is None:
        return f"{ratio['ratio']:.2f}x"
    return f"{ratio['ratio']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _points(row: Mapping[str, Any]) -> str:
    points = row["accuracy_points"]
    mean = round(points["mean"], 2) + 0.0  # which turns -0.0 into 0.0
    return f"{mean:+.2f}{_plus_minus(points, lambda v: f'{v:.2f}')} points"


def _plus_minus(statistic: Mapping[str, Any], show: Callable[[float], str]) -> str:
    """Return " ± half-width" of a statistic's 95% interval, or nothing for a single run."""
    return "" if statistic["ci95"] is None else f" ± {show(statistic['ci95'])}"
