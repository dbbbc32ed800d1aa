"""Prompts of a given number of tokens, no two alike, so that no prefix cache answers them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

#: Short and common, so that most tokenizers make one token of each (with its space).
_WORDS: Final = """
    the of and to in is you that it he was for on are as with his they at be this have from or
    one had by word but not what all were we when your can said there use an each which she do
    how their if will up other about out many then them these so some her would make like him
    into time has look two more write go see number no way could people my than first water been
    call who oil its now find long down day did get come made may part over new sound take only
    little work know place year live me back give most very after thing our just name good man
    think say great where help through much before line right too mean old any same tell boy
    follow came want show also around form three small set put end does another well large must
    big even such because turn here why ask went men read need land home us move try kind hand
    picture again change off play air away animal house point page letter mother answer found
    study still learn should world high every near add food between own below country plant last
    school father keep tree never start city earth eye light thought head under story saw left
    few while along might close something seem next hard open example begin life always those
    both paper together got group often run important until children side feet car mile night
""".split()  # noqa: SIM905 - a list of them would be three hundred lines


class Tokenizer(Protocol):
    """A tokenizer that can make prompts of a given length."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, special tokens left out."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``."""

    @property
    def ordinary(self) -> Sequence[int]:
        """Ids of tokens that are plain words or parts of them."""


class FileTokenizer:
    """A Hugging Face ``tokenizer.json``, read by the ``tokenizers`` package."""

    def __init__(self, name: str) -> None:
        """Load from a folder, a file, or by a model's name from the hub (or its local cache).

        Raises ValueError saying what is missing.
        """
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError:
            raise ValueError(
                "needs the package 'tokenizers': pip install 'pytest-autotune[tokenizers]'"
            ) from None
        path = Path(name).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise ValueError(f"there is no tokenizer.json in {path}")
        try:
            read = Backend.from_file if file.is_file() else Backend.from_pretrained
            self._backend: Any = read(str(file) if file.is_file() else name)
        except Exception as error:  # noqa: BLE001 - all that the package raises for a bad file
            raise ValueError(f"{name!r} cannot be loaded: {_first_line(error)}") from None
        special = {
            number
            for number, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        }
        ids = range(self._backend.get_vocab_size(with_added_tokens=True))
        plain = [i for i in ids if i not in special and _is_plain(self._backend.decode([i]))]
        self.ordinary = plain or [i for i in ids if i not in special]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, special tokens left out."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``."""
        return str(self._backend.decode(list(ids)))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _is_plain(text: str) -> bool:
    return bool(text.strip()) and text.isascii() and text.strip().isalnum()


class PromptSource:
    """Makes the same prompts for the same seed.

    With a tokenizer a prompt has exactly the tokens that were asked for, wherever its text can
    be made to; without one it has as many common words.
    """

    def __init__(self, seed: str, tokenizer: Tokenizer | None = None) -> None:
        self._seed = seed
        self._tokenizer = tokenizer

    def text(self, tokens: int, index: int) -> str:
        """Return the ``index``-th prompt, as text of ``tokens`` tokens."""
        rng = random.Random(f"{self._seed}/prompt/{index}")  # noqa: S311 - no secret
        if self._tokenizer is None:
            return " ".join(rng.choices(_WORDS, k=tokens))
        return _fitted(self._tokenizer, tokens, rng)


_TRIES: Final = 8


def _fitted(tokenizer: Tokenizer, tokens: int, rng: random.Random) -> str:
    """Draw ids and mend the text until it encodes to ``tokens`` of them.

    Neighbours may merge or split when a text is encoded again, so it takes a few rounds.
    """
    ids = rng.choices(tokenizer.ordinary, k=tokens)
    best, distance = "", math.inf
    for _ in range(_TRIES):
        text = tokenizer.decode(ids)
        encoded = tokenizer.encode(text)
        if abs(len(encoded) - tokens) < distance:
            best, distance = text, abs(len(encoded) - tokens)
        if distance == 0:
            break
        ids = encoded[:tokens] + rng.choices(tokenizer.ordinary, k=max(0, tokens - len(encoded)))
    return best
