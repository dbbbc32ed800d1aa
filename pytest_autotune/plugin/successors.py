"""Successors of xdist workers whose GPU is broken: they run the tests that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.context import BROKEN

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController


class Successors:
    """Hooks of an xdist controller that replace a worker which ended early, and did not crash.

    Such a worker has said why. What it had not begun is pending again, and nothing is reported
    as crashed.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._count = 0

    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Start the successor of a worker that asks for one.

        Where there is none, the worker's request to stop ends the run, with its reason.
        """
        from pytest_autotune.plugin.scheduling import SlotScheduling

        output: dict[str, Any] = getattr(node, "workeroutput", {})
        reason = output.get(BROKEN)
        session: Any = self._config.pluginmanager.getplugin("dsession")
        if reason is None or session.shouldstop or not isinstance(session.sched, SlotScheduling):
            return
        limit = self._config.option.maxworkerrestart
        if limit is not None and self._count >= int(limit):
            output["shouldstop"] = (
                f"{reason}; --max-worker-restart={limit} allows no other worker, "
                "and the same command goes on with the rest"
            )
            return
        self._count += 1
        output["shouldstop"] = False
        text = f"autotune: {node.gateway.id}: {reason}; another worker goes on"
        # The line of dots before it ends here.
        announce(self._config, "")
        announce(self._config, text, yellow=True)
        # As xdist does where a worker crashed.
        session.shuttingdown = False
        session._clone_node(node)  # noqa: SLF001 - there is no public way
        # It ends itself. Where something hangs at its end, this kills it after 15 s.
        node.ensure_teardown()
