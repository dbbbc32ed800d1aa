"""Renaming tests after the trial that they run."""

from __future__ import annotations

import pytest


def rename(item: pytest.Item, before: str, after: str) -> None:
    """Replace the slot ``before`` in a test's name by ``after``, its first parameter.

    pytest has no public way to do so. It must happen before anybody is told of the test.
    """
    function, bracket, parameters = item.name.partition("[")
    name = f"{function}{bracket}{parameters.replace(before, after, 1)}"
    head, _, tail = item.nodeid.rpartition(item.name)
    nodeid = f"{head}{name}{tail}"
    item.name = name
    structured = getattr(item, "_id", None)
    if structured is None:
        item._nodeid = nodeid  # type: ignore[attr-defined]  # noqa: SLF001
    else:  # since pytest 9.1
        item._id = type(structured).parse(nodeid)  # noqa: SLF001
    # It is computed once, and has the name in it.
    item.__dict__.pop("location", None)
