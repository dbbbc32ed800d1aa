"""What the lock file pins is held to what was promised when it was locked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import make_plan, make_spec

from pytest_autotune.errors import SpecError
from pytest_autotune.gate.lock.entry import (
    LockedBound,
    LockedMetric,
    LockEntry,
    LockError,
    digests_of,
)
from pytest_autotune.gate.lock.pins import LockPins, hardened
from pytest_autotune.scoring.slo import SLO, Severity, check
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

SLOS: list[dict[str, Any]] = [
    {"metric": "ttft", "statistic": "p99", "max": 0.5, "hard_fail": False},
    {"metric": "output_throughput", "min": 100, "hard_fail": False},
]
LABEL = "test_it.py (study)"


def plan_for(gate: dict[str, Any] | None = None, **keys: Any) -> Plan:
    keys.setdefault("slo", SLOS)
    spec = make_spec(
        parameters={"a": [1, 2]}, optimization={"objective": "minimize:cost"},
        gate=gate or {}, **keys,
    )  # fmt: skip
    return make_plan(spec, "test_it.py")


def entry_for(plan: Plan, *bounds: LockedBound, **changes: Any) -> LockEntry:
    fields: dict[str, Any] = {
        "study": LABEL,
        "spec": plan.spec.name,
        "objective": plan.objective.name,
        "metric": "cost",
        "maximize": False,
        "parameters": {"a": 2},
        "metrics": {"cost": LockedMetric(median=1.0, low=1.0, high=1.0, launches=3)},
        "slo": bounds,
        "fingerprint": {"cpu": "EPYC"},
        "digests": digests_of(plan.key()),
        "commit": "",
        "locked": "2026-01-31",
        "by": "pytest-autotune 0.1.0",
    }
    return LockEntry(**{**fields, **changes})


def pins_of(*entries: LockEntry) -> LockPins:
    return LockPins({entry.study: entry for entry in entries}, Path.cwd())


def locked(
    plan: Plan,
    index: int,
    margin: float | None,
    **changes: Any,
) -> LockedBound:
    bound = plan.spec.slo.bounds[index]
    fields: dict[str, Any] = {
        "label": bound.label, "metric": bound.metrics[0], "limit": float(bound.threshold),
        "upper": bound.upper, "actual": None if margin is None else 1.0, "margin": margin,
    }  # fmt: skip
    return LockedBound(**{**fields, **changes})


def severities(slo: SLO, **metrics: float) -> list[Severity]:
    return [found.severity for found in check(slo, metrics).results]


# --- the SLO ---------------------------------------------------------------------------------


def test_soft_bounds_become_hard() -> None:
    plan = plan_for()
    assert not any(bound.hard for bound in plan.spec.slo.bounds)
    slo, notes = hardened(plan.spec.slo, entry_for(plan), 0.03)
    assert notes == []
    assert all(bound.hard and bound.fail_ratio == 0 for bound in slo.bounds)
    assert severities(slo, p99_ttft=0.501, output_throughput=99.9) == [Severity.HARD] * 2
    assert severities(slo, p99_ttft=0.5, output_throughput=100.0) == [Severity.MET] * 2


def test_a_hard_bound_that_forgave_much_forgives_nothing() -> None:
    slo = {"latency": {"p99": {"threshold": 1.0, "hard_fail": True, "fail_ratio": 0.5}}}
    plan = plan_for(slo=slo)
    found, _ = hardened(plan.spec.slo, entry_for(plan), 0.03)
    assert severities(found, p99_e2e_latency=1.4) == [Severity.HARD]


@pytest.mark.parametrize(
    ("index", "held", "broken"),
    [(0, {"p99_ttft": 0.566}, {"p99_ttft": 0.57}),
     (1, {"output_throughput": 86.8}, {"output_throughput": 86.0})],
)  # fmt: skip
def test_what_was_missed_when_it_was_locked_is_excused_and_the_tolerance_with_it(
    index: int, held: dict[str, float], broken: dict[str, float]
) -> None:
    plan = plan_for()
    entry = entry_for(plan, locked(plan, index, -0.1))
    slo, notes = hardened(plan.spec.slo, entry, 0.03)
    label = plan.spec.slo.bounds[index].label
    assert notes == [
        f"SLO {label}: was missed by 10 % when this was locked; up to 13.3 % is allowed now"
    ]
    assert severities(slo, **held)[index] not in {Severity.HARD, Severity.MISSING}
    assert severities(slo, **broken)[index] is Severity.HARD
    # The other bound is not excused.
    assert slo.bounds[1 - index].fail_ratio == 0


@pytest.mark.parametrize("margin", [0.0, 0.4, None])
def test_what_was_met_or_not_reported_is_not_excused(margin: float | None) -> None:
    plan = plan_for()
    slo, notes = hardened(plan.spec.slo, entry_for(plan, locked(plan, 0, margin)), 0.03)
    assert (slo.bounds[0].fail_ratio, notes) == (0.0, [])


@pytest.mark.parametrize(
    "change", [{"limit": 0.4}, {"limit": 0.50001}, {"label": "p99 other"}, {"upper": False}]
)
def test_a_bound_that_is_another_now_is_not_excused(change: dict[str, Any]) -> None:
    plan = plan_for()
    entry = entry_for(plan, locked(plan, 0, -0.5, **change))
    slo, notes = hardened(plan.spec.slo, entry, 0.03)
    assert (slo.bounds[0].fail_ratio, notes) == (0.0, [])


@pytest.mark.parametrize("levels", ["filter", "max"])
def test_where_the_slo_chooses_levels_it_is_left_as_it_is(levels: str) -> None:
    slo = {"ttft": {"threshold": 0.5}, "levels": levels}
    plan = plan_for(slo=slo)
    entry = entry_for(plan, locked(plan, 0, -0.5))
    assert hardened(plan.spec.slo, entry, 0.03) == (plan.spec.slo, [])


def test_an_slo_without_bounds_stays_empty() -> None:
    plan = plan_for(slo=[])
    assert hardened(plan.spec.slo, entry_for(plan), 0.03) == (plan.spec.slo, [])


# --- what is pinned --------------------------------------------------------------------------


def test_a_pinned_study_runs_with_what_is_pinned() -> None:
    plan = plan_for()
    pins = pins_of(entry_for(plan), entry_for(plan, study="other.py (study)"))
    pin = pins.find("test_it.py", plan)
    assert pin is not None
    assert (pin.params, pin.seed, list(pin.notes)) == ({"a": 2}, None, [])
    assert all(bound.hard for bound in pin.plan.spec.slo.bounds)
    assert pin.plan.label == LABEL
    assert pins.found == {"test_it.py": pins.entries[LABEL]}
    assert pins.unpinned == []
    assert set(pins.entries) == {LABEL, "other.py (study)"}
    assert pins.brief is False


def test_what_breaks_its_slo_fails_even_where_candidates_may() -> None:
    spec = plan_for().spec
    plan = Plan.make("test_it.py", spec, Settings(infeasible="xfail"))
    assert plan.xfail
    pin = pins_of(entry_for(plan)).find("test_it.py", plan)
    assert pin is not None
    assert not pin.plan.xfail


def test_what_is_not_pinned_is_remembered_and_says_how_to_pin_it() -> None:
    pins = pins_of()
    assert pins.find("test_it.py", plan_for()) is None
    assert pins.unpinned == [LABEL]
    assert pins.found == {}
    assert pins.missing == (
        "not pinned in autotune.lock.json: pytest --autotune --autotune-lock pins it"
    )


def test_notes_tell_what_changed_and_what_is_excused() -> None:
    plan = plan_for()
    digests = {**digests_of(plan.key()), "slo": "0" * 12}
    entry = entry_for(plan, locked(plan, 0, -0.2), digests=digests)
    pin = pins_of(entry).find("test_it.py", plan)
    assert pin is not None
    first, second = pin.notes
    assert "the SLO changed since this was locked" in first
    assert second.startswith("SLO ")
    assert "was missed by 20 % when this was locked" in second


def test_what_was_locked_for_another_spec_is_refused() -> None:
    plan = plan_for()
    pins = pins_of(entry_for(plan, objective="minimize:other"))
    with pytest.raises(LockError, match="locked for 'minimize:other', not 'minimize:cost'"):
        pins.find("test_it.py", plan)
    assert pins.found == {}


# --- rules that can decide nothing -----------------------------------------------------------


def refusal(gate: dict[str, Any]) -> str:
    plan = plan_for(gate)
    with pytest.raises(SpecError) as caught:
        pins_of(entry_for(plan)).find("test_it.py", plan)
    return str(caught.value)


def test_a_rule_that_can_call_no_regression_is_refused() -> None:
    assert refusal({"max_launches": 6}) == (
        "inline: /gate/max_launches: 6 launches cannot tell a regression with an error of 0.01: "
        "allow more launches, or more error (gate.alpha)"
    )


def test_with_several_metrics_it_takes_more_launches() -> None:
    metrics = ["minimize:a", "minimize:b", "minimize:c"]
    assert refusal({"max_launches": 7, "metrics": metrics}) == (
        "inline: /gate/max_launches: 7 launches cannot tell a regression with an error of 0.01 "
        "for 3 metrics: allow more launches, or more error (gate.alpha)"
    )
    plan = plan_for({"max_launches": 7, "metrics": metrics[:1]})
    assert pins_of(entry_for(plan)).find("test_it.py", plan) is not None


def test_a_rule_that_can_pass_nothing_is_refused() -> None:
    assert refusal({"max_launches": 9, "power": 0.999}) == (
        "inline: /gate/max_launches: 9 launches cannot pass anything with a power of 0.999: "
        "allow more launches, or less power (gate.power)"
    )


def test_what_is_not_pinned_needs_no_rule() -> None:
    assert pins_of().find("test_it.py", plan_for({"max_launches": 1})) is None
