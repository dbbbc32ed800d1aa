"""The script of one launch: run the tests of a job, whose path is its argument.

See :class:`~pytest_autotune.gate.launch.launch.Launcher`, which runs it, and
:mod:`~pytest_autotune.plugin.gate.launch_hooks` for what it does.
"""

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.path.dirname(__file__):  # noqa: PTH120 - not yet
    # The folder of this script is no place to import from. PYTHONSAFEPATH keeps it out by itself.
    del sys.path[0]

import json
import traceback
from pathlib import Path

import pytest
from _pytest.config import ConftestImportFailure  # has no public name


def _revived(value: object) -> object:
    """Return an option's value as it was before it was written down."""
    if isinstance(value, dict):
        path = value.get("$path")
        return Path(path) if path is not None else {k: _revived(v) for k, v in value.items()}
    return [_revived(entry) for entry in value] if isinstance(value, list) else value


def main(path: str) -> int:
    """Run the job at ``path``; return pytest's exit status."""
    job = json.loads(Path(path).read_text("utf-8"))
    config = None
    try:
        # As xdist makes the configuration of its workers from that of the controller.
        options = {name: _revived(value) for name, value in job["options"].items()}
        config = pytest.Config.fromdictargs(options, job["args"])
        # Not before, as pytest wants to be the one who imports plugins.
        from pytest_autotune.plugin.gate.launch_hooks import LaunchHooks

        config.pluginmanager.register(LaunchHooks(job), "autotune-launch")
        return int(config.hook.pytest_cmdline_main(config=config))
    except ConftestImportFailure as error:
        # As pytest.main() does, in its words.
        cause = "".join(traceback.format_exception_only(error.cause))
        print(f"ImportError while loading conftest {error.path}: {cause}", file=sys.stderr)  # noqa: T201
        return int(pytest.ExitCode.USAGE_ERROR)
    except pytest.UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - goes into the launch's log
        return int(pytest.ExitCode.USAGE_ERROR)
    finally:
        if config is not None:
            config._ensure_unconfigure()  # noqa: SLF001 - as pytest.main() does


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
