"""The frozen, typed form of a validated spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_autotune.scoring.cases import CaseRule
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.space import Space
from pytest_autotune.spec.benchmark import BenchmarkSpec
from pytest_autotune.spec.gate import GateSpec
from pytest_autotune.spec.layout import Layout
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.text.places import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """The search. Times are in seconds; ``n_initial_random`` None leaves it to the strategy.

    ``cases`` says how the objective combines where tests report in several cases, such as shapes.
    """

    strategy: str = "auto"
    objective: str = "minimize_latency"
    cases: CaseRule | None = None
    max_iterations: int = 100
    timeout_per_iteration: float | None = None
    timeout: float | None = None
    patience: int | None = None
    n_initial_random: int | None = None
    warm_start: bool = True
    study_name: str | None = None
    storage: str | None = None
    seed: int = 0
    infeasible: Literal["fail", "xfail"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    """A file of recorded results, relative to the spec's folder, and a selection of its rows.

    ``where`` is an expression over the columns of ``file``; None takes all rows.
    """

    file: str
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRule:
    """A rule of the spec's engine over parameters; ``where`` is the block it concerns."""

    where: str
    require: Expression
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One tuning spec. ``raw`` is the validated document, as plain JSON types.

    Its space does not know this machine's ``cpus`` and ``gpus``, nor the ``rules`` of its engine.
    ``notices`` are shown in the summary: a sentence for everything in the spec that has no
    effect. ``server`` is None where the spec names none, ``replay`` where nothing is recorded.
    ``sources`` are globs from the rootdir, of files besides Python that a measurement's code has.
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
    rules: tuple[EngineRule, ...] = ()
    sources: tuple[str, ...] = ()
    description: str = ""
    notices: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
