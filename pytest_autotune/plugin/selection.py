"""The selection of a run: which tests of a study's slots were generated, and which will run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_autotune.plugin.slots import Slot


class Selection:
    """All tests that were generated for slots, before anything left some of them out."""

    def __init__(self) -> None:
        self._generated: dict[Slot, list[pytest.Item]] = {}
        self._classes: list[pytest.Class] = []
        self._opened: set[str] = set()

    def note(self, collector: pytest.Collector, made: object) -> None:
        """Take note of what a module or a class is made of."""
        self._opened.add(collector.nodeid)
        for node in made if isinstance(made, list) else [made]:
            if isinstance(node, pytest.Class):
                self._classes.append(node)
            elif isinstance(node, pytest.Item):
                slot = slot_param(node)
                if slot is not None:
                    self._generated.setdefault(slot, []).append(node)

    def complete(self, study: str) -> None:
        """Collect the classes of a study that pytest had no reason to look into.

        That is so where node ids name tests of others.
        """
        # The list grows, as classes may hold classes.
        for node in self._classes:
            if node.nodeid not in self._opened and node.nodeid.startswith(f"{study}::"):
                node.ihook.pytest_make_collect_report(collector=node)

    def tests(self, slot: Slot) -> Sequence[str]:
        """Return the node ids of all tests that were generated for ``slot``, as written."""
        items = sorted(self._generated.get(slot, ()), key=lambda item: item.location[1] or 0)
        return [item.nodeid for item in items]

    def left_out(self, slot: Slot, items: Iterable[pytest.Item]) -> Sequence[str]:
        """Return the names of the tests of ``slot`` that are not among ``items``.

        Of a test with other parameters some cases may be left out.
        """
        chosen = list(items)
        same = {id(item) for item in chosen}
        # Another plugin may have put a test in the place of one.
        named = {item.nodeid for item in chosen}
        every = self._generated.get(slot, ())
        missing = [item for item in every if id(item) not in same and item.nodeid not in named]
        cases = Counter(map(_function, every))
        left_out = Counter(map(_function, missing))
        return tuple(
            name if count == cases[name] else f"{count} of {cases[name]} cases of {name}"
            for name, count in left_out.items()
        )


def _function(item: pytest.Item) -> str:
    return getattr(item, "originalname", None) or item.name


def slot_param(item: pytest.Item) -> Slot | None:
    """Return the slot that is a parameter of a test, None where there is none."""
    callspec = getattr(item, "callspec", None)
    params: Mapping[str, object] = {} if callspec is None else callspec.params
    slot = params.get("trial")
    return slot if isinstance(slot, Slot) else None


def is_asked_for(config: pytest.Config, items: Iterable[pytest.Item]) -> bool:
    """Return whether one of the tests was named by its id, or failed last time under --lf."""
    chosen = list(items)
    named = {
        _test(config.invocation_params.dir / path, test)
        for path, _, test in (arg.partition("::") for arg in config.args)
        if "[" in test
    }
    if any(_test(item.path, item.nodeid.partition("::")[2]) in named for item in chosen):
        return True
    cache = getattr(config, "cache", None)
    if cache is None or not config.getoption("lf", default=False):
        return False
    return not {item.nodeid for item in chosen}.isdisjoint(cache.get("cache/lastfailed", {}))


def _test(path: Path, name: str) -> tuple[str, str]:
    """Return a test's file, whatever names lead to it, and its name there."""
    return os.path.realpath(path), name
