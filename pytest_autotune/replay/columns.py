"""The columns of a recording: parameters, load levels, metrics, and the end of a trial."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_autotune.errors import RecordingError
from pytest_autotune.replay.content import no_column
from pytest_autotune.space.expressions import identifier

#: Columns that tell the load levels of a trial apart.
LEVEL: Final = ("concurrency", "request_rate", "scenario")
#: The column that tells the cases of a trial apart, such as shapes.
CASE: Final = "case"
#: Columns that say how a trial ended; ``n_samples`` is how many measurements a row sums up,
#: ``disturbed`` what disturbed them, ``request_failure`` why requests of a level failed, and
#: ``cut_short`` whether an SLO kept the trial from measuring all.
ENDING: Final = (
    *("valid", "error", "duration", "n_samples", "disturbed", "request_failure", "cut_short"),
)
#: Between several disturbances in one cell.
SEPARATOR: Final = "; "
_METRIC: Final = "metric_"


def level_column(name: str, parameters: Collection[str]) -> str:
    """Return the column of a level's ``name``, which makes way for a parameter's."""
    return _making_way(name, "level_", parameters)


def case_column(parameters: Collection[str]) -> str:
    """Return the column of the case, which makes way for a parameter's."""
    return _making_way(CASE, "trial_", parameters)


def ending_column(name: str, parameters: Collection[str]) -> str:
    """Return the column of one of :data:`ENDING`."""
    return _making_way(name, "trial_", parameters)


def metric_column(name: str, parameters: Collection[str]) -> str:
    """Return the column of a metric, which makes way for all others."""
    taken = {
        *(*parameters, *LEVEL, CASE, *ENDING),
        case_column(parameters),
        *(level_column(key, parameters) for key in LEVEL),
        *(ending_column(key, parameters) for key in ENDING),
    }
    if name.startswith(_METRIC):
        # Or else it would be read as one that made way.
        name = _METRIC + name
    return _making_way(name, _METRIC, taken)


def _making_way(name: str, prefix: str, taken: Collection[str]) -> str:
    while name in taken:
        name = prefix + name
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a file, by position; all others are ignored.

    ``parameters`` are in the space's order; ``levels``, ``endings`` and ``metrics`` by name.
    ``case`` is None where trials have no cases.
    """

    parameters: Sequence[int]
    levels: Mapping[str, int]
    endings: Mapping[str, int]
    metrics: Mapping[str, int]
    case: int | None = None

    @classmethod
    def of(
        cls, header: Sequence[str], numeric: Collection[str], parameters: Sequence[str]
    ) -> Columns:
        """Sort the columns, of which some are ``numeric``.

        Raises :class:`RecordingError` where one of the ``parameters`` has none.
        """
        places = {name: at for at, name in enumerate(header)}
        own = [_parameter_column(name, header, parameters) for name in parameters]
        levels = {name: level_column(name, own) for name in LEVEL}
        endings = {name: ending_column(name, own) for name in ENDING}
        case = case_column(own)
        others = {*own, *levels.values(), case, *endings.values()}
        return cls(
            parameters=[places[name] for name in own],
            levels={key: places[name] for key, name in levels.items() if name in places},
            endings={key: places[name] for key, name in endings.items() if name in places},
            metrics={
                _metric(name, own): at
                for name, at in places.items()
                if name not in others and name in numeric
            },
            case=places.get(case),
        )


def _metric(column: str, parameters: Collection[str]) -> str:
    """Return the metric whose column this is."""
    plain = column
    while plain.startswith(_METRIC):
        plain = plain.removeprefix(_METRIC)
        if metric_column(plain, parameters) == column:
            return plain
    return column


def _parameter_column(name: str, header: Sequence[str], parameters: Sequence[str]) -> str:
    if name in header:
        return name
    alike = [
        column
        for column in header
        if identifier(column) == identifier(name) and column not in parameters
    ]
    if len(alike) == 1:
        return alike[0]
    raise RecordingError(no_column(name, header, "for the parameter "))
