"""Traffic in the notation of the field: how many tokens, and when."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice, pairwise
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.traffic import arrivals
from pytest_autotune.spec.scenario import FORMS, Lengths, Scenario


def drawn(text: str, count: int = 3000, seed: str = "0") -> tuple[Sequence[int], Sequence[int]]:
    pairs = list(islice(Scenario.parse(text).draws(seed), count))
    return [tokens for tokens, _ in pairs], [tokens for _, tokens in pairs]


# The notation


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("D(100,50)", Lengths("fixed", 100), Lengths("fixed", 50)),
        ("D(1,1)", Lengths("fixed", 1), Lengths("fixed", 1)),
        ("D(7.0,5)", Lengths("fixed", 7), Lengths("fixed", 5)),
        ("N(480,240)/(300,150)", Lengths("normal", 480, 240), Lengths("normal", 300, 150)),
        ("N(1,0)/(2.5,0.5)", Lengths("normal", 1, 0), Lengths("normal", 2.5, 0.5)),
        ("U(50,100)/(200,250)", Lengths("uniform", 50, 100), Lengths("uniform", 200, 250)),
        ("U(100,250)", Lengths("uniform", 1, 100), Lengths("uniform", 1, 250)),
        ("U(1,1)/(3,3)", Lengths("uniform", 1, 1), Lengths("uniform", 3, 3)),
        ("D(10000000,10000000)", Lengths("fixed", 1e7), Lengths("fixed", 1e7)),
    ],
)
def test_a_scenario_is_a_pair_of_distributions(text: str, first: Lengths, second: Lengths) -> None:
    scenario = Scenario.parse(text)
    assert (scenario.text, scenario.input, scenario.output) == (text, first, second)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" D(100,50)", "D(100,50)"),
        ("D ( 100 , 50 ) ", "D(100,50)"),
        ("D(100, 50)\n", "D(100,50)"),
        ("\tN( 1,2 ) / ( 3 , 4 )", "N(1,2)/(3,4)"),
        ("U (50,\t100)/(200,250)", "U(50,100)/(200,250)"),
    ],
)
def test_white_space_means_nothing(text: str, name: str) -> None:
    scenario = Scenario.parse(text)
    assert scenario.text == name
    assert scenario == Scenario.parse(name)


@pytest.mark.parametrize(
    "text",
    [
        "", "D", "D()", "D(1)", "D(1,)", "D(,1)", "D(1,2,3)", "D(1;2)", "d(1,2)", "X(1,2)", "D(1,2",
        "D1,2", "D(-1,2)", "D(1,-2)", "D(1e3,2)", "D(.5,2)", "D(1.,2)", "D(a,b)", "D(1,2)x",
        "xD(1,2)", "D(1,2)/", "D(1,2)/(3)", "U(1,2)//(3,4)", "U(1,2)/(3,4)/(5,6)", "N(1,2)(3,4)",
        "N 1,2/3,4", "(1,2)", "D(1 0,2)", "D(nan,1)", "D(inf,1)", "dynamic", "I(512,512)",
        "D(+1,2)", "D(1_0,2)",
    ],
)  # fmt: skip
def test_what_is_no_scenario_is_told_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no traffic scenario; known: D") as caught:
        Scenario.parse(text)
    assert repr(text) in str(caught.value)
    assert FORMS in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("D(1,2)/(3,4)", "has too many parts; known: D"),
        ("N(1,2)", "has too few parts; known: D"),
        ("D(0,5)", "needs whole numbers of tokens, at least 1"),
        ("D(5,0)", "needs whole numbers of tokens, at least 1"),
        ("D(1.5,2)", "needs whole numbers of tokens, at least 1"),
        ("D(2,0.5)", "needs whole numbers of tokens, at least 1"),
        ("N(0,5)/(3,1)", "needs a mean of at least 1 token"),
        ("N(3,1)/(0.5,5)", "needs a mean of at least 1 token"),
        ("U(0,5)/(1,2)", "needs whole numbers of tokens, the least (from 1) before the most"),
        ("U(5,4)/(1,2)", "the least (from 1) before the most"),
        ("U(1,2)/(9,8)", "the least (from 1) before the most"),
        ("U(1,2.5)/(1,2)", "needs whole numbers of tokens"),
        ("U(0,5)", "the least (from 1) before the most"),
        ("U(5,0)", "the least (from 1) before the most"),
        ("D(10000001,1)", "asks for more than 10000000 tokens"),
        ("N(1,99999999)/(1,1)", "asks for more than 10000000 tokens"),
        ("U(1,2)/(1,10000001)", "asks for more than 10000000 tokens"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"tokens|parts|mean") as caught:
        Scenario.parse(text)
    assert str(caught.value).startswith(repr(text))
    assert message in str(caught.value)


@given(st.text(alphabet="DNU()/,.0123456789 -ex", max_size=24))
@settings(derandomize=True, max_examples=500, deadline=None)
def test_any_text_is_a_scenario_or_refused(text: str) -> None:
    try:
        scenario = Scenario.parse(text)
    except ValueError:
        return
    assert Scenario.parse(scenario.text) == scenario
    tokens = next(scenario.draws("0"))
    assert min(tokens) >= 1


# What is drawn


def test_fixed_numbers_are_fixed() -> None:
    assert set(zip(*drawn("D(100,50)", 50), strict=True)) == {(100, 50)}


def test_normal_numbers_have_their_mean_and_deviation() -> None:
    first, second = drawn("N(480,60)/(300,30)")
    assert mean(first) == pytest.approx(480, abs=6)
    assert stdev(first) == pytest.approx(60, rel=0.1)
    assert mean(second) == pytest.approx(300, abs=3)
    assert stdev(second) == pytest.approx(30, rel=0.1)


def test_normal_numbers_are_never_below_one() -> None:
    first, second = drawn("N(2,50)/(1,0)")
    assert min(first) == 1
    assert max(first) > 50
    assert set(second) == {1}


def test_uniform_numbers_reach_both_ends() -> None:
    first, second = drawn("U(3,12)/(200,250)")
    assert set(first) == set(range(3, 13))
    assert (min(second), max(second)) == (200, 250)
    assert mean(first) == pytest.approx(7.5, abs=0.3)
    assert mean(second) == pytest.approx(225, abs=2)


def test_uniform_numbers_of_one_pair_begin_at_one() -> None:
    first, second = drawn("U(4,9)")
    assert set(first) == {1, 2, 3, 4}
    assert set(second) == set(range(1, 10))


@pytest.mark.parametrize(
    "lengths",
    [Lengths("fixed", 70), Lengths("normal", 200, 20), Lengths("uniform", 10, 110)],
    ids=lambda lengths: lengths.kind,
)
def test_mean_and_deviation_are_known_beforehand(lengths: Lengths) -> None:
    rng = random.Random(0)
    values = [lengths.draw(rng) for _ in range(5000)]
    assert mean(values) == pytest.approx(lengths.mean, rel=0.02)
    assert stdev(values) == pytest.approx(lengths.stddev, rel=0.05, abs=1e-9)


def test_input_and_output_are_drawn_independently() -> None:
    first, second = drawn("U(1,1000)/(1,1000)")
    assert first != second
    middle, other = mean(first), mean(second)
    products = [(a - middle) * (b - other) for a, b in zip(first, second, strict=True)]
    assert abs(mean(products)) / (stdev(first) * stdev(second)) < 0.1


@pytest.mark.parametrize("text", ["N(480,240)/(300,150)", "U(50,100)/(200,250)"])
def test_the_same_seed_draws_the_same_numbers(text: str) -> None:
    assert drawn(text, 100, "7") == drawn(text, 100, "7")
    assert drawn(text, 100, "7") != drawn(text, 100, "8")


def test_spelling_does_not_change_what_is_drawn() -> None:
    assert drawn("U(50,100)/(200,250)", 50) == drawn(" U( 50, 100 ) / (200,250)", 50)


# Arrivals


@pytest.mark.parametrize("rate", [0.1, 1.0, 50.0, 1000.0])
def test_arrivals_are_a_poisson_process(rate: float) -> None:
    times = list(islice(arrivals(rate, "0"), 4000))
    gaps = [b - a for a, b in pairwise([0.0, *times])]
    assert all(gap > 0 for gap in gaps)
    assert times == sorted(times)
    assert mean(gaps) == pytest.approx(1 / rate, rel=0.08)
    # Of an exponential distribution the deviation is the mean, and a share of 1/e is above it.
    assert stdev(gaps) == pytest.approx(1 / rate, rel=0.1)
    assert sum(gap > 1 / rate for gap in gaps) / 4000 == pytest.approx(math.exp(-1), abs=0.03)


def test_gaps_do_not_depend_on_those_before() -> None:
    times = list(islice(arrivals(1.0, "0"), 4000))
    gaps = [b - a for a, b in pairwise(times)]
    after_long = [after for gap, after in pairwise(gaps) if gap > 1]
    assert mean(after_long) == pytest.approx(1.0, rel=0.15)


def test_the_same_seed_has_the_same_arrivals_at_any_rate() -> None:
    def times(rate: float, seed: str) -> list[float]:
        return list(islice(arrivals(rate, seed), 100))

    assert times(5, "a") == times(5, "a")
    assert times(5, "a") != times(5, "b")
    # Twice the rate is the same process in half the time.
    assert [2 * at for at in times(10, "a")] == pytest.approx(times(5, "a"))
