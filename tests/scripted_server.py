"""An OpenAI-compatible server that follows a script: its delays and its faults are known.

It needs nothing but Python, so that it runs in a bare container, too::

    python scripted_server.py --port 8000 --ttft 0.05 --itl 0.005 [--capacity 8] ...

The first token is due ``--ttft`` after a request arrived (or, with ``--capacity``, after it left
the queue), every further one ``--itl`` later; with ``--tokens-per-event`` N, an event of N tokens
is due every N * itl. All due times count from the arrival, so that delays do not add up. What is
due at the same instant is written at once, and nothing else is. A request gets as many tokens as
its ``max_completion_tokens`` or ``max_tokens`` asks for, else 16; its prompt has as many as it
has words (or token ids). A member ``scripted`` of a request's body wins for that request::

    {"scripted": {"ttft": 0.1, "itl": 0.01,  # delays in seconds
                  "tokens": 5,               # stop by itself after so many
                  "status": 503,             # answer this status, at once
                  "cut_after": 3,            # hang up after 3 tokens
                  "error_after": 3,          # send an error event after 3 tokens
                  "stall_after": 3}}         # say no more after 3 tokens, and stay connected

Flags that it does not know are ignored. ``GET /arguments`` gives ``sys.argv``,
``GET /last-request`` what was asked last, and ``GET /stats`` how many requests there were and how
late (in seconds) the server was to send what was due; ``DELETE /stats`` starts anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import heapq
import itertools
import json
import os
import random
import select
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

WORD: Final = " word"
MIB: Final = 2**20
MAX_LATENESSES: Final = 200_000
REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    411: "Length Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Options(argparse.Namespace):
    """What the command line says."""

    host: str
    port: int
    model: str
    lora: list[str]
    only_listed: bool
    no_models: bool
    owned_by: str
    api_key: str | None
    ttft: float
    ttft_jitter: float
    itl: float
    tokens_per_event: int
    buffer: bool
    early_role: bool
    framing: str
    capacity: int | None
    reject_above: int | None
    health_after: float
    never_healthy: bool
    listen_after: float
    die_after: float | None
    die_after_requests: int | None
    exit_code: int
    print: list[str]
    print_environment: list[str]
    print_arguments: bool
    allocate: int
    ignore_sigterm: bool
    spawn_child: bool


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0 for any that is free")
    add("--model", "--served-model-name", default="scripted")
    add("--lora", action="append", default=[], metavar="NAME", help="list a further model")
    add("--only-listed", action="store_true", help="answer 404 to who asks for another model")
    add("--no-models", action="store_true", help="have no list of models")
    add("--owned-by", default="scripted", help="owner of the listed models")
    add("--api-key", help="answer 401 to who does not give it")
    add("--ttft", type=float, default=0.0)
    add("--ttft-jitter", type=float, default=0.0, help="add 0 to so many seconds, uniformly")
    add("--itl", type=float, default=0.0)
    add("--tokens-per-event", type=int, default=1)
    add("--buffer", action="store_true", help="send each answer in one piece, at its end")
    add("--early-role", action="store_true", help="send the chat role on arrival")
    add("--framing", choices=["chunked", "close"], default="chunked", help="how streams end")
    add("--capacity", type=int, help="serve so many requests at once, queue the others")
    add("--reject-above", type=int, help="answer 429 where more than so many are in flight")
    add("--health-after", type=float, default=0.0, help="seconds from when it listens")
    add("--never-healthy", action="store_true")
    add("--listen-after", type=float, default=0.0, help="seconds from the start")
    add("--die-after", type=float, help="seconds from the start")
    add("--die-after-requests", type=int, help="die once so many were answered")
    add("--exit-code", type=int, default=1, help="what to die with")
    add("--print", action="append", default=[], metavar="TEXT")
    add("--print-environment", action="append", default=[], metavar="NAME")
    add("--print-arguments", action="store_true")
    add("--allocate", type=int, default=0, metavar="MIB", help="use memory before listening")
    add("--ignore-sigterm", action="store_true")
    add("--spawn-child", action="store_true", help="leave a child process behind")
    options, _unknown = parser.parse_known_args(arguments, Options())
    return options


# Time


class Timeline:
    """Steps at absolute times, by one timer of the loop.

    A step is told when it was due and returns when it is due next, or None.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[float], float | None]]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def at(self, due: float, step: Callable[[float], float | None]) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), step))
        if not self._running:
            self._arm()

    def _arm(self) -> None:
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._run)

    def _run(self) -> None:
        heap, numbers = self._heap, self._numbers
        self._timer = None
        self._running = True
        # What falls due meanwhile waits until the sockets were read: who is late must not go deaf.
        until = monotonic()
        while heap and heap[0][0] <= until:
            due, _, step = heapq.heappop(heap)
            following = step(due)
            if following is not None:
                heapq.heappush(heap, (following, next(numbers), step))
        self._running = False
        if heap:
            self._arm()


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop whose timers are exact to some 10 µs; those of epoll are so to 1 ms."""
    if sys.platform != "linux":
        return asyncio.new_event_loop()

    class Exact(selectors.EpollSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select((self.fileno(),), (), (), timeout)
                timeout = 0
            return super().select(timeout)

    with contextlib.suppress(OSError), open("/proc/self/timerslack_ns", "w") as slack:  # noqa: PTH123
        slack.write("1")
    return asyncio.SelectorEventLoop(Exact())


# What is said


class Style(NamedTuple):
    """What all events of a stream have in common."""

    chat: bool
    model: str
    framed: bool


@functools.cache
def role_event(style: Style) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    return event(style, answer_document(style, choice))


@functools.cache
def text_event(style: Style, tokens: int, reason: str | None) -> bytes:
    text = WORD * tokens
    choice: dict[str, Any] = {"index": 0}
    choice |= {"delta": {"content": text}} if style.chat else {"text": text}
    return event(style, answer_document(style, choice | {"finish_reason": reason}))


def event(style: Style, document: Mapping[str, Any]) -> bytes:
    return frame(style, b"data: %b\n\n" % json.dumps(document, separators=(",", ":")).encode())


def frame(style: Style, data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if style.framed else data


def closing(style: Style) -> bytes:
    return frame(style, b"data: [DONE]\n\n") + (b"0\r\n\r\n" if style.framed else b"")


def answer_document(
    style: Style, *choices: Mapping[str, Any], whole: bool = False
) -> dict[str, Any]:
    if style.chat:
        document = {"id": "chatcmpl-scripted", "object": "chat.completion"}
        document["object"] += "" if whole else ".chunk"
    else:
        document = {"id": "cmpl-scripted", "object": "text_completion"}
    return document | {"created": 1, "model": style.model, "choices": choices}


def error_document(status: int, message: str) -> dict[str, Any]:
    kind = REASONS.get(status, "Unknown").replace(" ", "").removesuffix("Error") + "Error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def count_tokens(prompt: Any) -> int:
    """Count the words of a prompt or of messages, or the ids of tokens."""
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, Mapping):
        return count_tokens(prompt.get("content") or prompt.get("text"))
    if isinstance(prompt, list):
        whole = bool(prompt) and isinstance(prompt[0], int)
        return len(prompt) if whole else sum(map(count_tokens, prompt))
    return 0


class Answer:
    """A request, and how far its answer got."""

    def __init__(
        self, server: Server, connection: Connection, body: Mapping[str, Any], *, chat: bool
    ) -> None:
        options = server.options
        script = body.get("scripted") or {}
        self.server = server
        self.connection = connection
        self.status = int(script.get("status", 200))
        self.first = float(script.get("ttft", options.ttft))
        if options.ttft_jitter and "ttft" not in script:
            self.first += server.random.uniform(0, options.ttft_jitter)
        self.itl = float(script.get("itl", options.itl))
        self.size = options.tokens_per_event
        wanted = max(1, int(body.get("max_completion_tokens") or body.get("max_tokens") or 16))
        self.total = min(wanted, int(script.get("tokens", wanted)))
        self.reason = "length" if self.total == wanted else "stop"
        self.ending, self.limit = "finish", self.total
        for ending in ("cut", "error", "stall"):
            after = script.get(f"{ending}_after")
            if after is not None and int(after) < self.limit:
                self.ending, self.limit = ending, int(after)
        if options.buffer:
            self.first += max(self.limit - 1, 0) // self.size * self.size * self.itl
            self.itl = 0.0
        self.sent = 0
        self.stream = bool(body.get("stream"))
        self.usage: dict[str, int] | None = None
        if not self.stream or (body.get("stream_options") or {}).get("include_usage"):
            prompt = count_tokens(body.get("messages" if chat else "prompt"))
            self.usage = {
                "prompt_tokens": prompt,
                "total_tokens": prompt + self.total,
                "completion_tokens": self.total,
            }
        framed = options.framing == "chunked"
        self.style = Style(chat, str(body.get("model") or options.model), framed)
        self.head = self.role = b""
        if self.stream:
            framing = b"Transfer-Encoding: chunked" if framed else b"Connection: close"
            self.head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            self.head += framing + b"\r\n\r\n"
            self.role = role_event(self.style) if chat else b""
            if options.early_role:
                self.head, self.role = self.head + self.role, b""
        self.alive = True
        self.served = False

    def wait(self) -> None:
        """Send the head while the tokens are still to come, as servers do."""
        if self.head:
            self.connection.write(self.head)
            self.head = b""

    def begin(self, start: float) -> float:
        """Take a slot; return when the first step is due."""
        self.served = True
        self.first += start
        if self.stream:
            return self.first
        return self.first + max(self.limit - 1, 0) // self.size * self.size * self.itl

    def step(self, due: float) -> float | None:
        """Send what is due; return when there is more to send."""
        if not self.alive:
            return None
        following = None
        if self.stream:
            following = self._say_events()
        else:
            self._say_all()
        self.server.latenesses.append(monotonic() - due)
        if following is None and self.ending != "stall":
            self.alive = False
            self.server.over(self, due)
            framed = self.style.framed or not self.stream
            self.connection.over(hang_up=self.ending == "cut" or not framed)
        return following

    def _say_events(self) -> float | None:
        left, size = self.limit - self.sent, self.size
        data = self.head + self.role
        self.head = self.role = b""
        if left > size:
            count = 1 if self.itl > 0 else (left - 1) // size
            data += text_event(self.style, size, None) * count
            self.sent += count * size
            left -= count * size
            if self.itl > 0:
                self.connection.write(data)
                return self.first + self.sent * self.itl
        if left:
            reason = self.reason if self.ending == "finish" else None
            data += text_event(self.style, left, reason)
            self.sent += left
        if self.ending == "finish" and self.usage is not None:
            data += event(self.style, answer_document(self.style) | {"usage": self.usage})
        elif self.ending == "error":
            data += event(self.style, error_document(500, "scripted error"))
        if self.ending in {"finish", "error"}:
            data += closing(self.style)
        self.connection.write(data)
        return None

    def _say_all(self) -> None:
        if self.ending == "error":
            self.connection.respond(500, error_document(500, "scripted error"))
        elif self.ending == "finish":
            text = WORD * self.total
            choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason}
            if self.style.chat:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
            document = answer_document(self.style, choice, whole=True)
            self.connection.respond(200, document | {"usage": self.usage})


# Connections


class Connection(asyncio.Protocol):
    """A keep-alive connection; answers one request after the other."""

    transport: asyncio.Transport
    write: Callable[[bytes], None]

    def __init__(self, server: Server) -> None:
        self.server = server
        self.arrived = 0.0
        self.answer: Answer | None = None
        self._rest = b""
        self._keep = True
        self._reading = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport  # asyncio has set TCP_NODELAY
        self.write = transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.alive = False
            self.server.release(answer, monotonic())

    def data_received(self, data: bytes) -> None:
        self.arrived = monotonic()
        self._rest += data
        self._read()

    def respond(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, REASONS.get(status, "Unknown").encode(), len(body), body)
        )

    def over(self, *, hang_up: bool) -> None:
        """Be free for the next request."""
        self.answer = None
        if hang_up:
            self._keep = False
        self._may_close()
        if self._rest:
            self.arrived = monotonic()
            self._read()

    def _read(self) -> None:
        if self._reading:
            return
        self._reading = True
        while self._rest and self.answer is None and self._read_request():
            pass
        self._reading = False

    def _read_request(self) -> bool:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._rest[: end + 2]
        low = head.lower()
        length = int(header(head, low, b"content-length") or 0)
        end += 4
        if len(self._rest) < end + length:
            if len(self._rest) == end and header(head, low, b"expect"):
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        body = self._rest[end : end + length]
        self._rest = self._rest[end + length :]
        self._keep = header(low, low, b"connection") != b"close"
        if header(head, low, b"transfer-encoding"):
            self._keep = False
            self.respond(411, error_document(411, "this server needs a Content-Length"))
        else:
            self.server.handle(self, head, low, body)
        if self.answer is None:
            self._may_close()
        return True

    def _may_close(self) -> None:
        if not self._keep:
            self._rest = b""
            self.transport.close()


def header(head: bytes, low: bytes, name: bytes) -> bytes:
    """Return a header's value; ``low`` is ``head`` in lower case."""
    start = low.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip()


class Server:
    """What all connections share."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.loop = loop
        self.timeline = Timeline(loop)
        self.random = random.Random(0)
        self.healthy_at = 0.0
        self.queue: deque[Answer] = deque()
        self.served = 0
        self.answered = 0
        self.in_flight = 0
        self.last: tuple[bytes, bytes] = b"", b"null"
        self.listed = [options.model, *options.lora]
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.rejected = 0
        self.max_in_flight = self.in_flight
        self.latenesses: deque[float] = deque(maxlen=MAX_LATENESSES)

    def handle(self, connection: Connection, head: bytes, low: bytes, body: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        path = path.partition(b"?")[0]
        key = self.options.api_key
        if path.startswith(b"/v1/") and key is not None:
            said = header(head, low, b"authorization")
            if said.decode("latin-1") != f"Bearer {key}":
                connection.respond(401, error_document(401, "the API key is missing or wrong"))
                return
        match method, path:
            case b"POST", b"/v1/completions":
                self._complete(connection, head, body, chat=False)
            case b"POST", b"/v1/chat/completions":
                self._complete(connection, head, body, chat=True)
            case _:
                connection.respond(*self._other(method, path))

    def _other(self, method: bytes, path: bytes) -> tuple[int, Any]:
        match method, path:
            case b"GET", b"/health":
                if self.options.never_healthy or monotonic() < self.healthy_at:
                    return 503, error_document(503, "not ready yet")
                return 200, {}
            case b"GET", b"/v1/models" if not self.options.no_models:
                model = {"object": "model", "created": 1, "owned_by": self.options.owned_by}
                return 200, {"object": "list", "data": [{"id": n} | model for n in self.listed]}
            case b"GET", b"/arguments":
                return 200, sys.argv
            case b"GET", b"/last-request":
                return 200, self._last_request()
            case b"GET", b"/stats":
                return 200, self._stats()
            case b"DELETE", b"/stats":
                self.reset()
                return 200, {}
        return 404, error_document(404, "there is nothing here")

    def _last_request(self) -> dict[str, Any]:
        first, *lines = self.last[0].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return {"request": first, "headers": headers, "body": json.loads(self.last[1])}

    def _stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = {
            "requests": self.requests,
            "rejected": self.rejected,
            "max_in_flight": self.max_in_flight,
            "in_flight": self.in_flight,
        }
        ordered = sorted(self.latenesses)
        if ordered:
            shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
            last = len(ordered) - 1
            stats["lateness"] = {name: ordered[int(last * s)] for name, s in shares.items()}
            stats["lateness"]["count"] = len(ordered)
        return stats

    def _complete(self, connection: Connection, head: bytes, body: bytes, *, chat: bool) -> None:
        options = self.options
        self.requests += 1
        try:
            answer = Answer(self, connection, json.loads(body), chat=chat)
        except (ValueError, TypeError, AttributeError) as error:
            connection.respond(400, error_document(400, f"bad request: {error}"))
            return
        self.last = head, body
        if options.only_listed and answer.style.model not in self.listed:
            message = f"The model {answer.style.model!r} does not exist."
            connection.respond(404, error_document(404, message))
            return
        if answer.status != 200:
            connection.respond(answer.status, error_document(answer.status, "scripted status"))
            return
        if options.reject_above is not None and self.in_flight >= options.reject_above:
            self.rejected += 1
            connection.respond(429, error_document(429, "too many requests in flight"))
            return
        connection.answer = answer
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if options.capacity is not None and self.served >= options.capacity:
            answer.wait()
            self.queue.append(answer)
            return
        self.served += 1
        due: float | None = answer.begin(connection.arrived)
        assert due is not None
        if due > connection.arrived:
            answer.wait()
        else:
            due = answer.step(due)
        if due is not None:
            self.timeline.at(due, answer.step)

    def release(self, answer: Answer, when: float) -> None:
        """Forget a request that is over; the next one in the queue begins at ``when``."""
        self.in_flight -= 1
        if not answer.served:
            self.queue.remove(answer)
            return
        self.served -= 1
        if self.queue:
            following = self.queue.popleft()
            self.served += 1
            # Not later than due, so that the throughput at saturation is exactly known.
            due = following.begin(max(when, following.connection.arrived))
            self.timeline.at(due, following.step)

    def over(self, answer: Answer, when: float) -> None:
        """Note that a request was answered."""
        self.release(answer, when)
        self.answered += 1
        if self.answered == self.options.die_after_requests:
            self.loop.call_soon(os._exit, self.options.exit_code)


# The process


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(options: Options, started: float) -> None:
    loop = asyncio.get_running_loop()
    if options.die_after is not None:
        loop.call_at(started + options.die_after, os._exit, options.exit_code)
    await asyncio.sleep(started + options.listen_after - monotonic())
    state = Server(options, loop)
    state.healthy_at = monotonic() + options.health_after
    server = await loop.create_server(
        lambda: Connection(state), options.host, options.port, backlog=4096
    )
    gc.collect()
    gc.freeze()
    gc.disable()
    say(f"listening on {server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


def main() -> None:
    started = monotonic()
    options = parse(sys.argv[1:])
    if options.spawn_child:
        sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
        child = subprocess.Popen(sleep)
    # The first process of a container gets no signal that it does not handle.
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN if options.ignore_sigterm else lambda *_: os._exit(0)
    )
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    for line in options.print:
        say(line)
    for name in options.print_environment:
        say(f"{name}={os.environ.get(name, '')}")
    if options.print_arguments:
        say(json.dumps(sys.argv))
    if options.spawn_child:
        say(f"child {child.pid}")
    used = [b"\1" * MIB for _ in range(options.allocate)]
    if used:
        say(f"allocated {len(used)} MiB")
    new_loop().run_until_complete(serve(options, started))


if __name__ == "__main__":
    main()
