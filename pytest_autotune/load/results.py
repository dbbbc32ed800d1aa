"""Results of a load test: one per level, and all of them as ``trial.report`` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from pytest_autotune.load.level_table import level_table
from pytest_autotune.load.limits import LATENCIES
from pytest_autotune.load.statistics import RequestRecord
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import aggregate
from pytest_autotune.scoring.slo import Compliance
from pytest_autotune.text.numbers import number, quantity

#: More of what a server says about a failure is in the notes.
_MAX_FAILURE: Final = 200
_PARTIAL: Final = "the SLO, or a level's end, kept it from measuring all"


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One measured level.

    ``metrics`` are flat, times in seconds. ``ended_early`` is the reason why it was cut short,
    ``invalid`` the reason why its figures are not the server's. ``errors`` maps each class of
    error to its count and an example. ``requests`` are in order of their schedule.
    ``disturbances`` are reasons not to believe it. It is ``lost`` if it was cut short because its
    trial cannot win.
    """

    level: Level
    metrics: Mapping[str, float]
    compliance: Compliance
    ended_early: str = ""
    invalid: str = ""
    warnings: tuple[str, ...] = ()
    errors: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    requests: Sequence[RequestRecord] = field(default=(), repr=False)
    disturbances: tuple[str, ...] = ()
    lost: bool = False

    @property
    def reliable(self) -> bool:
        """Return whether nothing is known to have disturbed it."""
        return not self.disturbances

    @property
    def concurrency(self) -> int | None:
        """Requests kept running, None in open loop."""
        return self.level.concurrency

    @property
    def request_rate(self) -> float | None:
        """Requests offered per second, None in closed loop."""
        return self.level.request_rate

    @property
    def failure(self) -> str:
        """The most frequent reason why requests failed, in a line; empty if none failed."""
        for error, (_, example) in self.errors.items():
            text = " ".join(f"{error}: {example}".split())
            return text[:_MAX_FAILURE].rstrip(":. ")
        return ""

    @property
    def met(self) -> bool:
        """Return whether it is valid, ran to its end and met every bound of the SLO."""
        return self.compliance.met and not self.invalid and not self.ended_early


class LoadResult(Mapping[str, Any]):
    """All levels of a load test, in the form that ``trial.report`` takes.

    ``levels`` are lightest first. ``metrics`` are their aggregates under the usual names
    (``mean_ttft``, ``p99_e2e_latency``, ``max_output_throughput``, ``…_per_gpu``). ``notes`` are
    sentences on how it was measured, ``disturbances`` reasons not to believe it. ``partial`` is
    whether the SLO kept it from measuring all.
    """

    def __init__(
        self,
        levels: Sequence[LevelResult],
        notes: Sequence[str] = (),
        extra: Mapping[str, float] | None = None,
        *,
        partial: bool = False,
    ) -> None:
        self.levels = tuple(levels)
        self.notes = (*notes, *(note for level in levels for note in _notes_of(level)))
        self.metrics: Mapping[str, float] = {
            **aggregate([level.metrics for level in levels]),
            **(extra or {}),
        }
        self.disturbances = tuple(
            dict.fromkeys(text for level in levels for text in level.disturbances)
        )
        self._report: dict[str, Any] = {
            **(extra or {}),
            "levels": [
                {
                    **level.level.document(),
                    **level.metrics,
                    "invalid": level.invalid,
                    "failure": level.failure,
                }
                for level in levels
            ],
            "notes": list(self.notes),
        }
        if self.disturbances:
            self._report["disturbances"] = list(self.disturbances)
        if partial or any(level.ended_early for level in levels):
            self._report["partial"] = _PARTIAL

    def __getitem__(self, key: str) -> Any:
        """Return a part of the report."""
        return self._report[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the report's keys."""
        return iter(self._report)

    def __len__(self) -> int:
        """Return the number of the report's keys."""
        return len(self._report)

    def __str__(self) -> str:
        """Lay out the levels as a table, notes below."""
        rows = [
            (result.level.label, result.metrics, result.failure, _verdict(result))
            for result in self.levels
        ]
        return "\n".join((level_table(rows), *(f"  {note}" for note in self.notes)))


def _verdict(result: LevelResult) -> str:
    slo = "invalid" if result.invalid else "met" if result.compliance.met else "missed"
    if not result.compliance.feasible and not result.invalid:
        slo = "BROKEN"
    return slo if result.compliance.results else ""


def _notes_of(result: LevelResult) -> Iterator[str]:
    label = f"level {result.level.label}"
    if result.invalid:
        yield result.invalid
    if result.ended_early:
        yield f"{label} ended early: {result.ended_early}"
    for warning in result.warnings:
        yield f"{label}: {warning}"
    for error, (count, example) in result.errors.items():
        yield f"{label}: {count} × {error}" + (f" ({example})" if example else "")


def saturation(levels: Sequence[LevelResult]) -> list[str]:
    """Return a note on the concurrency from which on more load brought no more throughput."""
    closed = [level for level in levels if level.concurrency and level.level.scenario is None]
    for lighter, heavier in pairwise(closed):
        before, after = (level.metrics["total_throughput"] for level in (lighter, heavier))
        if before > 0 and after < 1.02 * before:
            least = f"saturated from concurrency {lighter.concurrency}: {number(before)} tokens/s"
            return [f"{least}, and {number(after)} at {heavier.concurrency}"]
    return []


def progress(result: LevelResult) -> str:
    """Return a line on a level that was just measured."""
    metrics = result.metrics
    times = ", ".join(
        f"{name} p50 {quantity(name, metrics.get(f'p50_{name}'))} "
        f"p99 {quantity(name, metrics.get(f'p99_{name}'))}"
        for name in LATENCIES
    )
    return (
        f"level {result.level.label}: {number(metrics['num_requests'])} requests in "
        f"{quantity('time', metrics['duration'])}; {times}; "
        f"{number(metrics['output_throughput'])} tokens/s out"
    )
