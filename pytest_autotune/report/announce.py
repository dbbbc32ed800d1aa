"""A line for who watches the terminal now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def announce(config: pytest.Config, text: str, **colour: bool) -> None:
    """Show ``text`` at once; a worker has no terminal."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None:
        terminal.ensure_newline()
        terminal.write_line(text, **colour)
        # Into a file or a pipe, too, it is of use now only.
        terminal.flush()
