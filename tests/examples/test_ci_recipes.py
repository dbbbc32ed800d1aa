"""The CI recipes: files that the services accept, options that exist, scripts that do as they say.

No CI service is asked. What a recipe runs is run here by bash, with a stand-in for pytest that only
notes its arguments, on a clone of a bare repository.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pytest_autotune.errors import PolicyError
from pytest_autotune.plugin.options import read_settings
from pytest_autotune.policy import VARIABLE
from pytest_autotune.policy.loading import load_policies
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.settings import Settings

CI = Path(__file__).parents[2] / "examples" / "ci"
GITHUB = sorted((CI / "github").glob("*.yml"))
GITLAB = CI / "gitlab" / ".gitlab-ci.yml"
RECIPES = [*GITHUB, GITLAB]
LOCK = "autotune.lock.json"
BRANCH = "autotune/lock"
#: Where README.md says to copy the scripts to.
SCRIPTS = "ci/autotune"
NO_COMMIT = "0" * 40


def load(recipe: Path) -> dict[str, Any]:
    document = YAML(typ="safe").load(recipe)
    assert isinstance(document, dict)
    return document


def jobs(recipe: Path) -> dict[str, dict[str, Any]]:
    """The jobs of a recipe by name."""
    document = load(recipe)
    if recipe != GITLAB:
        return dict(document["jobs"])
    found = {name: value for name, value in document.items() if name not in ("stages", "workflow")}
    return {
        name: {**document.get(job.get("extends"), {}), **job}
        for name, job in found.items()
        if not name.startswith(".")
    }


def blocks(job: Mapping[str, Any]) -> list[str]:
    """Return the shell commands of a job, as the services put them together."""
    if "steps" in job:
        return [step["run"] for step in job["steps"] if "run" in step]
    before = job.get("before_script", [])
    parts = [[*before, *job["script"]], job.get("after_script", [])]
    return ["\n".join(part) for part in parts if part]


def on_gpu(job: Mapping[str, Any]) -> bool:
    return "gpu" in job.get("runs-on", job.get("tags", []))


# What the services would make of the files


def check_schema(schema: str, *recipes: Path) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("needs check-jsonschema, which brings the schemas of GitHub and GitLab")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if schema == "vendor.gitlab-ci":
        command += ["--data-transform", "gitlab-ci"]
    return subprocess.run([*command, *recipes], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("schema", "recipes"),
    [
        ("vendor.github-workflows", GITHUB),
        ("custom.github-workflows-require-timeout", GITHUB),
        ("vendor.gitlab-ci", [GITLAB]),
    ],
)
def test_recipes_keep_to_the_schemas_of_the_services(schema: str, recipes: list[Path]) -> None:
    assert recipes
    result = check_schema(schema, *recipes)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("schema", "recipe", "right", "wrong"),
    [
        ("vendor.github-workflows", CI / "github" / "gate.yml", "runs-on:", "runs_on:"),
        ("vendor.gitlab-ci", GITLAB, "when: always", "when: forever"),
    ],
)
def test_the_schemas_would_notice(
    schema: str, recipe: Path, right: str, wrong: str, tmp_path: Path
) -> None:
    broken = tmp_path / recipe.name
    text = recipe.read_text(encoding="utf-8")
    assert right in text
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    assert check_schema(schema, broken).returncode == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_jobs_on_the_gpu_take_turns_and_may_write_nothing(recipe: Path) -> None:
    document = load(recipe)
    gpu_jobs = [job for job in jobs(recipe).values() if on_gpu(job)]
    assert gpu_jobs
    for job in gpu_jobs:
        if recipe == GITLAB:
            assert job["resource_group"] == "gpu"
            assert "environment" not in job
        else:
            assert job["concurrency"] == {"group": "gpu", "queue": "max"}
            assert job.get("permissions", document["permissions"]) == {"contents": "read"}
            checkout = job["steps"][0]
            assert checkout["with"]["persist-credentials"] is False
            assert "secrets." not in json.dumps(job)


POLICY = "/etc/pytest-autotune.yaml"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_jobs_on_the_gpu_end_where_the_machine_has_no_policy(recipe: Path, tmp_path: Path) -> None:
    for job in jobs(recipe).values():
        if not on_gpu(job):
            continue
        installing = ("pip install", "venv")
        first = "\n".join(blocks(job)).splitlines()[0]
        assert POLICY in first
        assert not any(word in first for word in installing)
        policy = tmp_path / "policy.yaml"
        command = ["bash", "-e", "-c", first.replace(POLICY, str(policy))]
        policy.unlink(missing_ok=True)
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        policy.write_text("{}")
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        assert VARIABLE not in json.dumps(job)


def test_the_policy_allows_what_it_says_and_no_more(tmp_path: Path) -> None:
    policies = load_policies(CI / "policy.yaml", None, [tmp_path])
    server: dict[str, Any] = {
        "preset": "vllm",
        "environment": {"HF_TOKEN": "${HF_TOKEN}"},
        "volumes": ["/srv/models/llama:/model", "/srv/cache:/root/.cache:rw"],
        "memory": "48g",
    }
    keys = {"parameters": {"max_num_seqs": [64, 128]}, "model": {"id_or_path": "/model"}}

    def check(**changes: Any) -> None:
        spec = load_inline("llama", {**keys, "server": {**server, **changes}}, "spec")
        policies.check_study(spec, gpus="1", serves=True)

    check()
    for change, rule in (
        ({"image": "vllm/other:1"}, "images"),
        ({"volumes": ["/srv/models:/m:rw"]}, "volumes"),
        ({"volumes": ["/srv:/m"]}, "volumes"),
        ({"memory": "65g"}, "memory"),
        ({"gpus": "all"}, "gpus"),
        ({"environment": {"X": "${AWS_SECRET_ACCESS_KEY}"}}, "variables"),
        ({"api_key": "${HF_TOKEN}"}, "variables"),
        ({"network": "host"}, "networks"),
    ):
        with pytest.raises(PolicyError, match=f"the rule '{rule}' of the policy"):
            check(**change)


def test_gates_have_the_history_to_compare_with() -> None:
    checkout = jobs(CI / "github" / "gate.yml")["gate"]["steps"][0]
    assert checkout["with"]["fetch-depth"] == 0
    assert jobs(GITLAB)["gate"]["variables"]["GIT_DEPTH"] == "0"


@pytest.mark.parametrize("recipe", GITHUB, ids=lambda recipe: recipe.name)
def test_no_expression_is_pasted_into_a_shell(recipe: Path) -> None:
    """A branch may be named so that it is a command."""
    for job in jobs(recipe).values():
        for block in blocks(job):
            assert "${{" not in block


def test_every_script_that_a_recipe_names_is_there() -> None:
    text = "".join(recipe.read_text(encoding="utf-8") for recipe in RECIPES)
    for script in (CI / "scripts").iterdir():
        assert f"{SCRIPTS}/{script.name}" in text
    for job in [job for recipe in RECIPES for job in jobs(recipe).values()]:
        for word in " ".join(blocks(job)).replace("$(", " ").split():
            if word.startswith(SCRIPTS):
                assert (CI / "scripts" / Path(word).name).is_file()


# A repository


@dataclass(frozen=True)
class Clone:
    """A clone as a CI job has it, and the bare repository that it came from."""

    path: Path
    remote: Path

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=Dev", "-c", "user.email=dev@example.com", *arguments]
        result = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def commit(self, **files: str) -> str:
        """Commit files, named with ``_`` for the dot; return the commit."""
        for name, text in files.items():
            path = self.path / name.replace("_", ".")
            path.write_text(text, encoding="utf-8")
            self.git("add", path.name)
        self.git("commit", "--quiet", "--allow-empty", "-m", "work")
        return self.git("rev-parse", "HEAD")

    def lock(self, text: str) -> None:
        (self.path / LOCK).write_text(text, encoding="utf-8")

    def run(self, block: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a piece of shell as a service does."""
        environment = {**os.environ, **variables}
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", block],
            cwd=self.path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def script(self, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts."""
        return self.run(shlex.join(["sh", f"{SCRIPTS}/{name}", *words]), **variables)

    def pushed(self) -> dict[str, str]:
        """The branches of the remote, and their commits."""
        listed = self.git("ls-remote", "--heads", "origin").splitlines()
        return {ref.removeprefix("refs/heads/"): commit for commit, ref in map(str.split, listed)}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A clone with a lock file and the scripts committed, two commits deep."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    made = Clone(tmp_path / "clone", tmp_path / "remote.git")
    made.path.mkdir()
    made.git("init", "--quiet", "--bare", "-b", "main", str(made.remote))
    made.git("-C", str(made.remote), "config", "receive.advertisePushOptions", "true")
    made.git("clone", "--quiet", f"file://{made.remote}", ".")
    made.git("checkout", "--quiet", "-b", "main")
    shutil.copytree(CI / "scripts", made.path / SCRIPTS)
    made.git("add", SCRIPTS)
    made.commit(kernel_py="one\n")
    made.lock('{"best": 1}\n')
    made.git("add", LOCK)
    made.commit()
    made.git("push", "--quiet", "--set-upstream", "origin", "main")
    return made


# What a recipe asks of pytest


def pytest_calls(clone: Clone, recipe: Path, name: str, **variables: str) -> list[list[str]]:
    """Run a job, with a stand-in for pytest; return the arguments that it was called with."""
    stub = clone.path / ".venv" / "bin" / "pytest"
    stub.parent.mkdir(parents=True, exist_ok=True)
    notes = clone.path.parent / "calls"
    notes.write_bytes(b"")
    stub.write_text("#!/bin/sh\n{ printf '%s\\0' \"$@\"; printf '\\n'; } >>\"$CALLS\"\n")
    stub.chmod(0o755)
    summary = str(clone.path.parent / "summary")
    job = {**jobs(recipe)[name], "before_script": []}
    for block in blocks(job):
        if ".venv/bin/pytest" in block:
            result = clone.run(block, CALLS=str(notes), GITHUB_STEP_SUMMARY=summary, **variables)
            assert result.returncode == 0, result.stderr
    return [line.split("\0")[:-1] for line in notes.read_text(encoding="utf-8").splitlines()]


def settings(pytester: pytest.Pytester, call: list[str]) -> Settings:
    """Return the settings of a command line; raise UsageError for an unknown option."""
    return read_settings(pytester.parseconfig(*call))


@pytest.mark.parametrize("recipe", [CI / "github" / "gate.yml", GITLAB], ids=lambda p: p.name)
@pytest.mark.parametrize("event", ["change request", "push"])
def test_gate_compares_with_the_base(
    recipe: Path, event: str, clone: Clone, pytester: pytest.Pytester
) -> None:
    base = clone.git("rev-parse", "HEAD")
    clone.commit(kernel_py="two\n")
    target, before = ("main", NO_COMMIT) if event == "change request" else ("", base)
    variables = {
        "BASE_BRANCH": target,
        "BEFORE": before,
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": target,
        "CI_COMMIT_BEFORE_SHA": before,
    }
    gate, history = pytest_calls(clone, recipe, "gate", **variables)
    found = settings(pytester, gate)
    assert (found.gate, found.against, found.enabled) == (True, base, False)
    assert "--junitxml=gate.xml" in gate
    assert history == ["--autotune-history"]
    pytester.parseconfig(*history)


@pytest.mark.parametrize("recipe", [CI / "github" / "tune.yml", GITLAB], ids=lambda p: p.name)
@pytest.mark.parametrize("fresh", ["", "yes"])
def test_tuning_is_bounded_and_locks(
    recipe: Path, fresh: str, clone: Clone, pytester: pytest.Pytester
) -> None:
    (call,) = pytest_calls(clone, recipe, "tune", FRESH=fresh)
    found = settings(pytester, call)
    assert (found.enabled, found.lock, found.lock_force) == (True, True, False)
    assert (found.timeout, found.fresh, found.infeasible) == (7200, bool(fresh), "xfail")


def test_an_option_that_does_not_exist_would_be_noticed(pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="--autotune-gaet"):
        settings(pytester, ["--autotune-gaet"])


# base-revision.sh


def base_revision(clone: Clone, branch: str, before: str = "") -> str:
    result = clone.script("base-revision.sh", branch, before)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_what_others_merged_meanwhile_is_not_held_against_a_change(clone: Clone) -> None:
    base = clone.git("rev-parse", "HEAD")
    clone.commit(other_py="faster\n")
    clone.git("push", "--quiet", "origin", "main")
    clone.git("checkout", "--quiet", "-b", "change", base)
    clone.commit(kernel_py="two\n")
    assert base_revision(clone, "main", NO_COMMIT) == base


def test_a_merge_made_for_the_test_is_compared_with_what_was_merged_into(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-b", "change")
    clone.commit(kernel_py="two\n")
    clone.git("checkout", "--quiet", "main")
    base = clone.commit(other_py="faster\n")
    clone.git("checkout", "--quiet", "--detach")
    clone.git("merge", "--quiet", "--no-ff", "-m", "merge", "change")
    later = clone.git("commit-tree", "-p", base, "-m", "later", f"{base}^{{tree}}")
    clone.git("push", "--quiet", "origin", f"{later}:main")
    assert clone.git("rev-parse", "origin/main") == later
    assert base_revision(clone, "main") == base


@pytest.mark.parametrize("before", ["", NO_COMMIT, "1" * 40])
def test_a_push_without_a_known_past_is_compared_with_its_parent(before: str, clone: Clone) -> None:
    parent = clone.git("rev-parse", "HEAD")
    clone.commit(kernel_py="two\n")
    assert base_revision(clone, "", before) == parent


@pytest.mark.parametrize("branch", ["", "main"])
def test_a_shallow_clone_is_named_as_the_reason(branch: str, clone: Clone) -> None:
    """One of one branch and one commit, as without fetch-depth: 0."""
    shallow = Clone(clone.path.parent / "shallow", clone.remote)
    shallow.path.mkdir()
    clone.commit(kernel_py="two\n")
    clone.git("push", "--quiet", "origin", "HEAD:refs/heads/change")
    shallow.git("clone", "--quiet", "--depth=1", "--branch=change", f"file://{clone.remote}", ".")
    result = shallow.script("base-revision.sh", branch, NO_COMMIT)
    assert (result.returncode, result.stdout) == (1, "")
    assert "is the clone shallow?" in result.stderr


# propose-lock.sh


def propose(clone: Clone, *options: str, **variables: str) -> str:
    result = clone.script("propose-lock.sh", *options, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def changed_files(clone: Clone, commit: str) -> list[str]:
    clone.git("fetch", "--quiet", "origin", commit)
    return clone.git("diff-tree", "--no-commit-id", "--name-only", "-r", commit).splitlines()


def test_a_changed_lock_file_is_pushed_alone(clone: Clone) -> None:
    head = clone.git("rev-parse", "HEAD")
    clone.lock('{"best": 2}\n')
    (clone.path / "kernel.py").write_text("changed\n")
    (clone.path / "staged.py").write_text("staged\n")
    clone.git("add", "staged.py")
    (clone.path / "untracked.py").write_text("untracked\n")
    status = clone.git("status", "--porcelain")

    assert "pushed autotune.lock.json to autotune/lock" in propose(clone)

    pushed = clone.pushed()
    assert pushed == {"main": head, BRANCH: clone.git("rev-parse", "refs/autotune/proposed")}
    assert changed_files(clone, pushed[BRANCH]) == [LOCK]
    assert clone.git("rev-parse", f"{pushed[BRANCH]}^") == head
    assert clone.git("show", f"{pushed[BRANCH]}:{LOCK}") == '{"best": 2}'
    assert clone.git("show", "--no-patch", "--format=%an %s", pushed[BRANCH]) == (
        "pytest-autotune Update autotune.lock.json"
    )
    assert clone.git("status", "--porcelain") == status
    assert clone.git("rev-parse", "HEAD") == head


def test_the_first_lock_file_is_pushed_from_a_shallow_clone(clone: Clone) -> None:
    clone.git("rm", "--quiet", LOCK)
    head = clone.commit()
    clone.git("push", "--quiet", "origin", "main")
    shallow = Clone(clone.path.parent / "shallow", clone.remote)
    shallow.path.mkdir()
    shallow.git("clone", "--quiet", "--depth=1", f"file://{clone.remote}", ".")
    shallow.lock('{"best": 2}\n')
    propose(shallow)
    pushed = shallow.pushed()
    assert changed_files(shallow, pushed[BRANCH]) == [LOCK]
    assert clone.git("ls-remote", "origin", "main").startswith(head)


@pytest.mark.parametrize("left", ["as it was", "not there"])
def test_nothing_is_pushed_where_nothing_changed(left: str, clone: Clone) -> None:
    clone.lock('{"best": 2}\n')
    propose(clone)
    before = clone.pushed()
    clone.git("checkout", "--quiet", LOCK)
    if left == "not there":
        (clone.path / LOCK).unlink()
    (clone.path / "kernel.py").write_text("changed\n")
    assert "nothing to propose" in propose(clone)
    assert clone.pushed() == before
    assert clone.git("for-each-ref", "refs/autotune") == ""


def test_the_second_night_updates_the_branch(clone: Clone) -> None:
    clone.lock('{"best": 2}\n')
    propose(clone)
    first = clone.pushed()[BRANCH]
    clone.git("checkout", "--quiet", LOCK)
    head = clone.commit(kernel_py="two\n")
    clone.git("push", "--quiet", "origin", "main")
    clone.lock('{"best": 3}\n')
    propose(clone)
    pushed = clone.pushed()
    assert sorted(pushed) == [BRANCH, "main"]
    assert pushed[BRANCH] != first
    assert clone.git("rev-list", f"{head}..{pushed[BRANCH]}") == pushed[BRANCH]
    assert clone.git("show", f"{pushed[BRANCH]}:{LOCK}") == '{"best": 3}'


def test_the_default_branch_is_never_overwritten(clone: Clone) -> None:
    before = clone.pushed()
    clone.lock('{"best": 2}\n')
    result = clone.script("propose-lock.sh", BRANCH="main")
    assert result.returncode == 1
    assert "main is the default branch" in result.stderr
    assert clone.pushed() == before


def test_a_remote_that_does_not_answer_is_an_error(clone: Clone) -> None:
    clone.lock('{"best": 2}\n')
    assert clone.script("propose-lock.sh", REMOTE=f"{clone.remote}-not").returncode != 0
    assert clone.git("for-each-ref", "refs/autotune") == ""


def test_gitlab_is_asked_for_a_merge_request(clone: Clone) -> None:
    hook = clone.remote / "hooks" / "pre-receive"
    hook.write_text('#!/bin/sh\nenv | sed -n "s/^GIT_PUSH_OPTION_[0-9]*=//p" | sort >options\n')
    hook.chmod(0o755)
    job = jobs(GITLAB)["propose"]
    clone.lock('{"best": 2}\n')
    (script,) = job["script"]
    variables = {**job["variables"], "REMOTE": str(clone.remote), "CI_DEFAULT_BRANCH": "main"}
    result = clone.run(script, **variables)
    assert result.returncode == 0, result.stderr
    assert (clone.remote / "options").read_text().splitlines() == [
        "merge_request.create",
        "merge_request.target=main",
        "merge_request.title=Update autotune.lock.json",
    ]
    assert BRANCH in clone.pushed()


# open-pull-request.sh


@dataclass(frozen=True)
class FakeGitHub:
    """Stands in for gh: notes what it is called with, and knows which pull request is open."""

    folder: Path

    def calls(self) -> list[str]:
        found = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        (self.folder / "calls").unlink()
        return found

    def body(self) -> str:
        return (self.folder / "body").read_text(encoding="utf-8")

    def open(self, number: str) -> None:
        (self.folder / "open").write_text(number)


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGitHub:
    made = FakeGitHub(tmp_path / "gh")
    made.folder.mkdir()
    made.open("")
    program = made.folder / "gh"
    program.write_text(
        f"""#!/bin/sh
cd {made.folder}
echo "$@" >>calls
case $1-$2 in pr-list) cat open; esac
for word; do
    case $word in */body) cp "${{word#body=@}}" body; esac
done
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(made.folder), prepend=os.pathsep)
    return made


def test_one_pull_request_is_opened_and_then_updated(clone: Clone, github: FakeGitHub) -> None:
    clone.lock('{"best": 2}\n')
    propose(clone)
    result = clone.script("open-pull-request.sh", BASE="main", NOTE="Tonight:")
    assert result.returncode == 0, result.stderr
    looked, made = github.calls()
    assert looked.startswith("pr list --head autotune/lock --state open ")
    assert made.startswith(
        "pr create --base main --head autotune/lock --title Update autotune.lock.json --body-file "
    )
    assert github.body().startswith("Tonight:\n\n~~~~diff\ndiff --git ")
    assert '-{"best": 1}\n+{"best": 2}\n' in github.body()

    github.open("7")
    clone.lock('{"best": 3}\n')
    propose(clone)
    result = clone.script("open-pull-request.sh", BASE="main")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "updated pull request 7\n"
    _, updated = github.calls()
    assert updated.startswith("api --silent --method PATCH repos/{owner}/{repo}/pulls/7 -F body=@")
    assert '+{"best": 3}\n' in github.body()


def test_a_long_diff_is_cut_to_what_github_takes(clone: Clone, github: FakeGitHub) -> None:
    clone.lock("".join(f'"{number}": 1,\n' for number in range(10_000)))
    propose(clone)
    assert clone.script("open-pull-request.sh", BASE="main").returncode == 0
    assert len(github.body()) < 65_536
    assert github.body().endswith("\n~~~~\n\nThe rest is left out here.\n")


def test_no_pull_request_where_nothing_was_proposed(clone: Clone, github: FakeGitHub) -> None:
    propose(clone)
    result = clone.script("open-pull-request.sh", BASE="main")
    assert (result.returncode, result.stdout) == (0, "nothing was proposed\n")
    assert not (github.folder / "calls").exists()
