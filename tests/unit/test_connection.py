"""Answers are understood however they are framed and wherever the network cuts them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_autotune.load.connection import Connection, Exchange

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = b"Content-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Transport(asyncio.Transport):
    """Takes what is written and remembers being aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


class Done:
    """As much of a future as an exchange needs."""

    def __init__(self) -> None:
        self.times = 0

    def done(self) -> bool:
        return self.times > 0

    def set_result(self, _: None) -> None:
        self.times += 1


class Hung(BaseException):
    """What was under test did not return."""


@contextlib.contextmanager
def must_return(seconds: float = 5.0) -> Iterator[None]:
    def hung(*_: object) -> None:
        raise Hung

    previous = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Hung:
        pytest.fail("it never returned")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def make_exchange() -> Exchange:
    return Exchange(0.0, cast("asyncio.Future[None]", Done()))


def times_done(exchange: Exchange) -> int:
    return cast("Done", exchange.done).times


def connect() -> tuple[Connection, Transport]:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)
    return connection, transport


def feed(connection: Connection, *pieces: bytes) -> Exchange:
    exchange = make_exchange()
    connection.send(exchange, REQUEST)
    for piece in pieces:
        connection.data_received(piece)
    return exchange


def answer_to(*pieces: bytes, closed: bool = False) -> Exchange:
    """Return what became of a request that was answered by ``pieces``."""
    connection, _ = connect()
    exchange = feed(connection, *pieces)
    if closed:
        connection.connection_lost(None)
    return exchange


def outcome(exchange: Exchange) -> tuple[Any, ...]:
    return (
        exchange.error,
        exchange.detail,
        len(exchange.stamps),
        exchange.finished,
        exchange.input_tokens,
        exchange.output_tokens,
        times_done(exchange),
    )


def data(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode()


def choice(finish: str | None = None, **members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **members, "finish_reason": finish}]}


def text(word: str = " word", finish: str | None = None) -> bytes:
    return data(choice(finish, text=word))


def delta(finish: str | None = None, **members: Any) -> bytes:
    return data(choice(finish, delta=members))


USAGE = data({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
ROLE = delta(role="assistant", content="")
DONE = b"data: [DONE]"
COMPLETION = (text(), text(), text(finish="length"), USAGE, DONE)


def body_of(events: Sequence[bytes], end: bytes = b"\n\n") -> bytes:
    return b"".join(event.replace(b"\n", end[: len(end) // 2]) + end for event in events)


def chunks(*pieces: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces if p)
    return framed + b"0" + extension + b"\r\n" + trailer + b"\r\n"


def chunked(body: bytes, **keys: bytes) -> bytes:
    return OK + STREAM + CHUNKED + b"\r\n" + chunks(body, **keys)


def counted(body: bytes, status: bytes = OK, kind: bytes = STREAM) -> bytes:
    return status + kind + b"Content-Length: %d\r\n\r\n" % len(body) + body


def to_end(body: bytes) -> bytes:
    return OK + STREAM + b"\r\n" + body


def json_answer(document: Any, status: bytes = b"HTTP/1.1 400 Bad Request\r\n") -> bytes:
    return counted(json.dumps(document).encode(), status, b"Content-Type: application/json\r\n")


# Framing

ENDS = pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["lf", "crlf"])
FRAMED = pytest.mark.parametrize("frame", [chunked, counted, to_end])


@ENDS
@FRAMED
def test_a_stream_is_understood_in_every_framing_at_once_or_byte_by_byte(
    frame: Any, end: bytes
) -> None:
    raw = frame(body_of(COMPLETION, end))
    whole = answer_to(raw, closed=frame is to_end)
    pieces = answer_to(*(raw[at : at + 1] for at in range(len(raw))), closed=frame is to_end)
    assert outcome(whole) == outcome(pieces) == ("", "", 3, True, 7, 3, 1)
    # Every event of a packet is counted at its arrival.
    assert len(set(whole.stamps)) == 1
    assert whole.stamps[0] >= whole.sent


@ENDS
@FRAMED
def test_a_stream_may_be_cut_at_every_single_byte(frame: Any, end: bytes) -> None:
    events = (b": hello", ROLE, text(), text("é\u2028", finish="stop"), USAGE, DONE)
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + frame(body_of(events, end))
    for at in range(1, len(raw)):
        exchange = answer_to(raw[:at], raw[at:], closed=frame is to_end)
        assert outcome(exchange) == ("", "", 2, True, 7, 3, 1), raw[:at]


@ENDS
def test_every_byte_may_be_a_chunk_of_its_own(end: bytes) -> None:
    body = body_of(COMPLETION, end)
    raw = OK + STREAM + CHUNKED + b"\r\n" + chunks(*(body[at : at + 1] for at in range(len(body))))
    assert outcome(answer_to(raw)) == ("", "", 3, True, 7, 3, 1)


def test_chunks_may_have_extensions_and_trailers() -> None:
    raw = chunked(body_of(COMPLETION), extension=b";a=b;c", trailer=b"X-Took: 3\r\nETag: x\r\n")
    for at in range(1, len(raw)):
        assert outcome(answer_to(raw[:at], raw[at:])) == ("", "", 3, True, 7, 3, 1)


BODY = body_of(COMPLETION)


@pytest.mark.parametrize(
    "raw",
    [
        *(
            OK + STREAM + CHUNKED + b"\r\n" + size % len(BODY) + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
            for size in (b"%x", b"%X", b"000%x", b"%x ", b"%x ;x=y")
        ),
        b"HTTP/1.1 200\r\nCONTENT-TYPE:Text/Event-Stream\r\ntransfer-encoding:Chunked\r\n\r\n"
        + chunks(BODY),
        OK + STREAM + CHUNKED + b"Content-Length: 3\r\n\r\n" + chunks(BODY),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + chunked(BODY),
        # No space after "data:", no finish reason, and an error that is null.
        chunked(body_of((text(finish="stop").replace(b"data: ", b"data:"), b"data:[DONE]"))),
        chunked(body_of((text(), DONE))),
        chunked(body_of((data({**choice("stop", text="x"), "error": None}), DONE))),
    ],
    ids=str,
)
def test_unusual_but_valid_answers_are_understood(raw: bytes) -> None:
    exchange = answer_to(raw)
    assert (exchange.error, exchange.detail) == ("", "")
    assert exchange.stamps


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (chunked(b""), "truncated"),
        (counted(b""), "truncated"),
        (chunked(b": nothing\n\n"), "truncated"),
        (chunked(body_of((ROLE, delta(finish="stop"), DONE))), "empty"),
        (json_answer({"choices": [{"text": "all at once"}]}, OK), "not a stream"),
        (counted(body_of((data({"error": "busy"}),)), b"HTTP/1.1 503 Busy\r\n"), "HTTP 503"),
    ],
    ids=str,
)
def test_an_answer_without_a_whole_stream_is_an_error(raw: bytes, error: str) -> None:
    assert answer_to(raw).error == error


def test_nothing_is_over_before_its_end() -> None:
    raw = chunked(body_of(COMPLETION))
    exchange = answer_to(raw[:-1])
    assert times_done(exchange) == 0
    assert len(exchange.stamps) == 3


# Events


def test_comments_other_fields_and_blank_events_are_no_text() -> None:
    events = (
        b": ping",
        b"event: message\nid: 3\nretry: 10",
        b"",
        b"event: delta\n" + text() + b"\nid: 4",
        text(finish="stop"),
        DONE,
    )
    assert outcome(answer_to(chunked(body_of(events))))[:4] == ("", "", 2, True)


@ENDS
def test_an_event_of_several_data_lines_is_one_document(end: bytes) -> None:
    whole = json.dumps(choice("stop", text="x"), indent=1)
    event = b"\n".join(b"data: " + line.encode() for line in whole.split("\n"))
    raw = chunked(body_of((event, DONE), end))
    for at in range(1, len(raw)):
        assert outcome(answer_to(raw[:at], raw[at:]))[:3] == ("", "", 1)


def test_a_finish_reason_is_enough_without_a_last_word() -> None:
    exchange = answer_to(chunked(body_of((text(), text(finish="length")))))
    assert outcome(exchange)[:4] == ("", "", 2, True)


def test_the_role_of_a_chat_is_no_first_token() -> None:
    connection, _ = connect()
    exchange = feed(connection, OK + STREAM + b"\r\n", body_of((ROLE,)))
    assert exchange.stamps == []
    connection.data_received(body_of((delta(content="Hi"),)))
    assert len(exchange.stamps) == 1


@pytest.mark.parametrize(
    "members",
    [
        {"content": "word"},
        {"content": None, "reasoning_content": "hm"},
        {"content": "", "reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
        {"role": "assistant", "content": " "},
    ],
)
def test_text_reasoning_and_tool_calls_are_output(members: dict[str, Any]) -> None:
    exchange = answer_to(chunked(body_of((ROLE, delta(**members), delta(finish="stop"), DONE))))
    assert outcome(exchange)[:4] == ("", "", 1, True)


@pytest.mark.parametrize(
    "members",
    [{}, {"content": ""}, {"content": None}, {"tool_calls": []}, {"role": "assistant"}],
)
def test_a_chunk_without_output_is_no_token(members: dict[str, Any]) -> None:
    exchange = answer_to(chunked(body_of((delta(**members), delta(finish="stop"), DONE))))
    assert outcome(exchange)[:3] == ("empty", "the answer has no text", 0)


@pytest.mark.parametrize("usage", [None, {}])
def test_an_empty_usage_is_none(usage: Any) -> None:
    event = data({**choice("stop", text="x"), "usage": usage})
    exchange = answer_to(chunked(body_of((event, DONE))))
    assert (exchange.error, exchange.input_tokens, exchange.output_tokens) == ("", None, None)


def test_the_last_of_running_usages_counts() -> None:
    def counted_so_far(tokens: int) -> bytes:
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        return data({**choice(text="x"), "usage": usage})

    events = (counted_so_far(1), counted_so_far(2), text(finish="stop"), DONE)
    exchange = answer_to(chunked(body_of(events)))
    assert (exchange.input_tokens, exchange.output_tokens) == (5, 2)


def test_later_packets_have_later_stamps() -> None:
    raw = to_end(body_of(COMPLETION))
    exchange = answer_to(*(raw[at : at + 10] for at in range(0, len(raw), 10)), closed=True)
    assert len(set(exchange.stamps)) == 3
    assert exchange.stamps == sorted(exchange.stamps)


# What goes wrong


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        ({"error": {"message": "no such model", "type": "NotFoundError"}}, "no such model"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"error": "plain words"}, "plain words"),
        ({"error": {"code": 3}}, '{"code": 3}'),
        ({"detail": "Not Found"}, '{"detail": "Not Found"}'),
        (["a"], "['a']"),
        ({"error": {"message": ["a", 1]}}, '["a", 1]'),
        ({"error": {"message": "x" * 9000}}, "x" * 500),
    ],
)
def test_what_the_server_says_of_an_error_is_kept(document: Any, detail: str) -> None:
    connection, transport = connect()
    exchange = feed(connection, json_answer(document))
    assert outcome(exchange) == ("HTTP 400", detail, 0, False, None, None, 1)
    assert connection.usable
    assert not transport.aborted


def test_an_error_page_is_no_json() -> None:
    raw = counted(b"<h1>Bad Gateway \xff</h1>\n", b"HTTP/1.1 502 Bad Gateway\r\n", b"")
    assert outcome(answer_to(raw))[:2] == ("HTTP 502", "<h1>Bad Gateway \ufffd</h1>")


@pytest.mark.parametrize("status", [201, 301, 401, 404, 422, 429, 500, 503])
def test_every_status_but_200_is_an_error_of_its_own(status: int) -> None:
    raw = b"HTTP/1.1 %d Some Reason\r\nContent-Length: 0\r\n\r\n" % status
    assert outcome(answer_to(raw))[:2] == (f"HTTP {status}", "")


def test_an_error_may_come_in_chunks() -> None:
    body = json.dumps({"error": {"message": "busy"}}).encode()
    raw = b"HTTP/1.1 503 Busy\r\n" + CHUNKED + b"\r\n" + chunks(body[:5], body[5:])
    for at in range(1, len(raw)):
        assert outcome(answer_to(raw[:at], raw[at:]))[:2] == ("HTTP 503", "busy")


def test_an_error_event_is_a_server_error_even_after_text() -> None:
    events = (text(), data({"error": {"message": "ran out", "code": 500}}), DONE)
    connection, _ = connect()
    exchange = feed(connection, chunked(body_of(events)))
    assert outcome(exchange)[:3] == ("server error", "ran out", 1)
    assert connection.usable


@FRAMED
def test_a_stream_without_an_end_is_truncated(frame: Any) -> None:
    exchange = answer_to(frame(body_of((text(), text()))), closed=frame is to_end)
    assert outcome(exchange)[:3] == (
        "truncated",
        "the stream ended without a finish reason",
        2,
    )


@pytest.mark.parametrize("frame", [chunked, counted])
def test_a_server_that_hangs_up_in_the_middle_is_disconnected(frame: Any) -> None:
    raw = frame(body_of(COMPLETION))
    for at in range(1, len(raw)):
        exchange = answer_to(raw[:at], closed=True)
        assert outcome(exchange)[:2] == ("disconnected", "the server closed the connection")
        assert times_done(exchange) == 1


def test_an_answer_to_its_end_is_truncated_wherever_it_is_cut() -> None:
    last = body_of((text(finish="stop"), DONE))
    raw = to_end(body_of((text(),)) + last)
    head = len(to_end(b""))
    for at in range(head, len(raw) - len(last) + 1):
        assert answer_to(raw[:at], closed=True).error == "truncated"


def test_a_broken_connection_is_no_end_of_an_answer() -> None:
    connection, _ = connect()
    exchange = feed(connection, to_end(body_of(COMPLETION)))
    connection.connection_lost(ConnectionResetError(104, "reset by peer"))
    assert exchange.error == "disconnected"
    assert "reset by peer" in exchange.detail


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\r\n\r\n",
        OK + b"Content-Length: many\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\nabcdefgh",
        OK + STREAM + CHUNKED + b"\r\nxyz\r\n",
        OK + STREAM + CHUNKED + b"\r\n\r\n",
        OK + STREAM + CHUNKED + b"\r\n1\r\nabc\r\n",
        OK + STREAM + CHUNKED + b"\r\n-2\r\nabc\r\n0\r\n\r\n",
        to_end(b"data: {broken\n\n"),
        to_end(b"data: \xff\xfe\n\n"),
        to_end(b"data: 3\n\n"),
        to_end(b"data: null\n\n"),
        to_end(b"data: []\n\n"),
        to_end(b'data: "error"\n\n'),
        to_end(b'data: {"choices": 3}\n\n'),
        to_end(b'data: {"choices": [3]}\n\n'),
        to_end(b'data: {"choices": {"a": 1}}\n\n'),
        to_end(b'data: {"choices": [{"delta": 3}]}\n\n'),
        to_end(b'data: {"usage": 3}\n\n'),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=lambda raw: raw[-40:].decode("latin-1"),
)
def test_nonsense_is_a_bad_response_at_once(raw: bytes) -> None:
    connection, transport = connect()
    with must_return():
        exchange = feed(connection, raw)
    assert exchange.error == "bad response"
    assert exchange.detail
    assert times_done(exchange) == 1
    assert transport.aborted
    assert not connection.usable


def test_a_negative_chunk_size_is_no_endless_loop() -> None:
    raw = OK + STREAM + CHUNKED + b"\r\n-6\r\nX"
    with must_return(2.0):
        assert answer_to(raw).error == "bad response"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("status", [200, 500])
def test_nesting_without_end_is_an_error_like_any_other(status: int, *, closed: bool) -> None:
    deep = b"[" * 200_000
    head = b"HTTP/1.1 %d X\r\n" % status
    raw = head + STREAM + b"\r\ndata: " + deep + b"\n\n"
    if status != 200:
        raw = head + b"\r\n" + deep if closed else counted(deep, head, b"")
    exchange = answer_to(raw, closed=closed)
    assert exchange.error in {"bad response", "HTTP 500"}
    assert times_done(exchange) == 1


@pytest.mark.parametrize("tokens", ["many", -1, 2.5, []])
def test_a_usage_that_is_no_count_does_no_harm(tokens: Any) -> None:
    event = data({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": tokens}})
    exchange = answer_to(chunked(body_of((text(finish="stop"), event, DONE))))
    if exchange.error:
        assert exchange.error == "bad response"
    else:
        for count in (exchange.input_tokens, exchange.output_tokens):
            assert count is None or (type(count) is int and count >= 0)


def test_the_first_error_is_the_one_that_counts() -> None:
    exchange = make_exchange()
    exchange.fail("server error", "first")
    exchange.fail("timeout", "second")
    assert (exchange.error, exchange.detail) == ("server error", "first")


# Connections


def test_a_connection_carries_one_exchange_after_another() -> None:
    connection, transport = connect()
    for _ in range(3):
        exchange = feed(connection, chunked(body_of(COMPLETION)))
        assert outcome(exchange) == ("", "", 3, True, 7, 3, 1)
        assert connection.usable
    assert transport.written == 3 * REQUEST
    assert not transport.aborted


def test_framings_may_change_from_answer_to_answer() -> None:
    connection, _ = connect()
    refused = json_answer({"error": {"message": "busy"}}, b"HTTP/1.1 429 Busy\r\n")
    answers = [chunked(body_of(COMPLETION)), refused, counted(body_of(COMPLETION)), refused]
    errors = [feed(connection, raw).error for raw in answers]
    assert errors == ["", "HTTP 429", "", "HTTP 429"]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nconnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_a_connection_is_kept_as_the_server_says(head: bytes, *, kept: bool) -> None:
    connection, transport = connect()
    exchange = feed(connection, counted(body_of(COMPLETION), head))
    assert exchange.error == ""
    assert (connection.usable, transport.aborted) == (kept, not kept)


def test_a_connection_whose_answer_ends_with_it_is_not_used_again() -> None:
    connection, _ = connect()
    exchange = feed(connection, to_end(body_of(COMPLETION)))
    assert times_done(exchange) == 0
    connection.connection_lost(None)
    assert exchange.error == ""
    assert not connection.usable


@pytest.mark.parametrize("cause", [None, ConnectionResetError(104, "reset by peer")])
def test_an_idle_connection_that_the_server_gave_up_is_stale(cause: Exception | None) -> None:
    connection, _ = connect()
    feed(connection, chunked(body_of(COMPLETION)))
    exchange = feed(connection)
    connection.connection_lost(cause)
    assert outcome(exchange)[0] == "stale"
    assert times_done(exchange) == 1


def test_a_fresh_connection_that_is_closed_is_not_stale() -> None:
    assert answer_to(closed=True).error == "disconnected"


def test_a_used_connection_closed_in_its_second_answer_is_not_stale() -> None:
    connection, _ = connect()
    feed(connection, chunked(body_of(COMPLETION)))
    exchange = feed(connection, b"HTTP/1.1 2")
    connection.connection_lost(None)
    assert exchange.error == "disconnected"


def test_a_connection_lost_while_idle_is_just_not_used_again() -> None:
    connection, _ = connect()
    feed(connection, chunked(body_of(COMPLETION)))
    connection.connection_lost(None)
    assert not connection.usable


def test_what_nobody_asked_for_ends_the_connection() -> None:
    connection, transport = connect()
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert transport.aborted
    assert not connection.usable


def test_an_aborted_exchange_is_over_at_once_with_its_connection() -> None:
    connection, transport = connect()
    exchange = feed(connection, chunked(body_of(COMPLETION))[:60])
    connection.abort("timeout", "no answer in time")
    assert outcome(exchange)[:2] == ("timeout", "no answer in time")
    assert transport.aborted
    assert not connection.usable
    connection.connection_lost(None)
    assert times_done(exchange) == 1
    assert exchange.error == "timeout"


def test_an_error_event_before_an_abort_stays_the_reason() -> None:
    connection, _ = connect()
    exchange = feed(connection, to_end(body_of((data({"error": "x"}),))))
    connection.abort("timeout")
    assert exchange.error == "server error"


def test_an_exchange_whose_waiter_is_gone_does_no_harm() -> None:
    connection, _ = connect()
    exchange = make_exchange()
    exchange.done.set_result(None)
    connection.send(exchange, REQUEST)
    connection.data_received(chunked(body_of(COMPLETION)))
    assert times_done(exchange) == 1


# Any valid answer, cut anywhere


FRAMES: Mapping[str, Callable[[bytes], bytes]] = {
    "chunked": chunked,
    "counted": counted,
    "to_end": to_end,
}


def over_lines(event: bytes) -> bytes:
    """Spread an event over several data lines."""
    lines = json.dumps(json.loads(event[6:]), indent=1).split("\n")
    return b"\n".join(b"data: " + line.encode() for line in lines)


@st.composite
def said(draw: st.DrawFn, words: Sequence[str]) -> list[bytes]:
    """Draw events that carry ``words``, with others among them."""
    speak: Callable[[str], bytes] = draw(
        st.sampled_from(
            [text, lambda word: delta(content=word), lambda word: delta(reasoning=word)]
        )
    )
    events = draw(st.lists(st.just(ROLE), max_size=1))
    for word in words:
        events += draw(
            st.lists(st.sampled_from([b": ping", b"", b"id: 3", b"event: x"]), max_size=2)
        )
        events.append(over_lines(speak(word)) if draw(st.booleans()) else speak(word))
    return events


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bool, tuple[Any, ...]]:
    """Draw an answer, whether it ends with the connection, and what it must be understood as."""
    words = draw(st.lists(st.text(min_size=1, max_size=6), max_size=4))
    events = draw(said(words))
    endings = {
        "finish": delta(finish="stop"),
        "failure": data({"error": {"message": "went wrong"}}),
        "usage": USAGE,
        "done": DONE,
    }
    ended = [name for name in endings if draw(st.booleans())]
    body = body_of(
        [*events, *(endings[name] for name in ended)],
        draw(st.sampled_from([b"\n\n", b"\r\n\r\n"])),
    )
    frame = draw(st.sampled_from([*FRAMES]))
    raw = FRAMES[frame](body)
    if frame == "chunked":
        at = sorted(draw(st.lists(st.integers(0, len(body)), max_size=5)))
        pieces = [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]
        extension = draw(st.sampled_from([b"", b";x=y"]))
        trailer = draw(st.sampled_from([b"", b"A: b\r\n"]))
        raw = OK + STREAM + CHUNKED + b"\r\n"
        raw += chunks(*pieces, extension=extension, trailer=trailer)
    raw = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"])) + raw
    finished = "finish" in ended or "done" in ended
    errors = {"server error": "failure" in ended, "truncated": not finished, "empty": not words}
    error = next((name for name, is_so in errors.items() if is_so), "")
    return raw, frame == "to_end", (error, len(words), finished, 7 if "usage" in ended else None)


@given(answers(), st.lists(st.integers(0, 2000), max_size=8))
@settings(derandomize=True, max_examples=250, deadline=None)
def test_any_answer_means_the_same_wherever_it_is_cut(
    drawn: tuple[bytes, bool, tuple[Any, ...]], cuts: list[int]
) -> None:
    raw, closed, (error, stamps, finished, input_tokens) = drawn
    at = sorted(cut % (len(raw) + 1) for cut in cuts)
    pieces = [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]
    exchange = answer_to(*filter(None, pieces), closed=closed)
    assert (exchange.error, len(exchange.stamps)) == (error, stamps)
    assert (exchange.finished, exchange.input_tokens) == (finished, input_tokens)
    assert times_done(exchange) == 1


# Any bytes at all

FRAGMENTS = [
    OK, STREAM, CHUNKED, REQUEST, DONE, ROLE, USAGE, text(), text(finish="stop"),
    b"HTTP/1.1 ", b"HTTP/1.0 500 X\r\n", b"Content-Length: ", b"Content-Length: 0\r\n",
    b"Connection: close\r\n", b"\r\n", b"\n\n", b"\r", b"\n", b"data: ", b"data:", b"{", b"[", b'"',
    b"-6\r\n", b"-2\r\n", b"-1", b"0\r\n", b"1\r\n", b"5;x\r\n", b"ffffffffff\r\n", b"0x4\r\n",
    b"1_0\r\n", b" ", b"200", b"999", b"null", b"error", b"1e999", b"\xff", b"\x00",
]  # fmt: skip


@given(
    st.sampled_from([b"", OK, OK + STREAM + CHUNKED + b"\r\n", OK + STREAM + b"\r\n"]),
    st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=20), max_size=12),
    st.lists(st.integers(0, 400), max_size=4),
)
@example(OK + STREAM + CHUNKED + b"\r\n", [b"-6\r\n", b"X"], [])
@settings(derandomize=True, max_examples=500, deadline=None)
def test_no_bytes_at_all_can_do_any_harm(
    start: bytes, fragments: list[bytes], cuts: list[int]
) -> None:
    raw = start + b"".join(fragments)
    at = sorted(cut % (len(raw) + 1) for cut in cuts)
    pieces = [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]
    connection, transport = connect()
    with must_return(2.0):
        exchange = feed(connection, *filter(None, pieces))
    before = times_done(exchange)
    connection.connection_lost(None)
    assert times_done(exchange) == 1
    assert exchange.error or (exchange.finished and exchange.stamps)
    if exchange.error == "bad response":
        assert transport.aborted
        assert before == 1


@given(st.data())
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_damaged_answer_can_do_no_harm(drawn: st.DataObject) -> None:
    frame = drawn.draw(st.sampled_from([*FRAMES]))
    raw = bytearray(FRAMES[frame](body_of(COMPLETION)))
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(raw) - 1))
        raw[at] = drawn.draw(st.integers(0, 255))
    with must_return(2.0):
        exchange = answer_to(bytes(raw), closed=True)
    assert times_done(exchange) == 1
    assert exchange.error or (exchange.finished and exchange.stamps)
