"""The matrix product in C of the example for CPUs."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_autotune import assert_matches

pytest.importorskip("numpy")
import numpy as np

SOURCE = Path(__file__).parents[2] / "examples" / "cpu_kernel" / "compiled.py"
CONFIGS: dict[str, dict[str, Any]] = {
    "scalar": {"tile_m": 1, "tile_n": 1, "tile_k": 1, "rows": 1, "columns": 1, "simd": False},
    "tall": {"tile_m": 24, "tile_n": 16, "tile_k": 7, "rows": 12, "columns": 8},
    "wide": {"tile_m": 4, "tile_n": 96, "tile_k": 64, "rows": 1, "columns": 48, "native": True},
    "plain": {"tile_m": 32, "tile_n": 64, "tile_k": 32, "rows": 4, "columns": 16, "simd": False},
    "fast": {"tile_m": 32, "tile_n": 64, "tile_k": 32, "rows": 8, "columns": 32}
    | {"optimize": "-O2", "native": True, "fast_math": True},
}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Any]:
    """The example's module; it is no package, so it is loaded from its file."""
    spec = importlib.util.spec_from_file_location("cpu_kernel_compiled", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if shutil.which(module.COMPILER[0]) is None:
        pytest.skip("needs a C compiler")
    yield module
    del sys.modules[spec.name]


def build(compiled: Any, name: str, folder: Path) -> Any:
    return compiled.Kernel(compiled.Config(**CONFIGS[name]), folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_product_is_right_whatever_the_sizes(compiled: Any, name: str, tmp_path: Path) -> None:
    kernel = build(compiled, name, tmp_path)

    def inputs(rng: np.random.Generator) -> tuple[Any, Any]:
        m, n, k = rng.integers(1, 130, 3)
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        return a.astype(np.float32), b.astype(np.float32)

    def product(a: Any, b: Any) -> Any:
        return kernel(a, b, np.full((len(a), b.shape[1]), np.nan, dtype=np.float32))

    assert_matches(product, np.matmul, inputs, rounds=20)


def test_edges(compiled: Any, tmp_path: Path) -> None:
    kernel = build(compiled, "plain", tmp_path)
    ones = np.ones((40, 70), dtype=np.float32)
    out = np.full((40, 40), np.nan, dtype=np.float32)
    transposed = np.ascontiguousarray(ones.T)
    assert not kernel(ones[:, :0].copy(), transposed[:0], out).any()  # sums of nothing

    ones[3, 69] = np.nan
    assert np.argwhere(np.isnan(kernel(ones, transposed, out)).all(axis=1)).tolist() == [[3]]

    with pytest.raises(ValueError, match=r"cannot multiply \(40, 70\) by \(40, 70\)"):
        kernel(ones, ones, out)


def test_small_numbers_stay_what_they_are(compiled: Any, tmp_path: Path) -> None:
    build(compiled, "fast", tmp_path)
    # -ffast-math in the step that links would switch these off for the whole process.
    assert np.float32(1e-38) * np.float32(0.1) > 0
