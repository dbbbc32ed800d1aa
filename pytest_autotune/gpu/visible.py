"""The GPUs that this run may use: those that its caller left visible."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from typing import Any, Final

from pytest_autotune.gpu import amd
from pytest_autotune.gpu.inventory import Inventory, inventory
from pytest_autotune.gpu.readings import Gpu

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
#: The order that NVML and nvidia-smi number devices in. CUDA's own puts the fastest first.
PCI_ORDER: Final = "PCI_BUS_ID"
#: An entry that CUDA takes for a number, as C's strtoul does.
_NUMBER: Final = re.compile(r"^\+?0*(\d+).*$", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, or a MIG instance of one.

    ``key`` is the same for every process of this machine: its UUID where that is known.
    ``visible`` is how the caller names it in ``CUDA_VISIBLE_DEVICES``. ``memory`` is in bytes,
    0 where it is not known. ``index`` is the driver's number of a whole card.
    """

    key: str
    visible: str
    uuid: str | None = None
    name: str = ""
    memory: int = 0
    index: int | None = None

    def __str__(self) -> str:
        """Return the caller's name of it."""
        return f"GPU {self.visible}"

    @property
    def is_instance(self) -> bool:
        """Return whether it is a MIG instance."""
        return str(self.uuid).startswith("MIG-")

    @property
    def model(self) -> str:
        """The name and memory: devices of one model are equally fast."""
        # Some models are sold with more or less memory under one name.
        size = f", {self.memory / 2**30:.0f} GiB" if self.memory else ""
        return f"{self.name or 'unknown'}{size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleGpus:
    """The devices that may be leased.

    ``problem`` is why there are none. ``order`` is the ``CUDA_DEVICE_ORDER`` under which the
    devices' names mean them, None if the caller's own is right. ``refusal`` is why it cannot be
    known which devices the caller means. ``left_out`` names cards that nobody can use now.
    ``of_amd`` is the number of AMD's GPUs where there are no others.
    """

    devices: tuple[Device, ...] = ()
    problem: str = ""
    order: str | None = None
    refusal: str = ""
    left_out: str = ""
    of_amd: int = 0

    @property
    def most(self) -> int:
        """The number that one trial can use: beside a MIG instance CUDA shows nothing else."""
        whole = sum(not device.is_instance for device in self.devices)
        return whole or min(len(self.devices), 1)

    def environment(self, devices: Sequence[Device]) -> dict[str, str]:
        """Return the variables that make ``devices``, and no others, visible."""
        shown = {VISIBLE: names_of(devices)}
        return shown if self.order is None or not devices else {**shown, ORDER: self.order}

    def named(self, names: Iterable[str]) -> tuple[Device, ...] | None:
        """Return the devices that a spec names by index or UUID, None if one is missing."""
        found = []
        for name in names:
            match = [d for d in self.devices if name in {d.visible, d.uuid, d.key}]
            if not match and name.startswith(("GPU-", "MIG-")):
                match = [d for d in self.devices if d.key.startswith(name)]
            if len(match) != 1:
                return None
            found.append(match[0])
        return tuple(dict.fromkeys(found))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> VisibleGpus:
        """Undo ``dataclasses.asdict`` and JSON, in a worker."""
        return cls(**{**document, "devices": tuple(Device(**d) for d in document["devices"])})


def names_of(devices: Sequence[Device]) -> str:
    """Return the value of ``CUDA_VISIBLE_DEVICES`` that shows these devices.

    CUDA ignores a UUID behind a number, and a number behind a UUID.
    """
    kinds = {device.visible.isdecimal() for device in devices if not device.is_instance}
    # Nor does it show cards beside MIG instances, whatever they are called.
    by_uuid = len(kinds) > 1
    return ",".join((by_uuid and device.uuid) or device.visible for device in devices)


def entries(visible: str) -> list[str]:
    """Return the entries of a ``CUDA_VISIBLE_DEVICES`` that count.

    CUDA ignores the first that cannot be a device (empty, ``-1``) and all that follow it. Of an
    entry that begins with a number it reads just that: ``01`` and ``1;2`` are ``1``.
    """
    listed = [_NUMBER.sub(r"\1", entry.strip()) for entry in visible.split(",")]
    return list(takewhile(lambda entry: entry and not entry.startswith("-"), listed))


def read_visible(visible: str | None, order: str | None, inventory: Inventory) -> VisibleGpus:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` leave visible.

    Entries are indices or (beginnings of) UUIDs. The first that is no device of this machine hides
    itself and all that follow, as for CUDA. If the machine's devices are not known, every entry
    counts as one.
    """
    mixed = len({_card(gpu, "").model for gpu in inventory.gpus}) > 1
    left_out = _left_out(inventory)
    if visible is None:
        # Where CUDA counts differently, only the UUID means the same to both.
        by_uuid = mixed and order not in {None, PCI_ORDER}
        devices = tuple(
            d
            for gpu in inventory.gpus
            for d in _whole(gpu, gpu.uuid if by_uuid else str(gpu.index))
        )
        problem = "" if devices else left_out or inventory.problem
        return VisibleGpus(
            devices=devices,
            problem=problem,
            order=PCI_ORDER if order is None else None,
            left_out=left_out,
        )
    if mixed and order != PCI_ORDER and any(e.isdecimal() for e in entries(visible)):
        refusal = (
            f"{VISIBLE}={visible!r} numbers GPUs of different models, and CUDA counts those in an "
            f"order of its own; set {ORDER}={PCI_ORDER}, or name them by UUID"
        )
        return VisibleGpus(refusal=refusal, problem=refusal)
    found: dict[str, Device] = {}
    for entry in entries(visible):
        device = _device(entry, inventory)
        if device is None:
            break
        found.setdefault(device.key, device)
    if found:
        return VisibleGpus(devices=tuple(found.values()), left_out=left_out)
    known = ", ".join(f"{gpu.index} {gpu.uuid}" for gpu in inventory.gpus)
    there = f"this machine has: {known}" if known else inventory.problem
    if left_out:
        there = f"{there}; {left_out}"
    reason = "" if inventory.source == "none" else f" ({there})"
    return VisibleGpus(problem=f"{VISIBLE}={visible!r} leaves none visible{reason}")


def _device(entry: str, inventory: Inventory) -> Device | None:
    """Return the device that an entry names, None if there is none."""
    if inventory.source == "none":
        known = entry.startswith(("GPU-", "MIG-"))
        key = entry if known else f"index-{entry}"
        return Device(key=key, visible=entry, uuid=entry if known else None)
    if entry.isascii() and entry.isdecimal():
        card = next((gpu for gpu in inventory.gpus if gpu.index == int(entry)), None)
        # A card in MIG mode shows its first instance under its own number.
        return None if card is None else _first(card, entry)
    matches = [
        # A card in MIG mode is used by its first instance, whatever it is called by.
        _first(gpu, entry) if device.key == gpu.uuid else device
        for gpu in inventory.gpus
        for device in (_card(gpu, entry), *_instances(gpu))
        if device.key.startswith(entry)
    ]
    if len(matches) != 1 or matches[0] is None:
        return None
    return replace(matches[0], visible=entry)


def _card(gpu: Gpu, visible: str) -> Device:
    return Device(
        key=gpu.uuid,
        visible=visible,
        uuid=gpu.uuid,
        name=gpu.name,
        memory=gpu.memory,
        index=gpu.index,
    )


def _instances(gpu: Gpu) -> tuple[Device, ...]:
    return tuple(
        Device(key=mig.uuid, visible=mig.uuid, uuid=mig.uuid, name=mig.name, memory=mig.memory)
        for mig in gpu.mig
    )


def _whole(gpu: Gpu, visible: str) -> tuple[Device, ...]:
    """Return the parts of a card that can be leased: itself, or its MIG instances.

    CUDA cannot use a card in MIG mode that has no instances.
    """
    return _instances(gpu) or (() if gpu.mig_mode else (_card(gpu, visible),))


def _first(gpu: Gpu, visible: str) -> Device | None:
    return next(iter(_whole(gpu, visible)), None)


def _left_out(inventory: Inventory) -> str:
    """Return which cards CUDA cannot use and what to do, empty where there are none."""
    cards = [str(gpu.index) for gpu in inventory.gpus if not _whole(gpu, "")]
    if not cards:
        return ""
    which = f"GPU {cards[0]} is" if len(cards) == 1 else f"GPUs {', '.join(cards)} are"
    return (
        f"{which} in MIG mode without an instance, so CUDA cannot use it; make instances "
        "(nvidia-smi mig -cgi PROFILE -C), or turn the mode off (nvidia-smi -mig 0)"
    )


@dataclass(slots=True)
class _Process:
    """The state of this process: its controller's GPUs, and its caller's environment."""

    adopted: VisibleGpus | None = None
    caller: Mapping[str, str | None] | None = None


_process: Final = _Process()


def caller_gpus() -> VisibleGpus:
    """Return the GPUs that this run's caller left visible, whatever is leased at the moment.

    A worker uses its controller's answer (see :func:`adopt`), so that all of a run agree.
    """
    if _process.adopted is not None:
        return _process.adopted
    caller = _process.caller or os.environ
    return _visible_gpus(caller.get(VISIBLE), caller.get(ORDER))


@cache
def _visible_gpus(visible: str | None, order: str | None) -> VisibleGpus:
    if visible is not None and not entries(visible):
        # Asked for none: no need to ask the driver.
        return read_visible(visible, order, Inventory(gpus=(), source="none"))
    known = inventory()
    found = read_visible(visible, order, known)
    of_amd = 0 if known.gpus else amd.count()
    if not of_amd:
        return found
    outranked = amd.outranked(os.environ)
    if outranked:
        return VisibleGpus(refusal=outranked, problem=outranked, of_amd=of_amd)
    return replace(found, of_amd=of_amd, problem="" if found.devices else amd.unlisted(of_amd))


def adopt(gpus: VisibleGpus | None) -> None:
    """Use the GPUs that the controller of this run read; None for this process's own again."""
    _process.adopted = gpus


def show(environment: Mapping[str, str]) -> None:
    """Make devices visible to this process and its children, until :func:`show_callers`."""
    if _process.caller is None:
        _process.caller = {name: os.environ.get(name) for name in (VISIBLE, ORDER)}
    os.environ.update(environment)


def show_callers() -> None:
    """Make the caller's devices visible again."""
    caller, _process.caller = _process.caller, None
    for name, value in (caller or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def share(devices: Sequence[Device], workers: int, worker: int) -> tuple[Device, ...]:
    """Return the share of the devices that comes first for one of several workers.

    Neighbours stay together. Where there are fewer devices than workers, the last ones get none.
    """
    if len(devices) < workers:
        return tuple(devices[worker : worker + 1])
    size, rest = divmod(len(devices), workers)
    begin = worker * size + min(worker, rest)
    return tuple(devices[begin : begin + size + (worker < rest)])
