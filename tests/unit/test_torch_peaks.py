"""The peaks of a GPU: of the type that a call multiplies, at the clocks that last."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import MagicMock, call

import pytest

from pytest_autotune.bench import measure as measure_module
from pytest_autotune.bench import peaks
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.peaks import Peaks, measured_peaks
from pytest_autotune.errors import BenchmarkError

TORCH: Final[Any] = SimpleNamespace(name="torch")
FLOP: Final = 2 * 8192**3


class Timer:
    """Stands for DeviceTimer: a matrix product is slower the longer the device has been busy."""

    busy = 0.0

    def __init__(self, work: Any, device: object, *, cold_cache: bool) -> None:
        assert not cold_cache
        self._run = work.bound(1)

    def batch(self, count: int) -> list[float]:
        self._run()
        taken = 1e-3 if Timer.busy < 0.5 else 2e-3
        Timer.busy += count * taken
        return [taken] * count


class Matmul:
    """PyTorch's settings of matrix products; ``seen`` is what held in products."""

    def __init__(self) -> None:
        self.fp32_precision = "none"
        self.seen: list[str] = []


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[MagicMock]:
    found = MagicMock()
    found.version.hip = None
    found.cuda.get_device_capability.return_value = (9, 0)
    found.cuda.current_device.return_value = 0
    found.backends.cuda.matmul = settings = Matmul()
    found.matmul.side_effect = lambda *_: settings.seen.append(settings.fp32_precision)
    monkeypatch.setitem(sys.modules, "torch", found)
    monkeypatch.setattr(peaks, "DeviceTimer", Timer)
    monkeypatch.setattr(Timer, "busy", 0.0)
    peaks._torch_peaks.cache_clear()
    yield found
    peaks._torch_peaks.cache_clear()


def tensor(kind: str, size: int, *, floating: bool = True) -> Any:
    class DType:
        is_floating_point = floating

        def __str__(self) -> str:
            return f"torch.{kind}"

    attributes = {
        "__module__": "torch",
        "is_cuda": True,
        "dtype": DType(),
        "element_size": lambda self: size,
    }
    return type("Tensor", (), attributes)()


HALF: Final = tensor("float16", 2)
BRAIN: Final = tensor("bfloat16", 2)
SINGLE: Final = tensor("float32", 4)
EIGHT: Final = tensor("float8_e4m3fn", 1)
SCALES: Final = tensor("float8_e8m0fnu", 1)
INDICES: Final = tensor("int32", 4, floating=False)
PACKED: Final = tensor("uint8", 1, floating=False)


def products(torch: MagicMock) -> list[str]:
    """Return the types of the matrices that were multiplied."""
    names = {id(getattr(torch, name)): name for name in (*peaks._TYPES, "uint8")}
    return [names[id(made.args[0])] for made in torch.randn.return_value.to.mock_calls if made.args]


def test_the_peak_is_what_lasts_and_not_the_first_burst(torch: MagicMock) -> None:
    found = measured_peaks(TORCH, [BRAIN])
    assert found.flop_rate == FLOP / 2e-3
    assert found.bandwidth == 2 * 2**30 / 2e-3


def test_the_peaks_of_each_device_and_type_are_measured_once(torch: MagicMock) -> None:
    made = []
    for index, argument in ((0, BRAIN), (0, BRAIN), (1, BRAIN), (0, HALF), (1, BRAIN)):
        torch.cuda.current_device.return_value = index
        measured_peaks(TORCH, [argument])
        made.append(torch.cuda.empty_cache.call_count)
    # Its memory is given back each time.
    assert made == [1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ([], "bfloat16"),
        ([3, "text"], "bfloat16"),
        ([HALF, SINGLE], "float16"),
        ([SINGLE, INDICES, [{"weights": HALF}]], "float16"),
        # Weights of four bits are multiplied as what they are unpacked to.
        ([BRAIN, PACKED], "bfloat16"),
        ([tensor("float64", 8)], "float64"),
    ],
)
def test_the_product_is_of_the_narrowest_floating_point_type(
    arguments: list[object], kind: str, torch: MagicMock
) -> None:
    found = measured_peaks(TORCH, arguments)
    assert products(torch) == [kind, kind]
    assert found.remark == (
        "peaks were measured: 1074 GB/s by a copy, 549.8 TFLOP/s by a product of 8192×8192 "
        f"matrices of {kind}"
    )
    assert torch.backends.cuda.matmul.fp32_precision == "none"
    assert set(torch.backends.cuda.matmul.seen) == {"none"}


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("float8_e4m3fn", "float8_e4m3fn"),
        ("float8_e5m2", "float8_e4m3fn"),
        ("float8_e4m3fnuz", "float8_e4m3fnuz"),
        ("float8_e5m2fnuz", "float8_e4m3fnuz"),
    ],
)
def test_small_types_are_multiplied_as_pytorch_multiplies_them(
    kind: str, other: str, torch: MagicMock
) -> None:
    found = measured_peaks(TORCH, [SCALES, tensor(kind, 1), SINGLE])
    assert sorted(products(torch)) == sorted([kind, other])
    torch.matmul.assert_not_called()
    assert torch._scaled_mm.call_args.kwargs["use_fast_accum"] is True
    assert found.flop_rate == FLOP / 2e-3
    assert found.remark.endswith(f"matrices of {kind}")


def test_single_precision_is_multiplied_by_tf32_and_the_setting_is_left_as_it_was(
    torch: MagicMock,
) -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    found = measured_peaks(TORCH, [SINGLE])
    assert set(torch.backends.cuda.matmul.seen) == {"tf32"}
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert found.remark.endswith("matrices of float32 by TF32")


def test_an_older_pytorch_has_another_name_for_the_setting(torch: MagicMock) -> None:
    torch.backends.cuda.matmul = settings = SimpleNamespace(allow_tf32=False)
    seen: list[bool] = []
    torch.matmul.side_effect = lambda *_: seen.append(settings.allow_tf32)
    measured_peaks(TORCH, [SINGLE])
    assert set(seen) == {True}
    assert settings == SimpleNamespace(allow_tf32=False)


@pytest.mark.parametrize(("given", "kind"), [(BRAIN, "float16"), (SINGLE, "float32")])
def test_older_devices_have_neither_bfloat16_nor_tf32(
    given: object, kind: str, torch: MagicMock
) -> None:
    torch.cuda.get_device_capability.return_value = (7, 5)
    found = measured_peaks(TORCH, [given])
    assert products(torch) == [kind, kind]
    assert set(torch.backends.cuda.matmul.seen) == {"none"}
    assert found.remark.endswith(f"matrices of {kind}")


@pytest.mark.parametrize(("given", "kind"), [(BRAIN, "bfloat16"), (SINGLE, "float32")])
def test_rocm_has_bfloat16_and_no_tf32(given: object, kind: str, torch: MagicMock) -> None:
    torch.version.hip = "7.0"
    # Of AMD's numbers nothing follows.
    torch.cuda.get_device_capability.return_value = (6, 0)
    assert measured_peaks(TORCH, [given]).remark.endswith(f"matrices of {kind}")
    assert set(torch.backends.cuda.matmul.seen) == {"none"}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ([tensor("complex64", 8, floating=False)], "complex64"),
        ([INDICES, PACKED], "uint8"),
        ([tensor("float4_e2m1fn_x2", 1), SCALES, SINGLE], "float4_e2m1fn_x2"),
    ],
)
def test_of_other_types_only_the_copy_is_measured(
    arguments: list[object], kind: str, torch: MagicMock
) -> None:
    found = measured_peaks(TORCH, arguments)
    assert found.flop_rate is None
    assert found.bandwidth is not None
    assert found.remark == (
        f"peaks were measured: 1074 GB/s by a copy; that of products of {kind} must be stated"
    )


def test_a_type_that_the_device_does_not_multiply_is_one_message(torch: MagicMock) -> None:
    torch._scaled_mm.side_effect = RuntimeError("only supported on compute capability >= 8.9")
    with pytest.raises(BenchmarkError) as raised:
        measured_peaks(TORCH, [EIGHT])
    assert str(raised.value) == (
        "peak='measured': PyTorch multiplied no matrices of float8_e4m3fn here (only supported on "
        "compute capability >= 8.9); state the peak"
    )


def test_a_measurement_says_what_its_peaks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def measured(device: object, arguments: Any) -> Peaks:
        asked.extend(arguments)
        return Peaks(flop_rate=1e12, remark="peaks were measured: somehow")

    monkeypatch.setattr(measure_module, "measured_peaks", measured)
    quick: dict[str, Any] = {"peak": "measured", "max_time": 0.02, "warmup_time": 0.0}
    found = measure(lambda *_: None, inputs=[(1, 2), (3, 4)], flop=1.0, **quick)
    assert asked == [1, 2, 3, 4]
    assert "e2e_latency: peaks were measured: somehow" in found.notes
    # Nobody asks for a share.
    assert not any("somehow" in note for note in measure(lambda: None, **quick).notes)


def test_the_peak_of_the_host_is_not_that_of_a_gpu_which_the_host_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jax: Any = SimpleNamespace(block_until_ready=lambda values: values)
    monkeypatch.setitem(sys.modules, "jax", jax)
    gpu: Any = MagicMock(platform="gpu")
    gpu.memory_stats.return_value = None
    kind = {"__module__": "jaxlib._jax", "dtype": "f4", "devices": lambda self: {gpu}}
    array = type("ArrayImpl", (), kind)()
    with pytest.raises(BenchmarkError, match=r"needs PyTorch or the host: .*; state the peak"):
        measure(lambda: array, flop=1.0, peak="measured")


def test_nothing_is_asked_of_a_tensor_of_others() -> None:
    assert peaks._narrowest([call(), MagicMock(is_cuda=True)]) == "bfloat16"
