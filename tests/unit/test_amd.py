"""GPUs of AMD: leased by number where they are listed, refused in plain words where not."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_autotune.errors import LaunchError, LeaseError
from pytest_autotune.gpu import amd
from pytest_autotune.gpu import visible as visible_module
from pytest_autotune.gpu.allocation import NONE, Allocator, Need
from pytest_autotune.gpu.inventory import Inventory
from pytest_autotune.gpu.leases import FOLDER_VARIABLE
from pytest_autotune.gpu.readings import Gpu
from pytest_autotune.gpu.visible import ORDER, VISIBLE, VisibleGpus, adopt, caller_gpus
from pytest_autotune.serving.docker import container_settings
from pytest_autotune.serving.launch import make_launch
from pytest_autotune.spec.loading import load_inline

UNLISTED = (
    "this machine has GPUs of AMD (2), which are leased only where CUDA_VISIBLE_DEVICES lists "
    "their numbers; set CUDA_VISIBLE_DEVICES=0,1, which HIP reads, too, or mark the study gpus=0"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine with a processor and two GPUs of AMD, and none of NVIDIA."""
    for number, simds in enumerate((0, 304, 304)):
        node = tmp_path / "nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\nsimd_count {simds}\nmem_banks 1\n")
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(amd, "_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(amd, "_NODES", tmp_path / "nodes")
    none = Inventory(gpus=(), source="none", problem="no library of the NVIDIA driver")
    monkeypatch.setattr(visible_module, "inventory", lambda: none)
    monkeypatch.setattr(visible_module, "_process", visible_module._Process())
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "locks"))
    for name in (VISIBLE, ORDER, *amd._OUTRANKING):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    visible_module._visible_gpus.cache_clear()
    yield monkeypatch
    visible_module._visible_gpus.cache_clear()


def allocator() -> Allocator:
    return Allocator(None, timeout=0.0, on_wait=lambda _: None, started=lambda: False)


def test_gpus_are_counted_and_processors_are_not(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert amd.count() == 2
    (tmp_path / "nodes" / "2" / "properties").unlink()
    assert amd.count() == 1
    (tmp_path / "kfd").unlink()
    assert amd.count() == 0


def test_what_is_listed_is_leased_by_number(machine: pytest.MonkeyPatch) -> None:
    machine.setenv(VISIBLE, "1,0")
    found = caller_gpus()
    assert [(d.key, d.visible, d.uuid) for d in found.devices] == [
        ("index-1", "1", None),
        ("index-0", "0", None),
    ]
    assert (found.problem, found.refusal, found.of_amd) == ("", "", 2)
    ours = allocator()
    ours.check(Need(required=True), insists=True)
    lease = ours.take(Need(), "x")
    assert lease is not None
    assert lease.visible == "1"
    ours.release()


def test_where_none_is_listed_what_needs_one_is_refused(machine: pytest.MonkeyPatch) -> None:
    assert caller_gpus().problem == UNLISTED
    ours = allocator()
    # A benchmark on the CPU needs none, nor does an engine that is told so.
    ours.check(Need())
    ours.check(NONE, insists=True)
    assert ours.take(Need(), "x") is None
    with pytest.raises(LeaseError) as caught:
        ours.check(Need(required=True))
    assert str(caught.value).endswith(f"there is no GPU: {UNLISTED}")
    with pytest.raises(LeaseError) as caught:
        ours.check(Need(), insists=True)
    assert str(caught.value) == UNLISTED


def test_a_process_that_has_loaded_hip_would_use_them_and_is_refused(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    assert not amd.is_used()
    library = tmp_path / "libamdhip64.so.7"
    (tmp_path / "hip.c").write_text("int hip;\n")
    subprocess.run([compiler, "-shared", "-o", library, tmp_path / "hip.c"], check=True)
    loaded = ctypes.CDLL(str(library))
    try:
        assert amd.is_used()
        with pytest.raises(LeaseError, match="GPUs of AMD"):
            allocator().check(Need())
        allocator().check(NONE)
    finally:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(loaded._handle))
    assert not amd.is_used()


@pytest.mark.parametrize("name", amd._OUTRANKING)
def test_variables_that_outrank_ours_are_refused(machine: pytest.MonkeyPatch, name: str) -> None:
    machine.setenv(VISIBLE, "0,1")
    machine.setenv(name, "1")
    assert caller_gpus().devices == ()
    with pytest.raises(LeaseError) as caught:
        allocator().check(Need())
    assert str(caught.value) == (
        f"{name}='1' outranks CUDA_VISIBLE_DEVICES, by which AMD's GPUs are leased; set "
        "CUDA_VISIBLE_DEVICES instead, which HIP reads, too"
    )
    allocator().check(NONE)


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_variable_that_hides_all_outranks_nothing(value: str) -> None:
    assert amd.outranked({"HIP_VISIBLE_DEVICES": value}) == ""


def test_beside_gpus_of_nvidia_those_of_amd_do_not_count(machine: pytest.MonkeyPatch) -> None:
    # As in a laptop whose processor has one.
    known = Gpu(index=0, uuid="GPU-0", name="card", memory=1)
    there = Inventory(gpus=(known,), source="nvml")
    machine.setattr(visible_module, "inventory", lambda: there)
    machine.setenv("HIP_VISIBLE_DEVICES", "0")
    found = caller_gpus()
    assert [device.key for device in found.devices] == ["GPU-0"]
    assert (found.of_amd, found.refusal) == (0, "")


def test_a_container_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"parameters": {"a": [1]}, "server": {"image": "i:1", "gpus": 1}}
    spec = load_inline("x", document, "test")
    assert spec.server is not None
    launch = make_launch(spec.server, {"a": 1}, spec.layout)
    adopt(VisibleGpus(of_amd=2))
    try:
        with pytest.raises(LaunchError, match="GPUs of AMD are not given to containers; run"):
            container_settings(launch, 8000)
        monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-box:2376")
        assert container_settings(launch, 8000)["device_requests"]
    finally:
        adopt(None)
