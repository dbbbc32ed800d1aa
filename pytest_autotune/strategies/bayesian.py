"""Optuna's TPE, made to work on constrained, discrete and conditional spaces.

TPE itself knows neither constraints between parameters nor that a point was run before. So one
proposal is asked of it per trial and moved to the nearest point that is valid and new; what is
then run and told is that point, never the proposal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.records import Outcome, TrialRecord
from pytest_autotune.space import Categorical, Continuous, Integer, Parameter, Point
from pytest_autotune.strategies.protocol import History, StrategyContext
from pytest_autotune.strategies.unseen import nearest_unseen, random_unseen

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

_CONSTRAINT: Final = "slo"
#: An infeasible trial has no score worth modelling; TPE sorts it by its constraint.
_NO_SCORE: Final = 0.0


class BayesianStrategy:
    """Tree-structured Parzen estimator with Optuna 5's defaults (multivariate, constant liar).

    Hard SLO violations reach it as constraints; crashed trials tell it nothing but are never
    proposed again.
    """

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space
        self._initial = context.optimization.n_initial_random
        self._mirror = _Mirror(context)

    def plan(self) -> None:
        """Nothing is known beforehand."""
        return

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return the valid, unseen point nearest to TPE's proposal."""
        import numpy as np

        rng = np.random.default_rng(seed)
        if history.informative < self._initial or not self._mirror.distributions:
            return random_unseen(self._space, history, rng)
        wanted = self._mirror.ask(history, seed=int(rng.integers(2**31)))
        return nearest_unseen(self._space, wanted, history, rng)


class _Mirror:
    """The history as an in-memory Optuna study, brought up to date at each ask.

    Kept apart from the study in storage: there, a trial is written once, with the parameters
    that are really run, and not one record per parameter.
    """

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space
        self._mirrored: dict[int, tuple[int, Outcome]] = {}

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna distributions of all parameters with more than one value."""
        return {
            p.name: _distribution(p) for p in self._space.parameters if p.size is None or p.size > 1
        }

    @cached_property
    def _study(self) -> OptunaStudy:
        import optuna

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(storage=optuna.storages.InMemoryStorage())
        finally:
            optuna.logging.set_verbosity(verbosity)

    @cached_property
    def _scratch(self) -> FrozenTrial:
        """A running trial without parameters, in whose name the sampler is asked."""
        storage = self._study._storage  # noqa: SLF001 - a sampler's own view of its study
        return storage.get_trial(storage.create_new_trial(self._study._study_id))  # noqa: SLF001

    def ask(self, history: History, seed: int) -> Point:
        """Return TPE's proposal: a value for every parameter, valid or not."""
        from optuna.samplers import TPESampler

        scratch = self._scratch
        for record in history.records:
            self._update(record)
        sampler = TPESampler(seed=seed, n_startup_trials=1)
        internal = sampler.sample_relative(self._study, scratch, dict(self.distributions))
        return {p.name: _external(p, internal.get(p.name, 0)) for p in self._space.parameters}

    def _update(self, record: TrialRecord) -> None:
        known = self._mirrored.get(record.number)
        if known is not None and known[1] is record.outcome:
            return
        storage = self._study._storage  # noqa: SLF001
        if known is not None:
            from optuna.trial import TrialState

            # Attributes are closed with the state, so it was mirrored as running: replace it.
            storage.set_trial_state_values(known[0], TrialState.FAIL)
        mirrored = storage.create_new_trial(
            self._study._study_id,  # noqa: SLF001
            template_trial=self._frozen(record),
        )
        self._mirrored[record.number] = (mirrored, record.outcome)

    def _frozen(self, record: TrialRecord) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        match record.outcome:
            case Outcome.RUNNING:
                state, value, constraints = TrialState.RUNNING, None, None
            case Outcome.FEASIBLE:
                state, value, constraints = TrialState.COMPLETE, record.score, None
            case Outcome.INFEASIBLE:
                state, value = TrialState.COMPLETE, _NO_SCORE
                constraints = {_CONSTRAINT: max(record.violation, 1e-9)}
            case Outcome.PRUNED:
                state, value, constraints = TrialState.PRUNED, record.score, None
            case _:
                state, value, constraints = TrialState.FAIL, None, None
        return create_trial(
            state=state,
            value=value,
            params={
                p.name: _internal(p, record.params.get(p.name))
                for p in self._space.parameters
                if p.name in self.distributions
            },
            distributions=dict(self.distributions),
            constraints=constraints,
        )


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return a parameter's distribution; choices by index, since values may be anything."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter:
        case Categorical(choices=choices):
            return CategoricalDistribution(tuple(range(len(choices))))
        case Integer(low=low, high=high, log=log, step=step):
            return IntDistribution(low, low + (high - low) // step * step, log=log, step=step)
        case Continuous(low=low, high=high, log=log, step=None):
            return FloatDistribution(low, high, log=log)
    return IntDistribution(0, (parameter.size or 1) - 1)


def _internal(parameter: Parameter, value: Any) -> Any:
    """Return a value as its distribution knows it; an inactive parameter counts as its first."""
    match parameter:
        case Categorical():
            return 0 if value is None and None not in parameter.choices else parameter.index(value)
        case Integer():
            return parameter.low if value is None else value
        case Continuous(step=None):
            return parameter.low if value is None else value
    return 0 if value is None else parameter.index(value)


def _external(parameter: Parameter, internal: Any) -> Any:
    if parameter.size == 1:
        return parameter.value(0) if parameter.size else None
    match parameter:
        case Categorical():
            return parameter.value(int(internal))
        case Integer():
            return int(internal)
        case Continuous(step=None):
            return float(internal)
    return parameter.value(int(internal))
