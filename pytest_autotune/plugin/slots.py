"""Slots: the test parameters that trials are drawn into.

What an adaptive strategy will propose cannot be known at collection, so a study collects
interchangeable slots ``trial-000``, ``trial-001``, …; a grid's slots carry their combination.
Ids depend on the spec and the options only, so that every worker collects the same. The id of a
slot is that of the trial it runs: where it runs another one than its own, its tests are renamed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.strategies import Strategy
from pytest_autotune.study.names import NUMBERED, TrialNames
from pytest_autotune.study.pinned import Pin
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.text.values import label

#: Slots kept spare per xdist worker: each is handed up to two slots ahead of time, which then
#: wait behind a slow trial; and a crash uses one up.
SPARE_PER_WORKER: Final = 3
#: What ``-k`` accepts in a name (``=`` is not among it).
_UNUSABLE: Final = re.compile(r"[^\w.+:/-]+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """One place for a trial. Compared by identity, as pytest does with parameters.

    ``ordinal`` is None for a spare one. ``names`` are those of its study's trials.
    """

    study: str
    id: str
    ordinal: int | None
    point: Point | None = None
    names: TrialNames = field(default_factory=TrialNames)

    def request(
        self, *, rerun: bool = False, exact: bool = False, left_out: Sequence[str] = ()
    ) -> SlotRequest:
        """Return the request of this slot to its study."""
        return SlotRequest(
            id=self.id,
            ordinal=self.ordinal,
            point=self.point,
            left_out=left_out,
            exact=exact,
            rerun=rerun,
            names=self.names,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutline:
    """A collected study without its slots, as the process with the terminal knows it.

    ``capacity`` is how many trials it can have: its budget, or fewer where the space is small.
    ``tests`` are the node ids of its tests, each cut in two where the slot's id goes; ``names``
    are those of its trials. ``chosen`` is how many slots run, spare ones aside, where a selection
    leaves something out.
    """

    nodeid: str
    plan: Plan
    capacity: int
    tests: Sequence[tuple[str, str]]
    names: TrialNames = NUMBERED
    chosen: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedStudy:
    """A study found at collection. ``scope`` is that of its ``trial`` parameters.

    ``marked_gpus`` is what its marker says of GPUs, ``gpus`` that or what its parallel layout
    takes: expressions over parameters. ``pin`` is the configuration that is pinned for it.
    ``chosen`` is how many slots were selected, spare ones aside, where others or tests of them
    were left out; None where nothing was.
    """

    nodeid: str
    scope: Any
    plan: Plan
    slots: Sequence[Slot]
    marked_gpus: str | None = None
    gpus: str | None = None
    tests: Sequence[tuple[str, str]] = ()
    pin: Pin | None = None
    chosen: int | None = None

    @property
    def narrowed(self) -> bool:
        """True where a selection leaves out slots, or tests of them."""
        return self.chosen is not None

    @property
    def outline(self) -> StudyOutline:
        """The study without its slots."""
        return StudyOutline(
            nodeid=self.nodeid,
            plan=self.plan,
            capacity=sum(slot.ordinal is not None for slot in self.slots),
            tests=self.tests,
            names=self.slots[0].names if self.slots else NUMBERED,
            chosen=self.chosen,
        )


def make_slots(study: str, plan: Plan, strategy: Strategy, spares: int) -> list[Slot]:
    """Return the slots of a study, ``spares`` spare ones last."""
    points = strategy.plan()
    if points is None:
        count = plan.spec.space.count(plan.budget)
        names = TrialNames(width=max(3, len(str(count - 1))))
        slots = [
            Slot(study=study, id=names.by_number(ordinal), ordinal=ordinal, names=names)
            for ordinal in range(count)
        ]
    else:
        own = list(enumerate(zip(_unique([point_id(p) for p in points]), points, strict=True)))
        names = TrialNames(grid={point_key(point): (at, id_) for at, (id_, point) in own})
        slots = [
            Slot(study=study, id=id_, ordinal=at, point=point, names=names)
            for at, (id_, point) in own
        ]
    return slots + [
        Slot(study=study, id=names.by_number(len(slots) + at), ordinal=None, names=names)
        for at in range(spares)
    ]


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
