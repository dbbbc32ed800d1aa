"""What a launch becomes for the Docker SDK; the engine itself is tested elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_autotune.serving.docker import container_settings
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.spec.loading import load_inline


def launch(**server: Any) -> Launch:
    document = {
        "parameters": {"a": [1]},
        "model": {"id_or_path": "m"},
        "server": {"image": "i:1", "backend": "docker", **server},
    }
    spec = load_inline("x", document, "test")
    assert spec.server is not None
    return make_launch(spec.server, {"a": 1}, spec.layout)


def test_by_default_nothing_is_shared_and_only_the_loopback_interface_is_open() -> None:
    settings = container_settings(launch(), 8000)
    assert settings == {
        "detach": True,
        "environment": {},
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 16384,
        "ports": {"8000/tcp": ("127.0.0.1", None)},
    }


def test_everything_that_a_spec_can_say_arrives() -> None:
    settings = container_settings(
        launch(
            volumes=["/usr:/host:ro", "named:/data:rw"],
            shm_size="8g",
            ipc="host",
            memory="2g",
            cpus=1.5,
            user="1000",
            pids=4096.0,
            capabilities=["DAC_OVERRIDE"],
            network="backend",
            entrypoint=["serve"],
            environment={"A": "{a}", "GONE": None},
        ),
        9000,
    )
    assert settings["ports"] == {"9000/tcp": ("127.0.0.1", None)}
    assert settings["volumes"] == ["/usr:/host:ro", "named:/data:rw"]
    assert settings["shm_size"] == "8g"
    assert settings["ipc_mode"] == "host"
    # A limit with swap on top would be none.
    assert settings["mem_limit"] == settings["memswap_limit"] == "2g"
    assert settings["nano_cpus"] == 1_500_000_000
    assert settings["user"] == "1000"
    assert settings["pids_limit"] == 4096
    assert (settings["cap_drop"], settings["cap_add"]) == (["ALL"], ["CAP_DAC_OVERRIDE"])
    assert settings["network"] == "backend"
    assert settings["entrypoint"] == ["serve"]
    assert settings["environment"] == {"A": "1"}


def test_on_the_hosts_network_nothing_is_published() -> None:
    assert "ports" not in container_settings(launch(network="host"), 9000)


@pytest.mark.parametrize(
    ("visible", "wanted", "count", "ids"),
    [
        (None, "all", -1, None),
        (None, 2, 2, None),
        (None, ["GPU-1"], 0, ["GPU-1"]),
        ("4,5,6", "all", 0, ["4", "5", "6"]),
        ("4,5,6", 2, 0, ["4", "5"]),
        ("4,-1,6", "all", 0, ["4"]),
    ],
)
def test_gpus_are_requested_within_what_this_process_may_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: Any, count: int, ids: Any
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (request,) = container_settings(launch(gpus=wanted), 8000)["device_requests"]
    assert request["Count"] == count
    assert request["DeviceIDs"] == (ids or [])
    assert request["Capabilities"] == [["gpu"]]


def test_a_container_gets_no_gpus_where_the_caller_left_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "device_requests" not in container_settings(launch(gpus="all"), 8000)


def test_what_is_visible_here_says_nothing_of_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("DOCKER_HOST", "tcp://gpu-box:2376")
    (request,) = container_settings(launch(gpus=2), 8000)["device_requests"]
    assert request["Count"] == 2


@pytest.mark.parametrize("wanted", ["none", 0])
def test_a_server_on_the_cpu_gets_no_gpus(wanted: Any) -> None:
    assert "device_requests" not in container_settings(launch(gpus=wanted, preset="vllm"), 8000)


def test_an_engine_that_needs_gpus_gets_all_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (request,) = container_settings(launch(preset="vllm"), 8000)["device_requests"]
    assert request["Count"] == -1


@pytest.mark.parametrize("preset", ["vllm", "sglang", "tensorrt-llm", "llama.cpp"])
def test_no_preset_shares_memory_with_this_machine(preset: str) -> None:
    settings = container_settings(launch(preset=preset, gpus="none"), 8000)
    assert "ipc_mode" not in settings
    # What an engine's processes pass to each other is in shared memory, of which Docker has 64 MB.
    assert preset == "llama.cpp" or settings["shm_size"] in {"16g", "32g"}
