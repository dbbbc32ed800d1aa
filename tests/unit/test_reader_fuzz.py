"""Whatever a recording or a load generator's result holds, it is read or refused in words."""

from __future__ import annotations

import copy
import json
import math
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from builders import integer, make_space, real
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import ExpressionError, RecordingError
from pytest_autotune.load.adapters import aiperf, genai_bench, guidellm, vllm
from pytest_autotune.replay.table import Recording
from pytest_autotune.scoring.judgement import Measurement
from pytest_autotune.space.sampling import draw_some
from pytest_autotune.study.documents import measurement_document

DATA = Path(__file__).parent / "data" / "generators"

words = st.sampled_from(
    [
        "", "1", "2", "2.0", "x", "true", "nan", "inf", "-1", "1e400", "9" * 30, "1" * 500,
        "[1, 2]",
        "1_0", "٣", " 1", "1\0", '"1"', "[" * 60, "null", "0x1", "1e-400", "\ud7ff", "D(1,1)", "0",
    ]
) | st.text(st.characters(codec="utf-8"), max_size=4)  # fmt: skip
headers = st.lists(
    st.sampled_from(
        [
            "a", "b", "c", "concurrency", "request_rate", "scenario", "valid", "error", "duration",
            "cost", "p99_ttft", "metric_cost", "case", "cut_short", "disturbed", "stats", "latency",
        ]
    )
    | words,
    min_size=1, max_size=8, unique=True,
)  # fmt: skip
SPACE = make_space({"a": integer(1, 3), "b": [1, 2.5, "x", True, None, [1, 2]], "c": real(0, 9)})


@st.composite
def tables(draw: st.DrawFn) -> str:
    header = draw(st.just(["a", "b", "c"]) | st.just([])) + draw(headers)
    row = st.lists(words, min_size=len(header), max_size=len(header))
    rows = [header, *draw(st.lists(row, max_size=4))]
    quoted = ([f'"{cell}"' if cell[:1] != '"' else cell for cell in row] for row in rows)
    return "\n".join(map(",".join, quoted if draw(st.booleans()) else rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


def replay(path: Path, where: str | None) -> None:
    try:
        recording = Recording.read(path, where)
        space = recording.restrict(SPACE)
        for point in draw_some(space, np.random.default_rng(0), 5):
            found = recording.result(point)
            assert isinstance(found, Measurement)
            json.dumps(measurement_document(found), allow_nan=False)
    except (RecordingError, ExpressionError):
        return


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    content=tables().map(str.encode) | st.binary(max_size=60),
    where=st.sampled_from([None, None, "a == 1", "b in [1, 2]", "cost > 1", "a + b > c"]),
)
def test_any_table_is_replayed_or_refused(folder: Path, content: bytes, where: str | None) -> None:
    path = folder / "r.csv"
    path.write_bytes(content)
    replay(path, where)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_no_compressed_table(folder: Path, content: bytes) -> None:
    path = folder / "r.csv.gz"
    path.write_bytes(b"\x1f\x8b\x08" + content)
    replay(path, None)


READERS = {
    "aiperf": (aiperf, "profile_export_aiperf.json"),
    "guidellm": (guidellm, "benchmarks.json"),
    "vllm": (vllm, "vllm-bench.json"),
    "genai": (genai_bench, "D1_concurrency_1_time_1s.json"),
}
CAPTURES = {
    name: [
        json.loads(path.read_text("utf-8"))
        for path in sorted(DATA.glob("D*.json" if name == "genai" else f"{name}*.json"))
        if path.stat().st_size < 200_000
    ]
    for name in READERS
}
values = (
    st.none() | st.booleans() | st.floats() | st.integers(-2, 2) | st.text(max_size=3)
    | st.sampled_from([10**400, -(10**400), 1e308, 5e-324, {}, [], [None], {"avg": "x"}, [{}]])
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:3])
    for key, item in inner:
        found += places(item, (*path, key))
    return found


@st.composite
def results(draw: st.DrawFn, name: str) -> Any:
    """A real result with a few of its values replaced or taken away."""
    found = copy.deepcopy(draw(st.sampled_from(CAPTURES[name])))
    for _ in range(draw(st.integers(0, 4))):
        known = places(found)
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        parent = found
        for key in path:
            parent = parent[key]
        if draw(st.booleans()):
            parent[last] = copy.deepcopy(draw(values))
        elif isinstance(parent, dict):
            del parent[last]
    return found


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_result_of_a_load_generator_is_read_or_refused(
    folder: Path, name: str, data: st.DataObject
) -> None:
    module: ModuleType
    module, file = READERS[name]
    content = data.draw(
        results(name).map(json.dumps).map(str.encode)
        | values.map(json.dumps).map(str.encode)
        | st.binary(max_size=20)
        | st.sampled_from([b"[" * 100_000, b"1" * 5000])
    )
    (folder / file).write_bytes(content)
    with suppress(ValueError):
        metrics = module.read(folder / file if name == "genai" else folder)
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
        assert isinstance(metrics, dict)
