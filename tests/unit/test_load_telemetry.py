"""A load test that watches the devices its server runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from builders import make_level, make_record, make_spec
from scripted import Scripted, serve

from pytest_autotune.errors import TrialPruned
from pytest_autotune.load.loadtest import LoadTest
from pytest_autotune.load.results import LevelResult, LoadResult
from pytest_autotune.scoring.objective import Objective

LOAD: Mapping[str, Any] = {
    "traffic_scenarios": ["D(8,4)"],
    "num_concurrency": [1],
    "max_requests_per_iteration": 6,
    "warmup_requests": 0,
    # Tokens one by one, as a stream in one piece is no measurement of TTFT.
    "additional_params": {"scripted": {"itl": 0.004}},
}
HOT = "GPU 0 was throttled (thermal (hardware))"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a watch says it has seen."""

    disturbances: tuple[str, ...] = ()
    severe: bool = False
    remarks: tuple[str, ...] = ()
    energy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Unfinished:
    """What was seen while it is not complete, which nobody may ask for."""

    seen: Seen | None = None

    def __getattr__(self, name: str) -> Any:
        assert self.seen is not None, "asked before the end"
        return getattr(self.seen, name)


class Watcher:
    """Sees one thing after another, the last for ever; ``prompts`` was sent in each."""

    def __init__(self, server: Scripted, sights: Sequence[Seen]) -> None:
        self._server = server
        self._sights = list(sights)
        self.requests: list[int] = []
        self.prompts: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        unfinished = Unfinished()
        before = self._server.stats()["requests"]
        yield unfinished
        self.requests.append(self._server.stats()["requests"] - before)
        self.prompts.append(str(self._server.last()["body"]["messages"]))
        unfinished.seen = self._sights.pop(0) if len(self._sights) > 1 else self._sights[0]


Make: TypeAlias = Callable[..., tuple[LoadTest, Watcher]]


@pytest.fixture
def make(server: Scripted) -> Iterator[Make]:
    """Make load tests whose watch sees what is given, and further keys of a spec."""
    with ExitStack() as stack:

        def make_test(
            *sights: Seen, benchmark: Mapping[str, Any] | None = None, **keys: Any
        ) -> tuple[LoadTest, Watcher]:
            spec = make_spec(parameters={"a": [1]}, benchmark={**LOAD, **(benchmark or {})}, **keys)
            watcher = Watcher(server, sights)
            test = LoadTest(spec.raw, spec.benchmark, spec.slo, watch=watcher)
            stack.callback(test.close)
            return test, watcher

        yield make_test


def at_most(metric: str, limit: float, *, hard: bool = True) -> dict[str, Any]:
    return {"metric": metric, "max": limit, "hard_fail": hard}


def about_devices(level: LevelResult) -> list[str]:
    """Return a level's warnings, without what a busy machine adds on the load generator."""
    return [text for text in level.warnings if not text.startswith("the load generator was ")]


def test_what_the_devices_did_is_among_the_metrics(server: Scripted, make: Make) -> None:
    telemetry = {"mean_gpu_power_w": 350.0, "max_gpu_memory_mib": 4096.0}
    test, watcher = make(Seen(energy=120.0, metrics=telemetry))
    result = test(server.url)
    (level,) = result.levels
    assert level.metrics["gpu_energy_j"] == 120.0
    # Six requests with four tokens each.
    assert level.metrics["energy_per_request"] == pytest.approx(20.0)
    assert level.metrics["energy_per_token"] == pytest.approx(5.0)
    assert {name: level.metrics[name] for name in telemetry} == telemetry
    assert result.metrics["energy_per_token"] == pytest.approx(5.0)
    assert level.warnings == ()
    assert watcher.requests == [6]


def test_each_level_is_watched_by_itself(server: Scripted, make: Make) -> None:
    test, watcher = make(
        Seen(energy=24.0), Seen(energy=48.0), benchmark={"num_concurrency": [1, 2]}
    )
    result = test(server.url)
    assert [level.metrics["energy_per_token"] for level in result.levels] == [1.0, 2.0]
    assert watcher.requests == [6, 6]
    assert result.metrics["energy_per_token"] == pytest.approx(1.5)


def test_where_no_device_tells_there_is_no_energy(server: Scripted, make: Make) -> None:
    test, _ = make(Seen(metrics={"min_gpu_clock_mhz": 1980.0}))
    (level,) = test(server.url).levels
    assert not [name for name in level.metrics if "energy" in name]
    assert level.metrics["min_gpu_clock_mhz"] == 1980.0


def test_energy_is_no_rate_where_nothing_was_answered(make: Make) -> None:
    with serve("--reject-above", "0") as refusing:
        test, _ = make(Seen(energy=60.0))
        (level,) = test(refusing.url).levels
    assert level.metrics["error_rate"] == 1.0
    assert level.metrics["gpu_energy_j"] == 60.0
    assert "energy_per_request" not in level.metrics
    assert "energy_per_token" not in level.metrics


def test_a_disturbed_level_is_measured_again_with_other_prompts(
    server: Scripted, make: Make
) -> None:
    first = Seen(disturbances=(HOT,), remarks=("of the first",), energy=999.0)
    test, watcher = make(first, Seen(energy=24.0))
    result = test(server.url)
    (level,) = result.levels
    assert watcher.requests == [6, 6]
    # A server may remember those of the first time.
    assert watcher.prompts[0] != watcher.prompts[1]
    assert level.metrics["energy_per_token"] == 1.0
    assert about_devices(level) == ["measured again, as the first time was disturbed"]
    assert "measured again" in str(result)


def test_a_level_that_is_disturbed_twice_is_unreliable(server: Scripted, make: Make) -> None:
    other = "GPU 0 was used by others, too: pid 7"
    test, watcher = make(Seen(disturbances=(HOT,)), Seen(disturbances=(HOT, other)))
    result = test(server.url)
    (level,) = result.levels
    assert watcher.requests == [6, 6]
    assert about_devices(level) == [f"unreliable, measured twice: {HOT}; {other}"]
    assert level.met
    assert "unreliable, measured twice" in str(result)
    assert any("unreliable" in note for note in result.notes)


def test_only_the_disturbed_level_is_measured_again(server: Scripted, make: Make) -> None:
    test, watcher = make(
        Seen(), Seen(disturbances=(HOT,)), Seen(), benchmark={"num_concurrency": [1, 2, 4]}
    )
    result = test(server.url)
    assert watcher.requests == [6, 6, 6, 6]
    assert [bool(level.warnings) for level in result.levels] == [False, True, False]


def test_the_same_trial_sends_the_same_prompts_again_and_again(
    server: Scripted, make: Make
) -> None:
    sent = []
    for _ in range(2):
        test, watcher = make(Seen(disturbances=(HOT,)), Seen())
        test(server.url)
        sent.append(watcher.prompts)
    assert sent[0] == sent[1]


def test_remarks_become_warnings(server: Scripted, make: Make) -> None:
    remark = "clocks of GPU 0 were limited (power cap)"
    test, watcher = make(Seen(remarks=(remark, "no telemetry: lost")))
    result = test(server.url)
    assert result.levels[0].warnings == (remark, "no telemetry: lost")
    assert watcher.requests == [6]
    assert remark in str(result)


@pytest.mark.parametrize("metric", ["energy_per_token", "mean_gpu_power_w", "gpu_energy_j"])
@pytest.mark.parametrize("met", [True, False])
def test_a_level_is_held_against_bounds_on_what_the_devices_did(
    server: Scripted, make: Make, metric: str, *, met: bool
) -> None:
    seen = Seen(energy=24.0, metrics={"mean_gpu_power_w": 24.0})
    limit = 1.0 if metric == "energy_per_token" else 24.0
    slo = [at_most(metric, limit * (1.1 if met else 0.9))]
    test, _ = make(seen, slo=slo)
    (level,) = test(server.url).levels
    assert level.met == met
    assert level.compliance.feasible == met
    (bound,) = level.compliance.results
    assert bound.actual == pytest.approx(limit)


def test_a_bound_on_energy_that_nobody_measures_is_left_to_the_report(
    server: Scripted, make: Make
) -> None:
    test, _ = make(Seen(), slo=[at_most("energy_per_token", 1.0)])
    (level,) = test(server.url).levels
    assert level.met


def test_the_highest_level_is_found_by_energy_too(server: Scripted, make: Make) -> None:
    # 1, 2 and 4 at once use more and more.
    sights = [Seen(energy=energy) for energy in (24.0, 48.0, 72.0, 96.0)]
    test, watcher = make(
        *sights,
        benchmark={
            "num_concurrency": {"search": "max", "low": 1, "high": 8},
        },
        # Of latency, too, as a search asks for something that is measured on any machine.
        slo=[at_most("energy_per_token", 2.5), at_most("p99_ttft", 60.0)],
    )
    result = test(server.url)
    assert result["max_compliant_concurrency"] < 8
    assert all(level.metrics["energy_per_token"] <= 2.5 for level in result.levels if level.met)
    assert len(watcher.requests) >= 2


def test_a_server_that_dies_while_it_is_watched_is_the_error(server: Scripted, make: Make) -> None:
    test, watcher = make(Seen(energy=1.0))

    class Died(Exception):
        pass

    class Target:
        api_url = f"{server.url}/v1"
        base_url = server.url
        headers: Mapping[str, str] = {}
        gpus = 1

        def check_alive(self) -> None:
            raise Died

    with pytest.raises(Died):
        test(Target())
    assert watcher.requests == []


def test_nobody_watches_where_there_is_nothing_to_see(server: Scripted) -> None:
    spec = make_spec(parameters={"a": [1]}, benchmark=LOAD)
    test = LoadTest(spec.raw, spec.benchmark, spec.slo)
    try:
        (level,) = test(server.url).levels
    finally:
        test.close()
    assert not [name for name in level.metrics if "gpu" in name and not name.endswith("_per_gpu")]
    assert level.warnings == ()


# A race


def raced(server: Scripted, *sights: Seen, requests: int = 60) -> tuple[LoadTest, Watcher]:
    """Return a load test of a server that takes ten times as long as the incumbent."""
    spec = make_spec(
        parameters={"a": [1]}, benchmark={**LOAD, "max_requests_per_iteration": requests}
    )
    level = make_level(1, mean_ttft=0.001)
    best = make_record(0, metric="mean_ttft", value=0.001, score=0.001, levels=(level,))
    watcher = Watcher(server, sights)
    objective = Objective.parse("minimize_ttft")
    test = LoadTest(
        spec.raw, spec.benchmark, spec.slo,
        objective=objective, records=lambda: [best], watch=watcher,
    )  # fmt: skip
    return test, watcher


def test_a_quiet_level_that_cannot_win_prunes_its_trial(server: Scripted) -> None:
    test, watcher = raced(server, Seen())
    with closing(test), pytest.raises(TrialPruned, match="lost the race: mean_ttft") as lost:
        test(server.url)
    assert watcher.requests[0] < 60
    assert lost.value.estimate == pytest.approx(0.011, abs=0.005)


def test_a_level_that_lost_while_disturbed_is_measured_again_to_its_end(server: Scripted) -> None:
    test, watcher = raced(server, Seen(disturbances=(HOT,)), Seen())
    with closing(test):
        (level,) = test(server.url).levels
    assert watcher.requests[0] < 60
    assert watcher.requests[1:] == [60]
    assert level.reliable
    assert not level.lost


def test_a_level_that_was_disturbed_twice_prunes_nothing(server: Scripted) -> None:
    test, _ = raced(server, Seen(disturbances=(HOT,)))
    with closing(test):
        (level,) = test(server.url).levels
    assert not level.reliable
    assert level.metrics["num_requests"] == 60


def test_a_race_can_be_left_out(server: Scripted) -> None:
    test, watcher = raced(server, Seen())
    with closing(test):
        test(server.url, race=False)
    assert watcher.requests == [60]


# The processors


BUSY = "other processes used 1.5 of 2 CPUs"


def watched(
    server: Scripted, *sights: Seen, device: Seen | None = None
) -> tuple[LoadResult, list[dict[str, Any]], list[str]]:
    """Return a result, how the processors were watched, and what was told to have disturbed it."""
    asked: list[dict[str, Any]] = []
    told: list[str] = []
    left = list(sights)

    def processors(**given: Any) -> Any:
        asked.append(given)
        return nullcontext(left.pop(0) if len(left) > 1 else left[0])

    spec = make_spec(parameters={"a": [1]}, benchmark=LOAD)
    test = LoadTest(
        spec.raw, spec.benchmark, spec.slo,
        watch=None if device is None else lambda: nullcontext(device),
        processors=processors,
        disturbed=told.extend,
    )  # fmt: skip
    with closing(test):
        return test(server.url), asked, told


def test_a_level_beside_busy_processes_is_measured_again_and_told(server: Scripted) -> None:
    result, asked, told = watched(server, Seen(disturbances=(BUSY,)))
    (level,) = result.levels
    assert (level.disturbances, level.reliable, told) == ((BUSY,), False, [BUSY])
    assert result["disturbances"] == [BUSY]
    assert f"level 1: unreliable, measured twice: {BUSY}" in result.notes
    assert len(asked) == 2
    # The server of these tests is a child of this process, on this machine.
    assert [given["role"] for given in asked] == ["", ""]
    # But of an address it is not known who does the work.
    assert [given["hands_on"] for given in asked] == [True, True]
    assert asked[0]["served"]() == 0.0


def test_a_level_beside_processes_that_went_away_is_as_good_as_any(server: Scripted) -> None:
    result, _, told = watched(server, Seen(disturbances=(BUSY,)), Seen())
    assert (result.levels[0].reliable, told) == (True, [])
    assert "disturbances" not in result


def test_devices_and_processors_are_watched_together(server: Scripted) -> None:
    device = Seen(disturbances=(HOT,), energy=24.0, metrics={"mean_gpu_power_w": 350.0})
    result, _, told = watched(server, Seen(disturbances=(BUSY,), remarks=("r",)), device=device)
    (level,) = result.levels
    assert told == [HOT, BUSY]
    assert level.metrics["mean_gpu_power_w"] == 350.0
    assert level.metrics["energy_per_token"] == 1.0
    assert "r" in level.warnings
