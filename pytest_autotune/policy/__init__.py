"""What the owner of a runner allows the specs of others: a file outside of their repositories."""

from __future__ import annotations

from typing import Final

#: The variable that names a policy's file.
VARIABLE: Final = "PYTEST_AUTOTUNE_POLICY"
