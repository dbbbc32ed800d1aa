"""What a container may do on a real engine, and what the summary says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from containers import Engine
from serving import MODULE, Serving

ONE: dict[str, Any] = {"parameters": {"ttft": [0.01]}}
#: A test that looks at the container from inside, as the server's own processes do.
LOOKS = (
    MODULE
    + """

def test_looks(trial, inference_server):
    import docker, json, sys
    code = '''
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
written = {}
for folder in ("/plain", "/open"):
    try:
        open(folder + "/mark", "w").close()
        written[folder] = True
    except OSError as error:
        written[folder] = error.strerror
print(json.dumps({
    "capabilities": [status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "written": written,
    "uid": os.getuid(),
}))
'''
    client = docker.from_env()
    container = client.containers.get(inference_server.description.split()[1])
    container.reload()
    host = container.attrs["HostConfig"]
    found = container.exec_run([PYTHON, "-c", code])
    print("inside:", found.output.decode().strip())
    keys = ("PidsLimit", "NetworkMode", "IpcMode", "Privileged", "ShmSize")
    print("host:", json.dumps({key: host[key] for key in keys}))
    client.close()
"""
)


def look(serving: Serving, engine: Engine, **server: Any) -> tuple[Any, Any, str]:
    """Run a study; return what its container sees inside, what the engine says, and the output."""
    for name in ("plain", "open"):
        (serving.path / name).mkdir(exist_ok=True)
        (serving.path / name).chmod(0o777)
    block = engine.server(**server)
    block["volumes"] += ["./plain:/plain", "./open:/open:rw"]
    python = block["entrypoint"][0]
    serving.write(block, LOOKS.replace("PYTHON", repr(python)), **ONE)
    text = serving.run("-rP", "--autotune-fresh", status=0)
    inside, host = (
        json.loads(re.findall(rf"^{word}: (.*)$", text, re.MULTILINE)[0])
        for word in ("inside", "host")
    )
    assert engine.containers() == []
    return inside, host, text


def test_by_default_a_container_may_do_nothing_to_this_machine(
    serving: Serving, engine: Engine
) -> None:
    inside, host, text = look(serving, engine)
    assert inside["uid"] == 0
    assert set(inside["capabilities"]) == {"0" * 16}
    assert inside["no_new_privileges"] == "1"
    assert inside["written"] == {"/plain": "Read-only file system", "/open": True}
    assert not (serving.path / "plain" / "mark").exists()
    assert (serving.path / "open" / "mark").exists()
    assert (host["PidsLimit"], host["Privileged"]) == (16384, False)
    assert host["NetworkMode"] in {"default", "bridge"}
    assert host["IpcMode"] == "private"
    # The one thing that the spec gives it beyond the defaults.
    assert text.count("server.volumes: the container may write to ./open (/open)") == 1
    assert "server.network" not in text


def test_what_a_spec_gives_it_beyond_them_arrives_and_is_said(
    serving: Serving, engine: Engine
) -> None:
    inside, host, text = look(
        serving, engine, ipc="host", user="0:0", pids=300, capabilities=["CHOWN"], shm_size="96m"
    )
    assert inside["capabilities"][1] == "0000000000000001"
    assert (host["PidsLimit"], host["IpcMode"], host["ShmSize"]) == (300, "host", 96 << 20)
    said = " ".join(text.split())
    assert "server.ipc: host: the container shares this machine's shared memory" in said
    assert "server.user: 0:0: the container's processes are root's" in said
    assert "server.capabilities: the container's processes have CAP_CHOWN" in said


def test_a_container_on_the_hosts_network_is_said_and_serves(
    serving: Serving, engine: Engine
) -> None:
    _, host, text = look(serving, engine, network="host")
    assert host["NetworkMode"] == "host"
    assert "server.network: host: the container shares this machine's network" in text


def test_folders_that_no_container_gets_end_the_run_before_any_trial(
    serving: Serving, engine: Engine
) -> None:
    module = MODULE + '\n\ndef test_mark(trial):\n    open("ran", "w").close()\n'
    up = "../" * len(Path(serving.path).parts)
    for source, reason in (
        ("/", "/ is this whole machine"),
        ("/var/run", "/run holds the container engine's socket"),
        ("/var/run/docker.sock", "/run/docker.sock is the container engine's socket"),
        (f"{up}etc", "/etc is or holds a part of /etc"),
    ):
        block = engine.server()
        block["volumes"].insert(0, f"{source}:/stolen:ro")
        serving.write(block, module, **ONE)
        text = serving.run(status=4)
        column = serving.column("volumes") + len('"volumes": [')
        place = f"autotune.json:1:{column}"
        said = f"ERROR: {place}: /served/server/volumes/0: {reason}, which is given to no container"
        assert said in text
        assert not (serving.path / "ran").exists()
        assert engine.containers() == []
