"""A right kernel passes in every precision, a wrong one in none, and the seed repeats it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from pytest_autotune.bench import compilation, correctness
from pytest_autotune.bench.correctness import (
    TOLERANCES,
    WrongResultError,
    as_numpy,
    assert_matches,
)
from pytest_autotune.errors import BenchmarkError

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = Callable[[np.random.Generator], tuple[Any, ...]]

TYPES = ("float64", "float32", "float16", "complex128", "complex64")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    compilation.take()
    yield
    compilation.take()


def matrices(dtype: str = "float64", side: int = 24) -> Inputs:
    def make(rng: np.random.Generator) -> tuple[Array, Array]:
        a, b = rng.normal(size=(2, side, side))
        if dtype.startswith("complex"):
            a, b = a + 1j * rng.normal(size=a.shape), b - 1j * rng.normal(size=b.shape)
        return a.astype(dtype), b.astype(dtype)

    return make


def vectors(dtype: str = "float64", size: int = 50) -> Inputs:
    return lambda rng: (rng.normal(size=size).astype(dtype),)


def constant(*values: Any) -> Inputs:
    return lambda rng: values


def returning(value: Any) -> Callable[..., Any]:
    return lambda *arguments: value


def noting(seen: list[Any], look: Callable[[Array], Any]) -> Callable[[Array], Array]:
    """Return a function that gives back its argument, and notes what it looks like."""

    def function(a: Array) -> Array:
        seen.append(look(a))
        return a

    return function


def same(a: Array) -> Array:
    return a


def first(a: Array) -> float:
    return float(a[0])


def matmul(a: Array, b: Array) -> Array:
    result: Array = np.matmul(a, b)
    return result


def tiled(a: Array, b: Array, tile: int = 8, missing: int | None = None) -> Array:
    """Multiply by tiles in the type of the inputs, one of them left out if it is ``missing``."""
    result = np.zeros(a.shape, dtype=a.dtype)
    for number, k in enumerate(range(0, a.shape[1], tile)):
        if number != missing:
            result += a[:, k : k + tile] @ b[k : k + tile]
    return result


def message_of(raised: pytest.ExceptionInfo[WrongResultError]) -> str:
    return str(raised.value)


# Right ones


@pytest.mark.parametrize("dtype", TYPES)
def test_a_right_kernel_passes_in_every_precision(dtype: str) -> None:
    error = assert_matches(tiled, matmul, matrices(dtype), seed=1)
    assert 0 <= error <= TOLERANCES[dtype]
    if dtype in {"float16", "float32", "complex64"}:
        # It is rounded, and the reference is not.
        assert error > 1e-9


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_whole_numbers_are_right_where_they_are_equal(dtype: str) -> None:
    def make(rng: np.random.Generator) -> tuple[Array]:
        return (rng.integers(0, 2, size=(5, 7)).astype(dtype),)

    assert assert_matches(lambda a: a[::-1].copy(), lambda a: a[::-1], make) == 0.0


def test_several_results_are_each_compared() -> None:
    def both(a: Array) -> tuple[Array, Array]:
        return a.sum(axis=0), a.max(axis=0)

    def make(rng: np.random.Generator) -> tuple[Array]:
        return (rng.random((6, 5)).astype("float32"),)

    assert assert_matches(both, both, make) < 1e-4
    assert assert_matches(lambda a: list(both(a)), both, make) < 1e-4

    with pytest.raises(WrongResultError, match=r"result 1, seed="):
        assert_matches(lambda a: (both(a)[0], both(a)[1] * 1.5), both, make)


@pytest.mark.parametrize("dtype", ["float32", "int32", "complex64"])
def test_empty_arrays_alone_are_no_comparison(dtype: str) -> None:
    empty = np.zeros((0, 4), dtype=dtype)
    with pytest.raises(BenchmarkError, match=r"^nothing was compared: .*inputs \(0, 4\)\)$"):
        assert_matches(same, same, constant(empty))


@pytest.mark.parametrize("outputs", [np.zeros(0), [np.zeros((0, 3)), np.zeros(0)], []])
def test_a_comparison_of_nothing_is_refused(outputs: Any) -> None:
    with pytest.raises(BenchmarkError, match=r"^nothing was compared: .* is empty \(seed=\d+"):
        assert_matches(returning(outputs), returning(outputs), vectors())
    # One of several may well be empty.
    several = returning([np.ones(3), np.zeros(0)])
    assert assert_matches(several, several, vectors()) == 0


def test_scalars_are_results_too() -> None:
    assert assert_matches(lambda a: a.sum(), lambda a: a.sum(), vectors()) < 1e-10
    assert assert_matches(lambda a: float(a.sum()), lambda a: a.sum(), vectors()) < 1e-10
    assert assert_matches(returning(3), returning(3), constant()) == 0.0


@pytest.mark.parametrize(("kernel", "reference"), [(4, 3), (True, False), (2.0, 1.0)])
def test_wrong_scalars_are_found(kernel: Any, reference: Any) -> None:
    with pytest.raises(WrongResultError, match="1 of 1 elements"):
        assert_matches(returning(kernel), returning(reference), constant())


def test_the_largest_error_of_all_rounds_is_returned() -> None:
    shares = iter([1e-6, 5e-5, 1e-5])

    def kernel(a: Array) -> Array:
        result: Array = (a * (1 + next(shares))).astype("float32")
        return result

    def make(rng: np.random.Generator) -> tuple[Array]:
        return (np.ones(4, dtype="float32"),)

    assert assert_matches(kernel, same, make) == pytest.approx(5e-5, rel=0.01)


# Wrong ones


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("missing", [0, 2])
def test_a_tile_that_is_left_out_is_found_in_every_precision(dtype: str, missing: int) -> None:
    with pytest.raises(WrongResultError, match="elements are off by more than") as raised:
        assert_matches(lambda a, b: tiled(a, b, missing=missing), matmul, matrices(dtype), seed=4)
    assert f"off by more than {TOLERANCES[dtype]:g}, by up to" in message_of(raised)
    assert "(relative error; seed=4, inputs (24, 24) (24, 24))" in message_of(raised)


@pytest.mark.parametrize("dtype", TYPES)
def test_one_wrong_element_of_many_is_found(dtype: str) -> None:
    def kernel(a: Array, b: Array) -> Array:
        result = matmul(a, b)
        result[3, 5] += 20
        return result

    with pytest.raises(WrongResultError, match="1 of 576 elements") as raised:
        assert_matches(kernel, matmul, matrices(dtype))
    assert "at [3, 5]: " in message_of(raised)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "complex64"])
def test_what_is_not_a_number_is_found(bad: float, dtype: str) -> None:
    def kernel(a: Array) -> Array:
        result = a.copy()
        result[7] = bad
        return result

    with pytest.raises(WrongResultError, match="1 of 50 elements") as raised:
        assert_matches(kernel, same, vectors(dtype), seed=9)
    text = message_of(raised)
    assert "1 of them are NaN or infinite" in text
    assert "seed=9" in text
    assert "at [7]: " in text
    # And no number is made up for it.
    assert "by up to" not in text


def test_a_few_wrong_elements_are_shown_and_all_counted() -> None:
    with pytest.raises(WrongResultError, match="49 of 50") as raised:
        assert_matches(lambda a: a * 2, lambda a: a, lambda rng: (np.arange(50.0),))
    text = message_of(raised)
    assert text.count("and the reference says") == 5
    assert "at [1]: 2.0, and the reference says 1.0" in text


def test_numbers_beside_a_nan_are_judged_by_themselves() -> None:
    def kernel(a: Array) -> Array:
        result = a.copy()
        result[0], result[1] = math.nan, result[1] + 3
        return result

    with pytest.raises(WrongResultError, match=r"2 of 3 .* by up to 3 ") as raised:
        assert_matches(kernel, same, constant(np.ones(3)))
    assert "1 of them are NaN or infinite" in message_of(raised)


@pytest.mark.parametrize(
    ("result", "shape"),
    [
        (np.zeros((2, 3)), "(2, 3)"),
        (np.zeros(7), "(7,)"),
        (0.0, "()"),
        (np.zeros((6, 1)), "(6, 1)"),
        (np.zeros(0), "(0,)"),
    ],
)
def test_another_shape_is_wrong_even_if_it_could_be_broadcast(result: Any, shape: str) -> None:
    with pytest.raises(WrongResultError) as raised:
        assert_matches(returning(result), returning(np.zeros(6)), constant(), seed=5)
    assert message_of(raised) == f"wrong shape: {shape}, and the reference has (6,) (seed=5)"


@pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (2, 1), (3, 2)])
def test_another_number_of_results_is_wrong(ours: int, theirs: int) -> None:
    def outputs(count: int) -> Callable[..., Any]:
        return returning(tuple(np.zeros(3) for _ in range(count)))

    expected = f"the kernel returns {ours} arrays, the reference {theirs}"
    with pytest.raises(WrongResultError, match=expected) as raised:
        assert_matches(outputs(ours), outputs(theirs), constant(), seed=6)
    assert "seed=6" in message_of(raised)


def test_it_is_an_assertion_that_fails() -> None:
    assert issubclass(WrongResultError, AssertionError)


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (lambda x: x + 1, lambda x: x),
        (lambda x: x[:-1], lambda x: x),
        (lambda x: (x, x), lambda x: x),
        (lambda _: None, lambda x: x),
    ],
)
def test_a_traceback_ends_in_the_line_that_compares(kernel: Any, reference: Any) -> None:
    with pytest.raises((WrongResultError, BenchmarkError)) as caught:
        assert_matches(kernel, reference, lambda rng: (rng.random(4),))
    shown = caught.traceback.filter(caught)
    assert [str(entry.path) for entry in shown] == [__file__]


@pytest.mark.parametrize(
    ("result", "message"),
    [(None, "returns nothing cannot be compared; return what it"), ({"y": 1}, "not a mapping")],
)
def test_results_that_are_no_arrays_are_refused(result: Any, message: str) -> None:
    for kernel, reference in ((returning(result), same), (same, returning(result))):
        with pytest.raises(BenchmarkError, match=message):
            assert_matches(kernel, reference, vectors())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.array([2**53 + 1, 5]), np.array([2**53 + 1, 5], dtype="uint64")),
        (np.array([1, 2]), np.array([1.0, 2.0])),
    ],
)
def test_whole_numbers_are_held_against_numbers_of_other_types(ours: Array, theirs: Array) -> None:
    assert assert_matches(returning(ours), returning(theirs), constant()) == 0.0
    with pytest.raises(WrongResultError, match="1 of 2"):
        assert_matches(returning(ours - np.array([1, 0])), returning(theirs), constant())


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_whole_numbers_that_no_double_can_hold_are_told_apart(dtype: str) -> None:
    value = np.array([2**53 + 1, 2**62 + 1], dtype=dtype)
    assert assert_matches(returning(value), returning(value.copy()), constant()) == 0.0
    with pytest.raises(WrongResultError, match="1 of 2 elements") as raised:
        assert_matches(returning(value - np.array([0, 1], dtype)), returning(value), constant())
    assert str(2**62 + 1) in message_of(raised)


def test_a_failure_names_the_shapes_of_the_inputs_that_are_arrays() -> None:
    make = constant(np.ones((3, 5), "int8"), 7, "text", np.float32(1))
    with pytest.raises(WrongResultError) as raised:
        assert_matches(returning(1.0), returning(2.0), make, seed=2)
    assert "(relative error; seed=2, inputs (3, 5) ())" in message_of(raised)


# Tolerance


def test_a_tolerance_can_be_given() -> None:
    def kernel(a: Array) -> Array:
        return a * 1.01

    with pytest.raises(WrongResultError, match=r"off by more than 0\.001, by up to 0\.01"):
        assert_matches(kernel, same, constant(np.ones(4)), tolerance=1e-3)
    found = assert_matches(kernel, same, constant(np.ones(4)), tolerance=0.02)
    assert found == pytest.approx(0.01)


def test_a_tolerance_of_zero_asks_for_every_bit() -> None:
    assert assert_matches(lambda a: a, same, vectors(), tolerance=0.0) == 0.0
    with pytest.raises(WrongResultError):
        assert_matches(lambda a: np.nextafter(a, 9), same, vectors(), tolerance=0.0)


def test_the_error_is_relative_but_not_to_values_next_to_zero() -> None:
    expected = np.array([1.0, -1.0, 1e-12, 0.0])
    off = expected + np.array([0.0, 0.0, 1e-6, 1e-6])
    found = assert_matches(returning(off), returning(expected), constant(), tolerance=1e-4)
    assert found == pytest.approx(1e-6 / math.sqrt(0.5))
    large = assert_matches(
        returning(np.array([1e6 + 1])), returning(np.array([1e6])), constant(), tolerance=1e-4
    )
    assert large == pytest.approx(1e-6)


def test_a_type_without_a_default_needs_a_tolerance() -> None:
    result = np.zeros(2, dtype=np.longdouble)
    if result.dtype.name == "float64":
        pytest.skip("here long doubles are doubles")
    with pytest.raises(BenchmarkError, match=r"no default tolerance for (float128|longdouble)"):
        assert_matches(returning(result), returning(result), constant())
    assert assert_matches(returning(result), returning(result), constant(), tolerance=1e-9) == 0


def test_another_byte_order_is_the_same_type() -> None:
    swapped = np.arange(4.0, dtype=">f4")
    assert assert_matches(returning(swapped), returning(np.arange(4.0)), constant()) == 0.0


# Infinities, zeros, extremes


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_infinities_match(dtype: str) -> None:
    value = np.array([1.0, math.inf, -math.inf, 2.0], dtype=dtype)
    assert assert_matches(returning(value), returning(value.astype(float)), constant()) == 0.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([math.inf], [-math.inf]),
        ([1.0], [math.inf]),
        ([math.inf], [1.0]),
        ([math.nan], [math.nan]),
        ([1.0], [math.nan]),
        ([math.nan], [math.inf]),
        ([1.0, 2.0], [1.0, math.inf]),
        ([1.0, 2.0], [math.nan, 2.0]),
    ],
)
def test_other_infinities_and_nans_do_not(ours: list[float], theirs: list[float]) -> None:
    # Without a warning: they are errors here.
    with pytest.raises(WrongResultError, match=r"1 of \d elements.*seed=8"):
        assert_matches(returning(np.array(ours)), returning(np.array(theirs)), constant(), seed=8)


def test_a_reference_of_zeros_takes_errors_as_they_are() -> None:
    zeros = np.zeros(3)
    assert assert_matches(returning(zeros), returning(zeros), constant()) == 0.0
    near = np.array([0.0, 1e-12, 0.0])
    assert assert_matches(returning(near), returning(zeros), constant()) == 1e-12
    with pytest.raises(WrongResultError, match="1 of 3"):
        assert_matches(returning(np.array([0.0, 1.0, 0.0])), returning(zeros), constant())


@pytest.mark.parametrize("scale", [1e300, 1.7e308, 1e-300, 5e-324])
def test_neither_huge_nor_tiny_values_hide_what_is_wrong(scale: float) -> None:
    value = scale * np.array([1.0, -1.0, 1.0, 1.0])
    assert assert_matches(returning(value), returning(value.copy()), constant()) == 0.0
    with pytest.raises(WrongResultError, match="1 of 4"):
        assert_matches(returning(value * [1, -1, 1, 1]), returning(value), constant())


def test_a_sum_that_overflows_in_the_kernel_only_is_wrong() -> None:
    def total(a: Array) -> Any:
        with np.errstate(over="ignore"):
            return a.sum(dtype=a.dtype)

    make = constant(np.full(4, 60_000, dtype="float16"))
    with pytest.raises(WrongResultError, match="NaN or infinite"):
        assert_matches(total, total, make)


# Inputs


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "complex64"])
def test_the_reference_gets_doubles_and_the_kernel_what_was_made(dtype: str) -> None:
    seen: list[tuple[str, Any]] = []
    kernel = noting(seen, lambda a: ("kernel", a.dtype))
    reference = noting(seen, lambda a: ("reference", a.dtype))
    assert_matches(kernel, reference, lambda rng: (np.ones(3, dtype),), rounds=1, tolerance=0)
    doubles = "complex128" if dtype == "complex64" else "float64"
    assert seen == [("reference", np.dtype(doubles)), ("kernel", np.dtype(dtype))]


@pytest.mark.parametrize("value", [np.arange(3), np.ones(3, bool), 5, 2.5, "text", None])
def test_whole_numbers_and_what_is_no_array_stay_what_they_are(value: Any) -> None:
    seen: list[Any] = []

    def reference(given: Any) -> Any:
        seen.append(given)
        return 1

    assert_matches(returning(1), reference, constant(value), rounds=1)
    (given,) = seen
    assert type(given) is type(value)
    assert getattr(given, "dtype", None) == getattr(value, "dtype", None)
    assert np.array_equal(given, value)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_a_kernel_may_write_into_its_inputs(dtype: str) -> None:
    def in_place(a: Array) -> Array:
        a *= 2
        return a

    make = vectors(dtype, 9) if dtype != "int64" else lambda rng: (np.arange(9),)
    assert assert_matches(in_place, lambda a: a * 2, make) < 1e-4


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128", "bool"])
def test_a_reference_may_write_into_its_inputs(dtype: str) -> None:
    def overwrite(a: Array) -> Array:
        result = a.copy()
        a[:] = 0
        return result

    made = np.ones(4, dtype)
    assert_matches(lambda a: a.copy(), overwrite, lambda rng: (made,), rounds=2)
    assert made.all()


def test_an_error_in_what_was_written_is_found() -> None:
    def in_place(a: Array) -> Array:
        a *= 3
        return a

    with pytest.raises(WrongResultError, match="50 of 50"):
        assert_matches(in_place, lambda a: a * 2, vectors())


def test_inputs_are_made_anew_each_round() -> None:
    made: list[float] = []
    for _ in range(2):
        assert_matches(same, noting(made, first), vectors())
    assert len(made) == 6
    assert len(set(made)) == 6


@pytest.mark.parametrize("rounds", [1, 4])
def test_there_are_so_many_rounds(rounds: int) -> None:
    calls: list[int] = []
    assert_matches(noting(calls, len), same, vectors(), rounds=rounds)
    assert len(calls) == rounds


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_round_proves_nothing_and_is_refused(rounds: int) -> None:
    with pytest.raises(BenchmarkError, match=f"rounds={rounds}"):
        assert_matches(returning(1), returning(2), constant(), rounds=rounds)


def test_what_is_right_by_having_been_seen_is_found() -> None:
    seen: list[Array] = []

    def kernel(a: Array) -> Array:
        seen.append(a * 2)
        return seen[0]

    with pytest.raises(WrongResultError):
        assert_matches(kernel, lambda a: a * 2, vectors())


def test_the_seed_that_is_named_makes_the_same_inputs_again() -> None:
    made: list[Array] = []

    def kernel(a: Array) -> Array:
        made.append(a.copy())
        # Wrong for about one in two.
        return a * (2 if a[0] > 0 else 1)

    found = None
    while found is None:
        try:
            assert_matches(kernel, same, vectors(), rounds=20)
        except WrongResultError as error:
            found = re.search(r"seed=(\d+)", str(error))
    with pytest.raises(WrongResultError, match=found[0]):
        assert_matches(kernel, same, vectors(), seed=int(found[1]))
    assert np.array_equal(made[-1], made[-2])


def test_a_seed_gives_the_same_rounds_each_time_and_each_round_others() -> None:
    def made(seed: int) -> list[float]:
        found: list[float] = []
        assert_matches(noting(found, first), same, vectors(), seed=seed)
        return found

    assert made(3) == made(3)
    assert len(set(made(3))) == 3
    assert made(3)[1:] == made(4)[:2]


@pytest.mark.parametrize("wrong", [np.ones(3), [1, 2], None])
def test_inputs_that_are_no_tuple_are_refused(wrong: Any) -> None:
    kind = type(wrong).__name__
    with pytest.raises(
        BenchmarkError, match=f"inputs must return a tuple of arguments, not {kind}"
    ):
        assert_matches(returning(1), returning(1), lambda rng: wrong)


def test_an_error_of_the_kernel_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        assert_matches(lambda a: a / (0 // 0), same, vectors())


# Compilation


class Slow:
    """A kernel, and the module ``time`` by which its calls take so long, one after another."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds)
        self._now = 70.0

    def perf_counter(self) -> float:
        return self._now

    def __call__(self, a: Array) -> Array:
        self._now += next(self._seconds)
        return a


@pytest.mark.parametrize(
    ("seconds", "compiled"),
    [
        ((5.0, 0.5, 0.25), 4.75),
        ((5.0, 6.0), 0.0),
        ((0.5, 0.5, 0.5), 0.0),
        ((3.0, 1.0), 2.0),
        ((5.0,), 0.0),
    ],
)
def test_what_the_first_call_took_longer_counts_as_compilation(
    seconds: tuple[float, ...], compiled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Slow(*seconds)
    monkeypatch.setattr(correctness, "time", kernel)
    assert_matches(kernel, same, vectors(), rounds=len(seconds))
    assert compilation.take() == pytest.approx(compiled)
    assert compilation.take() == 0.0


def test_first_calls_that_are_faster_compile_nothing() -> None:
    compilation.add(0.5, 0.2)
    compilation.add(0.1, 0.4)
    assert compilation.take() == pytest.approx(0.3)


# Arrays of other frameworks


class Tensor:
    """A tensor of PyTorch's, as far as it matters here."""

    __module__ = "torch"

    def __init__(self, values: Array, dtype: str) -> None:
        self._values = values
        self.dtype = TorchType(dtype)

    def detach(self) -> Tensor:
        return self

    cpu = resolve_conj = resolve_neg = detach

    def numpy(self) -> Array:
        if str(self.dtype) == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._values

    def double(self) -> Tensor:
        return Tensor(self._values.astype(np.float64), "float64")

    def clone(self) -> Tensor:
        return Tensor(self._values.copy(), str(self.dtype).partition(".")[2])


class TorchType:
    def __init__(self, name: str) -> None:
        self._name = name
        self.is_floating_point = "float" in name
        self.is_complex = "complex" in name

    def __str__(self) -> str:
        return f"torch.{self._name}"


def test_tensors_that_numpy_has_no_type_for_are_compared_in_doubles() -> None:
    values = np.array([1.0, 2.0, 3.0])
    kernel = returning(Tensor(values * 1.01, "bfloat16"))
    assert assert_matches(kernel, returning(values), constant()) == pytest.approx(0.01, rel=0.1)
    with pytest.raises(WrongResultError, match=r"off by more than 1e-10"):
        assert_matches(returning(Tensor(values * 1.01, "float64")), returning(values), constant())


def by_tf32(values: Array) -> Array:
    """Return what is left of float32: 10 bits of the mantissa."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def on_gpu(values: Array, dtype: str = "float32", *, is_cuda: bool = True) -> Tensor:
    found = Tensor(values, dtype)
    found.is_cuda = is_cuda  # type: ignore[attr-defined]
    return found


def factors(rng: np.random.Generator) -> tuple[Array, Array]:
    a, b = rng.standard_normal((2, 256, 256), dtype=np.float32)
    return a, b


def test_a_product_by_tf32_is_named_where_it_fails_and_passes_with_the_tolerance_it_names() -> None:
    def kernel(a: Array, b: Array) -> Tensor:
        return on_gpu(by_tf32(a) @ by_tf32(b))

    with pytest.raises(WrongResultError, match=r"more than 0\.0001, by up to 0\.00\d") as raised:
        assert_matches(kernel, np.matmul, factors)
    assert message_of(raised).endswith(
        "  TF32 does as much to products of float32. It is what Triton's tl.dot uses without\n"
        '  input_precision="ieee", and PyTorch where it is allowed to. If it is meant, give '
        "tolerance=0.005"
    )
    assert 1e-4 < assert_matches(kernel, np.matmul, factors, tolerance=0.005) < 0.005
    with pytest.raises(WrongResultError) as raised:
        assert_matches(kernel, np.matmul, factors, tolerance=1e-4)
    assert "TF32" not in message_of(raised)


@pytest.mark.parametrize(
    ("off", "dtype", "is_cuda"),
    [
        (1e-3, "float32", False),
        (1e-3, "float64", True),
        # Too much.
        (2e-2, "float32", True),
        (np.nan, "float32", True),
    ],
)
def test_tf32_is_not_blamed_for_what_it_cannot_have_done(
    off: float, dtype: str, *, is_cuda: bool
) -> None:
    values = np.ones(3)
    kernel = returning(on_gpu(values * (1 + off), dtype, is_cuda=is_cuda))
    with pytest.raises(WrongResultError) as raised:
        assert_matches(kernel, returning(values), constant())
    assert "TF32" not in message_of(raised)


def test_the_reference_gets_tensors_in_doubles_and_others_as_copies() -> None:
    seen: list[str] = []

    def reference(a: Tensor, b: Tensor) -> Array:
        seen.extend(str(tensor.dtype) for tensor in (a, b))
        b.numpy()[:] = 0
        return a.numpy()

    whole = Tensor(np.arange(3), "int64")
    half = Tensor(np.ones(3, "float32"), "bfloat16")
    assert_matches(lambda a, b: a, reference, constant(half, whole), rounds=1)
    assert seen == ["torch.float64", "torch.int64"]
    assert whole.numpy().any()


def test_arrays_come_from_devices() -> None:
    values = np.arange(3.0)
    cupy: Any = type("ndarray", (), {"__module__": "cupy", "get": lambda self: values})()
    numba: Any = type("DeviceNDArray", (), {"copy_to_host": lambda self: values})()
    for array in (cupy, numba, Tensor(values, "float32"), values, [0.0, 1.0, 2.0]):
        assert np.array_equal(as_numpy(array), values)


def test_small_types_of_jax_are_compared_in_doubles() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, 2.0, 3.0])
    small = values.astype(ml_dtypes.bfloat16)
    assert as_numpy(small).dtype == np.float64
    assert assert_matches(returning(small), returning(values), constant()) == 0.0
    seen: list[Any] = []
    assert_matches(same, noting(seen, lambda a: a.dtype), constant(small), rounds=1)
    assert seen == [np.dtype("float64")]


def test_a_reference_that_works_in_place_does_not_hide_a_wrong_kernel() -> None:
    def doubled(x: Array) -> Array:
        x *= 2
        return x

    def tripled(x: Array) -> Array:
        x *= 3
        return x

    with pytest.raises(WrongResultError):
        assert_matches(tripled, doubled, lambda rng: (rng.random(5),))
    assert assert_matches(doubled, doubled, lambda rng: (rng.random(5),)) == 0


def test_a_reference_in_place_does_not_hide_a_wrong_kernel_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(WrongResultError):
        assert_matches(
            lambda x: x.mul_(3),
            lambda x: x.mul_(2),
            lambda rng: (torch.from_numpy(rng.random(5)),),
        )


def test_a_reference_s_result_is_read_before_the_kernel_runs() -> None:
    buffer = np.zeros(5)

    def reference(x: Array) -> Array:
        buffer[:] = x
        return buffer

    def kernel(x: Array) -> Array:
        buffer[:] = 7
        return buffer

    with pytest.raises(WrongResultError, match="5 of 5"):
        assert_matches(kernel, reference, lambda rng: (rng.random(5),))


@pytest.mark.parametrize("result", [(np.ones(2), np.ones(2)), np.ones(3), np.zeros(2)])
def test_every_failure_names_its_seed(result: Any) -> None:
    # By their number, their shape and their values.
    with pytest.raises(WrongResultError, match=r"seed=41"):
        assert_matches(returning(result), returning(np.ones(2)), vectors(), seed=41)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_function_is_refused_by_its_name(place: int) -> None:
    given: list[Any] = [returning(np.ones(2)), returning(np.ones(2)), vectors()]
    given[place] = [np.ones(2)]
    name = ("kernel", "reference", "inputs")[place]
    with pytest.raises(TypeError, match=f"^{name} must be a function, not a list"):
        assert_matches(*given)
