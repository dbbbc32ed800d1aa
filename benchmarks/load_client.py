"""How exact the load generator is, and how much load it can make.

Against ``tests/scripted_server.py``, whose delays are known, with one core for each where the
machine has two. Prints two tables:

1. accuracy: error of TTFT and of end-to-end latency at concurrency 1, 16 and 64;
2. ceiling: requests/s when the server does not wait at all, and tokens/s when every stream gets a
   token a millisecond (so at most a thousand per stream), with the share of a core that the client
   used; and peers on the same server, in the same run: clients written on aiohttp and httpx (where
   installed), and load generators that are given by ``--peer`` (installed and on PATH).

::

    python benchmarks/load_client.py --peer guidellm --peer aiperf
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_autotune.bench.statistics import quantile
from pytest_autotune.load.generator import Generator
from pytest_autotune.load.job import Job
from pytest_autotune.load.statistics import LevelRun
from pytest_autotune.serving.ports import PortReservation

SERVER = Path(__file__).parent.parent / "tests" / "scripted_server.py"
CONCURRENCIES = (1, 16, 64)
TTFT, ITL, TOKENS = 0.1, 0.01, 16


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run a scripted server; gives its address."""
    reservation = PortReservation()
    command = [sys.executable, str(SERVER), "--port", str(reservation.port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield f"http://127.0.0.1:{reservation.port}"
    finally:
        process.terminate()
        process.wait()
        reservation.release()


def nothing() -> None:
    """Check nothing while a job runs."""


def run(job: Job) -> LevelRun:
    """Run one level in a generator of its own."""
    generator = Generator()
    try:
        return generator.run(job, nothing)
    finally:
        generator.close()


def job(url: str, concurrency: int, requests: int, tokens: int) -> Job:
    """Return one level of deterministic load."""
    return Job(
        url=url, endpoint="chat", model="scripted", scenario=f"D(64,{tokens})", seed="0",
        concurrency=concurrency, max_requests=requests, warmup=min(concurrency, 16),
    )  # fmt: skip


def accuracy() -> None:
    """Print how far measured times are from scripted ones."""
    print(f"Accuracy: scripted TTFT {TTFT * 1e3:g} ms, {TOKENS} tokens {ITL * 1e3:g} ms apart")
    print(f"{'concurrency':>12} {'requests':>9} {'TTFT error p50':>15} {'p99':>8} "
          f"{'e2e error p50':>14} {'p99':>8} {'client CPU':>11}")  # fmt: skip
    exact = TTFT + ITL * (TOKENS - 1)
    with server("--ttft", str(TTFT), "--itl", str(ITL)) as url:
        for concurrency in CONCURRENCIES:
            result = run(job(url, concurrency, max(40, 30 * concurrency), TOKENS))
            ttft = sorted(abs((r.ttft or 0) - TTFT) for r in result.requests if r.ok)
            e2e = sorted(abs((r.e2e_latency or 0) - exact) / exact for r in result.requests if r.ok)
            assert len(ttft) == len(result.requests)
            print(
                f"{concurrency:>12} {len(ttft):>9} {quantile(ttft, 0.5) * 1e3:>12.2f} ms "
                f"{quantile(ttft, 0.99) * 1e3:>5.2f} ms {quantile(e2e, 0.5):>13.2%} "
                f"{quantile(e2e, 0.99):>8.2%} {result.client.cpu:>11.0%}"
            )


Measured = tuple[float, float, float]
"""Requests/s, tokens/s and the share of a core that the client used."""


def ours(url: str, concurrency: int, requests: int, tokens: int) -> Measured:
    """Measure our own load generator."""
    result = run(job(url, concurrency, requests, tokens))
    assert all(r.ok for r in result.requests)
    wall = max(r.ended for r in result.requests) - min(r.scheduled for r in result.requests)
    total = sum(r.output_tokens for r in result.requests)
    return requests / wall, total / wall, result.client.cpu


def body(tokens: int) -> dict[str, Any]:
    """Return a request as our own generator makes it."""
    return {
        "model": "scripted", "stream": True, "stream_options": {"include_usage": True},
        "max_tokens": tokens, "ignore_eos": True,
        "messages": [{"role": "user", "content": " ".join(["word"] * 64)}],
    }  # fmt: skip


async def closed_loop(
    one: Callable[[], Awaitable[int]], concurrency: int, requests: int
) -> Measured:
    """Keep ``concurrency`` requests running; ``one`` returns the tokens it got."""
    left = iter(range(requests))
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for _ in left:
            got = await one()  # Not in one line, which would add to what there was before.
            tokens += got

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    wall = time.perf_counter() - began
    return requests / wall, tokens / wall, (time.process_time() - cpu) / wall


def count_event(line: bytes) -> int:
    """Parse a line of a stream as a load generator must; return 1 for one with text."""
    if not line.startswith(b"data: {"):
        return 0
    choices = json.loads(line[6:]).get("choices")
    return int(bool(choices and choices[0]["delta"].get("content")))


async def on_aiohttp(url: str, concurrency: int, requests: int, tokens: int) -> Measured:
    """Measure a plain closed loop on aiohttp."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> int:
            async with session.post(f"{url}/v1/chat/completions", json=body(tokens)) as answer:
                return sum([count_event(line) async for line in answer.content])

        return await closed_loop(one, concurrency, requests)


async def on_httpx(url: str, concurrency: int, requests: int, tokens: int) -> Measured:
    """Measure a plain closed loop on httpx."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as session:  # noqa: S113 - a stream lasts as it lasts

        async def one() -> int:
            address = f"{url}/v1/chat/completions"
            async with session.stream("POST", address, json=body(tokens)) as answer:
                return sum([count_event(line.encode()) async for line in answer.aiter_lines()])

        return await closed_loop(one, concurrency, requests)


def library(name: str) -> Callable[[str, int, int, int], Measured] | None:
    """Return a measurement that runs in a process of its own, None if it is not installed."""
    try:
        __import__(name)
    except ImportError:
        return None

    def measure(*arguments: Any) -> Measured:
        command = [sys.executable, __file__, "--one", name, json.dumps(arguments)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        rate, tokens, cpu = json.loads(answer.stdout)
        return rate, tokens, cpu

    return measure


def installed(name: str, tokenizer: Path) -> Callable[[str, int, int, int], Measured]:
    """Return the measurement of an installed load generator, through our adapter for it."""
    from pytest_autotune.load.adapters import run_installed
    from pytest_autotune.spec.scenario import Scenario

    def measure(url: str, concurrency: int, requests: int, tokens: int) -> Measured:
        one = replace(job(url, concurrency, requests, tokens), tokenizer=str(tokenizer), warmup=0)
        metrics = run_installed(name, one, Scenario.parse(one.scenario), nothing, str)
        return metrics["request_throughput"], metrics["output_throughput"], float("nan")

    return measure


def word_tokenizer(folder: Path) -> Path:
    """Write a tokenizer with one token a word, as other load generators insist on one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({f"w{number}" for number in range(1000)} | {"word", "<unk>"})
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a word for unknown words
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>",
              "model_max_length": 100_000}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ceiling(peers: list[str], scratch: Path) -> None:
    """Print the highest rates that each client reaches on a server that never waits."""
    measures: dict[str, Callable[[str, int, int, int], Measured]] = {"pytest-autotune": ours}
    for name in ("aiohttp", "httpx"):
        found = library(name)
        if found is not None:
            measures[name] = found
    if peers:
        tokenizer = word_tokenizer(scratch / "tokenizer")
        measures |= {name: installed(name, tokenizer) for name in peers}
    print(
        "\nCeiling: 64 tokens in; requests/s with 16 tokens out at once, tokens/s with 512 tokens"
    )
    print("out, one a millisecond; median of three")
    print(f"{'client':<16} {'concurrency':>12} {'requests/s':>11} {'ratio':>6} {'CPU':>5} "
          f"{'tokens/s':>10} {'ratio':>6} {'CPU':>5}")  # fmt: skip
    still, paced = server("--ttft", "0", "--itl", "0"), server("--ttft", "0", "--itl", "0.001")
    with still as url, paced as paced_url:
        for concurrency in CONCURRENCIES:
            base: tuple[float, float] | None = None
            for name, measure in measures.items():
                slow = name != "pytest-autotune"
                try:
                    short = best(measure, url, concurrency, 600 if slow else 3000, 16)
                    long = best(measure, paced_url, concurrency, max(4, 2 * concurrency), 512)
                except Exception as error:  # noqa: BLE001 - a peer that fails is a row, too
                    print(f"{name:<16} {concurrency:>12} failed: {str(error).splitlines()[0]}")
                    continue
                base = base or (short[0], long[1])
                print(
                    f"{name:<16} {concurrency:>12} {short[0]:>11.0f} {short[0] / base[0]:>6.2f} "
                    f"{share(short[2])} {long[1]:>10.0f} {long[1] / base[1]:>6.2f} {share(long[2])}"
                )


def best(
    measure: Callable[[str, int, int, int], Measured],
    url: str, concurrency: int, requests: int, tokens: int,
) -> Measured:  # fmt: skip
    """Return the median of three runs, by requests/s."""
    runs = [measure(url, concurrency, requests, tokens) for _ in range(3)]
    middle = statistics.median_low([found[0] for found in runs])
    return next(found for found in runs if found[0] == middle)


def share(cpu: float) -> str:
    """Return a share of a core, or a dash."""
    return f"{cpu:>5.0%}" if cpu == cpu else f"{'-':>5}"  # noqa: PLR0124 - NaN is not known


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="append", default=[], help="aiperf, guidellm or vllm")
    parser.add_argument("--scratch", type=Path, default=Path("build/load_client"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, arguments = options.one
        measure = {"aiohttp": on_aiohttp, "httpx": on_httpx}[name]
        print(json.dumps(asyncio.run(measure(*json.loads(arguments)))))
        return
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    accuracy()
    ceiling(options.peer, options.scratch)


if __name__ == "__main__":
    main()
