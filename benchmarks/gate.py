"""How often the regression gate is wrong, how often it finds what is there, and what it costs.

What is gated is a kernel in C (``gate_kernel.c``), compiled as it is and with a loop of further
steps, so that the new revision is slower by a known share. Prints, all in one run on one machine:

1. rates: how often each gate calls a regression in each scenario. *Ours* is what
   ``pytest --autotune-gate`` runs, ``compare()``, with one fresh process a launch. Its peers are
   pytest-benchmark (``--benchmark-compare-fail=mean:5%``, by its real exit status), asv (its real
   sampling and its real test, with a factor of 1.05 and with its default of 1.1), and a naive
   bootstrap (a 95 % interval of the ratio of means of one launch's samples). Each peer compares
   with a baseline of the same round, which is generous, and with a *stored* one of ten rounds
   before;
2. cost: what ours needed, in launches and seconds;
3. goals: what was wanted, whether it was reached, and the 95 % bound of each rate;
4. soundness of stopping early, by simulation of slowdowns of exactly the tolerance, looked at
   after every pair, next to Wilcoxon's test at a fixed level, which looking breaks.

Peers' rates need fewer runs, as they are larger. Where nothing has to be quiet, two runs are made
at a time (``--jobs``). Ctrl-C prints what there is. Linux or macOS, with a C compiler as ``cc``.

::

    python benchmarks/gate.py --json gate.json
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

import pytest_autotune
from pytest_autotune.gate.compare.comparison import (
    GatedMetric,
    Side,
    Verdict,
    compare,
    design_for,
    judge,
)
from pytest_autotune.gate.compare.sequential import critical
from pytest_autotune.spec.gate import GateSpec

HERE: Final = Path(__file__).parent
METRIC: Final = GatedMetric(name="p50")
#: A stored baseline is of so many rounds before.
STORED: Final = 10
PADDING: Final = 4096
GOAL_SECONDS: Final = 5.0
GOAL_SHARE: Final = 1 / 3
BOOTSTRAPS: Final = 2000

Array = npt.NDArray[np.float64]
#: What asv stores of a revision: its result, its statistics and its samples.
Stored: TypeAlias = tuple[float, Any, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the gates are shown. ``steps`` thousandths are added to the new revision."""

    name: str
    title: str
    steps: int = 0
    tolerance: float = 0.03
    busy: bool = False
    #: The rate of alarms that is wanted: at least this where there is something to find.
    goal: float
    find: bool = False
    clear: bool = False
    #: Whether the machine has to be quiet, so that runs are made one at a time.
    alone: bool = False
    runs: int = 60
    peers: int = 20

    def meets(self, rate: float) -> bool:
        """Tell whether a rate of alarms is what is wanted."""
        return rate >= self.goal if self.find else rate <= self.goal


SCENARIOS: Final = (
    Scenario(
        name="quiet", title="A/A, quiet", goal=0.01, clear=True, alone=True, runs=300, peers=50
    ),
    Scenario(name="busy", title="A/A, busy", busy=True, goal=0.01, alone=True, runs=300, peers=50),
    Scenario(name="slower-5", title="+5 %", steps=50, goal=0.95, find=True),
    Scenario(name="slower-10", title="+10 %", steps=100, goal=0.99, find=True, clear=True),
    Scenario(
        name="slower-2", title="+2 %, tol. 1 %", steps=20, tolerance=0.01, goal=0.80, find=True
    ),
    Scenario(name="tolerance", title="+3 % = tol.", steps=30, goal=0.02),
)
SIMULATION: Final = "simulation"


class StoppedError(Exception):
    """The user has had enough."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of our gate. ``first`` are the samples of the first launch of each side."""

    verdict: Verdict
    pairs: int
    measuring: float
    wall: float
    values: Sequence[tuple[float, float]]
    first: Mapping[Side, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """One round of the peers; None where one is not installed."""

    #: Whether pytest-benchmark failed, and the mean of either side.
    pytest_benchmark: tuple[bool, Mapping[Side, float]] | None
    asv: Mapping[Side, Stored] | None


@dataclass(kw_only=True)
class Found:
    """All runs of a scenario."""

    scenario: Scenario
    runs: list[Run] = field(default_factory=list)
    peers: list[PeerRun] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def alarms(self) -> int:
        """How often our gate called a regression."""
        return sum(run.verdict is Verdict.REGRESSED for run in self.runs)

    @property
    def effect(self) -> float:
        """How much slower the new revision was: the ratio of medians over all launches, less 1."""
        old, new = zip(*(pair for run in self.runs for pair in run.values), strict=True)
        return float(statistics.median(new) / statistics.median(old) - 1)


def installed(name: str) -> str | None:
    """Return the version of a package, None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class Bench:
    """The compiled revisions, and how they are launched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = str(Path(pytest_autotune.__file__).parent.parent)
        self.stop = threading.Event()
        for steps in {0, *(scenario.steps for scenario in SCENARIOS)}:
            source, flags = HERE / "gate_kernel.c", ["-O2", "-shared", "-fPIC", f"-DEXTRA={steps}"]
            subprocess.run(["cc", *flags, source, "-o", self.library(steps)], check=True)
        (folder / "test_kernel.py").write_text(
            "import ctypes, os\n\n"
            "kernel = ctypes.CDLL(os.environ['GATE_KERNEL']).kernel\n\n\n"
            "def test_kernel(benchmark):\n    benchmark(kernel)\n"
        )

    def library(self, steps: int) -> str:
        """Return where a revision lies."""
        return str(self._folder / f"kernel{steps}.so")

    def python(
        self, *arguments: str, variables: Mapping[str, str], accept: Sequence[int] = (0,)
    ) -> tuple[int, str]:
        """Run a fresh interpreter; return its exit status and what it printed."""
        if self.stop.is_set():
            raise StoppedError
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True, text=True, check=False, cwd=self._folder,
            env={**os.environ, **variables}, start_new_session=True,
        )  # fmt: skip
        if done.returncode not in accept:
            msg = f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            raise RuntimeError(msg)
        return done.returncode, done.stdout + done.stderr

    def gate(self, scenario: Scenario, seed: int) -> Run:
        """Run our gate once."""
        first: dict[Side, Sequence[float]] = {}
        measuring = 0.0

        def launch(side: Side, seed: int) -> Mapping[str, float]:
            nonlocal measuring
            # Where stack and arrays lie is chance too.
            size = random.Random(f"{seed}/{side}").randrange(PADDING + 1)
            library = self.library(scenario.steps if side == "new" else 0)
            script = str(HERE / "gate_launch.py")
            _, output = self.python(
                "-I", "-S", script, "ours", library, self._path,
                variables={"GATE_PADDING": "x" * size},
            )  # fmt: skip
            found = json.loads(output)
            measuring += found["seconds"]
            first.setdefault(side, found["samples"])
            return {"p50": found["p50"]}

        result = compare(launch, [METRIC], GateSpec(tolerance=scenario.tolerance), seed=seed)
        return Run(
            verdict=result.verdict,
            pairs=result.pairs,
            measuring=measuring,
            wall=result.seconds,
            values=result.values["p50"],
            first=first,
        )

    def peers(self, scenario: Scenario) -> PeerRun:
        """Let every peer that is there measure both revisions once."""
        libraries: dict[Side, str] = {"old": self.library(0), "new": self.library(scenario.steps)}
        return PeerRun(
            pytest_benchmark=(
                self._pytest_benchmark(libraries) if installed("pytest-benchmark") else None
            ),
            asv=self._asv(libraries) if installed("asv") else None,
        )

    def _pytest_benchmark(self, libraries: Mapping[Side, str]) -> tuple[bool, Mapping[Side, float]]:
        with tempfile.TemporaryDirectory(dir=self._folder) as storage:
            common = (
                "-m", "pytest", "-q", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider",
                "test_kernel.py", f"--benchmark-storage=file://{storage}",
                "--benchmark-max-time=0.3", "--benchmark-min-rounds=5",
            )  # fmt: skip
            alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            self.python(
                *common, "--benchmark-save=old",
                variables={**alone, "GATE_KERNEL": libraries["old"]},
            )  # fmt: skip
            status, output = self.python(
                *common, "--benchmark-save=new",
                "--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%",
                accept=range(256), variables={**alone, "GATE_KERNEL": libraries["new"]},
            )  # fmt: skip
            alarm = "Performance has regressed" in output
            if alarm != bool(status):
                msg = f"pytest-benchmark ended with {status}:\n{output}"
                raise RuntimeError(msg)
            means: dict[Side, float] = {}
            for side in libraries:
                (saved,) = Path(storage).glob(f"*/*_{side}.json")
                means[side] = json.loads(saved.read_text())["benchmarks"][0]["stats"]["mean"]
        return alarm, means

    def _asv(self, libraries: Mapping[Side, str]) -> Mapping[Side, Stored]:
        samples: dict[Side, list[float]] = {"old": [], "new": []}
        number = 1
        # Two processes each, in the order in which `asv continuous` interleaves them.
        order: tuple[Side, ...] = ("old", "new", "new", "old")
        for side in order:
            script = str(HERE / "gate_launch.py")
            _, output = self.python(script, "asv", libraries[side], variables={})
            found = json.loads(output)
            samples[side] += found["samples"]
            number = found["number"]
        compute = importlib.import_module("asv_runner.statistics").compute_stats
        return {side: (*compute(values, number), values) for side, values in samples.items()}


@contextlib.contextmanager
def load(seed: int) -> Iterator[None]:
    """Load one core in bursts meanwhile."""
    command = [sys.executable, str(HERE / "gate_launch.py"), "busy", str(seed)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


class Progress:
    """Tells how far it is, at most every ``seconds``."""

    def __init__(self, found: Found, runs: int, seconds: float = 15.0) -> None:
        self._found, self._runs, self._seconds = found, runs, seconds
        self._began = self._told = time.monotonic()

    def __call__(self) -> None:
        """Tell."""
        now, done = time.monotonic(), len(self._found.runs)
        if now - self._told < self._seconds and done < self._runs:
            return
        self._told = now
        left = (now - self._began) * (self._runs / done - 1) if done else math.nan
        print(
            f"{self._found.scenario.title}: {done}/{self._runs} runs, {self._found.alarms} called, "
            f"{left / 60:.1f} min left",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def observe(  # noqa: PLR0913 - how much of what
    bench: Bench, found: Found, *, runs: int, peers: int, seed: int, jobs: int
) -> None:
    """Fill ``found``; rounds of the peers are spread evenly over ours."""
    scenario, progress = found.scenario, Progress(found, runs)
    began = time.monotonic()

    def turn(number: int) -> tuple[Run, PeerRun | None]:
        run = bench.gate(scenario, seed + 1000 * number)
        wanted = (number + 1) * peers // runs > number * peers // runs
        return run, bench.peers(scenario) if wanted else None

    busy = load(seed) if scenario.busy else contextlib.nullcontext()
    workers = 1 if scenario.alone else jobs
    with busy, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        turns = [pool.submit(turn, number) for number in range(runs)]
        try:
            for done in turns:
                run, others = done.result()
                found.runs.append(run)
                if others is not None:
                    found.peers.append(others)
                progress()
        except BaseException:
            bench.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            found.seconds = time.monotonic() - began


# What the peers say -------------------------------------------------------------------------


def bootstrap(old: Sequence[float], new: Sequence[float]) -> bool:
    """Tell whether the 95 % interval of the ratio of means lies above 1."""
    rng = np.random.default_rng(0)
    means = [
        values[rng.integers(0, len(values), (BOOTSTRAPS, len(values)))].mean(axis=1)
        for values in (np.array(new), np.array(old))
    ]
    return bool(np.quantile(means[0] / means[1], 0.025) > 1)


#: How a row of the table counts: which alarms there are.
Row = Callable[[Found], Sequence[bool]]


def stored(rounds: Sequence[Any], alarm: Callable[[Any, Any], bool]) -> Sequence[bool]:
    """Compare each round with the one of ten rounds before."""
    return [alarm(old, new) for old, new in zip(rounds, rounds[STORED:], strict=False)]


def pytest_benchmark_rows() -> Mapping[str, Row]:
    """Return the rows of pytest-benchmark."""
    check = importlib.import_module("pytest_benchmark.utils").PercentageRegressionCheck("mean", 5)

    def rounds(found: Found) -> list[tuple[bool, Mapping[Side, float]]]:
        return [each.pytest_benchmark for each in found.peers if each.pytest_benchmark is not None]

    def fails(
        old: tuple[bool, Mapping[Side, float]], new: tuple[bool, Mapping[Side, float]]
    ) -> bool:
        return bool(check.fails({"mean": new[1]["new"]}, {"mean": old[1]["old"]}))

    return {
        "pytest-benchmark mean:5%": lambda found: [alarm for alarm, _ in rounds(found)],
        "  stored baseline": lambda found: stored(rounds(found), fails),
    }


def asv_rows() -> Mapping[str, Row]:
    """Return the rows of asv."""
    better = importlib.import_module("asv.commands.compare")._is_result_better  # noqa: SLF001

    def worsened(old: Stored, new: Stored, factor: float) -> bool:
        return bool(better(old[0], new[0], old[1:], new[1:], factor))

    def rounds(found: Found) -> list[Mapping[Side, Stored]]:
        return [each.asv for each in found.peers if each.asv is not None]

    return {
        "asv, factor 1.05": lambda found: [
            worsened(each["old"], each["new"], 1.05) for each in rounds(found)
        ],
        "asv, factor 1.1 (default)": lambda found: [
            worsened(each["old"], each["new"], 1.1) for each in rounds(found)
        ],
        "  stored baseline, 1.05": lambda found: stored(
            rounds(found), lambda old, new: worsened(old["old"], new["new"], 1.05)
        ),
    }


def rows() -> Mapping[str, Row]:
    """Return the rows of the first table."""
    return {
        **(pytest_benchmark_rows() if installed("pytest-benchmark") else {}),
        **(asv_rows() if installed("asv") else {}),
        "naive bootstrap": lambda found: [
            bootstrap(run.first["old"], run.first["new"]) for run in found.runs
        ],
        "  stored baseline, naive": lambda found: stored(
            found.runs, lambda old, new: bootstrap(old.first["old"], new.first["new"])
        ),
        "ours": lambda found: [run.verdict is Verdict.REGRESSED for run in found.runs],
    }


# Tables -------------------------------------------------------------------------------------


def rate_bound(hits: int, count: int, *, upper: bool, error: float = 0.05) -> float:
    """Return the one-sided bound of Clopper and Pearson of a rate."""
    if upper:
        return 1 - rate_bound(count - hits, count, upper=False, error=error)
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / count
    for _ in range(50):
        middle = (low + high) / 2
        # How likely so many hits or more would be.
        chance = math.fsum(
            math.exp(
                math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
                + k * math.log(middle) + (count - k) * math.log1p(-middle)
            )
            for k in range(hits, count + 1)
        )  # fmt: skip
        low, high = (middle, high) if chance < error else (low, middle)
    return low


def print_rates(all_found: Sequence[Found]) -> None:
    """Print the first table."""
    print("\nRegressions called, of runs (A/A and +3 % = tol.: wrongly)")
    print(f"{'':<26}" + "".join(f"{found.scenario.title:>19}" for found in all_found))
    effects = (f"{found.effect:+.2%}" if found.runs else "-" for found in all_found)
    print(f"{'measured slowdown':<26}" + "".join(f"{effect:>19}" for effect in effects))
    for name, count in rows().items():
        cells = []
        for found in all_found:
            alarms = count(found)
            rate = f"{sum(alarms) / len(alarms):.1%}" if alarms else "-"
            cells.append(f"{rate:>8} ({sum(alarms):>3}/{len(alarms):>3})")
        print(f"{name:<26}" + "".join(f"{cell:>19}" for cell in cells))
    for name in ("pytest-benchmark", "asv"):
        if installed(name) is None:
            print(f"{name}: not installed")
    print(
        "peers call what is above their own thresholds, whatever the tolerance: 5 %, and for the "
        "bootstrap 0"
    )


def print_cost(all_found: Sequence[Found]) -> None:
    """Print the second table."""
    print(
        f"\nOurs: launches of each revision, at most {GateSpec().max_launches}, and seconds a run"
    )
    print(
        f"{'':<16}{'passed':>7}{'improved':>9}{'inconcl.':>9}{'regressed':>10}"
        f"{'median':>8}{'p90':>5}{'of most':>9}{'measuring':>11}{'wall':>8}{'a launch':>10}"
    )
    for found in all_found:
        if not found.runs:
            continue
        verdicts = Counter(run.verdict for run in found.runs)
        pairs = [run.pairs for run in found.runs]
        middle, late = statistics.median(pairs), float(np.quantile(pairs, 0.9))
        wall = sum(run.wall for run in found.runs)
        print(
            f"{found.scenario.title:<16}{verdicts[Verdict.PASSED]:7d}"
            f"{verdicts[Verdict.IMPROVED]:9d}{verdicts[Verdict.INCONCLUSIVE]:9d}"
            f"{verdicts[Verdict.REGRESSED]:10d}{middle:8.0f}{late:5.0f}"
            f"{middle / GateSpec().max_launches:9.2f}"
            f"{statistics.median(run.measuring for run in found.runs):10.2f}s"
            f"{statistics.median(run.wall for run in found.runs):7.2f}s"
            f"{wall / sum(pairs) / 2:9.3f}s"
        )


def said(*, met: bool, sure: bool) -> str:
    """Say whether a goal was reached."""
    return ("met" if sure else "met, bound is not") if met else "MISSED"


def print_goals(all_found: Sequence[Found]) -> None:
    """Print the third table."""
    print("\nGoals (with 95 % bounds of the rates)")
    for found in all_found:
        scenario = found.scenario
        if not found.runs:
            continue
        rate = found.alarms / len(found.runs)
        bound = rate_bound(found.alarms, len(found.runs), upper=not scenario.find)
        sign, what = (">=", "found") if scenario.find else ("<=", "called")
        print(
            f"{scenario.title:<16}{what:<10}{rate:7.1%} ({sign} {bound:.1%} at 95 %), "
            f"goal {sign} {scenario.goal:.0%}: "
            f"{said(met=scenario.meets(rate), sure=scenario.meets(bound))}"
        )
        if not scenario.clear:
            continue
        seconds = statistics.median(run.measuring for run in found.runs)
        share = statistics.median(run.pairs for run in found.runs) / GateSpec().max_launches
        print(
            f"{'':<16}{'measuring':<10}{seconds:6.2f}s, goal <= {GOAL_SECONDS:.0f} s: "
            f"{said(met=seconds <= GOAL_SECONDS, sure=True)}\n"
            f"{'':<16}{'launches':<10}{share:7.2f} of the most, goal <= {GOAL_SHARE:.2f}: "
            f"{said(met=share <= GOAL_SHARE, sure=True)}"
        )


# Simulation ---------------------------------------------------------------------------------


def two_scales(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw quiet launches, and every fifth time a burst."""
    return np.where(rng.random(shape) < 0.2, 0.2, 0.003) * rng.standard_normal(shape)


def drift(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw a machine that gets slower and faster over many launches."""
    steps = rng.normal(0, 0.02, shape)
    for at in range(1, shape[1]):
        steps[:, at] += 0.9 * steps[:, at - 1]
    return np.asarray(steps + rng.normal(0, 0.003, shape))


def neighbour(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw a neighbour who comes and goes, four launches long on average, and costs 30 %."""
    changes = rng.random(shape) < 0.25
    changes[:, 0] = rng.random(shape[0]) < 0.5
    busy = changes.cumsum(axis=1) % 2
    return np.asarray(0.26 * busy + rng.normal(0, 0.003, shape))


def periodic(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw one who is busy every other two launches or nearly so, which suits pairs worst."""
    length = rng.uniform(3.5, 4.5, (shape[0], 1))
    at = np.arange(shape[1]) + length * rng.random((shape[0], 1))
    return np.asarray(0.26 * (at % length < length / 2) + rng.normal(0, 0.003, shape))


#: What makes the logarithm of a launch's time differ, launch after launch.
NOISE: Final[Mapping[str, Callable[[np.random.Generator, tuple[int, int]], Array]]] = {
    "normal": lambda rng, shape: rng.normal(0, 0.02, shape),
    "Student, 2 degrees": lambda rng, shape: 0.02 * rng.standard_t(2, shape),
    "Cauchy": lambda rng, shape: 0.02 * rng.standard_cauchy(shape).clip(-1e4, 1e4),
    "two scales": two_scales,
    "drift, in order": drift,
    "neighbour, in order": neighbour,
    "periodic, in order": periodic,
}


def launch_order(seed: int) -> list[int]:
    """Return which launches are of the new revision (1), as ``compare`` makes them."""
    order: list[int] = []
    rule = GateSpec()

    def launch(side: Side, pair: int) -> Mapping[str, float]:
        order.append(int(side == "new"))
        if side == "old":
            return {METRIC.name: 1.0}
        return {METRIC.name: (1 + rule.tolerance) * (2.0 if pair % 2 else 0.5)}

    # Twice the tolerated and half of it in turn, it is never decided, so all are made.
    compare(launch, [METRIC], rule, seed=seed)
    return order


def naive_wilcoxon(deviations: Array, level: float) -> bool:
    """Tell whether a signed rank test at ``level`` rejects at any look."""
    for count in range(1, len(deviations) + 1):
        least = critical(count, level)
        ranks = np.abs(deviations[:count]).argsort().argsort() + 1
        if least is not None and ranks[deviations[:count] > 0].sum() >= least:
            return True
    return False


def simulate(paths: int, seed: int) -> list[dict[str, Any]]:
    """Return the error rates over all looks, for every kind of noise."""
    rule = GateSpec()
    design, limit, most = design_for(rule, 1), math.log1p(rule.tolerance), rule.max_launches
    found = []
    for name, draw in NOISE.items():
        rng = np.random.default_rng(seed)
        noise = draw(rng, (paths, 2 * most))
        counts: Counter[str] = Counter()
        for path in range(paths):
            launches = np.array(launch_order(seed + path)).reshape(most, 2)
            logs = np.take_along_axis(noise[path].reshape(most, 2), launches.argsort(axis=1), 1)
            logs[:, 1] += limit
            pairs = [(old, new) for old, new in np.exp(logs).tolist()]
            verdicts = {
                judge(METRIC, pairs[:count], rule, design).verdict for count in range(1, most + 1)
            }
            counts["ours"] += Verdict.REGRESSED in verdicts
            counts["passed"] += bool({Verdict.PASSED, Verdict.IMPROVED} & verdicts)
            counts["naive"] += naive_wilcoxon(logs[:, 1] - logs[:, 0] - limit, rule.alpha)
        found.append({"noise": name, "paths": paths, **counts})
        print(f"simulation: {name}, {dict(counts)} of {paths}", file=sys.stderr, flush=True)
    return found


def print_simulation(found: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Print the fourth table."""
    if not found:
        return
    rule = GateSpec()
    print(
        f"\nA slowdown of exactly the tolerance, looked at after each of {rule.max_launches} "
        f"pairs, {found[0]['paths']} simulated paths each ({seconds:.0f} s)\n"
        f"{'':<21}{'called':>8}{'95 % interval':>17}  {'goal <= 1 %':<15}"
        f"{'passed (<= 5 %)':>17}{'Wilcoxon at 1 %':>17}"
    )
    for each in found:
        paths, wrong, passed = each["paths"], each.get("ours", 0), each.get("passed", 0)
        low, high = (rate_bound(wrong, paths, upper=upper, error=0.025) for upper in (False, True))
        # It is built to be at its limit, where the half of all simulations come out above.
        met = low <= rule.alpha
        print(
            f"{each['noise']:<21}{wrong / paths:8.2%}{f'{low:.2%} to {high:.2%}':>17}  "
            f"{'met' if met else 'MISSED':<15}"
            f"{passed / paths:17.2%}{each.get('naive', 0) / paths:17.2%}"
        )


# All of it ----------------------------------------------------------------------------------


def print_head(options: argparse.Namespace) -> None:
    """Print what this is run on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    peers = {name: installed(name) or "not installed" for name in ("pytest-benchmark", "asv")}
    print(
        f"{cpu}, {cores} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, pytest-autotune {pytest_autotune.__version__}\n"
        f"{', '.join(f'{name} {version}' for name, version in peers.items())}\n"
        f"{time.strftime('%Y-%m-%d %H:%M')}, load average {os.getloadavg()[0]:.2f}, "
        f"{options.jobs} runs at a time where it need not be quiet\n"
        f"python {' '.join(sys.argv)}"
    )


def print_effects(bench: Bench, rounds: int) -> None:
    """Print how much slower the revisions are when called in turn, in this process."""
    steps = sorted({scenario.steps for scenario in SCENARIOS})
    kernels = {each: ctypes.CDLL(bench.library(each)).kernel for each in steps}
    times: dict[int, list[float]] = {each: [] for each in steps}
    for number in range(rounds):
        for each in steps if number % 2 else reversed(steps):
            begin = time.perf_counter()
            kernels[each]()
            times[each].append(time.perf_counter() - begin)
    base = statistics.median(times[0])
    effects = ", ".join(
        f"{each / 1000:+.1%}: {statistics.median(times[each]) / base - 1:+.2%}"
        for each in steps
        if each
    )
    print(f"the kernel takes {base * 1e3:.2f} ms; revisions called in turn are slower: {effects}")


def as_json(all_found: Sequence[Found], simulation: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results, without samples."""
    return {
        "command": sys.argv,
        "scenarios": {
            found.scenario.name: {
                "seconds": found.seconds,
                "effect": found.effect,
                "rates": {
                    name.strip(): [sum(alarms), len(alarms)]
                    for name, count in rows().items()
                    for alarms in [count(found)]
                },
                "runs": [
                    {
                        "verdict": run.verdict.value, "pairs": run.pairs, "wall": run.wall,
                        "measuring": run.measuring, "values": run.values,
                    }
                    for run in found.runs
                ],
            }
            for found in all_found
            if found.runs
        },
        "simulation": list(simulation),
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(scenario.name for scenario in SCENARIOS), SIMULATION]
    parser.add_argument("--runs", type=int, help="runs of our gate in every scenario")
    parser.add_argument("--peers", type=int, help="rounds of the peers in every scenario")
    parser.add_argument("--paths", type=int, help="simulated paths of each kind (5000)")
    parser.add_argument("--quick", action="store_true", help="few runs: a try, not a result")
    parser.add_argument("--scenario", action="append", choices=names, help="only this; repeatable")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return parser.parse_args()


def print_observed(all_found: Sequence[Found]) -> None:
    """Print everything that was found by launching."""
    if all_found:
        print_rates(all_found)
        print_cost(all_found)
        print_goals(all_found)
        sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    options = parsed()
    # Whoever ends it wants to see what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    wanted = options.scenario or [*(scenario.name for scenario in SCENARIOS), SIMULATION]
    print_head(options)
    all_found: list[Found] = []
    simulation: list[dict[str, Any]] = []
    simulated = 0.0
    try:
        with tempfile.TemporaryDirectory(prefix="gate-") as folder:
            bench = Bench(Path(folder))
            print_effects(bench, 50 if options.quick else 200)
            sys.stdout.flush()
            for number, scenario in enumerate(SCENARIOS):
                if scenario.name not in wanted:
                    continue
                found = Found(scenario=scenario)
                all_found.append(found)
                runs = options.runs or (5 if options.quick else scenario.runs)
                peers = options.peers
                if peers is None:
                    peers = 2 if options.quick else scenario.peers
                seed = options.seed + 10_000_000 * (number + 1)
                observe(
                    bench, found, runs=runs, peers=min(peers, runs), seed=seed, jobs=options.jobs
                )
        # At once, as they took long to make.
        print_observed(all_found)
        if SIMULATION in wanted:
            begin = time.monotonic()
            paths = options.paths or (500 if options.quick else 5000)
            simulation = simulate(paths, options.seed)
            simulated = time.monotonic() - begin
    except KeyboardInterrupt:
        print("\nInterrupted: what follows is of a part of the runs")
        print_observed(all_found)
    print_simulation(simulation, simulated)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(all_found, simulation), indent=1))
    print(f"\n{(time.monotonic() - began) / 60:.1f} min in all")


if __name__ == "__main__":
    main()
