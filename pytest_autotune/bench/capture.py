"""Capturing CUDA graphs, so that a capture that fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pytest_autotune.gpu.cuda import CudaError


def torch_graph(torch: Any, work: Callable[[], None]) -> Callable[[], None]:
    """Return a function that replays what ``work`` launches by PyTorch or Triton.

    Raises :class:`CudaError` where a capture failed and PyTorch cannot go on after it.
    """
    cuda = torch.cuda
    # Whatever is set up on a first call must not be part of the graph.
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        work()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    usual = cuda.current_stream()
    try:
        with cuda.graph(graph):
            work()
    except Exception as error:
        # Where the capture cannot be ended, the block leaves its own stream the current one.
        cuda.set_stream(usual)
        _go_on(torch, error)
        raise
    replay: Callable[[], None] = graph.replay
    return replay


def _go_on(torch: Any, failed: Exception) -> None:
    """Bring PyTorch back out of a capture that failed; raise where that is not possible.

    Its random numbers are told that a capture is over by one that succeeds, before PyTorch 2.13.
    """
    cuda = torch.cuda
    try:
        cuda.synchronize()
        some = torch.zeros(1, device="cuda")
        with cuda.graph(cuda.CUDAGraph()):
            some.zero_()
        torch.rand(1, device="cuda")
        cuda.synchronize()
    except RuntimeError as error:
        raise CudaError(
            "graph=True",
            f"the calls cannot be captured ({first_error(failed)}), and since then PyTorch cannot "
            f"use the GPU in this process ({error}); only a new process can",
        ) from None


def cupy_graph(cupy: Any, work: Callable[[], None]) -> Callable[[], None]:
    """Return a function that replays what ``work`` launches by CuPy."""
    cuda = cupy.cuda
    stream = cuda.Stream(non_blocking=True)
    # What the graph writes to must not be given to others, so it comes from a pool that lives as
    # long as the graph.
    pool = cuda.MemoryPool()
    cuda.runtime.deviceSynchronize()
    with cuda.using_allocator(pool.malloc), stream:
        work()
        stream.synchronize()
        stream.begin_capture()
        try:
            work()
        except BaseException:
            # To end a capture that has failed is an error, and not the one to tell.
            with suppress(RuntimeError):
                stream.end_capture()
            raise
        graph = stream.end_capture()

    def replay(kept: tuple[object, ...] = (pool, stream)) -> None:
        del kept
        graph.launch()

    return replay


def first_error(error: BaseException) -> BaseException:
    """Return the error that came first: ending a capture that has failed raises another."""
    while error.__context__ is not None:
        error = error.__context__
    return error
