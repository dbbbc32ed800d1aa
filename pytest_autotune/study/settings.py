"""The settings of one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

DEFAULT_GPU_TIMEOUT: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFile:
    """A file that an option names: the option (``where``), the text (``written``), the ``path``."""

    where: str
    written: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run, from options and ini values; None leaves it to the spec.

    ``enabled`` is for tuning, ``gate`` for comparing pinned configurations, with the revision
    ``against`` or else the stored baseline; never both. ``timeout`` and ``gpu_timeout`` are in
    seconds. ``keep`` lets trials of other code count. Results are taken from ``replay``, and
    written to ``record``; never both.
    """

    enabled: bool = False
    gate: bool = False
    against: str | None = None
    strict: bool = False
    lock: bool = False
    lock_force: bool = False
    trials: int | None = None
    timeout: float | None = None
    strategy: str | None = None
    seed: int | None = None
    storage: str | None = None
    fresh: bool = False
    keep: bool = False
    gpu_timeout: float = DEFAULT_GPU_TIMEOUT
    infeasible: Literal["fail", "xfail"] | None = None
    record: GivenFile | None = None
    replay: GivenFile | None = None
