"""A spec becomes a plan: fitted to this machine, or to the results that it is replayed from."""

from __future__ import annotations

from pytest_autotune.spec.model import Spec
from pytest_autotune.study.code import Code
from pytest_autotune.study.machine import fit_to_machine, is_measured, on_this_machine
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.source import MEASURED


def prepare(spec: Spec, settings: Settings) -> Spec:
    """Return ``spec`` with this machine's numbers, unless its results are replayed."""
    return on_this_machine(spec) if is_measured(spec, settings) else spec


def make_plan(
    nodeid: str,
    spec: Spec,
    settings: Settings,
    *,
    gpus: str | None = None,
    code: Code | None = None,
) -> Plan:
    """Return the plan of a study, whose ``spec`` is prepared.

    ``gpus`` is how many its tests need, as an expression over parameters; ``code`` is what is
    known of its code. Raises :class:`UserError` where nothing of the spec's space is left.
    """
    source = MEASURED
    if is_measured(spec, settings):
        spec = fit_to_machine(spec, gpus)
    else:
        from pytest_autotune.replay.source import replayed

        spec, source = replayed(spec, settings)
    return Plan.make(nodeid, spec, settings, source=source, code=code)
