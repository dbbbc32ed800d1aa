"""The groups of a fleet as text: which of them won, and the best trial of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.groups import Group, names_of, winner
from pytest_autotune.study.summary import Summary
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.values import parameters

#: So many groups have a line; a machine whose libraries were upgraded often has been many.
_SHOWN: Final = 5


def group_lines(summary: Summary) -> Iterator[str]:
    """Yield a line on each group, the winner first; none where there is no other group."""
    groups, won = summary.fleet, winner(summary.fleet)
    lines = []
    # The own one comes first, then those that ran last.
    latest = groups if won is None or won in groups[:_SHOWN] else (*groups[: _SHOWN - 1], won)
    for name, group in zip(names_of(latest[:_SHOWN]), latest[:_SHOWN], strict=True):
        here = " (this run)" if group is groups[0] else ""
        ahead = " won" if group is won else ""
        rank = (math.inf, 0.0) if group.best is None else group.best.rank
        lines.append((rank, f"{name}{here}{ahead}: {_result(group)}"))
    yield from (text for _, text in sorted(lines, key=lambda line: line[0]))
    if len(groups) > _SHOWN:
        yield f"and {len(groups) - _SHOWN} more"


def _result(group: Group) -> str:
    count = len(group.trials)
    trials = "1 trial" if count == 1 else f"{count} trials"
    if group.best is None:
        return f"none of {trials} was feasible" if count else "no trial has finished yet"
    return f"{_figure(group.best)}, the best of {trials}"


def _figure(best: TrialRecord) -> str:
    amount = quantity(best.metric, best.judgement.absolute)
    penalty = f", penalized ×{number(1 + best.penalty)}" if best.penalty else ""
    return f"{best.metric} {amount} by trial {best.number} ({parameters(best.params)}){penalty}"
