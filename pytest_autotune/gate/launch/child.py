"""The script of one launch. Its argument is the path of a job, whose tests it runs.

:class:`~pytest_autotune.gate.launch.launcher.Launcher` starts it. The hooks in
:mod:`~pytest_autotune.plugin.gate.launch_hooks` write the result.
"""

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.path.dirname(__file__):  # noqa: PTH120 - not yet
    # Modules must not be imported from the folder of this script. PYTHONSAFEPATH ensures that, too.
    del sys.path[0]

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import ConftestImportFailure  # has no public name


def _revived(value: object) -> object:
    """Return the value of an option that was written as JSON."""
    if isinstance(value, dict):
        path = value.get("$path")
        return Path(path) if path is not None else {k: _revived(v) for k, v in value.items()}
    return [_revived(entry) for entry in value] if isinstance(value, list) else value


def _write_failure(job: Mapping[str, Any], kind: str, message: str) -> None:
    """Write a result, unless the hooks wrote one that knows more."""
    from pytest_autotune.system.files import replace_file

    target = Path(job["result"])
    if not target.exists():
        failure = {"kind": kind, "message": message, "details": ""}
        document: dict[str, Any] = {"failure": failure, "record": None, "files": []}
        replace_file(target, json.dumps(document).encode())


def main(path: str) -> int:
    """Run the job at ``path``; return pytest's exit status."""
    job = json.loads(Path(path).read_text("utf-8"))
    config = None
    try:
        # xdist configures its workers in this way.
        options = {name: _revived(value) for name, value in job["options"].items()}
        config = pytest.Config.fromdictargs(options, job["args"])
        # Imported late, as pytest has to import plugins itself.
        from pytest_autotune.plugin.gate.launch_hooks import LaunchHooks

        config.pluginmanager.register(LaunchHooks(job), "autotune-launch")
        return int(config.hook.pytest_cmdline_main(config=config))
    except ConftestImportFailure as error:
        # The same message as that of pytest.main().
        cause = "".join(traceback.format_exception_only(error.cause))
        print(f"ImportError while loading conftest {error.path}: {cause}", file=sys.stderr)  # noqa: T201
        _write_failure(job, "not importable", "its conftest file cannot be imported")
        return int(pytest.ExitCode.USAGE_ERROR)
    except pytest.UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - goes into the launch's log
        _write_failure(job, "failed", "pytest does not start there")
        return int(pytest.ExitCode.USAGE_ERROR)
    finally:
        if config is not None:
            config._ensure_unconfigure()  # noqa: SLF001 - as pytest.main() does


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
