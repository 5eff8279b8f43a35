"""The models that a page asks: those of a folder, else the one in the package.

NumPy computes them all in this process, whichever framework trained them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_cli import mapping
from mnist_cli.errors import MnistError
from mnist_cli.names import DIGITS, model_name
from mnist_cli.networks.spec import parameter_count
from mnist_cli.prediction import Model

PACKAGED = "pretrained"
LIVE = "live"  # the model that the page trains


@dataclass(frozen=True)
class NamedModel:
    """A loaded model and the name that requests know it by: its file's, without suffix."""

    name: str
    model: Model

    def to_json(self) -> dict[str, Any]:
        """Return what `GET /api/models` says of the model; the live one is not tested."""
        made = self.model.checkpoint
        title = model_name(made.framework, made.spec.arch, made.spec.activation)
        is_live = self.name == LIVE
        return {
            "name": self.name,
            "title": f"{title}, {LIVE}" if is_live else title,
            "framework": made.framework,
            "arch": made.spec.arch,
            "line": made.spec.line,
            "parameters": parameter_count(made.spec),
            "dataset": made.dataset,
            "epochs": made.model_epoch.epoch,
            "test_accuracy": None if is_live else made.model_epoch.test_accuracy,
            "rejects": made.config.reject,
            "layers": mapping.layers(made.spec),
        }


@dataclass
class Models:
    """All models of a page, at least one.

    ``reader`` prepares pictures: the packaged model, which finds where digits touch. ``problems``
    has a line for each file that is no model. ``named`` is replaced, never changed.
    """

    reader: Model
    named: tuple[NamedModel, ...]
    problems: tuple[str, ...] = field(default=())

    def put(self, named: NamedModel) -> None:
        """Let a model answer last, in place of the one of its name."""
        others = (each for each in self.named if each.name != named.name)
        self.named = (*others, named)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what `GET /api/models` says of each; a title is never that of two."""
        listed = [named.to_json() for named in self.named]
        counts = Counter(each["title"] for each in listed)
        for each in listed:
            if counts[each["title"]] > 1:
                each["title"] += f" ({each['name']})"
        return listed


def load_models(folder: Path) -> Models:
    """Load every ``.safetensors`` file of a folder by name; without one, the packaged model.

    A file that is no model of digits, and a link that leads out of the folder, become a line of
    ``problems``.
    """
    reader = Model(threads=1)  # one thread: a second would need a process for each model
    named, problems = [], []
    for path in sorted(folder.glob("*.safetensors")):
        if path.name.startswith("."):  # a file that is being written
            continue
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                problems.append(f"{path} is left out: a link that leads out of the folder.")
                continue
            if path.stem == LIVE:
                problems.append(
                    f"{path.name} is left out: the model that the page trains has this name. "
                    "Rename the file."
                )
                continue
            model = Model(path, threads=1)
            if model.class_names != DIGITS:
                problems.append(
                    f"{path.name} is left out: it tells {len(model.class_names)} classes of "
                    f"{model.checkpoint.dataset} apart, and the page is for the ten digits."
                )
                continue
            named.append(NamedModel(path.stem, model))
        except (MnistError, OSError) as error:
            problems.append(f"{path.name} is left out: {error}")
    return Models(reader, tuple(named) or (NamedModel(PACKAGED, reader),), tuple(problems))
