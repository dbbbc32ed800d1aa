"""Servers that answer wrongly, too much, too slowly or not at all: each is named, none holds a run.

Real sockets, and real processes whose memory is read from the kernel. Deadlines are kept within a
second on an idle machine; tests allow more, as theirs is not idle, and far less than before.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG_UP, Hostile, full, hostile, silent
from inner import FEW_PLUGINS

from pytest_autotune.load.connections import Connections
from pytest_autotune.load.generator import Generator
from pytest_autotune.load.job import Job
from pytest_autotune.load.runner import run_level
from pytest_autotune.load.statistics import LevelRun
from pytest_autotune.load.target import listed_models
from pytest_autotune.serving.fetch import NoAnswer, get

MIB = 1 << 20
MAX_MEMORY = 150
#: How late a busy machine may make a deadline of a second or so.
SLACK = 4.0
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"
TEXT = b'data: {"choices": [{"index": 0, "text": " word"}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def counted(body: bytes, status: bytes = OK, more: bytes = b"") -> bytes:
    return status + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def forever(server: Hostile, piece: bytes) -> Iterator[bytes]:
    """Send ``piece`` again and again, as fast as it is taken."""
    many = piece * max(1, MIB // len(piece))
    while not server.over.is_set():
        yield many


def drip(server: Hostile, data: bytes, seconds: float) -> Iterator[bytes]:
    """Send a byte at a time, each before a time-out for single bytes would end it."""
    for byte in data:
        yield bytes([byte])
        server.pause(seconds)


def peak_of(pid: int) -> int:
    """Return the most memory that a process ever had, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise AssertionError("the kernel does not say")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def make_job(url: str, **keys: Any) -> Job:
    base: dict[str, Any] = {
        "url": url,
        "endpoint": "completions",
        "model": "m",
        "scenario": "D(8,4)",
        "seed": "0",
        "concurrency": 2,
        "max_requests": 2,
        "timeout": 1.0,
    }
    return Job(**{**base, **keys})


# A level of load

Answers = Callable[[Hostile], Iterable[bytes]]


def stalls(*pieces: bytes) -> Answers:
    def answers(server: Hostile) -> Iterator[bytes]:
        yield from pieces
        server.stall()

    return answers


def says(*pieces: bytes) -> Answers:
    return lambda _: pieces


def flood(head: bytes, piece: bytes) -> Answers:
    def answers(server: Hostile) -> Iterator[bytes]:
        yield head
        yield from forever(server, piece)

    return answers


def dripping(data: bytes, seconds: float = 0.2) -> Answers:
    return lambda server: drip(server, data, seconds)


GZIP = b"Content-Encoding: gzip\r\n"
ANSWERS: dict[str, tuple[Answers, str, str]] = {
    "500": (
        says(counted(b'{"error": {"message": "out of order"}}', b"HTTP/1.1 500 Oops\r\n")),
        "HTTP 500",
        "out of order",
    ),
    "escapes": (
        says(counted(b"\x1b[2J\x00all passed\r\n", b"HTTP/1.1 500 Oops\r\n")),
        "HTTP 500",
        r"\x1b[2J\x00all passed",
    ),
    "half a stream": (says(STREAM + CHUNKED + chunk(TEXT), HANG_UP), "disconnected", "closed"),
    "half a header": (says(b"HTTP/1.1 200 OK\r\nContent-", HANG_UP), "disconnected", "closed"),
    "nothing": (says(HANG_UP), "disconnected", "closed"),
    "invalid JSON": (
        says(STREAM + CHUNKED + chunk(b"data: {'a': 1}\n\n")),
        "bad response",
        "an event that is no JSON object: {'a': 1}",
    ),
    "a list": (
        says(STREAM + CHUNKED + chunk(event([1, 2]))),
        "bad response",
        "an event that is no JSON object: [1, 2]",
    ),
    "choices of numbers": (
        says(STREAM + CHUNKED + chunk(event({"choices": [3]}))),
        "bad response",
        "not of the API's form",
    ),
    "text that is a number": (
        says(STREAM + CHUNKED + chunk(event({"choices": [{"text": 5}]}))),
        "bad response",
        "text of type int",
    ),
    "content that is an object": (
        says(STREAM + CHUNKED + chunk(event({"choices": [{"delta": {"content": {"a": 1}}}]}))),
        "bad response",
        "text of type dict",
    ),
    "gzip": (
        says(counted(b"\x1f\x8b\x08", STREAM, GZIP)),
        "bad response",
        "compressed (gzip), which was not asked for",
    ),
    "an error in gzip": (
        says(counted(b"\x1f\x8b\x08", b"HTTP/1.1 502 Bad\r\n", GZIP)),
        "HTTP 502",
        "compressed body (gzip)",
    ),
    "a redirect": (
        says(counted(b"moved", b"HTTP/1.1 307 Moved\r\n", b"Location: http://elsewhere/v1\r\n")),
        "HTTP 307",
        "a redirect to http://elsewhere/v1, which is not followed; give the server's final address",
    ),
    "no content": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), "HTTP 204", ""),
    "a stall before the header": (stalls(), "timeout", "nothing came within 1.0 s"),
    "a stall in the header": (
        stalls(b"HTTP/1.1 200 OK\r\nContent-"),
        "timeout",
        "no whole header came within 1.0 s",
    ),
    "a stall before the text": (stalls(STREAM + CHUNKED), "timeout", "no text came within 1.0 s"),
    "a stall in the text": (
        stalls(STREAM + CHUNKED + chunk(TEXT) * 3),
        "timeout",
        "3 pieces of text came, and no end, within 1.0 s",
    ),
    "slowloris": (
        dripping(OK + b"X: y\r\n" * 1000),
        "timeout",
        "no whole header came within 1.0 s",
    ),
    "a slow stream": (
        dripping(STREAM + CHUNKED + chunk(TEXT) * 1000, 0.01),
        "timeout",
        "no answer in time",
    ),
    "an endless header": (flood(OK, b"X: y\r\n"), "bad response", "the header of the answer"),
    "endless interim answers": (
        flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "timeout",
        "no whole header came",
    ),
    "an endless line": (
        flood(STREAM + END[2:], b"x"),
        "bad response",
        "an event of more than 1024 KiB",
    ),
    "an endless event": (
        flood(STREAM + END[2:], b"data: x\r\n"),
        "bad response",
        "an event of more than 1024 KiB",
    ),
    "an endless event in chunks of a byte": (
        flood(STREAM + CHUNKED, b"1\r\nx\r\n"),
        "bad response",
        "an event of more than 1024 KiB",
    ),
    "an endless event of lines in chunks of a byte": (
        flood(STREAM + CHUNKED, b"1\r\nx\r\n1\r\n\n\r\n"),
        "bad response",
        "an event of more than 1024 KiB",
    ),
    "an endless size of a chunk": (
        flood(STREAM + CHUNKED, b"0"),
        "bad response",
        "a line of more than 4096 bytes",
    ),
    "an endless trailer": (
        flood(STREAM + CHUNKED + chunk(TEXT + LAST) + b"0\r\n", b"X"),
        "bad response",
        "a line of more than 4096 bytes",
    ),
    "an endless body": (flood(OK + END[2:], b"<p>"), "not a stream", "<p><p>"),
    "an endless error": (flood(b"HTTP/1.1 500 X" + END, b"busy "), "HTTP 500", "busy busy"),
    "a length of petabytes": (
        flood(OK + b"Content-Length: 9999999999999999\r\n\r\n", b"y"),
        "not a stream",
        "yyy",
    ),
}


@contextmanager
def answering(answers: Answers) -> Iterator[Hostile]:
    def script(server: Hostile, _: str) -> Iterable[bytes]:
        return answers(server)

    with hostile(script) as server:
        yield server


Measured = Callable[..., tuple[LevelRun, int]]


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """Run a level in the load generator's process, one for all; give its most memory, too."""
    generator = Generator()

    def measured_(url: str, **keys: Any) -> tuple[LevelRun, int]:
        process = generator._started()
        # What earlier levels took does not count.
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        run = generator.run(make_job(url, **keys), lambda: None)
        return run, peak_of(process.pid)

    yield measured_
    generator.close()


@pytest.mark.parametrize(
    "name",
    # Those take seconds of computing to read, and say no more than others of their kind.
    [pytest.param(n, marks=pytest.mark.slow) if "of a byte" in n else n for n in ANSWERS],
)
def test_every_wrong_answer_has_a_name_in_time_and_in_little_memory(
    measured: Measured, name: str
) -> None:
    answers, error, detail = ANSWERS[name]
    # The deadline is not what ends these, and a busy machine takes its time.
    timeout = 120.0 if "of a byte" in name else 1.0
    with answering(answers) as server:
        run, memory = measured(server.url, timeout=timeout)
    assert [request.error for request in run.requests] == [error] * 2
    for request in run.requests:
        assert detail in request.detail
        assert request.detail.isprintable()
        assert request.ended - request.scheduled < timeout + SLACK
    assert memory < MAX_MEMORY


def test_a_stream_of_single_bytes_is_as_good_as_any(measured: Measured) -> None:
    body = STREAM + CHUNKED + b"".join(chunk(bytes([b])) for b in TEXT * 2 + LAST) + b"0\r\n\r\n"
    with answering(lambda _: (bytes([b]) for b in body)) as server:
        run, _ = measured(server.url, timeout=30.0)
    assert [(r.error, r.output_tokens) for r in run.requests] == [("", 2)] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in ANSWERS if "endless" in name or "length" in name]
)
def test_many_clients_of_a_wrong_server_need_little_memory(measured: Measured, name: str) -> None:
    answers, error, _ = ANSWERS[name]
    with answering(answers) as server, within(120):
        run, memory = measured(server.url, concurrency=16, max_requests=64, timeout=10.0)
    errors = {request.error for request in run.requests}
    # So many chunks may take longer to read than there is time.
    assert errors == {error} or ("of a byte" in name and errors <= {error, "timeout"})
    assert memory < MAX_MEMORY


@pytest.mark.slow
def test_a_line_of_200_megabytes_costs_no_more_than_its_start(measured: Measured) -> None:
    line = b"data: " + b"x" * (200 * MIB)
    with answering(says(STREAM + END[2:] + line)) as server:
        run, memory = measured(server.url)
    assert {request.error for request in run.requests} == {"bad response"}
    assert memory < MAX_MEMORY


@pytest.mark.slow
def test_text_without_end_is_ended_by_its_number_of_pieces(measured: Measured) -> None:
    with answering(flood(STREAM + END[2:], TEXT)) as server:
        run, memory = measured(server.url, timeout=120.0)
    assert {request.detail for request in run.requests} == {
        "a stream of more than 262144 pieces of text"
    }
    assert memory < MAX_MEMORY


def test_a_count_of_tokens_beyond_reason_is_none(measured: Measured) -> None:
    usage = {"prompt_tokens": int("9" * 400), "completion_tokens": int("9" * 400)}
    body = STREAM + CHUNKED + chunk(TEXT + event({"usage": usage}) + LAST) + b"0\r\n\r\n"
    with answering(says(body)) as server:
        run, _ = measured(server.url)
    assert [(r.error, r.input_tokens, r.output_tokens) for r in run.requests] == [("", 0, 1)] * 2


# Connections that never come about


def unreachable(kind: str, stack: ExitStack) -> str:
    if kind == "a TLS port that says nothing":
        return f"https://{stack.enter_context(silent())}"
    return f"http://{stack.enter_context(full())}"


NO_CONNECTION = pytest.mark.parametrize(
    "kind", ["a TLS port that says nothing", "a port whose backlog is full"]
)


@NO_CONNECTION
@pytest.mark.parametrize(
    "load",
    [
        {"concurrency": 2},
        pytest.param({"concurrency": None, "request_rate": 20}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("warmup", [0, 2])
def test_a_level_ends_in_time_where_no_connection_comes_about(
    kind: str, load: dict[str, Any], warmup: int
) -> None:
    limits: dict[str, Any] = {"max_requests": None, "max_time": 1.0, "timeout": 600.0}
    with ExitStack() as stack:
        job = make_job(unreachable(kind, stack), warmup=warmup, **limits, **load)
        # A second for connections beforehand, one for the level, one for the last of its requests.
        with within(3.0 + SLACK):
            run = asyncio.run(run_level(job))
    assert {request.error for request in run.requests} == {"timeout"}
    assert all("no connection was made within 1.0 s" in r.detail for r in run.requests[:1])


@pytest.mark.slow
@NO_CONNECTION
def test_a_level_without_a_time_limit_is_given_up_where_no_connection_comes_about(
    kind: str,
) -> None:
    with ExitStack() as stack, within(30 + SLACK):
        job = make_job(unreachable(kind, stack), max_requests=1000, timeout=600.0)
        run = asyncio.run(run_level(job))
    assert "no connection was made within 10.0 s" in run.ended_early


def test_connecting_and_answering_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Connections.connect

    async def slowly(self: Connections) -> Any:
        await asyncio.sleep(3.0)
        return await connect(self)

    monkeypatch.setattr(Connections, "connect", slowly)
    # Nothing is connected beforehand, as that takes too long; then connecting takes nearly all.
    with answering(stalls()) as server:
        run = asyncio.run(run_level(make_job(server.url, timeout=4.0)))
    for request in run.requests:
        assert request.detail == "no answer in time: nothing came within 4.0 s"
        assert request.ended - request.sent < 3.5


# What the process of the tests itself reads


GETS: dict[str, tuple[Answers, str]] = {
    "an endless body": (flood(OK + END[2:], b"x"), "sent more than 64 KiB"),
    "an endless header": (flood(OK, b"X: y\r\n"), ""),
    "an endless line": (flood(OK, b"x"), ""),
    "endless interim answers": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "more than 64 KiB"),
    "an endless trailer": (flood(OK + CHUNKED + b"0\r\n", b"X: y\r\n"), "sent more than 64 KiB"),
    "a length of petabytes": (
        flood(OK + b"Content-Length: 9999999999999999\r\n\r\n", b"y"),
        "sent more than 64 KiB",
    ),
    "half an answer": (
        says(OK + b"Content-Length: 100\r\n\r\n{", HANG_UP),
        "broke its answer off, 99 bytes before its end",
    ),
    "half a chunk": (says(OK + CHUNKED + b"ff\r\nx", HANG_UP), "broke its answer off"),
    "no size of a chunk": (says(OK + CHUNKED + b"zz\r\nx\r\n"), "broke its answer off"),
    "no HTTP": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "BadStatusLine"),
    "escapes": (says(b"\x1b[2J all passed\r\n\r\n"), r"\x1b[2J all passed"),
    "a stall before the header": (stalls(), "gave no answer within 0.5 s"),
    "a stall in the header": (stalls(OK), "sent 17 bytes of an answer, and no end of it,"),
    "a stall in the body": (stalls(OK + CHUNKED + b"1\r\nx"), "and no end of it, within 0.5 s"),
    "slowloris": (dripping(OK + b"X: y\r\n" * 1000, 0.1), "and no end of it, within 0.5 s"),
    "a slow body": (dripping(OK + END[2:] + b"x" * 9999, 0.01), "and no end of it, within"),
}


@pytest.mark.parametrize("name", GETS)
def test_a_wrong_answer_to_a_single_question_is_named_in_time(name: str) -> None:
    answers, said = GETS[name]
    with answering(answers) as server, within(0.5 + SLACK), pytest.raises(NoAnswer) as failed:
        get(f"{server.url}/health", {}, seconds=0.5, limit=65536)
    assert said in str(failed.value)
    assert str(failed.value).isprintable()
    assert not failed.value.refused


@NO_CONNECTION
def test_a_single_question_ends_in_time_where_no_connection_comes_about(kind: str) -> None:
    with ExitStack() as stack:
        url = unreachable(kind, stack)
        with within(0.5 + SLACK), pytest.raises(NoAnswer, match=r"^took (no|a) connection"):
            get(f"{url}/health", {}, seconds=0.5, limit=65536)


def test_a_key_that_is_no_header_is_an_error_like_any_other() -> None:
    with answering(stalls()) as server, pytest.raises(NoAnswer, match="Invalid header value"):
        get(server.url, {"Authorization": "Bearer a\r\nX: y"}, seconds=5, limit=65536)


@pytest.mark.parametrize("url", ["http://h:99999", "http://[::1", "http://127.0.0.1:x"])
def test_an_address_that_is_none_is_an_error_like_any_other(url: str) -> None:
    with pytest.raises(NoAnswer, match="ValueError"):
        get(url, {}, seconds=5, limit=65536)


MODELS = json.dumps({"data": [{"id": "m"}]}).encode()


def test_no_key_follows_a_redirect(measured: Measured) -> None:
    key = {"Authorization": "Bearer s3cr3t"}
    with answering(says(counted(MODELS))) as other, ExitStack() as stack:
        for host in ("127.0.0.1", "localhost"):
            where = f"Location: http://{host}:{other.port}/v1/models\r\n".encode()
            moved = says(counted(b"", b"HTTP/1.1 302 Found\r\n", where))
            first = stack.enter_context(answering(moved))
            assert listed_models(first.url, key) == ()
            answer = get(f"{first.url}/health", key, seconds=5, limit=65536)
            assert not answer.ok
            assert f"a redirect to http://{host}:{other.port}/v1/models, which is" in str(answer)
            run, _ = measured(first.url, headers=key)
            assert {request.error for request in run.requests} == {"HTTP 302"}
            assert all("s3cr3t" in request for request in first.requests)
        assert other.requests == []


def test_a_redirect_to_the_same_server_is_not_followed_either() -> None:
    moved = says(counted(b"", b"HTTP/1.1 308 Found\r\n", b"Location: /v1/models/\r\n"))
    with answering(moved) as server:
        assert listed_models(server.url, {}) == ()
        assert len(server.requests) == 1


def test_no_proxy_of_the_environment_sees_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(says(counted(MODELS))) as proxy, answering(says(counted(MODELS))) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert listed_models(server.url, {"Authorization": "Bearer s3cr3t"}) == ("m",)
        # A process of its own, as the environment is that of its start.
        with closing(Generator()) as generator:
            run = generator.run(make_job(server.url), lambda: None)
        assert {request.error for request in run.requests} == {"not a stream"}
        assert proxy.requests == []
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b"<html>",
        b"[1]",
        b'{"data": 3}',
        b'{"data": [3]}',
        b'{"data": [{"id": 3}, {"id": {"a": 1}}, {"id": ""}]}',
        b"\x1f\x8b\x08",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_list_of_models_that_is_none_is_empty(body: bytes) -> None:
    with answering(says(counted(body))) as server:
        assert listed_models(server.url, {}) == ()


# Whole runs


SPEC: dict[str, Any] = {
    "parameters": {"a": [1]},
    "optimization": {"objective": "minimize_ttft", "strategy": "grid_search"},
    "benchmark": {
        "traffic_scenarios": ["D(8,4)"],
        "num_concurrency": [2],
        "max_requests_per_iteration": 2,
        "warmup_requests": 1,
        "request_timeout": 1,
    },
}
MODULE = """
    import pytest

    pytestmark = pytest.mark.autotune("served")


    def test_holds(trial, inference_server, load_test):
        trial.params
        trial.report(load_test(inference_server, race=False))
"""


def run_study(folder: Path, url: str) -> tuple[str, int]:
    """Run a study of a server at ``url``; return what it said and the most memory it had."""
    server = {"url": url, "startup_timeout": 1, "api_key": "s3cr3t-key"}
    spec = {**SPEC, "server": server}
    (folder / "autotune.json").write_text(json.dumps({"served": spec}))
    (folder / "test_served.py").write_text(textwrap.dedent(MODULE))
    program = """
        import re, sys, pytest
        status = pytest.main(sys.argv[1:])
        print("peak of", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
        sys.exit(status)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), "--autotune"],
        cwd=folder,
        env={**os.environ, **FEW_PLUGINS},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout
    return done.stdout, int(done.stdout.rpartition("peak of ")[2]) >> 10


def routes(**answers: Answers) -> Callable[[Hostile, str], Iterable[bytes]]:
    """Return a script of a server that is well but for ``answers``, by the path's last word."""
    fine = {"health": says(counted(b"{}")), "models": says(counted(MODELS))}

    def script(server: Hostile, path: str) -> Iterable[bytes]:
        return {**fine, **answers}[path.rpartition("/")[2]](server)

    return script


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"health": flood(OK + END[2:], b"x")}, "/health sent more than 1024 KiB after 1.0 s"),
        pytest.param(
            {"health": dripping(OK + b"X: y\r\n" * 999, 0.1)},
            "bytes of an answer, and no end of it, within 1.0 s after 1.0 s (startup_timeout)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"health": says(OK + b"Content-Length: 9\r\n\r\n{", HANG_UP)},
            "/health broke its answer off, 8 bytes before its end after 1.0 s",
            marks=pytest.mark.slow,
        ),
        (
            {"health": says(counted(b"", b"HTTP/1.1 302 X\r\n", b"Location: http://else/\r\n"))},
            "/health answered 302 X, a redirect to http://else/, which is not followed",
        ),
        pytest.param(
            {"models": flood(OK + END[2:], b"x")},
            "/v1/models: the server sent more than 2048 KiB",
            marks=pytest.mark.slow,
        ),
        (
            {"models": says(OK + b"Content-Length: 9\r\n\r\n{", HANG_UP)},
            "/v1/models: the server broke its answer off",
        ),
        (
            {"completions": stalls(STREAM)},
            "2 of 2 requests failed: timeout: no answer in time: no whole header came within 1.0 s",
        ),
        pytest.param(
            {"completions": flood(STREAM + END[2:], b"x")},
            "2 of 2 requests failed: bad response: an event of more than 1024 KiB",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_says_what_a_server_did_in_time_and_in_little_memory(
    tmp_path: Path, answers: dict[str, Answers], said: str
) -> None:
    with hostile(routes(**answers)) as server, within(120):
        text, memory = run_study(tmp_path, server.url)
    assert said in " ".join(text.split())
    assert memory < MAX_MEMORY
    assert "s3cr3t-key" not in text
