"""Build the frozen model of a validated document; check it beyond its schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.scoring.known_metrics import wrong_way
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.space.categorical import Categorical
from pytest_autotune.space.expressions import FUNCTIONS, Expression, identifier
from pytest_autotune.space.parameters import Parameter
from pytest_autotune.space.ranges import Continuous, Integer
from pytest_autotune.space.space import Space
from pytest_autotune.spec.benchmark import read_benchmark
from pytest_autotune.spec.bounds import read_slo
from pytest_autotune.spec.exposure import exposures
from pytest_autotune.spec.gate import read_gate
from pytest_autotune.spec.layout import check_engine, layout
from pytest_autotune.spec.model import EngineRule, Optimization, ReplaySpec, Spec
from pytest_autotune.spec.quantization import declared_quantization, outranked, quant_conflicts
from pytest_autotune.spec.server import read_server
from pytest_autotune.spec.sources import read_sources
from pytest_autotune.text.durations import parse_duration
from pytest_autotune.text.places import Origin, parsed
from pytest_autotune.text.suggest import nearest, shown
from pytest_autotune.text.values import canonical, whole

_KUBERNETES_ONLY: Final = ("storage", "clusterbasemodel_config", "clusterservingruntime_config")
#: Keys of ``benchmark`` that other tools take prompts from.
_DATASET: Final = ("dataset_url", "dataset_deduplicate")
#: Beyond this, neighbouring steps of a range cannot be told apart.
_MAX_STEPS: Final = 1e15
#: Names that an expression may use besides the parameters: how many this machine has of them.
MACHINE: Final = ("cpus", "gpus")
#: Whole numbers of ``optimization``.
_WHOLE: Final = ("max_iterations", "patience", "n_initial_random", "seed")
_LOCAL_MODES: Final = frozenset({"docker", "local", "process", "url"})


def build_spec(name: str, document: Mapping[str, Any], origin: Origin) -> Spec:
    """Build the model of a schema-valid ``document``; raise :class:`SpecError`.

    Nothing is asked of the machine, and no point of the space is looked for.
    """
    notices: list[str] = list(_unsupported(document))
    parameters = tuple(_parameters(document, origin, notices))
    server = read_server(document, origin)
    check_engine(server, document)
    notices += () if server is None else exposures(server)
    engine = None if server is None or server.backend == "url" else server.preset
    if engine is not None and server is not None:
        notices += outranked(engine, document, server.flag_style)
    parallel = layout(server, document)
    slo = read_slo(document, origin)
    impossible = {
        "parallel_config": parallel.constraints(),
        "quant_config": () if engine is None else quant_conflicts(engine, document),
    }
    return Spec(
        name=name,
        origin=origin,
        space=_space(parameters, document, origin),
        slo=slo,
        server=server,
        layout=parallel,
        benchmark=read_benchmark(document, origin, slo),
        optimization=_optimization(document, origin),
        gate=read_gate(document, origin, slo),
        replay=_replay(document.get("replay"), origin),
        sources=read_sources(document.get("sources", ()), origin),
        description=document.get("description", ""),
        rules=tuple(
            EngineRule(where=origin.at(block), require=Expression.parse(source), reason=reason)
            for block, found in impossible.items()
            for source, reason in found
        ),
        notices=tuple(notices),
        raw=document,
    )


def _unsupported(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a notice for every key that has no effect here."""
    mode = document.get("deployment_mode")
    if mode is not None and mode not in _LOCAL_MODES:
        known = ", ".join(sorted(_LOCAL_MODES))
        yield f"deployment_mode: {mode!r} is not supported; known: {known}"
    for key in _KUBERNETES_ONLY:
        if document.get(key):
            yield f"{key}: applies to Kubernetes deployments only and has no effect here"
    for key in _DATASET:
        if key in document.get("benchmark", {}):
            yield f"benchmark.{key}: has no effect here; traffic_scenarios shapes the prompts"
    if "namespace" in document.get("model", {}):
        yield "model.namespace: applies to Kubernetes deployments only and has no effect here"


def _parameters(
    document: Mapping[str, Any], origin: Origin, notices: list[str]
) -> Iterator[Parameter]:
    seen: dict[str, str] = {}
    for path, name, declared in _declarations(document, origin):
        where = origin.at(*path)
        key = identifier(name)
        if key in seen:
            raise SpecError(f"{where}: {name!r} is already a parameter, declared at {seen[key]}")
        seen[key] = where
        parameter = _parameter(name, declared, where)
        if parameter.size == 0:
            notices.append(f"{'.'.join(path)}: has no values, so the parameter is dropped")
            continue
        yield parameter


def _declarations(
    document: Mapping[str, Any], origin: Origin
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    for name, declared in document.get("parameters", {}).items():
        yield ("parameters", name), name, declared
    for name, declared in document.get("parallel_config", {}).items():
        yield ("parallel_config", name), name, list(map(whole, _as_list(declared)))
    block = document.get("quant_config", {})
    if isinstance(block, Mapping) and "preset" in block and "presets" in block:
        raise SpecError(f"{origin.at('quant_config', 'presets')}: give preset or presets, not both")
    for name, (path, values) in declared_quantization(document).items():
        yield path, name, values


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _parameter(name: str, declared: Any, where: str) -> Parameter:
    if isinstance(declared, list | tuple):
        return Categorical(name=name, choices=_distinct(declared))
    when = declared.get("when")
    if when is not None:
        when = parsed(Expression.parse, when, f"{where}/when")
    kind = declared["type"]
    if kind in {"choice", "categorical"}:
        values = declared.get("values", declared.get("choices", ()))
        return Categorical(name=name, choices=_distinct(values), when=when)
    low, high, log = declared["low"], declared["high"], declared.get("log", False)
    if low > high:
        raise SpecError(f"{where}: low {shown(low)} is above high {shown(high)}")
    if log and low <= 0:
        raise SpecError(f"{where}/low: {shown(low)} must be greater than 0 where log is true")
    if "step" in declared and (high - low) / declared["step"] > _MAX_STEPS:
        raise SpecError(
            f"{where}/step: {shown(declared['step'])} makes more than {_MAX_STEPS:.0e} values"
        )
    n = whole(declared["n"]) if "n" in declared else None
    if kind == "integer":
        low, high, step = map(whole, (low, high, declared.get("step", 1)))
        return Integer(name=name, low=low, high=high, log=log, step=step, n=n, when=when)
    low, high, real_step = float(low), float(high), declared.get("step")
    return Continuous(name=name, low=low, high=high, log=log, step=real_step, n=n, when=when)


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple({canonical(value): value for value in values}.values())


def _space(parameters: tuple[Parameter, ...], document: Mapping[str, Any], origin: Origin) -> Space:
    constraints = tuple(
        parsed(Expression.parse, source, origin.at("constraints", index))
        for index, source in enumerate(document.get("constraints", ()))
    )
    known = [*(identifier(parameter.name) for parameter in parameters), *MACHINE]
    for expression, where in _placed(constraints, parameters, origin):
        for name in sorted(expression.names):
            if name not in known:
                raise SpecError(
                    f"{where}: unknown name {name!r} in {expression.source!r}{nearest(name, known)}"
                )
    clash = next((p.name for p in parameters if p.name in {*MACHINE, *FUNCTIONS}), None)
    if clash is not None:
        raise SpecError(
            f"{origin.at('parameters', clash)}: {clash!r} has a meaning in constraints; rename it"
        )
    try:
        return Space(
            parameters=parameters, constraints=constraints, variables=dict.fromkeys(MACHINE)
        )
    except SpecError as error:
        raise SpecError(f"{origin.at('parameters')}: {error}") from None


def place_of(error: ExpressionError, space: Space, origin: Origin) -> str:
    """Return the place of the expression that could not be evaluated."""
    placed = _placed(space.constraints, space.parameters, origin)
    found = (where for expression, where in placed if expression.source == error.source)
    return next(found, origin.at("constraints"))


def _placed(
    constraints: Sequence[Expression], parameters: Sequence[Parameter], origin: Origin
) -> Iterator[tuple[Expression, str]]:
    for at, constraint in enumerate(constraints):
        yield constraint, origin.at("constraints", at)
    for parameter in parameters:
        if parameter.when is not None:
            yield parameter.when, origin.at("parameters", parameter.name, "when")


def _replay(block: Mapping[str, Any] | None, origin: Origin) -> ReplaySpec | None:
    if block is None:
        return None
    replay = ReplaySpec(**block)
    if replay.where is not None:
        parsed(Expression.parse, replay.where, origin.at("replay", "where"))
    return replay


def _optimization(document: Mapping[str, Any], origin: Origin) -> Optimization:
    block: Mapping[str, Any] = document.get("optimization", {})
    if "cases" in document:
        if block.get("cases", document["cases"]) != document["cases"]:
            other = shown(block["cases"])
            raise SpecError(f"{origin.at('cases')}: 'optimization' says {other}; write it once")
        block = {**block, "cases": document["cases"]}
    fields: dict[str, Any] = {
        key: whole(value) if key in _WHOLE and value is not None else value
        for key, value in block.items()
    }
    if fields.get("seed") is None:
        fields.pop("seed", None)
    objective = fields.get("objective", Optimization().objective)
    where = origin.at("optimization", "objective")
    problem = wrong_way(parsed(Objective.parse, objective, where))
    if problem:
        raise SpecError(f"{where}: {problem}")
    if "timeout" in fields:
        where = origin.at("optimization", "timeout")
        fields["timeout"] = parsed(parse_duration, fields["timeout"], where)
    return Optimization(**fields)
