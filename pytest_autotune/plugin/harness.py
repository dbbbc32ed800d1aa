"""The options that launches take over from a pytest run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_autotune.gate.launch.harness import Harness
from pytest_autotune.gate.launch.launcher import PACKAGE, PATH
from pytest_autotune.gate.revision.git import RevisionError
from pytest_autotune.gate.revision.imports import installed_copies
from pytest_autotune.gate.revision.repository import Repository

#: Options of pytest and its plugins that select, distribute, watch or report, with their values in
#: a launch.
_OWN: Final[Mapping[str, Any]] = {
    "allure_report_dir": None,
    "cacheclear": False,
    "collectonly": False,
    "cov_source": [],
    "deselect": None,
    "dist": "no",
    "distload": False,
    "durations": None,
    "failedfirst": False,
    "htmlpath": None,
    "json_report": False,
    "json_report_file": None,
    "keyword": "",
    "lf": False,
    "log_file": None,
    "looponfail": False,
    "markexpr": "",
    "memray": False,
    "maxfail": 0,
    "maxprocesses": None,
    "newfirst": False,
    "no_cov": True,
    "numprocesses": None,
    "pastebin": None,
    "profile": False,
    "profile_svg": False,
    "report_log_path": None,
    "reruns": None,
    "setuponly": False,
    "setupplan": False,
    "stepwise": False,
    "stepwise_skip": False,
    "trace": False,
    "tx": [],
    "usepdb": False,
    "verbose": 0,
    "xmlpath": None,
}
#: Options that become arguments.
_ARGUMENTS: Final = frozenset({"file_or_dir", "plugins"})
_PREFIX: Final = "autotune"
_KEPT: Final = "autotune_gpu_timeout"
_UNUSABLE: Final = object()


def harness_of(config: pytest.Config) -> Harness:
    """Return the settings that launches take over from a run."""
    root = config.rootpath
    try:
        top = Repository.find(root).top
    except RevisionError:
        top = root
    options = {
        name: _plain(value)
        for name, value in vars(config.option).items()
        if name not in _ARGUMENTS and (not name.startswith(_PREFIX) or name == _KEPT)
    }
    options |= {name: value for name, value in _OWN.items() if name in options}
    lost = [name for name, value in options.items() if value is _UNUSABLE]
    plugins = [*(getattr(config.option, "plugins", None) or ()), "no:cacheprovider"]
    return Harness(
        options={name: value for name, value in options.items() if value is not _UNUSABLE},
        plugins=tuple(dict.fromkeys(plugins)),
        top=top,
        root=root,
        folder=config.invocation_params.dir,
        ini=config.inipath,
        copies=tuple(c for c in installed_copies(top, (top, root)) if c != PACKAGE),
        notes=tuple(
            f"the option {name!r} could not be handed to launches, which had its default"
            for name in lost
        ),
    )


def _plain(value: object) -> Any:
    """Return a value in JSON types, or :data:`_UNUSABLE`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {PATH: str(value)}
    if isinstance(value, list | tuple):
        found = [_plain(entry) for entry in value]
        return _UNUSABLE if _UNUSABLE in found else found
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        entries = {key: _plain(entry) for key, entry in value.items()}
        return _UNUSABLE if _UNUSABLE in entries.values() else entries
    return _UNUSABLE
