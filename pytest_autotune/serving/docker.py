"""Servers as Docker containers, by the Docker SDK.

Every container of ours carries labels that name its owner. The owner is a process that holds a
lock, which the kernel releases on any death. So leftovers are told from containers in use without
time-outs. Only containers of this project, this user and this host are touched.
"""

from __future__ import annotations

import atexit
import getpass
import hashlib
import os
import platform
import re
import tempfile
import threading
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import docker
from docker import DockerClient
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest

from pytest_autotune.errors import EngineError, ImageMissing, LaunchError
from pytest_autotune.gpu.needs import is_remote
from pytest_autotune.serving.gpus import cdi_devices, container_gpus, refuse_amd
from pytest_autotune.serving.launch import Launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.ports import PortReservation
from pytest_autotune.serving.running import Exit
from pytest_autotune.system.interrupts import uninterrupted
from pytest_autotune.system.locks import FileCoordinator
from pytest_autotune.system.processes import named, own_seconds
from pytest_autotune.text.values import slug

_LABEL: Final = "org.pytest-autotune"
_LOOPBACK: Final = "127.0.0.1"
_ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - inside the container; published on loopback only
_CLIENT_TIMEOUT: Final = 60
_ENGINE: Final = frozenset({"docker-proxy", "dockerd", "containerd"})
#: The characters of a registry, a name, a tag and a digest.
_IMAGE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@+-]*")
#: What an engine lacks that has no driver for GPUs.
_NO_GPU_DRIVER: Final = (
    "this engine cannot give containers GPUs: install NVIDIA's container toolkit and run "
    "'nvidia-ctk runtime configure --runtime=docker', or, with Docker 28.3 or newer, "
    "'nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml'"
)
_START_HINT: Final = "is the engine running, and may this user talk to it?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The owner of a container: a project's folder, a study, a trial, and the owning process."""

    project: str
    study: str
    trial: int

    def labels(self) -> dict[str, str]:
        """Return the container's labels."""
        return {
            f"{_LABEL}.project": project_digest(self.project),
            f"{_LABEL}.project-folder": self.project,
            f"{_LABEL}.study": self.study,
            f"{_LABEL}.trial": str(self.trial),
            f"{_LABEL}.host": host(),
            f"{_LABEL}.user": _user(),
            f"{_LABEL}.owner": _owner(os.getpid()),
            f"{_LABEL}.owner-pid": str(os.getpid()),
        }

    def name(self) -> str:
        """Return a container name that nobody else has."""
        return f"autotune-{slug(self.study)}-{self.trial:03d}-{uuid.uuid4().hex[:8]}"


def project_digest(folder: str) -> str:
    """Return a short name for a project's folder."""
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


def host() -> str:
    """Return an identifier of this machine among others that use the same engine."""
    machine = ""
    with suppress(OSError):
        machine = Path("/etc/machine-id").read_text().strip()
    return hashlib.sha256(f"{platform.node()}/{machine}".encode()).hexdigest()[:16]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


@cache
def _locks() -> FileCoordinator:
    """Return the locks of all owners of this user, outside the cache that users may clear."""
    return FileCoordinator(Path(tempfile.gettempdir()) / f"pytest-autotune-{_user()}")


@cache
def _owner(_pid: int) -> str:
    """Return the name of this process as an owner, announced as alive from now on."""
    name, locks = uuid.uuid4().hex, _locks()
    with locks.mutex():
        # Together, as a lock that is just being made looks like one that was left.
        locks.sweep()
        locks.hold(name)
    atexit.register(locks.release)
    return name


def connect() -> DockerClient:
    """Return a client of the engine; raise :class:`LaunchError` where there is none."""
    try:
        client = docker.from_env(timeout=_CLIENT_TIMEOUT)
        client.ping()
    except (DockerException, OSError) as error:
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise LaunchError(
            f"cannot reach the Docker engine at {address}: {_START_HINT} ({_short(error)})"
        ) from None
    return client


def ensure_image(client: DockerClient, image: str, policy: str) -> None:
    """Pull ``image`` if it is missing and ``policy`` allows; raise :class:`ImageMissing`."""
    # In the engine's URLs, other names may lead elsewhere.
    if not _IMAGE.fullmatch(image) or ".." in image.split("/"):
        raise ImageMissing(f"{image!r} is not the name of an image")
    if policy != "always":
        try:
            client.images.get(image)
        except NotFound:
            pass
        except APIError as error:
            raise ImageMissing(
                f"the engine cannot look for the image {image!r}: {_short(error)}; check the name"
            ) from None
        else:
            return
    if policy == "never":
        raise ImageMissing(f"there is no image {image!r} on this engine, and 'pull' is 'never'")
    try:
        client.images.pull(image)
    except (APIError, OSError) as error:
        raise ImageMissing(
            f"there is no image {image!r} on this engine, and it could not be pulled: "
            f"{_short(error)}; check the name and tag, or 'docker load' it"
        ) from None


def reap(client: DockerClient, project: str) -> int:
    """Remove this project's containers whose owner is dead; return how many.

    Only those of this user on this host are removed. Owners elsewhere may be alive.
    """
    labels = [
        f"{_LABEL}.project={project_digest(project)}",
        f"{_LABEL}.host={host()}",
        f"{_LABEL}.user={_user()}",
    ]
    removed = 0
    # Sparse, as a sibling may remove one while they are being looked at.
    for container in client.containers.list(all=True, filters={"label": labels}, sparse=True):
        holder = (container.attrs.get("Labels") or {}).get(f"{_LABEL}.owner", "")
        if holder and not _locks().is_alive(holder):
            with suppress(NotFound, APIError):
                container.remove(force=True, v=True)
                removed += 1
    return removed


class DockerServer:
    """A server in a container."""

    def __init__(self, launch: Launch, log: LogFile, identity: Identity) -> None:
        self._client = connect()
        self._name = identity.name()
        self._exit: Exit | None = None
        self._gone = threading.Event()
        self._stopped = False
        self._grace = launch.spec.stop_timeout
        self._remote = is_remote(launch.spec)
        self._container: Container | None = None
        self._reservation: PortReservation | None = None
        self._threads: list[threading.Thread] = []
        assert launch.image is not None
        self.description = f"container {self._name}"
        self.argv: list[str] = []
        try:
            ensure_image(self._client, launch.image, launch.spec.pull)
            with uninterrupted():
                # A container that is created while nobody waits for it would be left.
                self.base_url = self._start(launch, identity)
        except APIError as error:
            self.stop()
            hint = f"; {_NO_GPU_DRIVER}" if "select device driver" in _short(error) else ""
            raise EngineError(f"cannot start {launch.image!r}: {_short(error)}{hint}") from None
        except BaseException:
            self.stop()
            raise
        self._run(self._follow, log)
        self._run(self._wait)

    def _start(self, launch: Launch, identity: Identity) -> str:
        """Create and start the container; return its address as seen from here."""
        port = launch.spec.container_port
        if launch.spec.network == "host":
            self._reservation = PortReservation()
            port = self._reservation.port
            command = launch.command(_LOOPBACK, port)
        else:
            command = launch.command(_ANYWHERE, port)
        self.argv = command
        gpus = container_gpus(launch)
        engine = {} if gpus is None else self._client.info()
        settings = container_settings(launch, port, engine)
        self._container = self._client.containers.create(
            launch.image, command, name=self._name, labels=identity.labels(), **settings
        )
        self._container.start()
        if self._reservation is not None:
            return f"http://{_LOOPBACK}:{port}"
        self._container.reload()
        published = (self._container.ports or {}).get(f"{port}/tcp")
        if not published:
            # It has ended already. The address is of no use, and the reason is found later.
            return f"http://{_LOOPBACK}:9"
        return f"http://{_LOOPBACK}:{published[0]['HostPort']}"

    def exited(self) -> Exit | None:
        """Return the container's end, None while it runs."""
        if not self._gone.is_set():
            return None
        for thread in self._threads:
            thread.join(0.5)
        return self._exit

    #: All its processes are known.
    hands_on: ClassVar[bool] = False

    @property
    def is_here(self) -> bool:
        """Return whether the engine is on this machine."""
        return not self._remote

    def served_seconds(self) -> float | None:
        """Return the processor time of the container's processes, and of the engine's own."""
        if self._remote:
            return 0.0
        try:
            assert self._container is not None
            stats = self._client.api.stats(self._container.id, stream=False, one_shot=True)
            container = float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
        except (APIError, OSError, KeyError, TypeError):
            return None
        # They forward the load, and copy the log.
        return container + sum(map(own_seconds, named(_ENGINE)))

    def stop(self) -> None:
        """Stop and remove the container, in whatever state it is."""
        if self._stopped:
            return
        # By name, as an interrupt may have come between its creation and the assignment.
        with suppress(NotFound, APIError, OSError):
            container = self._container or self._client.containers.get(self._name)
            try:
                if not self._gone.is_set():
                    container.stop(timeout=max(1, round(self._grace)))
                for thread in self._threads:
                    thread.join(1.0)
            except (APIError, OSError):
                pass  # It is removed by force below.
            finally:
                container.remove(force=True, v=True)
        if self._reservation is not None:
            self._reservation.release()
        self._client.close()
        # Last, so that an end that was interrupted is repeated.
        self._stopped = True

    def _run(self, target: Any, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _follow(self, log: LogFile) -> None:
        """Copy the container's output until it ends."""
        assert self._container is not None
        with suppress(Exception):  # The engine went away, or the container was removed.
            for chunk in self._container.logs(stream=True, follow=True, stdout=True, stderr=True):
                log.write(chunk)

    def _wait(self) -> None:
        """Wait for the container's end and note how it ended."""
        assert self._container is not None
        status = -1
        try:
            # A client of its own, as this one request lasts as long as the server.
            with closing(docker.from_env(timeout=None)) as waiter:
                status = waiter.containers.get(self._container.id).wait()["StatusCode"]
                state = waiter.api.inspect_container(self._container.id)["State"]
            self._exit = Exit(status=status, out_of_memory=bool(state.get("OOMKilled")))
        except (APIError, OSError, KeyError):
            # Somebody else removed it.
            self._exit = Exit(status=status)
        self._gone.set()


def container_settings(
    launch: Launch, port: int, engine: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the SDK's keyword arguments for a launch; no shell, no privileges.

    ``engine`` is what the engine tells of itself.
    """
    spec = launch.spec
    variables = launch.variables(_LOOPBACK if spec.network == "host" else _ANYWHERE, port)
    settings: dict[str, Any] = {
        "detach": True,
        "environment": {name: value for name, value in variables.items() if value is not None},
        # Servers that run as process 1 do not end on signals without an init process.
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": spec.pids,
    }
    if spec.capabilities:
        settings["cap_add"] = list(spec.capabilities)
    if spec.network != "host":
        settings["ports"] = {f"{port}/tcp": (_LOOPBACK, None)}
    if spec.memory is not None:
        # No swap on top, or the limit would not be one.
        settings |= {"mem_limit": spec.memory, "memswap_limit": spec.memory}
    if spec.cpus is not None:
        settings["nano_cpus"] = round(spec.cpus * 1e9)
    optional = {
        "network": spec.network,
        "volumes": list(launch.volumes) or None,
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "shm_size": spec.shm_size,
        "ipc_mode": spec.ipc,
        "user": spec.user,
        "device_requests": _device_requests(launch, engine),
    }
    return settings | {name: value for name, value in optional.items() if value is not None}


def _device_requests(launch: Launch, engine: Mapping[str, Any]) -> list[Any] | None:
    """Return the request for the container's GPUs, None for none of them."""
    wanted = container_gpus(launch)
    if wanted is None:
        return None
    refuse_amd(launch)
    names = cdi_devices(wanted, engine)
    if names is not None:
        return [DeviceRequest(driver="cdi", device_ids=names)]
    if isinstance(wanted, int):
        return [DeviceRequest(count=wanted, capabilities=[["gpu"]])]
    return [DeviceRequest(device_ids=list(wanted), capabilities=[["gpu"]])]


def _short(error: BaseException) -> str:
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split())[:300]


def check_engine(image: str | None, policy: str) -> None:
    """Make sure the engine answers and ``image``, if it is known yet, is here."""
    with closing(connect()) as client:
        if image is not None:
            ensure_image(client, image, policy)
