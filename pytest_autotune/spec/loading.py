"""Find, read and build specs: spec files, task files, ``[tool.autotune]`` and inline markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.build import build_spec
from pytest_autotune.spec.model import Spec
from pytest_autotune.spec.reading import read_document
from pytest_autotune.spec.sizes import too_large
from pytest_autotune.spec.validation import validate
from pytest_autotune.text.places import Origin, json_pointer
from pytest_autotune.text.printable import printable
from pytest_autotune.text.suggest import nearest, shown

SPEC_FILES: Final = ("autotune.yaml", "autotune.yml", "autotune.toml", "autotune.json")
_PYPROJECT: Final = "pyproject.toml"


def find_spec_file(rootdir: Path) -> Path | None:
    """Return the repository's spec file, or None; two of them are an error."""
    found = [rootdir / name for name in SPEC_FILES if (rootdir / name).is_file()]
    pyproject = rootdir / _PYPROJECT
    if pyproject.is_file() and "autotune" in _tool_table(pyproject):
        found.append(pyproject)
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise SpecError(f"{rootdir}: found {names}; keep the specs of a repository in one file")
    return found[0] if found else None


def nearer_spec_files(rootdir: Path, folder: Path) -> Iterator[Path]:
    """Yield the spec files from ``folder`` up to below ``rootdir``, nearest first."""
    while folder != rootdir and folder.is_relative_to(rootdir):
        with suppress(SpecError):
            found = find_spec_file(folder)
            if found is not None:
                yield found
        folder = folder.parent


def load_named(rootdir: Path, name: str | None) -> Spec:
    """Load the spec called ``name`` from the repository's spec file.

    With None the file must hold exactly one spec. Raises :class:`SpecError`.
    """
    path = find_spec_file(rootdir)
    if path is None:
        wanted = f"the spec {name!r}" if name else "a spec"
        raise SpecError(
            f"{rootdir}: no autotune.yaml, autotune.toml, autotune.json or [tool.autotune] "
            f"to take {wanted} from; write one, or give the marker spec='FILE' or inline keys"
        )
    documents, origin = _named_documents(path)
    if name is None:
        if len(documents) != 1:
            names = ", ".join(map(printable, sorted(documents)))
            raise SpecError(
                f"{path.name}: holds {len(documents)} specs ({names}); "
                "name one in the marker: pytest.mark.autotune('NAME')"
            )
        name = next(iter(documents))
    if name not in documents:
        raise SpecError(f"{path.name}: no spec named {name!r}{nearest(name, sorted(documents))}")
    origin = replace(origin, pointer=f"{origin.pointer}{json_pointer(name)}")
    return build_spec(name, validate(documents[name], origin), origin)


def load_all(rootdir: Path) -> Iterator[Spec]:
    """Yield every spec of the repository's spec file; none where there is no such file.

    Raises :class:`SpecError` at the first that is wrong.
    """
    path = find_spec_file(rootdir)
    if path is not None:
        documents, _ = _named_documents(path)
        yield from (load_named(rootdir, name) for name in documents)


def load_file(path: Path, shown_as: str) -> Spec:
    """Load a task file: one spec in a JSON, YAML or TOML file of its own."""
    content, places = read_document(path, shown_as)
    if content is None and not places:
        raise SpecError(f"{shown_as}: the file is empty; a spec is a mapping")
    origin = Origin(file=shown_as, folder=str(path.parent), places=places)
    document = validate(content, origin)
    name = str(document.get("task_name", path.stem))
    return build_spec(name, document, origin)


def load_inline(
    name: str, document: Mapping[str, Any], shown_as: str, folder: Path | None = None
) -> Spec:
    """Build a spec from a marker's keyword arguments; ``folder`` is that of the test module."""
    origin = Origin(file=shown_as, folder=str(folder or Path()))
    problem = too_large(document)
    if problem:
        raise SpecError(f"{shown_as}: {problem}")
    try:
        plain = _plain(document)
    except RecursionError:
        raise SpecError(f"{shown_as}: nested too deep") from None
    return build_spec(name, validate(plain, origin), origin)


def _plain(value: object) -> Any:
    """Turn the tuples, ranges and sets of Python source into JSON's lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return value


def _named_documents(path: Path) -> tuple[Mapping[str, Any], Origin]:
    """Return the specs of a file by name, and where they are."""
    document, places = read_document(path, path.name)
    origin = Origin(file=path.name, folder=str(path.parent), places=places)
    if path.name == _PYPROJECT:
        document, origin = document["tool"]["autotune"], replace(origin, pointer="/tool/autotune")
    if document is None and not places:
        raise SpecError(f"{path.name}: the file is empty, which is not a mapping of names to specs")
    if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
        raise SpecError(f"{origin.at()}: {shown(document)} is not a mapping of names to specs")
    if "parameters" in document and "optimization" in document:
        raise SpecError(
            f"{origin.at()}: this is one spec, but a mapping of names to specs is "
            "expected; put it under a name, or point at it with pytest.mark.autotune(spec='FILE')"
        )
    return document, origin


def _tool_table(path: Path) -> Mapping[str, Any]:
    document, _ = read_document(path, path.name)
    tool = document.get("tool", {}) if isinstance(document, Mapping) else {}
    return tool if isinstance(tool, Mapping) else {}
