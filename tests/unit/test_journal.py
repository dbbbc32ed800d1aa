"""Journals: lines with checksums, those of earlier versions, and repair of damaged ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import ended, read_records
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.storage import open_database

SPEC: Mapping[str, Any] = {
    "parameters": {"a": list(range(8)), "b": {"type": "integer", "low": 1, "high": 8}},
    "optimization": {"objective": "minimize:cost", "max_iterations": 6, "strategy": "random"},
    "slo": [{"metric": "mem", "max": 8}],
}
SLOT = SlotRequest(id="trial-000")
Run = Callable[..., SearchedStudy]


def _plan(*, fresh: bool = False, keep: bool = False, **changes: Any) -> Plan:
    spec = load_inline("x", {**SPEC, **changes}, "test")
    return Plan.make("test_x.py", spec, Settings(fresh=fresh, keep=keep))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a study to its end; gives it open, as a session of its own."""
    opened: list[SearchedStudy] = []

    def run_(**changes: Any) -> SearchedStudy:
        if opened:
            opened[-1].close()
        session = str(len(opened))
        study = SearchedStudy(_plan(**changes), tmp_path, session=session, started=time.monotonic())
        opened.append(study)
        while isinstance(claim := study.claim(SLOT), TrialRecord):
            a, b = claim.params["a"], claim.params["b"]
            study.finish(ended(claim, study.plan, metrics={"cost": a + b, "mem": b}))
        return study

    yield run_
    for study in opened:
        study.close()


@pytest.fixture
def journal(run: Run, tmp_path: Path) -> Path:
    """The journal of a study that was run to its end."""
    run().close()
    (path,) = tmp_path.glob("*/trials.journal")
    return path


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _make_older(path: Path) -> None:
    """Take away what earlier versions did not write."""
    entries = [json.loads(line) for line in _lines(path)]
    for entry in entries:
        for name in ("line", "check", "number"):
            entry.pop(name, None)
        if entry["op_code"] == 0:
            entry.pop("study_id")
        if entry["op_code"] == 4:
            entry.pop("trial_id")
    path.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in entries))


def _replace(path: Path, number: int, old: bytes, new: bytes) -> None:
    """Replace a part of a line."""
    lines = _lines(path)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    path.write_bytes(b"".join(lines))


def _number_of(path: Path, operation: int, nth: int = 0) -> int:
    """Return the number of a line by its operation."""
    found = [n for n, line in enumerate(_lines(path)) if json.loads(line)["op_code"] == operation]
    return found[nth]


def test_optuna_opens_it_and_may_add_to_it(journal: Path, run: Run) -> None:
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert len(study.trials) == 6
    study.set_user_attr("mine", 1)
    again = run(optimization={**SPEC["optimization"], "max_iterations": 8})
    assert len(again.records()) == 8
    assert [notice for notice in again.notices if "damaged" in notice] == []
    assert json.loads(_lines(journal)[-1])["line"] == len(_lines(journal)) - 1


def test_a_journal_of_an_earlier_version_goes_on(journal: Path, run: Run, tmp_path: Path) -> None:
    before = read_records(_plan(), tmp_path)
    _make_older(journal)
    assert read_records(_plan(), tmp_path) == before
    again = run(optimization={**SPEC["optimization"], "max_iterations": 8})
    assert len(again.records()) == 8
    assert again.notices == ()
    assert b"check" not in _lines(journal)[0]
    assert b"check" in _lines(journal)[-1]


@pytest.mark.parametrize("older", [False, True])
def test_a_distribution_that_optuna_does_not_know_costs_one_trial(
    journal: Path, run: Run, tmp_path: Path, *, older: bool
) -> None:
    before = read_records(_plan(), tmp_path)
    if older:
        _make_older(journal)
    line = _number_of(journal, 4, 2)
    _replace(journal, line, b"IntDistribution", b"IntDistribXtion")
    study = run()
    (notice,) = study.notices
    assert notice == (
        f"line {line + 1} of the trial log was damaged: the results of a trial were lost, and are "
        "measured again; all else was kept, the damaged file was saved as trials.damaged-1"
    )
    after = study.records()
    assert [record for record in after if record.number != 2] == [
        record for record in before if record.number != 2
    ]
    assert sorted(record.number for record in after) == [0, 1, 2, 3, 4, 5]
    assert run().notices == ()
    assert [path.name for path in journal.parent.glob("*.damaged-*")] == ["trials.damaged-1"]
    # Optuna itself opens what is left.
    JournalStorage(JournalFileBackend(str(journal)))


def test_a_changed_value_is_not_believed(journal: Path, run: Run, tmp_path: Path) -> None:
    before = {record.number: record for record in read_records(_plan(), tmp_path)}
    line = _number_of(journal, 8, 3)
    (digit,) = re.findall(rb'"cost":(\d)', _lines(journal)[line])
    changed = b"%d" % ((int(digit) + 1) % 10)
    _replace(journal, line, b'"cost":' + digit, b'"cost":' + changed)
    study = run()
    assert "the results of a trial were lost" in study.notices[0]
    kept = [record for record in study.records() if record.owner.attempt == 1]
    assert len(kept) == 5
    assert all(record == before[record.number] for record in kept)


@pytest.mark.parametrize("value", [b"[" * 100_000, b'{}, "line": "x"', b'{}, "line": 1000000000'])
def test_a_line_of_any_form_is_set_aside(journal: Path, run: Run, value: bytes) -> None:
    with journal.open("ab") as file:
        file.write(
            b'{"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": ' + value + b"}\n"
        )
    assert "was damaged" in run().notices[0]
    assert run().notices == ()


def test_a_fresh_start_works_on_a_damaged_journal(journal: Path, run: Run) -> None:
    _replace(
        journal, _number_of(journal, 4, 1), b"CategoricalDistribution", b"CategoricalDistributioX"
    )
    assert len(run(fresh=True).records()) == 6


def test_trials_that_another_study_keeps_stay_the_same_trials(
    journal: Path, run: Run, tmp_path: Path
) -> None:
    other = {"slo": [{"metric": "mem", "max": 7}]}
    before = {record.key: record for record in effective(run(**other).records())}
    assert len(before) == 6
    # The first study's third trial, which the second one keeps.
    _replace(journal, _number_of(journal, 4, 2), b"autotune:params", b"autotune:parxms")
    study = run(**other)
    after = [record for record in effective(study.records()) if record.owner.session == "0"]
    assert len(after) == 5
    assert all(record.measurement == before[record.key].measurement for record in after)
    assert len(effective(study.records())) == 6


def test_a_study_whose_code_may_be_lost_is_kept_only_if_asked_for(
    journal: Path, run: Run, tmp_path: Path
) -> None:
    number = next(n for n, line in enumerate(_lines(journal)) if b"autotune:search" in line)
    _replace(journal, number, b"autotune:search", b"autotune:seXrch")
    study = run()
    assert any("such as its code" in notice for notice in study.notices)
    assert any("--autotune-keep goes on" in notice for notice in study.notices)
    assert {record.owner.session for record in study.records()} == {"1"}


def test_a_disk_that_fills_up_leaves_whole_lines(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = SearchedStudy(
        _plan(optimization={**SPEC["optimization"], "max_iterations": 8}),
        tmp_path, session="late", started=time.monotonic(),
    )  # fmt: skip
    content = journal.read_bytes()
    monkeypatch.setattr("os.fsync", _no_space)
    with pytest.raises(StorageError, match="No space left"):
        study.claim(SLOT)
    assert journal.read_bytes() == content
    study.close()


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_no_lock_is_left_beside_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    for name, problem in (("passwd", "is not an SQLite database"), ("", "is not a file")):
        with pytest.raises(StorageError, match=problem):
            open_database(f"sqlite:///{tmp_path / name}", "study")
    assert [path.name for path in tmp_path.iterdir()] == ["passwd"]
    assert not tmp_path.with_name(f"{tmp_path.name}.locks").exists()
    open_database(f"sqlite:///{tmp_path / 'new.db'}", "study").close()
    open_database(f"sqlite:///{tmp_path / 'new.db'}", "study").close()
