"""Drawing: a slot gets its trial from its study, and the trial its GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import pytest

from pytest_autotune.errors import AutotuneError, TooFewGpusError, UserError
from pytest_autotune.plugin.active import ActiveTrial, Grant
from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.collect import StudyCollector
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.rename import rename
from pytest_autotune.plugin.resources import Resources
from pytest_autotune.plugin.selection import is_asked_for
from pytest_autotune.plugin.slots import Slot
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.space.sampling import example
from pytest_autotune.strategies import ExtensionLookup
from pytest_autotune.study.claiming import why_over
from pytest_autotune.study.deaths import died_too_often, run_again
from pytest_autotune.study.looks import Look
from pytest_autotune.study.pinned import PinnedStudy
from pytest_autotune.study.protocol import SlotRequest, Stop, Study, Wait
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.trial import Trial

_POLL_SECONDS: Final = 0.1


class OpenStudies:
    """The studies that this process has opened, and the trials that it draws from them."""

    def __init__(  # noqa: PLR0913, PLR0917 - made by TrialRunner
        self,
        config: pytest.Config,
        context: RunContext,
        collector: StudyCollector,
        findings: Findings,
        resources: Resources,
        extension: ExtensionLookup,
    ) -> None:
        self._config = config
        self._context = context
        self._collector = collector
        self._findings = findings
        self._resources = resources
        self._extension = extension
        self._studies: dict[str, Study] = {}
        self._checked: set[str] = set()
        self._seen_again: dict[str, bool] = {}

    def draw(self, slot: Slot, item: pytest.Item) -> ActiveTrial | None:
        """Return the trial of a slot whose first test is ``item``, None where it gets none."""
        tests = self._collector.tests_of(slot)
        if item is not tests[0]:
            # The slot's first tests ran in a worker that crashed. A trial that skips its
            # first tests would be no trial, so the crashed one goes to another slot.
            return None
        study = self._study(slot)
        self._check(slot, study, item)
        request = self._request(slot, study, tests)
        claim = study.claim(request)
        while isinstance(claim, Wait):
            self._resources.idle()
            time.sleep(_POLL_SECONDS)
            claim = study.claim(request)
        if isinstance(claim, Stop):
            if claim is not Stop.DONE_BEFORE:
                self._findings.add_stop(slot.study, claim)
            return None
        look = claim if isinstance(claim, Look) else None
        if isinstance(claim, Look):
            self._findings.add_look(slot.study, claim.document())
            claim = claim.record
        if claim.owner.slot != slot.id:
            rename(tests, slot.id, claim.owner.slot, self._context.scratch)
        trial = Trial(claim, study.plan, study.seed)
        refusal: AutotuneError | None = died_too_often(claim) if look is None else None
        if refusal is None:
            if look is None and claim.owner.attempt > 1:
                announce(self._config, run_again(claim), yellow=True)
            grant, refusal = self._grant(slot, study, claim, trial)
        else:
            grant = Grant()
        limit = study.plan.spec.optimization.timeout_per_iteration
        timed = limit is not None and study.plan.source.measures
        return ActiveTrial(
            slot=slot,
            study=study,
            trial=trial,
            record=claim,
            last=tests[-1],
            grant=grant,
            refusal=refusal,
            look=look,
            # Counted from here, as waiting for a GPU says nothing of the candidate.
            deadline=time.monotonic() + (limit or 0.0) if timed else None,
        )

    def is_over(self, slot: Slot) -> bool:
        """Return whether the study of a slot has no trial for any slot any more, as far as known.

        Raises :class:`UserError` where the storage fails.
        """
        study = self._studies.get(slot.study)
        if not isinstance(study, SearchedStudy):
            return False
        capacity = self._collector.studies[slot.study].outline.capacity
        stop = why_over(study.plan, study.records(), self._context.started, capacity)
        if stop is not None:
            self._findings.add_stop(slot.study, stop)
        return stop is not None

    def _check(self, slot: Slot, study: Study, item: pytest.Item) -> None:
        """Find out before the first trial of a study what would fail every one of them."""
        if slot.study in self._checked:
            return
        spec = study.plan.spec
        need = self._collector.gpu_need(slot, spec, example(spec.space))
        served = "inference_server" in getattr(item, "fixturenames", ())
        self._resources.check(slot.study, spec, need, server=served)
        self._checked.add(slot.study)

    def _grant(
        self, slot: Slot, study: Study, record: TrialRecord, trial: Trial
    ) -> tuple[Grant, TooFewGpusError | None]:
        """Return the GPUs of a trial; one that cannot have them will fail in set-up."""
        try:
            need = self._collector.gpu_need(slot, study.plan.spec, record.params)
            gpus = self._collector.studies[slot.study].gpus
            if gpus is not None and need.count:
                counted = Expression.parse(gpus).names
                trial.reached(name for name in record.params if identifier(name) in counted)
            return self._resources.begin(slot.study, trial, need), None
        except TooFewGpusError as error:
            return Grant(), error
        except UserError:
            if record.stored is not None:
                study.give_back(record)
            raise

    def _study(self, slot: Slot) -> Study:
        nodeid = slot.study
        if nodeid not in self._studies:
            collected = self._collector.studies[nodeid]
            study: Study
            if collected.pin is not None:
                study = PinnedStudy(collected.pin, self._context.session)
            else:
                study = searched = SearchedStudy(
                    collected.plan,
                    self._context.state_directory,
                    session=self._context.session,
                    started=self._context.started,
                    extension=self._extension,
                    names=slot.names,
                )
                self._findings.add_opened(nodeid, searched.id)
            self._studies[nodeid] = study
            self._findings.add_notices(nodeid, study.notices)
        return self._studies[nodeid]

    def _request(self, slot: Slot, study: Study, tests: Sequence[pytest.Item]) -> SlotRequest:
        """Return the request of a slot: where the run selects trials, it stands for its own."""
        narrowed = self._collector.studies[slot.study].narrowed
        rerun = is_asked_for(self._config, tests) or (narrowed and self._sees_again(slot, study))
        return slot.request(rerun=rerun, exact=narrowed, left_out=self._collector.left_out(slot))

    def _sees_again(self, slot: Slot, study: Study) -> bool:
        """Return whether a selection has finished trials only, and so is to see them again.

        Otherwise it goes on with those that are not.
        """
        nodeid = slot.study
        if nodeid not in self._seen_again:
            chosen = [one for one in self._collector.whole_slots(nodeid) if one.ordinal is not None]
            done = sum(study.is_done(one.request()) for one in chosen)
            self._seen_again[nodeid] = done == len(chosen)
            if 0 < done < len(chosen):
                those = "a trial" if done == 1 else f"{done} trials"
                text = f"{those} of the selection finished before, and did not run again"
                self._findings.add_notices(nodeid, [f"{text}; to see one, name its test id"])
        return self._seen_again[nodeid]

    def record_of(self, nodeid: str) -> TrialRecord | None:
        """Return the finished trial of a pinned study, None where there is none."""
        records = self._studies[nodeid].records() if nodeid in self._studies else []
        return next((record for record in records if record.finished), None)

    def close(self) -> None:
        """Leave what is unfinished to the next run, and close all studies."""
        for study in self._studies.values():
            # A trial of a storage that has failed becomes an orphan.
            with suppress(UserError):
                study.leave()
            study.close()
