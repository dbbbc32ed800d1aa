"""Servers as local processes."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from pytest_autotune.errors import LaunchError
from pytest_autotune.gpu.visible import VISIBLE
from pytest_autotune.serving import supervisor
from pytest_autotune.serving.gpus import process_gpus
from pytest_autotune.serving.launch import Launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.ports import PortReservation
from pytest_autotune.serving.running import Exit
from pytest_autotune.system.processes import OWN_GROUP

_HOST: Final = "127.0.0.1"
_VMSTAT: Final = Path("/proc/vmstat")
#: Time that the kernel may take to end a killed process.
_AFTER_KILL_SECONDS: Final = 10.0
#: All that a pipe holds.
_PIPE_BYTES: Final = 1 << 16


def check_command(launch: Launch) -> None:
    """Raise :class:`LaunchError` if the command cannot be found."""
    program = launch.argv[0]
    folder = launch.folder
    if not folder.is_dir():
        raise LaunchError(f"{launch.spec.at('working_directory')}: {folder} is no folder")
    if program_path(launch, program) is None:
        engine = launch.spec.preset
        hint = f"; install {engine.title} here" if engine is not None else ""
        raise LaunchError(
            f"{launch.spec.at('command')}: there is no program {program!r} on PATH{hint}"
        )
    if not launch.is_told_its_port:
        raise LaunchError(
            f"{launch.spec.at('command')}: {{port}} appears nowhere, so the server cannot know "
            "where to listen; pass it, as in '--port', '{port}', or in server.environment"
        )


def program_path(launch: Launch, program: str) -> str | None:
    """Return the program's path: as given, on the server's PATH, or beside this interpreter."""
    if os.sep in program:
        path = launch.folder / program
        return str(path) if path.exists() else None
    beside = str(Path(sys.executable).parent)
    path_variable = _environment(launch).get("PATH", os.defpath)
    # A run of .venv/bin/pytest without activation means that environment.
    return shutil.which(program, path=os.pathsep.join((path_variable, beside)))


def _environment(launch: Launch, port: int = 0) -> dict[str, str]:
    # pytest's variable describes the test, not the server.
    changed = {**os.environ, "PYTEST_CURRENT_TEST": None, **launch.variables(_HOST, port)}
    environment = {name: value for name, value in changed.items() if value is not None}
    return {**environment, **process_gpus(launch, environment.get(VISIBLE))}


class ProcessServer:
    """A server in a process group of its own, under a supervisor."""

    def __init__(self, launch: Launch, log: LogFile, *, hold_port: bool = True) -> None:
        """Start it. Its port is held until it ends, unless it cannot bind a port that is held."""
        self._reservation = PortReservation(_HOST)
        self._grace = launch.spec.stop_timeout
        self._exit: Exit | None = None
        self._pid: int | None = None
        self._stopped = False
        self._oom_kills = _oom_kills()
        self.base_url = f"http://{_HOST}:{self._reservation.port}"
        command = launch.command(_HOST, self._reservation.port)
        command[0] = program_path(launch, command[0]) or command[0]
        self.argv = command
        if not hold_port:
            self._reservation.release()
        reader, writer = os.pipe()
        try:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own file; argv, no shell
                [
                    sys.executable, "-I", "-S", supervisor.__file__,
                    str(self._grace), str(writer), "--", *command,
                ],
                cwd=launch.folder,
                env=_environment(launch, self._reservation.port),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                **OWN_GROUP,
            )  # fmt: skip
        except BaseException:
            os.close(reader)
            self._reservation.release()
            raise
        finally:
            os.close(writer)
        assert self._supervisor.stdout is not None
        self._log = log
        self._output = self._supervisor.stdout
        os.set_blocking(self._output.fileno(), False)
        self._reading = threading.Lock()
        self._pump = threading.Thread(target=self._take_all, daemon=True)
        self._pump.start()
        self._reports = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._reports.start()

    @property
    def description(self) -> str:
        """The process, for people."""
        return f"process {self._pid or self._supervisor.pid}"

    def exited(self) -> Exit | None:
        """Return the process's end, None while it runs."""
        if self._exit is None and self._supervisor.poll() is not None:
            # It reports before it ends, so its report is on its way.
            self._reports.join(1.0)
            if self._exit is None:
                self._exit = Exit(status=self._supervisor.returncode or 1)
        if self._exit is not None:
            # Its last words are the reason. They are in the pipe, as it wrote them before its end,
            # but on a busy machine the thread may not have come to them.
            self._take()
        return self._exit

    #: All its processes are known.
    hands_on: ClassVar[bool] = False

    @property
    def is_here(self) -> bool:
        """Return True: it is a child of ours."""
        return True

    def served_seconds(self) -> float | None:
        """Return 0, as all of it descends from this process."""
        return 0.0

    def stop(self) -> None:
        """Terminate the group, kill it after the grace time."""
        if self._stopped:
            return
        assert self._supervisor.stdin is not None
        with suppress(OSError):
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(self._grace + _AFTER_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        if self._pid is not None and self._supervisor.returncode != 0:
            # Only where the supervisor itself was killed is anything left; otherwise the
            # number may be somebody else's by now.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self._pump.join(1.0)
        self._reports.join(1.0)
        if not self._pump.is_alive():
            self._output.close()
        self._reservation.release()
        # Last, so that an end that was interrupted is repeated.
        self._stopped = True

    def _take_all(self) -> None:
        """Log the output as it comes, until nobody can write more."""
        waiting = select.poll()
        waiting.register(self._output, select.POLLIN)
        while self._take():
            waiting.poll()

    def _take(self) -> bool:
        """Log what the pipe holds; return whether there may be more."""
        # Reading and logging are one step, so that the log is up to date when this returns.
        with self._reading, suppress(ValueError, OSError):
            try:
                chunk = os.read(self._output.fileno(), _PIPE_BYTES)
            except BlockingIOError:
                return True
            self._log.write(chunk)
            return bool(chunk)
        return False

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader) as reports:
            for line in reports:
                what, value = line.split()
                if what == "pid":
                    self._pid = int(value)
                else:
                    self._exit = Exit(status=int(value), out_of_memory=self._ran_out(int(value)))

    def _ran_out(self, status: int) -> bool:
        """Return whether the kernel killed it for memory, by the kernel's counter."""
        return status in {-signal.SIGKILL, 128 + signal.SIGKILL} and _oom_kills() > self._oom_kills


def _oom_kills() -> int:
    """Return the number of processes that the kernel has killed for memory, 0 if unknown."""
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
