"""The code that studies are measured with: the user's files that this process has imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.study.code import Code
from pytest_autotune.study.digests import digest_of, shown
from pytest_autotune.study.imports import ImportedFiles

if TYPE_CHECKING:
    from pytest_autotune.plugin.active import ActiveTrial
    from pytest_autotune.serving.server import InferenceServer


class CodeWatcher:
    """Hooks that learn which files the tests of a study use."""

    def __init__(self, root: Path, manager: pytest.PytestPluginManager) -> None:
        self._root = root
        self._manager = manager
        self._imported = ImportedFiles(root)
        self._test_modules: set[Path] = set()
        self._used: dict[Path, Mapping[str, str]] = {}

    def pytest_pycollect_makemodule(self, module_path: Path) -> None:
        """Remember a test module: other studies do not use it."""
        self._test_modules.add(module_path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """Read what was imported so far, before anybody edits it."""
        self._imported.look()

    def begin(self, module: Path, globs: tuple[str, ...]) -> Code:
        """Return the code of a study in ``module``, as far as that is known at collection."""
        self._imported.look()
        files = self._imported.begins_with(module, self._plugins())
        return Code.of(self._root, {shown(self._root, module): digest_of(module), **files}, globs)

    def note(self, active: ActiveTrial, module: Path, server: InferenceServer | None) -> None:
        """Record the code of a trial, whose tests are in ``module``, in its study.

        Raises :class:`StorageError` where that is not the code of the study's other trials.
        """
        if active.study.plan.code is None:
            return
        if self._imported.look():
            self._used.clear()
        if module not in self._used:
            others = self._test_modules - {module}
            self._used[module] = self._imported.used_by(module, others, self._plugins())
        files = self._used[module]
        parts: Mapping[str, str] = {}
        if server is not None and server.launch.backend != "url":
            from pytest_autotune.study.parts import parts_of, scripts_in

            files = {**files, **scripts_in(self._root, server.launch.folder, server.command)}
            parts = parts_of(server.launch.image, server.command)
        active.study.note_code(files, parts)

    def _plugins(self) -> set[Path]:
        """Return the files of modules that are plugins of pytest, as every test may use these."""
        plugins = self._manager.get_plugins()
        files = [getattr(p, "__file__", None) for p in plugins if isinstance(p, ModuleType)]
        # A conftest file is one of its folder's tests only.
        return {Path(f) for f in files if f is not None and Path(f).name != "conftest.py"}
