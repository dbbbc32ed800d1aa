"""The entry point: options, the marker, and registration. Imports nothing heavy.

Without ``--autotune`` nothing else of this package is loaded, and marked tests are skipped.
"""

from __future__ import annotations

from typing import Final

import pytest

import pytest_autotune.plugin.policy_files  # noqa: F401 - notes the environment as it is now
from pytest_autotune.errors import UserError
from pytest_autotune.plugin.options import OPTIONS, read_settings

MARKER: Final = (
    "autotune(name, *, spec=None, gpus=None, **keys): make the module, class or function a tuning "
    "study. 'name' is a spec of the repository's autotune.yaml; or 'spec' is the path of a task "
    "file; or the keys of a spec are given inline. 'gpus' is how many a trial needs, a number or "
    "an expression over parameters. Runs with --autotune and --autotune-gate only."
)
SKIP_REASON: Final = "tuning study: runs with --autotune"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--autotune…`` options, each with an ini twin."""
    group = parser.getgroup("autotune", "tuning studies (pytest-autotune)")
    for option in OPTIONS:
        if option.flag:
            group.addoption(
                option.cli, dest=option.dest, action="store_true", default=None, help=option.help
            )
        else:
            group.addoption(
                option.cli,
                dest=option.dest,
                metavar=option.metavar or "|".join(option.choices or ()),
                default=None,
                help=option.help,
            )
        parser.addini(option.dest, option.help, type=option.ini_type, default=option.ini_default)
    group.addoption(
        "--autotune-schema",
        action="store_true",
        help="print the JSON Schema of spec files and exit",
    )
    group.addoption(
        "--autotune-history",
        action="store_true",
        help="print what the gate found so far, and where it changed, and exit",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks of this plugin."""
    from pytest_autotune.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the schema, or the gate's history, instead of running, where asked to."""
    if config.option.autotune_schema:
        from pytest_autotune.spec.validation import schema_text

        print(schema_text(), end="")  # noqa: T201 - this is the command's output
        return 0
    if config.option.autotune_history:
        from pytest_autotune.plugin.gate.terminal import show_history

        return show_history(config)
    return None


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Make ``-n auto`` one worker for each lease of GPUs, where there are any."""
    try:
        settings = read_settings(config)
        if not settings.enabled or settings.replay is not None:
            return None
        from pytest_autotune.plugin.distributed import auto_workers

        return auto_workers(config)
    except UserError:
        # Said once the session starts.
        return None


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, the fixtures and, where asked for, the hooks that run studies."""
    from pytest_autotune.plugin import fixtures

    config.addinivalue_line("markers", MARKER)
    config.pluginmanager.register(fixtures, "autotune-fixtures")
    try:
        settings = read_settings(config)
        launch = config.pluginmanager.getplugin("autotune-launch")
        if launch is not None:
            # A child of the gate's, in which only what it is told runs.
            launch.start(config, settings)
        elif _only_tells(config):
            pass
        elif settings.enabled:
            from pytest_autotune.plugin.tuning import register

            register(config, settings)
        elif settings.gate:
            from pytest_autotune.plugin.gate.hooks import register

            register(config, settings)
    except UserError as error:
        from pytest_autotune.text.printable import printable_lines

        raise pytest.UsageError(printable_lines(str(error))) from None


def _only_tells(config: pytest.Config) -> bool:
    """Return whether a run only prints something, and tests nothing."""
    names = ("autotune_schema", "autotune_history", "help", "version", "markers", "cacheshow")
    return any(getattr(config.option, name, None) for name in names)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip studies where they were not asked for, before any fixture is set up."""
    if config.pluginmanager.hasplugin("autotune-runner"):
        return
    skip = pytest.mark.skip(reason=SKIP_REASON)
    for item in items:
        if item.get_closest_marker("autotune") is not None:
            item.add_marker(skip, append=False)
