"""The example that replays measurements of a large model."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - C extensions cannot be loaded twice in one process
import optuna.samplers  # noqa: F401 - as above
import pytest
from ruamel.yaml import YAML

from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.machine import on_this_machine

REPLAY = Path(__file__).parents[2] / "examples" / "replay"


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example in a folder of its own, as a project."""
    monkeypatch.delenv("TOX_ENV_DIR", raising=False)
    for name in ("llama70b.csv", "llama70b.yaml", "test_llama70b.py"):
        shutil.copy(REPLAY / name, pytester.path)
    return pytester.path


def best(folder: Path) -> Any:
    text = (folder / ".pytest_cache" / "v" / "autotune" / "incumbent").read_text()
    return json.loads(text)["test_llama70b.py (llama70b), replayed"]


@pytest.mark.parametrize("strategy", ["auto", "bayesian", "grid_search", "random"])
def test_every_strategy_finds_the_best_of_all_recorded_points(
    pytester: pytest.Pytester, example: Path, strategy: str
) -> None:
    result = pytester.runpytest_inprocess(
        *("--autotune", "--autotune-strategy", strategy, "--autotune-trials", "48"),
        *("--autotune-infeasible", "xfail", "-W", "error"),
    )
    assert result.ret == 0
    with (example / "llama70b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    met = [
        float(row["out_tok_s_per_gpu"])
        for row in rows
        if (row["system"], row["backend"]) == ("b200_sxm", "trtllm")
        and float(row["ttft_ms"]) <= 500
        and float(row["tpot_ms"]) <= 20
    ]
    assert best(example)["value"] == max(met)
    assert best(example)["params"] == {"precision": "fp4", "tp_size": 2, "concurrency": 128}
    text = result.stdout.str()
    assert "replayed from llama70b.csv where system == 'b200_sxm'" in text
    assert "outside of the spec" not in text


def test_what_its_readme_says_of_the_first_run(pytester: pytest.Pytester, example: Path) -> None:
    readme = (REPLAY / "README.md").read_text()
    said = re.search(r"tries (\d+) of (\d+) configurations", readme)
    assert said is not None
    result = pytester.runpytest_inprocess("--autotune")
    assert result.ret == 1
    assert f"trials   {said[1]} of {said[1]}: " in result.stdout.str()
    whole = pytester.runpytest_inprocess("--autotune", "--autotune-trials", "99")
    assert f"trials   {said[2]} of {said[2]}: " in whole.stdout.str()


@pytest.mark.parametrize(
    ("where", "parameters", "points"),
    [
        ("system == 'h200_sxm' and backend == 'trtllm'", {"precision": ["fp8"]}, 24),
        (
            None,
            {"system": ["b200_sxm", "h200_sxm", "h100_sxm"], "backend": ["trtllm", "vllm"]},
            147,
        ),
    ],
)
def test_what_its_readme_says_to_try(
    pytester: pytest.Pytester,
    example: Path,
    where: str | None,
    parameters: dict[str, Any],
    points: int,
) -> None:
    spec = YAML(typ="safe").load(example / "llama70b.yaml")
    spec["replay"] = {"file": "llama70b.csv", **({} if where is None else {"where": where})}
    spec["parameters"] |= parameters
    YAML(typ="safe").dump(spec, example / "llama70b.yaml")
    result = pytester.runpytest_inprocess("--autotune", "--autotune-trials", "200")
    assert f"trials   {points} of {points}: " in result.stdout.str()


def test_without_replay_the_spec_is_one_that_measures() -> None:
    document = YAML(typ="safe").load(REPLAY / "llama70b.yaml")
    del document["replay"]
    spec = on_this_machine(load_inline("llama70b", document, "llama70b.yaml"))
    assert spec.server is not None
    assert spec.server.backend == "docker"
    assert spec.layout.gpus({"tp_size": 4}) == 4
    assert spec.space.pool is not None
    assert len(spec.space.pool) == 48


def test_the_licence_of_the_numbers_goes_with_them() -> None:
    assert "Apache License" in (REPLAY / "LICENSE.aiconfigurator").read_text()
