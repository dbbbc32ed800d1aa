"""Exclusive leases on GPUs, among all processes and users of one machine.

A lease is a file lock for each device. The kernel ends it with its holder, however that dies.
Several devices are taken all at once or not at all. A process that waits holds none, so there are
no deadlocks. Waiting processes stand in a line, in which small requests do not overtake a large
one for ever.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import LeaseError
from pytest_autotune.gpu.visible import Device, names_of
from pytest_autotune.system.files import replace_file

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Where the locks are. All users of a machine must mean the same folder, so not ``TMPDIR``.
FOLDER_VARIABLE: Final = "AUTOTUNE_GPU_LOCKS"
_FOLDER: Final = Path("/tmp/pytest-autotune-gpus")  # noqa: S108 - shared on purpose
_POLL_SECONDS: Final = 0.1
_OPEN_TO_ALL: Final = 0o666
_OPEN_TO_READERS: Final = 0o644
#: Sections under the mutex last milliseconds; one that lasts this long never ends.
_MUTEX_SECONDS: Final = 30.0
_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The holder of a device. ``since`` is in seconds since the epoch, ``session`` is pytest's."""

    pid: int
    user: str
    purpose: str
    since: float
    session: str = ""

    def __str__(self) -> str:
        """Describe the holder for people."""
        return f"pid {self.pid} ({self.user}, {self.purpose})"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Devices that nobody else has until :meth:`release`."""

    devices: tuple[Device, ...]
    waited: float = 0.0
    _locks: tuple[BaseFileLock, ...] = ()

    @property
    def count(self) -> int:
        """The number of devices."""
        return len(self.devices)

    @property
    def visible(self) -> str:
        """The value of ``CUDA_VISIBLE_DEVICES`` while they are leased."""
        return names_of(self.devices)

    def release(self) -> None:
        """Give the devices back. May be called twice."""
        for lock in self._locks:
            lock.release()


class Desk:
    """The machine's leases, in a folder that all its users can write to.

    ``session`` is shared by the processes of one pytest run.
    """

    def __init__(self, folder: Path | None = None, *, session: str = "") -> None:
        self._session = session or uuid.uuid4().hex
        self._folder = folder or Path(os.environ.get(FOLDER_VARIABLE) or _FOLDER)
        self._line = self._folder / "line"
        try:
            for path in (self._folder, self._line):
                _make_shared(path)
        except OSError as error:
            raise LeaseError(
                f"GPU leases: cannot use the folder {self._folder}: {error.strerror}; "
                f"make it writable for all who use the GPUs, or name another by {FOLDER_VARIABLE}"
            ) from None

    def acquire(
        self,
        candidates: Sequence[Device],
        count: int,
        *,
        purpose: str,
        timeout: float,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> Lease:
        """Lease ``count`` of the ``candidates``, the earlier ones first.

        ``on_wait`` is called once, with the reason for waiting. Raises :class:`LeaseError` if that
        lasts longer than ``timeout`` seconds. Taking turns within a session does not count.
        """
        assert 0 < count <= len(candidates)
        lease = self._attempt(candidates, count, purpose, None)
        if lease is not None:
            return lease
        began = last = time.monotonic()
        on_others = 0.0
        with self._stand_in_line(candidates, count) as ticket:
            told = False
            while True:
                lease = self._attempt(candidates, count, purpose, ticket)
                now = time.monotonic()
                if lease is not None:
                    return replace(lease, waited=now - began)
                if self._others_are_in_the_way(candidates, ticket):
                    on_others += now - last
                last = now
                if on_others > timeout:
                    raise LeaseError(
                        f"no {_gpus(count)} came free within {timeout:g} s "
                        f"(--autotune-gpu-timeout): {self.describe(candidates)}"
                    )
                if not told:
                    on_wait(f"waiting for {_gpus(count)}: {self.describe(candidates)}")
                    told = True
                time.sleep(_POLL_SECONDS)

    def describe(self, devices: Sequence[Device]) -> str:
        """Return a description of the holders of the devices."""
        with self._mutex():
            holders = [(device, self._holder(device)) for device in devices]
        parts = [
            f"{device} is held by {holder} for {max(time.time() - holder.since, 0.0):.0f} s"
            for device, holder in holders
            if holder is not None
        ]
        return "; ".join(parts) or "all are reserved for others in the line"

    def _others_are_in_the_way(self, candidates: Sequence[Device], ticket: Path) -> bool:
        """Return whether anybody outside this session has a candidate, or comes first."""
        with self._mutex():
            holders = [self._holder(device) for device in candidates]
            sessions = {holder.session for holder in holders if holder is not None}
            sessions |= {request["session"] for request in self._ahead(ticket)}
        return bool(sessions - {self._session})

    # The lock files

    def _lock(self, path: Path) -> BaseFileLock:
        if path.is_symlink():
            raise LeaseError(
                f"GPU leases: {path} is a symbolic link, which nobody should have made; remove it"
            )
        # Made before it is locked, as the process's umask would keep others out.
        with suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW
            descriptor = os.open(path, flags, _OPEN_TO_ALL)
            os.fchmod(descriptor, _OPEN_TO_ALL)
            os.close(descriptor)
        # Here, as a run without GPUs makes no lease.
        from filelock import FileLock

        return FileLock(path, mode=_OPEN_TO_ALL)

    def _taken(self, path: Path) -> BaseFileLock | None:
        """Take a lock, if nobody has it."""
        lock = self._lock(path)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:  # filelock's Timeout is one
            return None
        except PermissionError as error:
            raise _somebodys(path, error) from None
        return lock

    @contextmanager
    def _mutex(self) -> Iterator[None]:
        path = self._folder / "desk.lock"
        try:
            with self._lock(path).acquire(timeout=_MUTEX_SECONDS):
                yield
        except TimeoutError:
            raise LeaseError(
                f"GPU leases: {path} has been locked for {_MUTEX_SECONDS:g} s, which takes "
                "milliseconds as a rule; is a process that holds it stopped? ('fuser' names it)"
            ) from None
        except PermissionError as error:
            raise _somebodys(path, error) from None
        except OSError as error:
            raise LeaseError(
                f"GPU leases: {error.filename or self._folder}: {error.strerror}"
            ) from None

    def _path(self, device_key: str) -> Path:
        return self._folder / f"{_UNUSABLE.sub('_', device_key)}.lock"

    def _attempt(
        self, candidates: Sequence[Device], count: int, purpose: str, ticket: Path | None
    ) -> Lease | None:
        """Take the devices if they are free and nobody before us in the line wants them."""
        by_key = {device.key: device for device in candidates}
        with self._mutex():
            ahead = self._ahead(ticket)
            wanted = {*by_key, *(key for request in ahead for key in request["keys"])}
            free = {key: lock for key in wanted if (lock := self._taken(self._path(key)))}
            granted: list[str] = []
            try:
                reserved: set[str] = set()
                for request in ahead:
                    open_to_it = [k for k in request["keys"] if k in free and k not in reserved]
                    # Fewer than it needs are kept for it, too, as others will come free.
                    reserved.update(open_to_it[: request["count"]])
                ours = [key for key in by_key if key in free and key not in reserved]
                if len(ours) >= count:
                    granted = ours[:count]
                    for key in granted:
                        self._sign(key, purpose)
            except BaseException:
                granted.clear()
                raise
            finally:
                for key, lock in free.items():
                    if key not in granted:
                        lock.release()
            if not granted:
                return None
        return Lease(
            devices=tuple(by_key[key] for key in granted),
            _locks=tuple(free[key] for key in granted),
        )

    # The holders

    def _sign(self, key: str, purpose: str) -> None:
        holder = Holder(
            pid=os.getpid(), user=_user(), purpose=purpose, since=time.time(), session=self._session
        )
        _publish(self._path(key).with_suffix(".json"), asdict(holder))

    def _holder(self, device: Device) -> Holder | None:
        path = self._path(device.key)
        lock = self._taken(path)
        if lock is not None:
            lock.release()
            return None
        try:
            return Holder(**json.loads(path.with_suffix(".json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return Holder(pid=0, user="unknown", purpose="unknown", since=time.time())

    # The line

    @contextmanager
    def _stand_in_line(self, candidates: Sequence[Device], count: int) -> Iterator[Path]:
        with self._mutex():
            ticket = self._line / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.lock"
            # Read by others once they see the lock, so written first.
            request = {
                "keys": [device.key for device in candidates],
                "count": count,
                "session": self._session,
            }
            _publish(ticket.with_suffix(".json"), request)
            lock = self._taken(ticket)
        assert lock is not None, "nobody else knows its name"
        try:
            yield ticket
        finally:
            _remove(ticket)
            lock.release()

    def _ahead(self, ticket: Path | None) -> list[dict[str, Any]]:
        """Return the requests before ``ticket``, all of them for one without a ticket."""
        found = []
        for path in sorted(self._line.glob("*.lock")):
            if path == ticket:
                break
            dead = self._taken(path)
            if dead is not None:
                _remove(path)
                dead.release()
                continue
            # A broken request, or one of another version, is ignored.
            with suppress(OSError, ValueError, TypeError, KeyError):
                request = json.loads(path.with_suffix(".json").read_text("utf-8"))
                found.append(
                    {
                        "keys": [str(key) for key in request["keys"]],
                        "count": int(request["count"]),
                        "session": str(request["session"]),
                    }
                )
        return found


def _make_shared(path: Path) -> None:
    """Make a folder for everybody. In a sticky one, Linux lets nobody open others' files."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if not path.is_dir() or path.is_symlink():
            raise NotADirectoryError(20, "is no folder") from None
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "it is not writable for this user") from None
        return
    path.chmod(0o777)


def _user() -> str:
    """Return the user's name, or the number where there is no name to it, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _somebodys(path: Path, error: OSError) -> LeaseError:
    return LeaseError(
        f"GPU leases: {path} cannot be opened ({error.strerror}): it was made by another user, for "
        f"himself; remove it, or name another folder by {FOLDER_VARIABLE}"
    )


def _publish(target: Path, document: Mapping[str, Any]) -> None:
    """Write a file that others will read, in one step."""
    replace_file(target, json.dumps(document).encode(), mode=_OPEN_TO_READERS)


def _remove(ticket: Path) -> None:
    for path in (ticket, ticket.with_suffix(".json")):
        with suppress(OSError):
            path.unlink()


def _gpus(count: int) -> str:
    return "GPU" if count == 1 else f"{count} GPUs"
