"""The supervisor of a server: it ends the server's whole process group with its test run.

Its standard input is a pipe whose other end pytest holds. The pipe closes when pytest asks for the
end, or was killed. Then the server's group is terminated and, after a while, killed. So no server
outlives its test run, however that ends. It uses the standard library only, and runs by path in
isolated mode.

Arguments: seconds to wait before killing, number of a descriptor to report on, ``--``, command. It
writes the server's process id on the descriptor, and its wait status if it ends by itself.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

_POLL_SECONDS = 0.02
_PR_SET_CHILD_SUBREAPER = 36
# As in pytest_autotune.system.processes, which says why; this file stands alone.
OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)


def main() -> int:
    """Run the command until it ends or its time has come; return an exit status."""
    grace, report = float(sys.argv[1]), int(sys.argv[2])
    command = sys.argv[4:]
    stopping: list[bool] = []
    _adopt()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.append(True))
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        server = subprocess.Popen(  # noqa: S603 - what the user's spec says to run
            command, stdin=subprocess.DEVNULL, **OWN_GROUP
        )
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        return 127
    os.write(report, f"pid {server.pid}\n".encode())
    while server.poll() is None and not stopping:
        ready, _, _ = select.select([sys.stdin, read], [], [])
        if read in ready:
            os.read(read, 4096)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            break
    if server.poll() is not None:
        # Told at once, as somebody may be waiting for a server that will never come.
        os.write(report, f"exit {server.returncode}\n".encode())
    _end_group(server, grace)
    return 0


def _end_group(server: subprocess.Popen[bytes], grace: float) -> None:
    """Terminate, then kill, what is left of the server's group."""
    deadline = time.monotonic() + grace
    left = _signal_group(server.pid, signal.SIGTERM)
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        if server.poll() is not None:
            _reap(server.pid)
        left = _signal_group(server.pid, 0)
    if left:
        _signal_group(server.pid, signal.SIGKILL)
    server.wait()


def _adopt() -> None:
    """Become the parent of what a server leaves behind, where the system can (Linux).

    Otherwise an orphan that has ended stays in its group until process 1 gets round to it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(group: int) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def _signal_group(group: int, number: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
