"""How good the search strategies are, on measured spaces, next to other tuners.

Every space of a folder is searched by looking configurations up instead of running them
(``NAME.csv.gz`` and ``NAME.json``; a combination that is not in the table does not exist).
*Ours* goes through the code that a user's study goes through: ``Study.claim()``, the verdict of
``judge()`` with the SLO as hard bounds, ``SearchedStudy.finish()``, with a journal on disk. The
peers run in the same session, each the real package on the same table (``search_peers.py``).
Prints:

1. per space: the best configuration found, in per cent of the optimum (what breaks the SLO
   counts as nothing), after so many unique evaluations; the median over seeds and the 10th
   percentile; the mean over all evaluations; the processor time of a proposal, from the 10th on
   (of Kernel Tuner all it takes, shared out). ``*``: some of the searches made fewer evaluations,
   as they ended by themselves, or proposed what is known or does not exist time and again, four
   times as often as they had evaluations to make; their last value counts;
2. per kind of space: means over the spaces, with the standard error that the choice of seeds
   leaves, and how far ours is from the best peer;
3. with several trials under way at once (``--parallel``): each is claimed before the result of
   the others is known, and they end in the order they began;
4. with ``--time``: seconds until a configuration within 5 % and 1 % of the optimum was found, by
   a simulated clock, search included. A kernel costs its compilation (``--compile-seconds``) and
   its samples; a server its start (``--start-seconds``) and the requests of its level; what
   fails costs compilation only. *Sampled* is what our own sampling rule takes instead, simulated
   with noise as large as the table says, and *raced* the same where it may give up what has
   certainly lost to the incumbent: then the study itself runs on pruned trials;
5. what a proposal costs after up to 5,000 trials (``search_asks.py``);
6. goals: what was wanted, and whether it was reached;
7. of synthetic bowls (``--set``, ``search_bowls.py``): how the trials after the 30th did.

Long searches begin first. Ctrl-C prints what there is. Results are written to ``--json`` as they
come in.

::

    python benchmarks/search.py --spaces spaces --json search.json
    python benchmarks/search.py --spaces spaces --quick
    python benchmarks/search.py --set bowls --peers random --seeds 5 --parallel
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from search_asks import print_asks
from search_bowls import SETS, write_set
from search_clock import WITHIN, Prices, Racing, Stopwatch, medians, until_found
from search_peers import PEERS
from search_spaces import (
    BUDGETS,
    Array,
    Kind,
    SpaceError,
    Table,
    Trace,
    area,
    at_budgets,
    curve,
    find_spaces,
    load,
)

import pytest_autotune
from pytest_autotune.errors import OptionError
from pytest_autotune.replay.table import Recording
from pytest_autotune.scoring.judgement import Ending, Measurement, judge
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import History, Strategy, StrategyContext, make_strategy
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings

MAIN: Final = "auto"
#: The peer that nothing may be worse than.
RANDOM: Final = "random"
OURS: Final = (MAIN, "bayesian", "random")
SEEDS: Final = 20
PARALLEL: Final = (2, 8, 32)
PARALLEL_SEEDS: Final = 8
THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: What a strategy of ours takes per trial, in ms, to schedule by.
WEIGHTS: Final[Mapping[str, float]] = {MAIN: 40.0, "bayesian": 15.0, "random": 3.0}
#: Of a bowl, the trials after so many should all be good.
LATE: Final = 30
#: Asks are timed from here on; the first ones import and compile.
FIRST_TIMED: Final = 10
GOALS: Final[Mapping[Kind, Mapping[int, float]]] = {
    "kernel": {20: 0.85, 50: 0.94, 100: 0.97, 200: 0.99},
    "serving": {10: 0.70, 20: 0.95, 50: 1.0},
}
GOAL_GAP: Final = 0.05
GOAL_ASK_MS: Final = 30.0
BOOTSTRAPS: Final = 200


# Ours ---------------------------------------------------------------------------------------


class Timed:
    """A strategy whose proposals are timed."""

    def __init__(self, name: str, context: StrategyContext) -> None:
        self._strategy: Strategy = make_strategy(name, context)
        self.asks: list[float] = []

    def plan(self) -> Sequence[Point] | None:
        """Pass it on."""
        return self._strategy.plan()

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Pass it on, with a watch."""
        began = time.thread_time()
        point = self._strategy.propose(history, seed)
        self.asks.append(time.thread_time() - began)
        return point


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A space as ours gets it: ``spec`` is what a marker would give, with the recorded points."""

    table: Table
    recording: Recording
    spec: Spec

    @classmethod
    def read(cls, path: Path) -> Replayed:
        """Read it from ``NAME.csv.gz``."""
        table = load(path)
        document: dict[str, Any] = {
            "parameters": {name: list(values) for name, values in table.parameters.items()},
            "optimization": {
                "objective": f"{'maximize' if table.maximize else 'minimize'}:{table.objective}",
            },
        }
        if table.bounded:
            document["slo"] = {
                "metrics": [
                    *({"metric": metric, "max": most} for metric, most in table.slo.items()),
                    *({"metric": metric, "min": least} for metric, least in table.floors.items()),
                ]
            }
        spec = load_inline(table.name, document, "search.py")
        recording = Recording.read(path)
        spec = replace(spec, space=recording.restrict(spec.space))
        return cls(table=table, recording=recording, spec=spec)

    def plan(self, strategy: str, budget: int, seed: int) -> Plan:
        """Return a study of it."""
        settings = Settings(strategy=strategy, trials=budget, seed=seed)
        return Plan.make(f"search.py::{self.table.name}", self.spec, settings)

    def row(self, point: Point) -> int:
        """Return the row of a point that a strategy proposed."""
        parameters = self.table.parameters.items()
        return self.table.row_of[tuple(values.index(point[name]) for name, values in parameters)]


def run_study(space: Replayed, task: Task, folder: Path) -> Trace:
    """Search as a user's session does, with as many trials at a time as the method says.

    They end in the order they began. The study lives in ``folder``.
    """
    timed: list[Timed] = []

    def watched(name: str, context: StrategyContext) -> Strategy:
        timed.append(Timed(name, context))
        return timed[-1]

    began = time.perf_counter()
    plan = space.plan(task.method.name, task.budget, task.seed)
    study = SearchedStudy(
        plan, folder, session="search", started=time.monotonic(), extension=watched
    )
    running: deque[TrialRecord] = deque()
    rows: list[int] = []
    racing = Racing(space.table, task.seed) if task.method.raced else None
    given_up: list[bool] = []
    try:
        while True:
            while len(running) < task.method.outstanding:
                ordinal = len(rows) + len(running)
                claim = study.claim(SlotRequest(id=f"trial-{ordinal:04d}", ordinal=ordinal))
                if not isinstance(claim, TrialRecord):
                    break
                running.append(claim)
            if not running:
                break
            record = running.popleft()
            rows.append(space.row(record.params))
            if racing is not None:
                estimate = racing.lost(rows[-1])
                given_up.append(estimate is not None)
                if estimate is not None:
                    lost = Measurement(ending=Ending.PRUNED, reason="lost", estimate=estimate)
                    study.finish(_judged(record, lost, plan))
                    continue
            study.finish(_judged(record, space.recording.result(record.params), plan))
    finally:
        study.close()
    seconds = time.perf_counter() - began
    if len(set(rows)) != len(rows):
        msg = f"strategy {task.method.name} proposed the same point twice"
        raise AssertionError(msg)
    return Trace(
        rows=tuple(rows),
        budget=task.budget,
        asks=tuple(timed[0].asks),
        # What the simulation itself took does not belong to the search.
        seconds=seconds - (0.0 if racing is None else racing.seconds),
        stalled=len(rows) < min(task.budget, len(space.table)),
        costs=() if racing is None else tuple(racing.costs),
        given_up=tuple(given_up),
        better=0 if racing is None else racing.better,
        wronged=0 if racing is None else racing.wronged,
    )


def _judged(record: TrialRecord, measurement: Measurement, plan: Plan) -> TrialRecord:
    judgement = judge(measurement, plan.question)
    return replace(record, measurement=measurement, judgement=judgement)


def unavailable(strategy: str) -> str:
    """Say why a strategy cannot be had, nothing where it can."""
    spec = load_inline("tiny", {"parameters": {"x": [1, 2]}}, "search.py")
    try:
        make_strategy(strategy, Plan.make("search.py::tiny", spec, Settings()).context)
    except (OptionError, ImportError) as error:
        return str(error)
    return ""


# Tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a strategy of ours, or a peer."""

    name: str
    ours: bool
    outstanding: int = 1
    raced: bool = False
    kinds: tuple[Kind, ...] = ("kernel", "serving", "bowl")
    budget: int = 1000
    seeds: int = 1000
    weight: float = 1.0

    @property
    def label(self) -> str:
        """What it is called in tables."""
        name = f"ours: {self.name}" if self.ours else self.name
        if self.outstanding > 1:
            return f"{name} k={self.outstanding}"
        return f"{name}, raced" if self.raced else name

    @property
    def plain(self) -> bool:
        """Whether it searches as all others do."""
        return self.outstanding == 1 and not self.raced


@dataclass(frozen=True, kw_only=True)
class Task:
    """One search, in a process of its own."""

    path: Path
    method: Method
    budget: int
    most: int
    seed: int
    scratch: Path

    @property
    def weight(self) -> float:
        """About how long it takes, in any unit."""
        return self.method.weight * self.budget


@functools.lru_cache(maxsize=32)
def _table(path: Path) -> Table:
    return load(path)


@functools.lru_cache(maxsize=32)
def _replayed(path: Path) -> Replayed:
    return Replayed.read(path)


def perform(task: Task) -> tuple[Trace | None, str]:
    """Run a task; return its trace, or what went wrong."""
    warnings.simplefilter("ignore")
    try:
        if not task.method.ours:
            (peer,) = (peer for peer in PEERS if peer.name == task.method.name)
            return peer.search(_table(task.path), task.budget, task.seed), ""
        with tempfile.TemporaryDirectory(prefix="study-", dir=task.scratch) as folder:
            trace = run_study(_replayed(task.path), task, Path(folder))
    except Exception:  # noqa: BLE001 - one search must not take the others down
        return None, traceback.format_exc()
    return trace, ""


@dataclass
class Found:
    """All searches of one space by one method, by seed.

    ``budget`` is the method's, ``most`` what those without a limit of their own get.
    """

    table: Table
    method: Method
    budget: int
    most: int
    wanted: int
    traces: dict[int, Trace] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is to come."""
        return len(self.traces) + len(self.errors) >= self.wanted

    @property
    def searches(self) -> list[Trace]:
        """The searches, by seed."""
        return [trace for _, trace in sorted(self.traces.items())]

    def curves(self) -> list[Array]:
        """Return the curve of each search."""
        return [curve(self.table, trace) for trace in self.searches]

    def values(self) -> Array:
        """Return the quality of each search (rows) after each budget of the space (columns)."""
        budgets = self.table.budgets
        found = [at_budgets(each, budgets, self.budget) for each in self.curves()]
        return np.array(found).reshape(len(found), len(budgets))

    def medians(self) -> Array:
        """Return the median after each budget."""
        values = self.values()
        return np.median(values, axis=0) if len(values) else np.full(values.shape[1], math.nan)

    def area(self) -> float:
        """Return the mean over evaluations, NaN where it has a budget of its own."""
        areas = [area(each, self.most, self.budget) for each in self.curves()]
        return float(np.mean(areas)) if areas else math.nan

    def stalled(self, budget: int) -> bool:
        """Tell whether some search made fewer evaluations than that."""
        least = min(budget, len(self.table))
        return budget <= self.budget and any(len(t.rows) < least for t in self.traces.values())

    def ask_ms(self) -> tuple[float, float]:
        """Return mean and 99th percentile of what a proposal took, NaN where it is not known."""
        asks = [1e3 * ask for trace in self.traces.values() for ask in trace.asks[FIRST_TIMED:]]
        if asks:
            return float(np.mean(asks)), float(np.percentile(asks, 99))
        each = [1e3 * t.seconds / len(t.rows) for t in self.traces.values() if t.rows]
        return (float(np.mean(each)) if each else math.nan), math.nan

    def seconds(self) -> float:
        """Return what one search took in all."""
        return float(np.mean([trace.seconds for trace in self.traces.values()] or [math.nan]))

    def document(self) -> dict[str, Any]:
        """Return plain JSON types."""
        mean, p99 = self.ask_ms()
        return {
            "space": self.table.name,
            "kind": self.table.kind,
            "method": self.method.label,
            "ours": self.method.ours,
            "budget": self.budget,
            "medians": dict(zip(map(str, self.table.budgets), _plain(self.medians()), strict=True)),
            "area": _plain([self.area()])[0],
            "ask_ms": _plain([mean])[0],
            "ask_p99_ms": _plain([p99])[0],
            "traces": {
                str(seed): {"rows": list(trace.rows), "seconds": round(trace.seconds, 4)}
                for seed, trace in sorted(self.traces.items())
            },
            "errors": self.errors,
        }


def _plain(values: Sequence[float] | Array) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


class Results:
    """What was found so far, printed as it gets complete and kept on disk."""

    def __init__(
        self, tables: Mapping[Path, Table], file: Path | None, head: Mapping[str, Any]
    ) -> None:
        self._tables = tables
        self._file = file
        self._head = head
        self._written = 0.0
        self._printed: set[str] = set()
        self.found: dict[tuple[Path, str], Found] = {}
        self.extra: dict[str, Any] = {}

    def expect(self, tasks: Sequence[Task]) -> None:
        """Make room for the results of ``tasks``."""
        for task in tasks:
            found = self.found.setdefault(
                (task.path, task.method.label),
                Found(self._tables[task.path], task.method, task.budget, task.most, wanted=0),
            )
            found.wanted += 1

    def add(self, task: Task, trace: Trace | None, error: str) -> None:
        """Take one result in."""
        found = self.found[task.path, task.method.label]
        if trace is None:
            found.errors.append(error)
            if len(found.errors) == 1:
                say(f"{found.table.name}, {task.method.label}, seed {task.seed}: {error}")
        else:
            found.traces[task.seed] = trace
        if time.monotonic() - self._written > 10:
            self.write()
        alike = self.of_space(found.table.name)
        if all(each.complete for each in alike):
            self.print_space(found.table.name)

    def add_times(self, found: Found, times: Mapping[str, Sequence[float]]) -> None:
        """Take in the simulated times of a method on a space."""
        of_space = self.extra.setdefault("times", {}).setdefault(found.table.name, {})
        of_space[found.method.label] = {name: _plain(values) for name, values in times.items()}

    def of_space(self, name: str) -> list[Found]:
        """Return the results on one space, in the order they were asked for."""
        return [found for found in self.found.values() if found.table.name == name]

    def of_kind(self, kind: Kind) -> list[Found]:
        """Return the results on all spaces of a kind that have any."""
        return [f for f in self.found.values() if f.table.kind == kind and f.traces]

    @property
    def tables(self) -> list[Table]:
        """All spaces."""
        return list(self._tables.values())

    def print_space(self, name: str) -> None:
        """Print a space's table, once."""
        if name not in self._printed:
            self._printed.add(name)
            print_space([found for found in self.of_space(name) if found.method.plain])
            sys.stdout.flush()

    def print_rest(self) -> None:
        """Print the tables of the spaces that are not complete."""
        for table in self.tables:
            if any(found.traces for found in self.of_space(table.name)):
                self.print_space(table.name)

    def write(self) -> None:
        """Write everything to the file, if there is one, so that it is whole at any moment."""
        self._written = time.monotonic()
        if self._file is None:
            return
        document = {
            **self._head,
            "results": [found.document() for found in self.found.values() if found.wanted],
            **self.extra,
        }
        partial = self._file.with_name(f"{self._file.name}.partial")
        partial.write_text(json.dumps(document), "utf-8")
        partial.replace(self._file)


def say(text: str) -> None:
    """Tell of the progress."""
    print(text, file=sys.stderr, flush=True)


def run_all(tasks: Sequence[Task], results: Results, jobs: int) -> None:
    """Run the tasks in processes, the longest first."""
    results.expect(tasks)
    began = time.monotonic()
    total = sum(task.weight for task in tasks) or 1.0
    done, spoken = 0.0, 0.0
    # Fresh processes: they find the numbers of threads before anything is loaded.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        ordered = sorted(tasks, key=lambda task: -task.weight)
        running = {pool.submit(perform, task): task for task in ordered}
        try:
            for count, future in enumerate(concurrent.futures.as_completed(running), 1):
                task = running[future]
                try:
                    trace, error = future.result()
                except concurrent.futures.process.BrokenProcessPool as broken:
                    trace, error = None, f"its process died: {broken}"
                results.add(task, trace, error)
                done += task.weight
                now = time.monotonic()
                if now - spoken > 5 or count == len(running):
                    spoken = now
                    say(
                        f"{now - began:6.0f} s  {done / total:4.0%}  {count} of {len(running)} "
                        f"searches, last {task.path.name.removesuffix('.csv.gz')} "
                        f"{task.method.label}"
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# Tables -------------------------------------------------------------------------------------


def percent(value: float, mark: str = "") -> str:
    """Return a share as a cell of a table."""
    return f"{'-' if math.isnan(value) else f'{100 * value:.1f}'}{mark:<1}"


def cells(values: Sequence[float] | Array, marks: Sequence[str] = ()) -> str:
    """Return several shares as cells."""
    padded = [*marks, *[""] * (len(values) - len(marks))]
    return "".join(f"{percent(v, mark):>8}" for v, mark in zip(values, padded, strict=True))


def milliseconds(value: float) -> str:
    """Return a time as a cell."""
    return f"{'-' if math.isnan(value) else f'{value:.1f}':>7}"


def print_space(all_found: Sequence[Found]) -> None:
    """Print the first kind of table."""
    table = all_found[0].table
    budgets = table.budgets
    head = "".join(f"{budget:>7} " for budget in budgets)
    broken = int((~table.feasible & ~table.failed).sum())
    print(
        f"\n{table.name}: {table.kind}, {len(table)} points, of which {int(table.failed.sum())} "
        f"fail and {broken} break the SLO; per cent of the optimum\n"
        f"{'':<22}{'median after':<{len(head)}}  {'10th percentile':<{len(head)}}"
        f"    mean  ask ms{'p99':>7}{'search s':>10}{'seeds':>7}\n"
        f"{'':<22}{head}  {head}"
    )
    for found in all_found:
        if not found.traces:
            print(f"{found.method.label:<22}{'failed' if found.errors else '-'}")
            continue
        marks = ["*" if found.stalled(budget) else "" for budget in budgets]
        low = np.percentile(found.values(), 10, axis=0)
        mean, p99 = found.ask_ms()
        note = f", {len(found.errors)} failed" if found.errors else ""
        print(
            f"{found.method.label:<22}{cells(found.medians(), marks)}  {cells(low)}"
            f"{percent(found.area()):>8}{milliseconds(mean)}{milliseconds(p99)}"
            f"{found.seconds():10.2f}{len(found.traces):>7}{note}"
        )


def by_label(all_found: Sequence[Found]) -> dict[str, list[Found]]:
    """Group results by method."""
    grouped: dict[str, list[Found]] = {}
    for found in all_found:
        grouped.setdefault(found.method.label, []).append(found)
    return grouped


def mean_of_medians(group: Sequence[Found]) -> Array:
    """Return the mean over spaces of the medians, after each budget."""
    means: Array = np.array([found.medians() for found in group]).mean(axis=0)
    return means


def standard_error(group: Sequence[Found]) -> Array:
    """Return how much the mean of medians depends on the seeds, by a bootstrap over them."""
    rng = np.random.default_rng(0)
    values = [found.values() for found in group]
    drawn = [
        np.mean([np.median(v[rng.integers(len(v), size=len(v))], axis=0) for v in values], axis=0)
        for _ in range(BOOTSTRAPS)
    ]
    error: Array = np.std(drawn, axis=0)
    return error


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Ours next to the peers on one kind of space; a figure per budget.

    ``gap`` is ours less the best peer's mean, which ``best`` names; ``worst`` the largest
    shortfall to the best peer of a space, and ``lost`` that to random search, each with the
    space where it is.
    """

    means: Array
    gap: Array
    best: Sequence[str]
    worst: Sequence[tuple[float, str]]
    lost: Sequence[tuple[float, str]]
    ask_ms: float


def standing(all_found: Sequence[Found], ours: str, budgets: Sequence[int]) -> Standing | None:
    """Compare ``ours`` with the peers; None where it was not run.

    In the means only peers that were run on the same spaces count.
    """
    label = Method(name=ours, ours=True).label
    mine = {found.table.name: found for found in all_found if found.method.label == label}
    if not mine:
        return None
    medians = {space: found.medians() for space, found in mine.items()}
    peers: dict[str, dict[str, Array]] = {}
    for found in all_found:
        if not found.method.ours and found.table.name in mine:
            peers.setdefault(found.method.label, {})[found.table.name] = found.medians()
    means = np.mean(list(medians.values()), axis=0)
    whole = {
        name: np.mean([of[space] for space in mine], axis=0)
        for name, of in peers.items()
        if of.keys() >= mine.keys()
    }
    best = [_best(whole, at) for at in range(len(budgets))]
    return Standing(
        means=means,
        gap=np.array([means[at] - value for at, (value, _) in enumerate(best)]),
        best=[name for _, name in best],
        worst=[_shortfall(medians, peers, at) for at in range(len(budgets))],
        lost=[
            _shortfall(medians, {RANDOM: peers.get(RANDOM, {})}, at) for at in range(len(budgets))
        ],
        ask_ms=max(found.ask_ms()[0] for found in mine.values()),
    )


def _best(values: Mapping[str, Array], at: int) -> tuple[float, str]:
    """Return the best known value after the budget in place ``at``, and whose it is."""
    known = [(float(of[at]), name) for name, of in values.items() if not math.isnan(of[at])]
    return max(known, default=(math.nan, ""))


def _shortfall(
    mine: Mapping[str, Array], peers: Mapping[str, Mapping[str, Array]], at: int
) -> tuple[float, str]:
    """Return by how much ``mine`` is under the best of ``peers`` in its worst space, and which."""
    found = []
    for space, ours in mine.items():
        value, name = _best({peer: of[space] for peer, of in peers.items() if space in of}, at)
        if name and not math.isnan(ours[at]):
            found.append((value - float(ours[at]), space))
    return max(found, default=(math.nan, ""))


def print_summary(results: Results, kind: Kind, ours: str) -> None:
    """Print the second kind of table."""
    all_found = [f for f in results.of_kind(kind) if f.method.plain]
    if not all_found:
        return
    spaces = {found.table.name for found in all_found}
    budgets = BUDGETS[kind]
    head = "".join(f"{budget:>7} " for budget in budgets)
    print(
        f"\n{kind.capitalize()} spaces: mean over {len(spaces)} of the medians, per cent of the "
        f"optimum\n{'':<22}{head}  {'standard error':<{len(head)}}    mean"
    )
    for label, group in by_label(all_found).items():
        part = "" if len(group) == len(spaces) else f"  on {len(group)} of {len(spaces)} spaces"
        marks = ["*" if any(f.stalled(budget) for f in group) else "" for budget in budgets]
        areas = float(np.mean([found.area() for found in group]))
        print(
            f"{label:<22}{cells(mean_of_medians(group), marks)}  {cells(standard_error(group))}"
            f"{percent(areas):>8}{part}"
        )
    found = standing(all_found, ours, budgets)
    if found is None or not any(found.best):
        return
    who = ", ".join(name or "-" for name in found.best)
    print(f"{f'{ours} - best peer':<22}{cells(found.gap)}   {who}")
    shortfall = [-value for value, _ in found.worst]
    where = ", ".join(space or "-" for _, space in found.worst)
    print(f"{'  in its worst space':<22}{cells(shortfall)}   {where}")


def print_parallel(results: Results, strategy: str) -> None:
    """Print the third kind of table."""
    for kind, budgets in BUDGETS.items():
        groups = by_label(
            [
                f
                for f in results.of_kind(kind)
                if f.method.ours and f.method.name == strategy and not f.method.raced
            ]
        )
        if len(groups) < 2:
            continue
        head = "".join(f"{budget:>7} " for budget in budgets)
        print(
            f"\n{strategy} with k trials under way at once, {kind} spaces: mean of the medians\n"
            f"{'k':>4}{'seeds':>7}  {head}  {'less than k=1':<{len(head)}}"
        )
        first = mean_of_medians(next(iter(groups.values())))
        for group in groups.values():
            means = mean_of_medians(group)
            print(
                f"{group[0].method.outstanding:>4}{len(group[0].traces):>7}  {cells(means)}"
                f"  {cells(first - means)}"
            )


def late(found: Found) -> tuple[float, float]:
    """Return the later trials' objective as so many times the optimum, and the infeasible share.

    Both are medians over the searches; of each search, the objective is the median.
    """
    table = found.table
    rows = [list(trace.rows[LATE:]) for trace in found.searches if len(trace.rows) > LATE]
    if not rows:
        return math.nan, math.nan
    distances = [float(np.nanmedian(table.distance[each])) for each in rows]
    broken = [float((~table.feasible[each]).mean()) for each in rows]
    return float(np.median(distances)), float(np.median(broken))


def print_late(results: Results) -> None:
    """Print how the later trials on bowls did, next to the best that there are."""
    tables = [table for table in results.tables if table.kind == "bowl"]
    shown = [table for table in tables if results.of_space(table.name)]
    if not shown:
        return
    labels = list(by_label([f for f in results.of_kind("bowl") if f.method.plain]))
    print(
        f"\nTrials after the first {LATE}: the median of their objective as so many times the "
        f"optimum, and the share that breaks the SLO\n{'':<24}{'feasible':>9}{'best':>8}"
        + "".join(f"{label:>20}" for label in labels)
    )
    for table in shown:
        found = {each.method.label: each for each in results.of_space(table.name) if each.traces}
        most = max((each.budget for each in found.values()), default=LATE)
        best = np.sort(table.distance[table.feasible])[LATE:most]
        ideal = float(np.median(best)) if len(best) else math.nan
        cells = [late(found[label]) if label in found else (math.nan,) * 2 for label in labels]
        print(
            f"{table.name:<24}{table.feasible.mean():>9.1%}{ideal:>8.2f}"
            + "".join(f"{times:>14.2f}{broken:>6.0%}" for times, broken in cells)
        )
        results.extra.setdefault("late", {})[table.name] = {
            "best": ideal,
            **{label: _plain(pair) for label, pair in zip(labels, cells, strict=True)},
        }


def seconds_text(value: float) -> str:
    """Return a simulated time as a cell."""
    if math.isnan(value) or math.isinf(value):
        return "-"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def print_times(results: Results, prices: Prices) -> None:
    """Print the fourth kind of table."""
    print(
        f"\nSimulated seconds until a configuration within 5 % and 1 % of the optimum was found, "
        f"medians\n(compiling {prices.compile_seconds:g} s, starting {prices.start_seconds:g} s, "
        f"{prices.requests} requests of {prices.output_tokens} tokens for each stream)"
    )
    for table in results.tables:
        rows = [
            found
            for found in results.of_space(table.name)
            if found.traces and found.method.outstanding == 1 and table.kind != "bowl"
        ]
        if not rows:
            continue
        kernel = table.kind == "kernel"
        head = "".join(f"{f'{share:.0%}':>11}" for share in WITHIN)
        if kernel:
            head += "   " + "".join(f"{f'sampled {share:.0%}':>11}" for share in WITHIN)
        print(f"{table.name:<22}{head}")
        watch = Stopwatch(table)
        for found in rows:
            times: dict[str, list[float]] = {}
            if not found.method.raced:
                each = prices.rows(table)
                times["table"] = _times(found, [each[list(t.rows)] for t in found.searches])
            if kernel and found.method.ours:
                overhead = prices.overhead(table)
                costs = [t.costs or [watch.seconds(row) for row in t.rows] for t in found.searches]
                times["sampled"] = _times(found, [overhead + np.array(each) for each in costs])
            results.add_times(found, times)
            cells = "   ".join(
                "".join(f"{seconds_text(value):>11}" for value in times.get(name, ()))
                or f"{'':>{11 * len(WITHIN)}}"
                for name in ("table", "sampled")
            )
            print(f"{found.method.label:<22}{cells}{_races(found)}".rstrip())
        sys.stdout.flush()


def _times(found: Found, costs: Sequence[Array]) -> list[float]:
    """Return the median times, given what the evaluations of each search cost."""
    searches = zip(found.searches, costs, strict=True)
    return medians([until_found(found.table, trace, each) for trace, each in searches])


def _races(found: Found) -> str:
    """Say what races did, nothing where there were none."""
    if not found.method.raced:
        return ""
    traces = found.searches
    share = sum(sum(trace.given_up) for trace in traces) / sum(len(t.rows) for t in traces)
    better, wronged = sum(t.better for t in traces), sum(t.wronged for t in traces)
    return f"   {share:.0%} given up; {wronged} of {better} that were better than the best before"


def verdict(*, met: bool) -> str:
    """Say whether a goal was met."""
    return "met" if met else "MISSED"


def goals(results: Results, ours: str) -> list[tuple[str, str, bool]]:
    """Return what was wanted, what it came to, and whether it was met."""
    rows: list[tuple[str, str, bool]] = []
    for kind, wanted in GOALS.items():
        found = standing(results.of_kind(kind), ours, BUDGETS[kind])
        if found is None:
            continue
        for at, budget in enumerate(BUDGETS[kind]):
            mean = float(found.means[at])
            if not math.isnan(mean):
                goal = wanted[budget]
                # What rounds to it reaches it.
                rows.append((
                    f"{kind}: at least {100 * goal:.0f} % after {budget}",
                    f"{100 * mean:.1f}", round(100 * mean, 1) >= round(100 * goal, 1),
                ))  # fmt: skip
        for at, budget in enumerate(BUDGETS[kind]):
            if found.best[at] and not math.isnan(found.gap[at]):
                gap = 100 * float(found.gap[at])
                rows.append((
                    f"{kind}: no peer's mean is better after {budget}",
                    f"{gap:+.1f} to {found.best[at]}", round(gap, 1) >= 0,
                ))  # fmt: skip
        known = [pair for pair in found.worst if not math.isnan(pair[0])]
        if known:
            gap, space = max(known)
            rows.append((
                f"{kind}: at most {100 * GOAL_GAP:.0f} points under the best peer of a space",
                f"{100 * gap:.1f} under, {space}" if gap > 0 else "none", gap <= GOAL_GAP,
            ))  # fmt: skip
        late = [
            pair for budget, pair in zip(BUDGETS[kind], found.lost, strict=True)
            if budget >= 50 and not math.isnan(pair[0])
        ]  # fmt: skip
        if late:
            gap, space = max(late)
            rows.append((
                f"{kind}: nowhere under random search from 50 on",
                f"{100 * gap:.1f} under, {space}" if gap > 0 else "none", gap <= 0,
            ))  # fmt: skip
        rows.append((
            f"{kind}: a proposal takes at most {GOAL_ASK_MS:.0f} ms",
            f"{found.ask_ms:.1f} ms", found.ask_ms <= GOAL_ASK_MS,
        ))  # fmt: skip
    return rows


def print_goals(results: Results, ours: str) -> None:
    """Print the last table."""
    found = goals(results, ours)
    results.extra["goals"] = [{"goal": goal, "got": got, "met": met} for goal, got, met in found]
    if found:
        print(f"\nGoals, of {ours}")
    for wanted, got, met in found:
        print(f"  {wanted:<60}{got:<36}{verdict(met=met)}")


# All of it ----------------------------------------------------------------------------------


def head(options: argparse.Namespace) -> dict[str, Any]:
    """Return what this is run on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    return {
        "command": sys.argv,
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": cpu,
        "cores": cores(),
        "jobs": options.jobs,
        "python": platform.python_version(),
        "versions": {
            name: installed(name)
            for name in ("pytest-autotune", "numpy", "optuna", "kernel-tuner", "torch")
        },
    }


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(name: str) -> str | None:
    """Return a package's version, None where it is not there."""
    if name == "pytest-autotune":
        return pytest_autotune.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_head(known: Mapping[str, Any]) -> None:
    """Print it."""
    versions = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in known["versions"].items()
    )
    print(
        f"{known['cpu']}, {known['cores']} cores, {known['jobs']} processes, "
        f"Python {known['python']}\n{versions}\n"
        f"{known['at']}, load average {os.getloadavg()[0]:.2f}\npython {' '.join(known['command'])}"
    )


def chosen_methods(options: argparse.Namespace) -> list[Method]:
    """Return what is to be run, and say what is left out and why."""
    methods: list[Method] = []
    for name in options.strategies:
        reason = unavailable(name)
        if reason:
            print(f"left out: strategy {name}: {reason}")
        else:
            methods.append(Method(name=name, ours=True, weight=WEIGHTS.get(name, 20.0)))
    known = {peer.name: peer for peer in PEERS}
    wanted = options.peers
    if wanted is None:
        wanted = [peer.name for peer in PEERS if peer.quick or not options.quick]
    for name in wanted:
        if name == "none":
            continue
        if name not in known:
            print(f"left out: peer {name}: not known; there are {', '.join(known)}")
        elif known[name].missing:
            print(f"left out: peer {name}: pip install {' '.join(known[name].missing)}")
        else:
            peer = known[name]
            methods.append(
                Method(
                    name=peer.name,
                    ours=False,
                    budget=peer.budget,
                    seeds=peer.seeds,
                    weight=peer.weight,
                )
            )
    main = next((m for m in methods if m.ours and m.name == MAIN), None)
    if main is not None:
        many = replace(main, seeds=options.parallel_seeds)
        methods += [replace(many, outstanding=k) for k in options.parallel if k > 1]
        if options.time:
            methods.append(replace(main, raced=True, kinds=("kernel",)))
    return methods


def make_tasks(
    methods: Sequence[Method], tables: Mapping[Path, Table], options: argparse.Namespace,
    scratch: Path,
) -> list[Task]:  # fmt: skip
    """Return every search that is to be made."""
    return [
        Task(
            path=path, method=method, budget=min(most, method.budget), most=most,
            seed=options.seed + seed, scratch=scratch,
        )
        for path, table in tables.items()
        for most in [min(table.budgets[-1], options.most)]
        for method in methods
        if table.kind in method.kinds
        for seed in range(min(options.seeds, method.seeds))
    ]  # fmt: skip


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--spaces", type=Path, default=Path(os.environ.get("AUTOTUNE_SPACES", "spaces")),
        metavar="DIR", help="folder of measured spaces (AUTOTUNE_SPACES, or spaces)",
    )  # fmt: skip
    parser.add_argument(
        "--set", choices=sorted(SETS), help="a set of synthetic spaces instead of a folder"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these spaces")
    parser.add_argument(
        "--strategies", nargs="+", default=list(OURS), metavar="NAME",
        help=f"which of ours, the first is compared ({' '.join(OURS)})",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME",
        help=f"which peers, or none: {' '.join(peer.name for peer in PEERS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, help=f"searches of each kind ({SEEDS})")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--most", type=int, default=10_000, help="evaluations, at most")
    parser.add_argument(
        "--parallel", type=int, nargs="*", metavar="K",
        help=f"numbers of trials under way at once ({' '.join(map(str, PARALLEL))})",
    )  # fmt: skip
    parser.add_argument(
        "--parallel-seeds", type=int, default=PARALLEL_SEEDS, help="searches of each of those"
    )
    parser.add_argument("--time", action="store_true", help="also simulate the time it takes")
    defaults = Prices()
    parser.add_argument(
        "--compile-seconds", type=float, default=defaults.compile_seconds,
        help="to compile a kernel (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--start-seconds", type=float, default=defaults.start_seconds,
        help="to start a server (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--requests", type=int, default=defaults.requests,
        help="of a load level, for each concurrent stream (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=cores(), help="processes")
    parser.add_argument("--quick", action="store_true", help="few searches: a try, not a result")
    parser.add_argument("--directory", type=Path, help="where studies live meanwhile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 5 if options.quick else SEEDS
    if options.parallel is None:
        options.parallel = () if options.quick else PARALLEL
    if options.quick:
        options.most = min(options.most, 100)
    return options


def scratch_folder(chosen: Path | None) -> Path | None:
    """Return where studies are to live: in memory where there is room, as disks flush slowly."""
    memory = Path("/dev/shm")  # noqa: S108 - memory, where there is some
    if chosen is None and memory.is_dir() and os.access(memory, os.W_OK):
        return memory
    return chosen


def main() -> None:
    """Search, and print."""
    for name in THREADS:
        os.environ[name] = "1"
    options = parsed()
    # Whoever ends it wants to see what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="search-", dir=scratch_folder(options.directory)
    ) as folder:
        if options.set is not None:
            options.spaces = Path(folder)
            write_set(options.set, options.spaces, options.only)
        search_all(options, Path(folder), began)


def search_all(options: argparse.Namespace, folder: Path, began: float) -> None:
    """Search all spaces, and print; studies live in ``folder`` meanwhile."""
    try:
        tables = {
            path: load(path) for path in find_spaces(options.spaces)
            if not options.only or path.name.removesuffix(".csv.gz") in options.only
        }  # fmt: skip
    except SpaceError as error:
        sys.exit(str(error))
    known = head(options)
    print_head(known)
    methods = chosen_methods(options)
    ours = next((method.name for method in methods if method.ours), "")
    results = Results(tables, options.json, known)
    tasks = make_tasks(methods, tables, options, folder)
    try:
        run_all(tasks, results, options.jobs)
    except KeyboardInterrupt:
        print("\nInterrupted: what follows is of a part of the searches")
    results.print_rest()
    for kind in BUDGETS:
        print_summary(results, kind, ours)
    print_late(results)
    print_parallel(results, MAIN)
    sys.stdout.flush()
    if options.time:
        print_times(
            results,
            Prices(
                compile_seconds=options.compile_seconds,
                start_seconds=options.start_seconds,
                requests=options.requests,
            ),
        )
    if not options.quick and options.set is None:
        results.extra["asks"] = print_asks([m.name for m in methods if m.ours and m.plain])
    print_goals(results, ours)
    results.extra["seconds"] = time.monotonic() - began
    results.write()
    print(f"\n{(time.monotonic() - began) / 60:.1f} min in all")


if __name__ == "__main__":
    main()
