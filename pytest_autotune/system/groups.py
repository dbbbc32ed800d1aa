"""Child processes in a process group of their own, so that all of them can be ended at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

#: Keyword arguments of ``subprocess.Popen``.
#:
#: A group, not a session: Linux schedules sessions against each other (autogroup), and a server
#: whose threads wait busily, as vLLM's do, then starves a client in another session for seconds.
OWN_GROUP: Final[Mapping[str, Any]] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
