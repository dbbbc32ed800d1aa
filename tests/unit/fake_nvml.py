"""A fake NVML that the real pynvml loads, and processes to ask with it.

pynvml keeps the library that it loaded for the life of a process, so nothing here loads it into
this one. ``tests/fake_nvml.c`` says what can be set.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from compiled import need_compiled

_CHILD = """
import pickle, sys
from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.inventory import driver_version, inventory
questions, answers = sys.stdin.buffer, sys.stdout.buffer
while True:
    try:
        kind, source = pickle.load(questions)
    except EOFError:
        break
    try:
        run = eval if kind == "eval" else exec
        answer = True, run(compile(source, "<asked>", kind), globals())
    except Exception as error:
        answer = False, error
    pickle.dump(answer, answers)
    answers.flush()
"""


def need_library(factory: pytest.TempPathFactory) -> Path:
    """Return the library, compiled once per session; without a compiler, skip the test."""
    return need_compiled(factory, "fake_nvml.c", "libnvidia-ml.so.1")


class FakeNvml:
    """Devices that can be changed while a process uses them; 8 idle H100 at first."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._state = folder / "nvml-state"
        self._values: dict[str, str] = {}
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find these devices."""
        others = os.environ.get("LD_LIBRARY_PATH")
        return {
            "LD_LIBRARY_PATH": f"{self._library.parent}{f':{others}' if others else ''}",
            "FAKE_NVML_STATE": str(self._state),
        }

    @property
    def inits(self) -> int:
        """How often processes have initialised the library."""
        log = self._state.with_name(f"{self._state.name}.inits")
        return log.stat().st_size if log.exists() else 0

    def set(self, key: str, value: object) -> None:
        """Change something at once, as ``set("0.power", 350_000)``."""
        self._values[key] = str(value)
        self._write()

    def unset(self, key: str) -> None:
        """Go back to the default."""
        self._values.pop(key, None)
        self._write()

    def _write(self) -> None:
        new = self._state.with_name(f"{self._state.name}.new")
        new.write_text("".join(f"{key}={value}\n" for key, value in self._values.items()))
        new.replace(self._state)


class Asked(AbstractContextManager["Asked"]):
    """A fresh Python process that evaluates what it is asked.

    It knows ``nvml``, ``inventory`` and ``driver_version``.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)

    def ask(self, expression: str) -> Any:
        """Return the value of ``expression`` there, or raise what it raised."""
        return self._send("eval", expression)

    def do(self, statements: str) -> None:
        """Execute ``statements`` there."""
        self._send("exec", statements)

    def _send(self, kind: str, source: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((kind, source), self._process.stdin)
        self._process.stdin.flush()
        fine, answer = pickle.load(self._process.stdout)  # noqa: S301 - of our own child
        if not fine:
            raise answer
        return answer
