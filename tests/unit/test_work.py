"""What is timed is the work itself, with every set of inputs in turn."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from pytest_autotune.bench import work as module
from pytest_autotune.bench.work import ROTATED_BYTES, Work
from pytest_autotune.errors import BenchmarkError, UserError


class Sized:
    """What says how large it is, and is not."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def nothing(*arguments: object) -> None:
    pass


def taken(calls: list[Any]) -> Callable[..., int]:
    def function(*arguments: object) -> int:
        calls.append(arguments)
        return len(calls)

    return function


# What cannot be timed by calling it


async def coroutine() -> None:
    pass


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Method:
    async def run(self) -> None:
        pass

    def items(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "named"),
    [
        pytest.param(coroutine, "coroutine is a coroutine function", id="function"),
        pytest.param(Method().run, "run is a coroutine function", id="method"),
        pytest.param(functools.partial(coroutine), "is a coroutine function", id="partial"),
    ],
)
def test_a_coroutine_function_is_refused_before_it_is_called(
    function: Callable[..., object], named: str
) -> None:
    with pytest.raises(BenchmarkError, match=f"{named}, so calling it does not run it") as raised:
        Work.of(function, (), None)
    assert "run_until_complete(" in str(raised.value)


@pytest.mark.parametrize("function", [generator, async_generator, Method().items])
def test_a_generator_function_is_refused_before_it_is_called(
    function: Callable[..., object],
) -> None:
    with pytest.raises(BenchmarkError, match="is a generator function") as raised:
        Work.of(function, (), None)
    assert f"lambda: list({function.__name__}())" in str(raised.value)


def makes_coroutine() -> object:
    return coroutine()


def makes_generator() -> object:
    return generator()


def makes_async_generator() -> object:
    return async_generator()


def makes_future() -> Awaitable[None]:
    loop = asyncio.new_event_loop()
    future: Awaitable[None] = loop.create_future()
    loop.close()
    return future


class Callable_:  # noqa: N801 - a callable object
    async def __call__(self) -> None:
        pass


class OfItsOwn:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(makes_coroutine, id="coroutine"),
        pytest.param(makes_future, id="future"),
        pytest.param(Callable_(), id="object"),
        pytest.param(OfItsOwn, id="awaitable"),
    ],
)
def test_an_awaitable_that_comes_back_is_refused_and_leaves_no_warning(
    function: Callable[..., object],
) -> None:
    # A coroutine that nobody waits for would warn, and warnings are errors here.
    work = Work.of(function, (), None)
    with pytest.raises(BenchmarkError, match="returns an awaitable, so calling it does not run"):
        work.first()


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(makes_generator, id="generator"),
        pytest.param(makes_async_generator, id="async generator"),
        pytest.param(lambda: (n for n in range(3)), id="expression"),
    ],
)
def test_a_generator_that_comes_back_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(BenchmarkError, match="returns a generator, so calling it does not run it"):
        Work.of(function, (), None).first()


@pytest.mark.parametrize("value", [None, 3, "work", [1, 2]])
def test_what_is_not_callable_is_refused_by_what_it_is(value: Any) -> None:
    with pytest.raises(BenchmarkError, match="is not callable; give the function") as raised:
        Work.of(value, (), None)
    assert repr(value) in str(raised.value)


def test_these_are_mistakes_of_the_user() -> None:
    assert issubclass(BenchmarkError, UserError)


@pytest.mark.parametrize("result", [None, 3, [1], {"a": 1}, iter([1]), range(3), map(str, [1])])
def test_anything_else_may_come_back(result: object) -> None:
    assert Work.of(lambda: result, (), None).first() is result


# Arguments


def test_arguments_are_passed_to_every_call() -> None:
    calls: list[Any] = []
    work = Work.of(taken(calls), (1, "a"), None)
    assert work.first() == 1
    assert work() == 2
    work.bound(3)()
    assert calls == [(1, "a")] * 5


def test_a_function_may_take_no_arguments() -> None:
    calls: list[Any] = []
    Work.of(taken(calls), (), None).bound(2)()
    assert calls == [(), ()]


def test_arguments_and_inputs_at_once_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="either arguments or inputs=, not both"):
        Work.of(nothing, (1,), [(2,)])


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_no_inputs_at_all_are_refused(empty: Any) -> None:
    with pytest.raises(BenchmarkError, match="inputs= is empty; give at least one tuple"):
        Work.of(nothing, (), empty)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ([(1,), [2]], "list"),
        ([3], "int"),
        ("ab", "str"),
        (lambda: 5, "int"),
        (lambda: None, "None"),
    ],
)
def test_inputs_that_are_no_tuples_are_refused(inputs: Any, kind: str) -> None:
    with pytest.raises(BenchmarkError, match=f"inputs are tuples of arguments, and {kind}"):
        Work.of(nothing, (), inputs)


def test_inputs_that_are_no_sequence_are_refused() -> None:
    wrong: Any = 5
    with pytest.raises(BenchmarkError, match="inputs"):
        Work.of(nothing, (), wrong)


# Rotation


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("counts", [[1] * 7, [2, 2, 3], [7], [3, 1, 3], [5, 0, 2]])
def test_inputs_are_taken_in_turn_across_calls_however_they_are_made(
    counts: list[int], *, keep: bool
) -> None:
    calls: list[Any] = []
    work = Work.of(taken(calls), (), [("a",), ("b",), ("c",)])
    for count in counts:
        work.bound(count, keep=keep)()
    assert [name for (name,) in calls] == list("abcabca")


def test_the_first_call_and_single_calls_are_part_of_the_turn() -> None:
    calls: list[Any] = []
    work = Work.of(taken(calls), (), [(1,), (2,), (3,)])
    work.first()
    work()
    work.bound(2)()
    assert calls == [(1,), (2,), (3,), (1,)]


def test_binding_makes_no_call() -> None:
    calls: list[Any] = []
    work = Work.of(taken(calls), (), [(1,), (2,)])
    bound = work.bound(2)
    assert not calls
    bound()
    bound()
    assert calls == [(1,), (2,), (1,), (2,)]


@pytest.mark.parametrize("inputs", [[(1,)], [(1,), (2,)]])
def test_the_last_result_is_kept_only_where_asked_for(inputs: list[tuple[int]]) -> None:
    calls: list[Any] = []
    work = Work.of(taken(calls), (), inputs)
    work.bound(3)()
    assert work.last is None
    work.bound(4, keep=True)()
    assert len(calls) == 7
    assert work.last == 7


def test_results_that_are_not_kept_are_gone_before_the_next_call() -> None:
    alive = 0
    most = 0

    class Result:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    for inputs in (None, [(), ()]):
        Work.of(Result, (), inputs).bound(10)()
    assert (alive, most) == (0, 1)


def test_an_error_of_the_function_comes_through() -> None:
    def broken() -> None:
        raise ValueError("no such kernel")

    work = Work.of(broken, (), None)
    with pytest.raises(ValueError, match="no such kernel"):
        work.first()
    with pytest.raises(ValueError, match="no such kernel"):
        work.bound(2)()


# Inputs that are made


@pytest.mark.parametrize(
    ("each", "calls"),
    [
        (ROTATED_BYTES, 1),
        (ROTATED_BYTES + 1, 1),
        (ROTATED_BYTES - 1, 2),
        (ROTATED_BYTES // 4, 4),
        (ROTATED_BYTES // 4 + 1, 4),
        (ROTATED_BYTES // 4 - 1, 5),
        (ROTATED_BYTES // 16, 16),
        (ROTATED_BYTES // 17, 16),
        (1, 16),
    ],
)
def test_inputs_are_made_until_they_are_larger_than_any_cache_or_sixteen(
    each: int, calls: int
) -> None:
    made: list[tuple[Any, ...]] = []

    def make() -> tuple[Any, ...]:
        made.append((Sized(each), 3))
        return made[-1]

    work = Work.of(nothing, (), make)
    assert work.sets == tuple(made)
    assert len(made) == calls


def test_all_arguments_of_a_set_count_for_its_size() -> None:
    work = Work.of(nothing, (), lambda: (Sized(ROTATED_BYTES // 4), Sized(ROTATED_BYTES // 4)))
    assert len(work.sets) == 2


@pytest.mark.parametrize("made", [(), (1, 2.5, "text"), (Sized(0),)])
def test_inputs_without_a_size_are_made_once(made: tuple[Any, ...]) -> None:
    assert Work.of(nothing, (), lambda: made).sets == (made,)


def test_made_inputs_are_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROTATED_BYTES", 30)
    calls: list[Any] = []
    made = iter(Sized(10) for _ in range(100))
    work = Work.of(lambda value: calls.append(id(value)), (), lambda: (next(made),))
    work.bound(6)()
    assert len(work.sets) == 3
    assert len(set(calls)) == 3
    assert calls[:3] == calls[3:]
