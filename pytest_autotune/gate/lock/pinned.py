"""Pinned configurations for use at run time, read from the lock file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedConfiguration:
    """The pinned configuration of a study.

    ``metrics`` are medians over the launches that were made to pin it; times are in seconds.
    ``metric`` is the one of ``objective``.
    """

    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    metric: str
    objective: str


def read_lock(path: str | Path = LOCK_NAME) -> Mapping[str, PinnedConfiguration]:
    """Return the pinned configurations by study, labelled as in the lock file.

    A relative path is looked for in the current folder, then in the folders above it. Raises
    :class:`.LockError` if there is no such file or it is not valid.
    """
    here = Path.cwd()
    candidates = [folder / path for folder in (here, *here.parents)]
    found = next((file for file in candidates if file.exists()), candidates[0])
    return {
        study: PinnedConfiguration(
            parameters=entry.parameters,
            metrics={name: metric.median for name, metric in entry.metrics.items()},
            metric=entry.metric,
            objective=entry.objective,
        )
        for study, entry in read_lock_file(found).items()
    }
