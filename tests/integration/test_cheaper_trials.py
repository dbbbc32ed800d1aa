"""A trial that cannot win is cut short; the level that is likeliest to fail runs first."""

from __future__ import annotations

import re
from typing import Any

import pytest
from serving import MODULE, SPEC, Serving, process

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.spec.loading import load_named

#: What every trial is measured by, unless it is cut short.
REQUESTS = 60

RACED = MODULE.replace(", race=False", "")


def load(**changes: Any) -> dict[str, Any]:
    return {**SPEC["benchmark"], "max_requests_per_iteration": REQUESTS, **changes}


def write(serving: Serving, ttft: list[float], *arguments: str, **keys: Any) -> None:
    module = keys.pop("module", RACED)
    serving.write(process(*arguments), module, parameters={"ttft": ttft}, **keys)


def records(serving: Serving) -> list[TrialRecord]:
    return serving.records_of("test_served.py", load_named(serving.path, "served"))


def outcomes(serving: Serving) -> list[str]:
    return [record.outcome.value for record in records(serving)]


def test_a_slow_candidate_is_pruned_after_fewer_requests_and_a_better_one_is_not(
    serving: Serving,
) -> None:
    write(serving, [0.02, 0.1, 0.01], benchmark=load())
    text = serving.run("-v", status=0)
    assert outcomes(serving) == ["feasible", "pruned", "feasible"]
    first, pruned, better = records(serving)
    assert first.value is not None
    assert better.value is not None
    assert better.value < first.value
    assert pruned.value is None
    assert pruned.estimate is not None
    assert pruned.estimate > 1.05 * first.value
    found = re.fullmatch(
        r"lost the race: mean_ttft would come to [\d.]+ ms at best over 2 levels \(level 1: "
        r"[\d.]+ ms in (\d+) requests so far\), and 2\d\.\d+ ms would have lost \(error rate "
        r"1%; measure a baseline with race=False\)",
        pruned.reason,
    )
    assert found is not None, pruned.reason
    assert int(found[1]) < REQUESTS / 2
    assert "1 pruned" in text


def test_a_percentile_is_raced_too(serving: Serving) -> None:
    write(
        serving,
        [0.01, 0.03],
        benchmark=load(num_concurrency=[1], max_requests_per_iteration=200),
        optimization={"objective": "minimize:p50_ttft", "strategy": "grid_search"},
    )
    serving.run(status=0)
    first, pruned = records(serving)
    assert pruned.outcome is Outcome.PRUNED
    assert pruned.estimate is not None
    assert pruned.estimate == pytest.approx(0.03, rel=0.2)
    found = re.search(r"in (\d+) requests so far", pruned.reason)
    assert found is not None
    assert int(found[1]) < 100
    assert first.outcome is Outcome.FEASIBLE


def test_levels_that_cannot_save_a_trial_are_not_run(serving: Serving) -> None:
    # One request at a time: the heavier the level, the longer they wait. 12 are too few to race.
    block = load(num_concurrency=[1, 2, 4], max_requests_per_iteration=12)
    write(serving, [0.02, 0.06], "--capacity", "1", benchmark=block)
    serving.run(status=0)
    first, pruned = records(serving)
    assert [level.concurrency for level in first.levels] == [1, 2, 4]
    assert pruned.outcome is Outcome.PRUNED
    assert "over 3 levels (level 1: " in pruned.reason
    assert "level 4" not in pruned.reason


def test_a_throughput_is_raced_by_what_clients_can_get(serving: Serving) -> None:
    write(
        serving,
        [0.02, 0.08],
        benchmark=load(num_concurrency=[1, 4], max_requests_per_iteration=40),
        optimization={"objective": "maximize_throughput", "strategy": "grid_search"},
    )
    serving.run(status=0)
    first, pruned = records(serving)
    assert pruned.outcome is Outcome.PRUNED
    assert first.value is not None
    assert pruned.estimate is not None
    assert first.value / 6 < pruned.estimate < first.value / 1.05
    assert "mean_total_throughput_per_gpu would come to" in pruned.reason


@pytest.mark.parametrize(
    ("call", "policy"),
    [("race=False", "all"), pytest.param("", "filter", marks=pytest.mark.slow)],
    ids=["race=False", "filter"],
)
def test_who_wants_to_know_measures_to_the_end(serving: Serving, call: str, policy: str) -> None:
    write(
        serving,
        [0.01, 0.04],
        module=RACED.replace("load_test(inference_server)", f"load_test(inference_server, {call})"),
        benchmark=load(max_requests_per_iteration=40),
        slo={"levels": policy, "metrics": [{"metric": "p90_ttft", "max": 5.0}]},
    )
    serving.run(status=0)
    assert outcomes(serving) == ["feasible", "feasible"]


def test_better_ones_are_never_pruned(serving: Serving) -> None:
    block = load(num_concurrency=[1, 8], max_requests_per_iteration=40)
    write(serving, [0.04, 0.03, 0.02, 0.01, 0.005], benchmark=block)
    serving.run(status=0)
    assert outcomes(serving) == ["feasible"] * 5


def test_the_level_that_fails_most_runs_first_once_that_is_known(serving: Serving) -> None:
    # One request at a time: at concurrency 6 they wait for five others.
    write(
        serving,
        [0.03, 0.031, 0.032, 0.033, 0.005],
        *("--capacity", "1", "--itl", "0.002"),
        benchmark=load(num_concurrency=[1, 6], max_requests_per_iteration=18),
        slo=[{"metric": "p90_ttft", "max": 0.1}],
    )
    text = serving.run("-v", "--autotune-infeasible", "xfail", status=0)
    found = records(serving)
    assert [record.outcome.value for record in found] == ["infeasible"] * 4 + ["feasible"]
    measured = [[level.concurrency for level in record.levels] for record in found]
    assert measured == [[1, 6], [1, 6], [1, 6], [6], [1, 6]]
    assert "1 other level was left out: the trial is infeasible" in found[3].notes
    expected = "level 6 ran first: 4 of 4 earlier trials broke a hard bound there, in "
    assert any(note.startswith(expected) for note in found[4].notes)
    assert "level 6 ran first" in text
    assert not any("ran first" in note for record in found[:3] for note in record.notes)


def test_a_server_that_does_not_start_costs_no_test(serving: Serving) -> None:
    serving.write(process("--die-after", "0", "--listen-after", "5"))
    text = serving.run("-v", status=1)
    assert text.count("server crashed at start") >= 2
    assert not re.search(r"^command:", text, re.MULTILINE)
    assert [record.outcome.value for record in records(serving)] == ["failed", "failed"]


def test_what_a_pruned_trial_had_reached_is_stored(serving: Serving) -> None:
    module = """
import pytest

pytestmark = pytest.mark.autotune("served")


def test_it(trial, inference_server):
    if trial.number:
        trial.prune("no better", estimate=7.5)
    trial.report({"mean_ttft": 1.0})
"""
    write(serving, [0.01, 0.02], module=module)
    serving.run(status=0)
    first, pruned = records(serving)
    assert (pruned.outcome, pruned.reason, pruned.estimate) == (Outcome.PRUNED, "no better", 7.5)
    assert first.estimate is None
