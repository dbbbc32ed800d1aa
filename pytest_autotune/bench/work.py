"""The callable under test with its inputs, and the check that calling it runs it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from pytest_autotune.errors import BenchmarkError

#: Arguments of one call.
Arguments: TypeAlias = tuple[Any, ...]

#: Made inputs are rotated over this many bytes, well beyond the last cache of any processor.
ROTATED_BYTES: Final = 512 * 2**20
_MAX_SETS: Final = 16


class Work:
    """Calls of one function, each with the next of its sets of arguments."""

    def __init__(self, function: Callable[..., object], sets: Sequence[Arguments]) -> None:
        self._function = function
        self.sets = tuple(sets)
        self._next: Iterator[Arguments] = itertools.cycle(self.sets)
        #: The result of the last call that was kept.
        self.last: object = None

    @classmethod
    def of(
        cls,
        function: Callable[..., object],
        arguments: Arguments,
        inputs: Callable[[], Arguments] | Sequence[Arguments] | None,
    ) -> Work:
        """Make the work of a measurement; raise :class:`BenchmarkError` for unusable functions.

        ``inputs`` are several sets of arguments, or a function that makes one. It is called
        until the sets are larger together than any cache, sixteen times at most.
        """
        _refuse(function)
        if inputs is None:
            return cls(function, [arguments])
        if arguments:
            raise BenchmarkError("give either arguments or inputs=, not both")
        if not callable(inputs) and not isinstance(inputs, Iterable):
            raise BenchmarkError(
                f"inputs={inputs!r}: give tuples of arguments, or a function that makes one"
            )
        sets = _made(inputs) if callable(inputs) else [_tuple(entry) for entry in inputs]
        if not sets:
            raise BenchmarkError("inputs= is empty; give at least one tuple of arguments")
        return cls(function, sets)

    def apart(self) -> list[Work]:
        """Return a work for each set of arguments."""
        return [Work(self._function, [arguments]) for arguments in self.sets]

    def bound(self, count: int, *, keep: bool = False) -> Callable[[], None]:
        """Return a function that makes the next ``count`` calls.

        It drops their results, so that the next call can use their memory again. With ``keep``
        the last result becomes :attr:`last`.
        """
        function, following = self._function, self._next
        if keep:

            def remember() -> None:
                for arguments in itertools.islice(following, count):
                    self.last = function(*arguments)

            return remember
        if len(self.sets) > 1:

            def rotate() -> None:
                for arguments in itertools.islice(following, count):
                    function(*arguments)

            return rotate
        (arguments,) = self.sets

        def repeat() -> None:
            for _ in itertools.repeat(None, count):
                function(*arguments)

        return repeat

    def __call__(self) -> object:
        """Make one call and return its result."""
        return self._function(*next(self._next))

    def first(self) -> object:
        """Make the first call, and refuse a function that is not run by calling it."""
        result = self()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise BenchmarkError(
                "the function returns an awaitable, so calling it does not run it; give a "
                "function that waits for it, such as lambda: loop.run_until_complete(work())"
            )
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise BenchmarkError(
                "the function returns a generator, so calling it does not run it; give a "
                "function that consumes it, such as lambda: list(work())"
            )
        return result


def _refuse(function: object) -> None:
    if not callable(function):
        raise BenchmarkError(
            f"{function!r} is not callable; give the function, not the result of calling it"
        )
    name = getattr(function, "__name__", repr(function))
    if inspect.iscoroutinefunction(function):
        raise BenchmarkError(
            f"{name} is a coroutine function, so calling it does not run it; give a function "
            f"that runs it, such as lambda: loop.run_until_complete({name}())"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise BenchmarkError(
            f"{name} is a generator function, so calling it does not run it; give a function "
            f"that consumes it, such as lambda: list({name}())"
        )


def _made(make: Callable[[], Arguments]) -> list[Arguments]:
    sets: list[Arguments] = []
    total = 0
    while len(sets) < _MAX_SETS:
        made = _tuple(make())
        sets.append(made)
        size = sum(int(getattr(value, "nbytes", 0)) for value in made)
        total += size
        if not size or total >= ROTATED_BYTES:
            break
    return sets


def _tuple(arguments: object) -> Arguments:
    if isinstance(arguments, tuple):
        return arguments
    raise BenchmarkError(f"inputs are tuples of arguments, and {type(arguments).__name__} is none")
