"""The ``autotune`` marker, and the spec that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.loading import load_file, load_inline, load_named, nearer_spec_files
from pytest_autotune.spec.model import Spec
from pytest_autotune.spec.validation import refuse_unknown_keys
from pytest_autotune.text.places import Origin

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name

#: Keys of the marker itself; the others are a spec's.
_OWN: Final = ("gpus", "spec")


def spec_of(node: Node, mark: pytest.Mark) -> Spec:
    """Return the spec that ``mark`` names or holds; raise :class:`SpecError`."""
    where = f"{node.nodeid}: autotune marker"
    inline = {key: value for key, value in mark.kwargs.items() if key not in _OWN}
    refuse_unknown_keys(inline, _OWN, Origin(file=where))
    path = mark.kwargs.get("spec")
    if len(mark.args) + (path is not None) + bool(inline) > 1:
        raise SpecError(
            f"{where}: give a spec's name, or spec='FILE', or a spec's keys; not several"
        )
    if path is not None:
        return load_file(_resolved(node, path, where), str(path))
    if inline:
        return load_inline(node.name, inline, where, node.path.parent)
    name = mark.args[0] if mark.args else None
    if name is not None and not isinstance(name, str):
        raise SpecError(f"{where}: {name!r} is not the name of a spec")
    try:
        return load_named(node.config.rootpath, name)
    except SpecError as error:
        notes = "".join(f"; {note}" for note in ignored_specs(node, mark))
        raise SpecError(f"{error}{notes}") from None


def ignored_specs(node: Node, mark: pytest.Mark) -> list[str]:
    """Return a note for each spec file that is nearer to the tests than the rootdir's."""
    if mark.kwargs.keys() - {"gpus"}:
        return []
    root = node.config.rootpath
    return [
        f"{path.relative_to(root)} is not read: named specs come from pytest's rootdir, {root}"
        for path in nearer_spec_files(root, node.path.parent)
    ]


def _resolved(node: Node, path: object, where: str) -> Path:
    """Return the path of a task file, from the test's folder or from the rootdir."""
    if not isinstance(path, str | Path):
        raise SpecError(f"{where}: spec={path!r} is not the path of a file")
    beside, below = node.path.parent / path, node.config.rootpath / path
    return beside if beside.exists() else below
