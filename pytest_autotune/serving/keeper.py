"""The servers of one test process: one at a time, handed from trial to trial where allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import EngineError, LaunchError, ServerCrashed
from pytest_autotune.policy.policies import NO_POLICIES, Policies
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.process import ProcessServer, check_command
from pytest_autotune.serving.running import RunningServer, UrlServer
from pytest_autotune.serving.server import InferenceServer
from pytest_autotune.spec.model import Spec
from pytest_autotune.system.masking import Masker
from pytest_autotune.text.values import slug

_ADDRESS_IN_USE: Final = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)


def check_spec(
    spec: Spec, params: Mapping[str, Any], masker: Masker, policies: Policies = NO_POLICIES
) -> None:
    """Raise :class:`LaunchError` for a problem that would fail every trial.

    The engine must answer and have the image, or the program must exist. Host variables must be
    set.
    """
    launch = _launch(spec, params, masker, policies)
    if launch.backend == "process":
        check_command(launch)
    elif launch.backend == "docker":
        from pytest_autotune.serving.docker import check_engine

        assert launch.image is not None
        fixed = launch.spec.image == launch.image
        try:
            check_engine(launch.image if fixed else None, launch.spec.pull)
        except EngineError as error:
            raise LaunchError(f"{launch.spec.at('image')}: {error}") from None


def _launch(spec: Spec, params: Mapping[str, Any], masker: Masker, policies: Policies) -> Launch:
    if spec.server is None:
        raise LaunchError(
            f"{spec.origin.at('server')}: the fixture 'inference_server' needs a 'server' block "
            "that says what to run: a preset, an image, a command or a url"
        )
    launch = make_launch(spec.server, params, spec.layout, policies)
    given = {name: value for name, value in launch.environment.items() if value is not None}
    masker.learn(given, spec.server.secrets)
    masker.learn({"api_key": launch.api_key or ""})
    return launch


class ServerKeeper:
    """Starts servers, keeps the one that may be reused, and ends them all."""

    def __init__(
        self, project: Path, logs: Path, masker: Masker, policies: Policies = NO_POLICIES
    ) -> None:
        self._project = str(project)
        self._logs = logs
        self._masker = masker
        self._policies = policies
        self._kept: InferenceServer | None = None
        self._current: InferenceServer | None = None
        self._trial: int | None = None

    @property
    def keeps_one(self) -> bool:
        """Return whether a server is kept for a next trial."""
        return self._kept is not None

    def serves(self, trial: int) -> bool:
        """Return whether the last server that was asked for is that of ``trial``."""
        return self._trial == trial

    def of_trial(self, trial: int) -> InferenceServer | None:
        """Return the last server that was started for ``trial``, running or not."""
        return self._current if self._trial == trial else None

    def acquire(
        self, spec: Spec, study: str, trial: int, params: Mapping[str, Any]
    ) -> InferenceServer:
        """Return a ready server for the trial, the last trial's if it is the very same.

        Raises :class:`LaunchError`, :class:`.PolicyError` or :class:`ServerError`.
        """
        self._current, self._trial = None, trial
        launch = _launch(spec, params, self._masker, self._policies)
        kept = self._kept
        if kept is not None and kept.launch == launch and kept.exited() is None:
            self._kept = None
            self._current = kept
            return kept
        self.forget()
        try:
            return self._started(launch, study, trial)
        except ServerCrashed:
            if not self._port_was_refused(launch):
                raise
            # A server without address reuse cannot bind the port while we hold it.
            return self._started(launch, study, trial, hold_port=False)

    def _started(
        self, launch: Launch, study: str, trial: int, *, hold_port: bool = True
    ) -> InferenceServer:
        server = self._start(launch, study, trial, hold_port=hold_port)
        # Known from here on, so that it is stopped whatever interrupts the wait.
        self._current = server
        try:
            server.wait_ready()
        except BaseException:
            server.stop()
            raise
        return server

    def _port_was_refused(self, launch: Launch) -> bool:
        said = "" if self._current is None else self._current.logs(tail=100)
        return launch.backend == "process" and _ADDRESS_IN_USE.search(said) is not None

    def release(self, server: InferenceServer) -> None:
        """Take a server back from a trial: keep it if it may be reused, else end it."""
        if server.launch.spec.reuse and server.exited() is None:
            self._kept = server
        else:
            server.stop()
        # Last, so that a server whose end was interrupted is ended with the run.
        self._current = None

    def forget(self) -> None:
        """End the server that is kept for a next trial, as there will be none like it."""
        if self._kept is not None:
            self._kept.stop()
        self._kept = None

    def close(self) -> None:
        """End whatever runs."""
        for server in (self._current, self._kept):
            if server is not None:
                server.stop()
        self._current = self._kept = None

    def _start(self, launch: Launch, study: str, trial: int, *, hold_port: bool) -> InferenceServer:
        if launch.backend == "url":
            return InferenceServer(launch, UrlServer(launch), None, self._masker)
        log = LogFile(self._logs / slug(study) / f"trial-{trial:03d}" / "server.log", self._masker)
        backend: RunningServer
        try:
            if launch.backend == "process":
                check_command(launch)
                backend = ProcessServer(launch, log, hold_port=hold_port)
            else:
                from pytest_autotune.serving.docker import DockerServer, Identity

                identity = Identity(project=self._project, study=study, trial=trial)
                backend = DockerServer(launch, log, identity)
        except BaseException:
            log.close()
            raise
        return InferenceServer(launch, backend, log, self._masker)


def reap(project: Path) -> int:
    """Remove containers that a killed run of this project left; return how many.

    Raises :class:`LaunchError` where there is no engine.
    """
    from pytest_autotune.serving import docker

    with closing(docker.connect()) as client:
        return docker.reap(client, str(project))
