"""What a server is told of its GPUs: by variables, and by requests to a container engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_autotune.engines import presets
from pytest_autotune.errors import LaunchError
from pytest_autotune.gpu.inventory import Inventory
from pytest_autotune.gpu.readings import Gpu, Mig
from pytest_autotune.gpu.visible import ORDER, VISIBLE, adopt, read_visible
from pytest_autotune.serving.docker import container_settings
from pytest_autotune.serving.gpus import container_gpus, mig_warning, process_gpus
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.spec.loading import load_inline

#: Two cards, and a third in two MIG instances.
CARDS = Inventory(
    gpus=(
        *(Gpu(index=n, uuid=f"GPU-{n}a-b", name="card", memory=80) for n in range(2)),
        Gpu(
            index=2,
            uuid="GPU-2a-b",
            name="card",
            memory=80,
            mig=tuple(Mig(uuid=f"MIG-{n}a-b", name="slice", memory=10) for n in range(2)),
        ),
    ),
    source="nvml",
)


@pytest.fixture(autouse=True)
def _nothing_adopted() -> Iterator[None]:
    yield
    adopt(None)


def see(monkeypatch: pytest.MonkeyPatch, visible: str | None, cards: Inventory = CARDS) -> None:
    """Let the run see only this, and lease all of it."""
    monkeypatch.delenv(ORDER, raising=False)
    if visible is None:
        monkeypatch.delenv(VISIBLE, raising=False)
    pool = read_visible(visible, None, cards)
    adopt(pool)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, pool.environment(pool.devices)[VISIBLE])


def launch(**server: Any) -> Launch:
    if "preset" not in server:
        server.setdefault("command", ["serve", "{port}"])
    document = {"parameters": {"a": [1]}, "model": {"id_or_path": "m"}, "server": server}
    spec = load_inline("x", document, "test")
    assert spec.server is not None
    return make_launch(spec.server, {"a": 1}, spec.layout)


# Processes


@pytest.mark.parametrize("preset", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("visible", "told"),
    [
        # Abbreviated, too: such engines either read numbers or look whole UUIDs up.
        ("GPU-1a,GPU-0a-b", {VISIBLE: "1,0", ORDER: "PCI_BUS_ID"}),
        ("GPU-1,0", {VISIBLE: "1,0", ORDER: "PCI_BUS_ID"}),
        # As it is: no UUID, no number for it, and nothing at all.
        ("1,0", {}),
        ("MIG-0", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_an_engine_that_reads_numbers_gets_numbers(
    monkeypatch: pytest.MonkeyPatch, preset: str, visible: str | None, told: dict[str, str]
) -> None:
    see(monkeypatch, visible)
    assert process_gpus(launch(preset=preset, backend="process"), visible) == told


def test_of_named_and_counted_gpus_it_gets_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "GPU-1a,GPU-0a")
    one = launch(preset="vllm", backend="process", gpus=1)
    assert process_gpus(one, "GPU-1a,GPU-0a") == {VISIBLE: "1", ORDER: "PCI_BUS_ID"}
    named = launch(preset="vllm", backend="process", gpus=["GPU-0a-b"])
    assert process_gpus(named, "GPU-0a") == {VISIBLE: "0", ORDER: "PCI_BUS_ID"}
    none = launch(preset="vllm", backend="process", gpus="none")
    assert process_gpus(none, "GPU-0a") == {VISIBLE: ""}


def test_any_other_server_gets_the_names_that_its_caller_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(monkeypatch, "GPU-1a,GPU-0a")
    assert process_gpus(launch(), "GPU-1a,GPU-0a") == {}
    assert process_gpus(launch(gpus=1), "GPU-1a,GPU-0a") == {VISIBLE: "GPU-1a"}
    llama = launch(preset="llama.cpp", backend="process", gpus=1)
    assert process_gpus(llama, "GPU-1a,GPU-0a") == {VISIBLE: "GPU-1a"}


def test_a_process_of_vllm_on_a_mig_instance_deserves_a_warning() -> None:
    card, _, first, _ = read_visible(None, None, CARDS).devices
    vllm = launch(preset="vllm", backend="process").spec
    assert mig_warning(vllm, [card, first]) == presets.load("vllm").mig != ""
    assert mig_warning(vllm, [card]) == ""
    assert mig_warning(launch(preset="vllm", image="i:1").spec, [first]) == ""
    assert mig_warning(launch(preset="sglang", backend="process").spec, [first]) == ""
    assert mig_warning(launch().spec, [first]) == ""
    assert mig_warning(None, [first]) == ""


def test_gpus_that_are_named_in_two_ways_are_told_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # CUDA would ignore the second.
    see(monkeypatch, "0,1")
    assert process_gpus(launch(gpus=["0", "GPU-1a-b"]), "0,1") == {VISIBLE: "0,1"}
    see(monkeypatch, "0,GPU-1")
    assert process_gpus(launch(gpus=["0", "GPU-1"]), "0,1") == {VISIBLE: "GPU-0a-b,GPU-1a-b"}
    assert process_gpus(launch(gpus=["0", "GPU-7"]), "0,1") == {VISIBLE: "0,GPU-7"}


# Containers


@pytest.mark.parametrize(
    ("visible", "wanted", "ids"),
    [
        ("GPU-1", "all", ["GPU-1a-b"]),
        ("1,GPU-0", "all", ["GPU-1a-b", "GPU-0a-b"]),
        ("1,GPU-0", 1, ["GPU-1a-b"]),
        ("MIG-1a", "all", ["MIG-1a-b"]),
        # By its number a container would get the whole card, and could use none of it.
        ("2", "all", ["MIG-0a-b"]),
        ("GPU-2", 1, ["MIG-0a-b"]),
        ("0,1", ["1", "GPU-0"], ["GPU-1a-b", "GPU-0a-b"]),
        # What is not known here is the engine's affair.
        ("0,1", ["7"], ["7"]),
    ],
)
def test_a_container_gets_gpus_by_their_whole_uuids(
    monkeypatch: pytest.MonkeyPatch, visible: str, wanted: Any, ids: list[str]
) -> None:
    see(monkeypatch, visible)
    (request,) = container_settings(launch(image="i:1", gpus=wanted), 8000)["device_requests"]
    assert request["DeviceIDs"] == ids
    assert request["Driver"] == ""
    assert request["Capabilities"] == [["gpu"]]


def test_a_jetson_is_known_to_container_tools_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orin = Gpu(index=0, uuid="54dcf7d7-d4ba-5c82-8f0e-9b5d9f2ad2a8", name="Orin", memory=0)
    see(monkeypatch, "0", Inventory(gpus=(orin,), source="nvml"))
    assert container_gpus(launch(image="i:1", gpus="all")) == ["0"]


def test_names_for_another_machine_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "0,1")
    monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-box:2376")
    assert container_gpus(launch(image="i:1", gpus=["1", "GPU-0"])) == ["1", "GPU-0"]


# Engines that know GPUs by the Container Device Interface


def engine(*names: str, runtimes: tuple[str, ...] = ("runc",)) -> dict[str, Any]:
    """Return what Docker 28.3 tells of itself, as far as it matters."""
    devices = [{"Source": "cdi", "ID": name} for name in names]
    return {"DiscoveredDevices": devices, "Runtimes": {name: {} for name in runtimes}}


def requested(wanted: Any, **engine: Any) -> Any:
    settings = container_settings(launch(image="i:1", gpus=wanted), 8000, engine)
    (request,) = settings["device_requests"]
    return request


def by_uuid(*names: str) -> list[str]:
    return [f"nvidia.com/gpu={name}" for name in names]


@pytest.mark.parametrize(
    ("visible", "wanted", "known", "asked"),
    [
        ("0,1", "all", ("GPU-0a-b", "GPU-1a-b", "all"), ("GPU-0a-b", "GPU-1a-b")),
        # A specification names devices by number where it was not told otherwise.
        ("GPU-1,0", "all", ("0", "1", "all"), ("1", "0")),
        ("GPU-1,0", 1, ("0", "1", "GPU-1a-b"), ("GPU-1a-b",)),
        ("2", "all", ("0", "2:0", "MIG-0a-b"), ("MIG-0a-b",)),
        (None, "all", ("0", "all"), ("all",)),
        (None, 2, ("0", "1", "all"), ("0", "1")),
    ],
)
def test_an_engine_without_a_driver_for_gpus_is_asked_by_cdi_names(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    wanted: Any,
    known: tuple[str, ...],
    asked: tuple[str, ...],
) -> None:
    see(monkeypatch, visible)
    request = requested(wanted, **engine(*by_uuid(*known), "vendor.com/net=eth0"))
    # With a count, options or capabilities, Docker refuses it.
    assert request == {
        "Driver": "cdi",
        "Count": 0,
        "DeviceIDs": by_uuid(*asked),
        "Capabilities": [],
        "Options": {},
    }


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"DiscoveredDevices": None, "Runtimes": None},
        engine("vendor.com/gpu=0"),
        engine("nvidia.com/gpu=0", runtimes=("nvidia", "runc")),
    ],
)
def test_all_other_engines_are_asked_for_the_capability(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    see(monkeypatch, "0")
    request = requested("all", **answer)
    assert (request["Driver"], request["DeviceIDs"]) == ("", ["GPU-0a-b"])
    assert request["Capabilities"] == [["gpu"]]


def test_a_gpu_that_is_not_in_the_specification_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "MIG-1")
    with pytest.raises(LaunchError) as caught:
        requested("all", **engine("nvidia.com/gpu=0", "nvidia.com/gpu=2:1"))
    assert str(caught.value) == (
        "the container engine knows no GPU MIG-1a-b; its CDI specification has nvidia.com/gpu=0, "
        "nvidia.com/gpu=2:1; make a new one (nvidia-ctk cdi generate "
        "--device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml)"
    )
