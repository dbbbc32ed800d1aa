"""The errors that this package raises on purpose, with the words that users read."""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of every error that this package raises deliberately."""


class UserError(AutotuneError):
    """A mistake the user can mend: pytest ends with a usage error (exit status 4)."""


class SpecError(UserError):
    """A tuning spec says something impossible; the message names the place and what is allowed."""


class PolicyError(UserError):
    """The runner's policy cannot be used, or refuses what a spec asks for."""


class ExpressionError(SpecError):
    """A constraint or ``when`` expression does not parse, or fails on a point.

    ``source`` is the expression, where it could be parsed.
    """

    def __init__(self, message: str, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class OptionError(UserError):
    """A command line option or ini value is unusable."""


class StorageError(UserError):
    """The study's storage cannot be opened, locked or understood."""


class ReadOnlyError(StorageError):
    """The study's storage can be read, but not written."""


class RecordingError(UserError):
    """Recorded results cannot be read, or do not fit a spec; the message says what to do."""


class RecordedFailure(AutotuneError):
    """A trial failed when it was recorded, and so fails again."""


class TrialLostError(AutotuneError):
    """Another process took the trial over, so this process's result does not count."""


class OutOfTime(AutotuneError):
    """The time was up before a launch had ended."""


class SLOViolation(AutotuneError):
    """At least one hard service level objective is broken; ``str()`` of it is the SLO table."""


class MissingMetricError(AutotuneError):
    """The trial ended without the metric that the objective needs."""


class TrialPruned(AutotuneError):
    """The trial was given up early, because it cannot win or is saturated.

    ``estimate`` is what is known of its objective all the same, with the user's sign.
    """

    def __init__(self, reason: str = "", estimate: float | None = None) -> None:
        super().__init__(reason)
        self.estimate = estimate


class TrialTimeout(AutotuneError):
    """The trial ran past ``optimization.timeout_per_iteration``."""


class LaunchError(UserError):
    """A server cannot be launched as the spec has it; the message names the place."""


class LoadTestError(UserError):
    """A load test cannot be run as asked; the message says what to do."""


class BenchmarkError(UserError):
    """A callable cannot be timed as asked; the message says what to do."""


class LeaseError(UserError):
    """No GPU is available: there is none, or none became free in time."""


class DeviceError(UserError):
    """The GPU no longer works for this process, and no trial can be blamed."""


class TooFewGpusError(AutotuneError):
    """A trial needs more GPUs than it can have, which says nothing of other trials."""


class ConflictingReportsError(AutotuneError):
    """Two tests of a trial reported different values of one metric."""


class ProcessDiedError(AutotuneError):
    """The process that ran a trial died too often to try it again."""


class InvalidMeasurementError(AutotuneError):
    """The load generator was measured, not the server, which says nothing of a trial."""


class ServerError(AutotuneError):
    """An inference server did not come up, or went away.

    ``kind`` names what happened in a few words; ``str()`` of it adds the details and the end
    of the log.
    """

    kind: str = "server failed"

    def __init__(self, detail: str, log_tail: str = "") -> None:
        self.headline = f"{self.kind}: {detail}"
        text = self.headline
        if log_tail:
            text += "\n" + "\n".join(f"    {line}" for line in log_tail.splitlines())
        super().__init__(text)


class ServerCrashed(ServerError):
    """The server's process ended before it was ready."""

    kind = "server crashed at start"


class ServerOutOfMemory(ServerError):
    """The server was killed for memory, or says that it ran out of it."""

    kind = "server ran out of memory"


class ServerNotReady(ServerError):
    """The server listens, but its health check did not pass in time."""

    kind = "server not ready in time"


class ServerRefused(ServerError):
    """The server runs, but until the deadline nothing listened on its port."""

    kind = "server refused connections"


class ServerDied(ServerError):
    """The server's process ended after it had been ready."""

    kind = "server died"


class EngineError(ServerError):
    """The container engine did not do what it was asked for."""

    kind = "container engine failed"


class ImageMissing(EngineError):
    """The image is not on this machine and cannot be pulled."""

    kind = "image missing"
