"""Results that no longer hold are not used, and those that do are not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from inner import Runs

SPEC: Mapping[str, Any] = {
    "parameters": {"tile": [1, 2, 3, 4]},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
    "slo": [{"metric": "cost", "max": 6, "hard_fail": True, "fail_ratio": 0}],
    "sources": ["csrc/*.cu"],
}
MODULE = """
import pytest
pytestmark = pytest.mark.autotune("tiles")

def test_cost(trial):
    from kernel import cost
    with open("measured.log", "a") as log:
        log.write(f"{trial.params['tile']} ")
    trial.report({"cost": cost(trial.params["tile"])})
"""
KERNEL = "def cost(tile):\n    return 2 * tile\n"
CODE = "note     a new study was started, because the code changed: "


class Tiles(Runs):
    """A study of four tiles, whose cost is twice the tile; 4 breaks the SLO."""

    ALWAYS = ("--autotune",)

    def write(self, **spec: Any) -> None:
        (self.path / "csrc").mkdir(exist_ok=True)
        for name, text in (
            ("autotune.json", json.dumps({"tiles": {**SPEC, **spec}})),
            ("test_tiles.py", MODULE),
            ("kernel.py", KERNEL),
            ("csrc/tile.cu", "__global__"),
        ):
            (self.path / name).write_text(text)

    def measured(self) -> list[int]:
        """Return the tiles that were measured since the last call."""
        log = self.path / "measured.log"
        found = [int(tile) for tile in log.read_text().split()] if log.exists() else []
        log.unlink(missing_ok=True)
        return found


@pytest.fixture
def tiles(tmp_path: Path) -> Tiles:
    found = Tiles(tmp_path)
    found.write()
    assert "best     trial 0: tile=1" in found.run(status=1)
    assert found.measured() == [1, 2, 3, 4]
    return found


def test_changed_code_is_measured_again(tiles: Tiles) -> None:
    kernel, source = tiles.path / "kernel.py", tiles.path / "csrc/tile.cu"
    kernel.write_text("# faster\n" + KERNEL)
    assert "no tests ran" in tiles.run()
    kernel.write_text(KERNEL.replace("2 *", "20 *"))
    slow = tiles.run("-n2", status=1)
    assert f"{CODE}kernel.py; --autotune-keep goes on with the earlier trials" in slow
    assert sorted(tiles.measured()) == [1, 2, 3, 4]
    source.write_text("__device__")
    assert f"{CODE}csrc/tile.cu;" in tiles.run(status=1)
    kernel.write_text(KERNEL)
    source.write_text("__global__")
    tiles.measured()
    assert "no tests ran" in tiles.run()
    kernel.write_text(KERNEL.replace("2 *", "1 *"))
    kept = tiles.run("--autotune-keep")
    said = "note     4 trials of earlier code kept by --autotune-keep (kernel.py changed since)"
    assert said in kept
    assert "best     trial 0: tile=1 (measured with earlier code)" in kept
    assert tiles.measured() == []


def test_a_changed_question_measures_only_what_is_new(tiles: Tiles) -> None:
    recorded = tiles.run("--autotune-record", "all.csv")
    assert "recorded" in recorded
    looser = [{"metric": "cost", "max": 8, "hard_fail": True, "fail_ratio": 0}]
    tiles.write(slo=looser)
    judged = tiles.run()
    assert "note     4 trials kept, judged by the new SLO: cost ≤ 6 → ≤ 8" in judged
    assert "trials   4 of 4: 4 feasible" in judged
    assert tiles.measured() == []
    replayed = tiles.run("--autotune-replay", "all.csv")
    for line in judged.splitlines():
        if line.startswith(("best ", "metrics ", "slo ", "   ")) and "pytest" not in line:
            assert line in replayed
    tiles.write(slo=looser, parameters={"tile": [1, 2, 3, 4, 8]})
    wider = tiles.run(status=1)
    assert "note     4 trials kept, judged by the new space: parameter tile: 8 added" in wider
    assert tiles.measured() == [8]


def test_clearing_the_cache_keeps_studies(tiles: Tiles) -> None:
    cleared = tiles.run("--cache-clear")
    assert "which --cache-clear keeps (--autotune-fresh starts anew)" in cleared
    assert "note     --cache-clear keeps studies; --autotune-fresh starts anew" in cleared
    assert "no tests ran" in cleared
    assert tiles.measured() == []
    tiles.run("--autotune-fresh", status=1)
    assert tiles.measured() == [1, 2, 3, 4]


def test_it_is_said_that_nothing_is_kept(tiles: Tiles) -> None:
    text = tiles.run("-p", "no:cacheprovider", "-q", status=1)
    assert "note     nothing of this study is kept, as pytest's cache is off" in text
    assert tiles.measured() == [1, 2, 3, 4]


def test_fresh_and_keep_exclude_each_other(tiles: Tiles) -> None:
    text = tiles.run("--autotune-fresh", "--autotune-keep", status=4)
    assert (
        "--autotune-fresh starts anew, --autotune-keep goes on with earlier trials: give one"
        in text
    )
