"""Tests of a replayed study: nothing of theirs runs, and recorded results are reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.errors import RecordedFailure
from pytest_autotune.plugin.active import ActiveTrial
from pytest_autotune.scoring.judgement import Ending

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name


#: Marks that say whether, or how, a test's own code can run here.
_ABOUT_RUNNING: Final = frozenset({"skip", "skipif", "xfail"})


class ReplayedTest(pytest.Function):
    """A test in whose place recorded results are reported."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Of its fixtures only the trial is set up.
        self.fixturenames = ["trial"]

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[tuple[Node, pytest.Mark]]:
        """Leave out the marks that are about running the test's own code."""
        found = super().iter_markers_with_node(name)
        return (pair for pair in found if pair[1].name not in _ABOUT_RUNNING)

    def __repr__(self) -> str:
        """Show it as the test that it stands for."""
        return f"<Function {self.name}>"

    def runtest(self) -> None:
        """Report the recorded results in a trial's last test, a recorded failure in its first."""
        runner = self.config.pluginmanager.getplugin("autotune-runner")
        active: ActiveTrial | None = runner.active_for(self)
        assert active is not None, "tests run within a trial"
        recorded = active.study.plan.source.recorded(active.record.params)
        if recorded.ending is Ending.FAILED:
            raise RecordedFailure(recorded.reason)
        plan = active.study.plan
        undecided = plan.source.why_undecided(active.record.params, plan.question)
        if undecided:
            pytest.skip(undecided)
        if self is active.last:
            active.trial.report_measurement(recorded)


def replayed_test(item: pytest.Item, file: str) -> ReplayedTest:
    """Return the test that runs in place of ``item``, whose results are recorded in ``file``."""
    assert isinstance(item, pytest.Function), "only functions have a trial"
    test: ReplayedTest = ReplayedTest.from_parent(
        item.parent, name=item.name, callspec=item.callspec, originalname=item.originalname
    )
    # Other plugins may have left something on the test.
    test.own_markers = item.own_markers
    test.extra_keyword_matches = item.extra_keyword_matches
    test.stash = item.stash
    test.user_properties = [*item.user_properties, ("autotune_replayed", file)]
    return test
