"""How good the timing of kernels is.

Prints four tables:

1. coverage: how often the interval that is reported encloses the true median, by simulation of
   known distributions, through the very sampler that measurements use (which stops when it likes
   what it sees, and so could be wrong more often than an interval at a fixed number of samples);
2. cost: samples and seconds for an interval as narrow as the one that pytest-benchmark's default
   settings reach, on the same functions, in the same run;
3. races: how many candidates are given up, and after how much time, by how much slower than the
   incumbent they are;
4. GPU, where there is one with PyTorch and Triton: medians against Triton's ``do_bench`` and
   ``do_bench_cudagraph``, and against replays of a CUDA graph.

::

    python benchmarks/timing.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.sampler import Goal, Race, sample
from pytest_autotune.bench.statistics import median_interval
from pytest_autotune.scoring.objective import RACE_MARGIN

GOAL_COVERAGE = 0.93
GOAL_GPU = 0.02
#: CUDA's documentation: events have a resolution of about half a microsecond.
EVENT_SECONDS = 0.5e-6
#: Long enough for a device to come down to the clocks that its power allows.
HEAT_SECONDS = 2.0
#: Calls of a graph that is written down by hand, and length of one by Triton, which replays it ten
#: times.
REPLAYED_CALLS = 50
GRAPH_MS = 100

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]


def bimodal(rng: np.random.Generator, count: int) -> Array:
    """Draw from two modes 10 % apart, as with and without a busy neighbour."""
    return np.where(rng.random(count) < 0.4, 1.0, 1.1) * rng.normal(1, 0.01, count)


def spiky(rng: np.random.Generator, count: int) -> Array:
    """Draw a sharp peak, and every tenth time an interrupt."""
    late = (rng.random(count) < 0.1) * rng.exponential(1.0, count)
    return np.asarray(rng.normal(1, 0.005, count) + late)


class Drifting:
    """A first-order process: neighbours are alike, as where clocks go up and down."""

    def __init__(self) -> None:
        self._state = 0.0

    def __call__(self, rng: np.random.Generator, count: int) -> Array:
        """Draw the next values."""
        values = []
        for step in rng.normal(0, 0.02, count):
            self._state = 0.8 * self._state + step
            values.append(1 + self._state)
        return np.asarray(values)


def distributions() -> Mapping[str, Draw]:
    """Return what to draw times from; the true median is near 1."""
    return {
        "normal, 1 %": lambda rng, count: rng.normal(1, 0.01, count),
        "normal, 5 %": lambda rng, count: rng.normal(1, 0.05, count),
        "lognormal, 10 %": lambda rng, count: rng.lognormal(0, 0.1, count),
        "exponential tail": lambda rng, count: 1 + rng.exponential(0.2, count),
        "two modes": bimodal,
        "spikes": spiky,
        "drifting": Drifting(),
    }


class Simulated:
    """Times drawn from a distribution, and a clock that goes on by them."""

    def __init__(self, draw: Draw, rng: np.random.Generator, scale: float) -> None:
        self._draw = draw
        self._rng = rng
        self._scale = scale
        self.now = 0.0

    def batch(self, count: int) -> list[float]:
        """Take samples, each of which takes its time."""
        times = self._scale * self._draw(self._rng, count)
        self.now += float(times.sum())
        return [float(value) for value in times]

    def clock(self) -> float:
        """Return the simulated time."""
        return self.now


def coverage(repeats: int, seconds: float) -> None:
    """Print the first table."""
    print(f"\nCoverage of the 95 % interval, {repeats} runs each, calls of about 1 ms")
    print(f"{'distribution':<18} {'true median':>11} {'covered':>8} {'samples':>8} {'width':>7}")
    rng = np.random.default_rng(1)
    worst = 1.0
    for name, draw in distributions().items():
        true = float(np.median(draw(rng, 1_000_000))) * 1e-3
        hits, counts, widths = 0, [], []
        for _ in range(repeats):
            timer = Simulated(draw, rng, 1e-3)
            found = sample(timer, Goal(max_time=seconds), clock=timer.clock)
            hits += found.interval.low <= true <= found.interval.high
            counts.append(len(found.samples))
            widths.append(found.interval.relative_width)
        if not isinstance(draw, Drifting):
            worst = min(worst, hits / repeats)
        print(
            f"{name:<18} {true * 1e3:9.4f}ms {hits / repeats:8.1%} "
            f"{statistics.median(counts):8.0f} {statistics.median(widths):7.2%}"
        )
    said = "met" if worst >= GOAL_COVERAGE else "MISSED"
    goal = f"{said}, goal at least {GOAL_COVERAGE:.0%}"
    print(f"lowest of independent samples: {worst:.1%} ({goal}); drifting ones are allowed for")


#: Functions to time, as source, for both this process and the one that runs pytest-benchmark.
FUNCTIONS = """
import numpy as np

numbers = list(range(1000))
small = np.random.default_rng(0).random((64, 64))
large = np.random.default_rng(0).random((400, 400))
image = np.random.default_rng(0).random((1500, 1500))


def python_sum():
    return sum(numbers)


def matmul_64():
    return small @ small


def sort_160k():
    return np.sort(large, axis=None)


def roll_and_add():
    return image + np.roll(image, 1, axis=0) + np.roll(image, 1, axis=1)
"""
NAMES = ("python_sum", "matmul_64", "sort_160k", "roll_and_add")


def cost(rounds: int) -> None:
    """Print the second table."""
    try:
        import pytest_benchmark  # noqa: F401
    except ImportError:
        print("\nCost: not run, as pytest-benchmark is not installed")
        return
    namespace: dict[str, Any] = {}
    exec(FUNCTIONS, namespace)  # noqa: S102 - a constant
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        theirs = pytest_benchmark_run()
        for name in NAMES:
            data, took = theirs[name]
            width = median_interval(data, 0.95).relative_width
            # Narrower than the clock can tell is no goal.
            ours = measure(namespace[name], width=max(width, 1e-4), max_time=20)
            usual = measure(namespace[name])
            rows[name].append(
                (
                    len(data), took, width,
                    len(ours.samples), ours.seconds, ours.interval.relative_width,
                    len(usual.samples), usual.seconds, usual.interval.relative_width,
                )
            )  # fmt: skip
    print(f"\nCost of an interval, medians of {rounds} runs (samples, seconds, relative width)")
    head = f"{'pytest-benchmark':^27}{'ours, as narrow':^27}{'ours, to 2 %':^27}"
    print(f"{'':<14}{head}{'ratio':>7} {'ratio 2 %':>10}")
    for name, measured in rows.items():
        row = [statistics.median(column) for column in zip(*measured, strict=True)]
        cells = "".join(
            f"{row[at]:9.0f} {row[at + 1]:7.2f}s {row[at + 2]:7.2%} " for at in (0, 3, 6)
        )
        print(f"{name:<14}{cells}{row[3] / row[0]:7.3f} {row[6] / row[0]:10.3f}")
    print("ratios: our samples over pytest-benchmark's, for its width and for 2 %, our default")


def pytest_benchmark_run() -> dict[str, tuple[list[float], float]]:
    """Run pytest-benchmark with its defaults; return samples and seconds of each function."""
    with tempfile.TemporaryDirectory(prefix="timing-") as folder:
        module = Path(folder) / "test_functions.py"
        tests = "\n".join(f"def test_{n}(benchmark): benchmark({n})\n" for n in NAMES)
        module.write_text(f"{FUNCTIONS}\n\n{tests}")
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:autotune", "-p", "no:xdist",
                f"--benchmark-json={report}", str(module),
            ],
            check=True, cwd=folder, capture_output=True,
        )  # fmt: skip
        found = json.loads(report.read_text())
    return {
        entry["name"].removeprefix("test_"): (entry["stats"]["data"], entry["stats"]["total"])
        for entry in found["benchmarks"]
    }


def races(repeats: int) -> None:
    """Print the third table."""
    limit = 5e-3 * (1 + RACE_MARGIN)
    print(
        f"\nRaces against an incumbent of 5 ms (lost above {limit * 1e3:.2f} ms), "
        f"noise lognormal 15 %, at most 2 s, {repeats} runs each"
    )
    print(f"{'slower by':>10} {'given up':>9} {'seconds':>8} {'without a race':>15}")
    rng = np.random.default_rng(2)

    def draw(generator: np.random.Generator, count: int) -> Array:
        return generator.lognormal(0, 0.15, count)

    for slower in (0.9, 1.0, 1.0 + RACE_MARGIN, 1.08, 1.15, 1.5, 3.0, 20.0):
        lost, spent, alone = 0, [], []
        for _ in range(repeats):
            timer = Simulated(draw, rng, 5e-3 * slower)
            found = sample(timer, Goal(), Race(limit=limit), clock=timer.clock)
            lost += found.ending == "race"
            spent.append(found.seconds)
            timer = Simulated(draw, rng, 5e-3 * slower)
            alone.append(sample(timer, Goal(), clock=timer.clock).seconds)
        print(
            f"{slower - 1:+10.0%} {lost / repeats:9.1%} {statistics.fmean(spent):8.2f} "
            f"{statistics.fmean(alone):15.2f}"
        )
    print(f"stated error rate: at most {Race(limit=limit).alpha:.0%} of those at the limit")


def on_gpu() -> None:
    """Print the fourth table."""
    try:
        import torch
        from triton import testing
    except ImportError as error:
        print(f"\nGPU: not run ({error})")
        return
    if not torch.cuda.is_available():
        print("\nGPU: not run (PyTorch finds no CUDA device)")
        return
    print(f"\nGPU: {torch.cuda.get_device_name()}, bfloat16 matrix products, medians in µs")
    print(
        f"{'size':>6} {'ours':>10} {'do_bench':>10} {'ratio':>7}  "
        f"{'ours, graph':>11} {'cudagraph':>10} {'ratio':>7} {'replay':>10} {'ratio':>7}"
    )
    worst = max(product_of(size, torch, testing) for size in (512, 2048, 8192))
    said = "met" if worst <= GOAL_GPU else "MISSED"
    print(
        f"largest difference beyond the {EVENT_SECONDS * 1e6} µs that events can tell: "
        f"{worst:.1%} ({said}, goal at most {GOAL_GPU:.0%})"
    )


def product_of(size: int, torch: Any, testing: Any) -> float:
    """Print a line of the fourth table; return the largest difference in it."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))

    def run() -> Any:
        return torch.matmul(a, b)

    heat(torch, run)
    cold = measure(run, max_time=3).median
    heat(torch, run)
    triton_cold = testing.do_bench(run, warmup=100, rep=1000, return_mode="median") / 1e3
    heat(torch, run)
    graph = measure(run, graph=True, max_time=3)
    heat(torch, run)
    with torch.cuda.stream(torch.cuda.Stream()):
        triton_warm = testing.do_bench_cudagraph(run, rep=GRAPH_MS, return_mode="median") / 1e3
    heat(torch, run)
    replayed = replay(torch, run)
    warm, calls = graph.median, min(graph.calls_per_sample, REPLAYED_CALLS)
    print(
        f"{size:6d} {cold * 1e6:10.2f} {triton_cold * 1e6:10.2f} {cold / triton_cold:7.3f}  "
        f"{warm * 1e6:11.2f} {triton_warm * 1e6:10.2f} {warm / triton_warm:7.3f} "
        f"{replayed * 1e6:10.2f} {warm / replayed:7.3f}"
    )
    return max(
        apart(cold, triton_cold), apart(warm, triton_warm, calls), apart(warm, replayed, calls)
    )


def heat(torch: Any, run: Callable[[], object]) -> None:
    """Keep the device busy for some seconds.

    A device that was idle runs on clocks that its power does not allow for long. So a method that
    measures for a tenth of a second would seem better than one that measures for a second.
    """
    end = time.monotonic() + HEAT_SECONDS
    while time.monotonic() < end:
        for _ in range(100):
            run()
        torch.cuda.synchronize()


def apart(ours: float, theirs: float, calls: int = 1) -> float:
    """Return how far two times of a call are apart, as a share, beyond what events can tell.

    ``calls`` is the number of calls between two events.
    """
    return max(0.0, abs(ours - theirs) - EVENT_SECONDS / calls) / theirs


def replay(torch: Any, run: Callable[[], object], calls: int = REPLAYED_CALLS) -> float:
    """Return the seconds of one call among many in a CUDA graph, written down by hand."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    # One behind the other, so that only the first one waits for its launch.
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(20)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    times = (start.elapsed_time(end) / 1e3 / calls for start, end in events)
    return float(statistics.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1000, help="simulated runs of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="runs of pytest-benchmark")
    options = parser.parse_args()
    began = time.monotonic()
    coverage(options.repeats, seconds=5.0)
    cost(options.rounds)
    races(options.repeats)
    on_gpu()
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
