"""The tests that reported each metric of a trial: two that differ on one are a mistake."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

from pytest_autotune.scoring.metrics import Metrics


@dataclass(frozen=True, slots=True)
class _Reported:
    """One metric in one place: its latest value, and the test that reported it so often.

    ``varied`` is whether the values differed. ``rival`` is another test with another value.
    """

    value: float
    test: str
    times: int = 1
    varied: bool = False
    rival: str = ""

    def then(self, test: str, value: float) -> _Reported:
        same = value == self.value or (value != value and self.value != self.value)  # noqa: PLR0124
        if test == self.test:
            return _Reported(value, test, self.times + 1, self.varied or not same, self.rival)
        rival = self.test if self.test and test and not same else ""
        return _Reported(value, test, rival=rival)


class Reporters:
    """The tests that reported each metric, by case and load level."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Hashable, str], _Reported] = {}

    def add(self, case: str, level: Hashable, test: str, metrics: Metrics) -> None:
        """Note that ``test`` reported ``metrics``; it is empty for a fixture of many tests."""
        for name, value in metrics.items():
            place = case, level, name
            known = self._found.get(place)
            self._found[place] = (
                _Reported(value, test) if known is None else known.then(test, value)
            )

    def clash(self, counted: Collection[str]) -> str:
        """Return which metric of those that are counted two tests differ on, empty for none."""
        for (_, _, name), found in self._found.items():
            if name in counted and found.rival:
                return (
                    f"{name} was reported by {_short(found.rival)} and, with another value, by "
                    f"{_short(found.test)}: report under two names, or make cases of one test by "
                    "pytest.mark.parametrize"
                )
        return ""

    def notes(self, counted: Collection[str]) -> Iterator[str]:
        """Yield a sentence for each metric that a test reported with several values."""
        for (case, _, name), found in self._found.items():
            if name in counted and found.varied:
                where = f"{case}: " if case else ""
                by = f" in {_short(found.test)}" if found.test else ""
                yield f"{where}{name} was reported {found.times} times{by}; the last value counts"


def _short(test: str) -> str:
    """Return a test's name without its file."""
    return test.partition("::")[2] or test
