"""The benchmark of search strategies: its figures have to be right, too."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search
import search_clock
import search_peers
from search_bowls import SETS, Bowl
from search_spaces import (
    ASKS_PER_EVALUATION,
    Digits,
    SpaceError,
    Table,
    Trace,
    area,
    at_budgets,
    curve,
    drive,
    find_spaces,
    load,
)

from pytest_autotune.scoring.judgement import Outcome, judge
from pytest_autotune.space.parameters import Point
from pytest_autotune.strategies import History, StrategyContext
from pytest_autotune.strategies.unseen import random_unseen

SCRIPT = Path(search.__file__)


def write_space(
    folder: Path,
    name: str,
    parameters: Mapping[str, Sequence[Any]],
    rows: Sequence[Mapping[str, Any]],
    **described: Any,
) -> Path:
    path = folder / f"{name}.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    document = {"params": parameters, "objective": "time_ms", "direction": "minimize", **described}
    (folder / f"{name}.json").write_text(json.dumps(document), "utf-8")
    return path


def kernel(folder: Path, name: str = "kernel") -> Path:
    """Write 60 of 64 combinations, of which four fail; (3, 3, 3) is the best, with 1 ms."""
    rows = []
    for x, y, z in product(range(4), repeat=3):
        if (x, y) == (0, 0):
            continue
        fails = (x, y) == (1, 0)
        time_ms = "" if fails else 1 + (3 - x) + (3 - y) + (3 - z)
        rows.append(
            {"x": x, "y": y, "z": z, "time_ms": time_ms, "time_cv": 0.01, "n_samples": 10,
             "valid": int(not fails), "error": ""}
        )  # fmt: skip
    return write_space(folder, name, {"x": range4(), "y": range4(), "z": range4()}, rows)


def range4() -> list[int]:
    return [0, 1, 2, 3]


def serving(folder: Path) -> Path:
    rows = [
        {"system": system, "tp": f"{tp}.0", "ttft_ms": ttft, "tpot_ms": 10, "rate": rate}
        for system, tp, ttft, rate in (
            ("a", 1, 100, 10), ("a", 2, 600, 90), ("b", 1, 200, 40), ("b", 2, 300, 20),
        )
    ]  # fmt: skip
    return write_space(
        folder, "serving", {"system": ["a", "b"], "tp": [1, 2.0]}, rows,
        objective="rate", direction="maximize", slo={"ttft_ms": 500},
    )  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return load(kernel(tmp_path))


# Reading


def test_a_space_is_read(table: Table) -> None:
    assert len(table) == 60
    assert table.failed.sum() == 4
    assert table.parameters["x"] == (0, 1, 2, 3)
    assert table.point(table.row_of[3, 2, 1]) == {"x": 3, "y": 2, "z": 1}
    assert (0, 0, 1) not in table.row_of
    assert table.metrics(table.row_of[3, 3, 3]) == {"time_ms": 1}


def test_values_are_matched_however_they_are_written(tmp_path: Path) -> None:
    table = load(serving(tmp_path))
    assert table.point(0) == {"system": "a", "tp": 1}
    assert not table.ordered[0]
    assert table.ordered[1]


def test_small_tables_and_those_with_an_slo_are_serving_spaces(tmp_path: Path) -> None:
    assert load(serving(tmp_path)).budgets == (10, 20, 50)
    rows = [{"x": x, "time_ms": 1 + x, "valid": 1} for x in range(300)]
    large = write_space(tmp_path, "large", {"x": list(range(300))}, rows)
    assert load(large).budgets == (20, 50, 100, 200)
    assert load(kernel(tmp_path)).kind == "serving"


def test_what_is_wrong_with_a_folder_or_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere is no folder; give .* AUTOTUNE_SPACES"):
        find_spaces(tmp_path / "nowhere")
    with pytest.raises(SpaceError, match=r"has no NAME\.csv\.gz"):
        find_spaces(tmp_path)
    path = kernel(tmp_path)
    path.with_name("kernel.json").unlink()
    with pytest.raises(SpaceError, match=r"kernel\.csv\.gz and kernel\.json cannot be read"):
        load(path)
    path = write_space(tmp_path, "other", {"x": [1]}, [{"x": 2, "time_ms": 1}])
    with pytest.raises(SpaceError, match=r"2\.0"):
        load(path)
    path = write_space(tmp_path, "failed", {"x": [1]}, [{"x": 1, "time_ms": 1, "valid": 0}])
    with pytest.raises(SpaceError, match="no row is valid"):
        load(path)


# Synthetic spaces


def bowl(**changes: Any) -> Bowl:
    keys: dict[str, Any] = {"name": "bowl", "sizes": (6, 5, 4), "seed": 3, **changes}
    return Bowl(**keys)


@pytest.mark.parametrize("spread", [None, 100.0])
@pytest.mark.parametrize("form", [{}, {"turned": True}])
def test_a_bowl_has_one_lowest_point_and_is_the_same_every_time(
    tmp_path: Path, spread: float | None, form: Mapping[str, Any]
) -> None:
    same = bowl(spread=spread, **form)
    table = load(same.write(tmp_path))
    assert table.kind == "bowl"
    assert len(table) == 120
    assert (table.distance == 1).sum() == 1
    assert spread is None or np.nanmax(table.distance) == pytest.approx(spread)
    assert same.document() == bowl(spread=spread, **form).document()
    assert same.document() != bowl(spread=spread, **form, seed=4).document()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("bounded", ["itself", "other"])
def test_a_share_of_a_bowl_is_feasible(tmp_path: Path, bounded: str, direction: str) -> None:
    maximize = direction == "maximize"
    described = bowl(bounded=bounded, maximize=maximize, share=0.3, spread=50.0)
    table = load(described.write(tmp_path))
    assert table.feasible.mean() == pytest.approx(0.3, abs=0.02)
    assert table.violation[~table.feasible].min() > 0
    assert table.violation[table.feasible].max() == 0
    space = search.Replayed.read(tmp_path / "bowl.csv.gz")
    plan = space.plan("random", 10, 0)
    for row in (int(np.argmax(table.quality)), int(np.flatnonzero(~table.feasible)[0])):
        measured = space.recording.result(table.point(row))
        assert (judge(measured, plan.question).outcome is Outcome.FEASIBLE) == table.feasible[row]


def test_a_noisy_bowl_is_judged_without_its_noise(tmp_path: Path) -> None:
    table = load(bowl(noise=0.3, bounded="nothing").write(tmp_path))
    plain = bowl(bounded="nothing").document()[1]
    assert table.distance == pytest.approx([row["latency"] for row in plain])
    assert np.std(np.log(table.columns["latency"] / table.columns["true"])) > 0.2


def test_the_sets_of_bowls_have_no_space_in_common() -> None:
    names = [each.name for bowls in SETS.values() for each in bowls]
    seeds = [{each.seed for each in bowls} for bowls in SETS.values()]
    assert len(set(names)) == len(names)
    assert not set.intersection(*seeds)


def test_the_later_trials_on_a_bowl_are_judged_too(tmp_path: Path) -> None:
    table = load(bowl(share=0.5).write(tmp_path))
    order = np.argsort(table.distance, kind="stable").tolist()
    best_last = Trace(rows=[*order[90:], *order[:30]], budget=60)
    worst_last = Trace(rows=[*order[:30], *order[90:]], budget=60)
    method = search.Method(name="auto", ours=True)
    (near, none), (far, broken) = (
        search.late(search.Found(table, method, 60, 60, 1, {0: trace}))
        for trace in (best_last, worst_last)
    )
    assert near == pytest.approx(np.median(table.distance[order[:30]]))
    assert far == pytest.approx(np.median(table.distance[order[90:]]))
    assert (none, broken) == (0, 1)


# Judging


def test_quality_is_the_fraction_of_the_optimum(table: Table) -> None:
    assert table.quality[table.row_of[3, 3, 3]] == 1
    assert table.quality[table.row_of[3, 3, 2]] == pytest.approx(0.5)
    assert table.quality[table.row_of[1, 0, 0]] == 0


def test_what_breaks_the_slo_counts_as_nothing(tmp_path: Path) -> None:
    table = load(serving(tmp_path))
    assert table.quality.tolist() == [0.25, 0, 1, 0.5]
    assert table.violation.tolist() == pytest.approx([0, 0.2, 0, 0])


def test_a_trace_becomes_a_curve(table: Table) -> None:
    rows = [table.row_of[each] for each in ((1, 0, 0), (3, 3, 1), (3, 2, 1), (3, 3, 2))]
    found = curve(table, Trace(rows=rows, budget=10))
    assert found.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 2])
    assert at_budgets(found, (1, 2, 4, 10), 10) == pytest.approx([0, 1 / 3, 1 / 2, 1 / 2])
    assert math.isnan(at_budgets(found, (2, 20), 10)[1])
    assert area(found, 4, 10) == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 4)
    assert area(found, 6, 10) == pytest.approx((1 / 3 + 1 / 3 + 3 / 2) / 6)
    assert math.isnan(area(found, 20, 10))


def test_an_empty_trace_has_found_nothing(table: Table) -> None:
    found = curve(table, Trace(rows=(), budget=10))
    assert at_budgets(found, (5, 10), 10) == [0, 0]
    assert area(found, 10, 10) == 0


def test_what_was_given_up_was_not_found(table: Table) -> None:
    best = table.row_of[3, 3, 3]
    assert curve(table, Trace(rows=[best], given_up=[True], budget=1)).tolist() == [0]


# Peers


class Scripted:
    def __init__(self, *asked: Digits | None) -> None:
        self.asked = list(asked)
        self.told: list[int | None] = []

    def ask(self) -> Digits | None:
        return self.asked.pop(0) if len(self.asked) > 1 else self.asked[0]

    def tell(self, row: int | None) -> None:
        self.told.append(row)


def test_repetitions_and_what_does_not_exist_are_free(table: Table) -> None:
    peer = Scripted((3, 3, 3), (0, 0, 0), (3, 3, 3), (3, 3, 2), (1, 0, 0))
    trace = drive(peer, table, 3)
    rows = [table.row_of[each] for each in ((3, 3, 3), (3, 3, 2), (1, 0, 0))]
    assert list(trace.rows) == rows
    assert peer.told == [rows[0], None, rows[0], rows[1], rows[2]]
    assert len(trace.asks) == 5
    assert not trace.stalled


def test_who_only_repeats_himself_stalls(table: Table) -> None:
    peer = Scripted((3, 3, 3))
    trace = drive(peer, table, 5)
    assert trace.stalled
    assert len(trace.rows) == 1
    assert len(peer.told) == 5 * ASKS_PER_EVALUATION


def test_a_table_that_is_used_up_is_no_stall(table: Table) -> None:
    trace = drive(search_peers.RandomProposer(table, 0), table, 1000)
    assert sorted(trace.rows) == list(range(60))
    assert not trace.stalled


def test_a_proposal_is_moved_to_the_nearest_unseen_row(tmp_path: Path, table: Table) -> None:
    rng = np.random.default_rng(0)
    seen = np.zeros(len(table), dtype=bool)
    assert table.nearest((3, 3, 3), seen, rng) == table.row_of[3, 3, 3]
    seen[table.row_of[3, 3, 3]] = True
    near = {table.nearest((3, 3, 3), seen, rng) for _ in range(50)}
    assert near == {table.row_of[each] for each in ((2, 3, 3), (3, 2, 3), (3, 3, 2))}
    seen[:] = True
    assert table.nearest((3, 3, 3), seen, rng) is None
    # Another system is as far away as the other end of an ordered parameter.
    small = load(serving(tmp_path))
    seen = np.array([True, False, False, False])
    assert {small.nearest((0, 0), seen, rng) for _ in range(50)} == {1, 2}


def test_snapped_proposals_never_repeat_themselves(table: Table) -> None:
    from optuna.samplers import RandomSampler

    peer = search_peers.OptunaProposer(table, RandomSampler(seed=0), 0, snap=True)
    trace = drive(peer, table, 60)
    assert sorted(trace.rows) == list(range(60))
    assert len(trace.asks) == 60


def test_the_reference_perturbs_duplicates(table: Table) -> None:
    peer = search_peers.ReferenceProposer(table, 0)
    best = table.row_of[3, 3, 3]
    assert peer._settle((3, 3, 3)) == best
    peer._seen[best] = True
    other = peer._settle((3, 3, 3))
    assert other is not None
    assert other != best
    assert (table.digits[other] != table.digits[best]).sum() == 1
    peer._seen[:] = True
    assert peer._settle((3, 3, 3)) is not None


def test_a_package_that_is_missing_is_named() -> None:
    peer = search_peers.Peer(
        name="peer", search=lambda *_: Trace(rows=(), budget=0), needs={"no_such_module": "package"}
    )
    assert peer.missing == ["package"]


# Ours


class Watching:
    """A random strategy that notes which trials run while it is asked."""

    def __init__(self, context: StrategyContext) -> None:
        self.space = context.space
        self.running: list[list[int]] = []

    def plan(self) -> None:
        return

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        self.running.append(
            [each.number for each in history.records if each.outcome is Outcome.RUNNING]
        )
        return random_unseen(self.space, history, np.random.default_rng(seed))


@pytest.mark.parametrize("outstanding", [1, 3])
def test_trials_under_way_end_first_in_first_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outstanding: int
) -> None:
    path = kernel(tmp_path)
    made: list[Watching] = []

    def make(_name: str, context: StrategyContext) -> Watching:
        made.append(Watching(context))
        return made[-1]

    monkeypatch.setattr(search, "make_strategy", make)
    method = search.Method(name="watching", ours=True, outstanding=outstanding)
    task = search.Task(path=path, method=method, budget=8, most=8, seed=0, scratch=tmp_path)
    trace = search.run_study(search.Replayed.read(path), task, tmp_path)
    assert len(set(trace.rows)) == len(trace.rows) == 8
    assert len(trace.asks) == 8
    (strategy,) = made
    expected = [list(range(max(0, n - outstanding + 1), n)) for n in range(8)]
    assert strategy.running == expected


def test_a_study_of_ours_uses_up_the_table(tmp_path: Path) -> None:
    path = serving(tmp_path)
    method = search.Method(name="random", ours=True)
    task = search.Task(path=path, method=method, budget=10, most=10, seed=1, scratch=tmp_path)
    trace, error = search.perform(task)
    assert error == ""
    assert trace is not None
    assert sorted(trace.rows) == [0, 1, 2, 3]
    assert not trace.stalled


def test_a_search_that_fails_says_so_and_returns(tmp_path: Path) -> None:
    method = search.Method(name="no such strategy", ours=True)
    task = search.Task(
        path=serving(tmp_path), method=method, budget=10, most=10, seed=1, scratch=tmp_path
    )
    trace, error = search.perform(task)
    assert trace is None
    assert "unknown strategy" in error
    assert "unknown strategy" in search.unavailable("no such strategy")
    assert search.unavailable("random") == ""


# Tables


def found(table: Table, name: str, *qualities: float, ours: bool = False) -> search.Found:
    """Return results whose one search finds so much at once and nothing better."""
    rows = [int(np.argmin(np.abs(table.quality - quality))) for quality in qualities]
    return search.Found(
        table, search.Method(name=name, ours=ours), 50, 50, len(rows),
        {seed: Trace(rows=[row], budget=50, seconds=1) for seed, row in enumerate(rows)},
    )  # fmt: skip


def test_ours_is_compared_with_the_best_peer(table: Table) -> None:
    all_found = [
        found(table, "auto", 0.5, ours=True),
        found(table, "random", 0.25),
        found(table, "tpe", 1.0),
    ]
    result = search.standing(all_found, "auto", table.budgets)
    assert result is not None
    assert result.means == pytest.approx(0.5)
    assert result.gap == pytest.approx(-0.5)
    assert list(result.best) == ["tpe"] * 3
    assert result.worst == [(0.5, "kernel")] * 3
    assert result.lost == [(-0.25, "kernel")] * 3
    assert search.standing(all_found, "bayesian", table.budgets) is None


def test_medians_and_stalls_are_of_all_seeds(table: Table) -> None:
    result = found(table, "tpe", 0.25, 0.5, 1.0)
    assert result.medians() == pytest.approx(0.5)
    assert result.stalled(10)
    assert not result.stalled(1)
    assert result.complete
    assert json.loads(json.dumps(result.document()))["medians"]["10"] == pytest.approx(0.5)


# Time


def test_time_is_until_something_good_was_found(table: Table) -> None:
    rows = [table.row_of[each] for each in ((3, 3, 1), (3, 3, 3), (2, 3, 3))]
    trace = Trace(rows=rows, budget=3, seconds=3)
    assert search_clock.until_found(table, trace, [10, 20, 40]) == pytest.approx([32, 32])
    assert search_clock.until_found(table, Trace(rows=(), budget=3), []) == [math.inf] * 2
    assert search_clock.medians([[1, 5], [3, math.inf], [2, math.inf]]) == [2, math.inf]


def test_prices_of_rows(tmp_path: Path) -> None:
    prices = search_clock.Prices(start_seconds=100, requests=2, output_tokens=10)
    assert prices.rows(load(serving(tmp_path)))[0] == pytest.approx(100 + 2 * (0.1 + 10 * 0.01))
    rows = [{"x": x, "time_ms": 1000, "valid": int(x > 0)} for x in range(300)]
    path = write_space(tmp_path, "large", {"x": list(range(300))}, rows)
    assert prices.rows(load(path)).tolist()[:2] == pytest.approx([1, 1 + search_clock.SAMPLES])


def test_a_race_gives_up_what_is_much_slower(tmp_path: Path) -> None:
    times = {"best": 10, "slow": 30, "better": 5, "failed": ""}
    rows = [
        {"x": name, "time_ms": ms, "time_cv": 0.3, "valid": int(ms != "")}
        for name, ms in times.items()
    ]
    table = load(write_space(tmp_path, "race", {"x": list(times)}, rows))
    racing = search_clock.Racing(table, 0)
    found = [racing.lost(row) for row in (3, 0, 1, 2)]
    assert found == [None, None, pytest.approx(30, rel=0.2), None]
    assert racing.costs[0] == 0
    assert 0.5 <= racing.costs[2] < 2
    assert (racing.better, racing.wronged) == (2, 0)
    assert search_clock.Stopwatch(table).seconds(3) == 0


# The script


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_it_runs(tmp_path: Path) -> None:
    kernel(tmp_path)
    serving(tmp_path)
    file = tmp_path / "search.json"
    done = run_script(
        *("--spaces", str(tmp_path), "--peers", "random", "--seeds", "2", "--time"),
        *("--strategies", "random", "nonsense", "--jobs", "1", "--json", str(file)),
        *("--directory", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert "left out: strategy nonsense: unknown strategy" in done.stdout
    assert "kernel: serving, 60 points, of which 4 fail" in done.stdout
    assert "Serving spaces: mean over 2 of the medians" in done.stdout
    assert "Goals, of random" in done.stdout
    assert "100%  8 of 8 searches" in done.stderr
    written = json.loads(file.read_text("utf-8"))
    assert {each["method"] for each in written["results"]} == {"ours: random", "random"}
    assert all(len(each["traces"]) == 2 for each in written["results"])


def test_a_synthetic_set_needs_no_folder(tmp_path: Path) -> None:
    done = run_script(
        *("--set", "bowls", "--only", "steps_7d", "--most", "40", "--seeds", "1", "--jobs", "1"),
        *("--peers", "none", "--strategies", "random", "--directory", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert "steps_7d: bowl, 8192 points" in done.stdout
    assert "Trials after the first 30" in done.stdout
    assert not list(tmp_path.iterdir())


def test_without_spaces_it_says_what_to_give(tmp_path: Path) -> None:
    done = run_script(AUTOTUNE_SPACES=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "is no folder; give a folder of measured spaces with --spaces" in done.stderr
