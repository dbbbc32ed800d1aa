"""Where the results of a study come from: its tests measure them here, or they are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_autotune.scoring.judgement import Measurement, Question
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.model import Spec
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.system.masking import without_secrets

#: Spec sections that a measurement depends on besides the space, the objective and the SLO.
_WORKLOAD: Final = (
    "model",
    "deployment_mode",
    "base_runtime",
    "runtime_image_tag",
    "benchmark",
    "server",
)
#: Keys of them that no measurement depends on.
_NO_WORKLOAD: Final = frozenset(
    {"api_key", "health", "pull", "secrets", "startup_timeout", "stop_timeout"}
)


class Source:
    """A source of results: the study's own tests, which measure them on this machine.

    ``measures`` is whether tests run at all. ``file`` holds recorded results, ``description``
    names them for people, ``arguments`` repeat the choice on the command line, and ``suffix``
    ends the names of such studies.
    """

    measures: bool = True
    file: str = ""
    description: str = ""
    arguments: Sequence[str] = ()
    suffix: str = ""

    def key(self, spec: Spec) -> Mapping[str, Any]:
        """Return the identity of comparable results: here the workload and the environment."""
        found = without_secrets({name: spec.raw[name] for name in _WORKLOAD if name in spec.raw})
        workload = {name: _measured(section) for name, section in found.items()}
        return {"workload": workload, "environment": fingerprint()}

    def recorded(self, params: Point) -> Measurement:
        """Return the recorded result of a point; raise LookupError where tests measure."""
        raise LookupError(f"nothing is recorded of {dict(params)}")

    def why_undecided(self, params: Point, question: Question) -> str:  # noqa: ARG002 - all is measured
        """Return why the recorded result of a point does not answer ``question``."""
        return ""


def _measured(section: Any) -> Any:
    """Return a section of a spec without the keys that no measurement depends on."""
    if not isinstance(section, Mapping):
        return section
    return {name: value for name, value in section.items() if name not in _NO_WORKLOAD}


MEASURED: Final = Source()
