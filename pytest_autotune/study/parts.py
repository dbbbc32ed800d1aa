"""The parts of a server that are no files of the user: a container's image, a program's version.

They are known by names for people: ``image vllm/vllm-openai:v0.11.0``, ``program llama-server``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from pytest_autotune.study.digests import digest_of, shown

_IMAGE: Final = "image "
_PROGRAM: Final = "program "
PART_PREFIXES: Final = (_IMAGE, _PROGRAM)
_DIGITS: Final = 12
_SCRIPTS: Final = frozenset({".bash", ".py", ".sh"})
#: The first line of a script that Python runs.
_SHEBANG: Final = re.compile(rb"#!\s*(?:/usr/bin/env\s+)?(\S*python[\d.]*)")
_INTERPRETER: Final = re.compile(r"python[\d.]*$")


def scripts_in(root: Path, folder: Path, argv: Sequence[str]) -> Mapping[str, str]:
    """Return the digests of the user's scripts in a command that runs in ``folder``, by path."""
    found: dict[str, str] = {}
    for at, word in enumerate(argv):
        path = Path(os.path.realpath(folder / word))
        is_script = at == 0 or path.suffix in _SCRIPTS
        if is_script and path.is_relative_to(root.resolve()) and path.is_file():
            found[shown(root.resolve(), path)] = digest_of(path)
    return found


def parts_of(image: str | None, argv: Sequence[str]) -> Mapping[str, str]:
    """Return the parts of a server that runs: the image of a container, or else a program."""
    names = []
    if image is not None:
        names = [f"{_IMAGE}{image}"]
    elif argv:
        module = argv[1:3] if argv[1:2] == ["-m"] and _is_interpreter(argv[0]) else []
        names = [" ".join([f"{_PROGRAM}{argv[0]}", *module])]
    found = {name: _look_up(name) for name in names}
    return {name: version for name, version in found.items() if version}


@cache
def part_now(name: str) -> str:
    """Return the digest or version of a part as it is now, empty where nobody can tell.

    It is looked up once in a run.
    """
    return _look_up(name)


def _look_up(name: str) -> str:
    if name.startswith(_IMAGE):
        return _image_id(name.removeprefix(_IMAGE))
    program, _, module = name.removeprefix(_PROGRAM).partition(" -m ")
    return _module_version(program, module) if module else _program_version(program)


def _image_id(image: str) -> str:
    # It takes a while to import, and most studies have no container.
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
        try:
            found = client.images.get(image).id
        finally:
            client.close()
    except (DockerException, OSError):
        return ""
    return "" if found is None else found.removeprefix("sha256:")[:_DIGITS]


def _program_version(program: str) -> str:
    """Return the version of the package that a script belongs to, or else the file's digest."""
    found = shutil.which(program)
    if found is None or _is_interpreter(found):
        # The environment names the interpreter, and its script counts among the files.
        return ""
    path = Path(found)
    try:
        return _package_of(path) or digest_of(path)
    except OSError:
        return ""


def _is_interpreter(program: str) -> bool:
    return _INTERPRETER.search(Path(program).name) is not None


def _module_version(interpreter: str, module: str) -> str:
    """Return the version of the package that an interpreter's environment has ``module`` from."""
    found = shutil.which(interpreter)
    if found is None:
        return ""
    package = module.partition(".")[0].lower()
    for metadata in Path(found).parent.parent.glob("lib/python*/site-packages/*.dist-info"):
        name, _, version = metadata.name.removesuffix(".dist-info").partition("-")
        if name.lower().replace("-", "_") == package:
            return f"{name} {version}"
    return ""


def _package_of(script: Path) -> str:
    """Return name and version of the installed package that made a console script."""
    with script.open("rb") as file:
        shebang = _SHEBANG.match(file.readline(256))
    if shebang is None:
        return ""
    prefix = script.resolve().parent.parent
    for listed in prefix.glob("lib/python*/site-packages/*.dist-info/entry_points.txt"):
        if re.search(rf"^{re.escape(script.name)}\s*=", listed.read_text("utf-8"), re.MULTILINE):
            name, _, version = listed.parent.name.removesuffix(".dist-info").partition("-")
            return f"{name} {version}"
    return ""
