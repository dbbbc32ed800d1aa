"""A git repository with a study whose costs are exactly known, and the gate run on it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inner import Runs, Status

from pytest_autotune.gate.lock.entry import LockedMetric, LockEntry, digests_of
from pytest_autotune.gate.lock.lockfile import read_lock_file, write_lock
from pytest_autotune.spec.loading import load_named
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

#: Decides with two pairs of launches where nothing is left to chance.
QUICK: Mapping[str, Any] = {"alpha": 0.4, "power": 0.6, "max_launches": 4}
SPEC: Mapping[str, Any] = {
    "parameters": {"a": [1, 2, 3]},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
    "gate": QUICK,
}
KERNEL = "def cost(a, seed):\n    return {cost} * a\n"
MODULE = """
import kernel
import pytest

pytestmark = pytest.mark.autotune("kernel")


def test_cost(trial):
    trial.report({"cost": kernel.cost(trial.params["a"], trial.seed)})
"""
#: Costs of which no comparison can tell whether they got worse.
UNSURE = "def cost(a, seed):\n    return a * (1.2 if seed % 2 else 0.9)\n"


@dataclass(frozen=True)
class Gated(Runs):
    """A repository at ``path``; ``root`` is the rootdir in it, where pytest is run."""

    inside: str = "."

    @property
    def root(self) -> Path:
        return self.path / self.inside

    @property
    def folder(self) -> Path:
        return self.root

    @property
    def log(self) -> Path:
        return self.path.parent / "started.log"

    @property
    def lock_file(self) -> Path:
        return self.root / "autotune.lock.json"

    @property
    def temporary(self) -> Path:
        """Where all temporary files of the runs are."""
        return self.path.parent / "temporary"

    def init(self) -> None:
        """Make the repository, with a study of three trials of which a=1 is the best."""
        self.root.mkdir(parents=True)
        self.temporary.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        (self.path / ".gitignore").write_text(".pytest_cache\n__pycache__\n")
        self.write("pytest.ini", "[pytest]\n")
        self.spec()
        self.kernel("1.0")
        self.write("test_kernel.py", MODULE)

    def write(self, name: str, text: str) -> None:
        """Write a file of the rootdir."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))

    def spec(self, gate: Mapping[str, Any] = QUICK, name: str = "kernel", **keys: Any) -> None:
        """Write a spec into the spec file."""
        path = self.root / "autotune.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: {**SPEC, "gate": gate, **keys}}))

    def kernel(self, cost: str) -> None:
        """Write a kernel whose cost is the value of an expression of ``seed``, times ``a``."""
        self.write("kernel.py", KERNEL.format(cost=cost))

    def pin(
        self, *nodeids: str, cost: float = 1.0, spec: str = "kernel", a: float = 1, **other: Any
    ) -> None:
        """Pin studies of one spec in the lock file, as locking here would."""
        entries = dict(read_lock_file(self.lock_file)) if self.lock_file.exists() else {}
        for nodeid in nodeids or ("test_kernel.py",):
            plan = Plan.make(nodeid, load_named(self.root, spec), Settings())
            metric = LockedMetric(median=cost, low=cost, high=cost, launches=3)
            known: dict[str, Any] = {
                "study": plan.label,
                "spec": spec,
                "objective": plan.objective.name,
                "metric": "cost",
                "maximize": False,
                "parameters": {"a": a},
                "metrics": {"cost": metric},
                "slo": (),
                "fingerprint": fingerprint(),
                "digests": digests_of(plan.key()),
                "commit": "",
                "locked": "2020-01-31",
                "by": "pytest-autotune",
            }
            entries[plan.label] = LockEntry(**{**known, **other})
        write_lock(self.lock_file, entries)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=self.environment(),
        )
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        """Commit everything; return the commit's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def environment(self, **more: str) -> dict[str, str]:
        # Settings of this machine must not reach git.
        inherited = super().environment()
        return {
            **{k: v for k, v in inherited.items() if not k.startswith("GIT_")},
            "TMPDIR": str(self.temporary),
            # Two versions of a file that were written within a second look alike.
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
            **{
                f"GIT_{role}_{key}": value
                for role in ("AUTHOR", "COMMITTER")
                for key, value in (("NAME", "Tester"), ("EMAIL", "tester@example.org"))
            },
            **more,
        }

    def run(self, *args: str, status: Status = 0, **options: Any) -> str:
        return super().run(*args, status=status, **options)

    def lock(self, *arguments: str, status: int = 0, **more: Any) -> str:
        return self.run("--autotune", "--autotune-lock", *arguments, status=status, **more)

    def gate(self, *arguments: str, status: int = 0, **more: Any) -> str:
        return self.run("--autotune-gate", *arguments, status=status, **more)

    def compare(self, *arguments: str, status: int = 0, **more: Any) -> str:
        """Gate against the commit before the latest, or that of the last argument."""
        return self.gate("--autotune-against", *(arguments or ("HEAD~",)), status=status, **more)

    def entry(self, study: str = "test_kernel.py (kernel)") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lock_file.read_text())["studies"][study]
        return found

    def edit_lock(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change the only entry of the lock file."""
        document = json.loads(self.lock_file.read_text())
        (entry,) = document["studies"].values()
        edit(entry)
        self.lock_file.write_text(json.dumps(document, indent=2) + "\n")

    def leftovers(self) -> list[str]:
        """Return the worktrees and temporary files that are left."""
        trees = self.git("worktree", "list", "--porcelain").count("worktree ")
        locks = self.path / ".git" / "pytest-autotune"
        held = [path for path in locks.glob("*") if path.name != "mutex"]
        # xdist has pytest make such a one, which keeps it.
        made = [path for path in self.temporary.iterdir() if path.name != f"pytest-of-{_user()}"]
        files = [*made, *held]
        return [str(path) for path in files] + ["worktree"] * (trees - 1)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
