"""A decoder-only transformer with random weights, in NumPy.

Rotary positions, root mean square normalization, and a gated MLP: in shape, a very small Llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a model is, and how long its texts may get."""

    layers: int
    hidden: int
    heads: int
    vocab: int
    max_length: int

    @property
    def dim(self) -> int:
        """The size of a head."""
        return self.hidden // self.heads

    @property
    def inner(self) -> int:
        """The width of the MLP: about 8/3 of ``hidden``, as three matrices share its weights."""
        return -(-8 * self.hidden // 3 // 64) * 64


class Cache:
    """The keys and values of one text, with room for ``capacity`` tokens."""

    def __init__(self, shape: Shape, capacity: int) -> None:
        size = (shape.layers, shape.heads, capacity, shape.dim)
        self.keys: Float32 = np.empty(size, np.float32)
        self.values: Float32 = np.empty(size, np.float32)
        self.length = 0


@dataclass(frozen=True)
class Layer:
    """The weights of a layer. Matrices with the same input are joined into one."""

    qkv: Float32
    out: Float32
    gate_up: Float32
    down: Float32


class Model:
    """The same weights for the same shape, always."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._rng = np.random.default_rng(0)
        hidden, inner = shape.hidden, shape.inner
        self._embedding = self._weights(shape.vocab, hidden) * np.float32(shape.vocab**0.5)
        self._layers = [
            Layer(
                qkv=self._weights(hidden, 3 * hidden),
                out=self._weights(hidden, hidden),
                gate_up=self._weights(hidden, 2 * inner),
                down=self._weights(inner, hidden),
            )
            for _ in range(shape.layers)
        ]
        self._head = self._weights(hidden, shape.vocab)
        frequencies = 10_000 ** (-np.arange(0, shape.dim, 2) / shape.dim)
        angles = np.outer(np.arange(shape.max_length), frequencies)[:, np.newaxis, np.newaxis]
        self._cos, self._sin = np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)
        # So that the first request does not pay for what is set up on first use.
        length = min(shape.max_length, 64)
        self.forward([([0] * length, Cache(shape, length))])

    def forward(self, batch: Sequence[tuple[Sequence[int], Cache]]) -> Float32:
        """Append tokens to each text of the batch; return the logits after the last of each.

        One text may get one token and another a whole prompt. Everything but attention is
        computed for all tokens at once, so every weight is read once, however many there are.
        """
        stops = np.cumsum([len(tokens) for tokens, _ in batch])
        parts = [
            (slice(stop - len(tokens), stop), cache)
            for stop, (tokens, cache) in zip(stops, batch, strict=True)
        ]
        x = self._embedding[[token for tokens, _ in batch for token in tokens]]
        positions = np.concatenate(
            [np.arange(cache.length, cache.length + len(tokens)) for tokens, cache in batch]
        )
        rotation = self._cos[positions], self._sin[positions]
        longest = max(len(tokens) for tokens, _ in batch)
        future = np.triu(np.full((longest, longest), -np.inf, np.float32), k=1)
        for index, layer in enumerate(self._layers):
            qkv = _project(_normalize(x), layer.qkv)
            x += _project(self._attend(qkv, index, parts, rotation, future), layer.out)
            x += _project(_gated(_project(_normalize(x), layer.gate_up)), layer.down)
        for tokens, cache in batch:
            cache.length += len(tokens)
        return _project(_normalize(x[stops - 1]), self._head)

    def _attend(
        self,
        qkv: Float32,
        layer: int,
        parts: list[tuple[slice, Cache]],
        rotation: tuple[Float32, Float32],
        future: Float32,
    ) -> Float32:
        """Return the attention of each part of the batch to its own text."""
        qkv = qkv.reshape(len(qkv), 3, self.shape.heads, self.shape.dim)
        qk = _rotate(qkv[:, :2], *rotation)
        # Heads first, because each of them is a product of matrices of its own.
        queries, keys = qk[:, 0].swapaxes(0, 1), qk[:, 1].swapaxes(0, 1)
        queries = queries * np.float32(self.shape.dim**-0.5)
        values = qkv[:, 2].swapaxes(0, 1)
        out = np.empty((len(qkv), self.shape.heads, self.shape.dim), np.float32)
        for part, cache in parts:
            count = part.stop - part.start
            length = cache.length + count
            cache.keys[layer, :, cache.length : length] = keys[:, part]
            cache.values[layer, :, cache.length : length] = values[:, part]
            scores = queries[:, part] @ cache.keys[layer, :, :length].swapaxes(1, 2)
            if count > 1:
                scores[:, :, cache.length :] += future[:count, :count]
            scores -= scores.max(axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=2, keepdims=True)
            out[part] = (scores @ cache.values[layer, :, :length]).swapaxes(0, 1)
        return out.reshape(len(qkv), self.shape.hidden)

    def _weights(self, rows: int, columns: int) -> Float32:
        """Return a matrix that keeps the variance of what it is multiplied with."""
        # Uniform, because that takes a fraction of the time of a normal distribution.
        uniform = self._rng.random((rows, columns), dtype=np.float32)
        uniform -= np.float32(0.5)
        uniform *= np.float32((12 / rows) ** 0.5)
        return uniform


def _project(x: Float32, weights: Float32) -> Float32:
    """Return ``x @ weights``, in the faster of two ways."""
    if len(x) > 3:
        return x @ weights
    # For few rows, a product of matrices is mostly a rearrangement of the weights. A product per
    # row does without, and from the second row on finds the weights in the processor's cache.
    rows: Float32 = x[:, np.newaxis] @ weights
    return rows[:, 0]


def _normalize(x: Float32) -> Float32:
    scale: Float32 = np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(1e-6))
    return x / scale


def _rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Turn pairs of components by angles that grow with the position of a token."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _gated(gate_up: Float32) -> Float32:
    gate, up = np.split(gate_up, 2, axis=1)
    out: Float32 = gate / (1 + np.exp(-gate)) * up
    return out
