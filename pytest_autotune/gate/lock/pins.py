"""The pins of the gate: configurations of the lock file, with the SLO that they must meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_autotune.errors import SpecError
from pytest_autotune.gate.compare.comparison import design_for
from pytest_autotune.gate.lock.entry import LockEntry
from pytest_autotune.gate.lock.fits import check_fits
from pytest_autotune.gate.lock.lockfile import LOCK_NAME
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.study.code import changed_since, listed
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.pinned import Pin
from pytest_autotune.study.plan import Plan

_COMMAND: Final = "pytest --autotune --autotune-lock"


class LockPins:
    """The pins of a lock file. Remembers the studies that have one, and those that have none."""

    brief = False
    missing = f"not pinned in {LOCK_NAME}: {_COMMAND} pins it"

    def __init__(self, entries: Mapping[str, LockEntry], root: Path) -> None:
        self.entries = entries
        self._root = root
        self.found: dict[str, LockEntry] = {}
        self.unpinned: list[str] = []

    def find(self, nodeid: str, plan: Plan) -> Pin | None:
        """Return the pin of a study, None without one.

        Raises :class:`LockError` if it was locked for another spec, and :class:`SpecError` for a
        gate that can decide nothing.
        """
        entry = self.entries.get(plan.label)
        if entry is None:
            self.unpinned.append(plan.label)
            return None
        _check_rule(plan)
        notes = [*check_fits(entry, plan), *_code_notes(entry, self._root)]
        slo, excused = hardened(plan.spec.slo, entry, plan.spec.gate.tolerance)
        self.found[nodeid] = entry
        # A pinned configuration that breaks its SLO fails, even if a search only marks it.
        plan = replace(plan, spec=replace(plan.spec, slo=slo), xfail=False)
        return Pin(params=entry.parameters, plan=plan, notes=(*notes, *excused))


def _code_notes(entry: LockEntry, root: Path) -> Iterator[str]:
    """Yield a sentence on what changed in the code since the entry was locked."""
    if entry.fingerprint.get("python") != fingerprint()["python"]:
        # Another Python reads the same file in another way.
        return
    changes = changed_since(entry.code, root)
    if changes:
        yield f"the code changed since this was locked: {listed(changes)}"


def _check_rule(plan: Plan) -> None:
    rule = plan.spec.gate
    design = design_for(rule, len(rule.metrics))
    where = plan.spec.origin.at("gate", "max_launches")
    if not design.can_decide:
        several = f" for {len(rule.metrics)} metrics" if len(rule.metrics) > 1 else ""
        raise SpecError(
            f"{where}: {rule.max_launches} launches cannot tell a regression with an error of "
            f"{rule.alpha:g}{several}: allow more launches, or more error (gate.alpha)"
        )
    if not design.can_pass:
        raise SpecError(
            f"{where}: {rule.max_launches} launches cannot pass anything with a power of "
            f"{rule.power:g}: allow more launches, or less power (gate.power)"
        )


def hardened(slo: SLO, entry: LockEntry, tolerance: float) -> tuple[SLO, list[str]]:
    """Return the SLO with every bound hard, and sentences on bounds that are relaxed.

    A bound that was missed when it was locked may be missed by as much. The tolerance is on top.
    An SLO that selects levels stays as it is.
    """
    if slo.levels != "all":
        return slo, []
    bounds, notes = [], []
    locked = {(bound.label, bound.upper): bound for bound in entry.slo}
    for bound in slo.bounds:
        known = locked.get((bound.label, bound.upper))
        missed = 0.0
        if known is not None and known.margin is not None and known.limit == bound.threshold:
            missed = max(0.0, -known.margin)
        allowed = (1 + missed) * (1 + tolerance) - 1 if missed else 0.0
        bounds.append(replace(bound, hard=True, fail_ratio=allowed))
        if missed:
            notes.append(
                f"SLO {bound.label}: was missed by {100 * missed:.3g} % when this was locked; up "
                f"to {100 * allowed:.3g} % is allowed now"
            )
    return replace(slo, bounds=tuple(bounds)), notes
