"""The objective of a trial in each of its cases, as a table."""

from __future__ import annotations

from pytest_autotune.scoring.cases import CaseValues
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.tables import table


def case_table(cases: CaseValues) -> str:
    """Return a table with the value of each case, and its ratio where ratios are combined."""
    header = ["case", cases.metric]
    rows = [[case, quantity(cases.metric, value)] for case, value in cases.values.items()]
    if cases.base is not None:
        header += [f"trial {cases.base.trial}", "ratio"]
        for row, (case, value) in zip(rows, cases.values.items(), strict=True):
            first = cases.base.values[case]
            row += [quantity(cases.metric, first), number(value / first)]
    return table(header, rows)
