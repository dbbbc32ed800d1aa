"""A fake library of the CUDA driver, and a module that launches work by it.

A library stays loaded for the life of a process, so nothing here loads it into this one.
``tests/fake_cuda.c`` says what it does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from compiled import need_compiled

ILLEGAL_ADDRESS: Final = 700
ASSERT: Final = 710

_FRAMEWORK: Final = """
import ctypes

driver = ctypes.CDLL({library!r})


def check(status):
    if status:
        raise RuntimeError(f"CUDA error {{status}}")


def start(device=0):
    "As frameworks do it: the primary context of a device becomes the current one."
    context = ctypes.c_void_p()
    check(driver.cuInit(0))
    check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    check(driver.cuCtxSetCurrent(context))


def launch(milliseconds=0, error=0):
    "Return before the work is done, as a launch does, and before it fails."
    check(driver.fakeLaunch(milliseconds, error))


def allocate():
    "Fail where the context is broken."
    check(driver.cuMemAlloc_v2(ctypes.byref(ctypes.c_ulonglong()), 8))
"""


def need_cuda(factory: pytest.TempPathFactory) -> Path:
    """Return the library, compiled once per session; without a compiler, skip the test."""
    return need_compiled(factory, "fake_cuda.c", "libcuda.so.1")


def framework(library: Path) -> str:
    """Return the source of a module with ``start``, ``launch`` and ``allocate``."""
    return _FRAMEWORK.format(library=str(library))


def in_child(library: Path, code: str, *, prelude: str = "") -> str:
    """Return what ``code`` prints in a fresh process, in which the library is loaded.

    ``prelude`` comes before loading it.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}\n{framework(library)}\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
