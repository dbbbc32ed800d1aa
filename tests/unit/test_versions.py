"""Versions that meet in one storage: what is older or newer is told apart, and never misread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from builders import ended, make_plan, make_spec, read_records

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.journal_lines import LAST_OPERATION, Tally
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy

SLOT = SlotRequest(id="slot")
NEWER = (
    "a newer pytest-autotune stored trials here, in format 4, which this version cannot read: they "
    "do not count; use one version on all runners"
)


def make(url: str | None) -> Plan:
    optimization = {"objective": "minimize:cost", "strategy": "random", "max_iterations": 4}
    spec = make_spec(parameters={"a": [1, 2, 3, 4]}, optimization=optimization)
    return make_plan(spec, storage=url)


def run(plan: Plan, folder: Path, session: str) -> SearchedStudy:
    """Measure one trial, and close the study."""
    study = SearchedStudy(plan, folder, session=session, started=0.0)
    claim = study.claim(SLOT)
    assert isinstance(claim, TrialRecord)
    study.finish(ended(claim, plan, metrics={"cost": float(claim.params["a"])}))
    study.close()
    return study


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plan]:
    if request.param == "journal":
        yield make(None)
    elif request.param == "sqlite":
        yield make(f"sqlite:///{tmp_path / 'studies.db'}")
    else:
        yield make(request.getfixturevalue("postgres_url"))


def test_a_newer_format_is_left_alone_and_told_of_each_time(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pytest_autotune.study.catalogue._FORMAT", 4)
        run(plan, tmp_path, "newer")
    assert run(plan, tmp_path, "one").notices == (NEWER,)
    # Both may be in use, so it is not said to the first run only.
    study = run(plan, tmp_path, "two")
    assert study.notices == (NEWER,)
    assert len(read_records(plan, tmp_path)) == 2
    with monkeypatch.context() as patch:
        patch.setattr("pytest_autotune.study.catalogue._FORMAT", 4)
        # Nor does the newer one count those.
        assert len(read_records(plan, tmp_path)) == 1
        assert run(plan, tmp_path, "newer again").notices == ()


def test_a_newer_study_may_be_recorded_in_any_way(tmp_path: Path) -> None:
    plan = make(None)
    run(plan, tmp_path, "one")
    study = SearchedStudy(plan, tmp_path, session="two", started=0.0)
    id_ = study._storage.create_new_study([], f"{plan.label} #future")
    study._storage.set_study_user_attr(id_, "autotune:code", {"anything": [1]})
    study._storage.set_study_user_attr(id_, "autotune:key", {"format": 99})
    study.close()
    assert "in format 99" in run(plan, tmp_path, "three").notices[0]


def test_tables_of_another_optuna_are_an_error_that_says_so(tmp_path: Path) -> None:
    plan = make(f"sqlite:///{tmp_path / 'studies.db'}")
    run(plan, tmp_path, "one")
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(StorageError, match=r"studies.db' cannot be opened: .*optuna.*pip install"):
        run(plan, tmp_path, "two")


def test_an_entry_of_a_newer_version_is_no_damage(tmp_path: Path) -> None:
    plan = make(None)
    run(plan, tmp_path, "one")
    (journal,) = tmp_path.glob("*/trials.journal")
    study = SearchedStudy(plan, tmp_path, session="two", started=0.0)
    number = len(journal.read_bytes().splitlines())
    entry = {"op_code": LAST_OPERATION + 1, "worker_id": "w", "news": True}
    with journal.open("ab") as file:
        file.write(Tally(entries=number).line(entry))
    newer = journal.read_bytes()
    what = rf"line {number + 1} of the trial log .* was written by a newer version; upgrade"
    # Both where a study is open already, and where one is opened.
    with pytest.raises(StorageError, match=what):
        study.claim(SLOT)
    study.close()
    with pytest.raises(StorageError, match=what):
        SearchedStudy(plan, tmp_path, session="three", started=0.0)
    assert journal.read_bytes() == newer
    assert not list(journal.parent.glob("*.damaged-*"))
