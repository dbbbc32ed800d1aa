"""The environment of measurements: the machine, the interpreter and libraries."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from pytest_autotune.gpu.visible import Device, caller_gpus
from pytest_autotune.system.processors import usable_processors

_CPUINFO = Path("/proc/cpuinfo")
#: Libraries whose version changes times. The versions are read, none is imported.
LIBRARIES: Final = (
    "cuda-python",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "flash-attn",
    "flashinfer-python",
    "jax",
    "jaxlib",
    "numba",
    "numba-cuda",
    "numpy",
    "scipy",
    "sglang",
    "tensorrt-llm",
    "torch",
    "triton",
    "vllm",
)
#: The hardware in a fingerprint; the rest is software, which people upgrade on purpose.
HARDWARE: Final = (
    "cpu", "cpus", "cpu_limit", "memory", "machine", "system", "gpus", "gpu_clocks",
)  # fmt: skip
_ABSENT: Final = "none"


def visible_gpus() -> int:
    """Return the number of devices that a trial of this run may use (see :mod:`.gpu.visible`)."""
    return caller_gpus().most


@cache
def _cpu_model() -> str:
    try:
        for line in _CPUINFO.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    """Return the machine's memory, rounded as it is sold."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{round(pages * size / 2**30)} GiB"


@cache
def cpu_limit() -> Mapping[str, str]:
    """Return how many CPUs this run may use, nothing where it may use all of them.

    SLURM and Kubernetes give jobs parts of machines, which are not as fast as the whole. It is the
    limit when a process first asks: a test that binds itself to a CPU changes no study.
    """
    usable = usable_processors()
    return {} if usable >= (os.cpu_count() or 1) else {"cpu_limit": f"{usable:.4g}"}


@cache
def _libraries() -> str:
    """Return the versions of the installed :data:`LIBRARIES`."""
    found = []
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found) or "none"


@cache
def _gpus(devices: tuple[Device, ...]) -> Mapping[str, str]:
    """Return model and number of the devices, driver, CUDA version and clocks policy."""
    from pytest_autotune.gpu import nvml
    from pytest_autotune.gpu.inventory import driver_version

    if not devices:
        return {"gpus": "none"}
    models = Counter(device.name or "unknown" for device in devices)
    found = {"gpus": ", ".join(f"{count} × {name}" for name, count in sorted(models.items()))}
    if not any(device.uuid for device in devices):
        return found
    found["gpu_driver"] = driver_version() or "unknown"
    with suppress(nvml.NvmlUnavailable):
        found["cuda"] = nvml.driver().cuda
        policies = {nvml.clocks_policy(device.uuid) for device in devices if device.uuid}
        found["gpu_clocks"] = "; ".join(sorted(policies))
    return found


def fingerprint() -> Mapping[str, str]:
    """Return the environment as short texts, equal where measurements are comparable.

    Host names are left out on purpose: equal machines of a fleet share their studies.
    """
    return {
        "cpu": _cpu_model(),
        "cpus": str(os.cpu_count() or 1),
        **cpu_limit(),
        "memory": _memory(),
        **_gpus(caller_gpus().devices),
        "libraries": _libraries(),
        "machine": platform.machine(),
        "python": f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}",
        "system": platform.system(),
    }


def machine_name(environment: Mapping[str, str]) -> str:
    """Return a short name of a machine: its GPUs, else its processor; empty if both are unknown."""
    gpus = environment.get("gpus", _ABSENT)
    if gpus != _ABSENT:
        return gpus
    cpu = environment.get("cpu", "")
    if not cpu or "cpus" not in environment:
        return cpu
    limit = f"{environment['cpu_limit']} of " if "cpu_limit" in environment else ""
    return f"{cpu} ({limit}{environment['cpus']} CPUs)"


def environment_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the differences between two fingerprints, none if they are comparable.

    Of the libraries only those that differ are named.
    """
    changes = []
    for name in {**old, **new}:
        if old.get(name) == new.get(name):
            continue
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        libraries = _library_changes(before, after) if name == "libraries" else ""
        changes.append(f"{name}: {libraries or f'{before} → {after}'}")
    return changes


def _library_changes(before: str, after: str) -> str:
    old, new = _versions(before), _versions(after)
    return ", ".join(
        f"{name} {new[name]} added"
        if name not in old
        else f"{name} {old[name]} removed"
        if name not in new
        else f"{name} {old[name]} → {name} {new[name]}"
        for name in sorted({**old, **new})
        if old.get(name) != new.get(name)
    )


def _versions(listed: str) -> Mapping[str, str]:
    """Return the versions by name of a fingerprint's ``libraries``."""
    parts = [item.partition(" ") for item in listed.split(", ") if item and item != _ABSENT]
    return {name: version for name, _, version in parts}
