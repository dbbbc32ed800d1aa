"""The ``sources`` of a spec: files besides Python that belong to the code of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pytest_autotune.errors import SpecError
from pytest_autotune.text.places import Origin


def read_sources(globs: Sequence[str], origin: Origin) -> tuple[str, ...]:
    """Return the globs without repeats; raise :class:`SpecError` for one that is none.

    A glob is relative to the rootdir and stays below it.
    """
    for index, glob in enumerate(globs):
        problem = _problem(glob)
        if problem:
            raise SpecError(f"{origin.at('sources', index)}: {glob!r} {problem}")
    return tuple(dict.fromkeys(globs))


def _problem(glob: str) -> str:
    parts = PurePosixPath(glob).parts
    if glob.startswith(("/", "~")):
        return "is not relative: write it from the rootdir, such as 'csrc/**/*.cu'"
    if ".." in parts:
        return "leaves its folder by '..': name files below the rootdir"
    if not parts:
        return "names no file: write for example 'csrc/**/*.cu'"
    if any("**" in part and part != "**" for part in parts):
        return "has '**' within a name: '**' stands alone, as in 'csrc/**/*.cu'"
    return ""
