"""Write the results of trials as a table that can be replayed."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import RecordingError
from pytest_autotune.replay.cells import write_cell
from pytest_autotune.replay.columns import (
    ENDING,
    LEVEL,
    SEPARATOR,
    case_column,
    ending_column,
    level_column,
    metric_column,
)
from pytest_autotune.replay.cuts import write_cut
from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Ending, Outcome
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.system.files import replace_file

if TYPE_CHECKING:
    from pytest_autotune.study.plan import Plan
    from pytest_autotune.study.settings import GivenFile
    from pytest_autotune.study.summary import Summary


def check_target(target: GivenFile) -> None:
    """Check before a run that its recording can be written; raise :class:`RecordingError`."""
    path, where = target.path, f"{target.where}: {target.written}"
    if path.is_dir():
        msg = f"{where}: is a folder; name a file, such as recorded.csv"
    elif not path.parent.is_dir():
        msg = f"{where}: there is no folder {str(Path(target.written).parent)!r}"
    elif not os.access(path.parent, os.W_OK):
        msg = f"{where}: the folder cannot be written to"
    else:
        return
    raise RecordingError(msg)


def record(summary: Summary, target: GivenFile) -> str:
    """Write the finished trials of a study to ``target`` and return a sentence on it.

    Pruned and skipped trials are left out, as their final results are unknown. Raises
    :class:`RecordingError`.
    """
    unknown = (Outcome.PRUNED, Outcome.SKIPPED)
    kept = [r for r in summary.finished if r.outcome not in unknown]
    counts = {outcome.value: summary.count(outcome) for outcome in unknown}
    others = [f"{count} {name} {_trials(count)}" for name, count in counts.items() if count]
    left_out = f" ({', '.join(others)} left out)" if others else ""
    if not kept:
        return f"nothing in {target.written}: no trial was finished{left_out}"
    content = table(kept, summary.plan).encode()
    if target.path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        replace_file(target.path, content)
    except OSError as error:
        raise RecordingError(
            f"{target.where}: {target.written}: cannot be written: {error.strerror or error}"
        ) from None
    return f"{len(kept)} {_trials(len(kept))} in {target.written}{left_out}"


def table(records: Sequence[TrialRecord], plan: Plan) -> str:
    """Return finished trials as CSV: a row each, or one for each case and load level.

    What a trial reported beside its levels has a row of its own, whose level is empty. A metric
    that is missing in a case is NaN there.
    """
    rows = [row for record in records for row in _rows(record, plan)]
    names = plan.spec.space.names
    present = {name for row in rows for name in row}
    placing = (case_column(names), *(level_column(key, names) for key in LEVEL))
    levels = [name for name in placing if name in present]
    known = [ending_column(key, names) for key in ENDING]
    always = {ending_column(key, names) for key in ("valid", "error", "duration")}
    endings = [name for name in known if name in always or name in present]
    metrics = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in {*names, *levels, *known}
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, [*names, *levels, *metrics, *endings], restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(record: TrialRecord, plan: Plan) -> Iterator[Mapping[str, str]]:
    names = plan.spec.space.names
    # One that only lacks an answer to this question may have one to another.
    failed = record.measurement.ending is Ending.FAILED
    common = {name: write_cell(value) for name, value in record.params.items()}
    endings: dict[str, Any] = {
        "valid": 0 if failed else 1,
        "error": record.measurement.reason,
        "disturbed": SEPARATOR.join(record.measurement.disturbances),
        "cut_short": write_cut(record.measurement, plan.spec.slo),
    }
    if record.duration is not None:
        endings["duration"] = record.duration
    common |= {
        ending_column(key, names): write_cell(value)
        for key, value in endings.items()
        if value != ""
    }
    if failed:
        yield common
        return
    found = record.measurement
    if found.metrics or found.levels or not found.cases:
        yield from _reported(found.outside, common, names)
    for case in found.cases:
        named = {case_column(names): write_cell(case.name)}
        yield from _reported(case, {**common, **named}, names)


def _reported(
    case: Case, common: Mapping[str, str], names: Sequence[str]
) -> Iterator[Mapping[str, str]]:
    for level in case.levels:
        yield {
            **common,
            **{
                level_column(key, names): write_cell(value)
                for key, value in level.document().items()
            },
            **(
                {ending_column("request_failure", names): write_cell(level.failure)}
                if level.failure
                else {}
            ),
            **_metrics(level.metrics, names),
        }
    own = {**case.metrics, **dict.fromkeys(case.missing, math.nan)}
    if own or not case.levels:
        yield {**common, **_metrics(own, names)}


def _metrics(metrics: Metrics, names: Sequence[str]) -> dict[str, str]:
    return {metric_column(name, names): write_cell(value) for name, value in metrics.items()}


def _trials(count: int) -> str:
    return "trial" if count == 1 else "trials"
