"""Pinning the best configuration in the lock file."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from gated import MODULE, Gated

STUDY = "test_kernel.py (kernel)"


@pytest.fixture
def gated(repository: Gated) -> Gated:
    """A repository without a lock file, whose best configuration is a=1."""
    repository.commit("first")
    return repository


def elsewhere(entry: dict[str, Any]) -> None:
    entry["fingerprint"]["cpu"] = "Z80"


@pytest.mark.parametrize("workers", [["-n", "2"], pytest.param([], marks=pytest.mark.slow)])
def test_the_best_of_every_study_is_pinned_and_again_changes_nothing(
    gated: Gated, workers: list[str]
) -> None:
    gated.write("test_another.py", MODULE)
    text = gated.lock(*workers)
    assert text.count("lock     pinned in autotune.lock.json: a=1, cost 1") == 2
    assert "test_kernel.py (kernel): measuring the best configuration again, 3 launches" in text
    written = gated.lock_file.read_bytes()
    document = json.loads(written)
    assert list(document["studies"]) == ["test_another.py (kernel)", STUDY]
    entry = document["studies"][STUDY]
    assert entry["parameters"] == {"a": 1}
    assert entry["metrics"]["cost"] == {"median": 1.0, "low": 1.0, "high": 1.0, "launches": 3}
    assert entry["commit"] == f"{gated.git('rev-parse', '--short', 'HEAD')}-dirty"
    assert list(entry["fingerprint"]) == sorted(entry["fingerprint"])
    again = gated.lock()
    kept = "lock     autotune.lock.json stays as it is: a=1, cost 1 is still the best"
    assert again.count(kept) == 2
    assert gated.lock_file.read_bytes() == written
    # What is in it is what the gate reads.
    gated.commit("locked")
    assert gated.compare("HEAD", "test_kernel.py").count("gate     passed") == 1


def test_what_is_not_finished_is_not_pinned(gated: Gated) -> None:
    text = gated.lock("-k", "a:1")
    assert "lock     not pinned: the session ended first; run again to resume" in text
    assert not gated.lock_file.exists()


def test_without_a_feasible_trial_nothing_is_pinned(gated: Gated) -> None:
    gated.spec(slo=[{"metric": "cost", "max": 0.5}])
    text = gated.lock(status=1)
    assert "lock     not pinned: no trial was feasible" in text
    assert not gated.lock_file.exists()


def test_what_holds_no_more_when_measured_again_is_not_pinned(gated: Gated) -> None:
    gated.spec(slo=[{"metric": "cost", "max": 1.5}], parameters={"a": [1]})
    gated.kernel("(1.0 if seed == 0 else 2.0)")
    text = gated.lock(status=1)
    assert "lock     not pinned: no configuration held when it was measured again" in text
    assert "note     winner (a=1) did not hold: it broke its SLO cost" in text
    assert not gated.lock_file.exists()


@pytest.mark.parametrize(
    ("content", "workers"), [("{", ["-n", "2"]), ('{"version": 1, "studies": {"x": 3}}', [])]
)
def test_a_damaged_lock_file_is_refused_before_any_trial(
    gated: Gated, content: str, workers: list[str]
) -> None:
    gated.lock_file.write_text(content)
    text = gated.lock(*workers, status=4)
    assert [line for line in text.splitlines() if line.startswith("ERROR: autotune.lock.json: ")]
    assert "Traceback" not in text
    assert "collected" not in text
    assert gated.lock_file.read_text() == content


def test_a_better_entry_is_replaced_by_force_only(gated: Gated) -> None:
    gated.pin(cost=0.5)
    before = gated.lock_file.read_bytes()
    text = gated.lock()
    assert (
        "lock     autotune.lock.json stays as it is: the locked figure is better: cost was 0.5 and "
        "is 1 now, 100 % worse (up to 3 % is tolerated); --autotune-lock-force replaces it"
    ) in text
    assert gated.lock_file.read_bytes() == before
    forced = gated.run("--autotune", "--autotune-lock-force")
    assert "lock     pinned in autotune.lock.json: a=1, cost 1, as before, with new" in forced
    assert gated.entry()["metrics"]["cost"]["median"] == 1.0


@pytest.mark.slow
def test_an_entry_of_other_hardware_is_replaced_by_force_only(gated: Gated) -> None:
    gated.pin(cost=2.0)
    gated.edit_lock(elsewhere)
    before = gated.lock_file.read_bytes()
    text = gated.lock(status=1)
    assert "stays as it is: it was locked on other hardware (cpu: Z80 → " in text
    assert "); --autotune-lock-force replaces it" in text
    assert gated.lock_file.read_bytes() == before
    forced = gated.lock("--autotune-lock-force")
    assert "lock     pinned in autotune.lock.json: a=1, cost 1" in forced
    assert gated.entry()["fingerprint"]["cpu"] != "Z80"


@pytest.mark.parametrize("pinned", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_luckiest_is_not_what_gets_pinned(gated: Gated, *, pinned: bool) -> None:
    # The search finds a=1 the best, and a=2 close to it; launched again, a=3 is, by far.
    gated.write(
        "kernel.py",
        "def cost(a, seed):\n    return {1: 1.0, 2: 1.01, 3: 3.0}[a] if seed == 0 else 3.0 / a\n",
    )
    if pinned:
        gated.pin(cost=3.0, a=3)
    text = gated.lock()
    if pinned:
        assert "measuring the best 3 configurations again, 9 launches" in text
        assert (
            "(the pinned configuration was better than the search's winner when measured again)"
            in text
        )
    else:
        assert "measuring the best 2 configurations again, 6 launches" in text
        assert "a=2, cost 1.5 (trial 1 was better than the search's winner when me" in text
    assert gated.entry()["parameters"] == {"a": 3 if pinned else 2}


def test_a_bound_that_was_missed_when_locked_is_held_to_that(gated: Gated) -> None:
    gated.spec(slo=[{"metric": "cost", "max": 0.8, "hard_fail": False}], parameters={"a": [1]})
    gated.lock()
    (bound,) = gated.entry()["slo"]
    assert bound["margin"] == pytest.approx(-0.25)
    text = gated.gate()
    assert "gate     passed" in text
    assert "SLO cost: was missed by 25 % when this was locked; up to" in text
    gated.kernel("1.1")
    assert "trial 0 is infeasible: cost 1.1, limit ≤ 0.8" in gated.gate(status=1)


def test_no_git_and_no_cache_are_needed(gated: Gated) -> None:
    git = gated.path / ".git"
    shutil.move(git, gated.path.parent / "gone")
    text = gated.run("--autotune", "--autotune-lock", "-p", "no:cacheprovider", "-W", "error")
    assert "lock     pinned in autotune.lock.json: a=1, cost 1" in text
    assert gated.entry()["commit"] == ""
    shutil.move(gated.path.parent / "gone", git)
