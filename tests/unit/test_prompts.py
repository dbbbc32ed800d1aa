"""Prompts of as many tokens as asked for, the same for a seed, and no two alike."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.prompts import FileTokenizer, PromptSource, Tokenizer

# Words


@pytest.mark.parametrize("tokens", [1, 2, 10, 1000])
def test_without_a_tokenizer_a_prompt_has_as_many_words(tokens: int) -> None:
    text = PromptSource("0").text(tokens, 3)
    assert len(text.split()) == tokens
    assert text == " ".join(text.split())
    assert text.isascii()


def test_a_seed_and_a_number_make_a_prompt() -> None:
    assert PromptSource("0").text(50, 3) == PromptSource("0").text(50, 3)
    assert PromptSource("0").text(50, 3) != PromptSource("0").text(50, 4)
    assert PromptSource("0").text(50, 3) != PromptSource("1").text(50, 3)
    source = PromptSource("0")
    later = source.text(50, 9)
    assert source.text(50, 3) == PromptSource("0").text(50, 3)
    assert source.text(50, 9) == later


def test_no_two_prompts_are_alike_nor_begin_alike() -> None:
    source = PromptSource("0")
    texts = [source.text(32, index) for index in range(3000)]
    assert len(set(texts)) == 3000
    # A prefix cache keeps blocks of 16 tokens.
    assert len({" ".join(text.split()[:16]) for text in texts}) == 3000


# Tokenizers of our own, with what real ones do to their neighbours


class Letters:
    """Every letter is a token; ids are code points."""

    ordinary: Sequence[int] = tuple(map(ord, "abcdefghij"))

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Merging(Letters):
    """As byte pairs do: ``ab`` and ``cd`` become one token when a text is encoded."""

    PAIRS = ("ab", "cd", "ee")

    def encode(self, text: str) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            pair = text[at : at + 2]
            merged = pair in self.PAIRS
            ids.append(1000 + self.PAIRS.index(pair) if merged else ord(text[at]))
            at += 2 if merged else 1
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.PAIRS[i - 1000] if i >= 1000 else chr(i) for i in ids)


class Splitting(Letters):
    """Ordinary tokens are words of three letters, which come back as single letters."""

    ordinary: Sequence[int] = tuple(range(2000, 2010))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("xyz" if i >= 2000 else chr(i) for i in ids)


class Spacing(Letters):
    """As SentencePiece does: a blank is put before a text, and it is a token."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, f" {text}"))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids)).removeprefix(" ")


class Growing(Letters):
    """Whatever is decoded comes back three times as long: nothing can be made to fit."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(3 * chr(i) for i in ids)


@pytest.mark.parametrize("kind", [Letters, Merging, Splitting, Spacing])
@pytest.mark.parametrize("tokens", [2, 7, 100, 1000])
def test_with_a_tokenizer_a_prompt_has_exactly_as_many_tokens(
    kind: type[Letters], tokens: int
) -> None:
    tokenizer: Tokenizer = kind()
    source = PromptSource("0", tokenizer)
    for index in range(10):
        text = source.text(tokens, index)
        assert text
        assert len(tokenizer.encode(text)) == tokens


@given(st.integers(1, 80), st.integers(0, 10**6))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_merging_neighbours_are_made_up_for(tokens: int, index: int) -> None:
    text = PromptSource("0", Merging()).text(tokens, index)
    assert len(Merging().encode(text)) == tokens


@pytest.mark.parametrize("tokens", [1, 5, 50])
def test_what_cannot_be_made_to_fit_is_as_close_as_it_gets(tokens: int) -> None:
    text = PromptSource("0", Growing()).text(tokens, 0)
    assert text
    assert len(text) <= 3 * tokens


def test_prompts_of_a_tokenizer_are_the_same_for_a_seed_and_no_two_alike() -> None:
    texts = [PromptSource("0", Merging()).text(30, index) for index in range(500)]
    assert texts == [PromptSource("0", Merging()).text(30, index) for index in range(500)]
    assert len(set(texts)) == 500
    assert texts[0] != PromptSource("1", Merging()).text(30, 0)


# A real one


def make_file(folder: Path, kind: str) -> Path:
    """Train a small tokenizer, with special tokens, and save it."""
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(0)
    words = ["the", "water", "running", "jumped", "over", "lazily", "naïve", "123", "tokens", "x"]
    lines = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    special = ["<s>", "</s>", "<pad>"]
    trainer: Any
    if kind == "byte-level":
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        tokenizer.decoder = tokenizers.decoders.Metaspace()
        trainer = tokenizers.trainers.UnigramTrainer(
            vocab_size=60, special_tokens=special, unk_token="<s>", show_progress=False
        )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in special[:2]],
    )
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", ["byte-level", "pieces"])
def test_a_real_tokenizer_counts_exactly_as_many_tokens(tmp_path: Path, kind: str) -> None:
    folder = make_file(tmp_path / "model", kind)
    tokenizer = FileTokenizer(str(folder))
    source = PromptSource("0", tokenizer)
    # A letter of this kind has a piece for the blank before it.
    lengths = [2, 3, 17, 128, 1000] if kind == "pieces" else [1, 2, 3, 17, 128, 1000]
    texts = [source.text(tokens, index) for index, tokens in enumerate(lengths)]
    assert [len(tokenizer.encode(text)) for text in texts] == lengths
    assert all(text.isascii() and text.strip() for text in texts)
    # What the engine would count, without the special tokens that it adds.
    import tokenizers

    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [len(engine.encode(text).ids) - 2 for text in texts] == lengths


@pytest.mark.parametrize("kind", ["byte-level", "pieces"])
def test_prompts_have_no_special_tokens(tmp_path: Path, kind: str) -> None:
    tokenizer = FileTokenizer(str(make_file(tmp_path / "model", kind)))
    assert tokenizer.ordinary
    special = {0, 1, 2}
    assert {tokenizer.decode([i]) for i in special} == {""}
    assert not special & set(tokenizer.ordinary)
    for index in range(20):
        text = PromptSource("0", tokenizer).text(50, index)
        assert "<" not in text
        assert not special & set(tokenizer.encode(text))


def test_a_tokenizer_may_be_a_folder_or_a_file(tmp_path: Path) -> None:
    folder = make_file(tmp_path / "model", "byte-level")
    by_folder, by_file = FileTokenizer(str(folder)), FileTokenizer(str(folder / "tokenizer.json"))
    assert by_folder.ordinary == by_file.ordinary
    assert PromptSource("0", by_folder).text(9, 0) == PromptSource("0", by_file).text(9, 0)


def test_a_tokenizer_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file(tmp_path / "model", "byte-level")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FileTokenizer("~/model").ordinary


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=r"there is no tokenizer\.json in ") as caught:
        FileTokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"version": "9"}), "\0\1"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    pytest.importorskip("tokenizers")
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="cannot be loaded: ") as caught:
        FileTokenizer(str(file))
    assert repr(str(file)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reason_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizers = pytest.importorskip("tokenizers")

    class Wordless:
        @staticmethod
        def from_pretrained(_: str) -> None:
            raise RuntimeError

    monkeypatch.setattr(tokenizers, "Tokenizer", Wordless)
    with pytest.raises(ValueError, match="'org/model' cannot be loaded"):
        FileTokenizer("org/model")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'pytest-autotune\[tokenizers\]'"):
        FileTokenizer("org/model")
