"""Optuna's TPE, made to work on constrained, discrete and conditional spaces.

TPE itself knows neither constraints between parameters nor that a point was run before. So one
proposal is asked of it per trial and moved to the nearest point that is valid and new; what is
then run and told is that point, never the proposal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
from pytest_autotune.strategies.unseen import first_unseen, nearest_unseen, random_unseen

_CONSTRAINT: Final = "slo"
_N_START: Final = 10
#: An infeasible trial has no score worth modelling; TPE sorts it by its constraint.
_NO_SCORE: Final = 0.0


class BayesianStrategy(Strategy):
    """Tree-structured Parzen estimator with Optuna 5's defaults (multivariate, constant liar).

    Hard SLO violations reach it as constraints; crashed trials tell it nothing but are never
    proposed again.
    """

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space
        self._initial = context.optimization.n_initial_random or _N_START
        self._hints = context.hints
        self._mirror = _Mirror(context)

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return the valid, unseen point nearest to TPE's proposal."""
        rng = np.random.default_rng(seed)
        hint = first_unseen(self._hints, history)
        if hint is not None:
            return hint
        if history.informative < self._initial or not self._mirror.distributions:
            return random_unseen(self._space, history, rng)
        wanted = self._mirror.ask(history, seed=int(rng.integers(2**31)))
        return nearest_unseen(self._space, wanted, history, rng)


class _Mirror:
    """The history as an in-memory Optuna study, brought up to date at each ask.

    Kept apart from the study in storage: there, a trial is written once, with the parameters
    that are really run, and not one record per parameter. Trials are mirrored in the order of
    their numbers, so that what is asked depends on the history alone.
    """

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space
        self._study: OptunaStudy | None = None
        self._mirrored: dict[tuple[int, float], tuple[int, Outcome]] = {}

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna distributions of all parameters with more than one value."""
        return {
            p.name: p.distribution(searched=True)
            for p in self._space.parameters
            if p.size is None or p.size > 1
        }

    def ask(self, history: History, seed: int) -> Point:
        """Return TPE's proposal: a value for every parameter, valid or not."""
        study = self._study
        # Optuna cannot take a trial back that was replaced by a later measurement.
        if study is None or not self._mirrored.keys() <= {_identity(r) for r in history.records}:
            study = self._study = self._open()
        for record in history.records:
            self._update(study, record)
        sampler = TPESampler(seed=seed, n_startup_trials=1)
        internal = sampler.sample_relative(study, self._scratch, dict(self.distributions))
        return {p.name: p.from_search(internal.get(p.name, 0)) for p in self._space.parameters}

    def _open(self) -> OptunaStudy:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
        finally:
            optuna.logging.set_verbosity(verbosity)
        storage = study._storage  # noqa: SLF001 - a sampler's own view of its study
        # A running trial without parameters, in whose name the sampler is asked.
        scratch = storage.create_new_trial(study._study_id)  # noqa: SLF001
        self._scratch = storage.get_trial(scratch)
        self._mirrored = {}
        return study

    def _update(self, study: OptunaStudy, record: TrialRecord) -> None:
        trial_id, outcome = self._mirrored.get(_identity(record), (None, None))
        if outcome is record.outcome:
            return
        storage = study._storage  # noqa: SLF001
        frozen = self._frozen(record)
        if trial_id is None:
            trial_id = storage.create_new_trial(study._study_id, template_trial=frozen)  # noqa: SLF001
        else:
            for key, value in frozen.system_attrs.items():
                storage.set_trial_system_attr(trial_id, key, value)
            storage.set_trial_state_values(trial_id, frozen.state, frozen.values)
        self._mirrored[_identity(record)] = (trial_id, record.outcome)

    def _frozen(self, record: TrialRecord) -> FrozenTrial:
        value: float | None = None
        constraints: dict[str, float] | None = None
        match record.outcome:
            case Outcome.RUNNING:
                state = TrialState.RUNNING
            case Outcome.FEASIBLE:
                state, value = TrialState.COMPLETE, record.score
            case Outcome.INFEASIBLE:
                state, value = TrialState.COMPLETE, _NO_SCORE
                constraints = {_CONSTRAINT: max(record.violation, 1e-9)}
            case Outcome.PRUNED:
                state, value = TrialState.PRUNED, record.score
            case _:
                state = TrialState.FAIL
        return create_trial(
            state=state,
            value=value,
            params={
                p.name: p.to_search(record.params.get(p.name))
                for p in self._space.parameters
                if p.name in self.distributions
            },
            distributions=dict(self.distributions),
            constraints=constraints,
        )


def _identity(record: TrialRecord) -> tuple[int, float]:
    """Tell a trial that was measured again from the earlier one with its number."""
    return record.number, record.owner.started
