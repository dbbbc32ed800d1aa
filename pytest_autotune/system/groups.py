"""Child processes in a process group of their own, which can be ended together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

#: Keyword arguments of ``subprocess.Popen``.
#:
#: A group, not a session: Linux schedules sessions against each other (autogroup). A server with
#: busy threads, such as vLLM, would then starve a client in another session for seconds.
OWN_GROUP: Final[Mapping[str, Any]] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
