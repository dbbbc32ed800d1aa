"""Processes of others on a device, and how they are named to people."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.nvml import NvmlUnavailable
from pytest_autotune.gpu.readings import Process
from pytest_autotune.gpu.visible import Device
from pytest_autotune.system.processes import family

_PROC: Final = Path("/proc")
#: The inode of the machine's own PID namespace (``PROC_PID_INIT_INO`` of Linux).
_MACHINES_NAMESPACE: Final = 0xEFFFFFFC
#: Files that a process has open while it computes: of the driver, of Jetson's, and of WSL2's.
_DRIVER_FILES: Final = ("/dev/nvidia", "/dev/nvhost", "/dev/nvmap", "/dev/nvgpu", "/dev/dxg")


def strangers(device: Device, root: int | None = None) -> tuple[Process, ...]:
    """Return the processes on a device that neither are ``root`` nor descend from it.

    The default is this process. Empty if NVML cannot tell.
    """
    if device.uuid is None:
        return ()
    try:
        found = nvml.processes(device.uuid)
    except NvmlUnavailable:
        return ()
    return strangers_among(found, root)


def strangers_among(found: Iterable[Process], root: int | None = None) -> tuple[Process, ...]:
    """Return those of the processes that neither are ``root`` nor descend from it.

    A number that is no process here belongs to another PID namespace, perhaps to this run itself,
    and is left out.
    """
    here = [process for process in found if _is_here(process.pid)]
    if not here:
        return ()
    ours = family(os.getpid() if root is None else root)
    return tuple(process for process in here if process.pid not in ours)


def _is_here(pid: int) -> bool:
    """Return whether a number that the driver told is that of a process here.

    In a container the driver may tell the host's numbers, which can also be those of other
    processes here. So there a process counts only with a file of the driver open.
    """
    if not (_PROC / str(pid)).exists():
        return False
    with suppress(OSError):
        if (_PROC / "self" / "ns" / "pid").stat().st_ino == _MACHINES_NAMESPACE:
            return True
    try:
        files = list((_PROC / str(pid) / "fd").iterdir())
    except PermissionError:
        # It is somebody else's, and may be computing.
        return True
    except OSError:
        return False
    return any(_target(file).startswith(_DRIVER_FILES) for file in files)


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""


def describe(process: Process) -> str:
    """Return a description of a process: ``pid 4242 (python, 1024 MiB)``."""
    details = []
    with suppress(OSError):
        details.append((_PROC / str(process.pid) / "comm").read_text().strip())
    if process.memory is not None:
        details.append(f"{process.memory / 2**20:.0f} MiB")
    return f"pid {process.pid}" + (f" ({', '.join(details)})" if details else "")
