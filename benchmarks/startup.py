"""What the installed but unused plugin costs a pytest run that has nothing to do with it.

A generated module of trivial tests is run by ``pytest`` as a whole process, once with the
plugin and once with ``-p no:autotune``, in turns and with the first of each pair alternating;
after a warm-up of each, so that bytecode is cached as it is for a user. Given are the minima
and medians on the wall clock, the medians on the CPU (which other work on the machine disturbs
less), and their differences; the goals are held against the minima, the least disturbed. The
cost per test is the difference of a large module, less that of a small one, per test.

A last pair of runs, without xdist, lists which heavy modules were loaded at the end of the
session: those that are there with the plugin but not without it are its doing.

POSIX only. Run it from an environment with the plugin installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

GOAL_RUN_MS: Final = 15.0
GOAL_TEST_MS: Final = 0.05
HEAVY: Final = (
    "optuna",
    "jsonschema",
    "docker",
    "numpy",
    "sqlalchemy",
    "yaml",
    "xdist",
    "filelock",
)
WITHOUT: Final = ("-p", "no:autotune")
_NO_XDIST: Final = ("-p", "no:xdist", "-p", "no:xdist.looponfail")
_CONFTEST: Final = """\
import json
import sys
from pathlib import Path

def pytest_sessionfinish():
    Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
"""


@dataclass(slots=True)
class Samples:
    """Milliseconds per run of one peer."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return what is printed of them."""
        return {
            "wall_min": min(self.wall),
            "wall_median": statistics.median(self.wall),
            "cpu_median": statistics.median(self.cpu),
        }


def make_project(folder: Path, tests: int) -> Path:
    """Write a module of ``tests`` trivial tests."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    text = "\n\n".join(f"def test_{number}():\n    assert True\n" for number in range(tests))
    (folder / "test_trivial.py").write_text(text, "utf-8")
    return folder


def child_environment() -> dict[str, str]:
    """Return an environment in which pytest behaves as a user's does: it caches bytecode."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"}
    return {key: value for key, value in os.environ.items() if key not in unwanted}


def children_cpu() -> float:
    """Return the CPU seconds of all child processes so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_pytest(project: Path, extra: Sequence[str], samples: Samples | None = None) -> None:
    """Run pytest once in ``project``; exit where that fails."""
    command = [sys.executable, "-m", "pytest", "-q", *extra]
    environment = child_environment()
    wall, cpu = time.perf_counter(), children_cpu()
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    wall, cpu = time.perf_counter() - wall, children_cpu() - cpu
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    if samples is not None:
        samples.wall.append(1e3 * wall)
        samples.cpu.append(1e3 * cpu)


def compare(project: Path, runs: int) -> dict[str, dict[str, float]]:
    """Run ``project`` with and without the plugin, in turns."""
    peers: list[tuple[Sequence[str], Samples]] = [((), Samples()), (WITHOUT, Samples())]
    for extra, _ in peers:
        run_pytest(project, extra)
    for number in range(runs):
        for extra, samples in peers if number % 2 else reversed(peers):
            run_pytest(project, extra, samples)
    with_plugin, without = (samples.figures() for _, samples in peers)
    return {
        "with": with_plugin,
        "without": without,
        "difference": {key: with_plugin[key] - without[key] for key in with_plugin},
    }


def loaded(project: Path, extra: Sequence[str]) -> set[str]:
    """Return the names of all modules loaded at the end of a run without xdist."""
    run_pytest(project, (*_NO_XDIST, *extra))
    return set(json.loads((project / "modules.json").read_text("utf-8")))


def heavy_modules(project: Path) -> dict[str, Any]:
    """Tell which heavy modules an unrelated run loads, and what the plugin loads of its own."""
    (project / "conftest.py").write_text(_CONFTEST, "utf-8")
    with_plugin, without = loaded(project, ()), loaded(project, WITHOUT)
    return {
        "with": [name for name in HEAVY if name in with_plugin],
        "without": [name for name in HEAVY if name in without],
        "added": sorted(with_plugin - without),
    }


def verdict(value: float, goal: float) -> str:
    """Say whether a goal was met."""
    return f"{'met' if value <= goal else 'MISSED'}, goal {goal:g}"


def print_runs(tests: int, result: dict[str, dict[str, float]], runs: int) -> None:
    """Print the table of one module."""
    print(f"{tests} tests, {runs} runs each, ms")
    print(f"{'':>12} {'minimum':>9} {'median':>9} {'CPU median':>11}")
    for name, row in result.items():
        print(f"{name:>12} {row['wall_min']:9.1f} {row['wall_median']:9.1f}", end=" ")
        print(f"{row['cpu_median']:11.1f}")
    print()


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="runs with and runs without")
    parser.add_argument(
        "--tests", type=int, nargs=2, default=[2, 1000], help="size of the small and large module"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    if not any(entry.name == "autotune" for entry in entry_points(group="pytest11")):
        sys.exit("install pytest-autotune first: pytest does not know it")
    small, large = options.tests
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        root = Path(folder)
        results = {}
        for tests in (small, large):
            project = make_project(root / f"tests-{tests}", tests)
            results[tests] = compare(project, options.runs)
            print_runs(tests, results[tests], options.runs)
        modules = heavy_modules(make_project(root / "modules", small))
    by_run: dict[str, float] = {}
    by_test: dict[str, float] = {}
    for key, difference in results[small]["difference"].items():
        by_run[key] = difference
        by_test[key] = (results[large]["difference"][key] - difference) / (large - small)
    for label, key in (
        ("minima", "wall_min"),
        ("medians", "wall_median"),
        ("CPU medians", "cpu_median"),
    ):
        print(
            f"difference of {label:<12} {by_run[key]:6.1f} ms per run, "
            f"{by_test[key]:8.4f} ms per test"
        )
    print(
        f"by minima: per run {verdict(by_run['wall_min'], GOAL_RUN_MS)} ms; "
        f"per test {verdict(by_test['wall_min'], GOAL_TEST_MS)} ms"
    )
    print(f"heavy modules with the plugin: {', '.join(modules['with']) or 'none'}")
    print(f"heavy modules without it: {', '.join(modules['without']) or 'none'}")
    print(f"loaded because of the plugin: {', '.join(modules['added'])}")
    if options.json is not None:
        figures = {
            "runs": {str(tests): result for tests, result in results.items()},
            "per_run_ms": by_run,
            "per_test_ms": by_test,
            "modules": modules,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
