"""Everything that can go wrong on purpose, with the words the user will read."""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of every error that this package raises deliberately."""


class UserError(AutotuneError):
    """A mistake the user can mend: pytest ends with a usage error (exit status 4)."""


class SpecError(UserError):
    """A tuning spec says something impossible.

    The message already names the file, the JSON pointer, the value and what is allowed.
    """


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


class TrialLostError(AutotuneError):
    """Another process took the trial over, so this process's result does not count."""


class SLOViolation(AutotuneError):
    """The trial is infeasible: at least one hard service level objective is broken.

    ``str()`` of it is the SLO table.
    """


class MissingMetricError(AutotuneError):
    """The trial ended without the metric that the objective needs."""


class TrialPruned(AutotuneError):
    """The trial was given up early, because it cannot win or is saturated."""


class TrialTimeout(AutotuneError):
    """The trial ran past ``optimization.timeout_per_iteration``."""
