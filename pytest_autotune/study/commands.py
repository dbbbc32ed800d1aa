"""Command lines that repeat a study, and its best trial."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.database_url import masked_url
from pytest_autotune.study.names import TrialNames
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.search_options import SearchOptions


def repeating(
    plan: Plan,
    search: SearchOptions | None,
    tests: Sequence[tuple[str, str]],
    best: TrialRecord | None,
    names: TrialNames,
) -> list[str]:
    """Return the command that repeats a study, and the one that repeats its best trial.

    ``search`` are the options that it began with, None for those of the plan. Nothing can be
    repeated where no test was collected.
    """
    if not tests:
        return []
    file = tests[0][0].partition("::")[0]
    began = search or SearchOptions.of(plan)
    again = ["--autotune-fresh", "--autotune-strategy", began.strategy]
    again += ["--autotune-seed", str(began.seed), "--autotune-trials", str(plan.budget)]
    if plan.xfail:
        again += ["--autotune-infeasible", "xfail"]
    source = list(plan.source.arguments)
    if plan.storage and plan.storage != plan.spec.optimization.storage:
        # The spec's applies without being asked for.
        source = ["--autotune-storage", shlex.quote(masked_url(plan.storage)), *source]
    commands = [["pytest", "--autotune", shlex.quote(file), *again, *source]]
    if best is not None and not (names.grid and names.place(best.params) is None):
        id_ = names.of(best.number, best.params)
        nodes = [shlex.quote(f"{before}{id_}{after}") for before, after in tests]
        options = _collecting(plan, best, names)
        commands.append(["pytest", "--autotune", *nodes, *options, *source])
    return [" ".join(command) for command in commands]


def _collecting(plan: Plan, best: TrialRecord, names: TrialNames) -> Iterator[str]:
    """Yield the options without which there is no test of the best trial."""
    search = plan.spec.optimization
    if plan.strategy != search.strategy:
        yield from ("--autotune-strategy", plan.strategy)
    least = search.max_iterations
    if not names.grid:
        if best.number >= plan.spec.space.count(least):
            yield from ("--autotune-trials", str(max(plan.budget, best.number + 1)))
    elif plan.spec.space.count(least + 1) > least:
        # The budget and the seed say which points of so large a grid are tried.
        if plan.budget != least:
            yield from ("--autotune-trials", str(plan.budget))
        if plan.seed != search.seed:
            yield from ("--autotune-seed", str(plan.seed))
