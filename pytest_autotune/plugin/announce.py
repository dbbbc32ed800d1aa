"""Lines for the person who watches the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.text.printable import printable

if TYPE_CHECKING:
    import pytest

    from pytest_autotune.study.plan import Plan


def announce(config: pytest.Config, text: str, **colour: bool) -> None:
    """Show ``text`` at once; a worker has no terminal."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None:
        terminal.ensure_newline()
        terminal.write_line(printable(text), **colour)
        # Into a file or a pipe, too, it is of use now only.
        terminal.flush()


def announce_replay(config: pytest.Config, plan: Plan) -> None:
    """Announce that the results of a study are replayed, before there are any."""
    if not plan.source.measures:
        source = plan.source.description
        text = f"autotune: {plan.label} from {source}: nothing is run or measured"
        announce(config, text, yellow=True)
