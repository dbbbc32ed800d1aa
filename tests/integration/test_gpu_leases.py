"""Trials that need GPUs, within a run, across runs, and where there are none or too few."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from fake_nvml import FakeNvml, need_library
from inner import Runs, Status, kill
from project import Study
from serving import Serving, eventually, process

from pytest_autotune.gpu.leases import FOLDER_VARIABLE, Desk, Lease
from pytest_autotune.gpu.visible import ORDER, VISIBLE, Device
from pytest_autotune.spec.loading import load_inline

SLOW: Final = pytest.mark.slow
USAGE: Final = int(pytest.ExitCode.USAGE_ERROR)
#: How a message begins that ends a run, without and with workers.
SAID: Final = "(?m:^)(?:ERROR|autotune):"
#: What a slow machine may take for what is done at once (seconds).
PATIENCE: Final = 100.0
#: What every study's module begins with: ``using`` writes down who had which devices, and when.
HEAD: Final = """
import json, os, time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
import pytest

pytestmark = pytest.mark.autotune(**{mark!r})
LOCKS, LOG = Path({locks!r}), Path({log!r})


@contextmanager
def using(trial, devices):
    begin = time.monotonic()
    yield
    entry = dict(
        trial=trial.number, params=dict(trial.params), pid=os.getpid(),
        visible=os.environ["CUDA_VISIBLE_DEVICES"], devices=[d.key for d in devices],
        begin=begin, end=time.monotonic(),
    )
    with LOG.open("a") as file:
        file.write(json.dumps(entry) + "\\n")


def until(holds):
    limit = time.monotonic() + {patience}
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)


def waiting():
    return len(list((LOCKS / "line").glob("*.lock")))
"""
SIMPLE: Final = """
def test_it(trial, gpu):
    with using(trial, gpu.devices):
        time.sleep(0.05)
    assert gpu.visible == os.environ["CUDA_VISIBLE_DEVICES"]
    trial.report({"cost": trial.number})
"""
#: Who is on a GPU is told by numbers; those of processes without one count here only.
OUTSIDE_A_CONTAINER: Final = """
from pytest_autotune.gpu import strangers
strangers._MACHINES_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino
"""
MARK: Final[Mapping[str, Any]] = {
    "parameters": {"a": list(range(12))},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
}


@dataclass(frozen=True)
class Leasing(Study):
    """A folder with one study that leases, and what it did."""

    locks: Path
    entry_log: Path
    mark: dict[str, Any] = field(default_factory=lambda: dict(MARK))

    def write(self, body: str = SIMPLE, **mark: Any) -> None:
        self.mark.clear()
        self.mark.update({**MARK, **mark})
        head = HEAD.format(
            mark=self.mark, locks=str(self.locks), log=str(self.entry_log), patience=PATIENCE
        )
        (self.path / "test_study.py").write_text(head + textwrap.dedent(body))

    def run(self, *args: str, status: Status = 0, **options: Any) -> str:
        return super().run(*args, status=status, **options)

    def entries(self) -> list[dict[str, Any]]:
        if not self.entry_log.exists():
            return []
        return [json.loads(line) for line in self.entry_log.read_text().splitlines()]

    def finished(self) -> list[dict[str, Any]]:
        """Return the trials that other plugins were told of, on whatever machine."""
        told = self.path / "told.json"
        return [json.loads(line) for line in told.read_text().splitlines()]

    def records(self) -> Any:
        spec = {key: value for key, value in self.mark.items() if key != "gpus"}
        return self.records_of("test_study.py", load_inline("test_study.py", spec, "test"))


Make: TypeAlias = Callable[..., Leasing]


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs, and leases of our own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "locks"))
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.delenv(ORDER, raising=False)
    return tmp_path / "locks"


@pytest.fixture
def make(tmp_path: Path, locks: Path) -> Iterator[Make]:
    """Make folders of studies by name; what runs in them ends with the test."""
    made = []

    def folder(name: str = "one") -> Leasing:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Leasing(tmp_path / name, locks, tmp_path / "log"))
        return made[-1]

    yield folder
    for each in made:
        each.stop()


@pytest.fixture
def one(make: Make) -> Leasing:
    found = make()
    found.write()
    return found


@contextmanager
def held(*numbers: str) -> Iterator[Lease]:
    devices = [Device(key=f"index-{number}", visible=number) for number in numbers]
    lease = Desk().acquire(devices, len(devices), purpose="somebody's work", timeout=PATIENCE)
    yield lease
    lease.release()


def disjoint(entries: list[dict[str, Any]]) -> bool:
    spans = defaultdict(list)
    for entry in entries:
        for device in entry["devices"]:
            spans[device].append((entry["begin"], entry["end"]))
    assert spans
    return all(
        before[1] <= after[0]
        for found in map(sorted, spans.values())
        for before, after in pairwise(found)
    )


# Exclusive


def test_workers_never_share_a_gpu_and_those_without_one_say_so(one: Leasing) -> None:
    one.write("""
def test_it(trial, gpu):
    with using(trial, gpu.devices):
        # So that three workers have a trial at least, and one of them none of the two GPUs.
        until(lambda: trial.number or waiting() >= 2)
        time.sleep(0.05)
    assert gpu.count == 1
    trial.report({"cost": trial.number})
""")
    text = one.run("-n", "4", "-W", "error")
    assert "12 of 12" in text
    entries = one.entries()
    assert sorted(entry["trial"] for entry in entries) == list(range(12))
    assert {entry["visible"] for entry in entries} == {"0", "1"}
    assert all(entry["devices"] == [f"index-{entry['visible']}"] for entry in entries)
    assert disjoint(entries)
    assert re.search(r"gw[23] has no GPU of its own, and takes turns with the others", text)
    assert not re.search(r"gw[01] has no GPU", text)


def test_workers_prefer_what_is_theirs(one: Leasing) -> None:
    one.run("-n", "2")
    by_worker = defaultdict(set)
    for entry in one.entries():
        by_worker[entry["pid"]].add(entry["visible"])
    # Each is alone on its own, so nobody waits or borrows.
    assert all(len(seen) == 1 for seen in by_worker.values())
    assert disjoint(one.entries())


def test_two_runs_never_share_a_gpu(make: Make) -> None:
    both = [make("one"), make("two")]
    for each, arguments in zip(both, [(), ("-n", "2")], strict=True):
        each.write()
        each.start(*arguments)
    for each in both:
        (run,) = each.started
        assert run.wait(timeout=PATIENCE) == 0, each.output()
        assert "12 of 12" in each.output()
    entries = both[0].entries()
    assert len(entries) == 24
    assert len({entry["pid"] for entry in entries}) >= 2
    assert disjoint(entries)


# Death and patience


def test_what_a_killed_run_held_goes_to_who_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    first, second = make("first"), make("second")
    first.write("""
def test_it(trial, gpu):
    with using(trial, gpu.devices):
        if trial.number == 2 and not Path("holding").exists():
            Path("holding").touch()
            time.sleep(600)
    trial.report({"cost": trial.number})
""")
    second.write()
    holder = first.start()
    eventually((first.path / "holding").exists, PATIENCE)
    waiter = second.start()
    told = "autotune: waiting for GPU: GPU 0 is held by pid "
    eventually(lambda: told in second.output(), PATIENCE)
    assert f"{told}{holder.pid} " in second.output()
    assert "test_study.py, trial 2)" in second.output()
    assert len(second.entries()) == 2
    kill(holder)
    assert waiter.wait(timeout=PATIENCE) == 0, second.output()
    assert "12 of 12" in second.output()
    # What it was at is run again, the rest is not.
    text = first.run()
    assert "12 of 12" in text
    assert [record.owner.attempt for record in first.records()] == [1, 1, 2, *[1] * 9]
    assert len(first.entries()) == 24
    assert disjoint(first.entries())


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=SLOW)])
def test_a_run_waits_for_so_long_and_loses_no_trial(one: Leasing, workers: str) -> None:
    with held("0", "1"):
        text = one.run("-n", workers, "--autotune-gpu-timeout", "1s", status=USAGE)
    who = rf"GPU 0 is held by pid {os.getpid()} \(\S+, somebody's work\) for \d+ s"
    if workers == "0":
        assert text.count("autotune: waiting for GPU: ") == 1
        assert re.search(rf"autotune: waiting for GPU: {who}", text)
    assert re.search(rf"{SAID} no GPU came free within 1 s \(--autotune-gpu-timeout\): {who}", text)
    assert one.entries() == []
    assert not any(record.finished for record in one.records())
    text = one.run("-n", workers)
    assert "12 of 12: 12 feasible" in text
    assert [record.owner.attempt for record in one.records()] == [1] * 12


def test_waiting_does_not_count_against_the_time_limit_of_a_trial(
    one: Leasing,
) -> None:
    limit = {**MARK["optimization"], "timeout_per_iteration": 20, "max_iterations": 1}
    one.write(optimization=limit)
    with held("0", "1"):
        run = one.start()
        eventually(lambda: "waiting for GPU" in one.output(), PATIENCE)
        time.sleep(1.5)
    assert run.wait(timeout=PATIENCE) == 0, one.output()
    (record,) = one.records()
    assert re.search(r"waited \S+ \w+ for GPUs, all trials together", one.output())
    assert record.outcome.value == "feasible"


# None, and too few


@pytest.mark.parametrize(
    ("visible", "workers"),
    [
        ("", "2"),
        ("-1", "0"),
        pytest.param("", "0", marks=SLOW),
        pytest.param("-1", "2", marks=SLOW),
    ],
)
def test_without_a_gpu_the_fixture_ends_the_run_before_any_trial(
    one: Leasing, monkeypatch: pytest.MonkeyPatch, workers: str, visible: str
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    text = one.run("-n", workers, status=USAGE)
    message = (
        "the fixture 'gpu' needs one, and there is no GPU: "
        f"CUDA_VISIBLE_DEVICES={visible!r} leaves none visible"
    )
    assert len(re.findall(f"{SAID} {re.escape(message)}", text)) == 1
    assert text.count(message) == 1
    assert "Traceback" not in text
    assert one.records() == []


def test_every_trial_has_as_many_gpus_as_are_marked(one: Leasing) -> None:
    one.write(gpus=2, parameters={"a": [1, 2, 3]})
    one.run()
    assert [entry["visible"] for entry in one.entries()] == ["0,1"] * 3


#: How a need is said, with how many workers, and whether a cheap check without a GPU comes first.
NEEDS: Final = list(itertools.product(["marker", "layout"], ["0", "2"], [False, True]))
QUICK_NEEDS: Final = [("marker", "0", True), ("layout", "2", False), ("layout", "0", True)]


@pytest.mark.parametrize(
    ("said", "workers", "checked"),
    [pytest.param(*need, marks=[] if need in QUICK_NEEDS else SLOW) for need in NEEDS],
)
def test_what_needs_more_gpus_than_there_are_is_left_out(
    one: Leasing, said: str, workers: str, *, checked: bool
) -> None:
    check = "def test_check(trial):\n    pass\n" if checked else ""
    if said == "marker":
        one.write(check + SIMPLE, gpus="tp", parameters={"tp": [1, 2, 4]})
    else:
        one.write(check + SIMPLE, parallel_config={"tp": [1, 2, 4]}, parameters={})
    text = one.run("-n", workers)
    assert "2 of 2: 2 feasible" in text
    assert re.search(
        r"combinations are left out, as the tests need .*tp.* GPUs, and there are 2 to use", text
    )
    found = {entry["params"]["tp"]: entry["devices"] for entry in one.entries()}
    assert set(found) == {1, 2}
    assert len(found[1]) == 1
    assert set(found[2]) == {"index-0", "index-1"}


def test_a_study_is_the_same_whichever_of_its_tests_are_selected(one: Leasing) -> None:
    one.write(
        "def test_check(trial):\n    pass\n" + SIMPLE,
        parallel_config={"tp": [1, 2, 4]},
        parameters={},
    )
    one.run()
    # One that uses a GPU, and by its name; all trials are done, so that these are looks.
    text = one.run("test_study.py::test_it", status=None)
    assert "a new study was started" not in text
    assert "trials   2 of 2: 2 feasible; 2 of them in earlier runs" in text
    assert "2 looks at trials 0-1, not stored: the run left out test_check" in text


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=SLOW)])
def test_a_need_that_cannot_be_met_is_said_before_anything_runs(one: Leasing, workers: str) -> None:
    one.write(gpus=3)
    text = one.run("-n", workers, status=USAGE)
    assert len(re.findall(r"ERROR: .*the tests need 3 GPUs, and there are 2 to use", text)) == 1
    assert one.records() == []


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ("b", "test_study.py: autotune marker: gpus: unknown name 'b' in 'b'"),
        (1.5, "test_study.py: autotune marker: gpus=1.5 is neither a whole number nor an"),
        ("a / 4", "gpus='a / 4' gives 0.25 for this trial, which is no number of GPUs"),
    ],
)
def test_a_marker_that_says_nothing_ends_the_run_in_one_message(
    one: Leasing, gpus: object, said: str
) -> None:
    one.write(gpus=gpus, parameters={"a": [1, 2]})
    text = one.run(status=USAGE)
    assert text.count(said) == 1
    assert "Traceback" not in text


def test_other_tests_of_a_run_see_what_its_caller_left_visible(one: Leasing) -> None:
    plain = """
import os, pytest
from pytest_autotune.gpu.leases import Desk
from pytest_autotune.gpu.visible import Device

def test_plain():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_DEVICE_ORDER" not in os.environ
    devices = [Device(key=f"index-{n}", visible=str(n)) for n in range(2)]
    Desk().acquire(devices, 2, purpose="x", timeout=0).release()
"""
    for name in ("test_a_before.py", "test_z_after.py"):
        (one.path / name).write_text(plain)
    one.write(parameters={"a": [1, 2]})
    assert "4 passed" in one.run()


def test_a_trial_that_fails_gives_its_gpus_back(one: Leasing) -> None:
    one.write(
        """
@pytest.fixture
def broken(gpu):
    raise RuntimeError("boom")

def test_it(trial, broken):
    pass
""",
        parameters={"a": [1, 2, 3]},
    )
    one.run(status=1)
    with held("0", "1"):
        pass
    assert [record.outcome.value for record in one.records()] == ["failed"] * 3


def test_what_a_trial_set_up_is_gone_before_its_gpus_are(one: Leasing) -> None:
    one.write(
        """
from pytest_autotune.gpu.leases import Desk

@pytest.fixture(scope="module")
def model(trial, gpu):
    yield
    # Who waits for this GPU must not get it while there is still something on it.
    said = Desk().describe(gpu.devices)
    with open("after", "a") as file:
        file.write(f"{trial.number} {said}\\n")

def test_it(trial, model):
    trial.report({"cost": trial.number})
""",
        parameters={"a": [1, 2, 3]},
    )
    one.run()
    after = (one.path / "after").read_text().splitlines()
    for number, line in enumerate(after):
        assert re.match(rf"{number} GPU 0 is held by pid .*, trial {number}\)", line), line
    assert len(after) == 3


def test_a_fixture_that_fails_at_its_end_is_the_failure_of_its_own_trial(one: Leasing) -> None:
    one.write(
        """
@pytest.fixture(scope="module")
def model(trial, gpu):
    yield
    assert trial.number != 1, "boom"

def test_it(trial, model):
    trial.report({"cost": trial.number})
""",
        parameters={"a": [1, 2, 3]},
    )
    text = one.run(status=1)
    assert "ERROR at teardown of test_it[a:2]" in text
    assert "3 passed, 1 error" in text


# How many workers

WORKERS: Final = re.compile(r"(\d+) workers?\b")
AUTO: Final = """
import json, os, pytest
pytestmark = pytest.mark.autotune("auto")
SHARE = os.environ["CUDA_VISIBLE_DEVICES"]

def test_it(trial, gpu):
    print(f"share {SHARE} lease {gpu.visible}")
    trial.report({"cost": trial.number})
"""


@pytest.mark.parametrize(
    ("visible", "layout", "workers"),
    [
        ("0,1,2,3", {"tp": [2]}, 2),
        ("0,1,2,3", {"tp": [1, 2], "pp": [2, 4]}, 1),
        pytest.param("0,1,2,3", {"tp": [1, 4, 8]}, 1, marks=SLOW),
        pytest.param("0,1,2", {}, 3, marks=SLOW),
        pytest.param("3,2,1", {"tp": [2]}, 1, marks=SLOW),
    ],
)
def test_there_is_a_worker_for_each_lease(
    one: Leasing,
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    layout: dict[str, Any],
    workers: int,
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    spec = {**MARK, "parallel_config": layout}
    (one.path / "autotune.json").write_text(json.dumps({"auto": spec}))
    (one.path / "test_study.py").write_text(AUTO)
    text = one.run("-n", "auto", "-rP")
    found = WORKERS.search(text)
    assert found is not None, text
    assert int(found[1]) == workers
    seen = re.findall(r"share (\S+) lease (\S+)", text)
    assert seen
    if workers == 2:
        assert {share for share, _ in seen} <= {"0,1", "2,3"}
        assert all(share == lease for share, lease in seen)


def test_workers_are_as_many_as_ever_without_gpus_or_without_studies(
    one: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.write(
        SIMPLE.replace("gpu)", ")")
        .replace("gpu.devices", "()")
        .replace('assert gpu.visible == os.environ["CUDA_VISIBLE_DEVICES"]', "")
    )
    (one.path / "test_plain.py").write_text("def test_plain(): pass\n")

    def count(*args: str) -> str:
        text = Runs(one.path).run("-n", "auto", *args, status=0)
        found = WORKERS.search(text)
        assert found is not None, text
        return found[1]

    ever = count("-p", "no:autotune", "test_plain.py")
    monkeypatch.setenv(VISIBLE, "")
    assert count("--autotune") == ever
    monkeypatch.setenv(VISIBLE, ",".join(map(str, range(7))))
    assert count() == ever


def test_a_mistake_in_a_spec_is_said_as_ever_where_workers_are_counted(one: Leasing) -> None:
    (one.path / "autotune.json").write_text('{"auto": {"parameters": 3}}')
    text = one.run("-n", "auto", status=USAGE)
    assert text.count("ERROR: autotune.json:1:11: /auto/parameters: 3 is not") == 1


# Servers

SERVED: Final = """
import os, pytest
pytestmark = pytest.mark.autotune("served")

def test_answers(trial, inference_server):
    print("test sees", os.environ["CUDA_VISIBLE_DEVICES"])
    trial.report({"mean_ttft": 1.0})
"""


def server(**keys: Any) -> dict[str, Any]:
    return process("--print-environment", VISIBLE, **keys)


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        ({}, "0"),
        pytest.param({"gpus": 2}, "0,1", marks=SLOW),
        ({"gpus": "all"}, "0,1"),
        pytest.param({"gpus": ["1"]}, "1", marks=SLOW),
        ({"gpus": ["1", "0"]}, "1,0"),
    ],
)
def test_a_server_sees_the_gpus_that_were_leased_for_it(
    serving: Serving, keys: dict[str, Any], seen: str
) -> None:
    serving.write(server(**keys), SERVED)
    text = serving.run("-rP", status=0)
    assert re.findall(r"test sees (\S+)", text) == [seen, seen]
    assert re.findall(rf"{VISIBLE}=(\S*)", serving.logs()) == [seen, seen]


def test_a_server_takes_what_nobody_else_has(serving: Serving) -> None:
    serving.write(server(), SERVED)
    with held("0"):
        serving.run(status=0)
    assert re.findall(rf"{VISIBLE}=(\S*)", serving.logs()) == ["1", "1"]


def test_a_server_without_gpus_needs_no_lease(serving: Serving) -> None:
    serving.write(server(gpus="none"), SERVED)
    with held("0", "1"):
        serving.run(status=0)
    assert set(re.findall(rf"{VISIBLE}=(\S*)", serving.logs())) <= {"", "''"}


def test_gpus_that_are_not_there_end_the_run(serving: Serving) -> None:
    serving.write(server(gpus=["7"]), SERVED)
    text = serving.run(status=USAGE)
    assert text.count("ERROR: GPUs 7 are asked for, and there are: 0, 1") == 1


_WAIT = """
import sys
from pathlib import Path
from pytest_autotune.gpu.leases import Desk
from pytest_autotune.gpu.visible import Device
devices = [Device(key="index-0", visible="0")]
lease = Desk().acquire(
    devices, 1, purpose="x", timeout=float(sys.argv[1]), on_wait=lambda _: Path("waits").touch()
)
alive = [path.name for path in Path().glob("server-*") if Path("/proc", path.name[7:]).exists()]
print(len(list(Path().glob("ran-*"))), *alive, flush=True)
lease.release()
"""
_REUSED = """
import os, time
from pathlib import Path
import pytest
pytestmark = pytest.mark.autotune("served")

def test_answers(trial, inference_server):
    limit = time.monotonic() + 100
    # "process 4242"
    Path("server-" + inference_server.description.split()[1]).touch()
    while not Path("waits").exists():
        Path("up").touch()
        assert time.monotonic() < limit
        time.sleep(0.01)
    Path(f"ran-{trial.number}").touch()
    trial.report({"mean_ttft": 1.0})
"""
_AFTER = """
import os
from pathlib import Path
from pytest_autotune.gpu.leases import Desk
from pytest_autotune.gpu.visible import Device

def test_plain():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    devices = [Device(key="index-0", visible="0")]
    Desk().acquire(devices, 1, purpose="x", timeout=100).release()
"""


@pytest.mark.parametrize("reuse", [True, False])
def test_a_server_that_is_kept_keeps_its_gpus_and_gives_them_back(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, *, reuse: bool
) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    spec = {"parameters": {"load": [1, 2, 3]}}
    serving.write(server(reuse=reuse, flags={"load": None}), _REUSED, **spec)
    (serving.path / "test_z.py").write_text(_AFTER)
    run = serving.start()
    eventually((serving.path / "up").exists, PATIENCE)
    with subprocess.Popen(
        [sys.executable, "-c", _WAIT, str(PATIENCE)],
        cwd=serving.path, stdout=subprocess.PIPE, text=True,
    ) as waiter:  # fmt: skip
        text, _ = waiter.communicate(timeout=2 * PATIENCE)
    assert run.wait(timeout=PATIENCE) == 0, serving.output()
    assert len(re.findall(rf"{VISIBLE}=0", serving.logs())) == (1 if reuse else 3)
    # Who waited had his turn after the first trial, or after the last that used the server, and
    # in any case once the server was gone.
    assert text.strip() == ("3" if reuse else "1")


# Benchmarks

RACE: Final = """
import random, time

def test_it(trial, gpu_benchmark):
    pause = trial.params["pause"]
    draw = random.Random(0).uniform

    def work():
        # Never twice the same, so that no interval becomes narrow.
        time.sleep(pause * draw(1, 2))

    # The fast one need not be known well; the slow one has all the time to lose.
    trial.report(gpu_benchmark(work, max_time=1.0 if pause < 0.01 else 600.0))
"""


def test_callables_are_timed_without_any_gpu_and_slow_ones_given_up(
    one: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "")
    one.write(
        RACE,
        parameters={"pause": [0.001, 0.2]},
        optimization={"objective": "minimize:p50_e2e_latency", "strategy": "grid_search"},
    )
    text = one.run("-W", "error", "-v")
    fast, slow = sorted(one.records(), key=lambda record: record.params["pause"])
    assert (fast.number, fast.outcome.value) == (0, "feasible"), text
    for name in ("mean", "min", "max", "std", "p50", "p90", "p99"):
        assert 0 <= fast.metrics[f"{name}_e2e_latency"] < 600
    assert 0.001 <= fast.metrics["min_e2e_latency"] <= fast.metrics["p50_e2e_latency"]
    assert fast.value == fast.metrics["p50_e2e_latency"]
    assert fast.metrics["num_samples"] >= 3
    assert fast.metrics["interval_width"] >= 0
    assert not [name for name in fast.metrics if "gpu" in name]
    assert slow.outcome.value == "pruned"
    assert slow.reason.startswith("lost the race: median ")
    assert "1 feasible, 1 pruned" in text


@pytest.mark.parametrize("keyword", ["async ", ""], ids=["coroutine", "generator"])
def test_what_calling_does_not_run_is_refused_in_plain_words(
    one: Leasing, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    monkeypatch.setenv(VISIBLE, "")
    one.write(
        f"""
{keyword}def work():
    {"pass" if keyword else "yield"}

def test_it(trial, gpu_benchmark):
    trial.report(gpu_benchmark(work))
""",
        parameters={"a": [1]},
    )
    text = one.run("-W", "error", status=1)
    kind = "coroutine" if keyword else "generator"
    assert f"work is a {kind} function, so calling it does not run it; give a function" in text
    assert "Traceback" not in text
    assert "bench/" not in text
    assert "never awaited" not in text
    (record,) = one.records()
    assert record.outcome.value == "failed"
    assert record.reason.startswith(f"work is a {kind} function")


# Real devices, as far as NVML can tell


TELL: Final = """
import json

def pytest_autotune_trial_finished(config, study, trial):
    with config.rootpath.joinpath("told.json").open("a") as file:
        told = {
            "metrics": dict(trial.metrics), "notes": list(trial.notes),
            "outcome": trial.outcome.value, "reason": trial.reason,
        }
        file.write(json.dumps(told) + "\\n")
"""


@pytest.fixture
def fake(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> FakeNvml:
    pytest.importorskip("pynvml")
    found = FakeNvml(need_library(tmp_path_factory), tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(VISIBLE)
    found.set("devices", 2)
    (tmp_path / "one").mkdir(exist_ok=True)
    (tmp_path / "one" / "conftest.py").write_text(TELL)
    return found


def test_a_run_on_other_gpus_starts_a_new_study_and_says_why(one: Leasing, fake: FakeNvml) -> None:
    one.write(parameters={"a": [1, 2]})
    assert "2 of 2" in one.run()
    assert "earlier runs" in one.run()
    for number in (0, 1):
        fake.set(f"{number}.name", "NVIDIA H200")
    text = one.run()
    assert "a new study was started, because this changed: environment (gpus)" in text
    assert "earlier runs" not in text
    assert len(one.entries()) == 4
    fake.set("driver", "999.1")
    assert "this changed: environment (gpu_driver)" in one.run()


def test_all_devices_are_leased_by_their_uuids(
    one: Leasing, fake: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.write(
        SIMPLE.replace(
            "time.sleep(0.05)", "assert os.environ['CUDA_DEVICE_ORDER'] == 'PCI_BUS_ID'"
        ),
        parameters={"a": [1]},
    )
    one.run()
    # By number or by UUID, it is the same lease.
    monkeypatch.setenv(VISIBLE, "GPU-00000000-0000-0000-0000-000000000000")
    one.write(parameters={"a": [2]})
    one.run()
    first, second = one.entries()
    assert first["devices"] == second["devices"] == ["GPU-00000000-0000-0000-0000-000000000000"]
    assert (first["visible"], second["visible"]) == ("0", first["devices"][0])


def test_who_else_is_on_a_gpu_is_noted(one: Leasing, fake: FakeNvml) -> None:
    fake.set("0.processes", f"{os.getpid()}:{2**20}")
    one.write(f"{OUTSIDE_A_CONTAINER}\n{SIMPLE}", parameters={"a": [1]})
    one.run()
    (trial,) = one.finished()
    name = Path("/proc/self/comm").read_text().strip()
    assert trial["notes"] == [f"GPU 0 is also used by pid {os.getpid()} ({name}, 1 MiB)"]


def test_a_benchmark_on_a_throttled_gpu_is_measured_again_and_noted(
    one: Leasing, fake: FakeNvml
) -> None:
    fake.set("0.throttle", "0x40")
    one.write(
        """
def test_it(trial, gpu_benchmark):
    trial.report(gpu_benchmark(lambda: time.sleep(0.001), max_time=0.3))
""",
        parameters={"a": [1]},
        optimization={"objective": "minimize:p50_e2e_latency", "strategy": "grid_search"},
    )
    one.run("-W", "error")
    (trial,) = one.finished()
    expected = "e2e_latency is unreliable, measured twice: GPU 0 was throttled (thermal (hardware))"
    assert expected in trial["notes"]
    assert trial["metrics"]["max_gpu_temperature_c"] == 35


def test_a_candidate_on_lower_clocks_is_not_pruned_for_them(one: Leasing, fake: FakeNvml) -> None:
    # The card draws as much as it may, and its clocks fall after the first trial.
    fake.set("0.throttle", "0x4")
    one.write(
        """
def test_it(trial, gpu_benchmark):
    with Path(os.environ["FAKE_NVML_STATE"]).open("a") as state:
        state.write(f"0.sm_clock={1980 if trial.number == 0 else 1320}\\n")
    seconds = trial.params["ms"] / 1000
    trial.report(gpu_benchmark(lambda: time.sleep(seconds), max_time=2, width=1e-9))
""",
        parameters={"ms": [10, 12.5, 30]},
        optimization={"objective": "minimize:p50_e2e_latency", "strategy": "grid_search"},
    )
    one.run()
    best, spared, lost = one.finished()
    assert best["metrics"]["mean_gpu_clock_mhz"] == 1980
    assert spared["outcome"] == "feasible"
    assert any(
        "the GPU ran at 1320 MHz (mean), and for the best so far at 1980 MHz" in note
        for note in spared["notes"]
    )
    assert lost["outcome"] == "pruned"
    assert lost["reason"].startswith("lost the race")


def test_workers_agree_on_the_machine_although_each_sees_a_part_of_it(
    one: Leasing, fake: FakeNvml
) -> None:
    fake.set("devices", 4)
    one.write(gpus="tp", parameters={"tp": [1, 2, 3, 4, 8]})
    text = one.run("-n", "3")
    assert "4 of 4" in text
    found = {entry["params"]["tp"]: entry["visible"] for entry in one.entries()}
    assert {tp: len(visible.split(",")) for tp, visible in found.items()} == {
        1: 1,
        2: 2,
        3: 3,
        4: 4,
    }
    assert disjoint(one.entries())
    # And a run without workers on the same machine.
    assert "4 of them in earlier runs" in one.run()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["serial", "workers"])
def test_trials_on_gpus_of_different_models_are_refused(
    one: Leasing, fake: FakeNvml, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    fake.set("devices", 3)
    fake.set("1.name", "NVIDIA L4")
    fake.set("1.memory", 24 * 2**30)
    text = one.run(*workers, status=USAGE)
    assert text.count("different models") == 1
    assert (
        "the GPUs are of different models (NVIDIA H100 80GB HBM3, 80 GiB: 0, 2; NVIDIA L4, "
        "24 GiB: 1), on which trials cannot be compared; choose one model, for example "
        "CUDA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000000,"
        "GPU-00000000-0000-0000-0000-000000000002"
    ) in text
    assert one.entries() == []
    monkeypatch.setenv(VISIBLE, "GPU-00000000-0000-0000-0000-000000000001")
    assert "12 of 12" in one.run(*workers)


def test_a_card_in_mig_mode_without_instances_is_not_leased(one: Leasing, fake: FakeNvml) -> None:
    fake.set("0.mig_mode", 1)
    one.write(parameters={"a": [1]})
    one.run()
    assert [entry["visible"] for entry in one.entries()] == ["1"]
    fake.set("1.mig_mode", 1)
    text = one.run(status=USAGE)
    assert "there is no GPU: GPUs 0, 1 are in MIG mode without an instance" in text
    assert "nvidia-smi mig -cgi PROFILE -C" in text


VLLM: Final = """
import sys
from pathlib import Path

with Path("seen").open("a") as log:
    import os
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER"), file=log)
sys.exit("no model here")
"""


@pytest.fixture
def vllm(serving: Serving, fake: FakeNvml) -> Callable[[], str]:
    """Run a study whose server is a vLLM that notes the GPUs it sees; return the text."""

    def run() -> str:
        program = f"#!{sys.executable}\n{VLLM}"
        (serving.path / "vllm").write_text(program)
        (serving.path / "vllm").chmod(0o755)
        serving.write(
            {"preset": "vllm", "backend": "process"},
            SERVED,
            model={"id_or_path": "m"},
            parameters={"max_num_seqs": [1]},
        )
        path = os.pathsep.join((str(serving.path), os.environ["PATH"]))
        return serving.run(status=1, PATH=path)

    return run


def test_workers_take_mig_instances_and_layouts_of_several_are_left_out(
    one: Leasing, fake: FakeNvml
) -> None:
    fake.set("devices", 1)
    fake.set("0.mig", 2)
    one.write(gpus="tp", parameters={"tp": [1, 2], "a": [1, 2, 3]})
    text = one.run("-n", "2")
    assert "3 of 3: 3 feasible" in text
    seen = {entry["visible"] for entry in one.entries()}
    assert seen <= {f"MIG-00000000-0000-0000-0000-00000000000{n}" for n in (0, 1)}
    assert disjoint(one.entries())


def test_a_server_on_a_mig_instance_sees_it_and_vllm_is_warned_of(
    serving: Serving, fake: FakeNvml, vllm: Callable[[], str]
) -> None:
    fake.set("devices", 1)
    fake.set("0.mig", 2)
    serving.write(server(), SERVED, parameters={"ttft": [0.01]})
    first = "MIG-00000000-0000-0000-0000-000000000000"
    text = serving.run("-rP", status=0)
    assert re.findall(r"test sees (\S+)", text) == [first]
    assert re.findall(rf"{VISIBLE}=(\S*)", serving.logs()) == [first]
    assert "vLLM" not in text
    text = vllm()
    assert (serving.path / "seen").read_text().split() == [first, "PCI_BUS_ID"]
    assert "vLLM reads CUDA_VISIBLE_DEVICES as numbers of cards" in " ".join(text.split())


def test_vllm_is_told_numbers_where_its_caller_uses_uuids(
    serving: Serving, vllm: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "GPU-00000000-0000-0000-0000-000000000001")
    text = vllm()
    assert (serving.path / "seen").read_text().split() == ["1", "PCI_BUS_ID"]
    assert "MIG" not in text
    # So it can be pasted.
    assert "CUDA_VISIBLE_DEVICES=1 CUDA_DEVICE_ORDER=PCI_BUS_ID" in text


# GPUs of AMD

AMD: Final = """
from pathlib import Path
from pytest_autotune.gpu import amd

here = Path(__file__).parent
amd._DRIVER, amd._NODES = here / "kfd", here / "nodes"
"""


@pytest.fixture
def with_amd(one: Leasing, monkeypatch: pytest.MonkeyPatch) -> Leasing:
    for number in range(2):
        node = one.path / "nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text("simd_count 304\n")
    (one.path / "kfd").touch()
    (one.path / "conftest.py").write_text(AMD)
    monkeypatch.delenv(VISIBLE)
    return one


def test_gpus_of_amd_are_leased_where_they_are_listed(
    with_amd: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = with_amd.run(status=USAGE)
    assert text.count("this machine has GPUs of AMD (2)") == 1
    assert "set CUDA_VISIBLE_DEVICES=0,1, which HIP reads, too" in text
    monkeypatch.setenv(VISIBLE, "0,1")
    with_amd.run("-n", "2")
    assert {entry["visible"] for entry in with_amd.entries()} == {"0", "1"}
    assert disjoint(with_amd.entries())
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    text = with_amd.run("-n", "2", status=USAGE)
    assert text.count("HIP_VISIBLE_DEVICES='1' outranks CUDA_VISIBLE_DEVICES") == 1
