"""Inference servers as local processes: life, death, and what is said of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from inner import kill
from serving import MODULE, SCRIPTED, SPEC, Serving, eventually, is_running, process

from pytest_autotune.serving.ports import PortReservation

HEADLINE = re.compile(r"trial 0: (server [^:]*|image missing[^:]*):")


def test_each_trial_has_its_server_with_its_flags_shared_by_its_tests(serving: Serving) -> None:
    server = process(
        "--ttft", "0.01", "--print-arguments", "{flags}", environment={"SEEN": "yes-{ttft}"}
    )
    server["command"] += ["--print-environment", "SEEN"]
    parameters = {
        "some_flag": [[True, "a b"]],
        "bare": [True],
        "absent": [False],
        "nothing": [None],
        "ttft": [0.01, 0.02],
    }
    serving.write(server, parameters=parameters)
    # Warnings are errors, so that nothing is left open either.
    text = serving.run("-v", "-rP", "-W", "error", status=0)
    logs = serving.logs()
    assert logs.count("listening on") == 2
    assert '"--bare"' in logs
    assert "absent" not in logs
    assert "nothing" not in logs
    # ttft is used by a placeholder, so it is no flag; a list is several arguments, never a shell's.
    assert logs.count('"--ttft"') == 2
    assert '"--some_flag", "true", "a b"' in logs
    assert "SEEN=yes-0.01" in logs
    assert "SEEN=yes-0.02" in logs
    # The best one's, ready to paste.
    start = f"{sys.executable} {SCRIPTED} --port 8000 --itl 0.005 --ttft 0.01"
    start += " --print-arguments"
    pasted = re.escape(f"{start} --some_flag true 'a b' --bare")
    assert re.search(rf"^server   SEEN=yes-0\.0[12] {pasted} ", text, re.MULTILINE)
    assert "TTFT p50" in text
    assert "4 passed" in text


def test_a_crash_at_start_is_told_at_once_with_status_and_log(serving: Serving) -> None:
    server = process("--print", "loading weights", "--die-after", "0.3", "--exit-code", "3")
    server["command"] += ["--listen-after", "60"]
    serving.write({**server, "startup_timeout": 60})
    began = time.monotonic()
    text = serving.run(status=1)
    assert time.monotonic() - began < 15
    assert HEADLINE.search(text)[1] == "server crashed at start"  # type: ignore[index]
    assert "exit status 3" in text
    assert "loading weights" in text
    assert "inference server log (process" in text
    command = f"{SCRIPTED} --port 8000 --itl 0.005 --print 'loading weights' --die-after 0.3"
    assert text.count(f"\nserver command: {sys.executable} {command}") == 2
    assert "Traceback" not in text
    assert "2 failed" in text


LOUD = r"""
import sys
print("\x1b[2J\x1b[32mall passed\x1b[0m\x00\u202ereversed")
print("x" * 5000)
print("\x1b[31mreason\x1b[0m")
sys.exit(3)
"""


def test_what_a_server_says_commands_no_terminal_and_fills_no_screen(serving: Serving) -> None:
    (serving.path / "loud.py").write_text(LOUD)
    serving.write({"command": ["{python}", "loud.py", "{port}"]}, parameters={"ttft": [0.01]})
    text = serving.run("--junitxml=junit.xml", status=1)
    assert r"\x1b[2Jall passed\x00\u202ereversed" in text
    assert f"{'x' * 1000}… (4000 more characters)" in text
    assert "reason" in text
    assert not {"\x1b", "\0", "\u202e"} & set(text)
    assert "\x1b[2J" in serving.logs()
    ET.parse(serving.path / "junit.xml")


def test_a_server_that_is_never_healthy_is_told_from_one_that_never_listens(
    serving: Serving,
) -> None:
    one: dict[str, Any] = {"parameters": {"ttft": [0.01]}}
    serving.write(process("--never-healthy", startup_timeout=1.5), **one)
    unhealthy = serving.run(status=1)
    assert "server not ready in time" in unhealthy
    assert "/health answered 503" in unhealthy
    assert "after 1.5 s (startup_timeout)" in unhealthy
    serving.write(process("--listen-after", "60", startup_timeout=1.5), **one)
    assert "server refused connections" in serving.run("--autotune-fresh", status=1)


def test_a_server_that_says_it_ran_out_of_memory_is_believed(serving: Serving) -> None:
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    serving.write(process("--print", said, "--die-after", "0.1", "--exit-code", "1"))
    text = serving.run(status=1)
    assert HEADLINE.search(text)[1] == "server ran out of memory"  # type: ignore[index]


def test_a_server_that_dies_under_load_fails_the_trial_by_name(serving: Serving) -> None:
    benchmark = {"num_concurrency": [2], "max_time_per_iteration": 60}
    serving.write(
        process("--die-after-requests", "20", "--exit-code", "9"),
        parameters={"ttft": [0.01]},
        benchmark=benchmark,
    )
    began = time.monotonic()
    text = serving.run("-v", status=1)
    assert time.monotonic() - began < 15
    assert "server died: process" in text
    assert "exit status 9" in text
    assert "[ttft=0.01] failed: server died" in text


def test_requests_that_fail_are_the_reason_with_the_servers_words(serving: Serving) -> None:
    server = process("--only-listed", "--no-models")
    benchmark = {**SPEC["benchmark"], "num_concurrency": [5], "max_requests_per_iteration": 5,
                 "warmup_requests": 0, "model_name": "toy-9b"}  # fmt: skip
    slo = [{"metric": "ttft", "statistic": "p99", "max": 1.0}]
    one: dict[str, Any] = {"parameters": {"ttft": [0.01]}, "benchmark": benchmark}
    why = "5 of 5 requests failed: HTTP 404: The model 'toy-9b' does not exist; "
    serving.write(server, slo=slo, **one)
    broken = serving.run("-v", status=1)
    assert f"trial 0 is infeasible: {why}ttft p99 was not reported" in broken
    assert f"[ttft=0.01] infeasible: {why}ttft p99 was not reported; no feasible" in broken
    assert f"\nserver command: {sys.executable} {SCRIPTED} --port 8000" in broken
    serving.write(server, **one)
    failed = serving.run("-v", "--autotune-fresh", status=1)
    assert f"trial 0: {why}the objective 'minimize_ttft' needs mean_ttft" in failed
    assert f"[ttft=0.01] failed: {why}the objective" in failed
    assert f"\nserver command: {sys.executable} {SCRIPTED} --port 8000" in failed
    # One that lists its models is not put under load at all.
    serving.write(process("--only-listed"), **one)
    refused = serving.run("-v", status=1)
    assert (
        "/served/benchmark/model_name: the server does not serve 'toy-9b'; it lists the model "
        "'scripted' in /v1/models; no feasible trial yet"
    ) in refused


def test_a_test_that_stumbles_over_a_dead_server_says_so(serving: Serving) -> None:
    module = (
        MODULE
        + """

def test_last(inference_server):
    import os, signal, time
    os.kill(int(inference_server.description.split()[1]), signal.SIGKILL)
    time.sleep(0.5)
    raise ConnectionError("it is gone")
"""
    )
    serving.write(process(), module, parameters={"ttft": [0.01]})
    text = serving.run("-v", status=1)
    assert "server died (process" in text
    assert "killed by signal 9); ConnectionError: it is gone" in text


def test_a_program_that_is_not_there_ends_the_run_before_any_trial(serving: Serving) -> None:
    serving.write({"command": ["no-such-engine", "--port", "{port}"]})
    text = serving.run(status=4)
    place = f"autotune.json:1:{serving.column('command')}: /served/server/command"
    assert f"ERROR: {place}: there is no program 'no-such-engine'" in text


def test_a_server_ends_with_its_children_even_if_it_ignores_the_request(serving: Serving) -> None:
    server = process("--spawn-child", "--ignore-sigterm", stop_timeout=0.5)
    serving.write(server, parameters={"ttft": [0.01]})
    serving.run(status=0)
    pids = [int(pid) for pid in re.findall(r"child (\d+)", serving.logs())]
    assert pids
    eventually(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        (signal.SIGKILL, []),
        (signal.SIGINT, ["-n", "2"]),
        pytest.param(signal.SIGKILL, ["-n", "2"], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, [], marks=pytest.mark.slow),
    ],
)
def test_no_server_outlives_a_run_that_is_stopped(
    serving: Serving, how: signal.Signals, workers: list[str]
) -> None:
    module = """
import pathlib, time
import pytest

pytestmark = pytest.mark.autotune("served")


def test_it(trial, inference_server):
    pathlib.Path(f"waiting-{trial.number}").touch()
    time.sleep(60)
"""
    serving.write(process("--spawn-child"), module)
    run = serving.start(*workers)
    # Not while modules are still imported: an interrupt in the middle of pytest's rewriting of
    # assertions makes pytest itself fail (with status 1) when it shows where it was.
    processes = 2 if workers else 1
    eventually(lambda: len(list(serving.path.glob("waiting-*"))) == processes, 60)
    pids = [int(pid) for pid in re.findall(r"child (\d+)", serving.logs())]
    assert pids
    if how is signal.SIGKILL:
        kill(run)
    else:
        os.kill(run.pid, how)
        assert run.wait(timeout=30) == 2, serving.output()
    eventually(lambda: not any(map(is_running, pids)), 20)


def test_a_server_is_reused_where_only_the_load_differs(serving: Serving) -> None:
    module = """
import pytest

pytestmark = pytest.mark.autotune("served")


def test_holds(trial, inference_server, load_test):
    trial.report(load_test(inference_server, race=False, num_concurrency=[trial.params["clients"]]))
"""
    parameters = {"ttft": [0.01, 0.02], "clients": [1, 2, 3]}
    server = process(reuse=True, flags={"clients": None})
    serving.write(server, module, parameters=parameters)
    serving.run(status=0)
    assert serving.logs().count("listening on") == 2


def test_two_workers_have_servers_of_their_own(serving: Serving) -> None:
    serving.write(process(), parameters={"ttft": [0.01, 0.011, 0.012, 0.013]})
    text = serving.run("-n", "2", status=0)
    assert "8 passed" in text
    ports = re.findall(r"listening on (\d+)", serving.logs())
    assert len(ports) == 4


def test_an_endpoint_that_is_already_up_is_used_and_left_running(serving: Serving) -> None:
    reservation = PortReservation()
    other = subprocess.Popen(
        [
            sys.executable,
            str(SCRIPTED),
            "--port",
            str(reservation.port),
            "--ttft",
            "0.01",
            "--itl",
            "0.005",
        ]
    )
    try:
        url = f"http://127.0.0.1:{reservation.port}/v1"
        serving.write({"url": url, "startup_timeout": 10})
        text = serving.run(status=0)
        assert "4 passed" in text
        start = "caution  no parameter reached anything: no test read trial.params"
        warning = text.index(f"{start}, and the server at {url} was started by somebody else; all")
        assert warning < text.index("\nbest ")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        reservation.release()


def test_an_endpoint_that_is_not_up_is_refused_by_name(serving: Serving) -> None:
    serving.write(
        {"url": "http://127.0.0.1:9", "startup_timeout": 0.5}, parameters={"ttft": [0.01]}
    )
    text = serving.run(status=1)
    assert "server refused connections: http://127.0.0.1:9" in text


SECRET = "s3cr3t+word/with=signs"
KINDS = ("plain", "literal", "argument", "login")


def test_secrets_appear_nowhere(serving: Serving) -> None:
    module = (
        MODULE
        + """

def test_leaks(inference_server, record_property):
    import os, warnings
    record_property("leak", os.environ["HF_TOKEN"])
    print(os.environ["HF_TOKEN"], os.environ["PLAIN_NAME"], os.environ["LOGIN"])
    environment = dict(os.environ)
    assert environment["HF_TOKEN"] == inference_server.logs()
"""
    )
    server = process(
        *("--print-environment", "HF_TOKEN", "--print-environment", "PLAIN_NAME"),
        *("--print-environment", "MY_PASSWORD", "--print-arguments"),
        environment={"MY_PASSWORD": "literal-s3cr3t", "COPY": "${HF_TOKEN}"},
        secrets=["PLAIN_NAME"],
        api_key="${HF_TOKEN}",
        arguments={"api-key": "argument-s3cr3t"},
    )
    # The server refuses every request, as it has another key, and clients wait after a refusal.
    benchmark = {"num_concurrency": [2], "max_requests_per_iteration": 2, "api_key": "${LOGIN}"}
    serving.write(server, module, parameters={"ttft": [0.01]}, benchmark=benchmark)
    text = serving.run(
        "-v", "-rA", "--showlocals", "--junitxml=junit.xml", status=1,
        HF_TOKEN=SECRET, PLAIN_NAME="plain-s3cr3t", LOGIN="login-s3cr3t",
    )  # fmt: skip
    assert "HF_TOKEN=***" in serving.logs()
    assert "PLAIN_NAME=***" in serving.logs()
    assert "MY_PASSWORD=***" in serving.logs()
    assert "HF_TOKEN" in text
    found = [path for path in serving.path.rglob("*") if path.is_file()]
    assert any(path.name == "junit.xml" for path in found)
    assert any(path.name == "trials.journal" for path in found)
    for path in found:
        if path.name != "autotune.json":
            content = path.read_bytes()
            for secret in (SECRET, *(f"{kind}-s3cr3t" for kind in KINDS)):
                assert secret.encode() not in content, path


@pytest.mark.parametrize("when", ["start", "load"])
def test_the_time_limit_of_a_trial_ends_server_and_load(serving: Serving, when: str) -> None:
    server = process("--spawn-child", *(["--never-healthy"] if when == "start" else []))
    benchmark = {"num_concurrency": [2], "max_time_per_iteration": 60}
    optimization = {**SPEC["optimization"], "timeout_per_iteration": 2}
    serving.write({**server, "startup_timeout": 60}, benchmark=benchmark, optimization=optimization)
    began = time.monotonic()
    text = serving.run(status=1)
    assert time.monotonic() - began < 20
    assert "trial 0: ran longer than 2.0 s (timeout_per_iteration)" in text
    assert "trial 1: ran longer than 2.0 s (timeout_per_iteration)" in text
    pids = [int(pid) for pid in re.findall(r"child (\d+)", serving.logs())]
    assert len(pids) == 2
    eventually(lambda: not any(map(is_running, pids)))


def test_a_server_that_is_kept_does_not_outlast_its_study(serving: Serving) -> None:
    module = """
import os, pathlib, re
import pytest


@pytest.mark.autotune("served")
def test_served(trial, inference_server):
    pathlib.Path("pid").write_text(inference_server.description.split()[1])
    trial.report({"mean_ttft": 1.0})


def test_of_something_else():
    with pytest.raises(ProcessLookupError):
        os.kill(int(pathlib.Path("pid").read_text()), 0)
"""
    serving.write(process(reuse=True), module)
    assert "3 passed" in serving.run(status=0)


def test_a_client_that_was_the_bottleneck_makes_no_candidate(serving: Serving) -> None:
    module = (
        MODULE
        + """

@pytest.fixture(autouse=True, scope="module")
def strict():
    import pytest_autotune.load.level_meter as module
    module.INVALID_CPU = 0.0
"""
    )
    serving.write(process(), module, parameters={"ttft": [0.01]})
    text = serving.run("-v", status=1)
    assert "trial 0: level 1 is invalid: the load generator used" in text
    assert "best     none" in text


def test_a_server_that_does_not_share_its_address_is_started_all_the_same(
    serving: Serving,
) -> None:
    script = serving.path / "stubborn.py"
    script.write_text(
        "import http.server, sys\n"
        "class Server(http.server.HTTPServer):\n"
        "    allow_reuse_address = False\n"
        "Server(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)"
        ".serve_forever()\n"
    )
    module = """
import pytest

pytestmark = pytest.mark.autotune("served")


def test_served(trial, inference_server):
    trial.report({"mean_ttft": 1.0})
"""
    server = {"command": ["python3", str(script), "{port}", "{flags}"], "health": "/stubborn.py"}
    serving.write(server, module)
    assert "2 passed" in serving.run(status=0)


def test_a_log_is_not_shown_for_another_trial(serving: Serving) -> None:
    module = """
import pytest

pytestmark = pytest.mark.autotune("served")


@pytest.fixture(scope="module")
def picky(trial):
    assert trial.params["ttft"] == 0.01, "picky"


def test_served(picky, inference_server, trial):
    raise AssertionError("as it should")
"""
    serving.write(process(), module)
    text = serving.run(status=1)
    assert text.count("inference server log") == 1
