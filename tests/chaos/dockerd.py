"""A container engine of our own, which a test may kill: never the machine's."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import docker

IMAGE: Final = "autotune-chaos:1"
#: Seconds that an engine may take to start or to end.
_PATIENCE: Final = 60.0


class NoEngine(Exception):
    """No engine of our own can be started here."""


class Dockerd:
    """An engine on its own socket, with its own data, from :meth:`start` to :meth:`remove`.

    Containers use the host's network. Its bridge is that of the machine's engine, which it does not
    change: told to have none (``--bridge none``), an engine removes that bridge from the machine.
    """

    def __init__(self) -> None:
        """Make its folder; raise :class:`NoEngine`."""
        if shutil.which("dockerd") is None:
            raise NoEngine("no dockerd is installed")
        # Not under tmp_path, as a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="autotune-dockerd-"))
        self.host = f"unix://{self.folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        # Apart, as where a system's init starts both: it outlives the engine.
        self._containerd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the engine, and wait until it answers."""
        if self._containerd is None:
            self._containerd = self._begin(
                "containerd",
                {
                    "address": self._socket,
                    "root": self.folder / "containerd",
                    "state": self.folder / "state",
                },
            )
            self._await(self._containerd, self._socket.exists)
        settings = {
            "host": self.host,
            "containerd": self._socket,
            "data-root": self.folder / "data",
            "exec-root": self.folder / "exec",
            "pidfile": self.folder / "pid",
            "storage-driver": "vfs",
            "iptables": "false",
            "ip6tables": "false",
        }
        self._process = self._begin("dockerd", settings)
        self._await(self._process, self._answers)

    @property
    def _socket(self) -> Path:
        return self.folder / "containerd.sock"

    def _begin(self, program: str, settings: Mapping[str, object]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [program, *(f"--{name}={value}" for name, value in settings.items())],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await(self, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "log").read_text(errors="replace")
                raise NoEngine("no engine starts: " + "\n".join(text.splitlines()[-5:]))
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(5)
            asked.connect(f"{self.folder}/docker.sock")
            asked.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in asked.recv(64)
        return False

    def client(self) -> Any:
        """Return a client of the engine."""
        return docker.DockerClient(base_url=self.host, timeout=30)

    def load(self) -> None:
        """Load an image of empty folders; what runs comes in by volumes."""
        empty = io.BytesIO()
        with tarfile.open(fileobj=empty, mode="w") as archive:
            for folder in ("tmp", "proc", "dev", "etc"):
                entry = tarfile.TarInfo(folder)
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o777
                archive.addfile(entry)
        client = self.client()
        repository, _, tag = IMAGE.partition(":")
        client.api.import_image_from_data(empty.getvalue(), repository=repository, tag=tag)
        client.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the engine."""
        assert self._process is not None, "it was started"
        self._process.send_signal(number)

    def restart(self) -> None:
        """Start an engine that was killed, once the last of it is gone."""
        self._end(self._process)
        self.start()

    def stop(self) -> None:
        """End the engine, and the containerd that it used, with all that this has started."""
        self._end(self._process)
        self._end(self._containerd)
        self._process = self._containerd = None
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes()
                if b"containerd-shim" in words and self.folder.name.encode() in words:
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Remove all of an engine that was stopped, and what it mounted."""
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
