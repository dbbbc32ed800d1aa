"""Inputs of any form in large numbers: each is read or refused in words, soon, in little memory.

The long form tries 100,000 of each.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sizes import LONG, size
from test_reader_fuzz import READERS, replay, results, tables
from test_reported import make_trial, reports
from test_spec_fuzz import anything, attempt, mutated, plausible, predicates, tokens

from pytest_autotune.errors import AutotuneError, ExpressionError
from pytest_autotune.gate.lock.entry import LockError
from pytest_autotune.gate.lock.lockfile import read_lock_file
from pytest_autotune.scoring.judgement import Ending
from pytest_autotune.space.expressions import Expression
from pytest_autotune.spec.loading import load_file, load_inline
from pytest_autotune.study.documents import measurement_document
from pytest_autotune.study.machine import on_this_machine

INPUTS: Final = size(100, 100_000)
#: Seconds of this process for one input, and for one whose valid points are searched for.
SECONDS: Final = 2.0
SEARCHED: Final = 10.0
MEGABYTES: Final = 200
CAMPAIGN: Final = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    derandomize=not LONG,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    began, memory = time.process_time(), peak()
    yield
    assert time.process_time() - began < seconds
    assert peak() - memory < MEGABYTES


def peak() -> float:
    """Return the most memory that this process had so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@CAMPAIGN
@given(document=anything | mutated() | plausible())
def test_specs(document: Any) -> None:
    with bounded(SEARCHED):
        attempt(lambda: on_this_machine(load_inline("study", document, "marker")))


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
@CAMPAIGN
@given(
    text=st.text(st.characters(codec="utf-8"))
    | st.text("{}[]:,-'\"#&*!|>=\n 0123.a<~?%@")
    | (anything | mutated()).map(lambda found: json.dumps(found, default=str, skipkeys=True))
)
def test_spec_files(folder: Path, suffix: str, text: str) -> None:
    path = folder / f"task{suffix}"
    path.write_text(text, "utf-8")
    with bounded(SEARCHED):
        attempt(lambda: on_this_machine(load_file(path, path.name)))


NUMBERS = st.integers() | st.floats() | st.sampled_from([10**300, -(10**18), 7, "x", None, [1]])


@CAMPAIGN
@given(
    source=st.text(max_size=60)
    | st.lists(tokens | st.sampled_from(["round", "9" * 40, "-"]), max_size=30).map(" ".join)
    | predicates(["a", "b"]),
    a=NUMBERS,
    b=NUMBERS,
)
def test_expressions(source: str, a: Any, b: Any) -> None:
    with bounded(), suppress(ExpressionError):
        expression = Expression.parse(source)
        if expression.names <= {"a", "b"}:
            assert expression({"a": a, "b": b}) in (True, False)


@CAMPAIGN
@given(
    content=tables().map(str.encode) | st.binary(max_size=200),
    where=st.sampled_from([None, "a == 1", "b in [1, 2]", "cost > 1", "a + b > c"]),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_recordings(folder: Path, content: bytes, where: str | None, suffix: str) -> None:
    path = folder / f"r{suffix}"
    path.write_bytes(content)
    with bounded():
        replay(path, where)


def _read_result(name: str) -> Callable[[Path, bytes], None]:
    module, file = READERS[name]

    def read(folder: Path, content: bytes) -> None:
        (folder / file).write_bytes(content)
        with suppress(ValueError):
            module.read(folder / file if name == "genai" else folder)

    return read


@pytest.mark.parametrize("name", READERS)
@CAMPAIGN
@given(data=st.data())
def test_results_of_load_generators(folder: Path, name: str, data: st.DataObject) -> None:
    encoded = results(name).map(lambda found: json.dumps(found).encode())
    content = data.draw(encoded | st.binary(max_size=200))
    with bounded():
        _read_result(name)(folder, content)


@CAMPAIGN
@given(reported=reports | anything)
def test_reports(reported: Any) -> None:
    trial = make_trial()
    with bounded():
        with suppress(TypeError, ValueError, AutotuneError):
            trial.report(reported)
        measurement = trial.measurement(Ending.COMPLETE)
        json.dumps(measurement_document(measurement), allow_nan=False)


ENTRY: Final = {
    "parameters": {"a": 1}, "digests": {"slo": "0" * 64}, "locked": "2026-01-31", "by": "x",
    "commit": "0" * 40, "metrics": {"cost": [1.0]}, "fingerprint": {"python": "3.12"},
}  # fmt: skip
LOCKS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(1) | anything,
        "studies": st.dictionaries(
            st.text(max_size=3),
            st.fixed_dictionaries({}, optional={k: st.just(v) | anything for k, v in ENTRY.items()})
            | anything,
            max_size=2,
        ),
    },
)


@CAMPAIGN
@given(
    content=(LOCKS | anything).map(lambda found: json.dumps(found, default=str, skipkeys=True))
    | st.text(st.characters(codec="utf-8"), max_size=80)
)
def test_locks(folder: Path, content: str) -> None:
    path = folder / "autotune.lock.json"
    path.write_text(content, "utf-8")
    with bounded(), suppress(LockError):
        read_lock_file(path)
