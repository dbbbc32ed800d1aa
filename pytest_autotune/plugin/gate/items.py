"""The test that compares a pinned study, and its result as pytest reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.plugin.device_guard import OWN_PROCESS
from pytest_autotune.plugin.gate.attempts import run_once
from pytest_autotune.report.gate import headline


class Regressed(AutotuneError):
    """A pinned configuration became slower, or its comparison failed."""


class Undecided(AutotuneError):
    """The comparison has no conclusion."""


class GateItem(pytest.Item):
    """Compares the pinned configuration of one study, once its tests have passed."""

    study: str
    strict: bool
    compare: Callable[[str], GateOutcome]
    outcome: GateOutcome | None = None

    @classmethod
    def behind(
        cls,
        item: pytest.Item,
        study: str,
        *,
        strict: bool,
        compare: Callable[[str], GateOutcome],
    ) -> GateItem:
        """Return the comparison of a study whose last test is ``item``."""
        parents = [node for node in item.listchain() if isinstance(node, pytest.Collector)]
        parent = next((node for node in parents if node.nodeid == study), parents[-1])
        # A marked function is no collector: its comparison stands beside it.
        name = "gate" if parent.nodeid == study else f"{study.rsplit('::', 1)[-1]}-gate"
        added: GateItem = cls.from_parent(parent, name=name)
        added.study, added.strict, added.compare = study, strict, compare
        added.stash[OWN_PROCESS] = True
        # Its limit is --autotune-timeout.
        if item.config.pluginmanager.hasplugin("timeout"):
            added.add_marker(pytest.mark.timeout(0))
        run_once(added)
        return added

    def runtest(self) -> None:
        """Compare; raises :class:`Regressed` or :class:`Undecided`."""
        self.outcome = self.compare(self.study)
        text = "\n".join(filter(None, (headline(self.outcome), self.outcome.details)))
        if self.outcome.fails or (self.outcome.undecided and self.strict):
            raise Regressed(text)
        if self.outcome.judgement == "skipped":
            pytest.skip(self.outcome.reason)
        if self.outcome.undecided:
            raise Undecided(text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the result without a traceback, which would only show this package."""
        if isinstance(excinfo.value, AutotuneError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the place for the heading of a failure."""
        return self.path, None, f"{self.name} of {self.study}"


def belongs_to(item: pytest.Item, nodeid: str) -> bool:
    """Return whether an item is a test of the study ``nodeid``."""
    callspec = getattr(item, "callspec", None)
    slot = None if callspec is None else callspec.params.get("trial")
    return slot is not None and slot.study == nodeid


def report_properties(outcome: GateOutcome) -> Iterable[tuple[str, object]]:
    """Yield the properties of a comparison for a JUnit report."""
    yield "autotune_verdict", outcome.judgement
    if outcome.against:
        yield "autotune_against", outcome.against
    for result in outcome.results:
        name = result.metric.name
        yield f"autotune_{name}_before", result.old
        yield f"autotune_{name}_after", result.new
        yield f"autotune_{name}_times_worse", result.ratio
        yield f"autotune_{name}_times_worse_low", result.low
        yield f"autotune_{name}_times_worse_high", result.high
        yield f"autotune_{name}_verdict", result.verdict.value
    if outcome.reason:
        yield "autotune_reason", outcome.reason
    for note in outcome.notes:
        yield "autotune_note", note
