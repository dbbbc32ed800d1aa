"""Load generators that others made, run as they are installed, their results under our names.

Metrics that a tool does not report are left out, never made up. The tests read real output of
each tool.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pytest_autotune.errors import LoadTestError
from pytest_autotune.load.adapters import aiperf, guidellm, vllm
from pytest_autotune.load.job import Job
from pytest_autotune.spec.scenario import Scenario
from pytest_autotune.system.listeners import is_local
from pytest_autotune.system.processes import OWN_GROUP
from pytest_autotune.system.scratch import scratch_folder
from pytest_autotune.text.printable import printable_lines

_POLL_SECONDS: Final = 0.2
#: Of a tool's output so many characters are shown, after secrets in so many bytes were masked.
_TAIL: Final = 2000
_READ: Final = 65536


#: Modules with ``command`` (write the input, return argv), ``environment`` and ``read`` (metrics).
ADAPTERS: Final[Mapping[str, Any]] = {"aiperf": aiperf, "guidellm": guidellm, "vllm": vllm}


def run_installed(
    name: str,
    job: Job,
    scenario: Scenario,
    check: Callable[[], None],
    mask: Callable[[str], str],
) -> dict[str, float]:
    """Run one level with the load generator ``name`` and return its metrics.

    ``check`` is called all the while; an error from it ends the run. Raises
    :class:`LoadTestError` where the tool is missing, cannot do what is asked, or fails.
    """
    adapter = ADAPTERS[name]
    # On PATH, or installed beside this interpreter.
    places = (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent))
    program = shutil.which(adapter.PROGRAM, path=os.pathsep.join(places))
    if program is None:
        raise LoadTestError(
            f"benchmark.generator is {name!r}, but there is no {adapter.PROGRAM} on PATH: "
            f"{adapter.INSTALL}"
        )
    if job.tokenizer is None:
        raise LoadTestError(
            f"benchmark.generator {name!r} needs benchmark.model_tokenizer to make its prompts"
        )
    # As our own requests: answers of the length asked for; a null takes the key away.
    body = {"ignore_eos": True, **job.extra_body}
    job = replace(job, extra_body={key: v for key, v in body.items() if v is not None})
    with scratch_folder("autotune-load-") as folder:
        try:
            command = adapter.command(job, scenario, folder)
            output = _run([program, *command[1:]], _environment(adapter, job), folder, check)
        except ValueError as error:
            raise LoadTestError(f"{name}: {error}") from None
        try:
            metrics: dict[str, float] = adapter.read(folder)
        except (ValueError, LookupError, TypeError) as error:
            said = printable_lines(mask(output))[-_TAIL:].strip()
            raise LoadTestError(
                f"{name} gave no result that can be read ({error}); it said:\n{said}"
            ) from None
    return metrics


def _environment(adapter: Any, job: Job) -> dict[str, str]:
    bearer = job.headers.get("Authorization", "").removeprefix("Bearer ") or None
    changed = {**os.environ, **adapter.environment(bearer)}
    found = {name: value for name, value in changed.items() if value is not None}
    bypassed = found.get("no_proxy") or found.get("NO_PROXY") or ""
    if bypassed != "*" and is_local(job.url):
        # A proxy would see the key, and what were measured is the proxy.
        hosts = ",".join(filter(None, (bypassed, urlsplit(job.url).hostname)))
        found |= {"no_proxy": hosts, "NO_PROXY": hosts}
    return found


def _run(
    command: list[str], environment: dict[str, str], folder: Path, check: Callable[[], None]
) -> str:
    """Run a command to its end, which an interruption is, too; return its last words."""
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program that the spec names; argv, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            **OWN_GROUP,
        )
        try:
            while process.poll() is None:
                check()
                time.sleep(_POLL_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with log.open("rb") as output:
        output.seek(max(0, log.stat().st_size - _READ))
        return output.read().decode("utf-8", "replace")
