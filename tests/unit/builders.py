"""Small pieces that unit tests are built from."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from pytest_autotune.errors import MissingMetricError
from pytest_autotune.scoring.judgement import Judgement, Measurement, Outcome, Question, judge
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import Owner, TrialRecord
from pytest_autotune.scoring.slo import SLO, Bound, BoundResult, Compliance, Severity
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.ranges import Continuous
from pytest_autotune.space.space import Space
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.model import Optimization, Spec
from pytest_autotune.strategies import History, Strategy, StrategyContext, make_strategy
from pytest_autotune.study.machine import on_this_machine
from pytest_autotune.study.opening import read_study
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

STRATEGIES: Final = ("auto", "bayesian", "grid_search", "random")
LATENCY: Final = Objective.parse("minimize_latency")
THROUGHPUT: Final = Objective.parse("maximize_throughput")

#: A ten-parameter space as tiled matrix multiplications have it: of 82 944 combinations
#: about one in four is valid.
GEMM: Final[Mapping[str, Any]] = {
    "parameters": {
        "MWG": [16, 32, 64, 128],
        "NWG": [16, 32, 64, 128],
        "MDIMC": [8, 16, 32],
        "NDIMC": [8, 16, 32],
        "MDIMA": [8, 16, 32],
        "NDIMB": [8, 16, 32],
        "VWM": [1, 2, 4, 8],
        "VWN": [1, 2, 4, 8],
        "SA": [0, 1],
        "SB": [0, 1],
    },
    "constraints": [
        "MWG % (MDIMC * VWM) == 0",
        "NWG % (NDIMC * VWN) == 0",
        "MWG % (MDIMA * VWM) == 0",
        "NWG % (NDIMB * VWN) == 0",
        "(MDIMC * NDIMC) % MDIMA == 0",
        "(MDIMC * NDIMC) % NDIMB == 0",
    ],
}

#: A task file as the vocabulary's first users have them.
TASK_FILE: Final[Mapping[str, Any]] = {
    "task_name": "llama-3-2-1b-docker",
    "description": "Tune tensor parallelism and memory of a small model",
    "deployment_mode": "docker",
    "model": {"id_or_path": "meta-llama/Llama-3.2-1B-Instruct", "namespace": "autotuner"},
    "base_runtime": "sglang",
    "runtime_image_tag": "v0.5.2-cu126",
    "parameters": {
        "tp-size": {"type": "choice", "values": [1, 2]},
        "mem-fraction-static": [0.7, 0.8],
    },
    "parallel_config": {"pp": 1, "dp": [1, 2]},
    "quant_config": ["default", "kv-cache-fp8"],
    "optimization": {
        "strategy": "grid_search",
        "objective": "maximize_throughput",
        "max_iterations": 10,
        "timeout_per_iteration": 600,
        "n_initial_random": 5,
        "study_name": "llama",
        "storage": None,
        "seed": None,
    },
    "benchmark": {
        "task": "text-to-text",
        "model_name": "Llama-3.2-1B-Instruct",
        "model_tokenizer": "meta-llama/Llama-3.2-1B-Instruct",
        "traffic_scenarios": ["D(100,100)"],
        "num_concurrency": [1, 4, 8],
        "max_time_per_iteration": 10,
        "max_requests_per_iteration": 50,
        "additional_params": {"temperature": 0.0, "ignore_eos": True},
    },
    "slo": {
        "latency": {
            "p50": {"threshold": 2.0, "weight": 1.0},
            "p90": {"threshold": 5.0, "weight": 2.0, "hard_fail": True, "fail_ratio": 0.2},
            "p99": {"threshold": 10.0, "hard_fail": True},
        },
        "ttft": {"threshold": 1.0, "weight": 2.0},
        "tpot": {"threshold": 0.05, "hard_fail": False},
        "steepness": 0.1,
    },
}

#: One of everything that a parameter can be, with a constraint and a condition.
MIXED: Final[Mapping[str, Any]] = {
    "parameters": {
        "kernel": {"type": "categorical", "choices": ["a", "b", "c"]},
        "tile": {"type": "integer", "low": 8, "high": 64, "step": 8},
        "unroll": {"type": "integer", "low": 1, "high": 1024, "log": True, "n": 5},
        "ratio": {"type": "continuous", "low": 0.1, "high": 0.9, "n": 4},
        "rate": {"type": "continuous", "low": 1e-4, "high": 1.0, "log": True, "n": 4},
        "share": {"type": "continuous", "low": 0.0, "high": 1.0, "step": 0.25},
        "depth": {"type": "choice", "values": [1, 2], "when": "kernel == 'b'"},
    },
    "constraints": ["tile * share <= 48", "kernel != 'c' or tile >= 32"],
}

Judge: TypeAlias = Callable[[Point], tuple[Outcome, float | None, float]]


def document(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a deep copy of ``base`` with some keys replaced."""
    return copy.deepcopy({**base, **changes})


def make_spec(base: Mapping[str, Any] | None = None, **keys: Any) -> Spec:
    return on_this_machine(load_inline("study", {**(base or {}), **keys}, "inline"))


def make_space(parameters: Mapping[str, Any], *constraints: str) -> Space:
    return make_spec(parameters=parameters, constraints=list(constraints)).space


def integer(low: float, high: float, **keys: Any) -> dict[str, Any]:
    return {"type": "integer", "low": low, "high": high, **keys}


def real(low: float, high: float, **keys: Any) -> dict[str, Any]:
    return {"type": "continuous", "low": low, "high": high, **keys}


def choice(values: Sequence[Any], **keys: Any) -> dict[str, Any]:
    return {"type": "choice", "values": values, **keys}


def make_bound(metric: str, threshold: float, **fields: Any) -> Bound:
    return Bound(label=metric, metrics=(metric,), threshold=threshold, **fields)


def make_slo(*bounds: Bound, **fields: Any) -> SLO:
    return SLO(bounds=bounds, **fields)


def make_level(concurrency: int, **metrics: float) -> Level:
    return Level(concurrency=concurrency, metrics=metrics)


def make_plan(spec: Spec | None = None, nodeid: str = "test_it.py", **settings: Any) -> Plan:
    return Plan.make(
        nodeid, spec or make_spec(parameters={"a": [1, 2, 3, 4]}), Settings(**settings)
    )


def make_record(
    number: int,
    params: Point | None = None,
    outcome: Outcome = Outcome.FEASIBLE,
    score: float | None = 1.0,
    **fields: Any,
) -> TrialRecord:
    owner = Owner(
        process="p",
        session=fields.pop("session", "s"),
        slot=fields.pop("slot", f"trial-{number:03d}"),
        retry_of=fields.pop("retry_of", None),
    )
    record = TrialRecord(
        number=number, params={"a": number} if params is None else params, owner=owner
    )
    return changed(record, outcome=outcome, score=score, **fields)


def changed(record: TrialRecord, **fields: Any) -> TrialRecord:
    """Return ``record`` with other parts of its measurement, its judgement or itself.

    ``violation`` and ``penalty`` become one bound that is missed by so much.
    """
    if {"violation", "penalty"} & set(fields):
        ratio, penalty = fields.pop("violation", 0.0), fields.pop("penalty", 0.0)
        missed = BoundResult(
            bound=make_bound("missed", 1.0, hard=True, fail_ratio=0.0),
            actual=1.0 + ratio,
            ratio=ratio,
            severity=Severity.HARD if ratio else Severity.MINOR,
            penalty=penalty,
        )
        fields.setdefault("bounds", (missed,) if ratio or penalty else ())
    if "bounds" in fields:
        fields["compliance"] = Compliance(results=tuple(fields.pop("bounds")))

    def taken(part: Any) -> Any:
        names = {name for name in fields if name in type(part).__dataclass_fields__}
        return replace(part, **{name: fields.pop(name) for name in names})

    judgement = taken(record.judgement)
    measurement = taken(record.measurement)
    return replace(record, judgement=judgement, measurement=measurement, **fields)


def evaluate(
    metrics: Metrics, levels: Sequence[Level], slo: SLO, objective: Objective
) -> Judgement:
    """Judge a complete trial; raise what its last test would."""
    judgement = judge(
        Measurement(metrics=metrics, levels=tuple(levels)), Question(slo=slo, objective=objective)
    )
    if judgement.outcome is Outcome.FAILED:
        raise MissingMetricError(judgement.reason)
    return judgement


def ended(record: TrialRecord, plan: Plan, **measured: Any) -> TrialRecord:
    """Return a trial of ``plan`` that measured so."""
    measurement = Measurement(**measured)
    return replace(record, measurement=measurement, judgement=judge(measurement, plan.question))


def strategy_for(
    name: str, space: Space, *, limit: int = 20, seed: int = 0, **optimization: Any
) -> Strategy:
    context = StrategyContext(
        space=space, optimization=Optimization(**optimization), limit=limit, seed=seed
    )
    return make_strategy(name, context)


def search(
    strategy: Strategy, trials: int, judge: Judge, *, seed: int = 0
) -> Sequence[TrialRecord]:
    """Run a study of up to ``trials`` trials, one after another."""
    records: list[TrialRecord] = []
    for number in range(trials):
        point = strategy.propose(History(records=records), [seed, number])
        if point is None:
            break
        outcome, score, violation = judge(point)
        records.append(make_record(number, point, outcome, score, violation=violation))
    return records


def feasible(score: Callable[[Point], float]) -> Judge:
    return lambda point: (Outcome.FEASIBLE, score(point), 0.0)


def points_of(space: Space) -> list[Point]:
    pool = space.pool
    assert pool is not None
    return [pool.point(row) for row in range(len(pool))]


def in_space(space: Space, point: Point) -> bool:
    """Tell whether ``point`` is valid and every value is one that its parameter can take."""
    known = {parameter.name: parameter for parameter in space.parameters}
    if not set(point) <= set(known) or not space.is_valid(point):
        return False
    for name, value in point.items():
        parameter = known[name]
        if isinstance(parameter, Continuous) and parameter.size is None:
            if not (isinstance(value, float) and parameter.low <= value <= parameter.high):
                return False
            continue
        try:
            index = parameter.index(value)
        except ValueError:
            return False
        if type(parameter.value(index)) is not type(value) or parameter.value(index) != value:
            return False
    return True


def seen(metric: str, actual: float | None, *, hard: bool = False) -> BoundResult:
    """Return a bound on ``metric`` where ``actual`` was seen."""
    severity = Severity.MET if actual is not None else Severity.MISSING
    return BoundResult(
        bound=make_bound(metric, 1.0, hard=hard),
        actual=actual,
        ratio=0.0 if actual is None else actual - 1.0,
        severity=Severity.HARD if hard else severity,
    )


def penalty_of(compliance: Compliance) -> float:
    return compliance.penalty


def isolate_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep git from this machine's settings, and give it somebody to commit as."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


def read_records(plan: Plan, directory: Path) -> list[TrialRecord]:
    """Return the trials of the study of ``plan`` under ``directory``, none without such a study."""
    return list(read_study(plan, directory).records)
