"""Installed but unused, the plugin is not felt."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from inner import CHANGING

#: Plugins that import one or another module for themselves.
_OTHERS = [
    f"-pno:{name}"
    for name in ("xdist", "xdist.looponfail", "benchmark", "hypothesispytest", *CHANGING)
]
HEAVY = ("docker", "filelock", "jsonschema", "numpy", "optuna", "ruamel.yaml", "sqlalchemy", "yaml")


def _modules_after(pytester: pytest.Pytester, *args: str) -> set[str]:
    pytester.makeconftest("""
        import json, sys
        def pytest_unconfigure():
            with open("modules.json", "w") as file:
                json.dump(sorted(sys.modules), file)
        """)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    subprocess.run(
        [sys.executable, "-m", "pytest", *_OTHERS, *args],
        cwd=pytester.path,
        env=environment,
        check=True,
        capture_output=True,
    )
    return set(json.loads((pytester.path / "modules.json").read_text()))


def test_an_unrelated_run_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    modules = _modules_after(pytester)
    assert "pytest_autotune.plugin" in modules
    assert not modules.intersection(HEAVY)
    assert not {name for name in modules if name.startswith("xdist")}


def test_a_skipped_study_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.autotune("some spec")
        def test_it(trial): pass
        """)
    assert not _modules_after(pytester).intersection(HEAVY)


def test_docker_is_not_imported_by_a_study_that_starts_no_container(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.autotune(parameters={"a": [1]}, optimization={"objective": "minimize:x"})
        def test_it(trial): trial.report({"x": 1})
        """)
    modules = _modules_after(pytester, "--autotune")
    assert "optuna" in modules
    assert not modules.intersection({"docker", "ruamel.yaml", "sqlalchemy", "torch"})
