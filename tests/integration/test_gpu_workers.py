"""GPUs and xdist: what workers see from their start, and how they take turns."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from project import Project

from pytest_autotune.plugin.distributed import auto_workers

SPEC: dict[str, Any] = {
    "parameters": {"a": [1, 2, 3, 4]},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
}
MODULE = """
PRELUDE

def test_it(trial, gpu):
    time.sleep(SECONDS)
    with pathlib.Path("used.log").open("a") as log:
        log.write(f"{os.environ['CUDA_VISIBLE_DEVICES']}\\n")
    trial.report({"cost": trial.params["a"]})
"""


@pytest.fixture
def gpus(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("AUTOTUNE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    return project


def write(project: Project, *, prelude: str = "", seconds: float = 0.05) -> None:
    module = MODULE.replace("PRELUDE", prelude).replace("SECONDS", str(seconds))
    project.write(module, SPEC)


def test_workers_see_their_gpus_before_any_code_of_the_tests_runs(
    gpus: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    write(gpus)
    (gpus.path / "conftest.py").write_text(
        "import os, pathlib\n"
        "worker = os.environ.get('PYTEST_XDIST_WORKER', 'controller')\n"
        "pathlib.Path(f'seen-{worker}').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    result = gpus.run("-n", "3", status=pytest.ExitCode.OK)
    seen = {path.name: path.read_text() for path in gpus.path.glob("seen-gw*")}
    # The third sees one, too, as all must collect the same; it uses it in turns.
    assert seen == {"seen-gw0": "4", "seen-gw1": "5", "seen-gw2": "4"}
    assert "gw2 has no GPU of its own, and takes turns with the others" in result
    assert set((gpus.path / "used.log").read_text().split()) <= {"4", "5"}


def test_modules_that_skip_themselves_without_a_gpu_are_collected_by_every_worker(
    gpus: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    prelude = (
        'if not os.environ["CUDA_VISIBLE_DEVICES"]: pytest.skip("no GPU", allow_module_level=True)'
    )
    write(gpus, prelude=prelude)
    result = gpus.run("-n", "2", status=pytest.ExitCode.OK)
    assert "4 of 4: 4 feasible" in result


def test_waiting_for_ones_own_workers_is_not_limited(
    gpus: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    write(gpus, seconds=1.0)
    result = gpus.run("-n", "3", "--autotune-gpu-timeout", "1s", status=pytest.ExitCode.OK)
    assert "4 of 4: 4 feasible" in result
    assert re.search(r"waited \S+ s for GPUs, all trials together", result)


def test_a_number_of_workers_that_the_user_has_set_is_kept(
    gpus: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    config: Any = SimpleNamespace(rootpath=gpus.path)
    assert auto_workers(config) == 4
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "2")
    assert auto_workers(config) is None
