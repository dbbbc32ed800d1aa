"""A server's output is kept as it comes, masked however it is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.serving.logs import TAIL_LINES, LogFile
from pytest_autotune.system.masking import MASK, Masker

SECRET = "hf_AbCdEf0123456789"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    found = LogFile(tmp_path / "deep" / "down" / "server.log", mask())
    yield found
    found.close()


def mask() -> Callable[[str], str]:
    masker = Masker()
    masker.learn_value(SECRET)
    return masker


def written(log: LogFile) -> str:
    log.close()
    return log.path.read_text("utf-8")


def test_whole_lines_are_written_at_once(log: LogFile) -> None:
    log.write(b"one\ntwo\nthr")
    assert log.path.read_text() == "one\ntwo\n"
    log.write(b"ee\n")
    assert log.path.read_text() == "one\ntwo\nthree\n"


def test_the_last_line_is_shown_before_it_has_an_end_and_kept_without_one(log: LogFile) -> None:
    log.write(b"one\ntwo")
    assert log.text() == "one\ntwo"
    assert log.tail() == "one\ntwo"
    assert written(log) == "one\ntwo\n"
    assert log.text() == "one\ntwo\n"


def test_an_empty_log_is_empty(log: LogFile) -> None:
    assert (log.text(), log.tail(), log.tail(3)) == ("", "", "")
    assert written(log) == ""


def test_a_log_may_be_closed_twice_and_written_to_afterwards(log: LogFile) -> None:
    log.write(b"one\n")
    log.close()
    log.close()
    log.write(b"too late\n")
    assert log.path.read_text() == "one\n"


def test_secrets_are_masked(log: LogFile) -> None:
    log.write(f"token={SECRET}\nand {SECRET}".encode())
    assert log.text() == f"token={MASK}\nand {MASK}"
    assert log.tail() == f"token={MASK}\nand {MASK}"
    assert written(log) == f"token={MASK}\nand {MASK}\n"


def test_a_secret_may_be_cut_at_every_byte(tmp_path: Path) -> None:
    raw = f"a {SECRET} b\n".encode()
    for at in range(len(raw) + 1):
        log = LogFile(tmp_path / f"{at}.log", mask())
        log.write(raw[:at])
        log.write(raw[at:])
        assert written(log) == f"a {MASK} b\n"


@pytest.mark.parametrize("cut", [1, 5, 10, 18])
@pytest.mark.parametrize("size", [65535, 65536, 65537, 70_000, 131_073])
def test_a_secret_is_masked_wherever_a_line_without_end_is_cut(
    tmp_path: Path, size: int, cut: int
) -> None:
    log = LogFile(tmp_path / "server.log", mask())
    log.write(b"x" * (size - cut) + SECRET[:cut].encode())
    log.write(SECRET[cut:].encode() + b"y" * 500 + b"\nnext\n")
    text = written(log)
    assert text.endswith("y\nnext\n")
    # Where the long line is broken is of no concern.
    assert "".join(text.split("\n")) == "x" * (size - cut) + MASK + "y" * 500 + "next"


def test_a_line_without_end_does_not_fill_the_memory(log: LogFile) -> None:
    for _ in range(100):
        log.write(b"\r 50% |#####     | 1/2" * 300)
    assert len(log._rest) <= 200_000
    assert log.path.stat().st_size > 300_000


def test_a_log_without_end_keeps_its_start_and_its_end(log: LogFile) -> None:
    for number in range(0, 1_000_000, 1000):
        log.write(
            "".join(f"line {n:07} {'x' * 100}\n" for n in range(number, number + 1000)).encode()
        )
        assert log.path.stat().st_size <= 17 << 20
    lines = written(log).splitlines()
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    (note,) = (line for line in lines if not line.startswith("line "))
    at = lines.index(note)
    assert numbers[:at] == list(range(at))
    assert numbers[at:] == list(range(1_000_000 - len(numbers) + at, 1_000_000))
    missing = (1_000_000 - len(numbers)) * 114 >> 20
    assert note == f"[{missing} MiB of this log are left out here, as it is too long]"
    assert at * 114 > 3 << 20
    assert (len(numbers) - at) * 114 > 3 << 20


def test_a_full_disk_keeps_nobody_from_reading_on(log: LogFile) -> None:
    log._file.close()
    log._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - closed with the log
    log.write(b"one\ntwo\n")
    assert log.tail() == "one\ntwo"


@pytest.mark.parametrize("megabytes", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_line_without_end_fills_neither_memory_nor_disk(log: LogFile, megabytes: int) -> None:
    for _ in range(megabytes << 4):
        log.write(b"x" * 65536)
    assert len(log._rest) <= 200_000
    assert sum(map(len, log.tail().split("\n"))) < 8 << 20
    assert log.path.stat().st_size <= 17 << 20
    log.write(b"\nlast\n")
    assert log.tail(1) == "last"


@pytest.mark.parametrize("text", ["naïve ☃ 😀", "日本語", "a\u0301"])
def test_letters_may_be_cut_in_the_middle(tmp_path: Path, text: str) -> None:
    raw = f"{text}\n".encode()
    for at in range(len(raw) + 1):
        log = LogFile(tmp_path / f"{at}.log", mask())
        log.write(raw[:at])
        log.write(raw[at:])
        assert written(log) == f"{text}\n"


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe bin\n", b"caf\xc3\n", b"\xed\xa0\x80\n", b"\x00\x1b[31m\n"]
)
def test_bytes_that_are_no_text_do_no_harm(log: LogFile, raw: bytes) -> None:
    log.write(raw + b"next\n")
    assert log.text().endswith("\nnext\n")
    assert written(log).endswith("\nnext\n")


def test_half_a_letter_at_the_end_does_no_harm(log: LogFile) -> None:
    log.write("the end: é".encode()[:-1])
    assert written(log).startswith("the end: ")


def test_ends_of_lines_of_windows_are_ends_of_lines(log: LogFile) -> None:
    log.write(b"one\r\ntwo\r")
    log.write(b"\nthree\r\n")
    assert log.tail() == "one\ntwo\nthree"
    assert written(log) == "one\ntwo\nthree\n"


def test_the_tail_is_the_last_lines(log: LogFile) -> None:
    log.write("".join(f"line {n}\n" for n in range(500)).encode())
    assert log.tail(2) == "line 498\nline 499"
    assert log.tail().split("\n") == [f"line {n}" for n in range(500 - TAIL_LINES, 500)]
    assert log.tail(10_000) == log.tail()
    assert log.tail(0) == ""
    log.write(b"last")
    assert log.tail(2) == "line 499\nlast"


def test_empty_lines_are_lines(log: LogFile) -> None:
    log.write(b"\n\na\n\n")
    assert log.tail() == "\n\na\n"
    assert written(log) == "\n\na\n\n"


def test_a_new_log_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    for text in ("old and longer", "new"):
        log = LogFile(path, str)
        log.write(text.encode())
        log.close()
    assert path.read_text() == "new\n"


def test_threads_do_not_mix_their_lines(log: LogFile) -> None:
    def write(letter: str) -> None:
        for _ in range(200):
            log.write(f"{letter * 50}\n".encode())

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for _ in range(20):
        log.tail()
        log.text()
    for thread in threads:
        thread.join()
    lines = written(log).splitlines()
    assert len(lines) == 800
    assert all(len(set(line)) == 1 and len(line) == 50 for line in lines)


@given(
    text=st.lists(st.sampled_from(["a", "é", "☃", "\n", " ", SECRET]), max_size=40).map("".join),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_however_output_is_cut_the_log_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, text: str, cuts: list[int]
) -> None:
    raw = text.encode()
    at = sorted(cut % (len(raw) + 1) for cut in cuts)
    log = LogFile(tmp_path_factory.getbasetemp() / "any.log", mask())
    for start, end in zip([0, *at], [*at, len(raw)], strict=True):
        log.write(raw[start:end])
        log.tail()
    expected = text.replace(SECRET, MASK)
    assert log.text() == expected
    assert written(log) == expected + ("\n" if text and not text.endswith("\n") else "")
