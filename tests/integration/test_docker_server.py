"""Inference servers as containers of a real Docker engine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from containers import PROJECT, Engine
from fake_nvml import FakeNvml, need_library
from inner import kill
from serving import MODULE, Serving, eventually

from pytest_autotune.errors import ImageMissing
from pytest_autotune.gpu.leases import FOLDER_VARIABLE
from pytest_autotune.gpu.visible import VISIBLE
from pytest_autotune.serving.command import server_command
from pytest_autotune.serving.docker import container_settings, ensure_image
from pytest_autotune.serving.launch import make_launch
from pytest_autotune.spec.loading import load_inline


def test_start_flags_load_and_removal(serving: Serving, engine: Engine) -> None:
    module = (
        MODULE
        + """

def test_seen(trial, inference_server):
    import json, urllib.request
    with urllib.request.urlopen(inference_server.base_url + "/arguments") as answer:
        print("seen:", json.dumps(json.load(answer)[1:]))
    import docker
    client = docker.from_env()
    container = client.containers.get(inference_server.description.split()[1])
    print("ports:", json.dumps(container.ports))
    print("labels:", json.dumps(container.labels))
    print("place:", inference_server.is_here, inference_server.served_seconds() > 0.01)
    client.close()
"""
    )
    parameters = {
        "ttft": [0.01, 0.02],
        "enable-it": [True],
        "not_this": [False],
        "nor_this": [None],
        "several": [[["a", "b c"]]],
    }
    parameters["several"] = [["a", "b; touch /tmp/shell"]]
    serving.write(
        # With a delay, or the load generator would be the bottleneck and the level invalid.
        engine.server(
            "--itl",
            "0.005",
            "--print-environment",
            "MARK",
            environment={"MARK": "m-{ttft}"},
            cpus=1.5,
        ),
        module,
        parameters=parameters,
    )
    text = serving.run("-v", "-rP", status=0)
    seen = [json.loads(line) for line in re.findall(r"^seen: (.*)$", text, re.MULTILINE)]
    common = ["--host", "0.0.0.0", "--port", "8000", "--itl", "0.004", "--itl", "0.005"]  # noqa: S104 - in a container
    common += ["--print-environment", "MARK"]
    rest = ["--enable-it", "--several", "a", "b; touch /tmp/shell"]
    # The environment's template uses ttft, so it is no flag.
    assert seen == [[*common, *rest], [*common, *rest]]
    # Its processes are no children of ours, but are not somebody else's.
    assert text.count("\nplace: True True\n") == 2
    ports = [json.loads(line) for line in re.findall(r"^ports: (.*)$", text, re.MULTILINE)]
    assert {p["8000/tcp"][0]["HostIp"] for p in ports} == {"127.0.0.1"}
    labels = [json.loads(line) for line in re.findall(r"^labels: (.*)$", text, re.MULTILINE)]
    assert [found["org.pytest-autotune.trial"] for found in labels] == ["0", "1"]
    assert {"MARK=m-0.01", "MARK=m-0.02"} <= set(serving.logs().splitlines())
    assert "TTFT p50" in text
    assert engine.containers() == []


def test_a_pasted_command_makes_the_same_container(engine: Engine) -> None:
    if shutil.which("docker") is None:
        pytest.skip("needs Docker's command line")
    block = engine.server(
        *("--print", "it's; $HOME"),
        environment={"A": "b c"}, memory="256m", cpus=1.5, shm_size="64m", ipc="host", user="1000",
        pids=500, capabilities=["DAC_OVERRIDE", "IPC_LOCK"],
    )  # fmt: skip
    spec = load_inline("x", {"parameters": {"a": [1]}, "server": block}, "test")
    assert spec.server is not None
    launch = make_launch(spec.server, {"a": 1}, spec.layout)
    ours = engine.client.containers.create(
        launch.image,
        launch.command("0.0.0.0", 8000),  # noqa: S104 - in a container
        **container_settings(launch, 8000),
    )
    pasted = server_command(spec, {"a": 1}).replace("docker run --rm", "docker create", 1)
    created = subprocess.run(pasted, shell=True, check=True, capture_output=True, text=True)  # noqa: S602 - what is pasted is tested
    theirs = engine.client.containers.get(created.stdout.strip())
    try:
        one, other = ours.attrs, theirs.attrs
        words = [c["Config"]["Entrypoint"] + c["Config"]["Cmd"] for c in (one, other)]
        assert words[0] == words[1]
        for part in ("Env", "Image", "User"):
            assert one["Config"][part] == other["Config"][part], part
        numbers = ("Memory", "MemorySwap", "NanoCpus", "ShmSize")
        assert sorted(one["HostConfig"]["Binds"]) == sorted(other["HostConfig"]["Binds"])
        rights = ("CapAdd", "CapDrop", "SecurityOpt", "PidsLimit", "Privileged")
        for part in (*numbers, *rights, "Init", "IpcMode", "NetworkMode"):
            assert one["HostConfig"][part] == other["HostConfig"][part], part
        bound = other["HostConfig"]["PortBindings"]
        assert bound == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}
    finally:
        for container in (ours, theirs):
            container.remove(force=True)


def test_each_way_to_fail_has_its_name(serving: Serving, engine: Engine) -> None:
    one: dict[str, Any] = {"parameters": {"other": [1]}}

    def run(*arguments: str, **keys: Any) -> str:
        serving.write(engine.server(*arguments, **keys), **one)
        text = serving.run("--autotune-fresh", status=1)
        assert engine.containers() == []
        assert "Traceback" not in text
        assert "\nserver command: docker run --rm --init -p 127.0.0.1:8000:8000 " in text
        return text

    began = time.monotonic()
    crashed = run("--print", "no such model", "--listen-after", "60", "--die-after", "0.2",
                  "--exit-code", "7", startup_timeout=60)  # fmt: skip
    assert time.monotonic() - began < 20
    assert "server crashed at start: container autotune-" in crashed
    assert "exit status 7" in crashed
    assert "no such model" in crashed

    unhealthy = run("--never-healthy", startup_timeout=3)
    assert "server not ready in time" in unhealthy
    assert "answered 503" in unhealthy

    silent = run("--listen-after", "60", startup_timeout=3)
    assert "server refused connections" in silent

    memory = run("--allocate", "400", memory="64m")
    assert "server ran out of memory" in memory
    assert "the kernel killed it, by its limit of 64m" in memory


def test_an_image_that_is_missing_ends_the_run_before_any_trial(
    serving: Serving, engine: Engine
) -> None:
    serving.write(engine.server(image="autotune-no-such/image:1"))
    text = serving.run(status=4)
    place = f"autotune.json:1:{serving.column('image')}: /served/server/image"
    assert f"ERROR: {place}: image missing: there is no image" in text
    assert "'autotune-no-such/image:1' on this engine, and it could not be pulled" in text
    serving.write(engine.server(image="autotune-no-such/image:1", pull="never"))
    assert "'pull' is 'never'" in serving.run(status=4)


def test_an_engine_that_has_no_driver_for_gpus_says_what_to_install(
    serving: Serving, engine: Engine
) -> None:
    if "nvidia" in engine.client.info()["Runtimes"]:
        pytest.skip("this engine has one")
    serving.write(engine.server(gpus=1), parameters={"ttft": [0.01]})
    text = " ".join(serving.run(status=1).split())
    assert "container engine failed: cannot start" in text
    assert "could not select device driver" in text
    assert "this engine cannot give containers GPUs: install NVIDIA's container toolkit" in text


def test_a_container_is_asked_to_have_the_mig_instance_that_was_leased(
    serving: Serving,
    engine: Engine,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pynvml")
    if "nvidia" in engine.client.info()["Runtimes"]:
        pytest.skip("this engine knows that there is no such instance")
    fake = FakeNvml(need_library(tmp_path_factory), tmp_path)
    fake.set("devices", 1)
    fake.set("0.mig", 2)
    serving.write(engine.server(gpus="all"), parameters={"ttft": [0.01]})
    locks = {FOLDER_VARIABLE: str(tmp_path / "locks"), VISIBLE: "0"}
    for name, value in {**fake.environment, **locks}.items():
        monkeypatch.setenv(name, value)
    text = serving.run(status=1)
    first = "MIG-00000000-0000-0000-0000-000000000000"
    assert "docker run --rm --init -p 127.0.0.1:8000:8000 --cap-drop ALL " in text
    assert f" --gpus '\"device={first}\"'" in text


def test_an_engine_that_is_missing_is_named(serving: Serving, engine: Engine) -> None:
    serving.write(engine.server())
    text = serving.run(status=4, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "cannot reach the Docker engine at unix:///nowhere/docker.sock" in text


LONG = {"num_concurrency": [1], "max_time_per_iteration": 60}


def wait_for_load(serving: Serving, engine: Engine) -> None:
    eventually(lambda: "listening" in serving.logs() and engine.containers(), 40)


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)])
def test_after_a_kill_the_next_run_removes_ours_and_only_ours(
    serving: Serving, engine: Engine, workers: list[str]
) -> None:
    stranger = engine.client.containers.create(
        engine.image, ["/nothing"], labels={PROJECT: "somebody-else"}
    )
    try:
        serving.write(engine.server(), benchmark=LONG)
        run = serving.start(*workers)
        wait_for_load(serving, engine)
        kill(run)
        left = engine.containers()
        assert left
        serving.write(engine.server())
        text = serving.run(*workers, "--autotune-fresh", status=0)
        assert f"removed {len(left)} container" in text or workers
        assert engine.containers() == []
        stranger.reload()
    finally:
        stranger.remove(force=True)


def test_a_living_run_of_the_same_project_is_left_alone(serving: Serving, engine: Engine) -> None:
    serving.write(engine.server(), benchmark=LONG)
    first = serving.start()
    try:
        wait_for_load(serving, engine)
        (one,) = engine.containers()
        other = serving.path / "other.json"
        spec = json.loads((serving.path / "autotune.json").read_text())["served"]
        other.write_text(json.dumps({**spec, "benchmark": {**LONG, "max_time_per_iteration": 1}}))
        module = (serving.path / "test_served.py").read_text()
        path = serving.path / "test_other.py"
        path.write_text(module.replace('autotune("served")', 'autotune(spec="other.json")'))
        serving.run("test_other.py", status=0)
        one.reload()
        assert one.status == "running"
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(timeout=40)
    assert engine.containers() == []


@pytest.mark.parametrize(
    "trials",
    [pytest.param("2", id="others-follow", marks=pytest.mark.slow), pytest.param("1", id="last")],
)
def test_a_worker_that_is_killed_leaves_no_container(
    serving: Serving, engine: Engine, trials: str
) -> None:
    module = (
        MODULE
        + """

def test_dies(trial, inference_server):
    import os, pathlib, signal
    mark = pathlib.Path("died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    serving.write(engine.server(), module)
    stop = ("--maxfail=1",) if trials == "1" else ()
    text = serving.run("-n", "1", "--autotune-trials", trials, *stop)
    assert "crashed" in text
    assert engine.containers() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_at_a_random_moment_leaves_no_container(
    serving: Serving, engine: Engine, seed: int
) -> None:
    serving.write(engine.server())
    run = serving.start()
    eventually(lambda: "test session starts" in serving.output(), 60)
    time.sleep(random.Random(seed).uniform(0, 6))
    ended = run.poll() is not None
    for _ in range(1 + seed % 2):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.1)
    assert run.wait(timeout=60) == 2 or ended, serving.output()
    assert "Traceback" not in serving.output()
    assert engine.containers() == []


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_removes_the_container(serving: Serving, engine: Engine) -> None:
    module = """
        import pathlib
        import pytest

        pytestmark = pytest.mark.autotune("served")

        def test_it(trial, inference_server, load_test):
            pathlib.Path("loading").touch()
            load_test(inference_server)
        """
    serving.write(engine.server(), module, benchmark=LONG)
    run = serving.start()
    # Not while modules are still imported: Python ends by the signal itself if it arrives in
    # code that is run from a string, as dataclasses and named tuples are made.
    eventually((serving.path / "loading").exists, 40)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=40) == 2, serving.output()
    assert engine.containers() == []


@pytest.mark.slow
def test_another_image_under_the_same_tag_is_other_code(serving: Serving, engine: Engine) -> None:
    image = f"{engine.image.partition(':')[0]}:moving"
    own = engine.client.images.get(engine.image)
    own.tag(image)
    try:
        serving.write(engine.server(image=image), MODULE, parameters={"ttft": [0.01]})
        assert "best     trial 0" in serving.run(status=0)
        assert "no tests ran" in serving.run(status=0)
        engine.client.api.import_image_from_data(
            _tar_of("more"), repository=image.partition(":")[0], tag="moving"
        )
        text = serving.run(status=0)
        changed = re.search(r"because the code changed: image (\S+) \(\w{12} → \w{12}\)", text)
        assert changed is not None, text
        assert changed[1] == image
    finally:
        engine.client.images.remove(image, force=True)


def _tar_of(*folders: str) -> bytes:
    """Return an archive of empty folders, which is an image."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for folder in (*folders, "tmp", "proc", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o777
            archive.addfile(entry)
    return content.getvalue()


@pytest.mark.parametrize(
    "image", ["No Name", "x\nall passed\x1b[2J", "../containers", "a:b:c", "-"]
)
def test_a_name_that_is_none_of_an_image_is_no_error_of_the_plugin(
    engine: Engine, image: str
) -> None:
    with pytest.raises(ImageMissing) as refused:
        ensure_image(engine.client, image, "never")
    assert repr(image) in str(refused.value)
    assert str(refused.value).isprintable()
