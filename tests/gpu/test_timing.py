"""Timing on a real card, where a simulated one cannot be trusted. Skipped where there is none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from pytest_autotune.bench.frameworks import TorchDevice
from pytest_autotune.bench.measure import measure
from pytest_autotune.errors import BenchmarkError


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not module.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    module.ones(1, device="cuda")  # From here on the device is in use.
    return module


def by_hand(torch: Any, run: Callable[[], object], calls: int) -> float:
    """Return the seconds of a call in a graph of so many, of replays behind each other."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(100)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in events)) / 1e3 / calls


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("busy", [40e-6, 1.6e-3])
def test_a_function_of_the_host_is_timed_by_the_host(busy: float) -> None:
    def work() -> None:
        end = time.perf_counter() + busy
        while time.perf_counter() < end:
            pass

    found = measure(work, max_time=0.5)
    print(found)
    assert "host" in found.timer
    assert busy <= found.median < 2 * busy


def test_a_short_kernel_has_a_graph_that_is_long_enough(torch: Any) -> None:
    x = torch.zeros(1000, device="cuda")

    def run() -> None:
        x.add_(1)

    eager = measure(run, backend="torch", max_time=0.5)
    warm = measure(run, backend="torch", cold_cache=False, max_time=0.5)
    graph = measure(run, backend="torch", graph=True, max_time=0.5)
    hand = by_hand(torch, run, 500)
    print("cold:", eager, "\nwarm:", warm, "\ngraph:", graph, f"\nby hand: {hand * 1e6:.3f} µs")
    assert any("graph=True" in remark for remark in eager.remarks)
    assert graph.calls_per_sample >= 200
    assert graph.median < min(eager.median, warm.median)
    assert graph.median == pytest.approx(hand, rel=0.05)


def test_a_short_kernel_is_timed_as_triton_does_it(torch: Any) -> None:
    testing = pytest.importorskip("triton.testing", reason="Triton is not installed")
    x = torch.zeros(1000, device="cuda")

    def run() -> None:
        x.add_(1)

    graph = measure(run, backend="torch", graph=True, max_time=0.5).median
    with torch.cuda.stream(torch.cuda.Stream()):
        triton = testing.do_bench_cudagraph(run, rep=100, return_mode="median") / 1e3
    print(f"graph: {graph * 1e6:.3f} µs, do_bench_cudagraph: {triton * 1e6:.3f} µs")
    assert graph == pytest.approx(triton, rel=0.05)


def test_a_capture_that_fails_does_no_harm(torch: Any) -> None:
    x = torch.ones(1000, device="cuda")
    usual = torch.cuda.current_stream()
    with pytest.raises(BenchmarkError, match="cannot capture the calls"):
        measure(lambda: float(x.sum()), backend="torch", graph=True, max_time=0.5)
    assert torch.cuda.current_stream() == usual
    assert torch.rand(8, device="cuda").sum() > 0
    found = measure(torch.add, x, 1, graph=True, max_time=0.5)
    assert "CUDA graph" in found.timer


def test_the_size_of_the_cache_is_known(torch: Any) -> None:
    size = TorchDevice(torch).cache_bytes()
    assert size is not None
    assert 2**20 <= size < 2**30
