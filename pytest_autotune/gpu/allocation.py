"""The allocation of GPUs to trials, also after CUDA has started in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from pytest_autotune.errors import LeaseError, TooFewGpusError
from pytest_autotune.gpu import amd, cuda
from pytest_autotune.gpu.leases import Desk, Lease
from pytest_autotune.gpu.visible import (
    VISIBLE,
    Device,
    VisibleGpus,
    caller_gpus,
    entries,
    show,
    show_callers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The number of GPUs that a trial needs, or their names; a count of None for all GPUs.

    A trial with a ``required`` need cannot run without.
    """

    count: int | None = 1
    named: tuple[str, ...] = ()
    required: bool = False


NONE: Final = Need(count=0)


class Allocator:
    """The leases of one process, one at a time.

    ``share`` are the devices that it takes first, beside other workers.
    """

    def __init__(
        self,
        share: Sequence[Device] | None,
        *,
        timeout: float,
        on_wait: Callable[[str], None],
        session: str = "",
        started: Callable[[], bool] = cuda.started,
    ) -> None:
        self._share = share
        self._timeout = timeout
        self._on_wait = on_wait
        self._session = session
        self._started = started
        self._seen: tuple[str | None] | None = None
        self._desk: Desk | None = None
        self._lease: Lease | None = None
        self._need: Need | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that are leased at the moment."""
        return () if self._lease is None else self._lease.devices

    @property
    def has_no_share(self) -> bool:
        """Return whether there are GPUs, but none in this worker's share."""
        return self._share is not None and not self._share and bool(caller_gpus().devices)

    def check(self, need: Need, *, insists: bool = False) -> None:
        """Raise :class:`LeaseError` where there is no GPU for a need that cannot do without.

        ``insists`` says that something else than the need does: a server's engine.
        """
        gpus = caller_gpus()
        if gpus.refusal and need != NONE:
            raise LeaseError(gpus.refusal)
        if need.required and not gpus.devices:
            raise LeaseError(f"the fixture 'gpu' needs one, and there is no GPU: {gpus.problem}")
        if gpus.of_amd and not gpus.devices and need != NONE and (insists or amd.is_used()):
            # It would use them all the same, beside others.
            raise LeaseError(gpus.problem)
        if gpus.devices and need.count != 0 and not need.named:
            with suppress(TooFewGpusError):
                _refuse_unlike(*_usable(need, gpus))

    def fits(self, need: Need) -> bool:
        """Return whether the current lease, if there is one, fits ``need``."""
        return self._lease is None or self._need == need

    def take(self, need: Need, purpose: str) -> Lease | None:
        """Lease what a trial needs, and make it the only devices that are visible.

        A lease that fits is kept. None if nothing is needed, or if there is no GPU and the need is
        not required. Raises :class:`LeaseError` if there is no GPU or none comes free in time, and
        :class:`TooFewGpusError` if this trial alone needs too many.
        """
        gpus = caller_gpus()
        if self._lease is not None and self._need == need:
            return replace(self._lease, waited=0.0)
        self.release()
        if need.count == 0 and not need.named:
            return None
        if not gpus.devices:
            self.check(need)
            return None
        if self._seen is None and self._started():
            # Before this process makes anything else visible.
            self._seen = (os.environ.get(VISIBLE),)
        candidates, count = self._candidates(need)
        if self._desk is None:
            self._desk = Desk(session=self._session)
        self._lease = self._desk.acquire(
            candidates, count, purpose=purpose, timeout=self._timeout, on_wait=self._on_wait
        )
        self._need = need
        show(gpus.environment(self._lease.devices))
        return self._lease

    def release(self) -> None:
        """Give the leased devices back."""
        lease, self._lease, self._need = self._lease, None, None
        if lease is None:
            return
        if self._seen is None and self._started():
            # CUDA knows the visible devices only, so the next lease must be of them.
            self._seen = (os.environ.get(VISIBLE),)
        if self._seen is None:
            show_callers()
        lease.release()

    def _candidates(self, need: Need) -> tuple[Sequence[Device], int]:
        gpus = caller_gpus()
        if need.named:
            named = gpus.named(need.named)
            if named is None:
                raise LeaseError(
                    f"GPUs {', '.join(need.named)} are asked for, and there are: "
                    f"{', '.join(device.visible for device in gpus.devices)}"
                )
            return named, len(named)
        usable, count = _usable(need, gpus)
        _refuse_unlike(usable, count)
        if self._seen is not None:
            # Code of this process uses the first devices it sees, and CUDA sees what was visible
            # when it started.
            (seen,) = self._seen
            usable = _in_cudas_order(gpus.devices, seen)[:count]
            if len(usable) < count:
                raise TooFewGpusError(
                    f"the trial needs {count} GPUs, but CUDA was started in this process when "
                    f"{len(usable)} were visible ({VISIBLE}={seen}), which cannot be changed; "
                    "run such trials alone, or in processes of their own"
                )
            return usable, count
        if count > len(usable):
            left_out = f" ({gpus.left_out})" if gpus.left_out else ""
            raise TooFewGpusError(
                f"the trial needs {count} GPUs, and there are {len(usable)} to use{left_out}"
            )
        first = [device for device in self._share or () if device in usable]
        return (*first, *(device for device in usable if device not in first)), count


def _usable(need: Need, gpus: VisibleGpus) -> tuple[Sequence[Device], int]:
    """Return the devices out of which a trial gets its GPUs, and how many it needs.

    Beside a MIG instance CUDA uses nothing else in a process. Raises :class:`TooFewGpusError`.
    """
    whole = [device for device in gpus.devices if not device.is_instance]
    count = (len(whole) or len(gpus.devices)) if need.count is None else need.count
    if count <= 1:
        return gpus.devices, count
    if len(whole) < count <= len(gpus.devices):
        raise TooFewGpusError(
            f"the trial needs {count} GPUs, and CUDA uses one MIG instance a process"
        )
    return whole, count


def _refuse_unlike(usable: Sequence[Device], count: int) -> None:
    """Raise :class:`LeaseError` if one trial may get GPUs of another model than the next."""
    models: dict[str, list[Device]] = {}
    for device in usable:
        models.setdefault(device.model, []).append(device)
    if len(models) <= 1 or count >= len(usable):
        return
    there = "; ".join(
        f"{model}: {', '.join(device.visible for device in devices)}"
        for model, devices in models.items()
    )
    one = ",".join(device.uuid or device.visible for device in next(iter(models.values())))
    raise LeaseError(
        f"the GPUs are of different models ({there}), on which trials cannot be compared; choose "
        f"one model, for example {VISIBLE}={one}"
    )


def _in_cudas_order(devices: Sequence[Device], seen: str | None) -> list[Device]:
    """Return the devices that CUDA sees in this process, in its order.

    It tells their UUIDs, or they are those that were visible (``seen``). Its order is not that
    of the bus where nobody asked for it, and of MIG instances it sees one.
    """
    by_uuid = {str(device.uuid).partition("-")[2]: device for device in devices}
    found = [by_uuid.get(uuid) for uuid in cuda.uuids()]
    if any(found):
        # Code uses the first ones, so after one that is not ours there is none to use.
        return [device for device in takewhile(bool, found) if device is not None]
    if seen is None:
        return list(devices)
    known = {name: device for device in devices for name in (device.uuid, device.visible)}
    return [known[name] for name in entries(seen) if name in known]
