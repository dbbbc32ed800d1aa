"""The matrix product of ``matmul.c``, compiled for one configuration and called by ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float32]

SOURCE = Path(__file__).with_name("matmul.c")
#: The C compiler, which may come with arguments: ``CC="ccache gcc"``.
COMPILER = shlex.split(os.environ.get("CC") or "cc")
#: Compilers for ARM take the processor by this name, and some of them by no other.
NATIVE = "-mcpu=native" if platform.machine() in {"aarch64", "arm64"} else "-march=native"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to compile the product: everything that may be tuned.

    A tile of ``a`` is ``tile_m`` by ``tile_k`` numbers and one of ``b`` is ``tile_k`` by
    ``tile_n``; they are to stay in the caches. A block is ``rows`` by ``columns`` of the
    product; its sums are to stay in registers.

    ``optimize`` is the compiler's level. ``native`` lets it use all that this processor can do,
    not just what every processor of its kind can; ``fast_math`` lets it reorder sums; with
    ``simd`` it is told which loop to turn into vectors.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    rows: int
    columns: int
    optimize: Literal["-O2", "-O3"] = "-O3"
    native: bool = False
    fast_math: bool = False
    simd: bool = True

    @property
    def flags(self) -> list[str]:
        """What to tell the compiler."""
        sizes = ("tile_m", "tile_n", "tile_k", "rows", "columns")
        switches = {
            NATIVE: self.native,
            "-ffast-math": self.fast_math,
            "-fopenmp-simd": self.simd,
        }
        return [
            self.optimize,
            *(flag for flag, on in switches.items() if on),
            *(f"-D{name.upper()}={getattr(self, name)}" for name in sizes),
        ]


class Kernel:
    """A compiled product. Call it with two matrices, and with a third for the result."""

    def __init__(self, config: Config, folder: Path) -> None:
        compiled, library = folder / "matmul.o", folder / "matmul.so"
        # What the compiler has to say goes where the test's output goes.
        _compile("-std=c11", "-fPIC", *config.flags, "-c", SOURCE, "-o", compiled)
        # A step of its own, without flags: told of -ffast-math, some compilers link in what
        # switches off very small numbers for the whole process, and that is NumPy's, too.
        _compile("-shared", compiled, "-o", library)
        self._matmul = ctypes.CDLL(str(library)).matmul
        matrix = np.ctypeslib.ndpointer(dtype=np.float32, ndim=2, flags="C_CONTIGUOUS")
        self._matmul.argtypes = [matrix] * 3 + [ctypes.c_long] * 3
        self._matmul.restype = None

    def __call__(self, a: Matrix, b: Matrix, out: Matrix) -> Matrix:
        """Write ``a @ b`` to ``out``, and return that."""
        (m, k), n = a.shape, b.shape[1]
        if b.shape != (k, n) or out.shape != (m, n):
            msg = f"cannot multiply {a.shape} by {b.shape} into {out.shape}"
            raise ValueError(msg)
        self._matmul(a, b, out, m, n, k)
        return out


def _compile(*arguments: str | Path) -> None:
    subprocess.run([*COMPILER, *arguments], check=True)  # noqa: S603 - the user's own compiler
