"""Find and read policies, which lie outside of the repositories that they hold for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import PolicyError, SpecError
from pytest_autotune.policy import VARIABLE
from pytest_autotune.policy.model import Policy, read_policy
from pytest_autotune.policy.policies import Policies
from pytest_autotune.spec.reading import read_document
from pytest_autotune.spec.validation import conforming
from pytest_autotune.text.places import Origin

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


def load_policies(system: Path, given: str | None, folders: Iterable[Path]) -> Policies:
    """Return the policies of this machine: that of ``system``, if it is there, and ``given``.

    Both hold, so that a variable, which anybody may set who starts a run, allows nothing more.
    ``folders`` are those of the tests; none of them, nor the repository around it, may hold a
    policy. Raises :class:`PolicyError`.
    """
    closed = [*dict.fromkeys(root for folder in folders for root in _roots(folder.resolve()))]
    return Policies(tuple(_load(path, where, closed) for path, where in _named(system, given)))


def _named(system: Path, given: str | None) -> Iterator[tuple[Path, str]]:
    # Also where it is a link to nothing, or in a folder that may not be looked into.
    if _is_there(system):
        yield system, str(system)
    if given is None:
        return
    where = f"{VARIABLE}={given}"
    path = Path(given)
    if not path.is_absolute():
        said = "it is empty" if not given else "it is not an absolute path"
        raise PolicyError(f"{where}: {said}; name the policy's file, or unset the variable")
    if path != system:
        yield path, where


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PolicyError(f"{path}: the policy cannot be read: {error.strerror}") from None
    return True


def _load(path: Path, where: str, closed: Iterable[Path]) -> Policy:
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise PolicyError(f"{where}: the policy cannot be read: {error}") from None
    for root in closed:
        if real.is_relative_to(root):
            raise PolicyError(
                f"{where}: the policy lies in {root}, whose tests it is to hold for; keep it "
                "outside, where they cannot change it"
            )
    try:
        content, places = read_document(path, str(path), "YAML")
        if content is None and not places:
            raise PolicyError(
                f"{where}: the policy is empty, and says neither what is allowed nor that nothing "
                "is; for the latter write {}"
            )
        origin = Origin(file=str(path), folder=str(path.parent), places=places)
        return read_policy(conforming(content, origin, _validator()), origin)
    except SpecError as error:
        raise PolicyError(f"{error} (the policy of this machine)") from None


def _roots(folder: Path) -> Iterator[Path]:
    """Yield ``folder`` and the outermost git repository around it, where it is in one."""
    # The root of all folders holds every file, and tests may be run from there.
    if folder != Path(folder.anchor):
        yield folder
    repositories = [parent for parent in (folder, *folder.parents) if (parent / ".git").exists()]
    yield from repositories[-1:]


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    text = resources.files("pytest_autotune.policy").joinpath("schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))
