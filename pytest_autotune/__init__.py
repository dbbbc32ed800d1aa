"""Tune inference servers and GPU kernels with pytest, and gate their performance in CI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_autotune.bench.correctness import assert_matches
    from pytest_autotune.bench.measure import measure

__version__ = "0.1.0"
__all__ = ["assert_matches", "measure"]

#: Imported when first asked for, as pytest loads this package in every run.
_PLACES = {
    "assert_matches": "pytest_autotune.bench.correctness",
    "measure": "pytest_autotune.bench.measure",
}


def __getattr__(name: str) -> Any:
    """Import one of the public functions."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
