"""A journal with damage at any place: the next run works, and believes nothing that is damaged.

The long form flips 1,000 bytes and cuts at every byte of the last kilobyte.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from builders import ended
from sizes import size

from pytest_autotune.scoring.judgement import Ending
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings

TRIALS: Final = 20
SPEC: Final[Mapping[str, Any]] = {
    "parameters": {"a": list(range(8)), "b": {"type": "integer", "low": 1, "high": 8}},
    "optimization": {"objective": "minimize:cost", "max_iterations": TRIALS, "strategy": "random"},
    "slo": [{"metric": "mem", "max": 6}],
}
SLOT: Final = SlotRequest(id="trial-000")


def make_plan(*, fresh: bool = False) -> Plan:
    return Plan.make("test_x.py", load_inline("x", SPEC, "test"), Settings(fresh=fresh))


def run_study(folder: Path, session: str, *, fresh: bool = False) -> tuple[SearchedStudy, int]:
    """Run a study to its end, and close it; return it and the number of trials that it measured."""
    study = SearchedStudy(make_plan(fresh=fresh), folder, session=session, started=time.monotonic())
    measured = 0
    while isinstance(claim := study.claim(SLOT), TrialRecord):
        study.finish(_measured(study, claim))
        measured += 1
    return study, measured


def _measured(study: SearchedStudy, claim: TrialRecord) -> TrialRecord:
    a, b = claim.params["a"], claim.params["b"]
    if a == b:
        return ended(claim, study.plan, ending=Ending.FAILED, reason="boom")
    return ended(claim, study.plan, metrics={"cost": a * 1.25 + b, "mem": float(b)}, notes=("n",))


@dataclass(kw_only=True)
class Campaign:
    """What became of damaged copies of one journal."""

    folder: Path
    place: str
    content: bytes
    wanted: Mapping[int, TrialRecord]
    tally: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def try_(self, name: str, content: bytes) -> None:
        """Run the study on a damaged journal, twice, and note what is wrong."""
        shutil.rmtree(self.folder, ignore_errors=True)
        path = self.folder / self.place
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        try:
            self._try(name, path)
        except Exception as error:  # noqa: BLE001 - any is a finding
            self.wrong.append(f"{name}: {error!r}")
            self.tally["raw error"] += 1

    def _try(self, name: str, path: Path) -> None:
        content = path.read_bytes()
        first, measured = run_study(self.folder, "two")
        records = {record.number: record for record in first.records()}
        kept = {n: r for n, r in records.items() if r.owner.session == "one"}
        first.close()
        changed = [n for n, record in kept.items() if record != self.wanted.get(n)]
        if changed:
            self._note(name, "changed silently", changed)
        if len(records) != TRIALS or not all(record.finished for record in records.values()):
            self._note(name, "not whole", sorted(records))
        # Cut between two lines, it is as a run that was killed leaves it.
        if measured and not first.notices and not self._is_killed(content):
            self._note(name, "lost silently", measured)
        saved = len(list(path.parent.glob("*.damaged-*")))
        second, again = run_study(self.folder, "three")
        if again or any("damaged" in notice for notice in second.notices):
            self._note(name, "damaged again", second.notices)
        if len(list(path.parent.glob("*.damaged-*"))) > saved or saved > 1:
            self._note(name, "saved again", saved)
        second.close()
        self.tally["trials lost"] += measured
        self.tally["most lost"] = max(self.tally["most lost"], measured)
        self.tally["whole" if not measured else "some measured again"] += 1

    def _is_killed(self, content: bytes) -> bool:
        return self.content.startswith(content) and content.endswith(b"\n")

    def _note(self, name: str, what: str, details: object) -> None:
        self.tally[what] += 1
        self.wrong.append(f"{name}: {what}: {details}")

    def report(self) -> str:
        return f"{dict(self.tally)}\n" + "\n".join(self.wrong[:20])


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes, dict[int, TrialRecord]]:
    """Where a study's journal lies, what is in it, and the trials in that."""
    folder = tmp_path_factory.mktemp("whole")
    study, measured = run_study(folder, "one")
    assert measured == TRIALS
    records = {record.number: record for record in study.records()}
    study.close()
    (path,) = folder.glob("*/trials.journal")
    return str(path.relative_to(folder)), path.read_bytes(), records


@pytest.fixture
def campaign(journal: tuple[str, bytes, dict[int, TrialRecord]], tmp_path: Path) -> Campaign:
    place, content, wanted = journal
    return Campaign(folder=tmp_path / "study", place=place, content=content, wanted=wanted)


def test_flipped_bytes(campaign: Campaign) -> None:
    number = size(40, 1000)
    rng = random.Random(number)
    for _ in range(number):
        at, bits = rng.randrange(len(campaign.content)), rng.randrange(1, 256)
        content = bytearray(campaign.content)
        content[at] ^= bits
        campaign.try_(f"byte {at} ^ {bits}", bytes(content))
    print(campaign.report())  # noqa: T201 - the campaign's figures
    assert not campaign.wrong, campaign.report()


def test_a_journal_cut_within_its_last_kilobyte(campaign: Campaign) -> None:
    number = size(32, 1024)
    rng = random.Random(number)
    length = len(campaign.content)
    cuts = (
        range(length - 1024, length)
        if number == 1024
        else rng.sample(range(length - 1024, length), number)
    )
    for cut in cuts:
        campaign.try_(f"cut at {cut}", campaign.content[:cut])
    print(campaign.report())  # noqa: T201 - the campaign's figures
    assert not campaign.wrong, campaign.report()
    # No more than what was stored last can be in so few bytes.
    assert campaign.tally["most lost"] <= 2, campaign.report()


Damage = Callable[[random.Random, bytes], bytes]


def _zeros(rng: random.Random, content: bytes) -> bytes:
    """Return a journal with a block of zeros, as a disk's failure leaves it."""
    at = rng.randrange(len(content))
    block = b"\0" * min(rng.choice([16, 512, 4096]), len(content) - at)
    return content[:at] + block + content[at + len(block) :]


def _without_a_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[rng.randrange(len(lines) - 1)]
    return b"".join(lines)


def _with_noise(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), rng.randbytes(rng.randrange(1, 60)) + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize("damage", [_zeros, _without_a_line, _with_noise])
def test_damaged_parts(campaign: Campaign, damage: Damage) -> None:
    number = size(8, 150)
    rng = random.Random(number)
    for each in range(number):
        campaign.try_(f"{damage.__name__} {each}", damage(rng, campaign.content))
    print(campaign.report())  # noqa: T201 - the campaign's figures
    assert not campaign.wrong, campaign.report()
