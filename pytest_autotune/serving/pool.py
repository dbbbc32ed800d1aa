"""The servers of one test process: one at a time, handed from trial to trial where allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_autotune.errors import LaunchError
from pytest_autotune.masking import Masker
from pytest_autotune.serving.backend import Backend
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.process import ProcessServer, check_command
from pytest_autotune.serving.server import InferenceServer
from pytest_autotune.serving.url import UrlServer
from pytest_autotune.spec.model import Spec


def check_spec(spec: Spec, params: Mapping[str, Any], masker: Masker) -> None:
    """Check before any trial what every trial would fail of.

    That the engine answers and has the image, or that the program is there; that host variables
    are set. Raises :class:`LaunchError`.
    """
    launch = _launch(spec, params, masker)
    if launch.backend == "process":
        check_command(launch)
    elif launch.backend == "docker":
        from pytest_autotune.errors import EngineError
        from pytest_autotune.serving.docker import check_engine

        assert launch.image is not None
        fixed = launch.spec.image == launch.image
        try:
            check_engine({launch.image: launch.spec.pull} if fixed else {})
        except EngineError as error:
            msg = f"{launch.spec.at('image')}: {error}"
            raise LaunchError(msg) from None


def _launch(spec: Spec, params: Mapping[str, Any], masker: Masker) -> Launch:
    if spec.server is None:
        msg = (
            f"{spec.origin.at('server')}: the fixture 'inference_server' needs a 'server' block "
            "that says what to run: a preset, an image, a command or a url"
        )
        raise LaunchError(msg)
    launch = make_launch(spec.server, params, spec.layout)
    given = {name: value for name, value in launch.environment.items() if value is not None}
    masker.learn(given, spec.server.secrets)
    if launch.api_key is not None:
        masker.learn_value(launch.api_key)
    return launch


class ServerPool:
    """Starts servers, keeps the one that may be reused, and ends them all."""

    def __init__(self, project: Path, logs: Path, masker: Masker) -> None:
        self._project = str(project)
        self._logs = logs
        self._masker = masker
        self._kept: InferenceServer | None = None
        self.current: InferenceServer | None = None

    def acquire(
        self, spec: Spec, study: str, trial: int, params: Mapping[str, Any]
    ) -> InferenceServer:
        """Return a ready server for the trial, the last trial's if it is the very same.

        Raises :class:`LaunchError` or :class:`ServerError`.
        """
        launch = _launch(spec, params, self._masker)
        kept = self._kept
        if kept is not None and kept.launch == launch and kept.exited() is None:
            self._kept = None
            self.current = kept
            return kept
        self.forget()
        server = self._start(launch, study, trial)
        # From here on it is somebody's to stop, whatever interrupts the wait.
        self.current = server
        try:
            server.wait_ready()
        except BaseException:
            server.stop()
            raise
        return server

    def release(self, server: InferenceServer) -> None:
        """Take a server back from a trial: keep it if it may be reused, else end it."""
        self.current = None
        if server.launch.spec.reuse and server.exited() is None:
            self._kept = server
        else:
            server.stop()

    def forget(self) -> None:
        """End the server that is kept for a next trial, as there will be none like it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.stop()

    def close(self) -> None:
        """End whatever runs."""
        for server in (self.current, self._kept):
            if server is not None:
                server.stop()
        self.current = self._kept = None

    def _start(self, launch: Launch, study: str, trial: int) -> InferenceServer:
        if launch.backend == "url":
            return InferenceServer(launch, UrlServer(launch), None, self._masker)
        log = LogFile(self._logs / _slug(study) / f"trial-{trial:03d}" / "server.log", self._masker)
        try:
            backend = self._backend(launch, log, study, trial)
        except BaseException:
            log.close()
            raise
        return InferenceServer(launch, backend, log, self._masker)

    def _backend(self, launch: Launch, log: LogFile, study: str, trial: int) -> Backend:
        if launch.backend == "process":
            check_command(launch)
            return ProcessServer(launch, log)
        from pytest_autotune.serving.docker import DockerServer, Identity

        return DockerServer(launch, log, Identity(project=self._project, study=study, trial=trial))


def reap(project: Path) -> int:
    """Remove containers that a killed run of this project left; return how many.

    Raises :class:`LaunchError` where there is no engine.
    """
    from pytest_autotune.serving import docker

    client = docker.connect()
    try:
        return docker.reap(client, str(project))
    finally:
        client.close()


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-.") or "study"
