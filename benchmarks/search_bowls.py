"""Smooth synthetic spaces with one optimum, most with a hard bound: sets for ``search.py --set``.

A bowl's latency rises from 1 s at the optimum in all directions, by the squared number of steps
or by factors. A bound is on the very metric that is searched for, or on another one whose optimum
lies elsewhere. Both metrics may be noisy; the points that are found are judged without noise.

On such a space a model that is worth its cost is sure of the optimum after some twenty trials. So
not only the best trial tells how good a search is, but all of the later ones: a search that goes
on far from the optimum, or along the border of what is feasible, has not understood the bowl.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """One space: a parameter of so many values for each of ``sizes``.

    Latency rises up to the factor ``spread``, or by one second per squared step where that is
    None; ``turned`` axes depend on each other. With ``maximize`` the objective is the rate, which
    is the inverse of the latency. ``bounded`` says whether the objective ("itself") or the other
    metric has a hard bound, which a ``share`` of all points meets. ``noise`` is relative.
    """

    name: str
    sizes: tuple[int, ...]
    seed: int
    spread: float | None = None
    turned: bool = False
    maximize: bool = False
    bounded: Literal["nothing", "itself", "other"] = "itself"
    share: float = 0.1
    noise: float = 0.0

    def document(self) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """Return the description of the space, and its rows."""
        rng = np.random.default_rng([self.seed, 0xB0D1])
        parameters = {f"p{at}": list(range(size)) for at, size in enumerate(self.sizes)}
        points = list(itertools.product(*parameters.values()))
        places = np.array(points, dtype=np.float64)
        latency, memory = self._heights(places, rng), self._heights(places, rng)
        if self.maximize:
            # What does more at once takes longer for each: the bound is where they meet.
            memory = 1 / latency * np.sqrt(memory)
        true = 1000 / latency if self.maximize else latency
        measured, other = (
            values * np.exp(self.noise * rng.standard_normal(len(values)))
            for values in (true, memory)
        )
        objective = "rate" if self.maximize else "latency"
        columns = zip(points, measured.tolist(), other.tolist(), true.tolist(), strict=True)
        rows = [
            dict(zip((*parameters, objective, "other", "true"), (*point, *values), strict=True))
            for point, *values in columns
        ]
        slo: dict[str, float | Mapping[str, float]] = {}
        if self.bounded == "itself":
            level = float(np.quantile(true, 1 - self.share if self.maximize else self.share))
            slo[objective] = {"min": level} if self.maximize else level
        elif self.bounded == "other":
            slo["other"] = float(np.quantile(memory, self.share))
        return {
            "kind": "bowl",
            "params": parameters,
            "objective": objective,
            "judged_by": "true",
            "direction": "maximize" if self.maximize else "minimize",
            "slo": slo,
        }, rows

    def write(self, folder: Path) -> Path:
        """Write the space as ``NAME.csv.gz`` and ``NAME.json``; return the path of the first."""
        described, rows = self.document()
        path = folder / f"{self.name}.csv.gz"
        with gzip.open(path, "wt", compresslevel=1, encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (folder / f"{self.name}.json").write_text(json.dumps(described), "utf-8")
        return path

    def _heights(self, places: Array, rng: np.random.Generator) -> Array:
        """Return a bowl over all points, 1 at its lowest."""
        sizes = np.array(self.sizes)
        off = places - rng.integers(sizes)
        if self.spread is None:
            weights = np.ones(len(sizes))
        else:
            off = off / np.maximum(sizes - 1, 1)
            weights = rng.uniform(0.5, 1.5, len(sizes))
        squares = off**2 @ weights
        if self.turned:
            # Half of what neighbouring axes have in common, so that it stays a bowl.
            squares = squares + (off[:, 1:] * off[:, :-1]).sum(axis=1) * 0.5 * weights.min()
        if self.spread is None:
            return 1 + squares
        heights: Array = np.exp(math.log(self.spread) * squares / squares.max())
        return heights


def _set(**bowls: Mapping[str, Any]) -> tuple[Bowl, ...]:
    return tuple(Bowl(name=name, **keys) for name, keys in bowls.items())


#: What changes to the search may be chosen by, and what they are only judged by.
SETS: Final[Mapping[str, tuple[Bowl, ...]]] = {
    "bowls": _set(
        steps_3d={"sizes": (16, 16, 32), "seed": 1, "bounded": "nothing"},
        steps_3d_half={"sizes": (16, 16, 32), "seed": 1, "share": 0.5},
        steps_3d_20th={"sizes": (16, 16, 32), "seed": 1, "share": 0.05},
        steps_7d={"sizes": (4,) * 6 + (2,), "seed": 2, "share": 0.5},
        factors_4d={"sizes": (8, 8, 8, 16), "seed": 0, "spread": 1e4, "share": 0.5},
        factors_4d_noisy={
            "sizes": (8, 8, 8, 16), "seed": 3, "spread": 1e4, "share": 0.1, "noise": 0.05,
        },
        flags_13d={"sizes": (2,) * 13, "seed": 0, "spread": 1e4},
        factors_7d_other={
            "sizes": (4,) * 6 + (2,), "seed": 4, "spread": 100, "bounded": "other",
        },
        rate_4d={"sizes": (8, 8, 8, 16), "seed": 5, "spread": 1e3, "maximize": True},
        rate_4d_other={
            "sizes": (8, 8, 8, 16), "seed": 6, "spread": 100, "maximize": True,
            "bounded": "other", "share": 0.3,
        },
    ),
    "bowls-kept-back": _set(
        steps_2d={"sizes": (64, 128), "seed": 11, "share": 0.2},
        steps_3d_turned={"sizes": (32, 8, 32), "seed": 12, "turned": True, "share": 0.3},
        steps_5d_noisy={"sizes": (11, 5, 7, 9, 3), "seed": 13, "noise": 0.02, "share": 0.05},
        steps_6d_other={"sizes": (4, 4, 4, 4, 4, 8), "seed": 14, "bounded": "other", "share": 0.2},
        factors_3d={"sizes": (16, 16, 32), "seed": 15, "spread": 1e6, "share": 0.3},
        factors_5d_turned={
            "sizes": (6, 6, 6, 6, 6), "seed": 16, "spread": 300, "turned": True, "share": 0.02,
        },
        factors_8d={"sizes": (2,) * 6 + (8, 16), "seed": 17, "spread": 1e3, "bounded": "nothing"},
        factors_4d_noisy_other={
            "sizes": (8, 8, 8, 16), "seed": 18, "spread": 30, "noise": 0.1,
            "bounded": "other", "share": 0.1,
        },
        rate_3d={"sizes": (16, 16, 32), "seed": 19, "maximize": True, "share": 0.2},
        rate_6d_noisy={
            "sizes": (4, 4, 4, 4, 4, 8), "seed": 20, "spread": 1e3, "maximize": True,
            "noise": 0.05, "share": 0.3,
        },
    ),
}  # fmt: skip


def write_set(name: str, folder: Path, only: Sequence[str] | None = None) -> None:
    """Write the spaces of a set into ``folder``, or ``only`` those of these names."""
    for bowl in SETS[name]:
        if not only or bowl.name in only:
            bowl.write(folder)
