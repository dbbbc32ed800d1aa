"""The table of the campaign's figures, at the end of a run of its tests."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import pytest

_COLUMNS: Final = (
    "points", "missed", "resumed", "failed", "lost", "twice", "left", "differ", "wrong", "seconds",
)  # fmt: skip


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how many points were tried of each target and kind, and what came of them."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            found = dict(getattr(report, "user_properties", ())).get("chaos")
            if report.when == "call" and found is not None:
                rows[found["target"], found["kind"]].append(found)
    if not rows:
        return
    terminalreporter.section("kills")
    head = "".join(f"{name:>8}" for name in _COLUMNS)
    terminalreporter.write_line(f"{'target':<11}{'kind':<20}{head}")
    everything = [row for found in rows.values() for row in found]
    for (target, kind), found in [*rows.items(), (("all", ""), everything)]:
        terminalreporter.write_line(f"{target:<11}{kind:<20}" + _cells(found))


def _cells(found: list[dict[str, Any]]) -> str:
    return "".join(f"{sum(row[name] for row in found):>8.0f}" for name in _COLUMNS)
