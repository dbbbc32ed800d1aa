"""Capturing CUDA graphs, so that a capture that fails leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pytest_autotune.gpu.cuda import CudaError

#: Earlier versions of PyTorch stay in the mode of a capture whose end failed: their allocator keeps
#: what is freed. https://github.com/pytorch/pytorch/pull/180395
_GIVES_BACK: Final = (2, 13)


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
    failed: BaseException | None = None
    try:
        with cuda.graph(graph):
            try:
                work()
            except BaseException as error:
                failed = error
                raise
    except BaseException as error:  # noqa: BLE001 - raised below
        # To end a capture that has failed is an error, too, and not the one to tell.
        failed = failed or error
    finally:
        # Where the capture cannot be ended, the block leaves its own stream the current one.
        cuda.set_stream(usual)
    if failed is not None:
        try:
            if not isinstance(failed, KeyboardInterrupt | SystemExit):
                _go_on(torch, failed)
            raise failed
        finally:
            # Its traceback holds this frame, and the frame the memory of the graph.
            del failed
    replay: Callable[[], None] = graph.replay
    return replay


def _go_on(torch: Any, failed: BaseException) -> None:
    """Bring PyTorch back out of a capture that failed; raise where that is not possible.

    Before PyTorch 2.13 its random numbers learn only from a capture that succeeds that it is over.
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
            f"the calls cannot be captured ({failed}), and since then PyTorch cannot "
            f"use the GPU in this process ({error}); only a new process can",
        ) from None


def left_by_torch(torch: Any) -> str:
    """Return what a capture that failed leaves behind in PyTorch, as the end of a sentence."""
    version = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if version is None or tuple(map(int, version.groups())) >= _GIVES_BACK:
        return ""
    return (
        f". After that PyTorch {torch.__version__} gives no memory back: where later trials lack "
        "some, run pytest again"
    )


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
            # As above: the error of ending it is not the one to tell.
            with suppress(RuntimeError):
                stream.end_capture()
            raise
        graph = stream.end_capture()

    def replay(kept: tuple[object, ...] = (pool, stream)) -> None:
        del kept
        graph.launch()

    return replay
