"""The NVIDIA devices of this machine, from NVML or nvidia-smi."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.nvml import NvmlUnavailable
from pytest_autotune.gpu.readings import Gpu, Mig

#: Seconds that nvidia-smi has for an answer.
_TIMEOUT: Final = 10.0

_NO_DEVICES: Final = "No devices were found"
#: The exit statuses of nvidia-smi are those of NVML.
_NOT_FOUND: Final = 6
_VERSION_MISMATCH: Final = 18

#: A file of every Jetson, and the folder that WSL2 has the driver's tools in, on PATH or not.
_TEGRA: Final = Path("/etc/nv_tegra_release")
_WSL: Final = Path("/usr/lib/wsl/lib")

#: A Jetson's begins without GPU.
_UUID: Final = re.compile(r"GPU-|[0-9a-f]{8}-[0-9a-f]{4}-")
_GPU: Final = re.compile(r"GPU \d+: .*\(UUID: (?P<uuid>GPU-[^)\s]+)\)")
_MIG: Final = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>MIG-[^)\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The devices, and the source that named them.

    ``problem`` is why there are none, or why NVML was not used although nvidia-smi works.
    """

    gpus: tuple[Gpu, ...]
    source: Literal["nvml", "nvidia-smi", "none"]
    problem: str = ""


class _NoAnswer(Exception):
    """The tool nvidia-smi did not answer; the message says why."""


@cache
def inventory() -> Inventory:
    """Return this machine's devices: from NVML if it can tell, else from nvidia-smi.

    The answer is kept for the life of the process (until ``inventory.cache_clear()``).
    """
    try:
        found = nvml.gpus()
    except NvmlUnavailable as error:
        return _from_tool(str(error))
    problem = "" if found else "the NVIDIA driver works, but there is no device it could use"
    return Inventory(gpus=found, source="nvml", problem=problem)


@cache
def driver_version() -> str | None:
    """Return the driver's version, None if unknown; kept like the inventory."""
    try:
        return nvml.driver().version
    except NvmlUnavailable:
        pass
    try:
        answer = _ask_tool("--query-gpu=driver_version", "--format=csv,noheader")
    except _NoAnswer:
        return None
    found = re.match(r"\d+(\.\d+)+$", answer, re.MULTILINE)
    return found and found.group()


def _from_tool(problem: str) -> Inventory:
    if _tool() is None:
        if _TEGRA.exists():
            problem = f"{problem}; on a Jetson before JetPack 6 set CUDA_VISIBLE_DEVICES=0"
        return Inventory(
            gpus=(), source="none", problem=f"{problem} (and there is no nvidia-smi either)"
        )
    try:
        found = _query_tool()
    except _NoAnswer as error:
        # After an update of the driver, both fail for the same reason.
        said = problem if str(error) == problem else f"{error} (and NVML: {problem})"
        return Inventory(gpus=(), source="none", problem=said)
    if not found:
        problem = f"nvidia-smi finds no device (and NVML: {problem})"
    return Inventory(gpus=found, source="nvidia-smi", problem=problem)


def _query_tool() -> tuple[Gpu, ...]:
    answer = _ask_tool("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
    # The tool mixes warnings in, as of a corrupted inforom.
    found = [gpu for line in answer.splitlines() if (gpu := _parse(line))]
    if not found and answer:
        raise _NoAnswer(
            f"nvidia-smi did not answer with a list of devices: {answer.splitlines()[0]!r}"
        )
    if not found:
        return ()
    instances = _mig({gpu.uuid: gpu.name for gpu in found})
    divided = _in_mig_mode()
    return tuple(
        replace(gpu, mig=tuple(instances[gpu.uuid]), mig_mode=gpu.uuid in divided) for gpu in found
    )


def _parse(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    match fields:
        case [index, uuid, name, memory] if index.isdecimal() and _UUID.match(uuid):
            # In MiB; something like [N/A] where the device shares the host's memory.
            size = int(memory) * 2**20 if memory.isdecimal() else 0
            return Gpu(index=int(index), uuid=uuid, name=name, memory=size)
    return None


def _in_mig_mode() -> set[str]:
    """Return the UUIDs of the devices in MIG mode, none where the tool does not know the mode."""
    try:
        answer = _ask_tool("--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")
    except _NoAnswer:
        return set()
    pairs = [[field.strip() for field in line.split(",")] for line in answer.splitlines()]
    return {pair[0] for pair in pairs if pair[1:] == ["Enabled"]}


def _mig(names: dict[str, str]) -> dict[str, list[Mig]]:
    """Return the MIG instances by their device's UUID, of devices given by UUID and name."""
    found: dict[str, list[Mig]] = {uuid: [] for uuid in names}
    try:
        listing = _ask_tool("-L")
    except _NoAnswer:
        return found
    device = ""
    for line in listing.splitlines():
        if gpu := _GPU.match(line):
            device = gpu["uuid"]
        elif (mig := _MIG.match(line)) and device in found:
            name = f"{names[device]} MIG {mig['profile']}"
            found[device].append(Mig(uuid=mig["uuid"], name=name, memory=0))
    return found


def _tool() -> str | None:
    """Return the path of nvidia-smi, None without one."""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=str(_WSL))


def _ask_tool(*arguments: str) -> str:
    """Return the output of nvidia-smi, stripped; empty if there is no device."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed query to the driver's own tool
            [_tool() or "nvidia-smi", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _NoAnswer(f"nvidia-smi did not answer within {_TIMEOUT:g} s") from None
    except OSError as error:
        raise _NoAnswer(f"nvidia-smi cannot be run ({error.strerror})") from None
    said = done.stdout.strip()
    if done.returncode == _NOT_FOUND or said == _NO_DEVICES:
        return ""
    if done.returncode != 0:
        said = said or done.stderr.strip()
        status = _VERSION_MISMATCH if "version mismatch" in said else done.returncode
        detail = f": {said.splitlines()[0]}" if said else ""
        failed = f"nvidia-smi failed (status {done.returncode}){detail}"
        raise _NoAnswer(nvml.REASONS.get(status, failed))
    return said
