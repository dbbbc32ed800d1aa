"""What is optimized, in which direction, and what a typo leads to."""

from __future__ import annotations

import math

import pytest
from builders import THROUGHPUT

from pytest_autotune.errors import OptionError
from pytest_autotune.scoring.objective import Objective


@pytest.mark.parametrize(
    ("name", "first", "maximize"),
    [
        ("minimize_latency", "mean_e2e_latency", False),
        ("minimize_ttft", "mean_ttft", False),
        ("minimize_tpot", "mean_tpot", False),
        ("maximize_throughput", "mean_total_throughput_per_gpu", True),
        ("minimize:cost", "cost", False),
        ("maximize:cost", "cost", True),
        ("maximize: cost", "cost", True),
        ("minimize:p99_ttft", "p99_ttft", False),
        ("minimize:latency", "mean_e2e_latency", False),
        ("minimize:p99_latency", "p99_e2e_latency", False),
    ],
)
def test_an_objective_is_a_metric_and_a_direction(name: str, first: str, *, maximize: bool) -> None:
    objective = Objective.parse(name)
    assert objective.name == name
    assert objective.metrics[0] == first
    assert objective.maximize is maximize


@pytest.mark.parametrize(
    ("metrics", "measured"),
    [
        ({"mean_e2e_latency": 1.0, "p50_e2e_latency": 2.0}, ("mean_e2e_latency", 1.0)),
        ({"p50_e2e_latency": 2.0}, ("p50_e2e_latency", 2.0)),
        ({"mean_ttft": 2.0}, None),
        ({"mean_e2e_latency": math.nan}, None),
        ({"mean_e2e_latency": math.inf}, None),
    ],
)
def test_latency_is_its_mean_or_else_its_median(
    metrics: dict[str, float], measured: tuple[str, float] | None
) -> None:
    assert Objective.parse("minimize_latency").measure(metrics) == measured


def test_throughput_per_gpu_comes_before_totals() -> None:
    metrics = {
        "max_total_throughput": 4.0,
        "mean_output_throughput": 3.0,
        "mean_total_throughput": 2.0,
        "mean_total_throughput_per_gpu": 1.0,
    }
    for expected in (1.0, 2.0, 3.0, 4.0):
        measured = THROUGHPUT.measure(metrics)
        assert measured is not None
        assert measured[1] == expected
        del metrics[measured[0]]
    assert THROUGHPUT.measure(metrics) is None


def test_an_unusable_throughput_per_gpu_is_not_replaced_by_a_total_of_all_gpus() -> None:
    metrics = {"mean_total_throughput_per_gpu": math.nan, "mean_total_throughput": 8000.0}
    assert THROUGHPUT.measure(metrics) is None


def test_a_metric_of_ones_own_may_be_reported_plain_or_as_a_mean() -> None:
    objective = Objective.parse("minimize:cost")
    assert objective.measure({"cost": 1.0, "mean_cost": 2.0}) == ("cost", 1.0)
    assert objective.measure({"mean_cost": 2.0}) == ("mean_cost", 2.0)


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 1e300])
def test_lower_is_better_inside_and_the_users_sign_comes_back(value: float) -> None:
    minimize, maximize = Objective.parse("minimize:x"), Objective.parse("maximize:x")
    assert minimize.score(value) == value
    assert maximize.score(value) == -value
    assert maximize.score(maximize.score(value)) == value


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("minimise_latency", "minimize_latency"),
        ("maximize_troughput", "maximize_throughput"),
        ("minimize_tftt", "minimize_ttft"),
        ("Minimize_Latency", "minimize_latency"),
    ],
)
def test_a_misspelt_objective_is_an_error_naming_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(OptionError) as caught:
        Objective.parse(typo)
    message = str(caught.value)
    assert f"unknown objective {typo!r} (did you mean {meant!r}?)" in message
    assert "minimize:METRIC and maximize:METRIC" in message


@pytest.mark.parametrize(
    "name", ["", ":", "minimize", "minimize:", "minimize:  ", "max:x", "minimise:x", ":x", "xyzzy"]
)
def test_what_is_no_objective_never_scores(name: str) -> None:
    with pytest.raises(OptionError, match="unknown objective"):
        Objective.parse(name)
