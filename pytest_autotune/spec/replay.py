"""The ``replay`` block of a spec: recorded results in place of measuring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_autotune.space.expressions import Expression
from pytest_autotune.text.places import Origin, parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    """A file of recorded results, relative to the spec's folder, and a selection of its rows.

    ``where`` is an expression over the columns of ``file``; None takes all rows.
    """

    file: str
    where: str | None = None


def read_replay(document: Mapping[str, Any], origin: Origin) -> ReplaySpec | None:
    """Read the replay of a schema-valid ``document``, None without; raise :class:`SpecError`."""
    block = document.get("replay")
    if block is None:
        return None
    replay = ReplaySpec(**block)
    if replay.where is not None:
        parsed(Expression.parse, replay.where, origin.at("replay", "where"))
    return replay
