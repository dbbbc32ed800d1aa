"""Attempts of tests in a gate run: the first decides, whatever plugins run tests again."""

from __future__ import annotations

from typing import Final

import pytest
from _pytest.runner import runtestprotocol  # has no public name; such plugins call it, too

_ONCE: Final = pytest.StashKey[bool]()
#: The mark by which each of these plugins lets a test be run again; each has arguments of its own.
_MARK: Final = "flaky"
#: Their names by entry point, and as ``-p`` registers them.
_RERUNFAILURES: Final = ("rerunfailures", "pytest_rerunfailures")
_FLAKY: Final = ("flaky", "flaky.flaky_pytest_plugin")
_RETRY: Final = ("pytest-retry", "pytest_retry.retry_plugin")


def run_once(item: pytest.Item) -> None:
    """Let the first attempt of an item decide: one failure is a result."""
    item.stash[_ONCE] = True
    # Its class or module may have one, too.
    item.own_markers[:] = [mark for mark in item.own_markers if mark.name != _MARK]
    if _has(item.config, _RETRY) and not _has(item.config, _FLAKY):
        # That plugin asks for the closest mark as late as in a report.
        item.add_marker(pytest.mark.flaky(condition=False), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run such an item in the place of plugins that would repeat it."""
    if not item.stash.get(_ONCE, False) or not _has(item.config, (*_RERUNFAILURES, *_FLAKY)):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _has(config: pytest.Config, names: tuple[str, ...]) -> bool:
    return any(map(config.pluginmanager.hasplugin, names))
