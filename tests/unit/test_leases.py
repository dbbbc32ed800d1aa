"""Leases among real processes: never two holders, no deadlock, no starvation, any death."""

from __future__ import annotations

import contextlib
import getpass
import json
import multiprocessing
import os
import pwd
import queue
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from filelock import FileLock

from pytest_autotune.errors import LeaseError
from pytest_autotune.gpu import leases as module
from pytest_autotune.gpu.leases import FOLDER_VARIABLE, Desk, Lease
from pytest_autotune.gpu.visible import Device

DEVICES = [Device(key=f"GPU-{n}", visible=str(n), uuid=f"GPU-{n}") for n in range(2)]
#: What a slow machine may take for what is done at once (seconds).
PATIENCE = 60.0

_PRELUDE = """
import os, subprocess, sys, time
from pathlib import Path
from pytest_autotune.errors import LeaseError
from pytest_autotune.gpu.leases import Desk
from pytest_autotune.gpu.visible import Device
devices = [Device(key=f"GPU-{n}", visible=str(n), uuid=f"GPU-{n}") for n in range(2)]
def say(*words):
    print(*words, flush=True)
def acquire(count=1, timeout=120.0, purpose="a test", among=devices):
    return Desk().acquire(
        among, count, purpose=purpose, timeout=timeout, on_wait=lambda why: say("waits", why)
    )
"""
_HOLD = "lease = acquire({count}); say('has', lease.visible); sys.stdin.read()"
#: Takes and gives back, and writes down when it had which device.
_TAKE_TURNS = """
log = open({log!r}, "a")
for _ in range({rounds}):
    lease = acquire({count})
    begin = time.monotonic()
    time.sleep({hold})
    end = time.monotonic()
    log.write("".join(f"{{d.key}} {{begin}} {{end}} {count}\\n" for d in lease.devices))
    log.flush()
    lease.release()
"""


class Other:
    """Another process, which says what it does."""

    def __init__(self, code: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _PRELUDE + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        self.pid = self._process.pid
        self._said: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._said.put(line.strip())
        self._said.put("")

    def hear(self) -> str:
        """Return what it says next; empty once it has ended."""
        return self._said.get(timeout=2 * PATIENCE)

    def end(self) -> int:
        """Let it end, and return its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        status = self._process.wait(2 * PATIENCE)
        self._listener.join()
        return status

    def kill(self) -> None:
        self._process.kill()
        self.end()


Start: TypeAlias = Callable[..., Other]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "locks"
    monkeypatch.setenv(FOLDER_VARIABLE, str(found))
    return found


@pytest.fixture
def desk(folder: Path) -> Desk:
    return Desk()


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start processes that are killed with the test."""
    with ExitStack() as stack:

        def start_other(code: str, **options: Any) -> Other:
            other = Other(code, **options)
            stack.callback(other.kill)
            return other

        yield start_other


def eventually(holds: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.01)


def take(
    desk: Desk, count: int = 1, timeout: float = 2 * PATIENCE, among: Sequence[Device] = DEVICES
) -> Lease:
    return desk.acquire(among, count, purpose="trial 7", timeout=timeout)


def refusal(desk: Desk, count: int = 1, timeout: float = 0.0) -> str:
    with pytest.raises(LeaseError) as caught:
        take(desk, count, timeout)
    return str(caught.value)


def waiting(folder: Path) -> int:
    return len(list((folder / "line").glob("*.lock")))


# Exclusive


def test_no_device_ever_has_two_holders_and_all_get_their_turn(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    counts, rounds = (1, 2, 1, 2, 1, 1), 4
    others = [
        start(_TAKE_TURNS.format(log=str(log), rounds=rounds, count=count, hold=0.02))
        for count in counts
    ]
    # That all of them end at all shows that nobody waits for somebody who waits for him.
    assert [other.end() for other in others] == [0] * len(counts)
    spans = defaultdict(list)
    for line in log.read_text().splitlines():
        key, begin, end, _ = line.split()
        spans[key].append((float(begin), float(end)))
    assert sum(map(len, spans.values())) == rounds * sum(counts)
    for held in spans.values():
        held.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(held))
    assert waiting(folder) == 0


def test_devices_are_taken_all_or_none(desk: Desk, start: Start) -> None:
    other = start(_HOLD.format(count=1))
    assert other.hear() == "has 0"
    assert "GPU 0 is held by" in refusal(desk, 2)
    # The failure has left the free one free.
    lease = take(desk, 1, timeout=0)
    assert lease.visible == "1"
    lease.release()
    other.kill()


def test_those_are_taken_first_that_come_first(desk: Desk) -> None:
    lease = take(desk, among=DEVICES[::-1])
    assert (lease.visible, lease.count, lease.waited) == ("1", 1, 0.0)
    rest = take(desk, among=DEVICES[::-1])
    assert rest.visible == "0"
    lease.release()
    rest.release()
    both = take(desk, 2, among=DEVICES[::-1])
    assert both.devices == tuple(DEVICES[::-1])
    assert both.visible == "1,0"
    both.release()


def test_who_has_devices_is_excluded_from_them_himself(desk: Desk) -> None:
    lease = take(desk, 2)
    said = refusal(Desk())
    assert said.count(f"is held by pid {os.getpid()} ({getpass.getuser()}, trial 7)") == 2
    lease.release()
    take(desk, 2).release()


def test_what_is_given_back_twice_is_not_taken_from_the_next_one(desk: Desk, start: Start) -> None:
    lease = take(desk, 2)
    lease.release()
    other = start(_HOLD.format(count=2))
    assert other.hear() == "has 0,1"
    lease.release()
    assert "is held by" in refusal(desk)
    other.kill()


def test_names_of_devices_may_hold_anything(desk: Desk, folder: Path) -> None:
    odd = [Device(key=f"MIG-GPU-x/{n}/../0", visible=f"{n}") for n in range(2)]
    lease = take(desk, 2, among=odd)
    assert lease.count == 2
    lease.release()
    assert {path.parent for path in folder.rglob("*.lock")} == {folder}


# The line


def test_a_large_request_is_not_starved_by_small_ones(desk: Desk, start: Start) -> None:
    code = """
say("begins")
while not Path("stop").exists():
    lease = acquire()
    time.sleep(0.05)
    lease.release()
"""
    with tempfile.TemporaryDirectory() as here:
        others = [start(code, cwd=here) for _ in range(3)]
        for other in others:
            assert other.hear() == "begins"
        for _ in range(3):
            take(desk, 2).release()
        (Path(here) / "stop").touch()
        assert [other.end() for other in others] == [0, 0, 0]


def test_what_a_large_request_waits_for_is_kept_free_for_it(
    desk: Desk, start: Start, folder: Path
) -> None:
    small = take(desk, 1)
    large = start(_HOLD.format(count=2))
    assert large.hear().startswith("waits waiting for 2 GPUs: GPU 0 is held by pid ")
    # There is a free one, but it is spoken for.
    said = refusal(desk)
    assert "no GPU came free" in said
    assert "GPU 0 is held by" in said
    assert waiting(folder) == 1
    small.release()
    assert large.hear() == "has 0,1"
    assert large.end() == 0
    take(desk, 2).release()


def test_it_is_said_where_all_that_is_free_is_spoken_for(desk: Desk, start: Start) -> None:
    first = take(desk, 1)
    large = start(_HOLD.format(count=2))
    assert large.hear().startswith("waits")
    with pytest.raises(LeaseError, match="all are reserved for others in the line"):
        take(desk, among=DEVICES[1:], timeout=0)
    first.release()
    assert large.hear() == "has 0,1"


def test_a_request_for_other_devices_is_not_held_up(desk: Desk, start: Start) -> None:
    lease = take(desk, among=DEVICES[:1])
    other = start("lease = acquire(among=devices[:1]); say('has', lease.visible)")
    assert other.hear().startswith("waits")
    take(desk, among=DEVICES[1:], timeout=0).release()
    lease.release()
    assert other.hear() == "has 0"


def test_who_came_first_is_served_first(desk: Desk, start: Start, folder: Path) -> None:
    lease = take(desk, 2)
    code = "lease = acquire(2); say('has', time.monotonic()); lease.release()"
    others = []
    for number in range(1, 5):
        others.append(start(code))
        assert others[-1].hear().startswith("waits")
        assert waiting(folder) == number
    lease.release()
    said = [other.hear().split() for other in others]
    assert [word for word, _ in said] == ["has"] * 4
    times = [float(moment) for _, moment in said]
    assert times == sorted(times)


def test_nobody_who_comes_later_overtakes_the_line(desk: Desk, start: Start, folder: Path) -> None:
    lease = take(desk, 2)
    other = start(_HOLD.format(count=2))
    assert other.hear().startswith("waits")
    lease.release()
    # From here on both are free, or his already.
    assert "no 2 GPUs came free" in refusal(desk, 2)
    assert other.hear() == "has 0,1"


def test_waiting_is_told_once_and_measured(desk: Desk, start: Start) -> None:
    other = start("lease = acquire(2, purpose='trial 3'); say('has'); time.sleep(0.7)")
    assert other.hear() == "has"
    told: list[str] = []
    lease = desk.acquire(DEVICES, 1, purpose="x", timeout=2 * PATIENCE, on_wait=told.append)
    (why,) = told
    who = rf"pid {other.pid} \({getpass.getuser()}, trial 3\) for \d+ s"
    expected = rf"waiting for GPU: GPU 0 is held by {who}; GPU 1 is held by {who}"
    assert re.fullmatch(expected, why)
    assert lease.waited > 0
    lease.release()


def test_who_gives_up_is_told_who_has_them(desk: Desk, start: Start, folder: Path) -> None:
    other = start("lease = acquire(2, purpose='test_it.py, trial 3'); say('has'); sys.stdin.read()")
    assert other.hear() == "has"
    who = rf"pid {other.pid} \({getpass.getuser()}, test_it\.py, trial 3\) for \d+ s"
    assert re.fullmatch(
        rf"no 2 GPUs came free within 0\.2 s \(--autotune-gpu-timeout\): "
        rf"GPU 0 is held by {who}; GPU 1 is held by {who}",
        refusal(desk, 2, timeout=0.2),
    )
    assert waiting(folder) == 0


def test_who_is_interrupted_leaves_the_line(desk: Desk, folder: Path) -> None:
    lease = take(desk, 2)

    def interrupt(why: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.acquire(DEVICES, 2, purpose="x", timeout=PATIENCE, on_wait=interrupt)
    assert waiting(folder) == 0
    assert list((folder / "line").iterdir()) == []
    lease.release()


# Any death


def test_what_a_killed_process_held_is_free_at_once(desk: Desk, start: Start) -> None:
    for count in (1, 2):
        other = start(_HOLD.format(count=count))
        assert other.hear().startswith("has")
        assert "is held by" in refusal(desk, 2)
        os.kill(other.pid, signal.SIGKILL)
        lease = take(desk, 2)
        # A fraction of a second, and not what a heartbeat would take to be missed.
        assert lease.waited < 20
        lease.release()


def test_a_killed_process_leaves_nothing_to_what_it_started(desk: Desk, start: Start) -> None:
    code = """
child = None
lease = acquire(2)
child = subprocess.Popen(["sleep", "600"], close_fds=False, stdin=subprocess.DEVNULL)
say(child.pid)
sys.stdin.read()
"""
    other = start(code)
    child = int(other.hear())
    try:
        os.kill(other.pid, signal.SIGKILL)
        take(desk, 2).release()
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking with threads is warned of")
def test_a_forked_child_that_ends_does_not_end_the_lease(desk: Desk, start: Start) -> None:
    lease = take(desk, 2)
    child = multiprocessing.get_context("fork").Process(target=lambda: None)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert start("say('got' if Path(acquire(1, 0).visible) else '')").end() != 0
    lease.release()


def test_a_killed_waiter_does_not_hold_up_the_line(desk: Desk, start: Start, folder: Path) -> None:
    lease = take(desk, 1)
    dead = start(_HOLD.format(count=2))
    assert dead.hear().startswith("waits")
    behind = start(_HOLD.format(count=1))
    assert behind.hear().startswith("waits")
    os.kill(dead.pid, signal.SIGKILL)
    # The other device was free all the time.
    assert behind.hear() == "has 1"
    assert waiting(folder) == 0
    lease.release()


def test_a_request_that_cannot_be_read_is_passed_over(desk: Desk, folder: Path) -> None:
    # Of somebody who died before he had written it, on another kernel or a full disk.
    (folder / "line" / "00000000000000000001-x.lock").touch()
    (folder / "line" / "00000000000000000002-x.lock").touch()
    (folder / "line" / "00000000000000000002-x.json").write_text("{")
    take(desk, 2, timeout=0).release()
    assert list((folder / "line").iterdir()) == []


@pytest.mark.parametrize("signature", [None, "", "{", "[]", '{"pid": 1}', '"x"', "\ud800"])
def test_a_holder_who_did_not_sign_is_unknown(
    desk: Desk, folder: Path, signature: str | None
) -> None:
    lease = take(desk)
    path = folder / "GPU-0.json"
    if signature is None:
        path.unlink()
    else:
        path.write_bytes(signature.encode("utf-8", "surrogatepass"))
    assert "GPU 0 is held by pid 0 (unknown, unknown)" in desk.describe(DEVICES)
    lease.release()
    assert "held" not in desk.describe(DEVICES)


def test_who_cannot_sign_has_nothing(
    desk: Desk, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign(self: Desk, key: str, purpose: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Desk, "_sign", sign)
        with pytest.raises(LeaseError, match="No space left on device") as caught:
            take(desk, 2)
    # While the error, and so its frames, are still there.
    other = start("say('has', acquire(2, 0).visible)")
    assert other.hear() == "has 0,1"
    del caught


# The folder


def test_the_folder_is_made_for_all_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        folder = tmp_path / "deep" / "locks"
        take(Desk(folder), 2).release()
    finally:
        os.umask(old)
    for path in (folder, folder / "line"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
    for path in folder.glob("*.lock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    for path in folder.glob("*.json"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444


def test_the_folder_is_the_same_for_all_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_FOLDER", tmp_path / "shared")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))
    for value in (None, ""):
        monkeypatch.setenv(FOLDER_VARIABLE, "x")
        if value is None:
            monkeypatch.delenv(FOLDER_VARIABLE)
        else:
            monkeypatch.setenv(FOLDER_VARIABLE, value)
        take(Desk()).release()
        assert (tmp_path / "shared" / "GPU-0.lock").exists()
        shutil.rmtree(tmp_path / "shared")


def test_a_folder_that_is_none_is_an_error_that_names_a_way_out(tmp_path: Path) -> None:
    advice = "; make it writable for all who use the GPUs, or name another by AUTOTUNE_GPU_LOCKS"
    file = tmp_path / "file"
    file.touch()
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for path, reason in (
        (file, "is no folder"),
        (link, "is no folder"),
        (dangling, "is no folder"),
        (file / "below", "Not a directory"),
    ):
        with pytest.raises(LeaseError) as caught:
            Desk(path)
        assert str(caught.value) == f"GPU leases: cannot use the folder {path}: {reason}{advice}"
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["GPU-0.lock", "GPU-0.json", "GPU-0.PID"])
def test_a_link_that_somebody_planted_leads_nowhere(
    desk: Desk, folder: Path, tmp_path: Path, name: str
) -> None:
    # Everybody may write to the folder, and root may be among those who lease.
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / name.replace("PID", str(os.getpid()))).symlink_to(victim)
    # It may be an error, but one that says what is wrong.
    with contextlib.suppress(LeaseError):
        take(desk, 1, timeout=0).release()
    assert victim.read_text() == "precious"


# Several users


#: In the process, once all is imported, as others may not be able to read this installation.
_BECOME = """
import filelock, getpass, pwd
for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
os.umask(0o077)
os.setgroups([])
os.setgid({uid})
os.setuid({uid})
"""
AsUser: TypeAlias = Callable[[str | int, str], "Other"]


@pytest.fixture
def shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all users reach, as pytest's own are not."""
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
    here = Path(tempfile.mkdtemp(prefix="autotune-leases-"))
    here.chmod(0o777)
    monkeypatch.setenv(FOLDER_VARIABLE, str(here / "locks"))
    try:
        yield here / "locks"
    finally:
        shutil.rmtree(here)


def users() -> tuple[str, str]:
    try:
        return pwd.getpwnam("nobody").pw_name, pwd.getpwnam("daemon").pw_name
    except KeyError:
        pytest.skip("there are no such users")


@pytest.fixture
def as_(shared: Path, start: Start) -> AsUser:
    """Start processes of other users, given by name or number."""

    def start_as(user: str | int, code: str) -> Other:
        uid = user if isinstance(user, int) else pwd.getpwnam(user).pw_uid
        return start(_BECOME.format(uid=uid) + code, cwd="/")

    return start_as


def test_users_exclude_each_other_whatever_their_umask(as_: AsUser, shared: Path) -> None:
    first, second = users()
    for one, other in ((first, second), (second, first), (0, first), (first, 0)):
        holder = as_(one, _HOLD.format(count=2))
        assert holder.hear() == "has 0,1"
        waiter = as_(other, _HOLD.format(count=2))
        assert waiter.hear().startswith("waits")
        assert holder.end() == 0
        assert waiter.hear() == "has 0,1"
        assert waiter.end() == 0


def test_a_user_is_told_who_the_other_one_is(as_: AsUser) -> None:
    first, second = users()
    holder = as_(first, "lease = acquire(2, purpose='his'); say('has'); sys.stdin.read()")
    assert holder.hear() == "has"
    waiter = as_(second, _HOLD.format(count=1))
    assert f"GPU 0 is held by pid {holder.pid} ({first}, his) for" in waiter.hear()


def test_a_user_does_not_overtake_another(as_: AsUser, shared: Path) -> None:
    first, second = users()
    holder = as_(second, _HOLD.format(count=1))
    assert holder.hear() == "has 0"
    large = as_(first, _HOLD.format(count=2))
    assert large.hear().startswith("waits")
    small = as_(
        second,
        "try:\n    say(acquire(1, 0.5).visible)\nexcept LeaseError as error:\n    say(error)",
    )
    assert small.hear().startswith("waits")
    assert small.hear().startswith("no GPU came free")


def test_a_killed_users_place_in_the_line_is_cleared_by_others(as_: AsUser, shared: Path) -> None:
    first, second = users()
    holder = as_(second, _HOLD.format(count=1))
    assert holder.hear() == "has 0"
    dead = as_(first, _HOLD.format(count=2))
    assert dead.hear().startswith("waits")
    dead.kill()
    small = as_(second, _HOLD.format(count=1))
    assert small.hear() == "has 1"
    assert waiting(shared) == 0


def test_a_user_without_a_name_can_lease(as_: AsUser) -> None:
    # As in a container that is run with the host's user and group ids.
    other = as_(54321, _HOLD.format(count=1))
    assert other.hear() == "has 0"


def test_a_folder_that_others_may_not_write_to_is_an_error(as_: AsUser, shared: Path) -> None:
    shared.mkdir(mode=0o755)
    nobody, _ = users()
    other = as_(nobody, "try:\n    acquire()\nexcept LeaseError as error:\n    say(error)")
    assert other.hear() == (
        f"GPU leases: cannot use the folder {shared}: it is not writable for this user; make it "
        "writable for all who use the GPUs, or name another by AUTOTUNE_GPU_LOCKS"
    )


@pytest.mark.parametrize("name", ["GPU-0.lock", "desk.lock", "line/00000000000000000001-x.lock"])
def test_a_file_that_somebody_made_for_himself_is_an_error(
    as_: AsUser, shared: Path, name: str
) -> None:
    Desk(shared)
    path = shared / name
    path.touch(mode=0o600)
    nobody, _ = users()
    other = as_(nobody, "try:\n    acquire()\nexcept LeaseError as error:\n    say(error)")
    said = other.hear()
    assert said.startswith(f"GPU leases: {path} cannot be opened (Permission denied)")
    assert "name another folder by AUTOTUNE_GPU_LOCKS" in said


def test_what_is_written_is_json(desk: Desk, folder: Path) -> None:
    lease = take(desk)
    document = json.loads((folder / "GPU-0.json").read_text())
    assert document["pid"] == os.getpid()
    assert document["purpose"] == "trial 7"
    lease.release()


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"keys": 5, "count": "x"}', ""])
def test_a_request_that_nobody_can_read_stops_nobody(desk: Desk, folder: Path, text: str) -> None:
    ticket = folder / "line" / "00000000000000000001-x.lock"
    ticket.with_suffix(".json").write_text(text)
    with FileLock(ticket):
        take(desk).release()
