"""Hooks that other plugins and ``conftest.py`` files can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_autotune.scoring.records import TrialRecord
    from pytest_autotune.strategies.protocol import Strategy, StrategyContext


@pytest.hookspec(firstresult=True)
def pytest_autotune_make_strategy(
    config: pytest.Config, name: str, context: StrategyContext
) -> Strategy | None:
    """Return the search strategy called ``name``, or None if this plugin does not offer it.

    Asked in every process that runs or collects trials; must give the same plan in each.
    """


@pytest.hookspec
def pytest_autotune_trial_finished(config: pytest.Config, study: str, trial: TrialRecord) -> None:
    """Called in the process that ran it when a trial of ``study`` was stored as finished."""
