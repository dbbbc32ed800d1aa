"""The ``inference_server`` of a test: one server, from launch to removal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pytest_autotune.errors import (
    ServerCrashed,
    ServerDied,
    ServerError,
    ServerNotReady,
    ServerOutOfMemory,
    ServerRefused,
)
from pytest_autotune.serving.fetch import NoAnswer, get
from pytest_autotune.serving.launch import Launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.running import Exit, RunningServer
from pytest_autotune.text.durations import duration
from pytest_autotune.text.printable import printable_lines

_POLL_SECONDS: Final = 0.05
#: SGLang's health check generates a token, which takes it up to 20 s; a server that dies
#: closes the connection, so waiting for an answer hides no death.
_PROBE_SECONDS: Final = 30.0
#: The last question may take this long, however little time is left for it.
_LEAST_PROBE_SECONDS: Final = 0.5
#: More than any health check says.
_PROBE_BYTES: Final = 1 << 20
_MESSAGE_LINES: Final = 15
#: Of longer lines, such as progress bars without end, the start is shown.
_MAX_SHOWN: Final = 1000
#: Words of engines when the device, or the host, has no memory left.
_MEMORY_WORDS: Final = re.compile(
    r"out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|\bMemoryError\b|"
    r"std::bad_alloc|Cannot allocate memory|failed to allocate .{0,200}buffer|"
    r"No available memory for the cache blocks",
    re.IGNORECASE,
)


class InferenceServer:
    """A running server. ``base_url`` is its address without ``/v1``; ``gpus`` its world size."""

    def __init__(
        self,
        launch: Launch,
        backend: RunningServer,
        log: LogFile | None,
        mask: Callable[[str], str],
    ) -> None:
        self.launch = launch
        self._backend = backend
        self._log = log
        self._mask = mask
        self.startup_seconds = 0.0

    def __repr__(self) -> str:
        """Show its description and address."""
        return f"<InferenceServer {self.description} at {self.base_url}>"

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""
        return self._backend.base_url

    @property
    def api_url(self) -> str:
        """The base URL of OpenAI clients: the address with ``/v1``."""
        return f"{self.base_url}/v1"

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that requests must carry: the API key, if the spec has one."""
        return self.launch.headers

    @property
    def gpus(self) -> int:
        """The number of GPUs that its parallel layout uses; 1 for a server on the CPU."""
        return self.launch.gpus

    @property
    def description(self) -> str:
        """A description for people: ``container …``, ``process …``, an address."""
        return self._backend.description

    @property
    def command(self) -> list[str]:
        """The arguments it was started with, secrets masked."""
        return list(map(self._mask, self._backend.argv))

    @property
    def image(self) -> str | None:
        """The image of its container, None without one."""
        return self.launch.image if self.launch.backend == "docker" else None

    @property
    def log_file(self) -> Path | None:
        """The file of its masked output; None for a server that somebody else runs."""
        return None if self._log is None else self._log.path

    def logs(self, tail: int | None = None) -> str:
        """Return its output so far, masked; with ``tail`` only that many lines."""
        if self._log is None:
            return ""
        return self._log.text() if tail is None else self._log.tail(tail)

    def last_words(self, lines: int) -> str:
        """Return the last ``lines`` of its output, safe to print: a server may say anything."""
        said = printable_lines(self.logs(tail=lines)).split("\n")
        return "\n".join(map(_shortened, said))

    def exited(self) -> Exit | None:
        """Return the server's end, None while it runs."""
        return self._backend.exited()

    @property
    def is_here(self) -> bool:
        """Return whether it runs on this machine."""
        return self._backend.is_here

    @property
    def hands_on(self) -> bool:
        """Return whether processes that are not known may do its work."""
        return self._backend.hands_on

    def served_seconds(self) -> float | None:
        """Return the processor time here of processes of it that are no children of ours."""
        return self._backend.served_seconds()

    def check_alive(self) -> None:
        """Raise :class:`ServerDied` or :class:`ServerOutOfMemory` if it has ended."""
        self._check(ServerDied)

    def stop(self) -> None:
        """End it and everything it started. May be called twice."""
        self._backend.stop()
        if self._log is not None:
            self._log.close()

    def wait_ready(self) -> None:
        """Wait until the health check passes; raise the fitting :class:`ServerError`.

        A server that ends is noticed at once, not at the deadline.
        """
        began = time.monotonic()
        deadline = began + self.launch.spec.startup_timeout
        said = "nothing listened on its port"
        listened = False
        while True:
            self._check(ServerCrashed)
            left = min(_PROBE_SECONDS, deadline - time.monotonic())
            answer = self._probe(max(_LEAST_PROBE_SECONDS, left))
            if answer is None:
                self.startup_seconds = time.monotonic() - began
                return
            if answer != "refused":
                listened, said = True, answer
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        self._check(ServerCrashed)
        waited = duration(self.launch.spec.startup_timeout)
        what = f"{self.description} at {self.base_url}"
        if not listened:
            raise ServerRefused(f"{what}: {said} within {waited} (startup_timeout)", self._tail())
        raise ServerNotReady(
            f"{what}: {self.launch.spec.health} {said} after {waited} (startup_timeout)",
            self._tail(),
        )

    def _check(self, kind: type[ServerError]) -> None:
        """Raise an error of ``kind`` if it has ended, or one that it ran out of memory."""
        ended = self._backend.exited()
        if ended is None:
            return
        detail = f"{self.description}: {ended}"
        tail = self._tail()
        if ended.out_of_memory:
            limit = self.launch.spec.memory
            reason = f", by its limit of {limit}" if limit else ""
            raise ServerOutOfMemory(f"{detail}: the kernel killed it{reason}", tail)
        words = _MEMORY_WORDS.search(self.logs(tail=100))
        if words is not None:
            raise ServerOutOfMemory(f"{detail}, after saying {words[0]!r}", tail)
        raise kind(detail, tail)

    def _tail(self) -> str:
        return self.last_words(_MESSAGE_LINES)

    def _probe(self, timeout: float) -> str | None:
        """Ask for the server's health; return None if it is well, else its answer."""
        url = self.base_url + self.launch.spec.health
        try:
            answer = get(url, self.headers, seconds=timeout, limit=_PROBE_BYTES)
        except NoAnswer as error:
            return "refused" if error.refused else str(error)
        return None if answer.ok else str(answer)


def _shortened(line: str) -> str:
    more = len(line) - _MAX_SHOWN
    return line if more <= 0 else f"{line[:_MAX_SHOWN]}… ({more} more characters)"
