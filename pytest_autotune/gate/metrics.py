"""The compared metrics of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pytest_autotune.errors import UserError
from pytest_autotune.gate.compare.comparison import GatedMetric
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.study.plan import Plan

_MEDIAN: Final = "p50_"
_MEAN: Final = "mean_"


def gated_metrics(plan: Plan, reported: Mapping[str, float]) -> list[GatedMetric]:
    """Return the metrics to compare, under the names that were ``reported``.

    The default is the objective. For a timed callable it is the median, as a few slow calls spoil
    a mean. Raises :class:`UserError` for a metric that was not reported.
    """
    objectives: Iterable[Objective] = plan.spec.gate.metrics or (plan.objective,)
    found = []
    for index, objective in enumerate(objectives):
        measured = objective.measure(reported)
        if measured is None:
            where = plan.spec.origin.at("gate", "metrics", index)
            raise UserError(
                f"{where}: {objective.name!r} is not among what the tests reported: "
                f"{', '.join(sorted(reported))}"
            )
        name = measured[0]
        middle = name.replace(_MEAN, _MEDIAN, 1)
        if not plan.spec.gate.metrics and name.startswith(_MEAN) and "num_samples" in reported:
            name = middle if middle in reported else name
        found.append(GatedMetric(name=name, maximize=objective.maximize))
    return found
