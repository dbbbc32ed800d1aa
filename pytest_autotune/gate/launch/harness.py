"""What every launch takes over from the run that makes it: options, folders, import path."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.gate.launch.launcher import PACKAGE, PATH, Checkout, Launcher
from pytest_autotune.gate.revision.git import RevisionError
from pytest_autotune.gate.revision.imports import (
    editable_roots,
    installed_copies,
    map_path,
    mapped_import_path,
)
from pytest_autotune.gate.revision.repository import Repository

if TYPE_CHECKING:
    import pytest

#: Options of pytest and its plugins that are the run's own affair, and what a launch has instead:
#: what selects, distributes, watches or reports.
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
#: What is given as arguments instead.
_ARGUMENTS: Final = frozenset({"file_or_dir", "plugins"})
_PREFIX: Final = "autotune"
_KEPT: Final = "autotune_gpu_timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """What is the same for all launches of a run.

    ``top`` is the working tree, ``root`` pytest's rootdir, ``folder`` the current one and ``ini``
    the configuration file. ``notes`` are sentences on what could not be taken over.
    """

    options: Mapping[str, Any]
    plugins: tuple[str, ...]
    top: Path
    root: Path
    folder: Path
    ini: Path | None = None
    copies: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: pytest.Config) -> Harness:
        """Read it from a run."""
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
        lost = [name for name, value in options.items() if value is _UNUSABLE]
        options = {name: value for name, value in options.items() if value is not _UNUSABLE}
        own = {name: value for name, value in _OWN.items() if name in options}
        plugins = [*(getattr(config.option, "plugins", None) or ()), "no:cacheprovider"]
        return cls(
            options={**options, **own},
            plugins=tuple(dict.fromkeys(plugins)),
            top=top,
            root=root,
            folder=config.invocation_params.dir,
            ini=config.inipath,
            copies=tuple(c for c in installed_copies(top, (top, root)) if c != PACKAGE),
            notes=tuple(
                f"the option {name!r} could not be handed to launches, which had its default"
                for name in lost
                if name not in _OWN
            ),
        )

    def counterpart(self, path: Path, tree: Path | None) -> Path:
        """Return where a path of the working tree lies in a checkout."""
        return path if tree is None else map_path(path, self.top, tree)

    def launcher(self, params: Mapping[str, Any], log: Path, tree: Path | None = None) -> Launcher:
        """Return what launches the working tree, or the revision in ``tree``, with ``params``."""
        options = dict(self.options)
        # As this run has them, wherever else there is a configuration file.
        options["rootdir"] = str(self.counterpart(self.root, tree))
        ini = None if self.ini is None else self.counterpart(self.ini, tree)
        options["inifilename"] = str(ini) if ini is not None and ini.is_file() else None
        if options.get("confcutdir"):
            path = (self.folder / str(options["confcutdir"])).absolute()
            options["confcutdir"] = str(self.counterpart(path, tree))
        checkout = Checkout(
            folder=self.counterpart(self.folder, tree),
            root=self.counterpart(self.root, tree),
            params=params,
            import_path=self._import_path(tree),
            top=tree,
            not_from=None if tree is None else self.top,
            copies=self.copies,
        )
        arguments = [word for plugin in self.plugins for word in ("-p", plugin)]
        return Launcher(checkout=checkout, options=options, arguments=arguments, log=log)

    def _import_path(self, tree: Path | None) -> list[str]:
        """Return what a launch can import from first, as this process can."""
        entries = [str(self.folder / entry) for entry in sys.path]
        inside = mapped_import_path(
            [*entries, *editable_roots()], self.top, tree or self.top, PACKAGE
        )
        given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        outside = [
            entry for entry in given if not (self.folder / entry).resolve().is_relative_to(self.top)
        ]
        return [*inside, *outside]


_UNUSABLE: Final = object()


def _plain(value: object) -> Any:
    """Return a value as JSON can carry it, or :data:`_UNUSABLE`."""
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
