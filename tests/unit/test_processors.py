"""The processors that a job may use, as SLURM, Docker and Kubernetes limit them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_autotune.study.environment import cpu_limit, fingerprint
from pytest_autotune.system import processors
from pytest_autotune.system.processors import usable_processors


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine of 16 processors, of which nothing is limited yet."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(processors, "_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "_GROUPS", tmp_path / "sys")
    cpu_limit.cache_clear()
    yield tmp_path
    cpu_limit.cache_clear()


def write(machine: Path, group: str, files: Mapping[str, str]) -> None:
    (machine / "cgroup").write_text(group)
    for name, text in files.items():
        path = machine / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_limits_all_are_used(machine: Path) -> None:
    assert usable_processors() == 16
    assert "cpu_limit" not in fingerprint()
    (machine / "cgroup").write_text("0::/\n")
    assert usable_processors() == 16


def test_an_affinity_is_a_limit(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert usable_processors() == 2
    found = fingerprint()
    assert (found["cpus"], found["cpu_limit"]) == ("16", "2")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_processors() == 16


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        # A container sees its own group as the root, whatever the path says.
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/kubepods/pod1/abc\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        # The limit of a group around it counts, too.
        (
            "0::/slurm/job_7/step_0\n",
            {"slurm/job_7/cpu.max": "300000 100000", "slurm/job_7/step_0/cpu.max": "max 100000"},
            3,
        ),
        (
            "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            1.5,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            16,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, 16),
    ],
)
def test_a_share_of_time_is_a_limit(
    machine: Path, group: str, files: Mapping[str, str], expected: float
) -> None:
    write(machine, group, files)
    assert usable_processors() == expected
