"""Continuous batching: which tokens of which requests are computed together, and when.

One thread computes step after step. In a step, every running sequence that has been through its
prompt gets its next token, and up to ``prefill_chunk`` tokens of the prompts of the others are
worked off. Sequences join and leave between steps.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from .model import Cache, Float32, Model
from .tokenizer import EOS

if TYPE_CHECKING:
    from collections.abc import Callable

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Everything that may be tuned, except for the threads of the BLAS."""

    max_batch_size: int
    max_wait: float
    prefill_chunk: int
    kv_tokens: int
    scheduler: Literal["fcfs", "shortest"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text goes on, and for how long."""

    max_tokens: int
    temperature: float
    seed: int | None
    ignore_eos: bool


class Sequence:
    """A prompt and what becomes of it.

    ``receive`` is called with each token by whoever the engine delivers its events to.
    """

    def __init__(
        self, prompt: list[int], sampling: Sampling, receive: Callable[[Event], None]
    ) -> None:
        self.prompt, self.sampling, self.receive = prompt, sampling, receive
        #: What it may take up in the cache, at most.
        self.room = len(prompt) + sampling.max_tokens
        #: Tokens that the model has not seen yet.
        self.pending = prompt
        self.generated = 0
        self.cancelled = False
        self._rng = np.random.default_rng(sampling.seed)

    def sample(self, logits: Float32) -> Event:
        """Choose the next token."""
        sampling = self.sampling
        if sampling.temperature:
            # The maximum after adding Gumbel noise is a sample from the softmax.
            noise = self._rng.gumbel(size=len(logits)).astype(np.float32)
            logits = logits / np.float32(sampling.temperature) + noise
        token = int(logits.argmax())
        self.pending = [token]
        self.generated += 1
        if token == EOS and not sampling.ignore_eos:
            return Event(self, token, "stop")
        return Event(self, token, "length" if self.generated == sampling.max_tokens else None)


class Event(NamedTuple):
    """A new token of a sequence, and if it is the last, why."""

    sequence: Sequence
    token: int
    finish_reason: FinishReason | None


class Engine:
    """A model at work.

    ``deliver`` is called with the events of each step, ``on_exit`` when the thread ends for
    whatever reason; both on the engine's thread.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy,
        *,
        deliver: Callable[[list[Event]], object],
        on_exit: Callable[[], object],
    ) -> None:
        self.shape = model.shape
        self._model, self._policy = model, policy
        self._deliver, self._on_exit = deliver, on_exit
        self._changed = threading.Condition()
        # What follows is shared between threads and guarded by the condition …
        self._waiting: deque[Sequence] = deque()
        self._stopping = False
        # … except for what is running, which is the engine's alone. Dicts keep their order.
        self._running: dict[Sequence, Cache] = {}
        # A daemon, so that a main thread that fails does not wait for it.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Have a sequence computed as soon as there is room for it."""
        with self._changed:
            self._waiting.append(sequence)
            self._changed.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Forget about a sequence, finished or not."""
        with self._changed:
            sequence.cancelled = True
            if sequence in self._waiting:
                self._waiting.remove(sequence)

    def stop(self) -> None:
        """End after the current step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._admit():
                if self._running and (events := self._step()):
                    self._deliver(events)
        finally:
            self._on_exit()

    def _admit(self) -> bool:
        """Wait for work, and move what there is room for from waiting to running."""
        policy = self._policy
        with self._changed:
            for sequence in [running for running in self._running if running.cancelled]:
                del self._running[sequence]
            if not self._running:
                self._changed.wait_for(lambda: self._stopping or self._waiting)
                # Those who come now share every step from the first; later they have to catch up.
                self._changed.wait_for(
                    lambda: self._stopping or len(self._waiting) >= policy.max_batch_size,
                    timeout=policy.max_wait,
                )
            self._fill()
            return not self._stopping

    def _fill(self) -> None:
        """Start waiting sequences, until one does not fit."""
        reserved = sum(sequence.room for sequence in self._running)
        while self._waiting and len(self._running) < self._policy.max_batch_size:
            following = self._waiting[0]
            if self._policy.scheduler == "shortest":
                following = min(self._waiting, key=lambda sequence: sequence.room)
            reserved += following.room
            # All that it may ever need, because there is no way to evict a sequence later.
            if reserved > self._policy.kv_tokens:
                break
            self._waiting.remove(following)
            self._running[following] = Cache(self.shape, following.room)

    def _step(self) -> list[Event]:
        """Compute one step; return the tokens that came out of it."""
        budget = self._policy.prefill_chunk
        batch: list[tuple[Sequence, list[int]]] = []
        for sequence in self._running:
            tokens = sequence.pending
            if not sequence.generated:
                tokens = tokens[:budget]
                budget -= len(tokens)
            if tokens:
                batch.append((sequence, tokens))
        logits = self._model.forward([(tokens, self._running[of]) for of, tokens in batch])
        events = []
        for (sequence, tokens), row in zip(batch, logits, strict=True):
            if len(tokens) < len(sequence.pending):
                sequence.pending = sequence.pending[len(tokens) :]
                continue
            event = sequence.sample(row)
            if event.finish_reason:
                del self._running[sequence]
            events.append(event)
        return events
