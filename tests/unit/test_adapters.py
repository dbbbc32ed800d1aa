"""Results of other load generators, as they really wrote them, under our names.

All were taken from ``tests/scripted_server.py --ttft 0.05 --itl 0.005`` with 16 tokens out at
concurrency 4: TTFT 50 ms, TPOT 5 ms, end to end 125 ms.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pytest_autotune.errors import LoadTestError
from pytest_autotune.load.adapters import (
    ADAPTERS,
    aiperf,
    genai_bench,
    guidellm,
    run_installed,
    vllm,
)
from pytest_autotune.load.job import Job
from pytest_autotune.spec.scenario import Scenario

DATA = Path(__file__).parent / "data" / "generators"
SCENARIO = Scenario.parse("N(64,8)/(16,4)")
JOB = Job(
    url="http://127.0.0.1:1",
    endpoint="chat",
    model="m",
    scenario=SCENARIO.text,
    seed="0/4",
    concurrency=4,
    max_requests=40,
    tokenizer="/somewhere/tokenizer",
    extra_body={"ignore_eos": True},
)
FILES = {
    aiperf: "profile_export_aiperf.json",
    guidellm: "benchmarks.json",
    vllm: "vllm-bench.json",
}


def read(tool: ModuleType, capture: str, folder: Path) -> dict[str, float]:
    shutil.copy(DATA / capture, folder / FILES[tool])
    metrics: dict[str, float] = tool.read(folder)
    return metrics


@pytest.mark.parametrize(
    ("tool", "capture"),
    [
        (aiperf, "aiperf-chat.json"),
        (aiperf, "aiperf-completions.json"),
        (guidellm, "guidellm-chat.json"),
        (guidellm, "guidellm-completions.json"),
        (vllm, "vllm-completions.json"),
    ],
)
def test_a_real_result_says_what_the_server_did(
    tool: ModuleType, capture: str, tmp_path: Path
) -> None:
    metrics = read(tool, capture, tmp_path)
    assert metrics["p50_ttft"] == pytest.approx(0.050, rel=0.1)
    assert metrics["p50_tpot"] == pytest.approx(0.005, rel=0.1)
    assert metrics["p50_e2e_latency"] == pytest.approx(0.125, rel=0.1)
    assert metrics["p99_e2e_latency"] >= metrics["p50_e2e_latency"]
    assert metrics["num_requests"] == metrics["num_completed"] == 40
    assert metrics["error_rate"] == 0
    assert metrics["success_rate"] == 1
    assert metrics["mean_output_tokens"] == pytest.approx(16, rel=0.05)
    # 4 at a time, an eighth of a second each.
    assert metrics["request_throughput"] == pytest.approx(32, rel=0.2)
    assert metrics["output_throughput"] == pytest.approx(
        metrics["mean_output_tokens"] * metrics["request_throughput"], rel=0.1
    )
    assert metrics["total_throughput"] == pytest.approx(
        metrics["output_throughput"] + metrics["input_throughput"], rel=0.05
    )


@pytest.mark.parametrize(
    ("tool", "capture"),
    [
        (aiperf, "aiperf-chat-errors.json"),
        (guidellm, "guidellm-errors.json"),
        (vllm, "vllm-errors.json"),
    ],
)
def test_errors_are_counted(tool: ModuleType, capture: str, tmp_path: Path) -> None:
    metrics = read(tool, capture, tmp_path)
    assert 0 < metrics["error_rate"] < 1
    assert metrics["success_rate"] == pytest.approx(1 - metrics["error_rate"])
    assert metrics["num_completed"] < metrics["num_requests"]


def test_what_nobody_answered_has_no_latency(tmp_path: Path) -> None:
    found = json.loads((DATA / "vllm-completions.json").read_text())
    (tmp_path / "vllm-bench.json").write_text(json.dumps({**found, "completed": 0, "failed": 40}))
    metrics = vllm.read(tmp_path)
    assert metrics["error_rate"] == 1
    assert not [name for name in metrics if "ttft" in name or "latency" in name]


def test_answers_of_one_token_have_no_time_per_token(tmp_path: Path) -> None:
    found = json.loads((DATA / "vllm-completions.json").read_text())
    nothing = {name: 0.0 for name in found if "_tpot_" in name or "_itl_" in name}
    single = {**found, **nothing, "total_output_tokens": found["completed"]}
    (tmp_path / "vllm-bench.json").write_text(json.dumps(single))
    metrics = vllm.read(tmp_path)
    assert metrics["p90_ttft"] == found["p90_ttft_ms"] / 1e3
    assert not [name for name in metrics if "tpot" in name or "itl" in name]


def test_results_of_genai_bench_are_levels_to_report(tmp_path: Path) -> None:
    name = "D64_16_text-to-text_num_concurrency_4_time_2s.json"
    shutil.copy(DATA / name, tmp_path)
    (level,) = genai_bench.read_genai_bench(tmp_path)["levels"]
    assert level["concurrency"] == 4
    assert "scenario" not in level
    assert level["p50_ttft"] == pytest.approx(0.050, rel=0.1)
    assert level["p50_e2e_latency"] == pytest.approx(0.125, rel=0.1)
    assert level["error_rate"] == 0
    shutil.copy(DATA / "N64_8_16_4_text-to-text_num_concurrency_4_time_1s.json", tmp_path)
    both = genai_bench.read_genai_bench(tmp_path)["levels"]
    assert [found["scenario"] for found in both] == ["D(64,16)", "N(64,8)/(16,4)"]
    # This one was written in milliseconds, from a server that refused most requests, of which
    # genai-bench's own error rate knows nothing.
    assert both[1]["p50_ttft"] == pytest.approx(0.050, rel=0.1)
    assert both[1]["error_rate"] > 0.5
    with pytest.raises(ValueError, match="no results of genai-bench"):
        genai_bench.read_genai_bench(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_key_is_never_in_the_command_or_a_file(name: str, tmp_path: Path) -> None:
    job = replace(JOB, headers={"Authorization": "Bearer s3cr3t"})
    command = ADAPTERS[name].command(job, SCENARIO, tmp_path)
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "s3cr3t" not in " ".join(command) + files
    assert "s3cr3t" in ADAPTERS[name].environment("s3cr3t").values()
    assert "ignore_eos" in " ".join(command) + files


def test_what_a_tool_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="runs a number of requests"):
        vllm.command(replace(JOB, max_requests=None, max_time=3.0), SCENARIO, Path())


def fake(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program on PATH that does what a broken tool does."""
    program = folder / "bin" / name
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def run(job: Job = JOB, name: str = "vllm") -> dict[str, float]:
    return run_installed(name, job, SCENARIO, lambda: None, lambda text: text.replace("k3y", "***"))


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match="no aiperf on PATH: pip install aiperf"):
        run(name="aiperf")


def test_a_tool_needs_a_tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path, "vllm", "", monkeypatch)
    with pytest.raises(LoadTestError, match=r"needs benchmark\.model_tokenizer"):
        run(replace(JOB, tokenizer=None))


def test_a_tool_that_fails_shows_what_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(tmp_path, "vllm", "raise SystemExit('no such model, k3y')", monkeypatch)
    with pytest.raises(LoadTestError, match=r"no result that can be read(.|\n)*such model, \*\*\*"):
        run()


def test_a_tool_is_ended_with_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path, "vllm", "import time; time.sleep(60)", monkeypatch)

    def check() -> None:
        raise RuntimeError("the server died")

    with pytest.raises(RuntimeError, match="the server died"):
        run_installed("vllm", JOB, SCENARIO, check, str)


def test_what_a_tool_says_without_end_is_shown_from_its_end_and_safe_to_print(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = "print('x' * 10_000_000, 'k3y', chr(27) + '[2J' + chr(0), 'the end')"
    fake(tmp_path, "vllm", script, monkeypatch)
    with pytest.raises(LoadTestError, match=r"x \*\*\* \\x1b\[2J\\x00 the end$") as failed:
        run()
    assert len(str(failed.value)) < 2500


@pytest.mark.parametrize(
    ("url", "before", "after"),
    [
        ("http://127.0.0.1:8000", {}, "127.0.0.1"),
        ("http://localhost:8000", {"NO_PROXY": "corp"}, "corp,localhost"),
        ("http://127.0.0.1:8000", {"no_proxy": "a,b", "NO_PROXY": "corp"}, "a,b,127.0.0.1"),
        ("http://127.0.0.1:8000", {"no_proxy": "*"}, "*"),
        ("http://192.0.2.1:8000", {"no_proxy": "corp"}, "corp"),
    ],
)
def test_no_tool_asks_a_server_of_this_machine_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, before: dict[str, str], after: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**before, "http_proxy": "http://192.0.2.2:3128"}.items():
        monkeypatch.setenv(name, value)
    script = """
import os, urllib.request
bypassed = bool(urllib.request.proxy_bypass(%r))
raise SystemExit(f"{os.environ['no_proxy']} {os.environ.get('NO_PROXY')} {bypassed}")
"""
    fake(tmp_path, "vllm", script % url.split("/")[2], monkeypatch)
    with pytest.raises(LoadTestError) as failed:
        run(replace(JOB, url=url))
    lower, upper, bypassed = str(failed.value).splitlines()[-1].split()
    assert lower == after
    assert upper in {after, "None"}
    assert bypassed == str("192.0.2.1" not in url)
