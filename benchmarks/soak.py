"""A long study: what a trial costs, how much memory and how many descriptors, first to last.

Runs ``pytest --autotune`` on a study of so many trials of one trivial test, serially and with two
workers. Every process of the run notes after each test the time, its own time on the CPU, its
memory (resident, from the kernel) and its open descriptors. By process: what a test took, and the
medians of the others, in the first and the last tenth of its tests. Every line of a trial is
flushed, so the time depends on the disk; the goal is of the time on the CPU: at the end at most 1.2
times that at the start. The first 50 tests, in which modules are loaded, do not count.

::

    python benchmarks/soak.py
    python benchmarks/soak.py --trials 1000 --strategy random --workers 0

POSIX with ``/proc`` only. Run it on a quiet machine, from an environment with the plugin installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

GOAL_RATIO: Final = 1.2
_WARM: Final = 50
_MODULE: Final = """
import pytest

pytestmark = pytest.mark.autotune(
    parameters={{
        "a": {{"type": "integer", "low": 0, "high": 255}},
        "b": {{"type": "integer", "low": 0, "high": 255}},
        "c": ["x", "y"],
    }},
    optimization={{
        "objective": "minimize:cost",
        "max_iterations": {trials},
        "strategy": "{strategy}",
    }},
)


def test_it(trial):
    a, b = trial.params["a"], trial.params["b"]
    trial.report({{"cost": (a - 100) ** 2 + (b - 7) ** 2 + (trial.params["c"] == "x")}})
"""
#: Written at once at the end, so that noting is cheap and leaves no descriptor open.
_CONFTEST: Final = """
import atexit, json, os, pathlib, resource, time

NOTES = []
PAGE = resource.getpagesize()


def pytest_runtest_logfinish():
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    NOTES.append((time.monotonic(), time.process_time(), pages * PAGE, files))


@atexit.register
def write():
    if NOTES:
        folder = pathlib.Path(__file__).parent
        role = os.environ.get("PYTEST_XDIST_WORKER", "main")
        (folder / f"notes-{role}.json").write_text(json.dumps(NOTES))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What one process of a run noted, in the first and the last tenth of its tests."""

    name: str
    tests: int
    #: Seconds from one test to the next, by the clock: the median.
    seconds: tuple[float, float]
    #: Those on the CPU: the mean, as what is done now and then counts, too.
    busy: tuple[float, float]
    #: Mebibytes.
    memory: tuple[float, float]
    descriptors: tuple[float, float]

    @property
    def kib_per_test(self) -> float:
        """The slope of memory between the middles of the two tenths."""
        return 1024 * (self.memory[1] - self.memory[0]) / (0.9 * self.tests)


def soak(trials: int, workers: int, strategy: str, *more: str) -> tuple[list[Process], float]:
    """Run a study; return what each process noted, and the seconds of the run."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "test_soak.py").write_text(_MODULE.format(trials=trials, strategy=strategy))
        (folder / "conftest.py").write_text(_CONFTEST)
        command = [sys.executable, "-m", "pytest", "-q", "--autotune", *more]
        # A test that runs this may be in a worker itself, whose name the controller would take.
        around = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
        began = time.monotonic()
        done = subprocess.run(
            [*command, "-n", str(workers)] if workers else command,
            cwd=folder,
            env={**around, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                 "PYTEST_ADDOPTS": "-p autotune -p xdist"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if f"{trials} of {trials}" not in done.stdout:
            sys.exit(
                f"the study of {trials} trials did not end as it should:\n{done.stdout[-3000:]}"
            )
        found = [_process(path) for path in sorted(folder.glob("notes-*.json"))]
    return found, seconds


def _process(path: Path) -> Process:
    import json

    notes = json.loads(path.read_text())[_WARM:]
    times = [note[0] for note in notes]
    tenth = max(2, len(notes) // 10)

    def medians(values: Sequence[float], scale: float = 1.0) -> tuple[float, float]:
        first, last = values[:tenth], values[-tenth:]
        return statistics.median(first) / scale, statistics.median(last) / scale

    return Process(
        name=path.stem.removeprefix("notes-"),
        tests=len(notes),
        seconds=medians([after - before for before, after in pairwise(times)]),
        busy=(
            (notes[tenth][1] - notes[0][1]) / tenth,
            (notes[-1][1] - notes[-1 - tenth][1]) / tenth,
        ),
        memory=medians([note[2] for note in notes], 2**20),
        descriptors=medians([note[3] for note in notes]),
    )


def main() -> None:
    """Print a table of all processes of all runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--workers", default="0,2")
    options = parser.parse_args()
    print(f"{options.trials} trials, strategy {options.strategy}: first tenth → last tenth")
    print(
        f"{'workers':>7} {'process':<8}{'tests':>6}{'ms a trial':>17}{'ms on the CPU':>17}"
        f"{'ratio':>7}{'memory (MiB)':>18}{'KiB a trial':>13}{'descriptors':>14}"
    )
    for workers in map(int, options.workers.split(",")):
        found, seconds = soak(options.trials, workers, options.strategy)
        for each in found:
            ratio = each.busy[1] / each.busy[0]
            says = "met" if ratio <= GOAL_RATIO else "MISSED"
            cost = f"{1e3 * each.seconds[0]:.2f} → {1e3 * each.seconds[1]:.2f}"
            busy = f"{1e3 * each.busy[0]:.2f} → {1e3 * each.busy[1]:.2f}"
            memory = f"{each.memory[0]:.1f} → {each.memory[1]:.1f}"
            open_files = f"{each.descriptors[0]:g} → {each.descriptors[1]:g}"
            print(
                f"{workers:>7} {each.name:<8}{each.tests:>6}{cost:>17}{busy:>17}{ratio:>7.2f}"
                f"{memory:>18}{each.kib_per_test:>13.2f}{open_files:>14}  {says}",
                flush=True,
            )
        print(f"{'':>7} {seconds:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
