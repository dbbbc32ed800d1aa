"""Studies that earlier versions stored: today's run goes on with them, or says why not.

``tests/unit/data/stored`` says how they were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from project import Study

from pytest_autotune.study.environment import fingerprint

STORED: Final = Path(__file__).parents[1] / "unit" / "data" / "stored"
LABEL: Final = "test_stored.py"
ENVIRONMENT: Final = re.compile(r'"environment": ?\{[^}]*\}')


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    found = Study(tmp_path)
    source = (STORED / "test_stored.py.txt").read_bytes()
    (tmp_path / "test_stored.py").write_bytes(source)
    yield found
    found.stop()


def of_this_machine(name: str) -> str:
    """Return a stored study as if this machine had measured it."""
    text = (STORED / name).read_text("utf-8")
    here = f'"environment": {json.dumps(dict(fingerprint()))}'
    if name.endswith(".sql"):
        here = here.replace("'", "''")
    found, count = ENVIRONMENT.subn(lambda _: here, text)
    assert count == 1
    return found


def restore(url: str, *names: str) -> None:
    """Make the tables of a database, and fill them with the rows of the last of the files."""
    psycopg = pytest.importorskip("psycopg")
    tables = (STORED / "format-3.sql").read_text("utf-8").splitlines()
    rows = of_this_machine(names[-1]).splitlines()
    lines = [line for line in tables if not line.startswith("INSERT")]
    # References are checked by constraints, which a dump adds after the rows.
    at = next(at for at, line in enumerate(lines) if "ADD CONSTRAINT" in line) - 1
    lines[at:at] = [line for line in rows if line.startswith("INSERT")]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("\n".join(lines))


@pytest.mark.parametrize("storage", ["journal", "postgres"])
def test_a_study_of_this_format_goes_on(
    study: Study, storage: str, request: pytest.FixtureRequest
) -> None:
    args = ["--autotune-seed", "2", "--autotune-trials", "8"]
    if storage == "journal":
        place = study.path / ".pytest_cache" / "autotune" / "test-stored-py-6e8b54ff"
        place.mkdir(parents=True)
        (place / "trials.journal").write_text(of_this_machine("format-3.journal"), "utf-8")
    else:
        url = request.getfixturevalue("postgres_url")
        restore(url, "format-3.sql")
        args += ["--autotune-storage", url]
    text = study.run(*args, status=0)
    # Only the trial whose process had died is left, and run again with the same parameters.
    assert (study.path / "measured.log").read_text("utf-8").splitlines() == ["5 x"]
    assert "a new study was started" not in text
    assert (
        "trials   8 of 8: 4 feasible, 2 infeasible, 1 failed, 1 skipped; 7 of them in earlier runs"
    ) in text
    assert "best     trial 6: a=1 name=ü" in text
    assert "note     measured with care" in text
    assert "failures 1 × AssertionError: wrong answer (trial 2)" in text


def test_a_study_of_an_earlier_format_is_left_alone_with_a_note(
    study: Study, postgres_url: str
) -> None:
    restore(postgres_url, "format-2.sql")
    args = ("--autotune-seed", "2", "--autotune-trials", "2", "--autotune-storage", postgres_url)
    text = study.run(*args, status=(0, 1))
    assert (
        "note     a new study was started, because another version of pytest-autotune stored the "
        "earlier trials"
    ) in text
    assert "trials   2 of 2" in text
    assert "earlier runs" not in text
    assert len((study.path / "measured.log").read_text("utf-8").splitlines()) == 2
    # What the earlier version stored is as it was: it can go on with it.
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        query = "SELECT study_id, count(*) FROM trials GROUP BY study_id ORDER BY study_id"
        counts = connection.execute(query).fetchall()
    assert counts == [(1, 8), (2, 2)]
