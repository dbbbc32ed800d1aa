"""The ``gate`` block of a spec: the metrics to compare, and the size of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_autotune.errors import OptionError, SpecError
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.text.places import Origin
from pytest_autotune.text.values import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """The definition of a regression, with error rates and the most launches.

    ``tolerance`` is the share by which a metric may get worse. ``alpha`` is the error of calling
    a regression where there is none beyond it, for all metrics together; ``power`` is 1 less the
    error of passing one. At most ``max_launches`` of each revision are made. ``metrics`` are
    objectives as in ``optimization.objective``, empty for the study's own. ``prepare`` is the
    command, as arguments, that makes a checkout of an old revision ready to run; empty for none.
    """

    tolerance: float = 0.03
    alpha: float = 0.01
    power: float = 0.95
    max_launches: int = 27
    metrics: tuple[Objective, ...] = ()
    prepare: tuple[str, ...] = ()


def read_gate(document: Mapping[str, Any], origin: Origin, slo: SLO) -> GateSpec:
    """Read the gate of a schema-valid ``document``; raise :class:`SpecError`."""
    block = dict(document.get("gate", {}))
    metrics = tuple(
        _metric(name, slo, origin.at("gate", "metrics", index))
        for index, name in enumerate(block.pop("metrics", ()))
    )
    if "tolerance" in block:
        block["tolerance"] = _share(block["tolerance"], origin.at("gate", "tolerance"))
    if "max_launches" in block:
        block["max_launches"] = whole(block["max_launches"])
    prepare = tuple(block.pop("prepare", ()))
    return GateSpec(metrics=metrics, prepare=prepare, **block)


def _share(value: float | str, where: str) -> float:
    """Return ``3%`` as 0.03; a plain number is a share already."""
    share = float(value.rstrip().rstrip("% ")) / 100 if isinstance(value, str) else float(value)
    if not 0 < share < 1:
        raise SpecError(
            f"{where}: {value!r} is not between 0 and 1: write a share such as 0.03, or '3%'"
        )
    return share


def _metric(name: str, slo: SLO, where: str) -> Objective:
    """Return a metric to compare as an objective, with the direction in which it is better.

    A bare name takes the direction from a bound of the SLO, or from what such names mean.
    """
    try:
        return Objective.parse(name)
    except OptionError as error:
        if ":" in name or not name.strip():
            raise SpecError(f"{where}: {error}") from None
    lower = Objective.parse(f"minimize:{name}")
    bounds = [b for b in slo.bounds if set(b.metrics) & set(lower.metrics)]
    if bounds:
        maximize = not bounds[0].upper
    elif name.endswith(("latency", "ttft", "tpot", "time", "itl", "duration")):
        maximize = False
    elif name.endswith(("throughput", "throughput_per_gpu", "_per_s", "goodput", "success_rate")):
        maximize = True
    else:
        raise SpecError(
            f"{where}: whether more or less of {name!r} is better is not known: write "
            f"'minimize:{name}' or 'maximize:{name}'"
        )
    return Objective.parse(f"maximize:{name}") if maximize else lower
