"""The command line of a trial's server, as people paste it into a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import make_spec

from pytest_autotune.serving.command import server_command

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('A'), os.getcwd()]))"


def command(**server: Any) -> str:
    spec = make_spec(parameters={"size": [1, 2]}, model={"id_or_path": "org/m"}, server={**server})
    return server_command(spec, {"size": 2})


def test_a_process_is_what_a_shell_makes_of_it(tmp_path: Path) -> None:
    found = command(
        command=["{python}", "-c", SHOW, "{model}", "it's; $HOME *", "{port}"],
        arguments={"chat": {"a": "b c"}},
        environment={"A": "x y $B", "PATH_THAT_IS_GONE": None},
        working_directory=str(tmp_path),
    )
    seen, variable, folder = json.loads(
        subprocess.run(found, shell=True, check=True, capture_output=True).stdout  # noqa: S602 - what is pasted is tested
    )
    assert seen == ["org/m", "it's; $HOME *", "8000", "--chat", '{"a": "b c"}', "--size", "2"]
    assert variable == "x y $B"
    assert folder == str(tmp_path)
    assert "env -u PATH_THAT_IS_GONE A='x y $B'" in found


def test_words_that_cannot_be_printed_are_escapes_that_bash_reads() -> None:
    word = "it's\\n\nall passed\x1b[2J\t\x9b\u202e\u2028größer"
    found = command(command=["{python}", "-c", SHOW, word])
    assert found.isprintable()
    seen, _, _ = json.loads(
        subprocess.run(
            ["bash", "-c", found],
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
        ).stdout
    )
    assert seen == [word, "--size", "2"]


def test_a_process_in_this_folder_is_its_arguments_only() -> None:
    here = {"working_directory": str(Path.cwd())}
    assert command(command=["sh", "serve", "{flags}"], **here) == "sh serve --size 2"
    gpus = command(command=["sh", "serve"], gpus=2, **here)
    assert gpus == "CUDA_VISIBLE_DEVICES=0,1 sh serve --size 2"


def test_a_program_beside_this_python_is_named_by_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    program = Path(sys.executable).name
    found = command(command=[program, "-V"], working_directory=str(Path.cwd()))
    assert found == f"{Path(sys.executable).parent / program} -V --size 2"


def test_secrets_are_masked_and_references_are_left_to_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-s3cr3t")
    server: dict[str, Any] = {
        "environment": {
            "HF_TOKEN": "${HF_TOKEN}", "MY_PASSWORD": "literal-s3cr3t", "PLAIN": "plain-s3cr3t",
            "COPY": "x-${HF_TOKEN}",
        },
        "arguments": {"api-key": "argument-s3cr3t"},
        "secrets": ["PLAIN"],
    }  # fmt: skip
    for kind in ({"command": ["sh"]}, {"image": "i:1", "command": ["serve"]}):
        found = command(**server, **kind)
        assert "s3cr3t" not in found
        assert 'HF_TOKEN="${HF_TOKEN}"' in found
        assert "MY_PASSWORD='***'" in found
        assert "PLAIN='***'" in found
        assert "COPY='x-***'" in found
        assert "--api-key '***'" in found


def test_secrets_in_a_command_are_masked_and_short_values_ruin_nothing() -> None:
    server: dict[str, Any] = {"environment": {"DISABLE_TOKEN": "1"}}
    words = ["--api-key", "sk-abc", "--host", "127.0.0.1"]
    found = command(image="i:1", entrypoint=["run", "--t-key=sk-def"], command=words, **server)
    assert found.endswith(
        "--entrypoint run -e DISABLE_TOKEN='***' i:1 '--t-key=***' --api-key '***' "
        "--host 127.0.0.1 --size 2"
    )
    assert "-p 127.0.0.1:8000:8000" in found
    assert "DISABLE_TOKEN='***' sh --api-key '***' --host 127.0.0.1 --size 2" in command(
        command=["sh", *words], **server
    )


def test_a_container_is_a_docker_run() -> None:
    found = command(
        image="i:{size}",
        command=["--host", "{host}", "--port", "{port}"],
        entrypoint=["/bin/serve", "-x"],
        environment={"A": "b c"},
        volumes=["/usr:/host:ro"],
        memory="2g",
        cpus=1.5,
        shm_size="8g",
        ipc="host",
        user="1000",
        capabilities=["IPC_LOCK"],
        gpus=["GPU-1", "GPU-2"],
        container_port=9000,
    )
    assert found == (
        "docker run --rm --init -p 127.0.0.1:9000:9000 --cap-drop ALL --security-opt "
        "no-new-privileges --pids-limit 16384 --cap-add CAP_IPC_LOCK "
        "--gpus '\"device=GPU-1,GPU-2\"' "
        "--shm-size 8g --ipc host --memory 2g --memory-swap 2g --cpus 1.5 --user 1000 "
        "--entrypoint /bin/serve -v /usr:/host:ro -e A='b c' i:2 -x "
        "--host 0.0.0.0 --port 9000"
    )
    host = command(image="i:1", network="host", gpus="all", command=["--port", "{port}"])
    assert host == (
        "docker run --rm --init --cap-drop ALL --security-opt no-new-privileges "
        "--pids-limit 16384 --network host --gpus all i:1 --port 8000 --size 2"
    )


def test_what_has_no_command_gives_none() -> None:
    assert command(url="http://127.0.0.1:1") == ""
    assert server_command(make_spec(parameters={"a": [1]}), {"a": 1}) == ""


def test_what_cannot_be_started_here_says_why_in_a_comment() -> None:
    # Its results may come from elsewhere.
    found = command(image="i:1", volumes=["/no/such/folder:/data"])
    assert found.startswith("# cannot be started here: ")
    assert "/no/such/folder" in found
    assert "\n" not in found


def test_an_image_without_its_entrypoint_is_run_without_it() -> None:
    found = command(image="i:1", entrypoint=[], command=["serve"])
    assert found.endswith("--entrypoint '' i:1 serve --size 2")
