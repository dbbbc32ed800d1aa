"""An error that breaks CUDA in the first of two trials, on a real card and on a pretended one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from fake_cuda import framework
from inner import Runs

#: Work that breaks CUDA and is launched without waiting for it: in ``start`` and ``store``.
STORES: Final[Mapping[str, str]] = {
    "pretended": """
from framework import launch, start

def store():
    launch(20, error=700)
""",
    "a device-side assert": """
import torch

def start():
    assert float(torch.ones(8, device="cuda").sum()) == 8

def store():
    torch.zeros(8, device="cuda")[torch.full((1,), 1 << 20, device="cuda")]
""",
    "a store out of bounds": """
import torch
import triton
import triton.language as tl

def start():
    assert float(torch.ones(8, device="cuda").sum()) == 8

@triton.jit
def kernel(pointer, offset):
    tl.store(pointer + offset.to(tl.int64), 1.0)

def store():
    kernel[(1,)](torch.zeros(8, device="cuda"), 1 << 40)
""",
}
STUDY: Final = """
import os, pathlib
import pytest

pytestmark = pytest.mark.autotune(
    parameters={"wrong": [True, False]},
    optimization={"objective": "minimize:cost", "strategy": "grid_search"},
)

def test_store(trial):
    with pathlib.Path("ran.log").open("a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    start()
    if trial.params["wrong"]:
        store()
    trial.report({"cost": 1})
"""


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    found = Runs(tmp_path)
    yield found
    found.stop()


@pytest.fixture(params=STORES)
def study(request: pytest.FixtureRequest, runs: Runs) -> Runs:
    """A study of two trials, of which the first breaks CUDA."""
    if request.param == "pretended":
        library = request.getfixturevalue("fake_cuda")
        (runs.path / "framework.py").write_text(framework(library))
    else:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        if not torch.cuda.is_available():
            pytest.skip("PyTorch finds no CUDA device")
        if "triton" in STORES[request.param]:
            pytest.importorskip("triton", reason="Triton is not installed")
    (runs.path / "test_study.py").write_text(STORES[request.param] + STUDY)
    return runs


def assert_each_ran_once_in_its_own_process(runs: Runs) -> None:
    lines = [line.split() for line in (runs.path / "ran.log").read_text().splitlines()]
    assert [trial for trial, _ in lines] == ["0", "1"]
    assert len({process for _, process in lines}) == 2


def test_another_worker_runs_the_second(study: Runs) -> None:
    found = study.run("--autotune", "-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    assert_each_ran_once_in_its_own_process(study)
    assert "2 of 2: 1 feasible, 1 failed" in found
    assert re.search(r"^failures 1 × .*CUDA.* \(trial 0\)$", found, re.MULTILINE)
    assert "another worker goes on" in found
    assert "crashed" not in found


def test_the_next_run_runs_the_second(study: Runs) -> None:
    found = study.run("--autotune", status=pytest.ExitCode.TESTS_FAILED)
    assert "1 of 2: 0 feasible, 1 failed" in found
    assert "the same command goes on with the rest" in found
    study.run("--autotune", status=pytest.ExitCode.OK)
    assert_each_ran_once_in_its_own_process(study)
