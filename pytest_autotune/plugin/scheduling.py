"""An xdist scheduler that keeps slots whole. Imported only where xdist distributes a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from xdist.scheduler.loadscope import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController


class SlotScheduling(LoadScopeScheduling):
    """Distributes slots as units, and other tests as the ``--dist`` mode would.

    ``read_scopes`` returns the unit of each node id of a study, once workers have collected.
    """

    def __init__(
        self,
        config: pytest.Config,
        log: Producer | None,
        read_scopes: Callable[[], Mapping[str, str]],
    ) -> None:
        super().__init__(config, log)
        self._read_scopes = read_scopes
        self._mode: str = config.getoption("dist")

    @cached_property
    def _scopes(self) -> Mapping[str, str]:
        return self._read_scopes()

    def _split_scope(self, nodeid: str) -> str:
        """Return the unit that ``nodeid`` is scheduled in."""
        own = self._scopes.get(nodeid)
        if own is not None:
            return own
        match self._mode:
            case "loadscope":
                return super()._split_scope(nodeid)
            case "loadfile":
                return nodeid.split("::", 1)[0]
            case "loadgroup":
                return nodeid.rsplit("@", 1)[-1]
        return nodeid

    def mark_test_complete(
        self, node: WorkerController, item_index: int, duration: float = 0.0
    ) -> None:
        """Note the end of a test; forget its unit with the last of them.

        The parent class keeps all units, and counts through them whenever a test ends.
        """
        scope = self._split_scope(self.registered_collections[node][item_index])
        super().mark_test_complete(node, item_index, duration)
        assigned = self.assigned_work[node]
        if all(assigned[scope].values()):
            del assigned[scope]

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker more to do, unless it still collects.

        The parent class asks for all workers whenever one of them has collected, and fails where
        two workers crashed shortly one after the other. Nor does it give the successor of a
        worker that crashed a second test, without which that never begins the first.
        """
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and not self._can_begin(node):
            self._assign_work_unit(node)

    def _can_begin(self, node: WorkerController) -> bool:
        """Return whether a worker knows a test and the one after it."""
        return self._pending_of(self.assigned_work[node]) > 1

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a worker; hand on what it had not begun, as what comes next.

        The unit that a worker crashed in is dropped whole, where the parent class would run the
        crashed test again: a trial is re-queued by its study, into another slot. A worker that
        ended by itself, and left tests, was in none of them.
        """
        workload = self.assigned_work.pop(node)
        has_crashed = not hasattr(node, "workeroutput")
        crashed: str | None = None
        left: dict[str, dict[str, bool]] = {}
        for scope, unit in workload.items():
            begun = [nodeid for nodeid, completed in unit.items() if not completed]
            if has_crashed and crashed is None and begun:
                crashed = begun[0]
                rest = begun[1:] if scope not in self._scopes.values() else []
                begun = rest
            if begun:
                left[scope] = dict.fromkeys(begun, False)
        for scope in reversed(left):
            self.workqueue[scope] = left[scope]
            self.workqueue.move_to_end(scope, last=False)
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed
