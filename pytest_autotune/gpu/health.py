"""Whether the GPU still works for this process.

After an illegal address or a device-side assert, every later call of CUDA fails in the process
that caused it. Such an error comes with a call after the one that caused it, so it has to be
waited for while it is known whose it is.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from pytest_autotune.gpu import cuda
from pytest_autotune.gpu.cuda import CudaError
from pytest_autotune.text.durations import duration


class DeviceHealth:
    """The error that ended all use of the GPU in this process, once there is one.

    ``in_use`` is whether the GPU was in use when :meth:`look` was called last.
    """

    def __init__(self) -> None:
        self.error: CudaError | None = None
        self.in_use = False

    def look(self, patience: float | None = None) -> CudaError | None:
        """Wait for all work on the GPU, and return the error that broke it, if there is one.

        Work that goes on for longer than ``patience`` (seconds) counts as such an error. Where
        the GPU is not used, nothing happens.
        """
        if self.error is None:
            try:
                self.in_use = _wait() if patience is None else _wait_for(patience)
            except CudaError as error:
                self.error = error
        return self.error


def _wait_for(patience: float) -> bool:
    if not cuda.started():
        return False
    found: list[CudaError] = []

    def wait() -> None:
        try:
            _wait()
        except CudaError as error:
            found.append(error)

    # No signal interrupts a call of the driver, which waits for ever where a kernel never ends.
    thread = threading.Thread(target=wait, name="autotune-synchronize", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        raise CudaError("the GPU is busy", f"its work did not end within {duration(patience)}")
    if found:
        raise found[0]
    return True


def _wait() -> bool:
    """Wait, and return whether there is anything to wait for."""
    wait = cuda.waiter()
    if wait is not None:
        wait()
    # PyTorch knows errors of its own, and is there where no driver library is known.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return wait is not None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or ["torch.cuda.synchronize failed"]
        name, _, text = lines[0].partition(": ")
        raise CudaError(name, text) from error
    return True
