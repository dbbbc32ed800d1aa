"""Where calls are timed is told by what they take and return, and nothing is imported for it."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from pytest_autotune.bench.frameworks import (
    FRAMEWORKS,
    CupyDevice,
    NumbaDevice,
    TorchDevice,
    device_for,
    device_in_use,
    wait_for,
    wait_for_devices,
)
from pytest_autotune.bench.graph import GraphTimer
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.gpu import cuda
from pytest_autotune.gpu.cuda import CudaError

NAMES: Final = ("torch", "cupy", "numba", "numba.cuda", "jax")


def of_module(module: str, **attributes: object) -> Any:
    """Return an object whose class says that it comes from ``module``."""
    return type("Array", (), {"__module__": module, **attributes})()


CUDA_TENSOR: Final = of_module("torch", is_cuda=True)
CPU_TENSOR: Final = of_module("torch", is_cuda=False)
PARAMETER: Final = of_module("torch.nn.parameter", is_cuda=True)
CUPY_ARRAY: Final = of_module("cupy", device=0, dtype="f4")
OLD_CUPY_ARRAY: Final = of_module("cupy._core.core", device=0, dtype="f4")
NUMBA_ARRAY: Final = of_module("numba.cuda.cudadrv.devicearray", copy_to_host=None)
NEW_NUMBA_ARRAY: Final = of_module("numba_cuda.numba.cuda.cudadrv.devicearray", copy_to_host=None)
JAX_ARRAY: Final = of_module("jaxlib._jax", dtype="f4")
NUMPY_ARRAY: Final = np.zeros(3)
L2_OF_CUPY: Final = {"L2CacheSize": 3}
L2_OF_NUMBA: Final = SimpleNamespace(L2_CACHE_SIZE=4)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No framework is imported, whatever other tests did."""
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)


Install = Callable[..., ModuleType]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a fake framework among the imported modules."""

    def put(name: str, *, available: bool = True, used: bool = False) -> ModuleType:
        module: Any = ModuleType(name)
        functions = SimpleNamespace(
            is_available=lambda: available,
            is_initialized=lambda: used,
            current_device=lambda: 0,
            Device=MagicMock(return_value=SimpleNamespace(id=0)),
            synchronize=MagicMock(),
            empty_cache=MagicMock(),
        )
        match name:
            case "numba.cuda":
                module.is_available = functions.is_available
            case "jax":
                module.block_until_ready = MagicMock()
            case _:
                module.cuda = functions

        def pool() -> Any:
            if not available:
                # As CuPy does without a driver.
                raise RuntimeError("cudaErrorInsufficientDriver")
            return SimpleNamespace(
                total_bytes=lambda: 512 if used else 0, free_all_blocks=MagicMock()
            )

        module.get_default_memory_pool = pool
        if used:
            monkeypatch.setattr(cuda, "started", lambda: True)
        monkeypatch.setitem(sys.modules, name, module)
        found: ModuleType = module
        return found

    return put


def found(values: Iterable[object], backend: Any = "auto") -> str:
    device = device_for(backend, values)
    return "host" if device is None else device.name


# Arrays among arguments and results


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (CUDA_TENSOR, "torch"),
        (PARAMETER, "torch"),
        (CPU_TENSOR, "host"),
        (CUPY_ARRAY, "cupy"),
        (OLD_CUPY_ARRAY, "cupy"),
        (NUMBA_ARRAY, "numba"),
        (NEW_NUMBA_ARRAY, "numba"),
        (JAX_ARRAY, "host"),
        (NUMPY_ARRAY, "host"),
        (np.float32(1), "host"),
    ],
)
@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(lambda value: [value], id="plain"),
        pytest.param(lambda value: [3, "text", None, value, 2.5], id="among others"),
        pytest.param(lambda value: [[value]], id="list"),
        pytest.param(lambda value: ([1, (2, {"a": [value]})],), id="deep"),
        pytest.param(lambda value: [{"x": 1, "y": {"z": (value,)}}], id="dictionaries"),
    ],
)
def test_an_array_tells_where_it_lives(
    value: object, name: str, wrapped: Callable[[object], list[object]], install: Install
) -> None:
    for module in ("torch", "cupy", "numba.cuda"):
        install(module, used=True)
    assert found(wrapped(value)) == name


@pytest.mark.parametrize("others", [[NUMPY_ARRAY], [CPU_TENSOR], [np.int64(3), CPU_TENSOR]])
def test_one_array_on_a_device_outweighs_those_on_the_host(
    others: list[object], install: Install
) -> None:
    install("torch")
    assert found([*others, CUDA_TENSOR]) == "torch"
    assert found([CUDA_TENSOR, *others]) == "torch"


@pytest.mark.parametrize("value", [CPU_TENSOR, NUMPY_ARRAY, JAX_ARRAY, [{"a": CPU_TENSOR}]])
def test_arrays_on_the_host_mean_the_host_even_where_a_device_is_in_use(
    value: object, install: Install
) -> None:
    install("torch", used=True)
    install("cupy", used=True)
    install("numba.cuda")
    assert found([value]) == "host"


@pytest.mark.parametrize(
    "value",
    [
        of_module("torch"),
        of_module("cupy"),
        of_module("numba.core"),
        of_module("numpy"),
        of_module("torchvision", is_cuda=True),
        of_module("mine", is_cuda=True, copy_to_host=None, device=0, dtype="f4"),
    ],
)
def test_what_is_no_array_tells_nothing(value: object, install: Install) -> None:
    assert found([value]) == "host"
    install("torch", used=True)
    assert found([value]) == "torch"


# Arrays on other devices


def tensor(index: int) -> Any:
    return of_module("torch", is_cuda=True, device=SimpleNamespace(type="cuda", index=index))


def cupy_array(index: int) -> Any:
    return of_module("cupy", dtype="f4", device=SimpleNamespace(id=index))


def make_current(module: Any, index: int) -> None:
    module.cuda.current_device = lambda: index
    module.cuda.Device = lambda: SimpleNamespace(id=index)


@pytest.mark.parametrize("name", ["torch", "cupy"])
@pytest.mark.parametrize(
    ("current", "indices", "listed"),
    [(0, [1], "1"), (1, [0], "0"), (0, [0, 1], "0, 1"), (1, [2, 1, 0], "0, 1, 2")],
)
def test_arrays_on_another_device_or_on_several_are_refused(
    name: str, current: int, indices: list[int], listed: str, install: Install
) -> None:
    make_current(install(name), current)
    arrays = [tensor(index) if name == "torch" else cupy_array(index) for index in indices]
    for values in (arrays, [arrays], [NUMPY_ARRAY, {"a": arrays}]):
        with pytest.raises(BenchmarkError) as raised:
            found(values)
        assert str(raised.value) == (
            f"the arrays are on device {listed} of {name}, and the current one is {current}: "
            "make theirs the current one, or where they are several, time by backend='host'"
        )
    assert found(arrays, "host") == "host"


@pytest.mark.parametrize(("name", "array"), [("torch", tensor), ("cupy", cupy_array)])
@pytest.mark.parametrize("index", [0, 3])
def test_arrays_on_the_current_device_are_timed_there(
    name: str, array: Callable[[int], Any], index: int, install: Install
) -> None:
    make_current(install(name), index)
    assert found([array(index), NUMPY_ARRAY, array(index)]) == name


def test_a_measurement_refuses_tensors_on_another_device(install: Install) -> None:
    install("torch", used=True)
    with pytest.raises(BenchmarkError, match="on device 1 of torch, and the current one is 0"):
        measure(lambda: tensor(1))


# No arrays


@pytest.mark.parametrize("values", [[], [3, "text", None], [[], {}, ()]])
def test_without_arrays_it_is_who_has_a_device_in_use(
    values: list[object], install: Install
) -> None:
    assert found(values) == "host"
    install("torch", used=False)
    install("cupy", used=False)
    assert device_in_use() is None
    assert found(values) == "host"
    install("cupy", used=True)
    assert found(values) == "cupy"
    device = device_in_use()
    assert device is not None
    assert device.name == "cupy"
    install("torch", used=True)
    assert found(values) == "torch"


def test_numba_is_in_use_where_it_is_imported_and_has_a_device(install: Install) -> None:
    install("numba.cuda", available=False, used=True)
    assert found([]) == "host"
    install("numba.cuda", used=True)
    assert found([]) == "numba"


@pytest.mark.parametrize("name", ["cupy", "numba.cuda"])
def test_a_framework_is_not_asked_for_devices_before_cuda_has_started(
    name: str, install: Install
) -> None:
    module: Any = install(name)
    target = module if name == "numba.cuda" else module.cuda
    # Both call cuInit to answer.
    target.is_available = MagicMock(return_value=True)
    assert found([]) == "host"
    assert device_in_use() is None
    target.is_available.assert_not_called()


def test_a_framework_without_a_device_is_not_in_use(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "started", lambda: True)
    install("torch", available=False)
    install("cupy", available=False)
    install("numba.cuda", available=False)
    assert found([]) == "host"
    assert found([NUMPY_ARRAY]) == "host"


# Explicit backends


@pytest.mark.parametrize(
    ("name", "place"),
    [("torch", "torch"), ("cupy", "cupy"), ("numba", "numba"), ("jax", "host"), ("host", "host")],
)
def test_a_backend_can_be_named_whatever_the_arrays_say(
    name: str, place: str, install: Install
) -> None:
    install("torch", used=True)
    install("numba.cuda" if name == "numba" else name)
    for values in ([], [NUMPY_ARRAY], [CPU_TENSOR], [JAX_ARRAY]):
        assert found(values, name) == place
    if place == "host":
        assert found([CUDA_TENSOR], name) == "host"


@pytest.mark.parametrize("name", ["Torch", "cuda", "", "triton", None])
def test_an_unknown_backend_is_refused_with_those_that_are_known(name: Any) -> None:
    with pytest.raises(BenchmarkError, match="unknown backend") as raised:
        found([], name)
    assert repr(name) in str(raised.value)
    assert all(known in str(raised.value) for known in FRAMEWORKS)


@pytest.mark.parametrize(
    ("name", "module"),
    [("torch", "torch"), ("cupy", "cupy"), ("numba", "numba.cuda"), ("jax", "jax")],
)
def test_a_backend_that_is_not_imported_is_refused(name: str, module: str) -> None:
    with pytest.raises(BenchmarkError, match=f"backend '{name}': {module} is not imported"):
        found([], name)


@pytest.mark.parametrize(
    ("name", "module"), [("torch", "torch"), ("cupy", "cupy"), ("numba", "numba.cuda")]
)
def test_a_backend_without_a_device_is_refused(name: str, module: str, install: Install) -> None:
    install(module, available=False)
    with pytest.raises(BenchmarkError, match=f"backend '{name}': {module} finds no device"):
        found([], name)


# What is not imported stays so


class Finder:
    """Notes what somebody tries to import."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in NAMES:
            self.asked.append(name)
        return None


def test_nothing_is_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder()
    measure(lambda: NUMPY_ARRAY, max_time=0.01, warmup_time=0.0)  # what this itself imports
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    before = set(sys.modules)
    for values in ([], [NUMPY_ARRAY], [CPU_TENSOR], [3]):
        assert device_for("auto", values) is None
    assert wait_for(lambda: None) is None
    for name in ("torch", "cupy", "numba", "jax"):
        try:
            found([], name)
        except BenchmarkError:
            continue
    measure(lambda: NUMPY_ARRAY, max_time=0.01, warmup_time=0.0)
    assert not finder.asked
    assert set(sys.modules) == before


# Asynchronous results


def test_jax_waits_for_what_the_last_call_returned(install: Install) -> None:
    jax: Any = install("jax")
    results = iter([JAX_ARRAY, [JAX_ARRAY]])
    wait = wait_for(lambda: next(results))
    assert wait is not None
    wait()
    wait()
    assert jax.block_until_ready.mock_calls == [call(JAX_ARRAY), call([JAX_ARRAY])]


def test_a_measurement_waits_for_jax_once_a_sample(install: Install) -> None:
    jax: Any = install("jax")
    calls = 0

    def kernel() -> int:
        nonlocal calls
        calls += 1
        return calls

    measured = measure(kernel, max_time=0.02, warmup_time=0.0, cold_cache=True)
    # All but the call whose memory is traced.
    assert jax.block_until_ready.call_count in {calls, calls - 1}
    assert measured.calls_per_sample == 1
    # Results are numbered: what is waited for is always the newest.
    waited = [entry.args[0] for entry in jax.block_until_ready.mock_calls]
    assert waited == sorted(waited)
    assert waited[-1] == calls


def test_the_host_waits_for_each_device_that_holds_arrays_once(install: Install) -> None:
    torch: Any = install("torch")
    cupy: Any = install("cupy")
    wait = wait_for_devices([tensor(1), [tensor(0), tensor(1)], NUMPY_ARRAY, cupy_array(2)])
    assert wait is not None
    assert not torch.cuda.synchronize.called
    device = cupy.cuda.Device.return_value = MagicMock()
    for times in (1, 2):
        wait()
        assert sorted(entry.args for entry in torch.cuda.synchronize.mock_calls) == sorted(
            [(0,), (1,)] * times
        )
        assert cupy.cuda.Device.mock_calls.count(call(2)) == times
        assert device.__enter__.return_value.synchronize.call_count == times


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_a_measurement_waits_for_pytorch_s_other_devices(kind: str, install: Install) -> None:
    torch: Any = install("torch")
    setattr(torch, kind, SimpleNamespace(synchronize=MagicMock()))
    value = of_module("torch", is_cuda=False, device=SimpleNamespace(type=kind, index=0))
    waits: list[int] = []

    def kernel(*tensors: object) -> None:
        waits.append(getattr(torch, kind).synchronize.call_count)

    found = measure(kernel, [CPU_TENSOR, value], max_time=0.02, warmup_time=0.0, cold_cache=True)
    assert "host" in found.timer
    # Once before each call that was timed.
    assert waits == list(range(len(waits)))
    assert found.peak_memory is None


def test_tensors_that_cannot_be_waited_for_are_refused(install: Install) -> None:
    install("torch")
    value = of_module("torch", is_cuda=False, device=SimpleNamespace(type="xla", index=0))
    with pytest.raises(BenchmarkError, match="on PyTorch's device 'xla', which cannot be waited"):
        measure(lambda: value)
    meta = of_module("torch", is_cuda=False, device=SimpleNamespace(type="meta", index=None))
    assert wait_for_devices([meta]) is None


@pytest.mark.parametrize("values", [[], [NUMPY_ARRAY, CPU_TENSOR, 3], [JAX_ARRAY]])
def test_where_no_device_holds_arrays_the_host_waits_for_none(
    values: list[object], install: Install
) -> None:
    install("torch", used=True)
    assert wait_for_devices(values) is None


def test_arrays_on_several_devices_can_be_timed_by_the_host_which_waits_for_them(
    install: Install,
) -> None:
    torch: Any = install("torch", used=True)
    calls: list[int] = []

    def kernel(*tensors: object) -> None:
        calls.append(torch.cuda.synchronize.call_count)

    measured = measure(
        kernel, tensor(0), tensor(1),
        backend="host", max_time=0.02, warmup_time=0.0, cold_cache=True,
    )  # fmt: skip
    assert "host" in measured.timer
    # Both before each call; Python's memory is not looked at where arrays are on devices.
    waits = [after - before for before, after in itertools.pairwise(calls)]
    assert len(calls) > 3
    assert waits == [2] * (len(calls) - 1)
    # What PyTorch keeps of earlier work would be taken for this function's memory.
    assert torch.cuda.empty_cache.call_count == 1


# What the adapters call

#: Every name that an adapter may use, and where it is in the real package.
APIS: Final[Mapping[str, Mapping[str, str]]] = {
    "torch": {
        "cuda.synchronize": "",
        "cuda.current_device": "",
        "cuda.Event": "",
        "cuda.Event().record": "cuda.Event.record",
        "cuda.Event().elapsed_time": "cuda.Event.elapsed_time",
        "cuda.get_device_properties": "",
        "version.hip": "",
        "cuda.set_stream": "",
        "zeros": "",
        "zeros().zero_": "Tensor.zero_",
        "rand": "",
        "empty": "",
        "int32": "",
        "empty().zero_": "Tensor.zero_",
        "cuda.Stream": "",
        "cuda.Stream().wait_stream": "cuda.Stream.wait_stream",
        "cuda.current_stream": "",
        "cuda.current_stream().wait_stream": "cuda.Stream.wait_stream",
        "cuda.stream": "",
        "cuda.CUDAGraph": "",
        "cuda.CUDAGraph().replay": "cuda.CUDAGraph.replay",
        "cuda.graph": "",
        "cuda.reset_peak_memory_stats": "",
        "cuda.empty_cache": "",
        "cuda.get_device_capability": "",
        "backends.cuda.matmul": "",
        "_scaled_mm": "",
        "cuda.max_memory_allocated": "",
        "cuda.is_available": "",
        "cuda.is_initialized": "",
        "Tensor.is_cuda": "",
    },
    "cupy": {
        "cuda.runtime.deviceSynchronize": "",
        "cuda.runtime.is_hip": "",
        "cuda.Event": "",
        "cuda.Event().record": "cuda.Event.record",
        "cuda.get_elapsed_time": "",
        "empty": "",
        "uint8": "",
        "empty().fill": "ndarray.fill",
        "cuda.Stream": "",
        "cuda.Stream().synchronize": "cuda.Stream.synchronize",
        "cuda.Stream().begin_capture": "cuda.Stream.begin_capture",
        "cuda.Stream().end_capture": "cuda.Stream.end_capture",
        "cuda.Stream().end_capture().launch": "cuda.graph.Graph.launch",
        "cuda.Device": "",
        "cuda.Device().id": "cuda.Device.id",
        "cuda.Device().attributes.get": "cuda.Device.attributes",
        "cuda.Device().synchronize": "cuda.Device.synchronize",
        "cuda.MemoryPool": "",
        "cuda.MemoryPool().malloc": "cuda.MemoryPool.malloc",
        "cuda.using_allocator": "",
        "get_default_memory_pool": "",
        "get_default_memory_pool().free_all_blocks": "cuda.MemoryPool.free_all_blocks",
        "get_default_memory_pool().total_bytes": "cuda.MemoryPool.total_bytes",
        "cuda.is_available": "",
        "ndarray.device": "",
    },
    "numba.cuda": {
        "synchronize": "",
        "event": "",
        "event().record": "cudadrv.driver.Event.record",
        "event().elapsed_time": "cudadrv.driver.Event.elapsed_time",
        "get_current_device": "",
        "device_array": "",
        "device_array().__setitem__": "cudadrv.devicearray.DeviceNDArray.__setitem__",
        "default_stream": "",
        "cudadrv.driver.device_memset": "",
        "is_available": "",
        "cudadrv.devicearray.DeviceNDArray.copy_to_host": "",
    },
    "jax": {"block_until_ready": "", "Device.memory_stats": ""},
}


def failing_in_capture() -> Callable[[], None]:
    """Return work that fails when it is called for the second time, which is in the capture."""
    calls = itertools.count()

    def work() -> None:
        if next(calls):
            raise RuntimeError("not while capturing")

    return work


def exercise(device: Any, *, graphs: bool = True) -> list[str]:
    """Call everything an adapter has; return the work's calls."""
    done: list[str] = []
    device.synchronize()
    start, end = device.event(), device.event()
    device.record(start)
    device.record(end)
    device.elapsed(start, end)
    device.cache_bytes()
    device.flusher(4096)()
    if graphs:
        device.capture(lambda: done.append("work"))()
        with pytest.raises(RuntimeError, match="not while capturing"):
            device.capture(failing_in_capture())
    device.reset_peak_memory()
    device.peak_memory()
    return done


def used(mock: MagicMock) -> set[str]:
    """Return the names of the calls that were made, but for protocols of Python itself."""
    names = {name.replace("().__enter__", "") for name, _, _ in mock.mock_calls}
    return {name for name in names if "__" not in name or name.endswith("__setitem__")}


def make_mock() -> MagicMock:
    mock = MagicMock()
    mock.cuda.Event.return_value.elapsed_time.return_value = 2.5
    mock.event.return_value.elapsed_time.return_value = 2.5
    mock.cuda.get_elapsed_time.return_value = 2.5
    mock.cuda.max_memory_allocated.return_value = 4096
    mock.version.hip, mock.cuda.runtime.is_hip = None, False
    mock.get_default_memory_pool.return_value.total_bytes.return_value = 4096
    return mock


@pytest.mark.parametrize(
    ("adapter", "module", "graphs"),
    [(TorchDevice, "torch", True), (CupyDevice, "cupy", True), (NumbaDevice, "numba.cuda", False)],
)
def test_adapters_call_what_is_known_of_the_package(
    adapter: Callable[[Any], Any], module: str, *, graphs: bool
) -> None:
    mock = make_mock()
    exercise(adapter(mock), graphs=graphs)
    assert used(mock) <= {name for name in APIS[module] if name}
    assert len(used(mock)) > 5


CHECK: Final = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
module, names = json.loads(sys.argv[1])
try:
    found = importlib.import_module(module)
except ImportError as error:
    print(json.dumps(str(error)))
    raise SystemExit
missing = []
for name in names:
    value = found
    for part in name.split("."):
        if value is found and not hasattr(value, part):
            try:
                importlib.import_module(f"{module}.{part}")
            except ImportError:
                pass
        if not hasattr(value, part):
            missing.append(name)
            break
        value = getattr(value, part)
print(json.dumps(missing))
"""


@pytest.mark.parametrize("module", APIS)
def test_the_real_package_has_what_adapters_call(module: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    names = [real or name for name, real in APIS[module].items()]
    # In a process of its own, so that nothing is left imported here.
    done = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps([module, names])],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    missing = json.loads(done.stdout.splitlines()[-1])
    if isinstance(missing, str):
        pytest.skip(f"{module} cannot be imported: {missing}")
    assert not missing


@pytest.mark.parametrize("adapter", [TorchDevice, CupyDevice, NumbaDevice])
def test_milliseconds_of_events_become_seconds(adapter: Callable[[Any], Any]) -> None:
    device = adapter(make_mock())
    assert device.elapsed(device.event(), device.event()) == pytest.approx(2.5e-3)


def test_events_are_made_to_be_timed() -> None:
    mock = make_mock()
    TorchDevice(mock).event()
    mock.cuda.Event.assert_called_once_with(enable_timing=True)
    # By default CuPy's and Numba's are.
    for adapter, name in ((CupyDevice, "cuda.Event"), (NumbaDevice, "event")):
        mock = make_mock()
        adapter(mock).event()
        assert mock.mock_calls in ([getattr(call, name)()], [getattr(call, name)(timing=True)])


def test_events_are_recorded_on_the_current_stream() -> None:
    for adapter in (TorchDevice, CupyDevice, NumbaDevice):
        event = MagicMock()
        adapter(MagicMock()).record(event)
        assert event.mock_calls == [call.record()]


def test_the_peak_of_memory_is_told_where_it_is_known() -> None:
    assert TorchDevice(make_mock()).peak_memory() == 4096
    assert CupyDevice(make_mock()).peak_memory() == 4096
    assert NumbaDevice(make_mock()).peak_memory() is None


@pytest.mark.parametrize(
    ("adapter", "elements", "options", "overwrite"),
    [
        # Of four bytes each.
        (TorchDevice, 1024, {"dtype": "int32", "device": "cuda"}, call.empty().zero_()),
        (CupyDevice, 4096, {"dtype": "uint8"}, call.empty().fill(0)),
    ],
)
def test_a_flush_overwrites_so_many_bytes(
    adapter: Callable[[Any], Any], elements: int, options: dict[str, str], overwrite: Any
) -> None:
    mock = make_mock()
    mock.int32, mock.uint8 = "int32", "uint8"
    flush = adapter(mock).flusher(4096)
    mock.empty.assert_called_once_with(elements, **options)
    mock.reset_mock()
    flush()
    flush()
    assert mock.mock_calls == [overwrite] * 2


def test_a_flush_of_numba_overwrites_so_many_bytes_without_waiting_for_it() -> None:
    mock = make_mock()
    flush = NumbaDevice(mock).flusher(4096)
    mock.device_array.assert_called_once_with(4096, dtype=np.uint8)
    mock.reset_mock()
    flush()
    # Assigning to an array of Numba's that has no stream waits for the device, and the host's
    # launch of the kernel would then be timed with it.
    assert "device_array().__setitem__" not in used(mock)
    assert mock.mock_calls


def test_torch_captures_as_its_documentation_does() -> None:
    mock, log = make_mock(), []
    mock.cuda.stream.return_value.__enter__.side_effect = lambda: log.append("side")
    mock.cuda.stream.return_value.__exit__.side_effect = lambda *_: log.append("back")
    mock.cuda.graph.return_value.__enter__.side_effect = lambda: log.append("capture")
    mock.cuda.graph.return_value.__exit__.side_effect = lambda *_: log.append("captured")
    mock.cuda.Stream.return_value.wait_stream.side_effect = lambda _: log.append("side waits")
    mock.cuda.current_stream.return_value.wait_stream.side_effect = lambda _: log.append("waits")
    replay = TorchDevice(mock).capture(lambda: log.append("work"))
    assert log == [
        "side waits", "side", "work", "back", "waits", "capture", "work", "captured",
    ]  # fmt: skip
    mock.cuda.graph.assert_called_once_with(mock.cuda.CUDAGraph.return_value)
    replay()
    replay()
    assert mock.cuda.CUDAGraph.return_value.replay.call_count == 2
    assert log.count("work") == 2


def test_cupy_captures_on_a_stream_of_its_own() -> None:
    mock, log = make_mock(), []
    stream = mock.cuda.Stream.return_value
    stream.__enter__.side_effect = lambda: log.append("enter")
    stream.__exit__.side_effect = lambda *_: log.append("exit")
    stream.synchronize.side_effect = lambda: log.append("wait")
    stream.begin_capture.side_effect = lambda: log.append("begin")
    graph = MagicMock()

    def end() -> MagicMock:
        log.append("end")
        return graph

    stream.end_capture.side_effect = end
    allocator = mock.cuda.using_allocator.return_value
    allocator.__enter__.side_effect = lambda: log.append("pool")
    allocator.__exit__.side_effect = lambda *_: log.append("usual pool")
    replay = CupyDevice(mock).capture(lambda: log.append("work"))
    assert log == [
        "pool", "enter", "work", "wait", "begin", "work", "end", "exit", "usual pool",
    ]  # fmt: skip
    mock.cuda.using_allocator.assert_called_once_with(mock.cuda.MemoryPool.return_value.malloc)
    replay()
    assert graph.mock_calls == [call.launch()]


def test_the_memory_of_a_graph_of_cupy_lives_as_long_as_the_graph() -> None:
    class Pool:
        def malloc(self) -> None:
            pass

    pools: list[weakref.ref[Pool]] = []

    def make() -> Pool:
        pool = Pool()
        pools.append(weakref.ref(pool))
        return pool

    mock = make_mock()
    mock.cuda.MemoryPool = make
    replay = CupyDevice(mock).capture(lambda: None)
    mock.reset_mock()  # It keeps what it was called with.
    gc.collect()
    (pool,) = pools
    assert pool() is not None
    del replay
    gc.collect()
    assert pool() is None


def test_a_capture_of_cupy_ends_with_an_error_too() -> None:
    mock = make_mock()
    with pytest.raises(RuntimeError, match="not while capturing"):
        CupyDevice(mock).capture(failing_in_capture())
    assert mock.cuda.Stream.return_value.end_capture.call_count == 1


def test_that_a_capture_of_cupy_cannot_be_ended_hides_no_error() -> None:
    mock = make_mock()
    # As after anything that is not allowed while capturing.
    mock.cuda.Stream.return_value.end_capture.side_effect = RuntimeError("invalidated")
    with pytest.raises(RuntimeError, match="not while capturing"):
        CupyDevice(mock).capture(failing_in_capture())
    with pytest.raises(RuntimeError, match="invalidated"):
        CupyDevice(mock).capture(lambda: None)


class Capturing:
    """PyTorch's streams, captures and random numbers, as far as a failed capture goes."""

    __version__ = "2.13.0"

    def __init__(self, *, mended: bool = True, dead: bool = False) -> None:
        self.default: Any = SimpleNamespace(wait_stream=lambda _: None, name="default")
        self.current = self.default
        self.cuda = SimpleNamespace(
            Stream=lambda: SimpleNamespace(wait_stream=lambda _: None, name="side"),
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: None),
            current_stream=lambda: self.current,
            set_stream=self._set,
            stream=self._on,
            graph=self._capture,
            synchronize=self._synchronize,
        )
        self.mended = mended
        self.dead = dead
        self.invalid = False
        self.random_in_capture = False

    def _set(self, stream: Any) -> None:
        self.current = stream

    @contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(self, graph: object) -> Iterator[None]:
        # As torch/cuda/graphs.py: an error of capture_end comes before the stream is set back.
        before, self.current = self.current, SimpleNamespace(name="capture")
        self.random_in_capture = True
        try:
            yield
        finally:
            if self.invalid:
                self.invalid = False
                self.random_in_capture = not self.mended
                raise RuntimeError("operation failed due to a previous error during capture")
            self.random_in_capture = False
            self.current = before

    def _synchronize(self) -> None:
        if self.current.name == "capture":
            self.invalid = True
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.dead:
            raise RuntimeError("an illegal memory access was encountered")

    def zeros(self, size: int, *, device: str) -> Any:
        assert device == "cuda"
        return SimpleNamespace(zero_=lambda: None)

    def rand(self, size: int, *, device: str) -> None:
        assert self.current is self.default
        if self.random_in_capture:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")

    def waiting(self) -> None:
        """Wait, which no capture takes, but the call before it does."""
        if self.current.name == "capture":
            self._synchronize()


@pytest.mark.parametrize("mended", [True, False])
def test_a_capture_of_torch_that_fails_leaves_the_stream_and_random_numbers_as_they_were(
    *, mended: bool
) -> None:
    torch = Capturing(mended=mended)
    device = TorchDevice(torch)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        device.capture(torch.waiting)
    assert torch.current is torch.default
    torch.rand(1, device="cuda")
    device.capture(lambda: None)()
    assert torch.current is torch.default


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("invalid", [True, False])
def test_an_error_of_the_function_itself_in_a_capture_comes_through(
    error: type[BaseException], *, invalid: bool
) -> None:
    torch = Capturing()

    def work() -> None:
        if torch.current.name == "capture":
            torch.invalid = invalid
            raise error

    # Also where the capture cannot be ended: an interrupt is not swallowed.
    with pytest.raises(error):
        TorchDevice(torch).capture(work)
    assert torch.current is torch.default


def test_a_capture_that_cannot_be_ended_fails_although_the_function_does_not() -> None:
    torch = Capturing()

    def work() -> None:
        torch.invalid = torch.current.name == "capture"

    with pytest.raises(RuntimeError, match="previous error during capture"):
        TorchDevice(torch).capture(work)
    assert torch.current is torch.default


@pytest.mark.parametrize(
    ("version", "left"),
    [("2.13.0", False), ("2.14.0a0+gitabc", False), ("2.12.1+cu130", True), ("2.9.0", True)],
)
def test_what_waits_in_a_capture_is_told_in_the_words_of_its_first_error(
    version: str, *, left: bool
) -> None:
    torch = Capturing()
    torch.__version__ = version
    device = Timed(torch)
    with pytest.raises(BenchmarkError) as raised:
        GraphTimer(Work(torch.waiting, [()]), device, cold_cache=False)
    assert str(raised.value) == (
        "graph=True: torch cannot capture the calls (operation not permitted when stream is "
        "capturing); what waits for the device, or copies to the host, cannot be part of a graph"
    ) + left * (
        f". After that PyTorch {version} gives no memory back: where later trials lack some, run "
        "pytest again"
    )
    assert raised.value.__suppress_context__


class Timed(TorchDevice):
    """PyTorch, with events of no length."""

    def event(self) -> Any:
        return SimpleNamespace(record=lambda: None, elapsed_time=lambda _: 0.0)


def test_where_torch_cannot_go_on_after_a_capture_it_is_said_that_the_process_cannot() -> None:
    torch = Capturing()

    def work() -> None:
        torch.dead = torch.current.name == "capture"
        torch.waiting()

    device = Timed(torch)
    with pytest.raises(CudaError) as raised:
        device.capture(work)
    assert str(raised.value) == (
        "graph=True: the calls cannot be captured (operation not permitted when stream is "
        "capturing), and since then PyTorch cannot use the GPU in this process (an illegal memory "
        "access was encountered); only a new process can"
    )
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("device", "size"),
    [
        (
            TorchDevice(
                SimpleNamespace(
                    cuda=SimpleNamespace(
                        current_device=lambda: 2,
                        get_device_properties=lambda index: SimpleNamespace(L2_cache_size=index),
                    ),
                    version=SimpleNamespace(hip=None),
                )
            ),
            2,
        ),
        # Behind the L2 cache of AMD's devices there is another, of up to 256 MiB.
        (TorchDevice(SimpleNamespace(version=SimpleNamespace(hip="7.0"))), 2**28),
        (
            CupyDevice(SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(is_hip=True)))),
            2**28,
        ),
        (
            CupyDevice(
                SimpleNamespace(
                    cuda=SimpleNamespace(
                        Device=lambda: SimpleNamespace(attributes=L2_OF_CUPY),
                        runtime=SimpleNamespace(is_hip=False),
                    )
                )
            ),
            3,
        ),
        (NumbaDevice(SimpleNamespace(get_current_device=lambda: L2_OF_NUMBA)), 4),
        # Older ones, and other makers' devices, do not tell.
        (NumbaDevice(SimpleNamespace(get_current_device=object)), None),
    ],
)
def test_the_size_of_the_cache_is_told_where_it_is_known(device: Any, size: int | None) -> None:
    assert device.cache_bytes() == size
