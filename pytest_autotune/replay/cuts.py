"""Trials that an SLO cut short, in a recording: another SLO may have no answer from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from pytest_autotune.scoring.judgement import Ending, Measurement, Question, decides
from pytest_autotune.scoring.slo import SLO

#: By what a cell begins with: how the trial ended, and whether tests or levels were left out.
_KINDS: Final[Mapping[str, tuple[Ending, bool]]] = {
    "ended": (Ending.CUT_SHORT, False),
    "partial": (Ending.COMPLETE, True),
    "ended+partial": (Ending.CUT_SHORT, True),
}
_WHOLE: Final = frozenset({"", "0"})


def write_cut(measurement: Measurement, slo: SLO) -> str:
    """Return a cell on what ``slo`` cut off a trial, empty where it is whole."""
    kind = (measurement.ending, measurement.partial)
    name = next((name for name, known in _KINDS.items() if known == kind), None)
    return "" if name is None else f"{name} {_digest(slo)}"


def read_cut(cell: str) -> dict[str, Any]:
    """Return the fields of a measurement that a cell tells of."""
    if cell in _WHOLE:
        return {}
    ending, partial = _KINDS.get(cell.split(maxsplit=1)[0], (Ending.CUT_SHORT, True))
    return {"ending": ending, "partial": partial}


def why_undecided(measurement: Measurement, cell: str, question: Question) -> str:
    """Return why a recorded trial does not answer ``question``, empty where it does."""
    if cell in _WHOLE or cell.rsplit(maxsplit=1)[-1] == _digest(question.slo):
        return ""
    if decides(measurement, question):
        return ""
    return "it was cut short by the SLO that it was recorded under, and does not answer this one"


def _digest(slo: SLO) -> str:
    text = json.dumps(asdict(slo), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
