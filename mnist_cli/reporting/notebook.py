"""How records show themselves in a notebook: as HTML tables and PNG pictures."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.names import DIGITS, dataset_name, framework_name, model_name

if TYPE_CHECKING:
    from mnist_cli.prediction import Prediction
    from mnist_cli.records import RunRecord
    from mnist_cli.training.evaluation import Evaluation

_CHART_WIDTH = 800  # pixels on the page; files have twice as many


@dataclass(frozen=True)
class Chart:
    """A drawn chart: a notebook shows it, `save` writes it. ``png`` is the file's content."""

    png: bytes

    def save(self, path: str | Path) -> None:
        """Write the PNG file. Raises `OutputError`, or `UsageError` for another suffix."""
        from mnist_cli.errors import UsageError
        from mnist_cli.records import replacing

        if Path(path).suffix.lower() != ".png":
            raise UsageError(f"A chart is saved as a .png file, not as {Path(path).name}.")
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(self.png)

    def __repr__(self) -> str:
        """Return the size instead of the content."""
        return f"Chart(png of {len(self.png):,} bytes)"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.png, {"width": _CHART_WIDTH}


def chart(draw: Callable[[Path], None]) -> Chart:
    """Return what ``draw`` writes to a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        draw(path)
        return Chart(path.read_bytes())


def training_chart(record: RunRecord) -> Chart:
    """Return loss and accuracy of one run by epoch."""
    from mnist_cli.reporting.charts import training

    return chart(lambda path: training.draw(record, path))


def training_html(record: RunRecord) -> str:
    """Return the table of one run, a row per epoch."""
    from mnist_cli.reporting.page import table_html
    from mnist_cli.reporting.tables import history_table

    title = model_name(record.framework, record.arch, record.activation)
    text = f"{title} on {dataset_name(record.dataset)}: {record.test_accuracy:.2%} test accuracy"
    return f"<p>{html.escape(text)}</p>{table_html(*history_table(record))}"


def evaluation_chart(evaluation: Evaluation) -> Chart:
    """Return the confusion matrix of an evaluation."""
    from mnist_cli.reporting.charts import confusion

    model = Path(evaluation.checkpoint).stem
    framework = framework_name(evaluation.framework)
    title = f"{model} on {dataset_name(evaluation.dataset)}, by {framework}"
    matrix, names = evaluation.confusion_matrix, evaluation.class_names
    return chart(lambda path: confusion.draw(matrix, path, title=title, class_names=names))


def prediction_html(prediction: Prediction) -> str:
    """Return the text that was read and, for each digit, its image and likeliest readings."""
    from mnist_cli.reporting.page import table_html

    rows = [[_image(digit.image), *_readings(digit)] for digit in prediction.digits]
    note = "" if prediction.sure else " (not sure)"
    digits = all(digit.class_names == DIGITS for digit in prediction.digits)
    text = html.escape(prediction.text + note).replace("\n", "<br>")
    header = ["image", "digit" if digits else "class", "probability", "second", "third"]
    return f"<p><b>{text}</b></p>" + table_html(header, rows, is_html=True)


def _readings(digit: Any) -> list[str]:
    (best, share), *others = digit.top_names()
    mark = "" if digit.sure else "?"
    return [f"{best}{mark}", f"{share:.1%}", *(f"{other} {part:.1%}" for other, part in others)]


def _image(pixels: Any) -> str:
    """Return a digit (28, 28), uint8, as an HTML image."""
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img width="56" style="image-rendering: pixelated" src="data:image/png;base64,{data}">'
