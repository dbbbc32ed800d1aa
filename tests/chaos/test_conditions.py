"""The ground moves under a run: its cache is deleted, clocks jump, the disk fills up."""

from __future__ import annotations

import random
import shlex
import shutil
import time
from pathlib import Path

import pytest
from compiled import need_compiled
from disks import Disk, need_mounts
from killing import Attack
from project import SPEC, Project
from sizes import size
from victims import Layout, Victim, spec_of

pytestmark = pytest.mark.slow

SERIAL = Layout(name="serial")
TRIALS: int = SPEC["optimization"]["max_iterations"]
WORKERS = Layout(name="workers", workers=2)


def _delete_cache(attack: Attack) -> bool:
    """Delete pytest's cache; trials that were in it are forgotten, and nothing else is."""
    if attack.over:
        return False
    cache = attack.victim.path / ".pytest_cache"
    try:
        cache.rename(attack.victim.path / "deleted")
    except FileNotFoundError:
        return False
    # So that whoever has just stored a trial has said so.
    time.sleep(0.2)
    (attack.victim.path / "marks.log").unlink(missing_ok=True)
    shutil.rmtree(attack.victim.path / "deleted")
    return True


@pytest.mark.parametrize("layout", [SERIAL, WORKERS], ids=lambda layout: layout.name)
@pytest.mark.parametrize("seed", range(size(2, 15)))
def test_a_cache_that_is_deleted_costs_what_was_in_it(
    tmp_path: Path, layout: Layout, seed: int
) -> None:
    victim = Victim(tmp_path, layout=layout, spec=spec_of(layout))
    victim.prepare()
    attack = Attack(victim=victim, seed=f"cache {layout.name} {seed}", ends_run=False)
    try:
        attack.run(_delete_cache)
    finally:
        victim.stop()
    told = "\n".join(victim.log_of(place) for place in range(len(victim.started)))
    assert not attack.figures.faults(), "\n".join([*attack.figures.faults(), told])


#: Sets the clock in the middle of every third trial.
JUMPING = """
JUMPS = ["3600", "-3600", "0"]


def test_it(trial):
    if trial.number % 3 == 1:
        pathlib.Path("jump").write_text(JUMPS[trial.number // 3 % 3])
    time.sleep(0.02)
    a, b, c = trial.params["a"], trial.params["b"], trial.params["c"]
    assert a != 6
    trial.report({"cost": (a - 3) ** 2 + abs(b - 5) + (c == "x"), "mem": a * b})
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_jumps_of_the_clock_change_nothing(
    project: Project, tmp_path_factory: pytest.TempPathFactory, workers: str
) -> None:
    library = need_compiled(tmp_path_factory, "jumping_clock.c", "libjumping_clock.so")
    jump = project.path / "jump"
    project.write(JUMPING)

    def run(*arguments: str) -> str:
        return project.run(
            "-n", workers, "--autotune-timeout", "30m", *arguments,
            status=(0, 1), LD_PRELOAD=str(library), CLOCK_JUMP_FILE=str(jump),
        )  # fmt: skip

    run("--autotune-trials", "5")
    jump.write_text("-3600")
    last = run()
    records = project.records()
    assert "12 of 12" in last
    # What it is told by has moved at least.
    starts = [record.owner.started for record in records]
    assert max(starts) - min(starts) > 3000
    assert all(0 <= (record.duration or 0) < 60 for record in records)
    assert [record.owner.attempt for record in records] == [1] * 12
    assert all(record.finished for record in records)
    if workers == "0":
        moved = project.trials()
        shutil.rmtree(project.path / ".pytest_cache")
        project.run("--autotune-trials", "5", status=(0, 1))
        project.run(status=(0, 1))
        assert project.trials() == moved


FULL = """
def test_it(trial):
    trial.report({"cost": trial.params["a"] + trial.params["b"], "mem": 1})
"""


@pytest.mark.parametrize("seed", range(size(3, 50)))
def test_a_disk_that_fills_up_anywhere_loses_nothing(project: Project, seed: int) -> None:
    need_mounts()
    rng = random.Random(seed)
    project.write(FULL)
    disk, small = Disk(project, project.path), project.path / "small"
    small.mkdir()
    test = shlex.quote(str(disk.folder / "test_study.py"))
    workers, seeded = rng.choice([0, 0, 2]), f"--autotune-seed {seed}"
    free, first = 4 * rng.randrange(5), rng.randrange(1, TRIALS - 2)
    found = disk.run(
        f"mount -t tmpfs -o size=256k none {small} && cp {test} {small} && cd {small}",
        f"PYTEST --autotune {seeded} --autotune-trials {first}",
        f"cp -r .pytest_cache {disk.folder}/before && mkdir {disk.folder}/early",
        f"mv {disk.folder}/before {disk.folder}/early/.pytest_cache",
        f"dd if=/dev/zero of=filler bs=1k; truncate -s -{free}k filler; df . ",
        f"PYTEST --autotune {seeded} -n {workers}",
        f"PYTEST --autotune {seeded} -n {workers}",
        "ls .pytest_cache/autotune/*/ | grep damaged; rm filler",
        f"PYTEST --autotune {seeded}",
        f"cp -r .pytest_cache {disk.folder}",
    )
    statuses = [status for status, _ in found]
    assert statuses[0] == statuses[-1] == 0, found
    # A study that ends before the disk is full has nothing to say.
    for status, text in found[1:3]:
        assert status in {0, 4}, text
        assert text.count("No space left on device") == (status == 4), text
    assert "damaged" not in "".join(text for _, text in found)
    before = Project(disk.folder / "early").records()
    after = project.records()
    assert before == after[: len(before)]
    assert len(before) == first
    assert [record.number for record in after] == list(range(TRIALS))
    assert all(record.finished for record in after)
    assert len({record.key for record in after}) == len(after)
