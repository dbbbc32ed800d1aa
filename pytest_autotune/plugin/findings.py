"""Findings of one process on its studies, for the process with the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_autotune.study.protocol import Stop
from pytest_autotune.text.printable import printable_lines


class Findings:
    """Errors that end a run, which studies were opened, why they stopped, and sentences on them."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._said: set[str] = set()
        self._stops: dict[str, Stop] = {}
        self._notices: dict[str, list[str]] = {}
        self._looks: dict[str, list[Mapping[str, Any]]] = {}
        self._opened: dict[str, int] = {}
        self._reached: dict[str, dict[str, bool]] = {}

    @property
    def opened(self) -> Mapping[str, int]:
        """The ids in storage of the studies that were opened, by node id."""
        return self._opened

    def add_opened(self, study: str, study_id: int) -> None:
        """Note which study in storage the run works on."""
        self._opened[study] = study_id

    @property
    def errors(self) -> Sequence[str]:
        """Messages of what ends the run, each once."""
        return tuple(dict.fromkeys(error for error in self._errors if error not in self._said))

    @property
    def stops(self) -> Mapping[str, Stop]:
        """Why studies stopped, by node id."""
        return self._stops

    @property
    def notices(self) -> Mapping[str, Sequence[str]]:
        """Sentences for summaries, by node id of the study."""
        return self._notices

    @property
    def looks(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Looks that were taken, by node id of the study."""
        return self._looks

    def add_look(self, study: str, look: Mapping[str, Any]) -> None:
        """Note a look, given by its document."""
        self._looks.setdefault(study, []).append(look)

    @property
    def reached(self) -> Mapping[str, Mapping[str, bool]]:
        """Whether parameters of complete trials reached anything, by node id of the study."""
        return self._reached

    def add_reached(self, study: str, names: Iterable[str], complete: Iterable[str] = ()) -> None:
        """Note parameters that reached something, among those of a ``complete`` trial."""
        known = self._reached.setdefault(study, {})
        for name in complete:
            known.setdefault(name, False)
        known.update(dict.fromkeys(names, True))

    def add_error(self, text: str) -> None:
        """Add a message that ends the run with a usage error."""
        self._errors.append(printable_lines(text))

    def end_with(self, text: str) -> None:
        """Note the message that pytest ends the run with, so that it is not said twice."""
        self._said.add(printable_lines(text))

    def clear_errors(self) -> None:
        """Forget the errors: the run ends with them as its message."""
        self._errors.clear()

    def add_stop(self, study: str, stop: Stop) -> None:
        """Note why a study stopped."""
        self._stops[study] = stop

    def add_notices(self, study: str, texts: Iterable[str]) -> None:
        """Add sentences to the summary of a study, each once."""
        known = self._notices.setdefault(study, [])
        known.extend(text for text in texts if text not in known)

    def take_over(self, other: Findings) -> None:
        """Add the findings of another process; the first reason to stop counts."""
        self._errors.extend(other.errors)
        self._said |= other._said
        for study, stop in other.stops.items():
            self._stops.setdefault(study, stop)
        self._opened.update(other.opened)
        for study, texts in other.notices.items():
            self.add_notices(study, texts)
        for study, looks in other.looks.items():
            self._looks.setdefault(study, []).extend(looks)
        for study, reached in other.reached.items():
            names = [name for name, is_reached in reached.items() if is_reached]
            self.add_reached(study, names, complete=reached)

    def document(self) -> dict[str, Any]:
        """Return the findings as plain JSON types."""
        return {
            "errors": list(self._errors),
            "stops": {study: stop.value for study, stop in self._stops.items()},
            "notices": self._notices,
            "looks": self._looks,
            "opened": self._opened,
            "reached": self._reached,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Findings:
        """Return the findings that :meth:`document` wrote."""
        found = cls()
        found._errors = list(document["errors"])
        found._stops = {study: Stop(stop) for study, stop in document["stops"].items()}
        found._notices = {study: list(texts) for study, texts in document["notices"].items()}
        found._looks = {study: list(looks) for study, looks in document["looks"].items()}
        found._opened = dict(document["opened"])
        found._reached = {study: dict(names) for study, names in document["reached"].items()}
        return found
