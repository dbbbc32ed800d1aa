"""Reading of result files, shared by the adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

from pytest_autotune.load.statistics import PERCENTILES
from pytest_autotune.system.files import read_regular

#: A result that lists ten thousand requests has a few megabytes.
_MAX_BYTES: Final = 64_000_000

Result = TypeVar("Result")
#: How many of a unit of time make a second.
PER_SECOND: Final = {"s": 1.0, "sec": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def document(file: Path) -> Any:
    """Read a result; raise ValueError where it was not written."""
    try:
        found = json.loads(read_regular(file, _MAX_BYTES))
    except FileNotFoundError:
        raise ValueError(
            f"{file.name} was not written: every request failed, or the tool did"
        ) from None
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deep") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{file.name} holds no JSON object")  # noqa: TRY004 - as all of them
    return found


def reader(read: Callable[[Path], Result]) -> Callable[[Path], Result]:
    """Make ``read`` raise ValueError only, also where a result is of another form than expected."""

    @wraps(read)
    def checked(path: Path) -> Result:
        try:
            return read(path)
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path.name} has another form than expected ({problem})") from None

    return checked


def number(value: object) -> float | None:
    """Return a finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number may be too large for a real one.
    return float(value) if abs(value) <= sys.float_info.max else None


def put(metrics: dict[str, float], **values: object) -> None:
    """Add those of ``values`` that are numbers."""
    for name, value in values.items():
        found = number(value)
        if found is not None:
            metrics[name] = found


def statistics(
    name: str, entry: Mapping[str, Any], per_second: float, *, mean: str = "mean", std: str
) -> dict[str, float]:
    """Return the statistics of one metric in seconds; ``mean`` and ``std`` are their names."""
    members = {"mean": mean, "min": "min", "max": "max", "std": std}
    members |= {f"p{p}": f"p{p}" for p in PERCENTILES}
    result: dict[str, float] = {}
    for statistic, member in members.items():
        found = number(entry.get(member))
        if found is not None:
            result[f"{statistic}_{name}"] = found / per_second
    return result
