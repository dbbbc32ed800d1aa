"""The measurement of one level of load, twice where something disturbed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from pytest_autotune.bench.machine import MachineWatch
from pytest_autotune.bench.watched import Watch, Watched
from pytest_autotune.bench.watches import Watches
from pytest_autotune.load.adapters import run_installed
from pytest_autotune.load.generator import Generator
from pytest_autotune.load.job import Job
from pytest_autotune.load.levels import searched
from pytest_autotune.load.limits import further_percentiles, goodput_limits, limits
from pytest_autotune.load.results import LevelResult
from pytest_autotune.load.statistics import LevelRun, error_classes, level_metrics
from pytest_autotune.load.target import Target, placed
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import ONE_PIECE, ONE_PIECE_CAUSE, in_one_piece, is_streamed
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO, Compliance, check
from pytest_autotune.spec.benchmark import MEASURED, BenchmarkSpec
from pytest_autotune.spec.scenario import Scenario
from pytest_autotune.text.numbers import quantity

#: Above this share of a core the client limits the figures; near it a warning is due.
INVALID_CPU: Final = 0.8
WARNING_CPU: Final = 0.6
#: An event loop that is this late at the 99th percentile blurs times of that size (seconds).
WARNING_LAG: Final = 0.020
_MAX_WARMUP: Final = 16
#: A larger difference between the tokens asked for and those counted is reported.
_TOKENS_OFF: Final = 0.1
_MEASURED_AGAIN: Final = "measured again, as the first time was disturbed"


class LevelMeter:
    """Measures levels of load on a server and holds each against the SLO."""

    def __init__(
        self,
        slo: SLO,
        objective: Objective | None,
        mask: Callable[[str], str],
        watch: Watch | None,
        processors: Callable[..., MachineWatch] | None,
    ) -> None:
        self._slo = slo
        self._percentiles = further_percentiles(slo, objective)
        asked = [] if objective is None else [*objective.metrics]
        asked += (name for bound in slo.bounds for name in bound.metrics)
        self._streamed = any(map(is_streamed, asked))
        self._mask = mask
        self._watch = watch
        self._processors = processors
        self._generator = Generator()

    def close(self) -> None:
        """End the load generator."""
        self._generator.close()

    def measure(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> LevelResult:
        """Measure a level, and once more if something disturbed it."""
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
            # Where the highest level is wanted, a soft miss loses a level, too.
            limits=limits(
                self._slo, strict=searched(spec) is not None or self._slo.levels == "max"
            ),
        )
        result, disturbances = self._watched(spec, job, target, level, scenario)
        if not disturbances:
            return result
        # With other prompts, as the server may remember these. And without the race, to the end:
        # the result is reported even if it is disturbed again.
        job = replace(job, seed=f"{job.seed}/again", race=None)
        result, disturbances = self._watched(spec, job, target, level, scenario)
        if not disturbances:
            return replace(result, warnings=(*result.warnings, _MEASURED_AGAIN))
        why = f"unreliable, measured twice: {'; '.join(disturbances)}"
        return replace(
            result,
            warnings=(*result.warnings, why),
            disturbances=(*disturbances, *result.disturbances),
        )

    def check(self, metrics: Mapping[str, float], level: Level) -> Compliance:
        """Hold a level against the bounds whose metrics a load test can measure.

        A latency that no request gave counts as missing. The accuracy that a test reports by
        itself does not.
        """
        ours = tuple(
            bound
            for bound in self._slo.bounds
            if any(name in metrics or MEASURED.search(name) for name in bound.metrics)
        )
        return check(replace(self._slo, bounds=ours), metrics, level.label)

    def _watched(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> tuple[LevelResult, tuple[str, ...]]:
        """Measure a level, and return what disturbed devices and processors meanwhile."""
        watches = [] if self._watch is None else [self._watch()]
        if self._processors is not None:
            known = placed(target)
            role = "" if known.is_here else ", which sends the load"
            watches.append(
                self._processors(served=known.served_seconds, hands_on=known.hands_on, role=role)
            )
        with Watches(watches) as seen:
            result = self._measured(spec, job, target, level, scenario)
        metrics = {**result.metrics, **_device_metrics(seen, result.metrics)}
        warnings = (*result.warnings, *seen.remarks)
        compliance = self.check(metrics, level)
        result = replace(result, metrics=metrics, compliance=compliance, warnings=warnings)
        return result, seen.disturbances

    def _measured(
        self, spec: BenchmarkSpec, job: Job, target: Target, level: Level, scenario: Scenario
    ) -> LevelResult:
        """Measure a level once."""
        if spec.generator != "builtin":
            metrics = run_installed(spec.generator, job, scenario, target.check_alive, self._mask)
            rates = {name: rate for name, rate in metrics.items() if name.endswith("throughput")}
            metrics |= {f"{name}_per_gpu": rate / target.gpus for name, rate in rates.items()}
            return LevelResult(
                level=level,
                metrics=metrics,
                compliance=self.check(metrics, level),
                warnings=tuple(_whole(metrics)),
                disturbances=self._hidden(metrics),
            )
        run = self._generator.run(job, target.check_alive)
        # If the server died while the last requests failed, its death is the reason to report.
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
            compliance=self.check(metrics, level),
            ended_early=self._mask(run.ended_early),
            invalid=_invalid(level, run),
            warnings=tuple(_warnings(run, metrics, scenario)),
            disturbances=self._hidden(metrics),
            errors={
                error: (count, self._mask(example))
                for error, (count, example) in error_classes(run.requests).items()
            },
            requests=run.requests,
            lost=run.lost,
        )

    def _hidden(self, metrics: Mapping[str, float]) -> tuple[str, ...]:
        """Return why what is asked for does not show, where it takes a stream."""
        return (ONE_PIECE,) if self._streamed and in_one_piece(metrics) else ()


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

    yield from _whole(metrics)


def _whole(metrics: Mapping[str, float]) -> Iterator[str]:
    if in_one_piece(metrics):
        yield (
            f"{ONE_PIECE} ({ONE_PIECE_CAUSE}): TTFT is the time of the whole answer, and TPOT "
            "says nothing"
        )


def _device_metrics(seen: Watched, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the devices' metrics, and the energy per generated token and answered request.

    Energies are in joules: all that the devices used from the first warm-up request on, idle or
    not.
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
