"""The hooks of a process that runs trials, and what they share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.errors import UserError
from pytest_autotune.gpu.health import DeviceHealth
from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.cases import CaseHooks
from pytest_autotune.plugin.code import CodeWatcher
from pytest_autotune.plugin.collect import StudyCollector
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.device_guard import DeviceGuard
from pytest_autotune.plugin.distributed import Reporter, register_controller
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.interrupts import InterruptHooks
from pytest_autotune.plugin.judge import TrialJudge
from pytest_autotune.plugin.planning import prepare
from pytest_autotune.plugin.policy import PolicyHooks
from pytest_autotune.plugin.resources import Resources
from pytest_autotune.plugin.run import TrialRunner
from pytest_autotune.plugin.terminal import StudyReporter
from pytest_autotune.spec.loading import load_all
from pytest_autotune.strategies import Strategy, StrategyContext
from pytest_autotune.study.pinned import Pins
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.storage import check_database
from pytest_autotune.system.masking import Masker

if TYPE_CHECKING:
    from pytest_autotune.plugin.lock import Locker


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The hooks of a process that runs trials: the only one, or an xdist worker."""

    findings: Findings
    masker: Masker
    collector: StudyCollector
    runner: TrialRunner

    @classmethod
    def register(
        cls,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        reporter: Reporter | None,
        pins: Pins | None = None,
    ) -> Tuning:
        """Register the hooks; with ``pins`` nothing is searched, and what is pinned runs once.

        ``reporter`` takes over the findings at the end, where it is in this process.
        """
        findings, masker = Findings(), Masker()
        masker.learn(os.environ)

        def extension(name: str, of: StrategyContext) -> Strategy | None:
            strategy: Strategy | None = config.hook.pytest_autotune_make_strategy(
                config=config, name=name, context=of
            )
            return strategy

        code = CodeWatcher(config.rootpath, config.pluginmanager)
        collector = StudyCollector(
            config, settings, context, findings, masker, extension, code, pins
        )
        resources = Resources(
            context,
            config.rootpath,
            masker,
            gpu_timeout=settings.gpu_timeout,
            brief=pins is not None and pins.brief,
            notice=lambda study, text: findings.add_notices(study, [text]),
            on_wait=lambda text: announce(config, f"autotune: {text}", yellow=True),
        )
        health = DeviceHealth()
        runner = TrialRunner(
            config, context, collector, findings, resources, extension, reporter, health
        )
        guard = DeviceGuard(context, collector, runner, health, pinned=pins is not None)
        judge = TrialJudge(config, runner, findings, masker, code, health)
        config.pluginmanager.register(code, "autotune-code")
        config.pluginmanager.register(InterruptHooks(), "autotune-interrupts")
        config.pluginmanager.register(collector, "autotune-collector")
        config.pluginmanager.register(runner, "autotune-runner")
        # Within the hooks of the judge, and around those of the runner.
        config.pluginmanager.register(guard, "autotune-device-guard")
        config.pluginmanager.register(judge, "autotune-judge")
        config.pluginmanager.register(CaseHooks(runner), "autotune-cases")
        if context.policies:
            policy = PolicyHooks(context.policies, collector, findings)
            config.pluginmanager.register(policy, "autotune-policy")
        return cls(findings=findings, masker=masker, collector=collector, runner=runner)


def register(config: pytest.Config, settings: Settings) -> None:
    """Register the hooks of a tuning run in this process."""
    context = RunContext.of(config)
    reporter = None
    if not context.is_worker:
        try:
            locker = _check(config, settings, context)
        except UserError:
            context.cleanup()
            raise
        reporter = StudyReporter(config, settings, context, locker)
        config.pluginmanager.register(reporter, "autotune-report")
        register_controller(config, settings, context, reporter)
    Tuning.register(config, settings, context, reporter)


def _check(config: pytest.Config, settings: Settings, context: RunContext) -> Locker | None:
    """Check the run before anything starts; return the locker, if results are to be pinned."""
    for spec in load_all(config.rootpath):
        prepare(spec, settings)
    if config.option.collectonly:
        return None
    if settings.storage:
        context.policies.check_storage(settings.storage, "--autotune-storage")
        check_database(settings.storage)
    if settings.record is not None:
        from pytest_autotune.replay.recorder import check_target

        check_target(settings.record)
    if not settings.lock:
        return None
    from pytest_autotune.plugin.lock import Locker

    return Locker(config, settings, context)
