"""Traffic scenarios: how many tokens go in and out, and when requests arrive.

The notation is genai-bench's: ``D(100,50)`` is 100 tokens in and 50 out; ``N(480,240)/(300,150)``
draws both from normal distributions (mean, standard deviation); ``U(50,100)/(200,250)`` draws
both uniformly (least, most), and ``U(100,250)`` from 1 to 100 in and from 1 to 250 out.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

_NUMBER: Final = r"\s*(\d+(?:\.\d+)?)\s*"
_PAIR: Final = rf"\({_NUMBER},{_NUMBER}\)"
_SCENARIO: Final = re.compile(rf"^\s*([DNU])\s*{_PAIR}(?:\s*/\s*{_PAIR})?\s*$")
_MAX_TOKENS: Final = 10_000_000
FORMS: Final = "D(in,out), N(mean,std)/(mean,std), U(least,most)/(least,most) or U(most,most)"
Endpoint = Literal["chat", "completions"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts: fixed at ``a``; normal (a, b); uniform from a to b."""

    kind: Literal["fixed", "normal", "uniform"]
    a: float
    b: float = 0.0

    def draw(self, rng: random.Random) -> int:
        """Return a number of tokens, at least 1."""
        if self.kind == "fixed":
            return int(self.a)
        if self.kind == "normal":
            return max(1, round(rng.gauss(self.a, self.b)))
        return rng.randint(int(self.a), int(self.b))

    @property
    def stddev(self) -> float:
        """The standard deviation, clipping aside."""
        if self.kind == "uniform":
            return (self.b - self.a) / math.sqrt(12)
        return self.b

    @property
    def mean(self) -> float:
        """The mean, clipping aside."""
        return (self.a + self.b) / 2 if self.kind == "uniform" else self.a


@dataclass(frozen=True, slots=True)
class Scenario:
    """Token counts of the prompts and of the answers."""

    text: str
    input: Lengths
    output: Lengths

    @property
    def fixed(self) -> bool:
        """True if all requests want equally many tokens."""
        return self.input.kind == self.output.kind == "fixed"

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Parse a scenario; raise ValueError saying what is allowed."""
        match = _SCENARIO.match(text)
        if match is None:
            raise ValueError(f"{text!r} is no traffic scenario; known: {FORMS}")
        kind = match[1]
        first = float(match[2]), float(match[3])
        second = (float(match[4]), float(match[5])) if match[4] is not None else None
        if max(*first, *(second or (0.0,))) > _MAX_TOKENS:
            raise ValueError(f"{text!r} asks for more than {_MAX_TOKENS} tokens")
        if (kind == "D") == (second is not None) and kind != "U":
            raise ValueError(
                f"{text!r} has {'too many' if second else 'too few'} parts; known: {FORMS}"
            )
        name = "".join(text.split())
        if kind == "D":
            return cls(name, *(_fixed(value, text) for value in first))
        pairs = (first, second) if second is not None else ((1, first[0]), (1, first[1]))
        lengths = _normal if kind == "N" else _uniform
        return cls(name, *(lengths(pair, text) for pair in pairs))

    def draws(self, seed: str) -> Iterator[tuple[int, int]]:
        """Yield pairs of input and output tokens without end, the same for the same seed."""
        rng = random.Random(f"{seed}/{self.text}")  # noqa: S311 - no secret depends on it
        while True:
            yield self.input.draw(rng), self.output.draw(rng)


def _fixed(value: float, text: str) -> Lengths:
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r} needs whole numbers of tokens, at least 1")
    return Lengths("fixed", value)


def _normal(pair: tuple[float, float], text: str) -> Lengths:
    if pair[0] < 1:
        raise ValueError(f"{text!r} needs a mean of at least 1 token")
    return Lengths("normal", *pair)


def _uniform(pair: tuple[float, float], text: str) -> Lengths:
    least, most = pair
    if least < 1 or most < least or least != int(least) or most != int(most):
        raise ValueError(
            f"{text!r} needs whole numbers of tokens, the least (from 1) before the most"
        )
    return Lengths("uniform", *pair)
