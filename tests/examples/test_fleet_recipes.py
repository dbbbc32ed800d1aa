"""The recipes for a fleet: manifests that Kubernetes accepts, scripts and options that exist.

No cluster is asked here. ``tests/chaos/test_slurm.py`` runs SLURM's script on a real one.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from pytest_autotune.plugin.options import read_settings

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "examples" / "fleet"
STUDY = FLEET / "kubernetes" / "study.yaml"
SECRET = FLEET / "kubernetes" / "secret.yaml"
BATCH = FLEET / "slurm" / "study.sbatch"
SCHEMA = json.loads((ROOT / "tests/unit/data/kubernetes/job-1.33.json").read_text("utf-8"))
KINDS = {"Job": "io.k8s.api.batch.v1.Job", "Secret": "io.k8s.api.core.v1.Secret"}
URL = "postgresql+psycopg://tuner@db/studies"
Manifest = dict[str, Any]


def load(path: Path) -> Manifest:
    document = YAML(typ="safe").load(path)
    assert isinstance(document, dict)
    return document


def problems(manifest: Manifest) -> list[str]:
    """Return what Kubernetes' schema has against a manifest."""
    schema = {**SCHEMA, "$ref": f"#/$defs/{KINDS[manifest['kind']]}"}
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("path", [STUDY, SECRET], ids=["study", "secret"])
def test_manifests_keep_to_the_schema_of_kubernetes(path: Path) -> None:
    assert problems(load(path)) == []


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        (lambda job: job["spec"].update(backoffLimitPerindex=1), "$.spec"),
        (lambda job: job["spec"].update(completions="16"), "$.spec.completions"),
        (lambda job: job["spec"].pop("template"), "$.spec"),
        (lambda job: job.update(apiVersion="batch/v1beta1"), "$.apiVersion"),
        (lambda job: pod(job)["containers"][0].pop("name"), "$.spec.template.spec.containers[0]"),
        (lambda job: pod(job).pop("containers"), "$.spec.template.spec"),
    ],
)
def test_the_schema_would_notice(broken: Callable[[Manifest], object], where: str) -> None:
    job = copy.deepcopy(load(STUDY))
    broken(job)
    assert [problem.partition(": ")[0] for problem in problems(job)] == [where]


def pod(job: Manifest) -> Manifest:
    found: Manifest = job["spec"]["template"]["spec"]
    return found


def test_the_job_keeps_to_what_kubernetes_asks_beyond_its_schema() -> None:
    spec = load(STUDY)["spec"]
    # backoffLimitPerIndex and podFailurePolicy are for such jobs only.
    assert (spec["completionMode"], pod(load(STUDY))["restartPolicy"]) == ("Indexed", "Never")
    assert spec["parallelism"] <= spec["completions"]
    (runner,) = pod(load(STUDY))["containers"]
    names = {rule["onExitCodes"]["containerName"] for rule in spec["podFailurePolicy"]["rules"][1:]}
    assert names == {runner["name"]}
    (statuses,) = (rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"][1:])
    # Interrupted (2) and killed (137) runs begin again.
    assert statuses == [1, 3, 4, 5]
    mounts = {mount["name"] for mount in runner["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod(load(STUDY))["volumes"]}
    resources = runner["resources"]
    assert resources["requests"] == resources["limits"]
    assert "nvidia.com/gpu" in resources["limits"]


def test_the_job_reads_the_secret_that_is_shown() -> None:
    secret, (runner,) = load(SECRET), pod(load(STUDY))["containers"]
    keys = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"]
        for entry in runner["env"]
        if entry["valueFrom"]["secretKeyRef"]["name"] == secret["metadata"]["name"]
    }
    assert keys == {"DATABASE_URL": "url", "PGPASSWORD": "password"}
    assert set(keys.values()) == set(secret["stringData"])
    assert "password" not in json.dumps(runner["args"])


def test_the_job_runs_pytest_with_options_that_exist(pytester: pytest.Pytester) -> None:
    (runner,) = pod(load(STUDY))["containers"]
    command = [text.replace("$(DATABASE_URL)", URL) for text in runner["command"] + runner["args"]]
    pytester.mkpydir("tests").joinpath("tuning").mkdir()
    found = read_settings(pytester.parseconfig(*command[1:]))
    assert command[0] == "pytest"
    assert (found.enabled, found.storage, found.infeasible) == (True, URL, "xfail")
    # The run ends in order before Kubernetes ends it.
    assert found.timeout is not None
    assert found.timeout < load(STUDY)["spec"]["activeDeadlineSeconds"]


def run_batch(
    tmp_path: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run SLURM's script with a stand-in for pytest that prints its process and its arguments."""
    stand_in = tmp_path / "pytest"
    stand_in.write_text('#!/bin/bash\necho $$\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    with subprocess.Popen(
        ["bash", str(BATCH), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess([str(process.pid)], process.returncode, out, err)


def test_the_batch_script_becomes_pytest_so_that_signals_reach_it(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    result = run_batch(tmp_path, "tests/tuning folder", DATABASE_URL=URL)
    assert result.returncode == 0, result.stderr
    process, *arguments = result.stdout.splitlines()
    assert process == result.args[0]
    assert arguments[-1] == "tests/tuning folder"
    found = read_settings(pytester.parseconfig(*arguments[:-1]))
    assert (found.enabled, found.storage, found.infeasible) == (True, URL, "xfail")


def test_the_batch_script_asks_for_the_database(tmp_path: Path) -> None:
    result = run_batch(tmp_path, DATABASE_URL="")
    assert result.returncode != 0
    assert "DATABASE_URL: set it, for example to postgresql" in result.stderr


def test_what_slurm_is_asked_for_is_what_the_readme_explains() -> None:
    options = re.findall(r"^#SBATCH --([a-z-]+)", BATCH.read_text("utf-8"), re.MULTILINE)
    assert {"array", "requeue", "signal", "constraint", "open-mode"} <= set(options)
    readme = (FLEET / "README.md").read_text("utf-8")
    for option in ("--array", "--requeue", "--signal", "--constraint"):
        assert option in readme
