"""Renaming tests after the trial that they run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from pytest_autotune.system.files import replace_file

#: Prefix of the files, one for each xdist worker, in the folder of a run.
_FILE: Final = "renamed-"


def rename(items: Sequence[pytest.Item], before: str, after: str, folder: Path | None) -> None:
    """Replace the slot ``before`` in the names of tests by ``after``.

    It must happen before anybody is told of the tests. ``folder`` is that of a distributed run,
    whose controller knows a test that crashes by its earlier name.
    """
    renamed = {item.nodeid: _rename(item, before, after) for item in items}
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if folder is not None and worker is not None:
        replace_file(folder / f"{_FILE}{worker}.json", json.dumps(renamed).encode())


def name_of(nodeid: str, worker: str, folder: Path | None) -> str:
    """Return the name that a worker last gave to the test ``nodeid``, if it gave it one."""
    if folder is None:
        return nodeid
    try:
        renamed = json.loads((folder / f"{_FILE}{worker}.json").read_text("utf-8"))
    except FileNotFoundError:
        return nodeid
    return str(renamed.get(nodeid, nodeid))


def _rename(item: pytest.Item, before: str, after: str) -> str:
    """Rename a test and return its node id; pytest has no public way to do so."""
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
    return nodeid
