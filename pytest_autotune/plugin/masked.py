"""Secrets out of pytest's reports, wherever a test or a plugin let one in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def mask_report(report: pytest.TestReport, mask: Callable[[str], str]) -> None:
    """Mask every text of ``report``, in place."""
    report.sections = [(mask(title), mask(text)) for title, text in report.sections]
    report.user_properties = [
        (mask(name), mask(value) if isinstance(value, str) else value)
        for name, value in report.user_properties
    ]
    for name in ("wasxfail", "autotune_line"):
        text = getattr(report, name, None)
        if isinstance(text, str):
            setattr(report, name, mask(text))
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        path, line, reason = longrepr
        report.longrepr = (path, line, mask(reason))
    elif longrepr is not None:
        text = str(longrepr)
        masked = mask(text)
        # A traceback keeps its structure, and its colours, unless there is something to hide.
        if masked != text or isinstance(longrepr, str):
            report.longrepr = masked
