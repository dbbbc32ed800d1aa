"""What a trial gets and gives back, and what is kept for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import make_plan, make_record

from pytest_autotune.errors import PolicyError
from pytest_autotune.gpu.allocation import Need
from pytest_autotune.gpu.readings import Process
from pytest_autotune.gpu.visible import Device, VisibleGpus, adopt
from pytest_autotune.plugin import resources as module
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.resources import Resources
from pytest_autotune.policy.loading import load_policies
from pytest_autotune.study.trial import Trial
from pytest_autotune.system.masking import Masker

DEVICE = Device(key="GPU-0", visible="0", uuid="GPU-0")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resources]:
    monkeypatch.setenv("AUTOTUNE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    adopt(VisibleGpus(devices=(DEVICE,)))
    context = RunContext(session="s", started=0.0, state_directory=tmp_path, scratch=None)
    found = Resources(
        context, tmp_path, Masker(),
        gpu_timeout=1.0, brief=False, notice=lambda study, text: None, on_wait=lambda text: None,
    )  # fmt: skip
    yield found
    found.close()
    adopt(None)


def trial(number: int) -> Trial:
    return Trial(make_record(number), make_plan())


def test_no_trial_gets_more_gpus_than_the_policy_allows(
    made: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").write_text("gpus: 1")
    policies = load_policies(tmp_path / "policy.yaml", None, [])
    monkeypatch.setattr(made, "_context", replace(made._context, policies=policies))
    for need, asked in (
        (Need(count=2), "2 GPUs"),
        (Need(count=None), "all GPUs"),
        (Need(named=("0", "1")), "2 GPUs"),
    ):
        with pytest.raises(PolicyError, match=f"study, trial 0: {asked} is refused by the rule"):
            made.begin("study", trial(0), need)
    assert made.begin("study", trial(0), Need(count=1)).lease.devices


def test_a_server_that_is_kept_is_no_guest_of_the_next_trial(
    made: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_it: list[Process] = []
    monkeypatch.setattr(module, "strangers", lambda device, root: tuple(on_it))
    kept: Any = type("Servers", (), {"keeps_one": True, "forget": lambda self: None})()
    first = made.begin("study", trial(0), Need())
    made._servers = kept
    on_it.append(Process(pid=1, memory=None))  # the server, in a container
    made.end(study_goes_on=True)
    second = trial(1)
    assert made.begin("study", second, Need()) == first
    assert first.guests == frozenset()
    assert second.notes == ()
    made._servers = None
    made.end(study_goes_on=True)
    # Now it is somebody else's, whoever it is.
    third = trial(2)
    assert made.begin("study", third, Need()).guests == {1}
    assert len(third.notes) == 1
