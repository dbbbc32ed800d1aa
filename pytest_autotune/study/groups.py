"""Groups of a fleet: runners of equal hardware and software, which share a study.

Each group has a study of its own, with a budget of its own, as the environment is part of a study's
identity. No trial of another group counts in it. Only their bests are put side by side, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.study.adoption import KeptTrials, all_records
from pytest_autotune.study.catalogue import ENVIRONMENT, in_other_environments
from pytest_autotune.study.environment import machine_name
from pytest_autotune.study.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The runners of one environment, with their trials.

    The trials are judged by the question of the study that they are shown beside.
    """

    environment: Mapping[str, str]
    records: Sequence[TrialRecord]

    @cached_property
    def trials(self) -> Sequence[TrialRecord]:
        """Its finished trials."""
        return [record for record in effective(self.records) if record.finished]

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best feasible trial."""
        return incumbent(self.trials)


def own_environment(plan: Plan) -> Mapping[str, str]:
    """Return the environment of the group that this run of ``plan`` is in."""
    found: Mapping[str, str] = plan.identity()[ENVIRONMENT]
    return found


def other_groups(storage: BaseStorage, plan: Plan) -> list[Group]:
    """Return the other groups that asked the question of ``plan``, the latest first."""
    found = []
    for environment, study in in_other_environments(storage, plan):
        try:
            records = all_records(storage, plan, KeptTrials(storage, plan, study.id))
        except StorageError:
            continue  # A run of that group says so, and ends; this one needs no trial of it.
        if records:
            found.append(Group(environment=environment, records=records))
    return found


def winner(groups: Sequence[Group]) -> Group | None:
    """Return the group with the best feasible trial, the first of equals; None without any."""
    found = [(group.best.rank, at) for at, group in enumerate(groups) if group.best is not None]
    return groups[min(found)[1]] if found else None


def names_of(groups: Sequence[Group]) -> list[str]:
    """Return a name for each group: its machine, and what tells it from others of that name."""
    machines = [machine_name(group.environment) or "unknown hardware" for group in groups]
    found = []
    for machine, group in zip(machines, groups, strict=True):
        alike = [g.environment for m, g in zip(machines, groups, strict=True) if m == machine]
        found.append(", ".join([machine, *_told_apart(group.environment, alike)]))
    return found


def _told_apart(
    environment: Mapping[str, str], alike: Sequence[Mapping[str, str]]
) -> Iterator[str]:
    """Yield the parts of an environment that are not the same in all that are ``alike``."""
    for part, value in environment.items():
        if all(other.get(part) == value for other in alike):
            continue
        if part != "libraries":
            yield f"{part.replace('_', ' ')} {value}"
            continue
        listed = [set(other.get(part, "").split(", ")) for other in alike]
        yield from (item for item in value.split(", ") if not all(item in each for each in listed))
