"""What measurements depend on besides the parameters: the machine and the interpreter."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def visible_gpus() -> int:
    """Return how many NVIDIA devices this process may use.

    ``CUDA_VISIBLE_DEVICES`` decides where it is set; otherwise ``nvidia-smi`` is asked, and
    its absence means none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [device.strip() for device in visible.split(",") if device.strip()]
        # CUDA ignores the first invalid entry and all that follow it.
        return devices.index("-1") if "-1" in devices else len(devices)
    return len(_gpu_names())


@cache
def _gpu_names() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed query to the driver's own tool
            [command, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


@cache
def _cpu_model() -> str:
    try:
        for line in _CPUINFO.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def fingerprint() -> Mapping[str, str]:
    """Return what makes measurements of two runs comparable, as short texts.

    Host names are left out on purpose: equal machines of a fleet share their studies.
    """
    return {
        "cpu": _cpu_model(),
        "cpus": str(os.cpu_count() or 1),
        "gpus": ", ".join(_gpu_names()) or "none",
        "machine": platform.machine(),
        "python": f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}",
        "system": platform.system(),
    }
