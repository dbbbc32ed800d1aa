"""A safe evaluator for constraints and ``when`` conditions.

Expressions are parsed by :mod:`ast`, checked against a whitelist and turned into closures.
Nothing is ever handed to ``eval`` or ``exec``. There are no attributes, no subscripts, and no
calls outside the short list of functions below: a spec file cannot run code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_autotune.errors import ExpressionError

Scope = Mapping[str, Any]
Evaluator = Callable[[Scope], Any]

MAX_LENGTH: Final = 1000
MAX_EXPONENT: Final = 64
MAX_MAGNITUDE: Final = 1e300
#: Rounding to more digits than a number has would first make a number of so many.
MAX_DIGITS: Final = 400


def _round(number: Any, digits: Any = None) -> Any:
    if digits is not None and abs(digits) > MAX_DIGITS:
        raise ValueError(f"{digits} digits are more than {MAX_DIGITS}")
    return round(number, digits)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "abs": abs,
    "ceil": math.ceil,
    "float": float,
    "floor": math.floor,
    "int": int,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _round,
}

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(f"exponent {exponent} is larger than {MAX_EXPONENT}")
    return base**exponent


_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def identifier(name: str) -> str:
    """Return the name by which an expression calls a parameter: ``tp-size`` is ``tp_size``."""
    return name.replace("-", "_").replace(".", "_")


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed predicate over parameters, such as ``tp_size * pp_size <= gpus``.

    ``names`` are the identifiers it reads (functions left out), ``cost`` how much there is to do.
    """

    source: str
    names: frozenset[str]
    _evaluate: Evaluator = field(repr=False, compare=False)
    cost: int = field(repr=False, compare=False)

    @classmethod
    def parse(cls, source: str) -> Expression:
        """Parse ``source``; raise :class:`ExpressionError` naming the part that is not allowed."""
        if len(source) > MAX_LENGTH:
            raise ExpressionError(f"expression is longer than {MAX_LENGTH} characters")
        try:
            tree = ast.parse(source.strip(), mode="eval")
            names: set[str] = set()
            evaluate = _compile(tree.body, names)
        except SyntaxError as error:
            raise ExpressionError(f"cannot parse {source!r}: {error.msg}") from None
        except (RecursionError, MemoryError, ValueError) as error:
            raise ExpressionError(f"cannot parse {source!r}: {error}") from None
        cost = sum(isinstance(node, ast.expr) for node in ast.walk(tree))
        return cls(source.strip(), frozenset(names), evaluate, cost)

    def __call__(self, scope: Scope) -> bool:
        """Return whether the predicate holds for ``scope`` (identifier to value).

        Raises :class:`ExpressionError` where it cannot be evaluated, naming the values.
        """
        return bool(self.value(scope))

    def value(self, scope: Scope) -> Any:
        """Return the value for ``scope``; raise :class:`ExpressionError`."""
        try:
            return self._evaluate(scope)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            values = ", ".join(f"{name}={scope.get(name)!r}" for name in sorted(self.names))
            raise ExpressionError(
                f"cannot evaluate {self.source!r} for {values}: {error}", self.source
            ) from None


def satisfied(constraints: Iterable[Expression], scope: Scope) -> bool:
    """Return whether all hold; one that reads an inactive parameter has nothing to say."""
    return all(
        constraint(scope)
        for constraint in constraints
        if all(name in scope for name in constraint.names)
    )


def _compile(node: ast.expr, names: set[str]) -> Evaluator:
    match node:
        case ast.Constant(value=value) if isinstance(value, bool | int | float | str | None):
            return lambda _scope: value
        case ast.Name(id=name):
            names.add(name)
            return lambda scope: scope[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            items = [_compile(element, names) for element in elements]
            return lambda scope: [item(scope) for item in items]
        case ast.BoolOp(op=op, values=values):
            decide = all if isinstance(op, ast.And) else any
            parts = [_compile(value, names) for value in values]
            return lambda scope: decide(part(scope) for part in parts)
        case ast.UnaryOp(op=unary, operand=operand) if type(unary) in _UNARY:
            apply, inner = _UNARY[type(unary)], _compile(operand, names)
            return lambda scope: apply(inner(scope))
        case ast.BinOp(left=left, op=binary, right=right) if type(binary) in _ARITHMETIC:
            return _arithmetic(
                _ARITHMETIC[type(binary)], _compile(left, names), _compile(right, names)
            )
        case ast.Compare(left=left, ops=ops, comparators=rest):
            return _comparison(left, ops, rest, names)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, yes, no = (_compile(part, names) for part in (test, body, orelse))
            return lambda scope: yes(scope) if condition(scope) else no(scope)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function = FUNCTIONS[name]
            arguments = [_compile(arg, names) for arg in args]
            return lambda scope: function(*(argument(scope) for argument in arguments))
    described = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    raise ExpressionError(
        f"{described!r} is not allowed in an expression; use parameters, constants, "
        f"arithmetic, comparisons, and/or/not, and {', '.join(sorted(FUNCTIONS))}"
    )


def _arithmetic(apply: Callable[[Any, Any], Any], left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(scope: Scope) -> Any:
        a, b = left(scope), right(scope)
        # Numbers only: "x" * 10**9 or "%s" % … must not get through.
        for operand in (a, b):
            if not isinstance(operand, bool | int | float):
                raise TypeError(f"{operand!r} is not a number")
        result = apply(a, b)
        if isinstance(result, complex) or abs(result) > MAX_MAGNITUDE:
            raise ValueError(f"{a} and {b} give a number that is out of range")
        return result

    return evaluate


def _comparison(
    left: ast.expr, ops: list[ast.cmpop], rest: list[ast.expr], names: set[str]
) -> Evaluator:
    for op in ops:
        if type(op) not in _COMPARISONS:
            raise ExpressionError("'is' is not allowed in an expression; use == or !=")
    operands = [_compile(part, names) for part in (left, *rest)]
    compare = [_COMPARISONS[type(op)] for op in ops]

    def evaluate(scope: Scope) -> bool:
        value = operands[0](scope)
        for apply, operand in zip(compare, operands[1:], strict=True):
            other = operand(scope)
            if not apply(value, other):
                return False
            value = other
        return True

    return evaluate
