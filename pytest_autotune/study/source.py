"""Where the results of a study come from: its tests measure them here, or they are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from pytest_autotune.scoring.judgement import Measurement
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


class Source(Protocol):
    """Where the results of a study come from."""

    @property
    def measures(self) -> bool:
        """Whether the study's tests run."""

    @property
    def file(self) -> str:
        """The file of recorded results, empty where tests measure."""

    @property
    def description(self) -> str:
        """The source, for people."""

    @property
    def arguments(self) -> Sequence[str]:
        """Arguments that repeat the choice on the command line."""

    @property
    def suffix(self) -> str:
        """The end of the names of its studies."""

    def key(self, spec: Spec) -> Mapping[str, Any]:
        """Return what identifies comparable results."""

    def recorded(self, params: Point) -> Measurement:
        """Return the recorded result of a point; only where nothing is measured."""


class Measured:
    """Results that the study's own tests measure, on this machine."""

    measures = True
    file = ""
    description = ""
    arguments = ()
    suffix = ""

    def key(self, spec: Spec) -> Mapping[str, Any]:
        """Return the workload and the environment."""
        found = {name: spec.raw[name] for name in _WORKLOAD if name in spec.raw}
        return {"workload": without_secrets(found), "environment": fingerprint()}

    def recorded(self, params: Point) -> Measurement:
        """Fail, as tests measure."""
        raise LookupError(f"nothing is recorded of {dict(params)}")


MEASURED: Final = Measured()
