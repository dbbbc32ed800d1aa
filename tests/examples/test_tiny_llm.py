"""The language model server of the serving example, as its clients see it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

SERVING = Path(__file__).parents[2] / "examples" / "serving"
#: Small enough for a test to take no time, large enough for its words to depend on each other.
SMALL = ("--layers", "2", "--hidden", "64", "--heads", "2", "--vocab", "512")
PROMPTS = [" ".join(f"word{i * j}" for j in range(1, 5 + 9 * i)) for i in range(6)]


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = self.connect()
        try:
            return exchange(connection, method, path, body)
        finally:
            connection.close()

    def complete(self, **body: Any) -> Any:
        status, document = self.request("POST", "/v1/completions", {"temperature": 0} | body)
        assert status == 200, document
        return document

    def text(self, **body: Any) -> str:
        text: str = self.complete(**body)["choices"][0]["text"]
        return text

    def stream(self, path: str, body: Any) -> list[Any]:
        connection = self.connect()
        connection.request("POST", path, json.dumps({"stream": True} | body))
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        events = response.read().decode().split("\n\n")
        connection.close()
        assert events[-2:] == ["data: [DONE]", ""]
        assert all(event.startswith("data: ") for event in events[:-1])
        return [json.loads(event[len("data: ") :]) for event in events[:-2]]


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """Return the status and the document of a response."""
    content = body if body is None or isinstance(body, str) else json.dumps(body)
    connection.request(method, path, content)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run a server on a port of its choice; see that it goes when it is told to."""
    process = start("--port", "0", *options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("tiny_llm: serving on http://127.0.0.1:"), line
        yield Server(process, int(line.rpartition(":")[2]))
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tiny_llm", *options],
        cwd=SERVING,
        # Warnings are errors here as they are in the tests themselves.
        env=os.environ | {"PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*SMALL, "--max-model-len", "128") as running:
        yield running


def test_health(server: Server) -> None:
    assert server.request("GET", "/health") == (200, {"status": "ok"})


def test_models(server: Server) -> None:
    status, document = server.request("GET", "/v1/models")
    (model,) = document["data"]
    assert (status, document["object"]) == (200, "list")
    assert (model["id"], model["object"]) == ("tiny-llm", "model")
    assert model["max_model_len"] == 128


def test_completion(server: Server) -> None:
    document = server.complete(model="tiny-llm", prompt="to be or not to be", max_tokens=7)
    (choice,) = document["choices"]
    assert document["object"] == "text_completion"
    assert choice["finish_reason"] == "length"
    assert len(choice["text"].split()) == 7
    assert choice["text"].startswith(" ")
    assert document["usage"] == {"prompt_tokens": 6, "completion_tokens": 7, "total_tokens": 13}


def test_completion_has_16_tokens_unless_told_otherwise(server: Server) -> None:
    usage = server.complete(prompt="to be", ignore_eos=True)["usage"]
    assert usage["completion_tokens"] == 16


def test_streamed_completion_says_the_same(server: Server) -> None:
    body = {"prompt": "to be or not to be", "max_tokens": 7, "temperature": 0}
    chunks = server.stream("/v1/completions", body)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == server.text(**body)
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["length"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_streamed_usage_comes_last(server: Server, path: str) -> None:
    body = {
        "prompt": "to be",
        "messages": [{"role": "user", "content": "to be"}],
        "max_tokens": 3,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    *chunks, last = server.stream(path, body)
    prompt = 2 if path == "/v1/completions" else 4
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 3,
        "total_tokens": prompt + 3,
    }
    assert len(chunks) == 3


def test_chat(server: Server) -> None:
    body = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "to be or not"}]},
        ],
        "max_completion_tokens": 5,
        "temperature": 0,
    }
    status, document = server.request("POST", "/v1/chat/completions", body)
    (choice,) = document["choices"]
    assert (status, document["object"]) == (200, "chat.completion")
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"].split()) == 5
    # Two roles, six words, and the role of the reply.
    assert document["usage"]["prompt_tokens"] == 9

    chunks = server.stream("/v1/chat/completions", body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta["content"] for delta in deltas) == choice["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_chat_goes_on_while_there_is_room(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "to be"}], "ignore_eos": True}
    _, document = server.request("POST", "/v1/chat/completions", body)
    assert document["usage"]["total_tokens"] == 128


def test_prompts_of_tokens(server: Server) -> None:
    first = server.complete(prompt=[5, 6, 7], max_tokens=4)
    assert first["usage"]["prompt_tokens"] == 3
    text = first["choices"][0]["text"]
    assert server.text(prompt=[[5, 6, 7]], max_tokens=4) == text
    # What the model says is in its vocabulary, so that as a prompt it means the same again.
    assert server.text(prompt=[text], max_tokens=4) == server.text(prompt=text, max_tokens=4)


def test_the_end_of_a_text() -> None:
    with serving(*SMALL, "--vocab", "4") as server:
        body = {"prompt": "to be", "max_tokens": 100, "temperature": 2.0, "seed": 1}
        ended = server.complete(**body)
        count = ended["usage"]["completion_tokens"]
        assert ended["choices"][0]["finish_reason"] == "stop"
        assert count < 100
        assert len(ended["choices"][0]["text"].split()) == count - 1
        assert "eos" not in ended["choices"][0]["text"]
        whole = server.complete(**body, ignore_eos=True)
        assert whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] == 100


def test_seeds(server: Server) -> None:
    body = {"prompt": "to be", "max_tokens": 20, "temperature": 1.0, "ignore_eos": True}
    assert server.text(**body, seed=1) == server.text(**body, seed=1)
    assert server.text(**body, seed=1) != server.text(**body, seed=2)
    assert server.text(**body) != server.text(**body)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({}, "'prompt' must be"),
        ({"prompt": 1}, "'prompt' must be"),
        ({"prompt": ["a", "b"]}, "'prompt' must be"),
        ({"prompt": [1, True]}, "'prompt' must be"),
        ({"prompt": [1, 512]}, "Token ids"),
        ({"prompt": " "}, "0 of 1 to 127"),
        ({"prompt": "a " * 128}, "128 of 1 to 127"),
        ({"prompt": "a " * 100, "max_tokens": 29}, "maximum context length is 128"),
        ({"prompt": "a", "max_tokens": 0}, "'max_tokens'"),
        ({"prompt": "a", "max_tokens": "1"}, "'max_tokens'"),
        ({"prompt": "a", "max_tokens": True}, "'max_tokens'"),
        ({"prompt": "a", "temperature": 3}, "'temperature'"),
        ({"prompt": "a", "seed": -1}, "'seed'"),
        ({"prompt": "a", "stream_options": True}, "'stream_options'"),
        ({"prompt": "a", "n": 2}, "'n' is not supported"),
        ({"prompt": "a", "stop": ["b"]}, "'stop' is not supported"),
    ],
)
def test_bad_completion(server: Server, body: Any, part: str) -> None:
    status, document = server.request("POST", "/v1/completions", body)
    assert status == 400
    assert part in document["error"]["message"]
    assert document["error"]["type"] == "invalid_request_error"
    assert document["error"]["code"] == 400


@pytest.mark.parametrize(
    "messages", [None, [], "a", ["a"], [{"content": "a"}], [{"role": "user", "content": [{}]}]]
)
def test_bad_chat(server: Server, messages: Any) -> None:
    status, document = server.request("POST", "/v1/chat/completions", {"messages": messages})
    assert status == 400
    assert "must" in document["error"]["message"]


def test_what_is_not_there(server: Server) -> None:
    assert server.request("GET", "/v2")[0] == 404
    assert server.request("DELETE", "/v1/models")[0] == 405
    body = {"model": "gpt", "prompt": "a"}
    assert server.request("POST", "/v1/completions", body)[0] == 404


def test_a_prompt_may_be_any_text(server: Server) -> None:
    usage = server.complete(prompt="\ud800 \x00 日本 😀", max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == 4


def test_keep_alive(server: Server) -> None:
    connection = server.connect()
    connection.connect()
    there = connection.sock
    body = {"prompt": "to be", "max_tokens": 3}
    for _ in range(2):
        assert exchange(connection, "GET", "/health")[0] == 200
        assert exchange(connection, "POST", "/v1/completions", "{")[0] == 400
        assert exchange(connection, "POST", "/v1/completions", body)[0] == 200
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}))
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    assert connection.sock is there
    connection.request("GET", "/health", headers={"Connection": "close"})
    connection.getresponse().read()
    assert connection.sock is None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"505"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 2**17, b"431"),
    ],
)
def test_not_http(server: Server, text: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(text)
        assert client.recv(1000).startswith(b"HTTP/1.1 " + status)
    assert server.request("GET", "/health")[0] == 200


def test_expect_continue(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b'{"prompt":"a"}')
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """The answer to each prompt if there is no other."""
    with serving(*SMALL, "--max-batch-size", "1", "--prefill-chunk", "1024") as server:
        texts = [server.text(prompt=prompt, max_tokens=40) for prompt in PROMPTS]
    # A model that says the same to everything would prove nothing.
    assert len(set(texts)) == len(PROMPTS)
    assert all(len(set(text.split())) > 5 for text in texts)
    return texts


@pytest.mark.parametrize(
    "options",
    [
        ("--prefill-chunk", "1"),
        ("--prefill-chunk", "7"),
        ("--prefill-chunk", "64"),
        ("--prefill-chunk", "512"),
        ("--max-batch-size", "2"),
        ("--max-batch-size", "3", "--scheduler", "shortest", "--prefill-chunk", "5"),
        ("--kv-tokens", "128", "--max-model-len", "128"),
        ("--threads", "2"),
    ],
    ids=" ".join,
)
def test_the_words_do_not_depend_on_the_company(alone: list[str], options: tuple[str, ...]) -> None:
    # The engine waits for all of them, so that they begin together.
    with (
        serving(*SMALL, "--max-wait-ms", "300", *options) as server,
        ThreadPoolExecutor(len(PROMPTS)) as pool,
    ):
        futures = [pool.submit(server.text, prompt=text, max_tokens=40) for text in PROMPTS]
        assert [future.result() for future in futures] == alone


def spans(server: Server, count: int, **body: Any) -> list[tuple[float, float]]:
    """Return when some simultaneous streams begin and end, in the order of their beginning."""

    def ask(_: int) -> tuple[float, float]:
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}))
        response = connection.getresponse()
        response.readline()
        begin = time.monotonic()
        response.read()
        connection.close()
        return begin, time.monotonic()

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(ask, range(count)))


@pytest.mark.parametrize(
    ("options", "together"),
    [
        (("--kv-tokens", "1024"), True),
        (("--kv-tokens", "512"), False),
        (("--max-batch-size", "1"), False),
    ],
)
def test_sequences_wait_for_room(options: tuple[str, ...], *, together: bool) -> None:
    with serving(*SMALL, "--max-model-len", "512", *options) as server:
        body = {"prompt": "to be", "max_tokens": 400, "ignore_eos": True}
        (_, end), (begin, _) = spans(server, 2, **body)
    assert (begin < end - 0.02) is together


@pytest.mark.parametrize("stream", [True, False])
def test_who_disconnects_makes_room(*, stream: bool) -> None:
    with serving("--max-batch-size", "1", "--max-model-len", "8192") as server:
        # Minutes of work, and someone who waits behind it.
        body = {"prompt": "to be", "max_tokens": 8000, "ignore_eos": True, "stream": stream}
        running, waiting = server.connect(), server.connect()
        running.request("POST", "/v1/completions", json.dumps(body))
        if stream:
            assert running.getresponse().readline().startswith(b"data:")
        time.sleep(0.2)
        waiting.request("POST", "/v1/completions", json.dumps(body))
        time.sleep(0.1)
        done = threading.Event()

        def ask() -> None:
            server.complete(prompt="to be", max_tokens=2)
            done.set()

        thread = threading.Thread(target=ask)
        thread.start()
        assert not done.wait(0.5)
        waiting.close()
        assert not done.wait(0.2)
        for connection in (running, waiting):
            if connection.sock is not None:
                connection.sock.close()
        running.close()
        thread.join(10)
        assert done.is_set()


def test_it_is_not_healthy_before_it_is_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Large enough to be seen loading.
    process = start("--port", str(port), "--layers", "24", "--hidden", "512", "--heads", "8")
    server = Server(process, port)
    seen: list[int] = []
    try:
        deadline = time.monotonic() + 30
        while seen[-1:] != [200] and time.monotonic() < deadline:
            try:
                seen.append(server.request("GET", "/health")[0])
            except ConnectionRefusedError:
                time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert set(seen) == {503, 200}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_even_when_it_is_busy(number: signal.Signals) -> None:
    with serving("--max-model-len", "8192") as server:
        connection, idle = server.connect(), server.connect()
        idle.connect()
        body = {"prompt": "to be", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        assert response.readline().startswith(b"data:")
        server.process.send_signal(number)
        assert server.process.wait(5) == 0
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            response.read()
        response.close()
        connection.close()
        idle.close()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--port", str(taken.getsockname()[1]))
        _, error = process.communicate(timeout=10)
    assert process.returncode == 1
    assert error.startswith("tiny_llm: cannot listen on 127.0.0.1:")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--hidden", "100", "--heads", "3"), "--hidden must be"),
        (("--kv-tokens", "100"), "--kv-tokens must be"),
        (("--vocab", "7000"), "--vocab must be"),
        (("--max-batch-size", "0"), "must be at least 1"),
        (("--threads", "x"), "--threads"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], part: str) -> None:
    process = start(*options)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 2
    assert part in error
