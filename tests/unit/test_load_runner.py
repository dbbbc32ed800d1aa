"""Load as asked for, on a real server whose delays and faults are known."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

import pytest
from scripted import Scripted, refusing_port, serve

from pytest_autotune.errors import LoadTestError
from pytest_autotune.load import early_end, traffic
from pytest_autotune.load.connection import Exchange
from pytest_autotune.load.connections import Connections
from pytest_autotune.load.early_end import EarlyEnd
from pytest_autotune.load.generator import Generator
from pytest_autotune.load.job import Job
from pytest_autotune.load.level_state import LevelState
from pytest_autotune.load.limits import Limit
from pytest_autotune.load.race import LevelRace
from pytest_autotune.load.runner import run_level
from pytest_autotune.load.statistics import GoodputLimits, LevelRun, level_metrics
from pytest_autotune.load.traffic import PreparedRequests, due_times
from pytest_autotune.spec.scenario import Scenario

Start: TypeAlias = Callable[..., Scripted]


@pytest.fixture(scope="module")
def shared() -> Iterator[Scripted]:
    """One server for all tests that need no flags of their own."""
    with serve() as server:
        yield server


@pytest.fixture
def generator() -> Iterator[Generator]:
    found = Generator()
    yield found
    found.close()


def make_job(server: Scripted | str, script: dict[str, Any] | None = None, **keys: Any) -> Job:
    """Return a job of ten small requests, one after the other, unless ``keys`` say otherwise."""
    if not {"max_requests", "max_time"} & set(keys):
        keys["max_requests"] = 10
    if "request_rate" not in keys:
        keys.setdefault("concurrency", 1)
    body = {**keys.pop("extra_body", {}), **({"scripted": script} if script else {})}
    base: dict[str, Any] = {
        "url": server if isinstance(server, str) else server.url,
        "endpoint": "chat",
        "model": "scripted",
        "scenario": "D(8,4)",
        "seed": "0/1",
        "timeout": 20.0,
    }
    return Job(**{**base, **keys, "extra_body": body})


def run(server: Scripted | str, script: dict[str, Any] | None = None, **keys: Any) -> LevelRun:
    return asyncio.run(run_level(make_job(server, script, **keys)))


def metrics_of(level: LevelRun) -> dict[str, float]:
    return level_metrics(level, goodput=GoodputLimits(), gpus=1)


def errors_of(level: LevelRun) -> Counter[str]:
    return Counter(request.error for request in level.requests)


def make_limit(metric: str, statistic: str, most: float) -> Limit:
    return Limit(label=f"{metric} {statistic}", metric=metric, statistic=statistic, most=most)


def nothing() -> None:
    """What is asked for while a job runs."""


# Closed loop


@pytest.mark.parametrize(("concurrency", "requests"), [(1, 10), (3, 10), (8, 40), (8, 5), (16, 1)])
def test_a_closed_loop_keeps_so_many_running_and_no_more(
    server: Scripted, concurrency: int, requests: int
) -> None:
    level = run(server, {"ttft": 0.02}, concurrency=concurrency, max_requests=requests)
    stats = server.stats()
    assert len(level.requests) == stats["requests"] == requests
    assert stats["max_in_flight"] == min(concurrency, requests)
    assert errors_of(level) == {"": requests}
    assert level.ended_early == ""


def test_requests_of_a_closed_loop_follow_one_another(server: Scripted) -> None:
    level = run(server, {"ttft": 0.01}, max_requests=5)
    for before, after in pairwise(level.requests):
        assert after.scheduled >= before.ended


def test_times_of_a_request_are_in_order(server: Scripted) -> None:
    level = run(server, {"ttft": 0.02, "itl": 0.005}, concurrency=4, max_requests=12)
    for request in level.requests:
        assert request.first is not None
        assert request.last is not None
        assert request.scheduled <= request.sent <= request.first < request.last <= request.ended
    assert level.requests == sorted(level.requests, key=lambda request: request.scheduled)


def test_delays_are_those_of_the_server(server: Scripted) -> None:
    metrics = metrics_of(run(server, {"ttft": 0.1, "itl": 0.03}, max_requests=4))
    assert 0.1 <= metrics["p50_ttft"] < 0.2
    assert 0.02 <= metrics["p50_tpot"] < 0.06
    assert 0.02 <= metrics["p50_itl"] < 0.06
    assert 0.19 <= metrics["p50_e2e_latency"] < 0.4


def test_warm_up_is_not_counted(server: Scripted) -> None:
    level = run(server, {"ttft": 0.02}, concurrency=4, max_requests=6, warmup=5)
    assert len(level.requests) == 6
    assert server.stats()["requests"] == 11
    assert server.stats()["max_in_flight"] == 4


def test_warm_up_has_prompts_of_its_own(server: Scripted) -> None:
    job = make_job(server)
    warm, load = (PreparedRequests(job, 8, stream, None) for stream in ("warm-up", "load"))
    assert not {warm.next() for _ in range(8)} & {load.next() for _ in range(8)}


def test_a_failed_warm_up_does_not_hide_what_the_level_gives(server: Scripted) -> None:
    level = run(server, {"status": 500}, max_requests=3, warmup=3)
    assert errors_of(level) == {"HTTP 500": 3}


def test_a_level_ends_after_its_time(server: Scripted) -> None:
    began = time.monotonic()
    level = run(server, {"ttft": 0.02}, concurrency=2, max_time=0.5)
    assert 0.5 <= time.monotonic() - began < 2.5
    assert 4 <= len(level.requests) <= 60
    assert errors_of(level) == {"": len(level.requests)}
    assert server.stats()["requests"] == len(level.requests)


def test_running_requests_are_waited_for(server: Scripted) -> None:
    level = run(server, {"ttft": 0.6}, concurrency=3, max_time=0.05)
    assert errors_of(level) == {"": 3}


@pytest.mark.parametrize(
    ("limits", "most"), [({"max_requests": 5, "max_time": 30}, 5), ({"max_requests": 10**6}, 200)]
)
def test_whichever_limit_comes_first_ends_a_level(
    server: Scripted, limits: dict[str, Any], most: int
) -> None:
    level = run(server, {"ttft": 0.01}, **({"max_time": 0.3} | limits))
    assert 1 <= len(level.requests) <= most


def test_a_server_that_closes_each_connection_is_connected_to_each_time(start: Start) -> None:
    level = run(start("--framing", "close"), concurrency=3, max_requests=30)
    assert errors_of(level) == {"": 30}


def test_the_client_says_how_it_fared(server: Scripted) -> None:
    client = run(server, {"ttft": 0.05}, max_requests=4).client
    assert 0 <= client.cpu < 2
    assert 0 <= client.lag_p99 < 1
    assert 0 <= client.late_p99 < 1


# What is sent


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [("chat", "/v1/chat/completions"), ("completions", "/v1/completions")],
)
def test_a_request_is_what_an_openai_server_takes(
    server: Scripted, endpoint: str, path: str
) -> None:
    level = run(server, endpoint=endpoint, max_requests=1, headers={"Authorization": "Bearer k"})
    assert errors_of(level) == {"": 1}
    last = server.last()
    assert last["request"] == f"POST {path} HTTP/1.1"
    assert last["headers"]["authorization"] == "Bearer k"
    assert last["headers"]["content-type"] == "application/json"
    assert last["headers"]["host"] == server.url.removeprefix("http://")
    body = last["body"]
    assert (body["model"], body["stream"], body["max_tokens"]) == ("scripted", True, 4)
    assert body["stream_options"] == {"include_usage": True}
    assert body["ignore_eos"] is True
    prompt = body["messages"][0]["content"] if endpoint == "chat" else body["prompt"]
    assert len(prompt.split()) == 8


def test_further_keys_of_a_body_win_and_null_takes_one_away(server: Scripted) -> None:
    extra = {"ignore_eos": None, "temperature": 0.0, "max_tokens": 2, "stop": ["é"]}
    level = run(server, max_requests=1, extra_body=extra)
    body = server.last()["body"]
    assert "ignore_eos" not in body
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.0, 2, ["é"])
    assert level.requests[0].output_tokens == 2


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("size", [1, 4])
def test_tokens_are_counted_by_the_server(start: Start, endpoint: str, size: int) -> None:
    server = start("--tokens-per-event", str(size))
    level = run(server, endpoint=endpoint, scenario="D(12,7)", max_requests=3)
    assert [(r.input_tokens, r.output_tokens) for r in level.requests] == [(12, 7)] * 3


def test_without_a_usage_output_tokens_are_events(server: Scripted) -> None:
    level = run(server, scenario="D(12,7)", extra_body={"stream_options": None})
    assert {(r.input_tokens, r.output_tokens) for r in level.requests} == {(0, 7)}


def test_an_answer_that_stops_by_itself_has_as_many_tokens_as_it_has(server: Scripted) -> None:
    level = run(server, {"tokens": 2}, scenario="D(8,50)")
    assert {r.output_tokens for r in level.requests} == {2}
    assert errors_of(level) == {"": 10}


def test_an_early_role_is_no_first_token(start: Start) -> None:
    level = run(start("--early-role"), {"ttft": 0.15}, max_requests=2)
    assert all(r.first is not None and r.first - r.sent >= 0.14 for r in level.requests)


def test_lengths_are_drawn_from_the_scenario(server: Scripted) -> None:
    level = run(server, scenario="U(3,9)/(2,5)", max_requests=40, concurrency=4)
    assert {r.input_tokens for r in level.requests} <= set(range(3, 10))
    assert {r.output_tokens for r in level.requests} <= set(range(2, 6))
    assert len({(r.input_tokens, r.output_tokens) for r in level.requests}) > 5


# The same seed


def sequence(count: int | None, requests: int = 50, **keys: Any) -> list[bytes]:
    job = make_job("http://127.0.0.1:1", **{"scenario": "U(2,20)/(2,9)", **keys})
    prepared = PreparedRequests(job, count, "load", None)
    return [prepared.next() for _ in range(requests)]


def test_a_seed_gives_the_same_requests_however_far_they_are_made_ahead() -> None:
    assert sequence(50) == sequence(None) == sequence(3) == sequence(1)
    assert sequence(3000, 2500) == sequence(10, 2500)


@pytest.mark.parametrize("change", [{"seed": "1/1"}, {"scenario": "U(2,20)/(2,10)"}])
def test_another_seed_or_scenario_gives_others(change: dict[str, Any]) -> None:
    assert not set(sequence(50)) & set(sequence(50, **change))


def test_no_two_requests_are_alike() -> None:
    assert len(set(sequence(None, 2000, scenario="D(16,4)"))) == 2000


def test_an_address_may_have_a_path_and_credentials() -> None:
    data = PreparedRequests(make_job("http://u:pw@host:81/api/"), 1, "load", None).next()
    head = data.split(b"\r\n\r\n")[0]
    assert head.startswith(b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: host:81\r\n")
    assert b"pw" not in head


def test_the_length_of_a_body_is_in_bytes() -> None:
    job = make_job("http://host", extra_body={"stop": ["é\u2028😀"]})
    head, _, body = PreparedRequests(job, 1, "load", None).next().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["stop"] == ["é\u2028😀"]


# Open loop


def test_requests_of_an_open_loop_are_sent_when_they_are_due(server: Scripted) -> None:
    keys: dict[str, Any] = {"request_rate": 100, "max_requests": 60, "seed": "3"}
    level = run(server, {"ttft": 0.05}, **keys)
    due = due_times(make_job(server, **keys))
    assert len(level.requests) == len(due) == 60
    began = level.requests[0].scheduled - due[0]
    assert [r.scheduled - began for r in level.requests] == pytest.approx(due, abs=1e-6)
    late = sorted(r.sent - r.scheduled for r in level.requests)
    assert late[0] >= 0
    assert late[30] < 0.1
    assert errors_of(level) == {"": 60}


def test_an_open_loop_does_not_wait_for_answers(server: Scripted) -> None:
    level = run(server, {"ttft": 0.6}, request_rate=200, max_requests=50)
    assert len(level.requests) == 50
    assert server.stats()["max_in_flight"] == 50


def test_an_open_loop_ends_after_its_time(server: Scripted) -> None:
    level = run(server, request_rate=100, max_time=0.5)
    assert 20 <= len(level.requests) <= 100
    first, last = level.requests[0], level.requests[-1]
    assert last.scheduled - first.scheduled <= 0.5


def test_an_open_loop_has_at_least_one_request(server: Scripted) -> None:
    assert due_times(make_job(server, request_rate=0.001, max_time=1)) == [0.0]
    level = run(server, request_rate=0.001, max_time=0.1)
    assert errors_of(level) == {"": 1}


def test_due_times_depend_on_the_seed_alone(server: Scripted) -> None:
    def due(**keys: Any) -> list[float]:
        return due_times(make_job(server, **keys))

    assert due(request_rate=5, max_requests=30) == due(request_rate=5, max_requests=30)
    assert due(request_rate=5, max_requests=30)[:9] == due(request_rate=5, max_requests=9)
    assert due(request_rate=5, max_requests=9) != due(request_rate=5, max_requests=9, seed="x")
    assert due(concurrency=5) == []


def test_warm_up_of_an_open_loop_is_not_counted(server: Scripted) -> None:
    level = run(server, request_rate=100, max_requests=10, warmup=4)
    assert (len(level.requests), server.stats()["requests"]) == (10, 14)


def test_waiting_in_an_overloaded_server_is_latency(start: Start) -> None:
    # Answers 50 requests/s, is offered 200.
    level = run(start("--capacity", "1", "--ttft", "0.02"), request_rate=200, max_requests=60)
    latencies = [r.ttft for r in level.requests if r.ttft is not None]
    assert errors_of(level) == {"": 60}
    assert mean(latencies[-20:]) > 2 * mean(latencies[:20])
    assert latencies[-1] > 0.5
    # Sent on time all the same: nobody waited for answers.
    assert sorted(r.sent - r.scheduled for r in level.requests)[30] < 0.1


def test_a_late_client_does_not_hide_what_waiting_cost(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Connections.connect

    async def slowly(self: Connections) -> Any:
        await asyncio.sleep(0.3)
        return await connect(self)

    monkeypatch.setattr(Connections, "connect", slowly)
    level = run(server, request_rate=50, max_requests=5)
    assert all(r.ttft is not None and r.ttft >= 0.3 for r in level.requests)
    assert level.client.late_p99 >= 0.3


# Saturation


def soon_saturated(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(early_end, "_SATURATION_SECONDS", seconds)


def test_a_backlog_without_end_ends_an_open_loop_early(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_saturated(monkeypatch, 0.6)
    server = start("--capacity", "1", "--ttft", "0.02")
    level = run(server, request_rate=200, max_time=60)
    assert level.ended_early.startswith("saturated: ")
    assert "requests/s came" in level.ended_early
    assert any(r.cut for r in level.requests)
    assert any(r.ok for r in level.requests)
    assert not any(r.error for r in level.requests)
    assert len(level.requests) < 2000


def test_an_open_loop_that_is_kept_up_with_is_not_ended(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_saturated(monkeypatch, 0.3)
    level = run(server, {"ttft": 0.05}, request_rate=100, max_requests=100)
    assert level.ended_early == ""
    assert errors_of(level) == {"": 100}


def test_long_answers_alone_are_no_saturation(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All requests are served at once; it just takes longer until the first one is over.
    soon_saturated(monkeypatch, 0.4)
    times = [0.8 * (n / 100) ** 0.7 for n in range(100)]
    monkeypatch.setattr(traffic, "arrivals", lambda rate, seed: iter(times))
    level = run(server, {"ttft": 0.01, "itl": 0.3}, request_rate=120, max_requests=100)
    assert level.ended_early == ""
    assert errors_of(level) == {"": 100}


def test_a_closed_loop_is_never_saturated(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    soon_saturated(monkeypatch, 0.1)
    server = start("--capacity", "1", "--ttft", "0.01")
    assert run(server, concurrency=40, max_requests=50).ended_early == ""


# Limits


@pytest.mark.parametrize(
    "limit",
    [
        make_limit("ttft", "p99", 0.02),
        make_limit("ttft", "p75", 0.02),
        make_limit("ttft", "mean", 0.01),
        make_limit("ttft", "max", 0.02),
        make_limit("e2e_latency", "p90", 0.03),
        make_limit("tpot", "p90", 0.001),
        make_limit("tpot", "max", 0.001),
    ],
    ids=lambda limit: limit.label,
)
@pytest.mark.parametrize("load", [{"concurrency": 8}, {"request_rate": 100}], ids=str)
def test_a_level_ends_once_a_limit_is_lost(
    server: Scripted, limit: Limit, load: dict[str, Any]
) -> None:
    script = {"ttft": 0.05, "itl": 0.01}
    level = run(server, script, max_requests=150, limits=[limit], **load)
    assert limit.label in level.ended_early
    assert len(level.requests) < 150
    name = f"{limit.statistic}_{limit.metric}"
    assert metrics_of(level)[name] > limit.most
    assert not any(request.error for request in level.requests)


def test_a_limit_on_a_stalled_server_does_not_wait_for_the_time_out(server: Scripted) -> None:
    limit = make_limit("ttft", "p50", 0.2)
    level = run(server, {"stall_after": 0}, concurrency=4, max_requests=4, limits=[limit])
    assert "ttft p50" in level.ended_early
    assert [r.cut for r in level.requests] == [True] * 4
    assert metrics_of(level)["p50_ttft"] > 0.2
    assert errors_of(level) == {"": 4}


def test_a_limit_on_errors_ends_a_level(server: Scripted) -> None:
    limit = make_limit("error_rate", "", 0.1)
    level = run(server, {"status": 500}, concurrency=4, max_requests=100, limits=[limit])
    assert "error_rate" in level.ended_early
    assert 11 <= len(level.requests) < 100
    assert metrics_of(level)["error_rate"] == 1.0


@pytest.mark.parametrize(
    "limit",
    [
        make_limit("ttft", "p99", 5.0),
        make_limit("e2e_latency", "max", 5.0),
        make_limit("tpot", "mean", 5.0),
        make_limit("error_rate", "", 0.0),
    ],
    ids=lambda limit: limit.label,
)
def test_a_level_that_keeps_its_limits_runs_to_its_end(server: Scripted, limit: Limit) -> None:
    level = run(server, {"ttft": 0.01}, concurrency=2, max_requests=30, limits=[limit])
    assert (level.ended_early, len(level.requests)) == ("", 30)


def test_a_limit_is_not_lost_while_enough_may_still_be_fast(server: Scripted) -> None:
    # Eight of a thousand cannot break a 99th percentile.
    limit = make_limit("ttft", "p99", 0.01)
    level = run(server, {"ttft": 0.25}, concurrency=8, max_requests=1000, limits=[limit])
    assert len(level.requests) > 8


def test_with_a_time_limit_alone_a_level_is_lost_as_well(server: Scripted) -> None:
    limit = make_limit("ttft", "p50", 0.01)
    level = run(server, {"ttft": 0.05}, concurrency=4, max_time=1.5, limits=[limit])
    assert "ttft p50" in level.ended_early
    assert len(level.requests) < 4 * 30


def make_exchange() -> Exchange:
    loop = asyncio.new_event_loop()
    exchange = Exchange(0.0, loop.create_future())
    loop.close()
    exchange.sent = 100.0
    return exchange


def test_a_limit_counts_what_the_metric_counts() -> None:
    # The first token of a request that failed later is in no percentile of TTFT.
    limit = make_limit("ttft", "max", 1.0)
    state = LevelState(make_job("http://127.0.0.1:1", limits=[limit]), ())
    early = EarlyEnd(state)
    exchange = make_exchange()
    exchange.stamps = [105.0]
    exchange.fail("server error")
    request = state.record(exchange)
    assert request is not None
    assert request.error == "server error"
    early.count(request, 1)
    assert early._tallies[0].count == 0


def test_a_request_takes_no_longer_than_to_its_last_word() -> None:
    state = LevelState(make_job("http://127.0.0.1:1"), ())
    exchange = make_exchange()
    exchange.stamps, exchange.finished = [100.5, 100.9], True
    state.running[exchange] = None
    (bound,) = state.so_far("e2e_latency", 102.0)
    assert bound == pytest.approx(0.9)


# What goes wrong


@pytest.mark.parametrize(
    ("script", "error", "detail"),
    [
        ({"status": 503}, "HTTP 503", "scripted status"),
        ({"status": 404}, "HTTP 404", "scripted status"),
        ({"cut_after": 0}, "disconnected", "closed"),
        ({"cut_after": 2}, "disconnected", "closed"),
        ({"error_after": 0}, "server error", "scripted error"),
        ({"error_after": 2}, "server error", "scripted error"),
        ({"stall_after": 0}, "timeout", "no answer in time"),
        ({"stall_after": 2}, "timeout", "no answer in time"),
        ({"tokens": 0}, "empty", "no text"),
    ],
)
@pytest.mark.parametrize("load", [{"concurrency": 3}, {"request_rate": 200}], ids=str)
def test_every_failure_has_a_name_and_what_the_server_said(
    server: Scripted, script: dict[str, Any], error: str, detail: str, load: dict[str, Any]
) -> None:
    level = run(server, script, max_requests=6, timeout=0.3, **load)
    assert errors_of(level) == {error: 6}
    assert all(detail in request.detail for request in level.requests)
    assert level.ended_early == ""
    metrics = metrics_of(level)
    assert metrics["error_rate"] == 1.0
    assert "p50_ttft" not in metrics
    assert level.gaps == []


def test_an_answer_cut_where_its_end_is_the_connections_is_truncated(start: Start) -> None:
    level = run(start("--framing", "close"), {"cut_after": 2}, max_requests=3)
    assert errors_of(level) == {"truncated": 3}


def test_an_answer_that_is_no_stream_is_named(server: Scripted) -> None:
    level = run(server, extra_body={"stream": False, "stream_options": None}, max_requests=2)
    assert errors_of(level) == {"not a stream": 2}


def test_a_key_that_is_missing_is_told_with_the_servers_words(start: Start) -> None:
    level = run(start("--api-key", "right"), max_requests=2)
    assert errors_of(level) == {"HTTP 401": 2}
    assert "API key" in level.requests[0].detail


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("load", [{"concurrency": 2}, {"request_rate": 200}], ids=str)
def test_a_port_that_refuses_is_named(host: str, load: dict[str, Any]) -> None:
    level = run(f"http://{host}:{refusing_port()}", max_requests=4, warmup=2, **load)
    assert errors_of(level) == {"connection refused": 4}


def soon_hopeless(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(early_end, "_HOPELESS_SECONDS", seconds)


@pytest.mark.parametrize("load", [{"concurrency": 8}, {"request_rate": 100}], ids=str)
def test_what_fails_always_is_given_up(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, load: dict[str, Any]
) -> None:
    soon_hopeless(monkeypatch, 0.3)
    level = run(server, {"status": 500}, max_time=30, **load)
    assert "requests in a row failed (HTTP 500: scripted status)" in level.ended_early
    assert 20 <= len(level.requests) < 200
    assert metrics_of(level)["error_rate"] == 1.0


@pytest.mark.parametrize("load", [{"concurrency": 8}, {"request_rate": 100}], ids=str)
def test_a_dead_port_is_given_up(monkeypatch: pytest.MonkeyPatch, load: dict[str, Any]) -> None:
    soon_hopeless(monkeypatch, 0.3)
    level = run(f"http://127.0.0.1:{refusing_port()}", max_time=30, **load)
    assert "connection refused" in level.ended_early
    assert len(level.requests) < 200


def test_a_level_is_given_up_after_a_success_as_well(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_hopeless(monkeypatch, 0.3)
    level = run(start("--die-after-requests", "10"), {"ttft": 0.01}, concurrency=8, max_time=30)
    assert "requests in a row failed" in level.ended_early
    assert errors_of(level)[""] >= 9


def test_few_failures_are_not_given_up(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    soon_hopeless(monkeypatch, 0.1)
    level = run(server, {"status": 500}, concurrency=6, max_requests=19)
    assert (level.ended_early, len(level.requests)) == ("", 19)


def test_what_still_runs_may_succeed_while_others_are_turned_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two of twenty are accepted and answered after a while, the others refused at once.
    soon_hopeless(monkeypatch, 0.2)
    server = start("--reject-above", "2", "--ttft", "0.8")
    level = run(server, concurrency=20, max_time=0.6)
    assert level.ended_early == ""
    assert errors_of(level)[""] >= 2


def test_a_server_that_dies_is_not_asked_a_thousand_times_a_second(start: Start) -> None:
    server = start("--die-after-requests", "5")
    level = run(server, {"ttft": 0.01}, concurrency=4, max_time=1.0)
    assert 1 <= errors_of(level)[""] <= 8
    assert len(level.requests) < 300


def test_requests_that_are_turned_away_are_errors_among_successes(start: Start) -> None:
    server = start("--reject-above", "2", "--ttft", "0.02")
    level = run(server, concurrency=6, max_requests=60)
    errors = errors_of(level)
    assert set(errors) == {"", "HTTP 429"}
    assert sum(errors.values()) == 60
    assert level.ended_early == ""


def test_connections_are_good_again_after_an_error(server: Scripted) -> None:
    job = make_job(server, {"status": 500}, max_requests=3)
    asyncio.run(run_level(job))
    assert errors_of(run(server)) == {"": 10}


def test_a_timed_out_request_is_told_from_one_that_is_slow(server: Scripted) -> None:
    level = run(server, {"ttft": 0.3}, timeout=0.15, max_requests=2)
    assert errors_of(level) == {"timeout": 2}
    assert errors_of(run(server, {"ttft": 0.3}, timeout=5.0, max_requests=2)) == {"": 2}


# A process of its own


def test_a_generator_runs_one_job_after_another(server: Scripted, generator: Generator) -> None:
    for requests in (3, 5):
        level = generator.run(make_job(server, max_requests=requests), nothing)
        assert errors_of(level) == {"": requests}
    assert server.stats()["requests"] == 8


def test_a_generator_gives_what_the_runner_would(server: Scripted, generator: Generator) -> None:
    job = make_job(
        server,
        {"ttft": 0.02, "itl": 0.005},
        concurrency=2,
        limits=[make_limit("ttft", "p99", 9.0)],
        headers={"X-Who": "é"},
    )
    there = generator.run(job, nothing)
    here = asyncio.run(run_level(job))
    for level in (there, here):
        assert errors_of(level) == {"": 10}
        assert {(r.input_tokens, r.output_tokens) for r in level.requests} == {(8, 4)}
        assert len(level.gaps) == 30
        assert level.client.cpu >= 0
    assert metrics_of(there).keys() == metrics_of(here).keys()


def test_a_job_is_the_same_after_a_trip_through_json() -> None:
    job = make_job("http://x", {"a": 1}, limits=(make_limit("ttft", "p99", 1.5),), request_rate=2.5)
    assert Job.of(json.loads(json.dumps(asdict(job)))) == job


def test_results_may_be_longer_than_a_pipe_holds(server: Scripted, generator: Generator) -> None:
    job = make_job(server, scenario="D(8,200)", max_requests=150, concurrency=8)
    level = generator.run(job, nothing)
    assert len(level.requests) == 150
    assert len(level.gaps) == 150 * 199


def test_gaps_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_autotune.load import worker

    monkeypatch.setattr(worker, "_MAX_GAPS", 100)
    level = LevelRun(requests=[], gaps=[n / 1000 for n in range(950)])
    gaps = worker.read(json.loads(json.dumps(worker.document(level)))).gaps
    assert 80 <= len(gaps) <= 100
    assert mean(gaps) == pytest.approx(mean(level.gaps), rel=0.05)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer": "/nowhere/tokenizer.json"}, "tokenizer"),
        ({"scenario": "X(1,2)"}, "is no traffic scenario"),
        ({"url": "http://127.0.0.1:99999"}, "[Pp]ort"),
    ],
)
def test_a_job_that_cannot_be_run_says_why_and_the_next_one_runs(
    server: Scripted, generator: Generator, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoadTestError, match=message):
        generator.run(make_job(**{"server": server, **keys}), nothing)
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def process_of(generator: Generator) -> int:
    assert generator._process is not None
    return generator._process.pid


def ends(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_closing_ends_the_process(server: Scripted, generator: Generator) -> None:
    generator.run(make_job(server), nothing)
    pid = process_of(generator)
    generator.close()
    assert ends(pid)
    generator.close()


def test_a_closed_generator_starts_anew(server: Scripted, generator: Generator) -> None:
    generator.run(make_job(server), nothing)
    generator.close()
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def test_closing_what_never_ran_does_nothing() -> None:
    Generator().close()


def test_what_the_check_raises_ends_the_job_and_all_sending(
    server: Scripted, generator: Generator
) -> None:
    pids = []

    def check() -> None:
        pids.append(process_of(generator))
        raise RuntimeError("the server died")

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the server died"):
        generator.run(make_job(server, {"ttft": 0.05}, max_time=60), check)
    assert time.monotonic() - began < 10
    assert ends(pids[0])
    before = server.stats()["requests"]
    time.sleep(0.2)
    assert server.stats()["requests"] == before
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def test_a_generator_that_is_killed_in_a_job_says_so(
    server: Scripted, generator: Generator
) -> None:
    with pytest.raises(LoadTestError, match="ended with status -9"):
        generator.run(
            make_job(server, {"ttft": 0.05}, max_time=60),
            lambda: os.kill(process_of(generator), 9),
        )
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def test_a_generator_that_died_between_jobs_is_no_riddle(
    server: Scripted, generator: Generator
) -> None:
    generator.run(make_job(server), nothing)
    pid = process_of(generator)
    os.kill(pid, 9)
    assert ends(pid)
    try:
        level = generator.run(make_job(server), nothing)
    except LoadTestError as error:
        assert "-9" in str(error)  # noqa: PT017 - either will do
    else:
        assert errors_of(level) == {"": 10}
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def test_a_worker_whose_caller_is_gone_ends_in_the_middle_of_a_job(server: Scripted) -> None:
    job = make_job(server, {"ttft": 0.05}, max_time=60)
    worker = subprocess.Popen(
        [sys.executable, "-m", "pytest_autotune.load.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        worker.stdin.flush()
        deadline = time.monotonic() + 10
        while server.stats()["requests"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.stdin.close()
        assert worker.wait(5) == 0
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_a_generator_does_not_take_modules_from_the_current_folder(
    server: Scripted, generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the queue of Python')")
    monkeypatch.chdir(tmp_path)
    assert errors_of(generator.run(make_job(server), nothing)) == {"": 10}


def test_scenarios_with_blanks_are_the_same_job() -> None:
    plain, spaced = (
        sequence(9, 9, scenario=Scenario.parse(text).text) for text in ("D(9,3)", " D( 9 , 3 )")
    )
    assert plain == spaced


# A race


def make_race(statistic: str, limit: float, **fields: Any) -> LevelRace:
    return LevelRace(metric="ttft", statistic=statistic, limit=limit, **fields)


@pytest.mark.parametrize("statistic", ["mean", "p50"])
def test_a_level_ends_once_its_trial_cannot_win(
    server: Scripted, generator: Generator, statistic: str
) -> None:
    race = make_race(statistic, 0.003)
    job = make_job(server, {"ttft": 0.01}, concurrency=2, max_requests=400, race=race)
    level = generator.run(job, nothing)
    assert level.lost
    assert level.ended_early == "the trial cannot win"
    assert 30 <= len(level.requests) < 250


def test_a_level_that_may_win_runs_to_its_end(server: Scripted) -> None:
    level = run(server, {"ttft": 0.01}, max_requests=80, race=make_race("p50", 0.05))
    assert not level.lost
    assert (level.ended_early, len(level.requests)) == ("", 80)


def test_a_broken_slo_is_said_before_a_lost_race(server: Scripted) -> None:
    race = make_race("mean", 0.001, certain=0.001)
    limit = make_limit("ttft", "max", 0.001)
    level = run(server, {"ttft": 0.02}, max_requests=100, limits=[limit], race=race)
    assert not level.lost
    assert "is lost whatever follows" in level.ended_early
