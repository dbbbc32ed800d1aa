"""Markers without effect: no test takes the trial, or the tests are outside of the rootdir."""

from __future__ import annotations

import os
import unittest
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.errors import SpecError

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name


def check_place(node: Node) -> None:
    """Raise :class:`SpecError` for a study whose file is outside of pytest's rootdir.

    Specs, cache and lock file of another project would be used for it.
    """
    root, path = node.config.rootpath, node.path
    if path.is_relative_to(root) or path.resolve().is_relative_to(root.resolve()):
        return
    shown = os.path.relpath(path, node.config.invocation_params.dir)
    raise SpecError(
        f"{shown}: is outside of pytest's rootdir {root}, whose specs would be used; run each "
        "project by itself, or put one pytest.ini above both"
    )


def idle_markers(items: Iterable[pytest.Item], made: Collection[str]) -> Iterable[str]:
    """Return a message for each marker that makes no study, as no test takes ``trial``.

    ``made`` are the node ids of marked nodes of which a test takes it, selected or not.
    """
    found: dict[str, None] = {}
    for item in items:
        closest = next(item.iter_markers_with_node("autotune"), None)
        if closest is None or _takes_trial(item):
            continue
        node, _ = closest
        if node is item or node.nodeid not in made:
            found[_message(node, item)] = None
    return found


def _takes_trial(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and "trial" in callspec.params


def _message(node: Node, item: pytest.Item) -> str:
    name, what = node.nodeid, "none of its tests takes"
    if node is item:
        name, what = name.partition("[")[0], "it does not take"
    start = f"{name}: autotune marker: nothing would be tuned, as"
    owner = item.getparent(pytest.Class)
    if owner is not None and issubclass(owner.obj, unittest.TestCase):
        return (
            f"{start} methods of a unittest.TestCase ({owner.name}) take no fixtures; make it a "
            "plain class, whose tests take the argument 'trial'"
        )
    return f"{start} {what} the argument 'trial'; add it, or remove the marker"
