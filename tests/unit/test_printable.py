"""Text of others does nothing to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.text.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("größer ≤ 3 µs, 日本語", "größer ≤ 3 µs, 日本語"),
        ("a\nall passed\r\n", r"a\nall passed\r\n"),
        ("\x1b]0;title\x07\x1b[2J\x1b[31mred", r"\x1b]0;title\x07\x1b[2J\x1b[31mred"),
        ("nul\0, tab\t, del\x7f, C1 \x9b31m", r"nul\x00, tab\t, del\x7f, C1 \x9b31m"),
        ("\u2028\u2029\x85\x0b\x0c\x1e", r"\u2028\u2029\x85\x0b\x0c\x1e"),
        ("\u202eevil\u2066x\u2069", r"\u202eevil\u2066x\u2069"),
        ("half \ud800", r"half \ud800"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("10\u00a0ms, می\u200cخواهم, 👩\u200d💻", "10\u00a0ms, می\u200cخواهم, 👩\u200d💻"),
    ],
)
def test_one_line_shows_every_character_that_is_not_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\n two\n", "one\n two"),
        ("\x1b[1;36mINFO\x1b[0m ready\tnow\x1b[2K", "INFO ready      now\\x1b[2K"),
        ("10 %\r20 %\r\ndone\x07", "10 %\n20 %\ndone\\x07"),
        ("a\u2028b\x0cc", "a\nb\nc"),
    ],
)
def test_lines_keep_their_breaks_and_lose_their_colours(text: str, shown: str) -> None:
    assert printable_lines(text) == shown


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(st.characters()))
def test_any_text_is_one_line_that_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()
    for line in printable_lines(text).split("\n"):
        assert printable(line) == line
