"""The files with the policies of the machine that tests run on.

Imports nothing heavy, as it is loaded with the plugin.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_autotune.policy import VARIABLE

if TYPE_CHECKING:
    import pytest

    from pytest_autotune.policy.policies import Policies

#: The variable as this process began: a conftest file, or a plugin that sets variables from an ini
#: file, may change it later.
GIVEN: Final = os.environ.get(VARIABLE)
#: The policy of a machine, whatever the environment says.
SYSTEM: Final = Path("/etc/pytest-autotune.yaml")


def policies_of(config: pytest.Config, given: str | None) -> Policies:
    """Return the policies that hold in a run; raise :class:`.PolicyError`.

    ``given`` is what the variable says, of a worker what it says in its controller.
    """
    from pytest_autotune.policy.loading import load_policies

    if given is not None:
        # As launches of the gate read it.
        os.environ[VARIABLE] = given
    else:
        os.environ.pop(VARIABLE, None)
    places = [config.rootpath, config.invocation_params.dir]
    if config.inipath is not None:
        places.append(config.inipath.parent)
    return load_policies(SYSTEM, given, places)
