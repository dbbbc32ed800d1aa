"""What the plugin's machinery costs per trial, next to Optuna used by hand.

Three measurements, each with all of its peers in one run and taking turns:

1. One trial at a history of 10, 100 and 1,000 trials. *Ours* is what a session does for a
   trial: ``Study.claim()``, ``Trial.report()`` of three metrics, judging them against an SLO,
   ``Study.finish()``; bayesian strategy, four discrete parameters under a constraint, journal
   in a folder. *Raw* is ``study.ask(distributions)`` and ``study.tell()`` with TPE's defaults
   and the same four parameters, journal file in the same folder. The history is made by the
   measured code itself; a figure is the median over the trials that follow it. Both journals
   are flushed to disk at every line, so the time on the CPU is given apart, and how long one
   flush took: the slower the disk, the more the number of lines decides.
2. The same through pytest: a module with one trivial test per trial, run as a process. *Ours*
   is ``pytest --autotune``, *raw* a parametrized test that asks and tells by hand, *plain* the
   parametrized test alone, which is taken off the other two. "All in" is everything, imports
   included, shared out over the trials; "marginal" is the slope between a short and a long
   run. Minima over repeats.
3. Resuming a study of 1,000 finished trials in a fresh process: opening it and claiming the
   first trial, after the interpreter and Optuna were loaded (that time is not counted, and
   given apart). "Walk" is a whole session's way there, which asks once per finished trial.
   Medians over repeats, each on a copy of its own.

POSIX only. Run it on a quiet machine, from an environment with the plugin installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from pytest_autotune.study.plan import Plan

GOAL_RATIO: Final = 1.5
GOAL_RESUME_SECONDS: Final = 0.5
NODEID: Final = "test_study.py::test_trial"
OURS: Final = "ours"
RAW: Final = "raw"

#: Four discrete parameters, 5,568 of whose 6,656 combinations are valid.
SPEC: Final[Mapping[str, Any]] = {
    "parameters": {
        "tp_size": [1, 2, 4, 8],
        "chunk": ["small", "medium", "large", "huge"],
        "max_num_seqs": {"type": "integer", "low": 16, "high": 512, "step": 16},
        "mem_fraction": {"type": "continuous", "low": 0.7, "high": 0.94, "step": 0.02},
    },
    "constraints": ["tp_size * max_num_seqs <= 2048", "mem_fraction <= 0.9 or tp_size >= 2"],
    "optimization": {
        "strategy": "bayesian",
        "objective": "minimize_latency",
        "max_iterations": 2_000,
        "infeasible": "xfail",
    },
    "slo": {
        "ttft": {"p99": {"threshold": 0.5, "hard_fail": True, "fail_ratio": 0.0}},
        "latency": {"p99": {"threshold": 2.0, "weight": 0.5}},
    },
}


def measure(params: Mapping[str, Any]) -> dict[str, float]:
    """Stand in for a benchmark: latencies with one optimum and some SLO violations."""
    spread = (params["max_num_seqs"] - 200) / 200
    latency = 1.0 + spread**2 + 2 * (0.9 - params["mem_fraction"]) + 0.2 / params["tp_size"]
    chunk = len(params["chunk"]) / 10
    return {
        "mean_e2e_latency": latency + chunk,
        "p99_e2e_latency": 1.2 * latency,
        "p99_ttft": 0.2 + 0.1 * params["tp_size"] * chunk,
    }


def make_plan(budget: int) -> Plan:
    """Return our study's plan: the spec as a marker would give it."""
    from pytest_autotune.spec.loading import load_inline
    from pytest_autotune.study.plan import Plan
    from pytest_autotune.study.settings import Settings

    spec = load_inline("test_trial", SPEC, "benchmark")
    return Plan.make(NODEID, spec, Settings(trials=budget))


def distributions() -> dict[str, BaseDistribution]:
    """Return the same four parameters as Optuna has them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parameters = SPEC["parameters"]
    return {
        "tp_size": CategoricalDistribution(parameters["tp_size"]),
        "chunk": CategoricalDistribution(parameters["chunk"]),
        "max_num_seqs": IntDistribution(16, 512, step=16),
        "mem_fraction": FloatDistribution(0.7, 0.94, step=0.02),
    }


class Ours:
    """A study of the plugin, driven as its session drives it."""

    def __init__(self, directory: Path, budget: int) -> None:
        from pytest_autotune.study.searched import SearchedStudy

        self.plan = make_plan(budget)
        self.study = SearchedStudy(
            self.plan, directory, session="benchmark", started=time.monotonic()
        )
        self._count = 0

    def run_trial(self) -> None:
        """Claim, report, judge, finish."""
        from pytest_autotune.errors import SLOViolation
        from pytest_autotune.scoring.judgement import Ending, judge
        from pytest_autotune.scoring.records import TrialRecord
        from pytest_autotune.study.protocol import SlotRequest
        from pytest_autotune.study.trial import Trial

        record = self.study.claim(SlotRequest(id=f"trial-{self._count:04d}", ordinal=self._count))
        assert isinstance(record, TrialRecord), f"no trial was claimed but {record}"
        trial = Trial(record, self.plan)
        with suppress(SLOViolation):
            trial.report(measure(trial.params))
        measurement = trial.measurement(Ending.COMPLETE)
        judgement = judge(measurement, self.plan.question)
        self.study.finish(replace(record, measurement=measurement, judgement=judgement))
        self._count += 1


class Raw:
    """A study of Optuna alone."""

    def __init__(self, journal: Path) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        sampler = optuna.samplers.TPESampler(seed=0)
        self.study = optuna.create_study(
            study_name=RAW, storage=storage, sampler=sampler, load_if_exists=True
        )
        self._distributions = distributions()

    def run_trial(self) -> None:
        """Ask and tell."""
        trial = self.study.ask(self._distributions)
        self.study.tell(trial, measure(trial.params)["mean_e2e_latency"])


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the wall clock and on the CPU."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Cost:
        """Measure one call of ``work``."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


def lines(path: Path) -> int:
    """Count the entries of a journal, each of which was flushed to disk by itself."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def flush_seconds(directory: Path, times: int = 100) -> float:
    """Return the median time to append a line and flush it to disk."""
    seconds = []
    with (directory / "flush").open("ab", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(b"x" * 300 + b"\n")
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def trial_costs(
    root: Path, sizes: Sequence[int], window: int, keep_at: int
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Measure one trial at each history size.

    Also return copies of both journals as they were when ``keep_at`` trials were finished.
    """
    place = {OURS: root / "ours", RAW: root / "raw"}
    kept = {name: root / f"kept-{name}" for name in place}
    place[RAW].mkdir(parents=True)
    flush_ms = 1e3 * flush_seconds(root)
    last = max(*sizes, keep_at) + window
    peers: dict[str, Ours | Raw] = {
        OURS: Ours(place[OURS], last),
        RAW: Raw(place[RAW] / "trials.journal"),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in peers}
    for number in range(last):
        if number == keep_at:
            for name, directory in place.items():
                shutil.copytree(directory, kept[name])
        # Who goes first changes, as the second finds the disk busy with the first's writes.
        for name in (OURS, RAW) if number % 2 else (RAW, OURS):
            costs[name].append(Cost.of(peers[name].run_trial))
    rows: dict[str, Any] = {
        str(size): {
            name: {
                "wall_ms": 1e3 * statistics.median(c.wall for c in of_peer[size : size + window]),
                "cpu_ms": 1e3 * statistics.median(c.cpu for c in of_peer[size : size + window]),
            }
            for name, of_peer in costs.items()
        }
        for size in sizes
    }
    writes = {
        name: lines(next(directory.rglob("trials.journal"))) / last
        for name, directory in place.items()
    }
    figures = {
        "sizes": rows,
        "window": window,
        "writes_per_trial": writes,
        "flush_ms": flush_ms,
    }
    return figures, kept


def child_environment() -> dict[str, str]:
    """Return an environment in which pytest behaves as a user's does: it caches bytecode."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"}
    return {key: value for key, value in os.environ.items() if key not in unwanted}


_PLAIN: Final = """\
import sys
sys.path.insert(0, {here!r})
import pytest
from overhead import measure

@pytest.mark.parametrize("number", range({count}))
def test_trial(number):
    measure({{"tp_size": 2, "chunk": "small", "max_num_seqs": number, "mem_fraction": 0.8}})
"""
_RAW: Final = """\
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import pytest
from overhead import Raw

@pytest.fixture(scope="module")
def peer():
    return Raw(Path(".pytest_cache/raw.journal"))

@pytest.mark.parametrize("number", range({count}))
def test_trial(peer, number):
    peer.run_trial()
"""
_OURS: Final = """\
import sys
sys.path.insert(0, {here!r})
import pytest
from overhead import SPEC, measure

@pytest.mark.autotune(**SPEC)
def test_trial(trial):
    trial.report(measure(trial.params))
"""
PLAIN: Final = "plain"
_MODULES: Final = {PLAIN: _PLAIN, RAW: _RAW, OURS: _OURS}


def run_pytest(project: Path, name: str, count: int) -> float:
    """Run one peer's module with ``count`` trials; return the seconds of the whole process."""
    # The studies of earlier runs are in there.
    shutil.rmtree(project / ".pytest_cache", ignore_errors=True)
    (project / ".pytest_cache").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", f"test_{name}_{count}.py"]
    if name == OURS:
        command += ["--autotune", "--autotune-trials", str(count)]
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=project, env=child_environment(), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def end_to_end(root: Path, short: int, long: int, repeats: int) -> dict[str, Any]:
    """Measure whole pytest runs of ``short`` and ``long`` trials."""
    project = root / "project"
    project.mkdir()
    (project / "pytest.ini").write_text("[pytest]\n", "utf-8")
    here = str(Path(__file__).resolve().parent)
    runs = [(name, count) for count in (short, long) for name in _MODULES]
    for name, count in runs:
        text = _MODULES[name].format(here=here, count=count)
        (project / f"test_{name}_{count}.py").write_text(text, "utf-8")
    for name in _MODULES:
        run_pytest(project, name, short)
    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    for _ in range(repeats):
        for name, count in runs:
            seconds[name, count].append(run_pytest(project, name, count))
    best = {run: min(values) for run, values in seconds.items()}

    def marginal(name: str) -> float:
        return (best[name, long] - best[name, short]) / (long - short)

    return {
        "short": short,
        "long": long,
        "peers": {
            name: {
                "short_s": best[name, short],
                "long_s": best[name, long],
                "all_in_ms": 1e3 * (best[name, long] - best[PLAIN, long]) / long,
                "marginal_ms": 1e3 * (marginal(name) - marginal(PLAIN)),
            }
            for name in _MODULES
        },
    }


def resume_ours(directory: Path, finished: int, *, walk: bool) -> dict[str, float]:
    """Open our study and claim its first new trial; run in a fresh process."""
    from pytest_autotune.scoring.records import TrialRecord
    from pytest_autotune.study.protocol import SlotRequest, Stop
    from pytest_autotune.study.searched import SearchedStudy

    begun = time.perf_counter()
    plan = make_plan(finished + 10)
    planned = time.perf_counter()
    study = SearchedStudy(plan, directory, session="another", started=time.monotonic())
    opened = time.perf_counter()
    for ordinal in range(finished if walk else 0):
        answer = study.claim(SlotRequest(id=f"trial-{ordinal:04d}", ordinal=ordinal))
        assert answer is Stop.DONE_BEFORE, answer
    walked = time.perf_counter()
    record = study.claim(SlotRequest(id="trial-next", ordinal=finished))
    claimed = time.perf_counter()
    assert isinstance(record, TrialRecord), record
    assert record.number == finished, record
    return {
        "plan": planned - begun,
        "open": opened - planned,
        "walk": walked - opened,
        "claim": claimed - walked,
        "total": claimed - planned,
    }


def resume_raw(directory: Path, finished: int) -> dict[str, float]:
    """Load Optuna's study and ask for a trial; run in a fresh process."""
    begun = time.perf_counter()
    peer = Raw(directory / "trials.journal")
    opened = time.perf_counter()
    trial = peer.study.ask(distributions())
    asked = time.perf_counter()
    assert trial.number == finished, trial
    return {"open": opened - begun, "claim": asked - opened, "total": asked - begun}


def resume_child(kind: str, directory: Path, finished: int) -> None:
    """Print one measurement as JSON, after loading what is not to be counted."""
    begun = time.perf_counter()
    import filelock  # noqa: F401
    import numpy as np  # noqa: F401
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    imported = time.perf_counter() - begun
    seconds = (
        resume_raw(directory, finished)
        if kind == RAW
        else resume_ours(directory, finished, walk=kind == "walk")
    )
    print(json.dumps({"imports": imported, **seconds}))


def resume(
    root: Path, kept: Mapping[str, Path], finished: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Measure resuming from the ``kept`` journals; medians per part, in seconds."""
    samples: dict[str, list[dict[str, float]]] = {OURS: [], "walk": [], RAW: []}
    for repeat in range(repeats):
        for kind, of_kind in samples.items():
            # A copy each: a trial that is left running would be the next run's first claim.
            copy = root / f"resume-{kind}-{repeat}"
            shutil.copytree(kept[RAW if kind == RAW else OURS], copy)
            command = [sys.executable, __file__, "--resume", kind, str(copy), str(finished)]
            done = subprocess.run(
                command, env=child_environment(), capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"resuming ({kind}) failed:\n{done.stderr}")
            of_kind.append(json.loads(done.stdout))
    return {
        kind: {part: statistics.median(s[part] for s in of_kind) for part in of_kind[0]}
        for kind, of_kind in samples.items()
    }


def verdict(value: float, goal: float) -> str:
    """Say whether a goal was met."""
    return "met" if value <= goal else "MISSED"


def print_trials(result: Mapping[str, Any]) -> None:
    """Print the table of the first measurement."""
    print(f"One trial, median of {result['window']} after a history of that size")
    print(
        f"{'history':>8} {'ours ms':>9} {'raw ms':>9} {'ratio':>6}  goal {GOAL_RATIO}"
        f" {'ours CPU':>9} {'raw CPU':>9} {'ratio':>6}"
    )
    for size, peers in result["sizes"].items():
        ours, raw = peers[OURS], peers[RAW]
        ratio = ours["wall_ms"] / raw["wall_ms"]
        print(
            f"{size:>8} {ours['wall_ms']:9.2f} {raw['wall_ms']:9.2f} {ratio:6.2f}"
            f"  {verdict(ratio, GOAL_RATIO):<8}"
            f" {ours['cpu_ms']:9.2f} {raw['cpu_ms']:9.2f}"
            f" {ours['cpu_ms'] / raw['cpu_ms']:6.2f}"
        )
    writes = result["writes_per_trial"]
    print(
        f"lines flushed to disk per trial: ours {writes[OURS]:.1f}, raw {writes[RAW]:.1f}; "
        f"one flush took {result['flush_ms']:.2f} ms"
    )


def print_end_to_end(result: Mapping[str, Any]) -> None:
    """Print the table of the second measurement."""
    peers = result["peers"]
    print(f"\nThrough pytest, {result['long']} trials, over the same number of plain tests")
    print(f"{'':>8} {'run s':>8} {'all in ms/trial':>16} {'marginal ms/trial':>18}")
    for name, row in peers.items():
        print(f"{name:>8} {row['long_s']:8.2f} {row['all_in_ms']:16.2f} {row['marginal_ms']:18.2f}")
    for key in ("all_in_ms", "marginal_ms"):
        base = peers[RAW][key]
        ratio = peers[OURS][key] / base if base > 0 else math.nan
        name = key.removesuffix("_ms").replace("_", " ")
        print(f"ratio, {name}: {ratio:.2f}  ({verdict(ratio, GOAL_RATIO)}, goal {GOAL_RATIO})")


def print_resume(result: Mapping[str, Mapping[str, float]], finished: int) -> None:
    """Print the table of the third measurement."""
    print(f"\nResuming {finished} finished trials in a fresh process, ms without imports")
    print(
        f"{'':>8} {'open':>8} {'walk':>8} {'claim':>8} {'total':>8}  goal {GOAL_RESUME_SECONDS} s"
    )
    for kind, row in result.items():
        parts = " ".join(
            f"{1e3 * row[p]:8.1f}" if p in row else f"{'-':>8}"
            for p in ("open", "walk", "claim", "total")
        )
        said = "" if kind == RAW else verdict(row["total"], GOAL_RESUME_SECONDS)
        print(f"{kind:>8} {parts}  {said}".rstrip())
    print(
        f"not counted: importing Optuna {1e3 * result[OURS]['imports']:.0f} ms, "
        f"reading the spec {1e3 * result[OURS]['plan']:.0f} ms (at collection)"
    )


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10, 100, 1000], help="history sizes, in trials"
    )
    parser.add_argument("--window", type=int, default=20, help="trials measured at each size")
    parser.add_argument("--trials", type=int, default=200, help="trials of a run through pytest")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each process")
    parser.add_argument("--finished", type=int, default=1000, help="trials of the study to resume")
    parser.add_argument(
        "--directory", type=Path, help="where to work (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--resume", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    if options.resume:
        kind, directory, finished = options.resume
        resume_child(kind, Path(directory), int(finished))
        return
    try:
        import optuna

        import pytest_autotune  # noqa: F401
    except ImportError as error:
        sys.exit(f"install pytest-autotune first: {error}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=options.directory) as folder:
        root = Path(folder)
        trials, kept = trial_costs(root, options.sizes, options.window, options.finished)
        print_trials(trials)
        through_pytest = end_to_end(root, options.trials // 10, options.trials, options.repeats)
        print_end_to_end(through_pytest)
        resumed = resume(root, kept, options.finished, options.repeats)
        print_resume(resumed, options.finished)
    if options.json is not None:
        figures = {"trial": trials, "pytest": through_pytest, "resume": resumed}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
