"""The command line that starts a trial's server by hand: masked, quoted, ready to paste."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_autotune.engines.flags import text_of
from pytest_autotune.errors import UserError
from pytest_autotune.gpu.visible import VISIBLE
from pytest_autotune.serving.gpus import container_gpus, process_gpus
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.serving.process import program_path
from pytest_autotune.spec.model import Spec
from pytest_autotune.system.masking import MASK, Masker, is_secret_name, masked_words
from pytest_autotune.text.printable import printable

#: The port of a process that is started by hand; a trial's own port is any that is free.
_PORT: Final = 8000
#: The whole of a value that the environment has: the shell fills it in.
_REFERENCE: Final = re.compile(r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$")


def server_command(spec: Spec, params: Mapping[str, Any]) -> str:
    """Return the command that starts the server of a trial with ``params``; secrets are masked.

    It follows from the spec and the parameters alone, so the server need not run, nor have run
    here. Empty for an address; for a spec that cannot be launched here a comment that says why.
    """
    if spec.server is None or spec.server.backend == "url":
        return ""
    masker = Masker()
    masker.learn(os.environ)
    masker.learn_document(spec.raw)
    try:
        launch = make_launch(spec.server, params, spec.layout)
    except UserError as error:
        return f"# cannot be started here: {masker(' '.join(str(error).split()))}"
    masker.learn({k: v for k, v in launch.environment.items() if v}, launch.spec.secrets)
    masker.learn({"api_key": launch.api_key or ""})
    words = _docker(launch, masker) if launch.backend == "docker" else _process(launch, masker)
    return " ".join(words)


def _process(launch: Launch, mask: Masker) -> Iterator[str]:
    folder = launch.folder
    if folder != Path.cwd():
        yield f"cd {_quoted(str(folder))} &&"
    gpus = process_gpus(launch, os.environ.get(VISIBLE))
    environment = {**launch.variables("127.0.0.1", _PORT), **gpus}
    removed = [name for name, value in environment.items() if value is None]
    if removed:
        yield " ".join(["env", *(f"-u {name}" for name in removed)])
    for name, value in environment.items():
        if value is not None:
            yield f"{name}={_value(launch, name, mask(value))}"
    program, *rest = launch.command("127.0.0.1", _PORT)
    if shutil.which(program) is None:
        program = program_path(launch, program) or program
    yield from (_quoted(mask(part)) for part in masked_words((program, *rest)))


def _docker(launch: Launch, mask: Masker) -> Iterator[str]:
    """Yield the words of the ``docker run`` that does what the SDK is asked for."""
    spec, port = launch.spec, launch.spec.container_port
    host = spec.network == "host"
    yield "docker run --rm --init"
    if not host:
        yield f"-p 127.0.0.1:{port}:{port}"
    yield f"--cap-drop ALL --security-opt no-new-privileges --pids-limit {spec.pids}"
    yield from (f"--cap-add {_quoted(name)}" for name in spec.capabilities)
    # The flag takes one word, an empty one for none; the others go before the command.
    entrypoint: str | None = None
    before: list[str] = []
    if spec.entrypoint is not None:
        entrypoint, *before = masked_words(spec.entrypoint) or [""]
    options = {
        "network": spec.network,
        "gpus": _gpus(launch),
        "shm-size": spec.shm_size,
        "ipc": spec.ipc,
        "memory": spec.memory,
        "memory-swap": spec.memory,
        "cpus": None if spec.cpus is None else f"{spec.cpus:g}",
        "user": spec.user,
        "entrypoint": entrypoint,
    }
    for name, value in options.items():
        if value is not None:
            yield f"--{name} {_quoted(mask(str(value)))}"
    for volume in launch.volumes:
        yield f"-v {_quoted(mask(volume))}"
    address = "127.0.0.1" if host else "0.0.0.0"  # noqa: S104 - in the container
    for name, text in launch.variables(address, port).items():
        if text is not None:
            yield f"-e {name}={_value(launch, name, mask(text))}"
    assert launch.image is not None
    command = launch.command(address, port)
    words = masked_words((launch.image, *before, *command))
    yield from (_quoted(mask(part)) for part in words)


def _gpus(launch: Launch) -> str | None:
    wanted = container_gpus(launch)
    if wanted is None or wanted == -1:
        return None if wanted is None else "all"
    # The quotes are for Docker, which reads a comma as the next setting.
    return str(wanted) if isinstance(wanted, int) else f'"device={",".join(wanted)}"'


def _value(launch: Launch, name: str, text: str) -> str:
    """Return a variable's value, quoted; one that comes from the environment as a reference."""
    written = launch.spec.environment.get(name)
    if written is not None and _REFERENCE.match(text_of(written)):
        return f'"{written}"'
    if is_secret_name(name) or name in launch.spec.secrets:
        return _quoted(MASK)
    return _quoted(text)


def _quoted(word: str) -> str:
    """Return a word as a shell reads it; where it cannot be printed, in the escapes of bash."""
    return shlex.quote(word) if printable(word) == word else f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    shown = printable(char)
    # As \x.., bash would take it for one byte of several.
    return f"\\u{ord(char):04x}" if shown.startswith("\\x") and not char.isascii() else shown
