"""The options, folders and import path that every launch takes over from its run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_autotune.gate.launch.launcher import PACKAGE, Launcher, LaunchFailed, tail
from pytest_autotune.gate.revision.imports import editable_roots, map_path, mapped_import_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """The settings that all launches of a run share.

    ``top`` is the working tree, ``root`` pytest's rootdir, ``folder`` the current folder and
    ``ini`` the configuration file. ``copies`` are installed copies of the working tree's packages.
    ``notes`` are sentences on options that could not be taken over.
    """

    options: Mapping[str, Any]
    plugins: tuple[str, ...]
    top: Path
    root: Path
    folder: Path
    ini: Path | None = None
    copies: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def counterpart(self, path: Path, tree: Path | None) -> Path:
        """Return the path in a checkout for one of the working tree."""
        return path if tree is None else map_path(path, self.top, tree)

    def launcher(self, params: Mapping[str, Any], log: Path, tree: Path | None = None) -> Launcher:
        """Return a launcher of the working tree, or of the revision in ``tree``."""
        options = dict(self.options)
        # The files of this run, even if a checkout has others.
        options["rootdir"] = str(self.counterpart(self.root, tree))
        ini = None if self.ini is None else self.counterpart(self.ini, tree)
        options["inifilename"] = str(ini) if ini is not None and ini.is_file() else None
        if options.get("confcutdir"):
            path = (self.folder / str(options["confcutdir"])).absolute()
            options["confcutdir"] = str(self.counterpart(path, tree))
        return Launcher(
            folder=self.counterpart(self.folder, tree),
            root=self.counterpart(self.root, tree),
            params=params,
            options=options,
            arguments=[word for plugin in self.plugins for word in ("-p", plugin)],
            log=log,
            import_path=self._import_path(tree),
            top=tree,
            not_from=None if tree is None else self.top,
            copies=self.copies,
        )

    def prepare(self, command: tuple[str, ...], tree: Path, done: set[tuple[str, ...]]) -> None:
        """Run a command in the revision in ``tree``, once; ``done`` remembers it.

        Raises :class:`LaunchFailed`.
        """
        if not command or command in done:
            return
        shown = f"the old revision cannot be made ready: {shlex.join(command)!r} (gate.prepare)"
        try:
            found = subprocess.run(  # noqa: S603 - a program that the spec names; argv, no shell
                command,
                cwd=self.counterpart(self.root, tree),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except (OSError, ValueError) as error:
            raise LaunchFailed("failed", f"{shown} cannot be run: {error}") from None
        if found.returncode:
            said = tail(found.stdout)
            raise LaunchFailed("failed", f"{shown} ended with exit status {found.returncode}", said)
        done.add(command)

    def _import_path(self, tree: Path | None) -> list[str]:
        """Return the entries that come first in the import path of a launch."""
        entries = [str(self.folder / entry) for entry in sys.path]
        inside = mapped_import_path(
            [*entries, *editable_roots()], self.top, tree or self.top, PACKAGE
        )
        given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        outside = [
            entry for entry in given if not (self.folder / entry).resolve().is_relative_to(self.top)
        ]
        return [*inside, *outside]
