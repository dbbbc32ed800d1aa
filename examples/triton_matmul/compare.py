"""Hold a study's best configuration against Triton's own autotuner and against cuBLAS.

For each shape the study runs in a process of its own (unless ``--best`` says what it found), then
``triton.autotune`` measures every configuration that the spec allows, and then what both found and
``torch.matmul`` are timed by ``triton.testing.do_bench``, in turns. Both searches begin with
nothing compiled. Needs a GPU.
"""

# ruff: noqa: T201 - the table is the point

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from matmul import Config

HERE = Path(__file__).resolve().parent
#: Rows of a, columns of b, and what is summed over.
SHAPES = ("4096x4096x4096", "4095x4097x1025", "3000x5000x700")
ROUNDS = 5
#: Of each contestant in each round, in milliseconds.
WARMUP, REPEAT = 50, 200


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found, and how long it took; None where it did not run here."""

    config: Config
    seconds: float | None = None
    tried: int | None = None

    def cells(self) -> tuple[str, str, str]:
        """Return the last cells of a row."""
        seconds = "" if self.seconds is None else f"{self.seconds:.0f}"
        tried = "" if self.tried is None else str(self.tried)
        return seconds, tried, " ".join(f"{k}={v}" for k, v in asdict(self.config).items())


def main() -> int:
    """Compare, and print the table."""
    options = parse(sys.argv[1:])
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed")
        return 0
    import torch

    # Creates no CUDA context, which the study would find on its GPU.
    if torch.cuda.device_count() == 0:
        print("skipped: no CUDA device")
        return 0

    studies = {
        shape: from_study(shape, options.trials, options.best.get(shape)) for shape in options.shape
    }
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    rows: list[tuple[str, ...]] = [
        ("m x n x k", "", "ms", "TFLOP/s", "of cuBLAS", "search s", "tried", "configuration")
    ]
    for shape, found in studies.items():
        rows += compare(shape, found)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at in {0, 1, 7} else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    best = {shape: asdict(found.config) for shape, found in studies.items()}
    print(f"\n--best '{json.dumps(best)}'")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--shape", action="append", metavar="MxNxK", help="instead of the usual three; repeatable"
    )
    parser.add_argument("--trials", type=int, help="of each study, instead of the spec's")
    parser.add_argument(
        "--best", type=json.loads, default={}, metavar="JSON",
        help="run no study for these shapes; as printed at the end of a run",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.shape = options.shape or list(SHAPES)
    return options


def from_study(shape: str, trials: int | None, known: Mapping[str, Any] | None) -> Found:
    """Return what ``pytest --autotune`` finds best."""
    from matmul import Config

    if known is not None:
        return Found(config=Config(**known))
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pytest", "--autotune", "-q", "-o", f"cache_dir={folder}",
            *(["--autotune-trials", str(trials)] if trials else []), str(HERE / "test_matmul.py"),
        ]  # fmt: skip
        environment = {**os.environ, "MATMUL_SHAPE": shape, "TRITON_CACHE_DIR": f"{folder}/triton"}
        begin = time.perf_counter()
        # Not checked: a single configuration that does not compile makes the status 1.
        subprocess.run(command, cwd=HERE, env=environment, stdout=sys.stderr, check=False)  # noqa: S603
        seconds = time.perf_counter() - begin
        kept = Path(folder, "v", "autotune")
        try:
            (best,) = json.loads((kept / "incumbent").read_text("utf-8")).values()
            (slots,) = json.loads((kept / "slots").read_text("utf-8")).values()
            config = Config(**best["params"])
        except (OSError, TypeError, ValueError):
            sys.exit(f"the study of {shape} found nothing; its output says why")
    return Found(config=config, seconds=seconds, tried=len(slots))


def compare(shape: str, study: Found) -> list[tuple[str, ...]]:
    """Return rows of the table: the study's best, Triton's, and cuBLAS."""
    import torch
    from matmul import matmul
    from triton.testing import do_bench

    m, n, k = map(int, shape.split("x"))
    torch.manual_seed(0)
    a = torch.randn((m, k), device="cuda", dtype=torch.bfloat16)
    b = torch.randn((k, n), device="cuda", dtype=torch.bfloat16)
    # What is compiled is kept there, and so not found by the search in the next shape.
    with tempfile.TemporaryDirectory() as os.environ["TRITON_CACHE_DIR"]:
        searched = {"study": study, "triton.autotune": from_autotune(a, b)}
        calls: dict[str, Callable[[], torch.Tensor]] = {
            name: partial(matmul, a, b, found.config) for name, found in searched.items()
        }
        calls["cuBLAS"] = partial(torch.matmul, a, b)
        times: dict[str, list[float]] = {name: [] for name in calls}
        # In turns, so that a clock that sinks as the GPU warms up is no advantage to anyone.
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(do_bench(call, WARMUP, REPEAT, return_mode="median"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows: list[tuple[str, ...]] = []
    for name, milliseconds in medians.items():
        found = searched.get(name)
        search = ("", "", "") if found is None else found.cells()
        rate = 2 * m * n * k / milliseconds / 1e9
        ratio = medians["cuBLAS"] / milliseconds
        rows.append((shape, name, f"{milliseconds:.4f}", f"{rate:.0f}", f"{ratio:.0%}", *search))
    return rows


def from_autotune(a: torch.Tensor, b: torch.Tensor) -> Found:
    """Return what ``triton.autotune`` finds best of all that the spec allows."""
    import torch
    import triton
    from matmul import matmul_kernel, operands

    a, b, out = operands(a, b)
    (m, n), k = out.shape, len(b)
    choices = [(config, as_triton(config, k)) for config in configurations()]
    # A kernel of its own, as what matmul's compiled for a shape before is still in memory.
    kernel = triton.jit(matmul_kernel.fn)
    tuner = triton.autotune([theirs for _, theirs in choices], key=["m", "n", "k"])(kernel)

    def grid(meta: Mapping[str, int]) -> tuple[int]:
        return (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)

    begin = time.perf_counter()
    tuner[grid](a, b, out, m, n, k, b.shape[1], enable_fp_fusion=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    (best,) = (ours for ours, theirs in choices if theirs is tuner.best_config)
    return Found(config=best, seconds=seconds, tried=len(choices))


def configurations() -> list[Config]:
    """Return all that the spec allows."""
    from matmul import Config

    from pytest_autotune.spec.loading import load_file

    pool = load_file(HERE / "matmul.yaml", "matmul.yaml").space.pool
    assert pool is not None, "no parameter is continuous"
    return [Config(**pool.point(row)) for row in range(len(pool))]


def as_triton(config: Config, k: int) -> Any:
    """Return the same for ``triton.autotune``."""
    import triton

    constants = {
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "GROUP_M": config.group_m,
        "EVEN_K": k % config.block_k == 0,
    }
    return triton.Config(constants, num_warps=config.num_warps, num_stages=config.num_stages)


if __name__ == "__main__":
    sys.exit(main())
