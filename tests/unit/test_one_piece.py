"""Streams that arrive in one piece: what they hide is met by nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from builders import changed, make_bound, make_level, make_record, make_slo, make_spec
from scripted import serve

from pytest_autotune.load.loadtest import LoadTest
from pytest_autotune.scoring.judgement import Judgement, Measurement, Outcome, Question, judge
from pytest_autotune.scoring.metrics import in_one_piece
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.study.trial_line import broken_bounds

REAL = {"p50_tpot": 0.01, "p90_tpot": 0.01, "mean_tpot": 0.01, "mean_ttft": 0.1, "p50_itl": 0.01}
WHOLE = {"p50_tpot": 0.0, "p90_tpot": 1e-6, "mean_tpot": 1e-6, "mean_ttft": 0.1, "p50_itl": 0.0}
#: Half of the answers arrived in one piece, on a machine that is held up, say.
HALF = {"p50_tpot": 0.0, "p90_tpot": 0.01, "mean_tpot": 0.005, "mean_ttft": 0.1, "p50_itl": 0.0}
#: Answers of one token have no time per token.
SINGLE = {"mean_ttft": 0.1, "mean_e2e_latency": 0.1}


def judgement(
    *levels: Mapping[str, float], slo: SLO | None = None, objective: str = "minimize:e2e_latency"
) -> Judgement:
    measured = tuple(
        make_level(at + 1, mean_e2e_latency=1.0, **{k: v for k, v in m.items() if "e2e" not in k})
        for at, m in enumerate(levels)
    )
    question = Question(slo=slo or make_slo(), objective=Objective.parse(objective))
    return judge(Measurement(levels=measured), question)


@pytest.mark.parametrize(
    ("metrics", "whole"),
    [
        (REAL, False),
        (WHOLE, True),
        (HALF, False),
        (SINGLE, False),
        # The fastest servers make some thousand tokens a second.
        ({"p90_tpot": 1e-4}, False),
        # Not of a load test: a batch may well take so little for each of its tokens.
        ({"mean_tpot": 1e-6}, False),
        ({"mean_tpot": 0.0, "mean_output_tokens": 8.0}, True),
        # A test that never measured it, or that asks for one token.
        ({"mean_tpot": 0.0}, False),
        ({**WHOLE, "mean_output_tokens": 1.0}, False),
    ],
)
def test_a_stream_is_in_one_piece_where_no_time_lies_between_its_tokens(
    metrics: Mapping[str, float], *, whole: bool
) -> None:
    assert in_one_piece(metrics) is whole


@pytest.mark.parametrize("metric", ["mean_ttft", "p50_tpot", "mean_tpot", "p50_itl"])
@pytest.mark.parametrize("hard", [True, False])
def test_no_bound_on_parts_of_a_stream_is_met_by_one_piece(metric: str, *, hard: bool) -> None:
    slo = make_slo(make_bound(metric, 9.0, hard=hard))
    assert judgement(REAL, REAL, slo=slo).outcome is Outcome.FEASIBLE
    broken = judgement(REAL, WHOLE, slo=slo)
    assert broken.outcome is Outcome.INFEASIBLE
    (result,) = broken.compliance.results
    assert result.problem == "the stream arrived in one piece"
    assert result.level == "2"
    # It is reported all the same.
    assert broken.metrics["mean_ttft"] == pytest.approx(0.1)
    record = changed(make_record(0), outcome=Outcome.INFEASIBLE, bounds=(result,))
    assert broken_bounds(record) == (
        "infeasible: the stream arrived in one piece (a proxy that buffers, or a server without "
        f"TCP_NODELAY?), so {metric} is not known"
    )


def test_what_the_whole_answer_shows_is_judged_as_ever() -> None:
    slo = make_slo(make_bound("mean_e2e_latency", 2.0, hard=True))
    assert judgement(WHOLE, slo=slo).outcome is Outcome.FEASIBLE
    ttft = make_slo(make_bound("mean_ttft", 2.0, hard=True))
    assert judgement(SINGLE, slo=ttft).outcome is Outcome.FEASIBLE


def test_a_report_of_its_own_without_a_time_per_token_breaks_no_other_bound() -> None:
    question = Question(
        slo=make_slo(make_bound("ttft", 0.2)), objective=Objective.parse("minimize:ttft")
    )
    measured = Measurement(metrics={"ttft": 0.1, "tpot": 0.0})
    assert judge(measured, question).outcome is Outcome.FEASIBLE


@pytest.mark.parametrize("objective", ["minimize_ttft", "minimize_tpot", "minimize:p50_tpot"])
def test_no_objective_is_measured_by_one_piece(objective: str) -> None:
    assert judgement(REAL, REAL, objective=objective).outcome is Outcome.FEASIBLE
    failed = judgement(REAL, WHOLE, objective=objective)
    assert failed.outcome is Outcome.FAILED
    assert failed.reason.startswith("the stream arrived in one piece")


def test_half_of_the_answers_decide_their_median_only() -> None:
    assert judgement(HALF, slo=make_slo(make_bound("mean_ttft", 9.0))).compliance.met
    (median,) = judgement(HALF, slo=make_slo(make_bound("p50_tpot", 9.0))).compliance.results
    assert median.problem == "the stream arrived in one piece"
    assert judgement(REAL, HALF, objective="minimize_ttft").outcome is Outcome.FEASIBLE
    assert judgement(REAL, HALF, objective="minimize:p50_tpot").outcome is Outcome.FAILED


def test_one_piece_is_a_note_where_nobody_asks_for_parts_of_a_stream() -> None:
    load = {"traffic_scenarios": ["D(8,8)"], "max_requests_per_iteration": 4, "warmup_requests": 0}
    slo = [{"metric": "latency", "statistic": "p90", "max": 9.0, "hard_fail": True}]
    spec = make_spec(parameters={"a": [1]}, benchmark=load, slo=slo)
    test = LoadTest(spec.raw, spec.benchmark, spec.slo)
    with closing(test), serve("--itl", "0.002", "--buffer") as server:
        (level,) = test(server.url).levels
    assert (level.met, level.reliable) == (True, True)
    assert any("arrived in one piece" in text for text in level.warnings)


@pytest.mark.parametrize(
    ("arguments", "tokens", "met"),
    [
        (["--itl", "0.005"], 8, True),
        (["--itl", "0.005", "--buffer"], 8, False),
        (["--itl", "0.005", "--buffer"], 1, True),
        (["--itl", "0.005", "--tokens-per-event", "8"], 8, False),
        (["--itl", "0.005", "--tokens-per-event", "4"], 8, True),
    ],
)
def test_a_server_that_streams_is_told_from_one_that_does_not(
    arguments: list[str], tokens: int, *, met: bool
) -> None:
    load: dict[str, Any] = {
        "traffic_scenarios": [f"D(8,{tokens})"],
        "max_requests_per_iteration": 8,
        "warmup_requests": 0,
    }
    slo = [{"metric": "ttft", "statistic": "p90", "max": 9.0, "hard_fail": True}]
    spec = make_spec(parameters={"a": [1]}, benchmark=load, slo=slo)
    test = LoadTest(spec.raw, spec.benchmark, spec.slo)
    try:
        with serve("--ttft", "0.01", *arguments) as server:
            (level,) = test(server.url).levels
    finally:
        test.close()
    assert level.met is met
    assert level.reliable is met
    if tokens == 8 and "--buffer" in arguments:
        assert level.metrics["p50_ttft"] == level.metrics["p50_e2e_latency"] >= 0.045
        assert level.metrics["p50_tpot"] == 0
