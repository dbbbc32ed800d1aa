"""Measured spaces, and how good a search was: what ``search.py`` and its peers have in common.

A search is reduced to its *trace*, the rows of the table that it looked up, in order and each
once. All figures of merit follow from that.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
#: A combination: for each parameter the index of its value.
Digits: TypeAlias = tuple[int, ...]
Kind: TypeAlias = Literal["kernel", "serving", "bowl"]

BUDGETS: Final[Mapping[Kind, tuple[int, ...]]] = {
    "kernel": (20, 50, 100, 200),
    "serving": (10, 20, 50),
    "bowl": (20, 50, 100),
}
#: Smaller tables are serving spaces, whose trials cost minutes each.
FEW_ROWS: Final = 300
#: Who proposes what is known already, or does not exist, is asked again so often.
ASKS_PER_EVALUATION: Final = 4


class SpaceError(Exception):
    """A file of a space is missing or wrong."""


@dataclass(frozen=True, eq=False)
class Table:
    """A measured space: its rows are the valid points, everything else does not exist.

    ``digits`` has a row per point and a column per parameter; ``columns`` are the numeric
    columns that are no parameters, NaN where there is nothing. ``failed`` rows did not build or
    run; ``feasible`` ones did, and meet the SLO, whose maxima are ``slo`` and whose minima are
    ``floors``. A synthetic space says its kind, and the column that a search is judged by, where
    the objective is that with noise.
    """

    name: str
    parameters: Mapping[str, tuple[Any, ...]]
    objective: str
    maximize: bool
    slo: Mapping[str, float]
    digits: IntArray
    columns: Mapping[str, Array]
    failed: BoolArray
    floors: Mapping[str, float] = field(default_factory=dict)
    described: Kind | None = None
    judged_by: str = ""

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.digits)

    @property
    def kind(self) -> Kind:
        """What is searched here."""
        if self.described is not None:
            return self.described
        serving = self.bounded or self.maximize or len(self) < FEW_ROWS
        return "serving" if serving else "kernel"

    @property
    def bounded(self) -> bool:
        """Whether there is an SLO."""
        return bool(self.slo or self.floors)

    @property
    def budgets(self) -> tuple[int, ...]:
        """The numbers of evaluations after which a search is looked at."""
        return BUDGETS[self.kind]

    @cached_property
    def feasible(self) -> BoolArray:
        """Rows that ran and meet the SLO."""
        found = ~self.failed
        for metric, most in self.slo.items():
            found &= self.columns[metric] <= most
        for metric, least in self.floors.items():
            found &= self.columns[metric] >= least
        return found

    @cached_property
    def violation(self) -> Array:
        """By how much the SLO is broken: the sum over bounds of the excess, relative to them."""
        total = np.zeros(len(self))
        for metric, most in self.slo.items():
            total += np.maximum(np.nan_to_num(self.columns[metric] / most - 1), 0)
        for metric, least in self.floors.items():
            total += np.maximum(np.nan_to_num(1 - self.columns[metric] / least), 0)
        return total

    @cached_property
    def score(self) -> Array:
        """The objective, lower is better; NaN where a row failed."""
        values = np.where(self.failed, np.nan, self.columns[self.objective])
        return -values if self.maximize else values

    @cached_property
    def quality(self) -> Array:
        """Each row as a fraction of the optimum, 0 for what is not feasible."""
        return np.nan_to_num(np.where(self.feasible, 1 / self.distance, 0.0))

    @cached_property
    def distance(self) -> Array:
        """Each row's objective as so many times the optimum, feasible or not; NaN if it failed."""
        values = np.where(self.failed, np.nan, self.columns[self.judged_by or self.objective])
        feasible = values[self.feasible]
        found: Array = (
            np.nanmax(feasible) / values if self.maximize else values / np.nanmin(feasible)
        )
        return found

    @cached_property
    def row_of(self) -> Mapping[Digits, int]:
        """Which row a combination is, for those that are."""
        return {tuple(digits): row for row, digits in enumerate(self.digits.tolist())}

    @cached_property
    def ordered(self) -> BoolArray:
        """Which parameters have values in rising or falling order."""
        return np.array([_is_ordered(values) for values in self.parameters.values()])

    @cached_property
    def sizes(self) -> IntArray:
        """How many values each parameter has."""
        return np.array([len(values) for values in self.parameters.values()])

    def point(self, row: int) -> dict[str, Any]:
        """Return the parameters of a row."""
        return {
            name: values[index]
            for (name, values), index in zip(
                self.parameters.items(), self.digits[row].tolist(), strict=True
            )
        }

    def metrics(self, row: int) -> dict[str, float]:
        """Return what a trial reports that runs a row: the objective and what the SLO bounds."""
        names = (self.objective, *self.slo, *self.floors)
        return {name: float(self.columns[name][row]) for name in names}

    def nearest(self, digits: Digits, seen: BoolArray, rng: np.random.Generator) -> int | None:
        """Return the row not yet ``seen`` that is closest to a combination, None if there is none.

        Distance is the sum over parameters of the share of their values that lies between (0 or
        1 for unordered ones); ties are broken at random.
        """
        rows = np.flatnonzero(~seen)
        if not len(rows):
            return None
        apart = np.abs(self.digits[rows] - np.array(digits))
        scaled = apart / np.maximum(self.sizes - 1, 1)
        distance = np.where(self.ordered, scaled, apart > 0).sum(axis=1)
        closest = rows[distance <= distance.min() + 1e-12]
        return int(closest[rng.integers(len(closest))])


def _is_ordered(values: Sequence[Any]) -> bool:
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return False
    return list(values) in (sorted(values), sorted(values, reverse=True))


# Reading ------------------------------------------------------------------------------------


def find_spaces(folder: Path) -> list[Path]:
    """Return the tables in a folder; raise :class:`SpaceError` where there are none."""
    found = sorted(folder.glob("*.csv.gz")) if folder.is_dir() else []
    if not found:
        what = "has no NAME.csv.gz" if folder.is_dir() else "is no folder"
        msg = f"{folder} {what}; give a folder of measured spaces with --spaces or AUTOTUNE_SPACES"
        raise SpaceError(msg)
    return found


def load(path: Path) -> Table:
    """Read ``NAME.csv.gz`` and the ``NAME.json`` beside it."""
    name = path.name.removesuffix(".csv.gz")
    described = path.with_name(f"{name}.json")
    try:
        document = json.loads(described.read_text("utf-8"))
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return _table(name, document, rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        msg = f"{path.name} and {described.name} cannot be read as a space: {error!r}"
        raise SpaceError(msg) from None


def _table(name: str, document: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> Table:
    parameters = {key: tuple(values) for key, values in document["params"].items()}
    index = {key: _by_text(values) for key, values in parameters.items()}
    objective, slo = document["objective"], document.get("slo") or {}
    floors = {key: limit["min"] for key, limit in slo.items() if isinstance(limit, dict)}
    unique: dict[Digits, Mapping[str, str]] = {}
    for row in rows:
        unique.setdefault(tuple(index[key][_text(row[key])] for key in parameters), row)
    kept = list(unique.values())
    wanted = [key for key in (rows[0] if rows else ()) if key not in parameters]
    columns = {key: np.array([_number(row[key]) for row in kept]) for key in wanted}
    failed = ~np.isfinite(columns[objective])
    if "valid" in columns:
        failed |= columns["valid"] != 1
    table = Table(
        name=name,
        parameters=parameters,
        objective=objective,
        maximize=document.get("direction", "minimize") == "maximize",
        slo={key: float(most) for key, most in slo.items() if key not in floors},
        digits=np.array(list(unique), dtype=np.int64).reshape(len(kept), len(parameters)),
        columns=columns,
        failed=failed,
        floors={key: float(least) for key, least in floors.items()},
        described=document.get("kind"),
        judged_by=document.get("judged_by", ""),
    )
    if not table.feasible.any():
        msg = "no row is valid and meets the SLO"
        raise ValueError(msg)
    return table


def _by_text(values: Sequence[Any]) -> dict[str, int]:
    return {_text(value): index for index, value in enumerate(values)}


def _text(value: Any) -> str:
    """Return one text for equal values, however they were written: 1, 1.0 and "1"."""
    try:
        return repr(float(value)) if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return str(value)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


# Searching ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One search: the rows that it evaluated, each once, in that order.

    ``asks`` are the seconds of processor time of each proposal, duplicates included, ``seconds``
    those of all of the search, by the clock. It ``stalled`` where it could not make use of its
    ``budget``. Where trials raced, ``costs`` are the simulated seconds of each, those that were
    ``given_up`` count as not found, and of ``better`` ones ``wronged`` were given up.
    """

    rows: Sequence[int]
    budget: int
    asks: Sequence[float] = ()
    seconds: float = 0.0
    stalled: bool = False
    costs: Sequence[float] = ()
    given_up: Sequence[bool] = ()
    better: int = 0
    wronged: int = 0


class Proposer(Protocol):
    """A peer that is asked for one combination after another."""

    def ask(self) -> Digits | None:
        """Return a combination, or None where there is none left."""

    def tell(self, row: int | None) -> None:
        """Take the result for the last combination: its row, None where it does not exist."""


def drive(proposer: Proposer, table: Table, budget: int) -> Trace:
    """Search with ``proposer`` until it made ``budget`` unique evaluations, or it stalls.

    Combinations that are not in the table and those that were evaluated before cost nothing; they
    are told all the same, and asks are limited.
    """
    began = time.perf_counter()
    most = min(budget, len(table))
    rows: dict[int, None] = {}
    asks: list[float] = []
    while len(rows) < most and len(asks) < ASKS_PER_EVALUATION * most:
        asked = time.thread_time()
        digits = proposer.ask()
        asks.append(time.thread_time() - asked)
        if digits is None:
            break
        row = table.row_of.get(digits)
        if row is not None:
            rows[row] = None
        proposer.tell(row)
    return Trace(
        rows=tuple(rows),
        budget=budget,
        asks=tuple(asks),
        seconds=time.perf_counter() - began,
        stalled=len(rows) < most,
    )


# Judging ------------------------------------------------------------------------------------


def curve(table: Table, trace: Trace) -> Array:
    """Return the best fraction of the optimum after each evaluation."""
    if not trace.rows:
        return np.zeros(0)
    quality = table.quality[list(trace.rows)]
    if trace.given_up:
        quality = np.where(trace.given_up, 0.0, quality)
    best: Array = np.maximum.accumulate(quality)
    return best


def extended(curve: Array, most: int) -> Array:
    """Return the curve over exactly ``most`` evaluations: its last value goes on, 0 if none is."""
    rest = np.full(max(most - len(curve), 0), curve[-1] if len(curve) else 0.0)
    return np.concatenate([curve[:most], rest])


def at_budgets(curve: Array, budgets: Sequence[int], limit: int) -> list[float]:
    """Return the curve's values after so many evaluations, NaN beyond ``limit``."""
    whole = extended(curve, max(budgets))
    return [math.nan if budget > limit else float(whole[budget - 1]) for budget in budgets]


def area(curve: Array, most: int, limit: int) -> float:
    """Return the mean of the curve over evaluations 1 to ``most``, NaN beyond ``limit``."""
    return math.nan if most > limit else float(extended(curve, most).mean())
