"""Runs that wait for a quiet machine, and are repeated if they were disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from made_records import make_record

from mnist_cli.conditions import Conditions
from mnist_cli.errors import DivergedError
from mnist_cli.experiments import quiet
from mnist_cli.records import RunRecord


@dataclass
class Machine:
    """A machine on which others take these shares, one in each window; then nothing."""

    shares: list[float] = field(default_factory=list)
    gpu: dict[str, float] | None = None
    now: float = 1000.0
    notes: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def observe(self, seconds: float) -> Conditions:
        self.now += seconds
        return Conditions(seconds, others_share=self.shares.pop(0) if self.shares else 0.0)

    def monotonic(self) -> float:
        return self.now

    def gpu_state(self) -> dict[str, float] | None:
        return self.gpu

    def on_event(self, event: Mapping[str, Any]) -> None:
        self.phases.append(event["name"])

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(quiet, "observe", machine.observe)
    monkeypatch.setattr(quiet, "gpu_state", machine.gpu_state)
    monkeypatch.setattr(quiet, "time", machine)
    return machine


@pytest.fixture
def run(machine: Machine) -> Callable[..., tuple[RunRecord, int]]:
    """Run quietly what was disturbed this much each time; return the record and how often."""

    def run(*shares: float | None, uses_gpu: bool = False) -> tuple[RunRecord, int]:
        records = [
            replace(
                make_record(seed=number),
                conditions=None if share is None else Conditions(9.0, others_share=share),
            )
            for number, share in enumerate(shares)
        ]
        left = iter(records)
        record = quiet.run_quietly(lambda: next(left), machine, uses_gpu=uses_gpu)  # type: ignore[arg-type]
        return record, len(records) - len(list(left))

    return run


def test_on_a_quiet_machine_a_run_starts_at_once(machine: Machine, run: Any) -> None:
    _, times = run(0.01, 0.01)
    assert times == 1
    assert machine.notes == machine.phases == []


def test_a_run_waits_until_others_take_little_and_says_so(machine: Machine, run: Any) -> None:
    machine.shares = [0.43, 0.2, 0.05]
    run(0.0)
    assert machine.shares == []
    assert machine.notes == [
        "Others take 43% of the machine: waiting for a quiet moment, up to 5 minutes."
    ]
    assert machine.phases == [
        "waiting until quiet, others take 43%",
        "waiting until quiet, others take 20%",
    ]


def test_the_wait_has_a_limit(machine: Machine, run: Any) -> None:
    machine.shares = [0.5] * 1000
    _, times = run(0.01)
    assert times == 1
    assert machine.notes[-1] == "No quiet moment in 5 minutes; going on."
    assert machine.now - 1000 == pytest.approx(quiet.LIMIT_SECONDS, abs=3)  # a window


def test_a_disturbed_run_is_repeated_once_and_the_second_counts(machine: Machine, run: Any) -> None:
    record, times = run(0.3, 0.6, 0.0)
    assert times == 2
    assert record.seed == 1
    assert machine.notes == ["Others took 30% of the cores during this run; it is repeated once."]


def test_a_repeated_run_waits_again(machine: Machine, run: Any) -> None:
    machine.shares = [0.0, 0.4, 0.0]
    run(0.3, 0.0)
    assert machine.shares == []
    assert len(machine.phases) == 1


def test_a_run_whose_conditions_are_not_known_is_not_repeated(machine: Machine, run: Any) -> None:
    assert run(None, None)[1] == 1


def test_a_busy_gpu_is_waited_for_by_runs_that_use_it(machine: Machine, run: Any) -> None:
    machine.gpu = {"busy_share": 0.8, "processes": 1}
    run(0.0)
    assert machine.notes == []
    run(0.0, uses_gpu=True)
    assert machine.notes[-1] == "No quiet moment in 5 minutes; going on."


def test_an_error_of_the_run_is_that_of_the_caller(machine: Machine) -> None:
    def fail() -> RunRecord:
        raise DivergedError("nan")

    with pytest.raises(DivergedError, match="nan"):
        quiet.run_quietly(fail, machine, uses_gpu=False)  # type: ignore[arg-type]
