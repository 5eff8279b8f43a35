"""A search for good settings: its space, its trials, and their document as JSON.

The trials are points of a Halton sequence, which covers the space more evenly than random points
do (Bousquet et al., 2017, arXiv:1706.03200), and whose first points stay when there are more.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from mnist_cli.config import NETWORKS, SEARCH_SPACE, ModelSpec
from mnist_cli.errors import RecordError, UsageError
from mnist_cli.experiments.run import Growing, Observer, folder_lock, keep_aside
from mnist_cli.machine import describe_machine
from mnist_cli.names import network_name, plural
from mnist_cli.records import SCHEMA_VERSION, write_json
from mnist_cli.runners.base import TrainJob
from mnist_cli.runners.search import EPOCH_FIELDS

SEARCH = "tune_results"
# States of trials that need not be trained again; what has failed otherwise may succeed next time.
DONE = ("finished", "stopped", "diverged")
_LOGARITHMIC = ("learning_rate", "batch_size")
_MANY = 100  # trials, whose document takes more than milliseconds to write
_MAX_DRAWS = 100  # for each trial, until it differs from the others


@dataclass(frozen=True)
class Values:
    """What a setting may be: one of ``values`` or, of a range, all from the first to the second."""

    values: tuple[Any, ...]
    is_range: bool = False

    def at(self, share: float, name: str) -> Any:
        """Return the value of the setting ``name`` at a share, 0-1, of its range or choices.

        Numbers from a range have three digits, so that a command can name them; a learning rate or
        a batch size is uniform on a logarithmic scale.
        """
        if not self.is_range:
            return self.values[int(share * len(self.values))]
        low, high = self.values
        is_log = name in _LOGARITHMIC
        value = low * (high / low) ** share if is_log else low + (high - low) * share
        value = round(value) if isinstance(low, int) else float(f"{value:.3g}")
        return min(max(value, low), high)

    def to_json(self) -> dict[str, Any]:
        """Return ``range`` or ``choices`` with their values."""
        return {"range" if self.is_range else "choices": list(self.values)}


class Execute(Protocol):
    """Executes the trials that are not ``finished``, as `runners.search.run_trials` does."""

    def __call__(
        self,
        jobs: Mapping[int, TrainJob],
        finished: Sequence[Sequence[float]],
        on_event: Callable[[int, dict[str, Any]], None],
    ) -> None:
        """Return when each has ended."""


def read_values(name: str, given: object) -> Values:
    """Return what a setting may be: from ``0.01:0.3``, ``32,64``, a number, or several numbers.

    Raises `UsageError` for anything else. Whether a run takes the numbers is checked elsewhere.
    """
    is_range = isinstance(given, str) and ":" in given
    if isinstance(given, str):
        parts: Iterable[Any] = given.split(":" if is_range else ",")
    else:
        parts = given if isinstance(given, Iterable) else [given]
    try:
        numbers = [_number(part, is_whole=name == "batch_size") for part in parts]
    except (TypeError, ValueError, OverflowError):  # the last by a whole number of inf
        numbers = []
    called = name.replace("_", " ")
    if not numbers or (is_range and len(numbers) != 2):
        whole = "whole " * (name == "batch_size")
        raise UsageError(
            f"{called} must be a {whole}number, a range such as {_example(name)}, or numbers "
            f"separated by commas, not '{given}'."
        )
    if is_range and numbers[0] > numbers[1]:
        raise UsageError(f"{called} must go from a lower to a higher number, not '{given}'.")
    distinct = tuple(dict.fromkeys(numbers))
    return Values(distinct, is_range and len(distinct) == 2)


def _number(given: Any, *, is_whole: bool) -> float:
    """Return a number. Raises `TypeError`, `ValueError` or `OverflowError`."""
    number = float(given)
    if is_whole and number != int(number):
        raise ValueError
    return int(number) if is_whole else number


def _example(name: str) -> str:
    default = SEARCH_SPACE[name]
    return default if ":" in default else default.replace(",", ":", 1).partition(",")[0]


def plan_trials(
    template: TrainJob, networks: Sequence[ModelSpec], space: Mapping[str, Values], count: int
) -> list[TrainJob]:
    """Return the jobs of ``count`` different trials: ``template`` with networks and settings.

    Raises `UsageError` if the space has fewer, or only one, or values that a run does not take.
    """
    for name, values in space.items():
        for value in values.values:
            replace(template.config, **{name: value})  # raises, and says what is wrong
    everything = {"network": Values(tuple(networks)), **space}
    searched = {name: each for name, each in everything.items() if len(each.values) > 1}
    if not searched:
        raise UsageError(
            "There is nothing to search: every setting has one value. Give a range, such as "
            "--learning-rate 0.01:0.3, or train with 'mnist train'."
        )
    from scipy.stats import qmc

    from mnist_cli.randomness import stream

    points = qmc.Halton(len(searched), seed=stream(template.config.seed, "search"))
    jobs: dict[TrainJob, None] = {}
    for _ in range(_MAX_DRAWS):
        for point in points.random(count):
            chosen = {name: each.values[0] for name, each in everything.items()}
            for (name, each), share in zip(searched.items(), point, strict=True):
                chosen[name] = each.at(share, name)
            spec = chosen.pop("network")
            jobs[replace(template, spec=spec, config=replace(template.config, **chosen))] = None
            if len(jobs) == count:
                return list(jobs)
    raise UsageError(
        f"There are only {len(jobs)} different trials in this space: give --trials {len(jobs)}, "
        "or wider ranges."
    )


def run_search(
    jobs: Sequence[TrainJob],
    execute: Execute,
    *,
    path: Path | None,
    settings: Mapping[str, Any],
    observer: Observer,
    resume: bool = False,
) -> dict[str, Any]:
    """Execute the trials and return the document, also written to ``path`` if given.

    While they run it is in a ``.partial.json`` file beside ``path``; with ``resume`` the trials
    that are `DONE` there are not repeated, and those that were at work are begun again. Raises
    `RecordError` if the search to resume had other ``settings`` or fewer trials are asked for.
    """
    trials = [_waiting(number, job) for number, job in enumerate(jobs, start=1)]
    if path is None:
        return _execute(jobs, trials, execute, settings, observer, save=lambda _: None)
    partial = path.with_suffix(".partial.json")
    with folder_lock(path.parent):
        if resume:
            trials = _resumed(trials, partial if partial.exists() else path, settings)
        else:
            for existing in (path, partial):
                _keep_aside_if_needed(existing, observer, is_partial=existing == partial)
        document = _execute(
            jobs, trials, execute, settings, observer, save=lambda each: write_json(partial, each)
        )
        if document["best"] is None and path.exists():
            observer.note(f"No trial was finished: the earlier record is {keep_aside(path)} now.")
        write_json(path, document)
        partial.unlink(missing_ok=True)
    return document


def _waiting(number: int, job: TrainJob) -> dict[str, Any]:
    """Return the document of a trial that has not begun."""
    return {
        "number": number,
        "state": "waiting",
        "arch": job.spec.arch,
        "line": job.spec.line,
        **{name: getattr(job.config, name) for name in SEARCH_SPACE},
        "history": [],
        "seconds": 0.0,
        "node": None,
        "retries": 0,
        "error": None,
    }


def _execute(
    jobs: Sequence[TrainJob],
    trials: list[dict[str, Any]],
    execute: Execute,
    settings: Mapping[str, Any],
    observer: Observer,
    *,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Execute the trials that are not done; ``save`` gets the document as it grows."""

    def write() -> dict[str, Any]:
        document = build_document(jobs, trials, settings)
        save(document)
        return document

    def on_event(number: int, event: dict[str, Any]) -> None:
        trial, run = trials[number - 1], number - 1
        match event["event"]:
            case "started":
                trial |= {"state": "running", "node": event["node"], "history": [], "seconds": 0.0}
                observer.start_run(trial_label(trial), run=run)
            case "epoch":
                trial["history"].append({name: event[name] for name in EPOCH_FIELDS})
                trial["seconds"] = event["train_seconds"]
                observer.on_event(event, run=run)
                growing.update()
            case "again":
                trial["retries"] += 1
                growing.update()
                observer.note(f"Trial {number} was lost ({event['reason']}); it is begun again.")
            case "ended":
                if trial["state"] != "running":  # it was lost before it began
                    observer.start_run(trial_label(trial), run=run)
                trial |= {"state": event["state"], "error": event["error"]}
                growing.update()
                _show_end(trial, observer)
            case _ if trial["state"] == "running":  # what is between epochs may come late
                observer.on_event(event, run=run)

    done = [trial for trial in trials if trial["state"] in DONE]
    for trial in done:
        observer.start_run(trial_label(trial), run=trial["number"] - 1)
        _show_end(trial, observer)
    missing = {trial["number"]: jobs[trial["number"] - 1] for trial in trials if trial not in done}
    with Growing(write, may_skip=len(jobs) > _MANY) as growing:
        if missing:
            accuracies = [
                [epoch["validation_accuracy"] for epoch in trial["history"]] for trial in done
            ]
            execute(missing, accuracies, on_event)
        else:
            observer.note(f"All {len(jobs)} trials are there already; none is missing.")
    return growing.document


def _show_end(trial: Mapping[str, Any], observer: Observer) -> None:
    run = trial["number"] - 1
    if trial["error"] is not None:
        observer.finish_run(failure=trial["error"], run=run)
        return
    epochs, accuracy = len(trial["history"]), trial["history"][-1]["validation_accuracy"]
    stopped = ", stopped" * (trial["state"] == "stopped")  # a line of 80 characters in all
    observer.finish_run(run=run)
    observer.note(f"{trial_label(trial)}: {accuracy:.2%}{stopped} after {plural(epochs, 'epoch')}")


def trial_label(trial: Mapping[str, Any]) -> str:
    """Return a trial's name on the screen: ``trial 3 MLP, rate 0.0831, batch 64``."""
    return (
        f"trial {trial['number']} {network_name(trial['arch'])}, rate {trial['learning_rate']:g}, "
        f"batch {trial['batch_size']}"
    )


def build_document(
    jobs: Sequence[TrainJob], trials: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of a search: its trials, the best of them and the command for it."""
    best = best_trial(trials)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "trials": list(trials),
        "best": None if best is None else best["number"],
        "command": None if best is None else command(jobs[best["number"] - 1]),
        "environment": describe_machine(),
    }


def best_trial(trials: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the most accurate of the finished trials; of equals that with the lowest loss."""
    finished = [trial for trial in trials if trial["state"] == "finished"]

    def quality(trial: dict[str, Any]) -> tuple[float, float]:
        last = trial["history"][-1]
        return last["validation_accuracy"], -last["validation_loss"]

    return max(finished, key=quality, default=None)


def command(job: TrainJob) -> str:
    """Return the command line that trains as a trial did, to the end."""
    config = asdict(job.config)
    words: dict[str, object] = {
        "framework": job.framework,
        "arch": job.spec.arch if job.spec.arch in NETWORKS else job.spec.line,
        **{name: config[name] for name in ("epochs", *SEARCH_SPACE, "seed")},
    }
    if job.dataset != "mnist":
        words["dataset"] = job.dataset
    if job.device != "auto":
        words["device"] = job.device
    if job.limit is not None:
        words["limit"] = job.limit
    options = [f"--{name.replace('_', '-')} {shlex.quote(str(v))}" for name, v in words.items()]
    flags = [
        *["--augment"] * job.config.augment,
        *["--fix-orientation"] * job.fix_orientation,
    ]
    return " ".join(["mnist train", *options, *flags])


def load_search(path: Path) -> dict[str, Any]:
    """Return the document of a search. Raises `RecordError` if there is none, or it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {document['schema_version']}")
        dict(document["settings"])["trials"] + 0
        for number, trial in enumerate(document["trials"], start=1):
            _require_whole(trial, number)
        best_trial(document["trials"])
    except FileNotFoundError:
        raise RecordError(f"No search at {path}. Make one with 'mnist tune'.") from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Bring it back from a copy, or search anew."
        ) from error
    return dict(document)


def _require_whole(trial: Mapping[str, Any], number: int) -> None:
    """Raise `LookupError`, `TypeError` or `ValueError` for a trial that is not as ours are."""
    if trial["number"] != number:
        raise ValueError(f"trial {number} has the number {trial['number']}")
    trial_label(trial)
    [trial[name] for name in ("line", "node", "error", *SEARCH_SPACE)]
    trial["seconds"] + trial["retries"]
    [epoch["validation_accuracy"] + epoch["validation_loss"] for epoch in trial["history"]]
    if trial["state"] in DONE and not trial["history"] and trial["error"] is None:
        raise ValueError(f"trial {number} has no epoch")


def _resumed(
    trials: list[dict[str, Any]], path: Path, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the trials, with those of the document at ``path`` that are done there."""
    if not path.exists():
        return trials
    document = load_search(path)
    earlier = {"fix_orientation": False, **document["settings"]}  # older documents do not name it
    for name, value in settings.items():
        before = earlier.get(name)
        if before != value and not (name == "trials" and before < value):
            raise RecordError(
                f"Cannot resume {path}: it was made with {name} {before}, not {value}. That is "
                "another search: give the same settings, or leave --resume out to start anew."
            )
    return [
        found if found["state"] in DONE else trial | {"retries": found["retries"]}
        for trial, found in zip(trials, document["trials"], strict=False)
    ] + trials[len(document["trials"]) :]


def _keep_aside_if_needed(path: Path, observer: Observer, *, is_partial: bool) -> None:
    """Rename a document that a new search would overwrite: unfinished, or not readable."""
    if not path.exists():
        return
    try:
        has_trials = any(trial["history"] for trial in load_search(path)["trials"])
        why = "An unfinished search was found." if is_partial and has_trials else ""
    except RecordError as error:
        why = str(error)
    if why:
        observer.note(f"{why} It is kept as {keep_aside(path)}.")
