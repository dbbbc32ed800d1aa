"""The frozen, typed form of a validated spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_autotune.space import Space

if TYPE_CHECKING:
    from pytest_autotune.spec.benchmark import BenchmarkSpec
    from pytest_autotune.spec.gate import GateSpec
    from pytest_autotune.spec.replay import ReplaySpec
    from pytest_autotune.spec.server import Layout, ServerSpec

InfeasiblePolicy: TypeAlias = Literal["fail", "xfail"]
LevelPolicy: TypeAlias = Literal["all", "filter", "max"]


def json_pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of ``parts``, empty for none."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a spec was read, for error messages.

    ``file`` is a path as the user would write it, ``pointer`` the JSON pointer of the spec;
    relative paths in the spec start from ``folder``.
    """

    file: str
    pointer: str = ""
    folder: str = "."

    def at(self, *parts: str | int) -> str:
        """Return ``file: /json/pointer`` of a value inside the spec."""
        return f"{self.file}: {self.pointer + json_pointer(*parts) or '/'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One service level objective: a bound on one metric of a trial.

    ``metrics`` are the names to look up, first one present wins (``p99_e2e_latency``).
    ``upper`` tells a maximum from a minimum. ``fail_ratio`` is the largest tolerated
    violation ratio when ``hard`` is set.
    """

    label: str
    metrics: tuple[str, ...]
    threshold: float
    upper: bool = True
    weight: float = 1.0
    hard: bool = False
    fail_ratio: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """All bounds of a spec; ``steepness`` shapes the soft penalty (see :mod:`..slo`)."""

    bounds: tuple[Bound, ...] = ()
    steepness: float = 0.1
    levels: LevelPolicy = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How to search. Times are in seconds; ``n_initial_random`` None leaves it to the strategy."""

    strategy: str = "auto"
    objective: str = "minimize_latency"
    max_iterations: int = 100
    timeout_per_iteration: float | None = None
    timeout: float | None = None
    patience: int | None = None
    n_initial_random: int | None = None
    warm_start: bool = True
    study_name: str | None = None
    storage: str | None = None
    seed: int = 0
    infeasible: InfeasiblePolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One tuning spec. ``raw`` is the validated document, as plain JSON types.

    ``notices`` are things that the spec says and this version does not act on, one sentence
    each; they are shown in the summary. ``server`` is None where the spec names none, ``replay``
    where it has no recorded results.
    """

    name: str
    origin: Origin
    space: Space
    slo: SLO
    optimization: Optimization
    layout: Layout
    benchmark: BenchmarkSpec
    gate: GateSpec
    server: ServerSpec | None = None
    replay: ReplaySpec | None = None
    description: str = ""
    notices: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
