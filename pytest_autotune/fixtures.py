"""The public fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_autotune.trial import Trial


@pytest.fixture(scope="module")
def trial(request: pytest.FixtureRequest) -> Trial:
    """The configuration under test: ``trial.params`` in, ``trial.report(metrics)`` out.

    One value per trial, shared by all tests of the study and by every fixture that uses it.
    """
    slot = getattr(request, "param", None)
    if slot is None:
        pytest.fail(
            "the 'trial' fixture needs a study: mark the module, class or function with "
            "pytest.mark.autotune(...)",
            pytrace=False,
        )
    session = request.config.pluginmanager.getplugin("autotune-session")
    return session.trial_for(slot)  # type: ignore[no-any-return]
