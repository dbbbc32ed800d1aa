"""Slots: the test parameters that trials are drawn into.

What an adaptive strategy will propose cannot be known at collection, so a study collects
interchangeable slots ``trial-000``, ``trial-001``, …; a grid's slots carry their combination.
Ids depend on the spec and the options only, so that every worker collects the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_autotune.space.parameters import Point
from pytest_autotune.strategies import Strategy
from pytest_autotune.study.pinned import Pin
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.text.values import label

#: Slots kept spare per xdist worker: each is handed up to two slots ahead of time, which then
#: wait behind a slow trial; and a crash uses one up.
SPARE_PER_WORKER: Final = 3
_SPARE: Final = re.compile(r"\bspare-(\d{3,6})\b")
#: What ``-k`` accepts in a name (``=`` is not among it).
_UNUSABLE: Final = re.compile(r"[^\w.+:/-]+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """One place for a trial. Compared by identity, as pytest does with parameters."""

    study: str
    id: str
    ordinal: int | None
    point: Point | None = None

    def request(self, *, rerun: bool) -> SlotRequest:
        """Return the request of this slot to its study."""
        return SlotRequest(id=self.id, ordinal=self.ordinal, point=self.point, rerun=rerun)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutline:
    """A collected study without its slots, as the process with the terminal knows it.

    ``capacity`` is how many trials it can have: its budget, or fewer where the space is small.
    ``tests`` are the node ids of its tests, each cut in two where the slot's id goes.
    """

    nodeid: str
    plan: Plan
    capacity: int
    tests: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedStudy:
    """A study found at collection. ``scope`` is that of its ``trial`` parameters.

    ``marked_gpus`` is what its marker says of GPUs, ``gpus`` that or what its parallel layout
    takes: expressions over parameters. ``pin`` is the configuration that is pinned for it.
    """

    nodeid: str
    scope: Any
    plan: Plan
    slots: Sequence[Slot]
    marked_gpus: str | None = None
    gpus: str | None = None
    tests: Sequence[tuple[str, str]] = ()
    pin: Pin | None = None

    @property
    def outline(self) -> StudyOutline:
        """The study without its slots."""
        return StudyOutline(
            nodeid=self.nodeid,
            plan=self.plan,
            capacity=sum(slot.ordinal is not None for slot in self.slots),
            tests=self.tests,
        )


def make_slots(study: str, plan: Plan, strategy: Strategy, spares: int) -> list[Slot]:
    """Return the slots of a study, ``spares`` spare ones last."""
    points = strategy.plan()
    if points is None:
        pool = plan.spec.space.pool
        count = plan.budget if pool is None else min(plan.budget, len(pool))
        width = max(3, len(str(count - 1)))
        slots = [
            Slot(study=study, id=f"trial-{ordinal:0{width}d}", ordinal=ordinal)
            for ordinal in range(count)
        ]
    else:
        ids = _unique([point_id(point) for point in points])
        slots = [
            Slot(study=study, id=id_, ordinal=ordinal, point=point)
            for ordinal, (id_, point) in enumerate(zip(ids, points, strict=True))
        ]
    return slots + [
        Slot(study=study, id=f"spare-{number:03d}", ordinal=None) for number in range(spares)
    ]


def spares_named(nodeids: Iterable[str]) -> int:
    """Return the number of spare slots that ``nodeids`` name."""
    numbers = (int(n) for nodeid in nodeids for n in _SPARE.findall(nodeid))
    return max((number + 1 for number in numbers), default=0)


def point_id(point: Point) -> str:
    """Return a test id such as ``tp_size:2-mem:0.8``, usable in ``-k``."""
    parts = (f"{name}:{label(value)}" for name, value in point.items())
    return _UNUSABLE.sub("_", "-".join(parts)) or "default"


def _unique(ids: Sequence[str]) -> list[str]:
    unique: list[str] = []
    taken = set(ids)
    used: set[str] = set()
    for id_ in ids:
        candidate, number = id_, 1
        while candidate in used:
            number += 1
            candidate = f"{id_}.{number}" if f"{id_}.{number}" not in taken else candidate
        used.add(candidate)
        unique.append(candidate)
    return unique
