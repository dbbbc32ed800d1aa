"""The OpenAI API: what a request asks for, and what is said in reply."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .engine import Event, Sampling, Sequence
from .wire import HTTPError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .engine import Engine, FinishReason
    from .tokenizer import Tokenizer
    from .wire import Connection, Request

MODEL = "tiny-llm"
PATHS = ("/health", "/v1/models", "/v1/completions", "/v1/chat/completions")
#: As in OpenAI's API. A chat goes on for as long as there is room.
COMPLETION_TOKENS = 16
#: What would change the response, and the values with which it does not.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "echo": (None, False),
    "logprobs": (None, False),
    "n": (None, 1),
    "stop": (None, []),
    "tools": (None, []),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request for a completion, understood."""

    chat: bool
    stream: bool
    include_usage: bool
    sequence: Sequence
    events: asyncio.Queue[Event]


class API:
    """The routes. While there is no engine, the answer is that the model is loading."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.engine: Engine | None = None
        self._tokenizer = tokenizer
        self._created = int(time.time())

    async def handle(self, request: Request, connection: Connection) -> None:
        """Answer a request."""
        match request.method, request.path:
            case "GET", "/health":
                self._ready()
                await connection.respond({"status": "ok"})
            case "GET", "/v1/models":
                await connection.respond({"object": "list", "data": [self._model()]})
            case "POST", ("/v1/completions" | "/v1/chat/completions") as path:
                call = self._understand(request.body, chat=path == "/v1/chat/completions")
                await self._answer(call, connection)
            case method, path:
                if path in PATHS:
                    raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not {method}")
                raise HTTPError(HTTPStatus.NOT_FOUND, f"There is nothing at {path}")

    def _ready(self) -> Engine:
        if self.engine is None:
            raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "The model is loading")
        return self.engine

    def _model(self) -> dict[str, Any]:
        return {
            "id": MODEL,
            "object": "model",
            "created": self._created,
            "owned_by": "pytest-autotune",
            "max_model_len": self._ready().shape.max_length,
        }

    def _understand(self, body: bytes, *, chat: bool) -> Call:
        limit = self._ready().shape.max_length
        try:
            options = json.loads(body)
        except ValueError as error:
            raise _bad(f"The body is not JSON: {error}") from error
        if not isinstance(options, dict):
            raise _bad("The body is not a JSON object")
        model = options.get("model")
        if model not in (None, MODEL):
            raise HTTPError(HTTPStatus.NOT_FOUND, f"There is no model {model!r} but {MODEL!r}")
        for name, harmless in UNSUPPORTED.items():
            if options.get(name) not in harmless:
                raise _bad(f"{name!r} is not supported")
        prompt = self._conversation(options) if chat else self._prompt(options)
        if not 0 < len(prompt) < limit:
            raise _bad(f"The prompt has {len(prompt)} of 1 to {limit - 1} possible tokens")
        sampling = _sampling(options, limit - len(prompt) if chat else COMPLETION_TOKENS)
        if len(prompt) + sampling.max_tokens > limit:
            raise _bad(
                f"The maximum context length is {limit} tokens; this is a prompt of "
                f"{len(prompt)} and a completion of up to {sampling.max_tokens}"
            )
        stream_options = options.get("stream_options") or {}
        if not isinstance(stream_options, dict):
            raise _bad("'stream_options' must be an object")
        events: asyncio.Queue[Event] = asyncio.Queue()
        return Call(
            chat=chat,
            stream=bool(options.get("stream")),
            include_usage=bool(stream_options.get("include_usage")),
            sequence=Sequence(prompt, sampling, events.put_nowait),
            events=events,
        )

    def _prompt(self, options: dict[str, Any]) -> list[int]:
        prompt = options.get("prompt")
        match prompt:
            case str(text) | [str(text)]:
                return self._tokenizer.encode(text)
            case [list(tokens)] | list(tokens) if all(type(token) is int for token in tokens):
                if all(0 <= token < self._tokenizer.size for token in tokens):
                    return tokens
                raise _bad(f"Token ids must be from 0 to {self._tokenizer.size - 1}")
        raise _bad("'prompt' must be a string, a list of token ids, or a list of one of these")

    def _conversation(self, options: dict[str, Any]) -> list[int]:
        """Return the tokens of a chat: for each message, the role and the words; then a role."""
        words = []
        match options.get("messages"):
            case [_, *_] as messages:
                for message in messages:
                    words += _message(message)
            case _:
                raise _bad("'messages' must be a list with at least one message")
        return self._tokenizer.encode(" ".join([*words, "assistant"]))

    async def _answer(self, call: Call, connection: Connection) -> None:
        sequence, engine, reply = call.sequence, self._ready(), _Reply(call)
        engine.submit(sequence)
        try:
            with connection.cancelled_with_client():
                if call.stream:
                    await self._stream(call, connection, reply)
                else:
                    pieces = [piece async for piece in self._pieces(call)]
                    choice = reply.choice("".join(text for text, _ in pieces), pieces[-1][1])
                    await connection.respond(reply.document([choice], sequence))
        finally:
            engine.cancel(sequence)

    async def _stream(self, call: Call, connection: Connection, reply: _Reply) -> None:
        await connection.begin_events()
        async for text, finish_reason in self._pieces(call):
            document = reply.document([reply.choice(text, finish_reason)])
            await connection.send_event(json.dumps(document))
        if call.include_usage:
            await connection.send_event(json.dumps(reply.document([], call.sequence)))
        await connection.send_event("[DONE]")
        await connection.end_events()

    async def _pieces(self, call: Call) -> AsyncIterator[tuple[str, FinishReason | None]]:
        """Yield the text of each token, and with the last one why it is the last."""
        finish_reason = None
        while finish_reason is None:
            _, token, finish_reason = await call.events.get()
            # The token that ends a text is not part of it.
            yield "" if finish_reason == "stop" else self._tokenizer.decode([token]), finish_reason


class _Reply:
    """The documents that a call is answered with."""

    def __init__(self, call: Call) -> None:
        kind = "chat.completion" if call.chat else "text_completion"
        self._content = "text"
        if call.chat:
            self._content = "delta" if call.stream else "message"
        self._frame = {
            "id": f"{'chatcmpl' if call.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if call.chat and call.stream else kind,
            "created": int(time.time()),
            "model": MODEL,
        }

    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """Return all of the text, or the next part of it."""
        content: Any = text
        if self._content != "text":
            content = {"role": "assistant", "content": text}
        return {"index": 0, self._content: content, "finish_reason": finish_reason}

    def document(
        self, choices: list[dict[str, Any]], used: Sequence | None = None
    ) -> dict[str, Any]:
        """Return a response or a chunk of one, which may tell how many tokens were used."""
        document = {**self._frame, "choices": choices}
        if used is not None:
            document["usage"] = {
                "prompt_tokens": len(used.prompt),
                "completion_tokens": used.generated,
                "total_tokens": len(used.prompt) + used.generated,
            }
        return document


def _message(message: Any) -> list[str]:
    """Return the role and the texts of a message."""
    match message:
        case {"role": str(role), "content": str(text)}:
            return [role, text]
        case {"role": str(role), "content": [*parts]}:
            texts = [part["text"] for part in parts if isinstance(part, dict) and "text" in part]
            if len(texts) == len(parts) and all(isinstance(text, str) for text in texts):
                return [role, *texts]
    raise _bad("A message must have a 'role', and a 'content' that is text")


def _sampling(options: dict[str, Any], tokens: int) -> Sampling:
    """Return how to sample; ``tokens`` is how many there are if the request does not say."""

    def option(name: str, default: Any, types: tuple[type, ...], low: float, high: float) -> Any:
        value = options.get(name)
        if value is None:
            return default
        # Not isinstance(), to which True is an integer.
        if type(value) not in types or not low <= value <= high:
            raise _bad(f"{name!r} must be a number from {low} to {high}, and not {value!r}")
        return value

    most = 2**63 - 1
    tokens = option("max_tokens", tokens, (int,), 1, most)
    return Sampling(
        max_tokens=option("max_completion_tokens", tokens, (int,), 1, most),
        temperature=option("temperature", 1.0, (int, float), 0, 2),
        seed=option("seed", None, (int,), 0, most),
        ignore_eos=bool(options.get("ignore_eos")),
    )


def _bad(message: str) -> HTTPError:
    return HTTPError(HTTPStatus.BAD_REQUEST, message)
