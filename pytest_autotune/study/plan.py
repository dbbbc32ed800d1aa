"""A study before anything ran: its spec, with the options of this run applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pytest_autotune.scoring.judgement import Question
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies.protocol import StrategyContext
from pytest_autotune.study.code import Code
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.source import MEASURED, Source

#: Strategies that go by no earlier result.
_UNGUIDED: Final = ("grid_search", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study before anything ran: the spec, with the options of this run applied.

    ``label`` names the study for people and across runs (node id and spec name);
    ``budget`` is in finished trials, times are in seconds. ``code`` is the code as a new study
    would begin with it, None where it does not matter. With ``keep`` trials of other code count.
    ``pinned`` are configurations of the lock file, which a new study may try first.
    """

    label: str
    spec: Spec
    objective: Objective
    strategy: str
    budget: int
    seed: int
    timeout: float | None = None
    patience: int | None = None
    xfail: bool = False
    storage: str | None = None
    fresh: bool = False
    source: Source = MEASURED
    keep: bool = False
    code: Code | None = None
    pinned: Sequence[Point] = ()

    @classmethod
    def make(
        cls,
        nodeid: str,
        spec: Spec,
        settings: Settings,
        *,
        source: Source = MEASURED,
        code: Code | None = None,
    ) -> Plan:
        """Return the plan of ``spec`` under ``settings``; the command line wins over the spec."""
        search = spec.optimization
        name = search.study_name or spec.name
        label = nodeid if nodeid.endswith(name) else f"{nodeid} ({name})"
        infeasible = settings.infeasible or search.infeasible or "fail"
        objective = Objective.parse(search.objective)
        question = Question(slo=spec.slo, objective=objective, cases=search.cases)
        return cls(
            label=f"{label}{source.suffix}",
            spec=spec,
            objective=question.target,
            strategy=settings.strategy or search.strategy,
            budget=settings.trials or search.max_iterations,
            seed=search.seed if settings.seed is None else settings.seed,
            timeout=settings.timeout or search.timeout,
            patience=search.patience,
            xfail=infeasible == "xfail",
            storage=settings.storage or search.storage,
            fresh=settings.fresh,
            source=source,
            keep=settings.keep,
            code=code if source.measures else None,
        )

    @property
    def question(self) -> Question:
        """The question that its measurements answer."""
        return Question(
            slo=self.spec.slo,
            objective=self.objective,
            cases=self.spec.optimization.cases,
            others=self.spec.gate.metrics,
        )

    @property
    def aim(self) -> str:
        """The objective in words, with how its cases combine: ``minimize:cost, worst of cases``."""
        rule = self.spec.optimization.cases
        return self.objective.name if rule is None else f"{self.objective.name}, {rule} of cases"

    @property
    def context(self) -> StrategyContext:
        """The strategy's view of the study."""
        return StrategyContext(
            space=self.spec.space,
            optimization=self.spec.optimization,
            limit=self.budget,
            seed=self.seed,
            slo=self.spec.slo,
            objective=self.objective,
        )

    @property
    def begins_warm(self) -> bool:
        """True if a new study first tries configurations that did well elsewhere."""
        wanted = self.spec.optimization.warm_start and self.source.measures
        return wanted and not self.fresh and self.strategy not in _UNGUIDED

    def identity(self) -> Mapping[str, Any]:
        """Return all that a measurement depends on besides its parameters and the code."""
        return self.source.key(self.spec)

    def asked(self) -> Mapping[str, Any]:
        """Return the question as plain types. Another one needs no new measurements."""
        slo = self.spec.slo
        return {
            "space": self.spec.space.document(),
            "objective": self.aim,
            "slo": {**asdict(slo), "bounds": [asdict(bound) for bound in slo.bounds]},
        }

    def key(self) -> Mapping[str, Any]:
        """Return identity and question, for the digests of the lock file."""
        return {**self.asked(), "slo": self.spec.raw.get("slo", {}), **self.identity()}
