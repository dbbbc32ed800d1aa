"""Tune inference servers and GPU kernels with pytest, and gate their performance in CI.

The names in ``__all__`` are the public API. Everything else is private, by its place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_autotune.bench.benchmark import GpuBenchmark
    from pytest_autotune.bench.correctness import assert_matches
    from pytest_autotune.bench.measure import measure
    from pytest_autotune.bench.timing import Timing
    from pytest_autotune.errors import SLOViolation, TrialPruned
    from pytest_autotune.gate.lock.entry import LockError
    from pytest_autotune.gate.lock.pinned import PinnedConfiguration, read_lock
    from pytest_autotune.gpu.leases import Lease
    from pytest_autotune.load.adapters.genai_bench import read_genai_bench
    from pytest_autotune.load.loadtest import LoadTest
    from pytest_autotune.scoring.judgement import Judgement, Measurement, Outcome
    from pytest_autotune.scoring.levels import Level
    from pytest_autotune.scoring.records import TrialRecord
    from pytest_autotune.scoring.slo import BoundResult
    from pytest_autotune.serving.server import InferenceServer
    from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
    from pytest_autotune.study.trial import Trial

__version__ = "0.1.0"
__all__ = [
    "BoundResult",
    "GpuBenchmark",
    "History",
    "InferenceServer",
    "Judgement",
    "Lease",
    "Level",
    "LoadTest",
    "LockError",
    "Measurement",
    "Outcome",
    "PinnedConfiguration",
    "SLOViolation",
    "Strategy",
    "StrategyContext",
    "Timing",
    "Trial",
    "TrialPruned",
    "TrialRecord",
    "assert_matches",
    "measure",
    "read_genai_bench",
    "read_lock",
]

#: The place of each public name, imported when it is first asked for: pytest loads this package
#: in every run.
_PLACES = {
    "BoundResult": "scoring.slo",
    "GpuBenchmark": "bench.benchmark",
    "History": "strategies.protocol",
    "InferenceServer": "serving.server",
    "Judgement": "scoring.judgement",
    "Lease": "gpu.leases",
    "Level": "scoring.levels",
    "LoadTest": "load.loadtest",
    "LockError": "gate.lock.entry",
    "Measurement": "scoring.judgement",
    "Outcome": "scoring.judgement",
    "PinnedConfiguration": "gate.lock.pinned",
    "SLOViolation": "errors",
    "Strategy": "strategies.protocol",
    "StrategyContext": "strategies.protocol",
    "Timing": "bench.timing",
    "Trial": "study.trial",
    "TrialPruned": "errors",
    "TrialRecord": "scoring.records",
    "assert_matches": "bench.correctness",
    "measure": "bench.measure",
    "read_genai_bench": "load.adapters.genai_bench",
    "read_lock": "gate.lock.pinned",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *__all__])
