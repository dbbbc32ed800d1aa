"""Disks that cannot be written, or are full: one message, and nothing that was stored is lost."""

from __future__ import annotations

import shlex

import pytest
from disks import Disk, need_mounts
from gated import Gated
from project import SPEC, Project

BODY = """
def test_it(trial):
    trial.report({"cost": trial.params["a"] + trial.params["b"], "mem": 1})
"""
BUDGET: int = SPEC["optimization"]["max_iterations"]


@pytest.fixture(scope="session")
def _mounts() -> None:
    need_mounts()


@pytest.fixture
def disk(project: Project, _mounts: None) -> Disk:
    project.write(BODY)
    return Disk(project, project.path)


READ_ONLY = "mount --bind . . && mount -o remount,bind,ro ."


def test_a_finished_study_is_shown_from_a_disk_that_is_read_only(
    project: Project, disk: Disk
) -> None:
    project.run(status=0)
    found = disk.run(READ_ONLY, f"cd {disk.folder}", "PYTEST --autotune", "PYTEST --autotune -n 2")
    assert [status for status, _ in found] == [0, 0]
    for _, text in found:
        assert f"{BUDGET} of {BUDGET}" in text
        assert "best     trial" in text
        assert "cannot be written" not in text


@pytest.mark.parametrize("began", [False, True])
def test_a_study_that_cannot_be_stored_ends_with_one_message(
    project: Project, disk: Disk, *, began: bool
) -> None:
    if began:
        project.run("--autotune-trials", "2", status=0)
    found = disk.run(READ_ONLY, f"cd {disk.folder}", "PYTEST --autotune", "PYTEST --autotune -n 2")
    for status, text in found:
        assert status == pytest.ExitCode.USAGE_ERROR, text
        assert text.count("cannot be written") == 1, text
        assert "-o cache_dir=FOLDER" in text
        assert ("best     trial" in text) == began
    ((status, text),) = disk.run(
        READ_ONLY, f"cd {disk.folder}", "PYTEST --autotune --autotune-lock"
    )
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "cannot be written, so nothing can be pinned in autotune.lock.json" in text
    # It works where another place is named.
    project.run("-o", f"cache_dir={disk.folder / 'other'}", status=0)


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_full_disk_loses_nothing(project: Project, disk: Disk, workers: str) -> None:
    small = disk.folder / "small"
    small.mkdir()
    test = shlex.quote(str(disk.folder / "test_study.py"))
    found = disk.run(
        f"mount -t tmpfs -o size=160k none {small} && cp {test} {small} && cd {small}",
        "PYTEST --autotune --autotune-trials 3",
        "dd if=/dev/zero of=filler bs=1k; truncate -s -8k filler",
        f"PYTEST --autotune -n {workers}",
        f"PYTEST --autotune -n {workers}",
        "ls .pytest_cache/autotune/*/ | grep damaged; rm filler",
        "PYTEST --autotune",
        f"cp -r .pytest_cache {disk.folder}",
    )
    assert [status for status, _ in found] == [0, 4, 4, 0]
    for _, text in found[1:3]:
        assert text.count("No space left on device") == 1, text
    assert "damaged" not in "".join(text for _, text in found)
    records = project.records()
    assert [record.finished for record in records] == [True] * BUDGET
    assert len({record.key for record in records}) == BUDGET
    assert f"{BUDGET} of {BUDGET}" in found[-1][1]


def test_a_damaged_journal_on_a_full_disk_stays_as_it_is(project: Project, disk: Disk) -> None:
    project.run(status=0)
    (path,) = disk.folder.glob(".pytest_cache/autotune/*/trials.journal")
    content = path.read_bytes().replace(b'"autotune:number":5', b'"autotune:number":6', 1)
    path.write_bytes(content)
    small = disk.folder / "small"
    small.mkdir()
    ((status, text),) = disk.run(
        f"mount -t tmpfs -o size=160k none {small} && cp -r test_study.py .pytest_cache {small}",
        f"cd {small}; dd if=/dev/zero of=filler bs=1k",
        "PYTEST --autotune",
        f"cp -r .pytest_cache {disk.folder / 'after'}",
    )
    assert status == pytest.ExitCode.USAGE_ERROR, text
    assert text.count("No space left on device") == 1, text
    after = next((disk.folder / "after").glob("autotune/*/trials.journal"))
    assert after.read_bytes() == content
    assert sorted(child.name for child in after.parent.iterdir()) == [
        "owners", "study.lock", "trials.journal",
    ]  # fmt: skip


@pytest.mark.usefixtures("_mounts")
def test_a_gate_compares_where_nothing_can_be_kept(gated: Gated) -> None:
    disk = Disk(gated, gated.root)
    ((status, text),) = disk.run(READ_ONLY, f"cd {disk.folder}", "PYTEST --autotune-gate")
    assert status == 0, text
    assert "gate     passed" in text
    assert text.count("what the gate found cannot be kept") == 1
    assert "v/autotune/gate" not in text
