"""Hooks under which tests of a replayed study run: nothing of theirs does, results are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.errors import RecordedFailure

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name

    from pytest_autotune.plugin.session import TuningSession

#: Marks that say whether, or how, a test's own code can run here.
_ABOUT_RUNNING: Final = frozenset({"skip", "skipif", "xfail"})


class Replayer:
    """Reports what was recorded in place of the tests."""

    def __init__(self, session: TuningSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Report a trial's recorded results in its last test, a recorded failure in its first."""
        active = self._session.active_for(pyfuncitem)
        if active is None or active.study.plan.replay is None:
            return None
        recorded = active.study.plan.replay.recording.result(active.record.params)
        if not recorded.valid:
            raise RecordedFailure(recorded.failure)
        if pyfuncitem is active.last:
            active.trial.report(recorded.report())
        return True


def strip(item: pytest.Item, file: str) -> None:
    """Leave of a test's set-up only its trial, and say on it that its result is replayed."""
    assert isinstance(item, pytest.Function), "only functions have a trial"
    item.fixturenames = ["trial"]
    found = item.iter_markers_with_node

    def iter_markers_with_node(name: str | None = None) -> Iterator[tuple[Node, pytest.Mark]]:
        return (pair for pair in found(name) if pair[1].name not in _ABOUT_RUNNING)

    changed: Any = item
    changed.iter_markers_with_node = iter_markers_with_node
    item.user_properties.append(("autotune_replayed", file))
