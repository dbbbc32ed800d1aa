"""The rules of a policy: each yields a sentence for everything that it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pytest_autotune.gpu.needs import is_remote
from pytest_autotune.policy.hosts import LOCALHOST, database_host, host_of, is_listed
from pytest_autotune.policy.images import Image, has_digest, is_id
from pytest_autotune.policy.model import Policy
from pytest_autotune.spec.benchmark import BenchmarkSpec
from pytest_autotune.spec.gate import GateSpec
from pytest_autotune.spec.server import ServerSpec, size_bytes
from pytest_autotune.spec.templates import Filled
from pytest_autotune.system.variables import host_variables
from pytest_autotune.text.places import Origin
from pytest_autotune.text.printable import printable

_BUILTIN: Final = "builtin"
#: NVIDIA's runtime gives a container the GPUs that this names, whatever else was asked for.
_NVIDIA: Final = "NVIDIA_VISIBLE_DEVICES"
_NO_GPU: Final = frozenset({"", "none", "void"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one policy. No method asks anything of the machine but where links lead."""

    policy: Policy

    def server(self, spec: ServerSpec) -> Iterator[str]:
        """Yield what is refused of a server, whatever its trial's parameters are."""
        policy = self.policy
        if spec.backend == "process" and not policy.command:
            yield self._no(
                "command", spec.at("command"), "a server as a process of this machine", ["false"]
            )
        if spec.backend == "url":
            host = host_of(str(spec.url))
            if not is_listed(host, policy.urls):
                yield self._no("urls", spec.at("url"), f"the host {host}", policy.urls)
        if spec.api_key is not None:
            to = host_of(spec.url) if spec.backend == "url" and spec.url else LOCALHOST
            yield from self.api_key(spec.api_key, to, spec.at("api_key"))
        yield from self._gpus_of(spec)
        if spec.backend == "docker":
            yield from self._container(spec)
            yield from self._limits(spec)

    def filled(self, spec: ServerSpec, texts: Filled) -> Iterator[str]:
        """Yield what is refused of what a trial's server asks for."""
        for name, text in texts.environment.items():
            for variable in host_variables(text or ""):
                found = self.policy.variables.get(variable)
                if found is None or not found.environment:
                    given = [n for n, v in self.policy.variables.items() if v.environment]
                    where = spec.at("environment", name)
                    yield self._no("variables", where, f"${{{variable}}} for a server", given)
        if spec.backend != "docker":
            return
        if (texts.environment.get(_NVIDIA) or "") not in _NO_GPU:
            yield from self.gpus(None, spec.at("environment", _NVIDIA), _NVIDIA)
        if texts.image is not None:
            yield from self._image(texts.image, spec.at("image"))
        for index, written in enumerate(texts.volumes):
            yield from self._volume(written, spec.folder, spec.at("volumes", index))

    def benchmark(self, spec: BenchmarkSpec, url: str) -> Iterator[str]:
        """Yield what is refused of a load test of the server at ``url``."""
        allowed = self.policy.generators
        if spec.generator not in {_BUILTIN, *allowed}:
            where = spec.origin.at("benchmark", "generator")
            yield self._no("generators", where, repr(spec.generator), [_BUILTIN, *allowed])
        if spec.api_key is not None:
            where = spec.origin.at("benchmark", "api_key")
            yield from self.api_key(spec.api_key, host_of(url), where)

    def api_key(self, key: str, host: str, where: str) -> Iterator[str]:
        """Yield what is refused of a key that is sent to ``host``."""
        for variable in host_variables(key):
            found = self.policy.variables.get(variable)
            hosts = () if found is None else found.hosts
            if not is_listed(host, hosts):
                what = f"${{{variable}}} for {host}"
                given = [f"${{{variable}}} for {name}" for name in hosts]
                yield self._no("variables", where, what, given)

    def gate(self, spec: GateSpec, origin: Origin) -> Iterator[str]:
        """Yield what is refused of a gate."""
        if spec.prepare and not self.policy.prepare:
            yield self._no("prepare", origin.at("gate", "prepare"), "a command", ["false"])

    def storage(self, url: str, where: str) -> Iterator[str]:
        """Yield what is refused of a database that keeps a study."""
        host = database_host(url)
        if not is_listed(host, self.policy.storage):
            what = f"a database at {printable(host)}" if host else "a database without a plain host"
            yield self._no("storage", where, what, self.policy.storage)

    def gpus(self, most: int | None, where: str, asked: str = "") -> Iterator[str]:
        """Yield what is refused of a trial that may take ``most`` GPUs, None for too many.

        ``asked`` is how the message calls them.
        """
        allowed = self.policy.gpus
        if allowed is not None and (most is None or most > allowed):
            asked = asked or ("all GPUs" if most is None else f"{most} GPUs")
            yield self._no("gpus", where, asked, [f"at most {allowed}"])

    def _gpus_of(self, spec: ServerSpec) -> Iterator[str]:
        if spec.gpus == "all":
            yield from self.gpus(None, spec.at("gpus"))
        elif isinstance(spec.gpus, int):
            yield from self.gpus(spec.gpus, spec.at("gpus"))
        elif isinstance(spec.gpus, list | tuple):
            # Each name may be a range or a list of the driver's, so one is one.
            yield from self.gpus(sum(len(n.split(",")) for n in spec.gpus), spec.at("gpus"))
            if "all" in spec.gpus:
                yield from self.gpus(None, spec.at("gpus"))
        elif spec.preset is not None and spec.preset.gpus == "required" and is_remote(spec):
            # No lease of this machine's narrows what it gets there.
            yield from self.gpus(None, spec.at("gpus"))

    def _container(self, spec: ServerSpec) -> Iterator[str]:
        policy = self.policy
        for rule, key, value, allowed in (
            ("networks", "network", spec.network or "bridge", policy.networks),
            ("ipc", "ipc", spec.ipc or "private", policy.ipc),
            ("users", "user", spec.user or "image", policy.users),
        ):
            if not _matches(value, allowed):
                yield self._no(rule, spec.at(key), f"{key} {printable(value)}", allowed)
        for name in spec.capabilities:
            if not {name, "ALL"} & set(policy.capabilities):
                where = spec.at("capabilities")
                yield self._no("capabilities", where, printable(name), policy.capabilities)

    def _limits(self, spec: ServerSpec) -> Iterator[str]:
        policy = self.policy
        if spec.pids > policy.pids:
            what = f"{spec.pids} processes"
            yield self._no("pids", spec.at("pids"), what, [f"at most {policy.pids}"])
        for rule, size, most in (
            ("memory", spec.memory, policy.memory),
            ("shm_size", spec.shm_size, policy.shm_size),
        ):
            if most is None:
                continue
            at_most = [f"at most {most / 1024**3:g}g"]
            if size is not None and (size_bytes(str(size)) or 0) > most:
                yield self._no(rule, spec.at(rule), f"{rule} {size}", at_most)
            elif size is None and rule == "memory":
                yield self._no(rule, spec.at(rule), "a container without a limit", at_most)

    def _image(self, written: str, where: str) -> Iterator[str]:
        policy = self.policy
        shown = printable(written)
        image = Image.parse(written)
        if is_id(written) or not any(p.allows(image) for p in policy.images.values()):
            yield self._no("images", where, shown, policy.images)
        elif policy.require_digest and not has_digest(written):
            wanted = ["images with a digest, such as NAME@sha256:…"]
            yield self._no("require_digest", where, shown, wanted)

    def _volume(self, written: str, folder: Path, where: str) -> Iterator[str]:
        """Check the place in this machine that a volume leads to now, and how it is given."""
        source, _, rest = written.partition(":")
        writes = "rw" in rest.partition(":")[2].split(",")
        shown = printable(source)
        listed = [each.written for each in self.policy.volumes]
        if source.startswith(("/", ".", "~")):
            try:
                path = (folder / Path(source).expanduser()).resolve()
            except (OSError, RuntimeError, ValueError):
                path = None
            if path is not None:
                shown = printable(str(path))
            found = [
                each
                for each in self.policy.volumes
                if each.path and path is not None and path.is_relative_to(each.path)
            ]
        else:
            found = [each for each in self.policy.volumes if each.name == source]
        if not found:
            yield self._no("volumes", where, shown, listed)
        elif writes and not any(each.writable for each in found):
            yield self._no("volumes", where, f"{shown}:rw", listed)

    def _no(self, rule: str, where: str, what: str, allowed: Iterable[str]) -> str:
        """Return the sentence of a refusal: the spec's place, what it asks for, and the rule."""
        listed = ", ".join(map(printable, allowed)) or "none"
        place = self.policy.place(rule)
        default = "" if ":" in place.removeprefix(self.policy.origin.file) else " by default"
        return (
            f"{where}: {what} is refused by the rule {rule!r} of the policy {printable(place)}, "
            f"which allows {listed}{default}"
        )


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)
