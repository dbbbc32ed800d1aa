"""The strategy and the seed that a study began with: others count for further trials only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from pytest_autotune.study.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_SEARCH: Final = "autotune:search"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The strategy and the seed of a search."""

    strategy: str
    seed: int

    @classmethod
    def of(cls, plan: Plan) -> SearchOptions:
        """Return those of a plan."""
        return cls(plan.strategy, plan.seed)

    def note(self, plan: Plan) -> str:
        """Return a note on the options that another plan changes, empty for none."""
        before, now = asdict(self), asdict(SearchOptions.of(plan))
        changed = [name for name in before if before[name] != now[name]]
        if not changed:
            return ""
        began, further = (
            " and ".join(f"{name} {values[name]}" for name in changed) for values in (before, now)
        )
        return (
            f"the study began with {began}; only further trials use {further} "
            "(--autotune-fresh starts anew)"
        )


def begin_search(storage: BaseStorage, study_id: int, plan: Plan) -> SearchOptions:
    """Return the options that a study began with: those of ``plan`` if it has no trials yet."""
    known = search_of(storage, study_id)
    if known is not None and storage.get_n_trials(study_id):
        return known
    options = SearchOptions.of(plan)
    if options != known and not storage.get_n_trials(study_id):
        storage.set_study_user_attr(study_id, _SEARCH, asdict(options))
    return options


def search_of(storage: BaseStorage, study_id: int) -> SearchOptions | None:
    """Return the options that a study began with, None where they were not stored."""
    document = storage.get_study_user_attrs(study_id).get(_SEARCH)
    return None if document is None else SearchOptions(**document)
