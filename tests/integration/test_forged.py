"""Names, values and words of others forge no line on the terminal, and break no JUnit file."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

Run = Callable[..., pytest.RunResult]
#: A line of its own, a command for the terminal, a character that XML lacks, another direction.
EVIL = "x\nall passed\x1b[2J\0\u202e"
SHOWN = r"x\nall passed\x1b[2J\x00\u202e"
BODY = f"""
def test_it(trial):
    trial.report({{"co\\x01st": 1, {EVIL!r}: 2, "notes": [{EVIL!r}]}})
    trial.report({{"mem\\x01": 0.5 * trial.params["x"]}})
    if trial.params["a"] == 2:
        trial.prune({EVIL!r})
"""
SPEC = {
    "parameters": {"a": [EVIL, 2], "b": [EVIL], "x": [1, 4]},
    "optimization": {"objective": "minimize:co\x01st", "strategy": "grid_search"},
    "slo": [{"metric": "mem\x01", "max": 1}, {"metric": EVIL, "max": 3}],
}


def harmless(result: pytest.RunResult) -> str:
    text = result.stdout.str() + result.stderr.str()
    assert not [line for line in text.splitlines() if line.startswith("all passed")]
    assert not set(text) & set("\x1b\0\x01\u202e")
    return text


@pytest.mark.parametrize("args", [("-v",), ("-n2", "-v"), ("--autotune-infeasible=xfail", "-rx")])
def test_a_study_with_evil_names_is_shown_in_escapes(
    pytester: pytest.Pytester, study: Run, args: tuple[str, ...]
) -> None:
    (pytester.path / "autotune.json").write_text(json.dumps({EVIL: SPEC}))
    result = study(
        f"pytestmark = pytest.mark.autotune({EVIL!r})\n{BODY}", "--junitxml=j.xml", *args
    )
    text = harmless(result)
    assert f"({SHOWN})" in text
    assert f"note     {SHOWN}" in text
    assert rf"best     trial 0: a={SHOWN} b={SHOWN} x=1" in text
    assert r"mem\x01" in text
    found = {each.get("name") for each in ET.parse("j.xml").iter("property")}
    assert r"autotune_co\x01st" in found


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({EVIL: {"nonsense": 1}}, f"autotune.json:1:31: /{SHOWN}/nonsense: unknown key"),
        ({EVIL: SPEC | {"parameters": {EVIL: [1]}}}, f"/{SHOWN}/parameters: "),
        ({f"{EVIL}2": SPEC}, f"known: {SHOWN}2"),
    ],
)
def test_an_error_with_evil_names_is_shown_in_escapes(
    pytester: pytest.Pytester, study: Run, document: object, said: str
) -> None:
    (pytester.path / "autotune.json").write_text(json.dumps(document, ensure_ascii=True))
    result = study(f"pytestmark = pytest.mark.autotune({EVIL!r})\n{BODY}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = harmless(result)
    assert said.partition(": ")[2] in text
