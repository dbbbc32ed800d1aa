"""What a test gets as ``load_test``: levels of load on a server, held against the SLO."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Protocol, TypeAlias

from pytest_autotune.bench.measure import Watch, Watched
from pytest_autotune.errors import LoadTestError
from pytest_autotune.load.endpoint import first_model
from pytest_autotune.load.generator import Generator
from pytest_autotune.load.job import Job
from pytest_autotune.load.level_table import LEVEL_HEADER, level_row
from pytest_autotune.load.limits import Limit
from pytest_autotune.load.order import fates, first
from pytest_autotune.load.standing import Standing, bar
from pytest_autotune.load.statistics import (
    PERCENTILES,
    GoodputLimits,
    LevelRun,
    RequestRecord,
    error_classes,
    level_metrics,
    percentile_of,
)
from pytest_autotune.scoring.evaluation import Level, max_compliant
from pytest_autotune.scoring.metrics import aggregate
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO, Bound, Compliance, check
from pytest_autotune.spec.benchmark import (
    MEASURED,
    BenchmarkSpec,
    LevelSearch,
    read_benchmark,
)
from pytest_autotune.spec.scenario import Scenario
from pytest_autotune.spec.server import expand_host_variables
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.tables import table

#: Above this share of a core the client is what was measured; near it a warning is due.
INVALID_CPU: Final = 0.8
WARNING_CPU: Final = 0.6
#: An event loop that is this late at the 99th percentile blurs times of that size (seconds).
WARNING_LAG: Final = 0.020
_MAX_WARMUP: Final = 16
#: How far prompts may be from what was asked for before it is said.
_TOKENS_OFF: Final = 0.1
_MEASURED_AGAIN: Final = "measured again, as the first time was disturbed"
_LATENCIES: Final = ("ttft", "tpot", "e2e_latency")

#: Levels, lightest first unless said otherwise, and the scenario of each.
Declared: TypeAlias = Sequence[tuple[Level, Scenario]]


class Target(Protocol):
    """A server to put under load: :class:`pytest_autotune.serving.server.InferenceServer`."""

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What requests must carry."""

    @property
    def gpus(self) -> int:
        """World size."""

    def check_alive(self) -> None:
        """Raise if it has ended."""


@dataclass(frozen=True)
class Address:
    """A server of which only the address is known."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1

    def check_alive(self) -> None:
        """Do nothing: that cannot be known."""


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One measured level.

    ``metrics`` are flat, times in seconds. ``ended_early`` says why it was cut short;
    ``invalid`` why its numbers are not the server's; ``warnings`` what else to know.
    ``errors`` maps each class of error to its count and an example. ``requests`` are in order
    of their schedule. It is not ``reliable`` where it was disturbed twice; ``lost`` where it was
    cut short because its trial cannot win.
    """

    level: Level
    metrics: Mapping[str, float]
    compliance: Compliance
    ended_early: str = ""
    invalid: str = ""
    warnings: tuple[str, ...] = ()
    errors: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    requests: Sequence[RequestRecord] = field(default=(), repr=False)
    reliable: bool = True
    lost: bool = False

    @property
    def concurrency(self) -> int | None:
        """Requests kept running, None in open loop."""
        return self.level.concurrency

    @property
    def request_rate(self) -> float | None:
        """Requests offered per second, None in closed loop."""
        return self.level.request_rate

    @property
    def met(self) -> bool:
        """Whether it is valid, ran to its end and met every bound of the SLO."""
        return self.compliance.met and not self.invalid and not self.ended_early


class LoadResult(Mapping[str, Any]):
    """All levels of a load test, in the form that ``trial.report`` takes.

    ``levels`` are :class:`LevelResult`, lightest first; ``metrics`` their aggregates under the
    usual names (``mean_ttft``, ``p99_e2e_latency``, ``max_output_throughput``, …, and
    ``…_per_gpu``); ``notes`` sentences on how it was measured.
    """

    def __init__(
        self,
        levels: Sequence[LevelResult],
        notes: Sequence[str] = (),
        extra: Mapping[str, float] | None = None,
    ) -> None:
        self.levels = tuple(levels)
        self.notes = (*notes, *(note for level in levels for note in _notes_of(level)))
        self.metrics: Mapping[str, float] = {
            **aggregate([level.metrics for level in levels]),
            **(extra or {}),
        }
        self._report = {
            **(extra or {}),
            "levels": [
                {**level.level.document(), **level.metrics, "invalid": level.invalid}
                for level in levels
            ],
            "notes": list(self.notes),
        }

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
        rows = [_row(level) for level in self.levels]
        return "\n".join((table((*LEVEL_HEADER, ""), rows), *(f"  {note}" for note in self.notes)))


def _row(result: LevelResult) -> tuple[str, ...]:
    slo = "invalid" if result.invalid else "met" if result.compliance.met else "missed"
    if not result.compliance.feasible and not result.invalid:
        slo = "BROKEN"
    verdict = slo if result.compliance.results else ""
    return (*level_row(result.level.label, result.metrics), verdict)


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


class LoadTest:
    """Puts a server under the load that the spec describes; call it with the server."""

    def __init__(  # noqa: PLR0913 - made by the fixture
        self,
        raw: Mapping[str, Any],
        benchmark: BenchmarkSpec,
        slo: SLO,
        *,
        objective: Objective | None = None,
        records: Callable[[], Sequence[TrialRecord]] = list,
        stream: str = "",
        mask: Callable[[str], str] = str,
        watch: Watch | None = None,
    ) -> None:
        """Prepare a test; ``stream`` tells apart tests that must not send the same prompts.

        ``records`` are the study's trials so far; ``watch`` looks at the devices that the server
        runs on.
        """
        self._raw = raw
        self._benchmark = benchmark
        self._slo = slo
        self._objective = objective
        self._records = records
        self._percentiles = _further_percentiles(slo, objective)
        self._stream = stream
        self._calls = 0
        self._mask = mask
        self._watch = watch
        self._generator = Generator()

    def __call__(self, server: Target | str, *, race: bool = True, **changes: Any) -> LoadResult:
        """Run the levels on ``server``, which may be just an address, and return the result.

        ``changes`` replace keys of the spec's ``benchmark`` block for this call
        (``num_concurrency=[4], max_requests_per_iteration=50``). Under ``slo.levels: all`` it
        stops at the first level that breaks a hard SLO; and a candidate that cannot become better
        than the incumbent any more is not measured to the end: raises :class:`TrialPruned`.
        ``race=False`` keeps it.

        Raises :class:`LoadTestError` where it cannot be run as asked, and what the server
        raises if it dies meanwhile.
        """
        target = (
            Address(server.rstrip("/").removesuffix("/v1")) if isinstance(server, str) else server
        )
        spec = self._changed(changes)
        self._calls += 1
        if spec.task is not None:
            msg = (
                f"{spec.origin.at('benchmark', 'task')}: {spec.task!r} cannot be run; known: "
                "text-to-text (or chat) and completions"
            )
            raise LoadTestError(msg)
        job = self._job(spec, target)
        if isinstance(spec.concurrency, LevelSearch) or isinstance(spec.request_rate, LevelSearch):
            return self._search(spec, job, target)
        return self._all(spec, job, target, race=race)

    def _all(self, spec: BenchmarkSpec, job: Job, target: Target, *, race: bool) -> LoadResult:
        """Measure the declared levels, as long as they can matter."""
        declared = list(_declared(spec))
        order, notes = self._order(declared)
        standing = self._standing(spec, declared, target) if race else None
        levels: list[LevelResult] = []
        for level, scenario in order:
            asked = None if standing is None else standing.race(level, fixed=scenario.fixed)
            result = self._level(spec, replace(job, race=asked), target, level, scenario)
            levels.append(result)
            print(_progress(result))  # noqa: T201 - pytest captures it with the test's output
            if result.invalid or not result.reliable:
                # What it seems to be worth may be due to something else.
                standing = None
            if standing is not None and asked is not None and result.lost:
                raise standing.lose(level, result.metrics, result.requests, asked)
            if self._slo.levels == "all" and not result.compliance.feasible:
                notes += _left_out([level for level, _ in order], len(levels))
                return LoadResult(_lightest_first(levels, declared), notes)
            if standing is not None:
                pruned = standing.add(level, result.metrics, result.requests)
                if pruned is not None:
                    raise pruned
        levels = _lightest_first(levels, declared)
        return LoadResult(levels, [*notes, *_saturation(levels)])

    def _order(self, declared: Declared) -> tuple[Declared, list[str]]:
        """Return the levels in the order to run them in, and what to say of it."""
        if self._slo.levels != "all" or len(declared) == 1:
            return declared, []

        def breaks(metrics: Mapping[str, float | None], level: Level) -> bool:
            found = {name: math.nan if v is None else v for name, v in metrics.items()}
            return not self._check(found, level).feasible

        chosen = first(fates(self._records(), [level for level, _ in declared], breaks))
        if chosen is None or chosen.level.identity == declared[0][0].identity:
            return declared, []
        at = next(i for i, (lv, _) in enumerate(declared) if lv.identity == chosen.level.identity)
        note = (
            f"level {chosen.level.label} ran first: {chosen.failed} of {chosen.measured} earlier "
            f"trials broke a hard bound there, in {quantity('time', chosen.seconds)} each"
        )
        return [declared[at], *declared[:at], *declared[at + 1 :]], [note]

    def _standing(self, spec: BenchmarkSpec, declared: Declared, target: Target) -> Standing | None:
        """Return what tells whether the trial can still win, None where nothing does."""
        if self._objective is None or self._slo.levels != "all" or spec.generator != "builtin":
            return None
        levels = [level for level, _ in declared]
        found = bar(self._records(), self._objective, levels)
        return None if found is None else Standing(found, levels, target.gpus)

    def close(self) -> None:
        """End the load generator."""
        self._generator.close()

    def _changed(self, changes: Mapping[str, Any]) -> BenchmarkSpec:
        if not changes:
            return self._benchmark
        from pytest_autotune.spec.validation import validate

        origin = replace(self._benchmark.origin, file="load_test()", pointer="")
        base = dict(self._raw.get("benchmark", {}))
        for one, other in (
            ("num_concurrency", "request_rate"),
            ("request_rate", "num_concurrency"),
        ):
            if one in changes:
                base.pop(other, None)
        plain = {key: list(v) if isinstance(v, tuple | range) else v for key, v in changes.items()}
        document = {**self._raw, "benchmark": base | plain}
        validate({"benchmark": document["benchmark"]}, origin)
        return read_benchmark(document, origin, self._slo)

    def _job(self, spec: BenchmarkSpec, target: Target) -> Job:
        headers = dict(target.headers)
        if spec.api_key is not None:
            key = expand_host_variables(spec.api_key, spec.origin.at("benchmark", "api_key"))
            headers["Authorization"] = f"Bearer {key}"
        model = spec.model or first_model(target.base_url, headers)
        if model is None:
            model = self._raw.get("model", {}).get("id_or_path") or "default"
        return Job(
            url=target.base_url,
            endpoint=spec.endpoint,
            model=model,
            scenario="",
            # A server's prefix cache may answer what it was asked before.
            seed="/".join(
                part
                for part in (
                    str(spec.seed),
                    self._stream,
                    f"call-{self._calls}" * (self._calls > 1),
                )
                if part
            ),
            max_requests=spec.max_requests,
            max_time=spec.max_time,
            timeout=spec.request_timeout,
            tokenizer=spec.tokenizer,
            headers=headers,
            extra_body=spec.extra_body,
        )

    def _level(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> LevelResult:
        warmup = spec.warmup
        if warmup is None:
            warmup = min(level.concurrency or _MAX_WARMUP, _MAX_WARMUP)
        job = replace(
            job,
            scenario=scenario.text,
            seed=f"{job.seed}/{level.label}",
            concurrency=level.concurrency,
            request_rate=level.request_rate,
            warmup=warmup,
            limits=limits(self._slo, strict=self._strict(spec)),
        )
        result, seen = self._watched(spec, job, target, level, scenario)
        if seen is None or not seen.disturbances:
            return result
        # With other prompts, as the server may remember these; and to its end, as it is reported if
        # it is disturbed again.
        job = replace(job, seed=f"{job.seed}/again", race=None)
        result, seen = self._watched(spec, job, target, level, scenario)
        if seen is None or not seen.disturbances:
            return replace(result, warnings=(*result.warnings, _MEASURED_AGAIN))
        why = f"unreliable, measured twice: {'; '.join(seen.disturbances)}"
        return replace(result, warnings=(*result.warnings, why), reliable=False)

    def _watched(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> tuple[LevelResult, Watched | None]:
        """Measure a level, and look at the devices meanwhile."""
        if self._watch is None:
            return self._measured(spec, job, target, level, scenario), None
        with self._watch() as seen:
            result = self._measured(spec, job, target, level, scenario)
        more = _device_metrics(seen, result.metrics)
        metrics = {**result.metrics, **more}
        result = replace(
            result,
            metrics=metrics,
            compliance=self._check(metrics, level),
            warnings=(*result.warnings, *seen.remarks),
        )
        return result, seen

    def _measured(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> LevelResult:
        """Measure a level once."""
        if spec.generator != "builtin":
            from pytest_autotune.load.adapters import run_installed

            metrics = run_installed(spec.generator, job, scenario, target.check_alive, self._mask)
            metrics |= _per_gpu(metrics, target.gpus)
            return LevelResult(level=level, metrics=metrics, compliance=self._check(metrics, level))
        run = self._generator.run(job, target.check_alive)
        # A server that died while the last requests failed is the reason that they did.
        target.check_alive()
        metrics = level_metrics(
            run,
            goodput=goodput_limits(self._slo),
            gpus=target.gpus,
            percentiles=self._percentiles,
        )
        return LevelResult(
            level=level,
            metrics=metrics,
            compliance=self._check(metrics, level),
            ended_early=self._mask(run.ended_early),
            invalid=_invalid(level, run),
            warnings=tuple(_warnings(run, metrics, scenario)),
            errors={
                error: (count, self._mask(example))
                for error, (count, example) in error_classes(run.requests).items()
            },
            requests=run.requests,
            lost=run.lost,
        )

    def _check(self, metrics: Mapping[str, float], level: Level) -> Compliance:
        """Hold a level against the bounds that a load test can say something of.

        A latency that no request gave counts as missing; the accuracy that a test reports by
        itself does not.
        """
        ours = tuple(
            bound
            for bound in self._slo.bounds
            if any(name in metrics or MEASURED.search(name) for name in bound.metrics)
        )
        return check(replace(self._slo, bounds=ours), metrics, level.label)

    def _strict(self, spec: BenchmarkSpec) -> bool:
        """Tell whether a soft miss loses a level, too: where the highest one is wanted."""
        searched = isinstance(spec.concurrency, LevelSearch) or isinstance(
            spec.request_rate, LevelSearch
        )
        return searched or self._slo.levels == "max"

    # Searching for the highest level

    def _search(self, spec: BenchmarkSpec, job: Job, target: Target) -> LoadResult:
        closed = isinstance(spec.concurrency, LevelSearch)
        wanted = spec.concurrency if closed else spec.request_rate
        assert isinstance(wanted, LevelSearch)
        measured: dict[float, list[LevelResult]] = {}

        def passes(load: float) -> bool:
            results = measured.setdefault(load, [])
            for scenario in spec.scenarios:
                level = _level_of(load, scenario, closed=closed, several=len(spec.scenarios) > 1)
                result = self._level(spec, job, target, level, scenario)
                print(_progress(result))  # noqa: T201 - pytest captures it
                results.append(result)
                if not result.met:
                    return False
            return True

        best = highest(passes, wanted.low, wanted.high, whole=closed)
        tried = ", ".join(f"{load:g}" for load in sorted(measured))
        found = [level for load in sorted(measured) for level in measured[load]]
        passed = [
            level for load in sorted(measured) if best and load <= best for level in measured[load]
        ]
        extra = max_compliant([r.level for r in found], [r.level for r in found if r.met])
        name = "concurrency" if closed else "request rate"
        if best is None:
            notes = [f"even the lowest {name}, {wanted.low:g}, does not meet the SLO"]
            return LoadResult([r for r in found if r.level.load == wanted.low], notes, extra)
        held_back = [r.invalid for r in found if r.invalid and r.level.load > best]
        notes = [*held_back, f"highest {name} that meets the SLO: {best:g} (tried {tried})"]
        if best == wanted.high:
            notes = [f"{name} {best:g} meets the SLO, and higher was not asked for (tried {tried})"]
        return LoadResult([level for level in passed if level.met], notes, extra)


def highest(
    passes: Callable[[float], bool], low: float, high: float, *, whole: bool
) -> float | None:
    """Return the highest load that passes, None if ``low`` does not.

    Doubles until one fails, then halves the interval: to neighbouring whole numbers, or (rates)
    to within 5 %. Assumes, as every such search does, that what passes at a load passes below.
    """
    if not passes(low):
        return None
    good, bad = low, math.inf
    while good < high and bad == math.inf:
        step = min(2 * good, high)
        if passes(step):
            good = step
        else:
            bad = step
    while bad - good > (1 if whole else 0.05 * good) and bad != math.inf:
        middle = math.floor((good + bad) / 2) if whole else float(f"{(good + bad) / 2:.3g}")
        if middle in {good, bad}:
            break
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good


def _level_of(load: float, scenario: Scenario, *, closed: bool, several: bool) -> Level:
    return Level(
        concurrency=int(load) if closed else None,
        request_rate=None if closed else load,
        scenario=scenario.text if several else None,
        metrics={},
    )


def _declared(spec: BenchmarkSpec) -> Iterator[tuple[Level, Scenario]]:
    """Yield the levels to run, lightest first."""
    closed = not spec.request_rate
    loads = spec.concurrency if closed else spec.request_rate
    assert not isinstance(loads, LevelSearch)
    for load in loads:
        for scenario in spec.scenarios:
            several = len(spec.scenarios) > 1
            yield _level_of(load, scenario, closed=closed, several=several), scenario


def _lightest_first(levels: Sequence[LevelResult], declared: Declared) -> list[LevelResult]:
    places = {level.identity: place for place, (level, _) in enumerate(declared)}
    return sorted(levels, key=lambda result: places[result.level.identity])


def _left_out(order: Sequence[Level], measured: int) -> list[str]:
    """Say which levels were not measured, as the last one that was broke a hard bound."""
    left = order[measured:]
    if not left:
        return []
    heavier = all(level.load >= order[measured - 1].load for level in left)
    kind = "heavier" if heavier else "other"
    more = f"1 {kind} level was" if len(left) == 1 else f"{len(left)} {kind} levels were"
    return [f"{more} left out: the trial is infeasible"]


def limits(slo: SLO, *, strict: bool) -> tuple[Limit, ...]:
    """Return the limits whose loss ends a level: those of hard bounds, all if ``strict``."""
    found = []
    for bound in slo.bounds:
        named = _metric_of(bound)
        if named is None or not (bound.upper and (bound.hard or strict)):
            continue
        ratio = 0.0 if strict else bound.fail_ratio
        most = bound.threshold + ratio * abs(bound.threshold)
        metric, statistic = named
        found.append(Limit(label=bound.label, metric=metric, statistic=statistic, most=most))
    return tuple(found)


def goodput_limits(slo: SLO) -> GoodputLimits:
    """Return what a single request must keep: each latency's loosest bound.

    A p50 of 1 s beside a p99 of 5 s allows a request 5 s.
    """
    loosest: dict[str, float] = {}
    for bound in slo.bounds:
        named = _metric_of(bound)
        if named is not None and bound.upper and named[0] in _LATENCIES:
            metric, statistic = named
            if statistic in {"min", "std"}:
                continue  # Of no single request.
            loosest[metric] = max(loosest.get(metric, 0.0), bound.threshold)
    return GoodputLimits(**loosest)


def _metric_of(bound: Bound) -> tuple[str, str] | None:
    """Return metric and statistic of a bound on something that requests are judged by."""
    if bound.metrics[0] == "error_rate":
        return "error_rate", ""
    for name in bound.metrics:
        statistic, _, metric = name.partition("_")
        if metric in _LATENCIES:
            return metric, statistic
    return None


def _further_percentiles(slo: SLO, objective: Objective | None) -> frozenset[str]:
    """Return the percentiles that the spec names and that are not measured anyway."""
    names = [name for bound in slo.bounds for name in bound.metrics]
    names += objective.metrics if objective is not None else ()
    found = {name.partition("_")[0] for name in names}
    usual = {f"p{whole}" for whole in PERCENTILES}
    return frozenset(s for s in found if s not in usual and percentile_of(s) is not None)


def _invalid(level: Level, run: LevelRun) -> str:
    if run.client.cpu <= INVALID_CPU:
        return ""
    return (
        f"level {level.label} is invalid: the load generator used {run.client.cpu:.0%} of its "
        "core, so its numbers are not the server's; use less load"
    )


def _warnings(run: LevelRun, metrics: Mapping[str, float], scenario: Scenario) -> Iterator[str]:
    client = run.client
    if WARNING_CPU < client.cpu <= INVALID_CPU:
        yield f"the load generator used {client.cpu:.0%} of its core: it is close to its own limit"
    if client.lag_p99 > WARNING_LAG:
        lag = quantity("time", client.lag_p99)
        yield f"the load generator was up to {lag} late (p99): the machine is short of CPU"
    wanted, got = scenario.input.mean, metrics.get("mean_input_tokens", 0.0)
    if got and abs(got - wanted) > _TOKENS_OFF * wanted and scenario.input.kind == "fixed":
        yield (
            f"prompts have {got:.4g} tokens by the server's count, not {wanted:g}; "
            "model_tokenizer makes them exact"
        )
    answered = metrics.get("mean_output_tokens", 0.0)
    if answered and answered < (1 - _TOKENS_OFF) * scenario.output.mean:
        yield f"answers have {answered:.4g} tokens, not {scenario.output.mean:g}"


def _device_metrics(seen: Watched, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what was read of the devices, and the energy that tokens and requests took.

    In joules per token that was generated, and per request that was answered: all that the
    devices used from the first warm-up request on, idle or not.
    """
    found = dict(seen.metrics)
    if seen.energy is None:
        return found
    found["gpu_energy_j"] = seen.energy
    requests = metrics.get("num_requests", 0.0) * metrics.get("success_rate", 1.0)
    tokens = requests * metrics.get("mean_output_tokens", 0.0)
    if requests > 0:
        found["energy_per_request"] = seen.energy / requests
    if tokens > 0:
        found["energy_per_token"] = seen.energy / tokens
    return found


def _per_gpu(metrics: Mapping[str, float], gpus: int) -> dict[str, float]:
    return {
        f"{name}_per_gpu": value / gpus
        for name, value in metrics.items()
        if name.endswith("throughput")
    }


def _saturation(levels: Sequence[LevelResult]) -> list[str]:
    """Say from which concurrency on more load brought no more throughput."""
    closed = [level for level in levels if level.concurrency and level.level.scenario is None]
    for lighter, heavier in pairwise(closed):
        before, after = (level.metrics["total_throughput"] for level in (lighter, heavier))
        if before > 0 and after < 1.02 * before:
            text = (
                f"saturated from concurrency {lighter.concurrency}: {number(before)} tokens/s, and "
                f"{number(after)} at {heavier.concurrency}"
            )
            return [text]
    return []


def _progress(result: LevelResult) -> str:
    metrics = result.metrics
    times = ", ".join(
        f"{name} p50 {quantity(name, metrics.get(f'p50_{name}'))} "
        f"p99 {quantity(name, metrics.get(f'p99_{name}'))}"
        for name in _LATENCIES
    )
    return (
        f"level {result.level.label}: {number(metrics['num_requests'])} requests in "
        f"{quantity('time', metrics['duration'])}; {times}; "
        f"{number(metrics['output_throughput'])} tokens/s out"
    )
