"""Text to token ids and back. A word is a token.

The vocabulary consists of made-up words: ``babe``, ``dibe``, ``zufo``. Each of these is a token,
and anything else between two spaces is mapped to one of them by its checksum. So a prompt of N
words has N tokens, whatever the words are, and what the model wrote is read back as the tokens
that it generated. Foreign words are lost on a model with random weights anyway.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The token that ends a text.
EOS = 0

_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
#: Every word has two syllables.
MAX_VOCAB = len(_SYLLABLES) ** 2


class Tokenizer:
    """A vocabulary of ``size`` words, the end of a text included."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._words = [
            _SYLLABLES[token % len(_SYLLABLES)] + _SYLLABLES[token // len(_SYLLABLES)]
            for token in range(size)
        ]
        self._words[EOS] = "<eos>"
        self._tokens = {word: token for token, word in enumerate(self._words)}

    def encode(self, text: str) -> list[int]:
        """Return a token for each word."""
        return [self._token(word) for word in text.split()]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the words, each after a space, so that parts of a text can be joined."""
        return "".join(f" {self._words[token]}" for token in tokens)

    def _token(self, word: str) -> int:
        known = self._tokens.get(word)
        if known is not None:
            return known
        # JSON can smuggle in half of a surrogate pair, which strict UTF-8 has no bytes for.
        return 1 + zlib.crc32(word.encode(errors="surrogatepass")) % (self.size - 1)
