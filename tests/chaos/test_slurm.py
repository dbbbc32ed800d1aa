"""SLURM's recipe on a real cluster of two nodes, one of which is killed in the middle of a study.

It is our own cluster on this machine (Debian: ``slurm-wlm``), made and ended by this module. Its
daemons want to be root. Long: a node counts as dead after 15 s, and its job waits for two minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from builders import read_records
from inner import FEW_PLUGINS

from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

pytestmark = pytest.mark.slow
BATCH: Final = Path(__file__).parents[2] / "examples" / "fleet" / "slurm" / "study.sbatch"
PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")
TRIALS: Final = 16
ELEMENTS: Final = 3
PATIENCE: Final = 400.0
SPEC: Final[dict[str, Any]] = {
    "parameters": {"block": [16, 32, 64, 128, 256], "stages": [1, 2, 3, 4]},
    "optimization": {
        "objective": "minimize:cost", "strategy": "random", "max_iterations": TRIALS,
    },
}  # fmt: skip
MODULE: Final = f"""
import os, pathlib, time
import pytest

pytestmark = pytest.mark.autotune(**{SPEC!r})

def test_it(trial):
    node = os.environ["SLURMD_NODENAME"]
    pathlib.Path(f"began-{{trial.number}}-{{node}}-{{os.getpid()}}").touch()
    time.sleep(1.0)
    with open("measured.log", "a") as log:
        log.write(f"{{trial.number}} {{node}}\\n")
    trial.report({{"cost": 1 / trial.params["block"] + trial.params["stages"]}})
"""
CONFIGURATION: Final = """
ClusterName=fleet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=15
ReturnToService=2
KillWait=5
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Features=h200
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Features=h200
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=60
"""


@dataclass(frozen=True)
class Cluster:
    folder: Path

    def run(self, *command: str, **options: Any) -> str:
        """Run a command of SLURM and return what it printed."""
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        environment.update(options.pop("environment", {}))
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, **options
        )
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return str(result.stdout).strip()

    def pid(self, daemon: str) -> int:
        return int((self.folder / f"{daemon}.pid").read_text())

    def start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=folder, ports=free_ports(3))
        (folder / "slurm.conf").write_text(text)
        files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid",
                 "log-file": "munged.log", "seed-file": "munged.seed"}  # fmt: skip
        munge = [f"--{name}={folder / file}" for name, file in files.items()]
        self.run("munged", "--force", *munge)
        self.run("slurmctld", "-f", str(folder / "slurm.conf"))
        for node in ("node1", "node2"):
            self.run("slurmd", "-N", node, "-f", str(folder / "slurm.conf"))

    def stop(self) -> None:
        with suppress(AssertionError):
            self.run("scancel", "--user=root", "--full")
            until(lambda: not self.run("squeue", "-h"), "the queue to be empty")
        for daemon in ("node1", "node2", "slurmctld", "munged"):
            with suppress(OSError, ValueError):
                os.kill(self.pid(daemon), signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"waited for {what}"
        time.sleep(0.1)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        reason = "it needs SLURM (Debian: slurm-wlm), and root"
        if "slurm" in os.environ.get("AUTOTUNE_REQUIRE", "").split(","):
            pytest.fail(f"AUTOTUNE_REQUIRE asks for slurm, but {reason}", pytrace=False)
        pytest.skip(reason)
    # A socket's path must be short. munged wants its folder safe from others.
    folder = Path(tempfile.mkdtemp(prefix="autotune-slurm-"))
    folder.chmod(0o755)
    found = Cluster(folder)
    try:
        found.start()
        until(lambda: "idle" in found.run("sinfo", "-h", "-n", "node2", "-o", "%T"), "the nodes")
        yield found
    finally:
        found.stop()
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "test_blocks.py").write_text(MODULE)
    (tmp_path / "bin").mkdir()
    # The name by which the script calls it.
    pytest_ = tmp_path / "bin" / "pytest"
    pytest_.write_text(f'#!/bin/bash\nexec {sys.executable} -m pytest "$@"\n')
    pytest_.chmod(0o755)
    return tmp_path


def test_a_study_ends_whole_although_a_node_dies(
    cluster: Cluster, job: Path, postgres_url: str
) -> None:
    environment = {
        **FEW_PLUGINS, "DATABASE_URL": postgres_url, "PATH": f"{job / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    here = (f"--array=0-{ELEMENTS - 1}", "--cpus-per-task=1", "--gpus-per-task=0", "--time=10")
    cluster.run("sbatch", *here, str(BATCH), "test_blocks.py", cwd=job, environment=environment)
    until(lambda: len(list(job.glob("began-*-node2-*"))) >= 3, "trials on the second node")
    kill_node(cluster, job)

    # Others run its trial again. The element of the array begins anew, where there is a node.
    until(lambda: not cluster.run("squeue", "-h"), "the jobs to end")
    jobs = cluster.run("scontrol", "show", "jobs")
    assert jobs.count("JobState=COMPLETED") == ELEMENTS, jobs
    assert jobs.count("Restarts=1") == 1, jobs
    assert len(measured(job)) == TRIALS
    assert len(set(measured(job))) == TRIALS
    plan = Plan.make(
        "test_blocks.py", load_inline("test_blocks.py", SPEC, "test"),
        Settings(storage=postgres_url),
    )  # fmt: skip
    records = read_records(plan, job)
    assert len(records) == len({record.key for record in records}) == TRIALS
    assert all(record.finished for record in records)
    # One trial was in the middle, and has had two processes.
    assert sorted(record.owner.attempt for record in records) == [1] * (TRIALS - 1) + [2]
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        held = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert held.fetchone() == (0,)


def measured(job: Path) -> list[str]:
    log = job / "measured.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def kill_node(cluster: Cluster, job: Path) -> None:
    """Kill all of a node at once, as a power failure does, while it runs a trial."""
    latest = max(job.glob("began-*-node2-*"), key=lambda path: path.stat().st_mtime)
    runner = int(latest.name.rpartition("-")[2])
    status = Path(f"/proc/{runner}/status").read_text()
    step = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    number = latest.name.split("-")[1]
    assert number not in measured(job)
    for process in (cluster.pid("node2"), step, runner):
        os.kill(process, signal.SIGKILL)
