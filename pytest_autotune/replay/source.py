"""The recording that a study replays: its spec's file, or the run's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import ExpressionError, RecordingError, SpecError
from pytest_autotune.replay.cuts import why_undecided
from pytest_autotune.scoring.judgement import Measurement, Question
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.build import place_of
from pytest_autotune.study.source import Source

if TYPE_CHECKING:
    from pytest_autotune.replay.table import Recording
    from pytest_autotune.spec.model import Spec
    from pytest_autotune.study.settings import Settings


class Replay(Source):
    """Recorded results, which a study takes instead of measuring.

    ``given`` is whether an option names them, and not the spec.
    """

    measures = False
    suffix = ", replayed"

    def __init__(self, recording: Recording, *, given: bool) -> None:
        self.recording = recording
        self.file = recording.shown
        where = recording.where
        self.description = self.file if where is None else f"{self.file} where {where}"
        self.arguments = ("--autotune-replay", shlex.quote(self.file)) if given else ()

    def key(self, spec: Spec) -> Mapping[str, Any]:  # noqa: ARG002 - the same for every server
        """Return the identity of the results, the same on every machine."""
        found = {"recording": self.recording.digest, "where": self.recording.where or ""}
        return {"replay": found}

    def recorded(self, params: Point) -> Measurement:
        """Return the recorded result of a point."""
        return self.recording.result(params)

    def why_undecided(self, params: Point, question: Question) -> str:
        """Return why the recorded result of a point does not answer ``question``."""
        return why_undecided(self.recorded(params), self.recording.cut(params), question)


def replayed(spec: Spec, settings: Settings) -> tuple[Spec, Replay]:
    """Read the recorded results for ``spec``, and restrict its space to them.

    What the command line or the ini file says wins over the spec, whose ``where`` is for its own
    file. Raises :class:`UserError`.
    """
    from pytest_autotune.replay.table import Recording

    given, own = settings.replay, spec.replay
    if given is not None:
        place, path, shown, where = given.where, given.path, given.written, None
    else:
        assert own is not None, "somebody wants a replay"
        _refuse(spec, settings)
        place, path = spec.origin.at("replay"), Path(spec.origin.folder) / own.file
        shown, where = own.file, own.where
    try:
        recording = Recording.read(path, where, shown=shown)
        rules = tuple(rule.require for rule in spec.rules)
        constraints = (*spec.space.constraints, *rules)
        space = recording.restrict(replace(spec.space, constraints=constraints))
    except RecordingError as error:
        raise RecordingError(f"{place}: {error}") from None
    except ExpressionError as error:
        raise SpecError(f"{place_of(error, spec.space, spec.origin)}: {error}") from None
    found = replace(spec, space=space, notices=(*spec.notices, *_notices(spec, recording)))
    return found, Replay(recording, given=given is not None)


def _refuse(spec: Spec, settings: Settings) -> None:
    """Refuse what would take replayed results for measured ones."""
    place = spec.origin.at("replay")
    if settings.gate or settings.lock:
        option = "--autotune-gate" if settings.gate else "--autotune-lock"
        raise SpecError(
            f"{place}: {option}: results that are replayed can neither be pinned nor held against "
            "what is pinned; take 'replay' out of the spec to measure"
        )
    if settings.record is not None:
        raise SpecError(
            f"{place}: {settings.record.where}: results that are replayed are recorded already; "
            "take 'replay' out of the spec to measure"
        )


def _notices(spec: Spec, recording: Recording) -> list[str]:
    notices = []
    outside = len(recording) - recording.fitting
    if outside:
        notices.append(
            f"{outside} of the {len(recording)} recorded rows are outside of the spec, and left out"
        )
    machine = sorted(
        {
            repr(expression.source)
            for expression in spec.space.expressions()
            if not expression.names.isdisjoint(spec.space.variables)
        }
    )
    if machine:
        notices.append(
            f"{' and '.join(machine)} did not count: it is about this machine, and the results "
            "are another's"
        )
    return notices
