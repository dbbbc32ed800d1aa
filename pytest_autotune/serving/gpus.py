"""The GPUs of a server, as its process or its container engine must be told of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_autotune.errors import LaunchError
from pytest_autotune.gpu.needs import is_remote
from pytest_autotune.gpu.visible import (
    ORDER,
    PCI_ORDER,
    VISIBLE,
    Device,
    caller_gpus,
    entries,
    names_of,
)
from pytest_autotune.serving.launch import Launch
from pytest_autotune.spec.server import ServerSpec

#: The kind of NVIDIA's devices in specifications of the Container Device Interface (CDI).
_CDI: Final = "nvidia.com/gpu="


def process_gpus(launch: Launch, inherited: str | None) -> dict[str, str]:
    """Return the variables that tell a server's process its GPUs, none where they stay as they are.

    ``inherited`` is what this process may see. An engine that reads numbers gets numbers.
    """
    spec = launch.spec
    shown: str | None = None
    if spec.without_gpus:
        shown = ""
    elif isinstance(spec.gpus, list | tuple):
        named = caller_gpus().named(spec.gpus)
        shown = names_of(named) if named else ",".join(spec.gpus)
    elif isinstance(spec.gpus, int):
        # Who narrowed the choice for this process (a lease, or whoever started it) meant its
        # servers, too.
        devices = (
            [str(number) for number in range(spec.gpus)]
            if inherited is None
            else entries(inherited)
        )
        shown = ",".join(devices[: spec.gpus])
    if spec.preset is not None and spec.preset.reads_gpu_numbers:
        numbers = _numbers(inherited if shown is None else shown)
        if numbers is not None:
            return {VISIBLE: numbers, ORDER: PCI_ORDER}
    return {} if shown is None else {VISIBLE: shown}


def _numbers(visible: str | None) -> str | None:
    """Return UUIDs as the driver's numbers; None where there are none, or not of whole cards."""
    names = entries(visible or "")
    if all(name.isdecimal() for name in names):
        return None
    devices = caller_gpus().named(names) or ()
    numbers = [str(device.index) for device in devices if device.index is not None]
    return ",".join(numbers) if numbers and len(numbers) == len(devices) else None


def mig_warning(spec: ServerSpec | None, devices: Sequence[Device]) -> str:
    """Return why a server's engine may fail on MIG instances, empty where it will not."""
    if spec is None or spec.backend != "process" or spec.preset is None:
        return ""
    return spec.preset.mig if any(device.is_instance for device in devices) else ""


def container_gpus(launch: Launch) -> int | Sequence[str] | None:
    """Return the GPUs of a container: their ids, their number (-1 for all), or None for none.

    NVIDIA's container tools know GPUs of this machine by the whole UUID or the driver's number.
    """
    wanted: str | int | Sequence[str] | None = launch.spec.gpus
    preset = launch.spec.preset
    if wanted is None:
        wanted = "all" if preset is not None and preset.gpus == "required" else "none"
    if launch.spec.without_gpus or wanted == "none":
        return None
    remote = is_remote(launch.spec)
    if not isinstance(wanted, str | int):
        return list(wanted) if remote else _ids(wanted)
    visible = None if remote else os.environ.get(VISIBLE)
    if visible is None:
        return wanted if isinstance(wanted, int) else -1
    # Who narrowed the choice for this process (a lease, or whoever started it) meant its
    # servers, too; and who left none, none.
    return _ids(entries(visible)[: wanted if isinstance(wanted, int) else None]) or None


def refuse_amd(launch: Launch) -> None:
    """Raise :class:`LaunchError` where a container would need GPUs of AMD."""
    if caller_gpus().of_amd and not is_remote(launch.spec):
        raise LaunchError(
            f"{launch.spec.at()}: GPUs of AMD are not given to containers; run the server as a "
            "process (backend: process)"
        )


def _ids(names: Sequence[str]) -> list[str]:
    found = [(name, caller_gpus().named([name])) for name in names]
    return list(dict.fromkeys(_id(match[0]) if match else name for name, match in found))


def _id(device: Device) -> str:
    uuid = device.uuid or ""
    if uuid.startswith(("GPU-", "MIG-")) or device.index is None:
        return uuid or device.visible
    # A Jetson's UUID is nothing to the container tools.
    return str(device.index)


def cdi_devices(wanted: int | Sequence[str], engine: Mapping[str, Any]) -> list[str] | None:
    """Return the CDI names of a container's GPUs, None where the engine has a driver for GPUs.

    ``engine`` is what it tells of itself. Without NVIDIA's runtime it may still know the devices
    of a CDI specification, which must be asked for by name. Raises :class:`LaunchError`.
    """
    listed = (device.get("ID", "") for device in engine.get("DiscoveredDevices") or ())
    known = [name for name in listed if name.startswith(_CDI)]
    if not known or "nvidia" in (engine.get("Runtimes") or {}):
        return None
    if isinstance(wanted, int):
        wanted = ["all"] if wanted < 0 else [str(number) for number in range(wanted)]
    return [_known_as(_cdi_names(name), known) for name in wanted]


def _cdi_names(name: str) -> tuple[str, ...]:
    """Return what a specification may call a GPU: its UUID, its number, or both."""
    match = caller_gpus().named([name])
    index = match[0].index if match else None
    return (name,) if index is None else (name, str(index))


def _known_as(names: Sequence[str], known: Sequence[str]) -> str:
    for name in names:
        if _CDI + name in known:
            return _CDI + name
    raise LaunchError(
        f"the container engine knows no GPU {names[0]}; its CDI specification has "
        f"{', '.join(known)}; make a new one (nvidia-ctk cdi generate "
        "--device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml)"
    )
