"""The child processes of ``benchmarks/gate.py``.

``python -I -S gate_launch.py ours LIBRARY FOLDER`` is one launch: a fresh process, isolated and
without ``site`` as that is quick, that times the kernel once; FOLDER is where ``pytest_autotune``
lies. ``gate_launch.py asv LIBRARY`` is one of asv's processes, with its real runner and defaults.
Both print JSON. ``gate_launch.py busy SEED`` loads one core in bursts until its parent is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import time
from importlib import import_module

MAX_TIME = 0.06
WARMUP_TIME = 0.01
#: How long a burst, and the rest after it, may last (seconds).
BURST, REST = (0.2, 2.0), (0.2, 3.0)


def ours(library: str, folder: str) -> dict[str, object]:
    """Measure as the fixture does, only for less time."""
    sys.path.append(folder)
    measure = import_module("pytest_autotune.bench.measure").measure
    kernel = ctypes.CDLL(library).kernel
    began = time.perf_counter()
    found = measure(kernel, max_time=MAX_TIME, warmup_time=WARMUP_TIME)
    seconds = time.perf_counter() - began
    return {"p50": found.median, "samples": found.samples, "seconds": seconds}


def asv(library: str) -> dict[str, object]:
    """Take the samples of one process of asv."""
    benchmark = import_module("asv_runner.benchmarks.time").TimeBenchmark
    found: dict[str, object] = benchmark("time_kernel", ctypes.CDLL(library).kernel, []).run()
    return found


def busy(seed: int) -> None:
    """Copy memory in bursts of random length, on the first core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    generator = random.Random(seed)
    parent, block = os.getppid(), bytearray(1 << 25)
    while os.getppid() == parent:
        end = time.monotonic() + generator.uniform(*BURST)
        while time.monotonic() < end:
            block = block.copy()
        time.sleep(generator.uniform(*REST))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", library, folder]:
            print(json.dumps(ours(library, folder)))
        case ["asv", library]:
            print(json.dumps(asv(library)))
        case ["busy", seed]:
            busy(int(seed))
        case _:
            sys.exit(__doc__)
