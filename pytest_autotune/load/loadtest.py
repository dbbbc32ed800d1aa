"""The ``load_test`` fixture's callable: it runs levels of load on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any
from urllib.parse import urlsplit

from pytest_autotune.bench.machine import MachineWatch
from pytest_autotune.bench.watched import Watch
from pytest_autotune.errors import LoadTestError
from pytest_autotune.load.job import Job
from pytest_autotune.load.level_meter import LevelMeter
from pytest_autotune.load.levels import (
    Declared,
    declared_levels,
    left_out,
    lightest_first,
    searched,
)
from pytest_autotune.load.order import first
from pytest_autotune.load.results import LevelResult, LoadResult, progress, saturation
from pytest_autotune.load.search import search_levels
from pytest_autotune.load.standing import Standing, bar
from pytest_autotune.load.target import (
    Address,
    Target,
    listed_models,
    renames_model,
    served_name,
)
from pytest_autotune.policy.policies import NO_POLICIES, Policies
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.serving.fetch import NoAnswer
from pytest_autotune.spec.benchmark import BenchmarkSpec, read_benchmark
from pytest_autotune.spec.scenario import Scenario
from pytest_autotune.spec.validation import validate
from pytest_autotune.system.listeners import is_local
from pytest_autotune.system.variables import expand_api_key
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.suggest import did_you_mean


class LoadTest:
    """Puts a server under the load that the spec describes. Call it with the server."""

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
        processors: Callable[..., MachineWatch] | None = None,
        disturbed: Callable[[Iterable[str]], object] = tuple,
        policies: Policies = NO_POLICIES,
    ) -> None:
        """Prepare a test.

        Tests with different values of ``stream`` send different prompts. ``records`` are the
        study's trials so far; ``watch`` observes the devices that the server runs on, and what
        ``processors`` makes the machine's other work. ``disturbed`` is told what disturbed it,
        whatever is done with the result. ``policies`` say where keys may go.
        """
        self._raw = raw
        self._benchmark = benchmark
        self._slo = slo
        self._objective = objective
        self._records = records
        self._stream = stream
        self._calls = 0
        self._disturbed = disturbed
        self._policies = policies
        self._meter = LevelMeter(slo, objective, mask, watch, processors)

    def __call__(self, server: Target | str, *, race: bool = True, **changes: Any) -> LoadResult:
        """Run the levels on ``server``, which may be just an address, and return the result.

        ``changes`` replace keys of the spec's ``benchmark`` block for this call
        (``num_concurrency=[4], max_requests_per_iteration=50``). Under ``slo.levels: all`` the
        first level that breaks a hard SLO is the last. A candidate that can no longer beat the
        incumbent is not measured to the end and raises :class:`TrialPruned`; ``race=False``
        measures it to the end.

        Raises :class:`LoadTestError` where it cannot be run as asked, :class:`.PolicyError` where
        it may not be, and the server's own error if the server dies meanwhile.
        """
        target = (
            Address(server.rstrip("/").removesuffix("/v1")) if isinstance(server, str) else server
        )
        spec = self._changed(changes)
        self._calls += 1
        if spec.task is not None:
            raise LoadTestError(
                f"{spec.origin.at('benchmark', 'task')}: {spec.task!r} cannot be run; known: "
                "text-to-text (or chat) and completions"
            )
        self._policies.check_load(spec, target.base_url)
        job = self._job(spec, target)
        search = searched(spec)
        if search is not None:
            return search_levels(spec, search, partial(self._measure, spec, job, target))
        return self._all(spec, job, target, race=race)

    def _all(self, spec: BenchmarkSpec, job: Job, target: Target, *, race: bool) -> LoadResult:
        """Measure the declared levels, as long as they can still matter."""
        declared = list(declared_levels(spec))
        order, notes = self._order(declared)
        standing = self._standing(spec, declared, target) if race else None
        levels: list[LevelResult] = []
        for level, scenario in order:
            asked = None if standing is None else standing.race(level, fixed=scenario.fixed)
            result = self._measure(spec, replace(job, race=asked), target, level, scenario)
            levels.append(result)
            print(progress(result))  # noqa: T201 - pytest captures it with the test's output
            if result.invalid or not result.reliable:
                # Something else than the parameters may be the reason for its figures.
                standing = None
            if standing is not None and asked is not None and result.lost:
                raise standing.lose(level, result.metrics, result.requests, asked)
            if self._slo.levels == "all" and not result.compliance.feasible:
                left = left_out([level for level, _ in order], len(levels))
                found = lightest_first(levels, declared)
                return LoadResult(found, [*notes, *left], partial=bool(left))
            if standing is not None:
                pruned = standing.add(level, result.metrics, result.requests)
                if pruned is not None:
                    raise pruned
        levels = lightest_first(levels, declared)
        return LoadResult(levels, [*notes, *saturation(levels)])

    def _measure(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> LevelResult:
        result = self._meter.measure(spec, job, target, level, scenario)
        self._disturbed(result.disturbances)
        return result

    def _order(self, declared: Declared) -> tuple[Declared, list[str]]:
        """Return the levels in the order to run them in, and notes on that order."""
        if self._slo.levels != "all" or len(declared) == 1:
            return declared, []

        def breaks(metrics: Metrics, level: Level) -> bool:
            return not self._meter.check(metrics, level).feasible

        chosen = first(self._records(), [level for level, _ in declared], breaks)
        if chosen is None or chosen.level.identity == declared[0][0].identity:
            return declared, []
        at = next(i for i, (lv, _) in enumerate(declared) if lv.identity == chosen.level.identity)
        note = (
            f"level {chosen.level.label} ran first: {chosen.failed} of {chosen.measured} earlier "
            f"trials broke a hard bound there, in {quantity('time', chosen.seconds)} each"
        )
        return [declared[at], *declared[:at], *declared[at + 1 :]], [note]

    def _standing(self, spec: BenchmarkSpec, declared: Declared, target: Target) -> Standing | None:
        """Return the trial's standing in the race, None where there is no race."""
        if self._objective is None or self._slo.levels != "all" or spec.generator != "builtin":
            return None
        levels = [level for level, _ in declared]
        found = bar(self._records(), self._objective, levels)
        return None if found is None else Standing(found, levels, target.gpus)

    def close(self) -> None:
        """End the load generator."""
        self._meter.close()

    def _changed(self, changes: Mapping[str, Any]) -> BenchmarkSpec:
        if not changes:
            return self._benchmark
        origin = replace(self._benchmark.origin, file="load_test()", pointer="", places={})
        base = dict(self._raw.get("benchmark", {}))
        for one, other in permutations(("num_concurrency", "request_rate")):
            if one in changes:
                base.pop(other, None)
        plain = {key: list(v) if isinstance(v, tuple | range) else v for key, v in changes.items()}
        document = {**self._raw, "benchmark": base | plain}
        validate({"benchmark": document["benchmark"]}, origin)
        return read_benchmark(document, origin, self._slo)

    def _model(self, spec: BenchmarkSpec, target: Target, listed: Sequence[str]) -> str:
        """Return the model that requests name; raise :class:`LoadTestError` if it is not there."""
        own = self._raw.get("model", {}).get("id_or_path")
        if not listed:
            return spec.model or own or "default"
        words = (*getattr(target, "command", ()), getattr(target, "image", None) or "")
        renamed = renames_model(words)
        if spec.model is not None and renamed:
            # It may take names that it does not list, or any at all.
            return served_name(spec.model, listed) or spec.model
        if spec.model is not None:
            return _served_model(spec.origin.at("benchmark", "model_name"), spec.model, listed)
        if own is None or renamed:
            return listed[0]
        advice = "; if that is the same model, name it so in 'model_name' of 'benchmark'"
        return _served_model(spec.origin.at("model", "id_or_path"), own, listed, advice)

    def _keep_key_here(self, where: str, url: str) -> None:
        """Raise :class:`LoadTestError` if a key would leave for a host that the spec names not."""
        host = urlsplit(url).hostname
        named = urlsplit(str(self._raw.get("server", {}).get("url", ""))).hostname
        if host != named and not is_local(url):
            raise LoadTestError(
                f"{where}: the key would be sent to {host}, and only this machine and the host of "
                "the spec's server.url get it; give that address as 'url' of 'server'"
            )

    def _job(self, spec: BenchmarkSpec, target: Target) -> Job:
        headers = dict(target.headers)
        if spec.api_key is not None:
            where = spec.origin.at("benchmark", "api_key")
            self._keep_key_here(where, target.base_url)
            key = expand_api_key(spec.api_key, where)
            headers["Authorization"] = f"Bearer {key}"
        try:
            listed = listed_models(target.base_url, headers)
        except NoAnswer as error:
            # Its death is the better reason.
            target.check_alive()
            raise LoadTestError(str(error)) from None
        model = self._model(spec, target, listed)
        call = f"call-{self._calls}" if self._calls > 1 else ""
        return Job(
            url=target.base_url,
            endpoint=spec.endpoint,
            model=model,
            scenario="",
            # A server's prefix cache may answer what it was asked before.
            seed="/".join(filter(None, (str(spec.seed), self._stream, call))),
            max_requests=spec.max_requests,
            max_time=spec.max_time,
            timeout=spec.request_timeout,
            tokenizer=spec.tokenizer,
            headers=headers,
            extra_body=spec.extra_body,
        )


def _served_model(where: str, wanted: str, listed: Sequence[str], advice: str = "") -> str:
    """Return the server's name of the model that the spec names; raise :class:`LoadTestError`."""
    found = served_name(wanted, listed)
    if found is None:
        several = "s" * (len(listed) > 1)
        raise LoadTestError(
            f"{where}: the server does not serve {wanted!r}"
            f"{did_you_mean(wanted, listed)}; it lists the model{several} "
            f"{', '.join(map(repr, listed))} in /v1/models{advice}"
        )
    return found
