"""GPUs of AMD: how many there are, and why they cannot be leased where they cannot.

They are leased by number only. HIP reads ``CUDA_VISIBLE_DEVICES`` as CUDA does, unless one of its
own variables says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

#: The device of ROCm's driver, and what it knows of processors: GPUs, and CPUs without SIMD units.
_DRIVER: Final = Path("/dev/kfd")
_NODES: Final = Path("/sys/class/kfd/kfd/topology/nodes")
_MAPS: Final = Path("/proc/self/maps")
#: They outrank ``CUDA_VISIBLE_DEVICES``, or change what its numbers mean.
_OUTRANKING: Final = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


def count() -> int:
    """Return the number of AMD's GPUs that this process may use, those of processors included."""
    if not _DRIVER.exists():
        return 0
    return sum(_is_gpu(path) for path in _NODES.glob("*/properties"))


def _is_gpu(properties: Path) -> bool:
    # Of GPUs of other containers it may not be read.
    with suppress(OSError):
        for line in properties.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "simd_count":
                return value.strip() != "0"
    return False


def is_used() -> bool:
    """Return whether this process has loaded HIP, as it does with a ROCm build of PyTorch."""
    with suppress(OSError):
        return "/libamdhip64.so" in _MAPS.read_text()
    return False


def outranked(environment: Mapping[str, str]) -> str:
    """Return why ``CUDA_VISIBLE_DEVICES`` does not choose GPUs here, empty where it does."""
    for name in _OUTRANKING:
        value = environment.get(name, "").strip()
        if value and not value.startswith("-"):
            return (
                f"{name}={value!r} outranks CUDA_VISIBLE_DEVICES, by which AMD's GPUs are leased; "
                "set CUDA_VISIBLE_DEVICES instead, which HIP reads, too"
            )
    return ""


def unlisted(number: int) -> str:
    """Return why none of so many GPUs can be leased: nobody listed them."""
    listed = ",".join(map(str, range(number)))
    return (
        f"this machine has GPUs of AMD ({number}), which are leased only where "
        f"CUDA_VISIBLE_DEVICES lists their numbers; set CUDA_VISIBLE_DEVICES={listed}, which HIP "
        "reads, too, or mark the study gpus=0"
    )
