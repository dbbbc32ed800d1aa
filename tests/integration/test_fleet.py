"""Machines of unlike hardware on one database: two searches, two budgets, and one winner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import pytest
from fake_nvml import FakeNvml, need_library
from inner import kill
from project import Project

from pytest_autotune.gpu.leases import FOLDER_VARIABLE
from pytest_autotune.gpu.visible import ORDER, VISIBLE
from pytest_autotune.study.storage import open_database

BUDGET: Final = 5
SPEC: Final[Mapping[str, Any]] = {
    "parameters": {"a": [1, 2, 3, 4, 5, 6, 7, 8]},
    "optimization": {
        "objective": "minimize:cost", "strategy": "random", "max_iterations": BUDGET,
    },
}  # fmt: skip
#: Every measurement costs as much as the machine's speed says, and a little for its parameter.
MODULE: Final = """
def test_it(trial):
    here = pathlib.Path(f"here-{os.environ['MACHINE']}")
    here.touch()
    limit = time.monotonic() + 60
    while len(list(pathlib.Path().glob("here-*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    speed = {"H200": 10, "L4": 100}[os.environ["MACHINE"]]
    trial.report({"cost": speed + trial.params["a"]})
"""


@dataclass(frozen=True)
class Machines:
    """Two machines of unlike GPUs, and what a process on each of them finds."""

    project: Project
    url: str
    environments: Mapping[str, Mapping[str, str]]

    def start(self, name: str, *args: str) -> Any:
        arguments = ("--autotune-storage", self.url, *args)
        environment: dict[str, Any] = {"MACHINE": name, **self.environments[name]}
        return self.project.start(*arguments, **environment)

    def run(self, name: str, *args: str) -> str:
        arguments = ("--autotune-storage", self.url, *args)
        environment: dict[str, Any] = {"MACHINE": name, **self.environments[name]}
        return self.project.run(*arguments, status=0, **environment)

    def costs(self) -> dict[str, list[float]]:
        """Return what was measured on each machine, by the GPUs that its study is of."""
        found = {}
        with closing(open_database(self.url, "test")) as store:
            for study in store.storage.get_all_studies():
                gpus = study.user_attrs["autotune:key"]["environment"]["gpus"]
                trials = store.storage.get_all_trials(study._study_id)
                found[gpus] = [trial.value or 0.0 for trial in trials]
        return found


@pytest.fixture
def machines(
    project: Project, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    pytest.importorskip("pynvml")
    project.write(MODULE, SPEC)
    environments = {}
    for name, count in (("H200", 2), ("L4", 1)):
        folder = tmp_path_factory.mktemp(name)
        fake = FakeNvml(need_library(tmp_path_factory), folder)
        fake.set("devices", count)
        for index in range(count):
            fake.set(f"{index}.name", f"NVIDIA {name}")
        visible = {VISIBLE: ",".join(map(str, range(count))), ORDER: "PCI_BUS_ID"}
        environments[name] = {**fake.environment, **visible, FOLDER_VARIABLE: str(folder)}
    yield Machines(project, postgres_url, environments)
    project.stop()


def test_machines_that_run_at_once_search_apart_and_the_summary_names_the_winner(
    machines: Machines,
) -> None:
    started = [machines.start(name) for name in ("H200", "L4")]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            kill(process)
    costs = machines.costs()
    assert {gpus: len(found) for gpus, found in costs.items()} == {
        "2 × NVIDIA H200": BUDGET, "1 × NVIDIA L4": BUDGET,
    }  # fmt: skip
    best = {gpus: min(found) for gpus, found in costs.items()}
    assert max(costs["2 × NVIDIA H200"]) < min(costs["1 × NVIDIA L4"])
    # Nothing is left to measure; the slower machine shows its own best, and who won.
    text = machines.run("L4")
    assert f"{BUDGET} of {BUDGET}: {BUDGET} feasible; {BUDGET} of them in earlier runs" in text
    lines = text.splitlines()
    (at,) = (at for at, line in enumerate(lines) if line.startswith("hardware "))
    fast, slow = best["2 × NVIDIA H200"], best["1 × NVIDIA L4"]
    assert f"         cost {slow:g} (minimize:cost)" in lines
    assert lines[at].startswith(f"hardware 2 × NVIDIA H200 won: cost {fast:g} by trial ")
    assert lines[at + 1].startswith(f"         1 × NVIDIA L4 (this run): cost {slow:g} by trial ")
    assert lines[at + 1].endswith(f"the best of {BUDGET} trials")
