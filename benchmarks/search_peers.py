"""Other searches that ``search.py`` compares ours with, each on the same tables.

All get the same terms: an evaluation is paid for once, a failed one like any other; what does not
exist or was evaluated before is free, but asks are limited. Evaluations that break the SLO are
told as such where the peer has a word for it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from search_spaces import Digits, Table, Trace, drive

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

#: The score of what ran and broke the SLO: sorted by its constraint, it needs none.
_NO_SCORE: Final = 0.0
_CONSTRAINT: Final = "slo"


class RandomProposer:
    """Draws rows without replacement."""

    def __init__(self, table: Table, seed: int) -> None:
        self._table = table
        self._rows = iter(np.random.default_rng(seed).permutation(len(table)).tolist())

    def ask(self) -> Digits | None:
        """Return the next row."""
        return tuple(self._table.digits[next(self._rows)].tolist())

    def tell(self, row: int | None) -> None:
        """Learn nothing."""


class OptunaProposer:
    """One of Optuna's samplers, every parameter categorical.

    With ``ordinal`` those whose values are in order are the whole numbers of their places.
    Failures, and combinations that do not exist, are told as failed. With ``snap`` a proposal is
    moved to the nearest row that was not evaluated; as Optuna takes no result for another point
    than it proposed, its trial is told as failed, and one with that row is added.
    """

    def __init__(
        self,
        table: Table,
        sampler: BaseSampler,
        seed: int,
        *,
        snap: bool,
        ordinal: bool = False,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._table = table
        self._sampler = sampler
        self._snap = snap
        self._seen = np.zeros(len(table), dtype=bool)
        self._rng = np.random.default_rng(seed)
        self._study = optuna.create_study(sampler=sampler)
        self._values = {
            name: tuple(range(len(values))) if ordinal and ordered else values
            for (name, values), ordered in zip(table.parameters.items(), table.ordered, strict=True)
        }
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1)
            if ordinal and ordered
            else optuna.distributions.CategoricalDistribution(values)
            for (name, values), ordered in zip(self._values.items(), table.ordered, strict=True)
        }

    def ask(self) -> Digits | None:
        """Ask, and snap."""
        self._trial = self._study.ask(self._distributions)
        params = self._trial.params
        digits = tuple(values.index(params[name]) for name, values in self._values.items())
        if not self._snap:
            return digits
        row = self._settle(digits)
        return None if row is None else tuple(self._table.digits[row].tolist())

    def _settle(self, digits: Digits) -> int | None:
        return self._table.nearest(digits, self._seen, self._rng)

    def tell(self, row: int | None) -> None:
        """Tell what the point that was run came to."""
        from optuna.trial import TrialState, create_trial

        if row is not None:
            self._seen[row] = True
        if not self._snap:
            self._tell_trial(row)
            return
        assert row is not None
        # The proposal is forgotten, the point that was run is added in its place.
        self._study.tell(self._trial, state=TrialState.FAIL)
        state, value, amount = self._verdict(row)
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params={
                    name: values[digit]
                    for (name, values), digit in zip(
                        self._values.items(), self._table.digits[row].tolist(), strict=True
                    )
                },
                distributions=self._distributions,
                constraints=None if amount is None else {_CONSTRAINT: amount},
            )
        )

    def _tell_trial(self, row: int | None) -> None:
        from optuna.trial import TrialState

        if row is None:
            self._study.tell(self._trial, state=TrialState.FAIL)
            return
        state, value, amount = self._verdict(row)
        if amount is not None:
            self._trial.set_constraint(_CONSTRAINT, amount)
        self._study.tell(self._trial, value, state=state)

    def _verdict(self, row: int) -> tuple[Any, float | None, float | None]:
        """Return the state, the value and by how much the SLO is broken."""
        from optuna.trial import TrialState

        if self._table.failed[row]:
            return TrialState.FAIL, None, None
        amount = float(self._table.violation[row]) if self._table.bounded else None
        return TrialState.COMPLETE, float(self._table.score[row]), amount


class ReferenceProposer(OptunaProposer):
    """The reference's Bayesian strategy: univariate TPE, perturbed where it repeats itself.

    Five random points first. A duplicate is changed up to ten times in one parameter, drawn at
    random, to another of its values (in a table all are lists of values; ranges, which it moves
    by 1 to 5 %, or by 1 or 2 where they are of whole numbers, do not occur); what is still a
    duplicate is run again. Results are told to the point that was run, which the reference
    itself gets wrong. It knows no constraints: what does not exist is moved to the nearest row,
    which is more generous than having it draw again, as that stalls wherever few points exist.
    """

    _TRIES: Final = 10

    def __init__(self, table: Table, seed: int) -> None:
        from optuna.samplers import TPESampler

        sampler = TPESampler(seed=seed, n_startup_trials=5, multivariate=False, constant_liar=False)
        super().__init__(table, sampler, seed, snap=True)

    def _settle(self, digits: Digits) -> int | None:
        row = self._existing(digits)
        for _ in range(self._TRIES):
            if not self._seen[row]:
                break
            changed = list(self._table.digits[row].tolist())
            at = int(self._rng.choice(np.flatnonzero(self._table.sizes > 1)))
            others = [value for value in range(self._table.sizes[at]) if value != changed[at]]
            changed[at] = int(self._rng.choice(others))
            row = self._existing(tuple(changed))
        return row

    def _existing(self, digits: Digits) -> int:
        row = self._table.row_of.get(digits)
        if row is None:
            row = self._table.nearest(digits, np.zeros(len(self._table), dtype=bool), self._rng)
        assert row is not None
        return row


# Kernel Tuner -------------------------------------------------------------------------------


#: Kernel Tuner answers repetitions from its cache, so it may make many more of them; and a time
#: limit, in seconds, for what proposes nothing at all any more.
_CALLS_PER_EVALUATION: Final = 50
_KERNEL_TUNER_SECONDS: Final = 10


@functools.lru_cache(maxsize=8)
def _cache_text(table: Table) -> str:
    """Return a table as one of Kernel Tuner's cache files, in which every run is over."""
    timings = dict.fromkeys(
        ("compile_time", "verification_time", "benchmark_time", "strategy_time", "framework_time"),
        0,
    )
    entries = {}
    for row in range(len(table)):
        point = table.point(row)
        result: dict[str, Any] = {**point, **timings, "timestamp": ""}
        if table.feasible[row]:
            result[table.objective] = float(table.columns[table.objective][row])
        else:
            # It knows no constraints on results, so what breaks the SLO is a failure.
            result["__error__"] = "RuntimeFailedConfig"
        entries[",".join(map(str, point.values()))] = result
    return json.dumps({
        "device_name": "table",
        "kernel_name": table.name,
        "problem_size": [1],
        "tune_params_keys": list(table.parameters),
        "tune_params": {name: list(values) for name, values in table.parameters.items()},
        "objective": table.objective,
        "cache": entries,
    })  # fmt: skip


def _kernel_tuner(strategy: str, table: Table, budget: int, seed: int) -> Trace:
    """Run one of Kernel Tuner's strategies in its simulation mode."""
    import kernel_tuner
    from kernel_tuner.util import StopCriterionReached

    began = time.perf_counter()
    most = min(budget, len(table))
    allowed = {tuple(table.point(row).values()) for row in range(len(table))}
    calls = 0

    def exists(point: Mapping[str, Any]) -> bool:
        return tuple(point[name] for name in table.parameters) in allowed

    def count(_point: Mapping[str, Any]) -> int:
        nonlocal calls
        calls += 1
        if calls > _CALLS_PER_EVALUATION * most:
            raise StopCriterionReached
        return calls

    # What it draws from; there is no other way to seed it.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    with tempfile.TemporaryDirectory(prefix="kernel-tuner-") as folder:
        cache = Path(folder) / "cache.json"
        cache.write_text(_cache_text(table), "utf-8")
        results, _ = kernel_tuner.tune_kernel(
            table.name, "__global__ void kernel() {}", (1,), [],
            {name: list(values) for name, values in table.parameters.items()},
            lang="CUDA", restrictions=[exists], strategy=strategy,
            strategy_options={"max_fevals": most, "time_limit": _KERNEL_TUNER_SECONDS},
            cache=str(cache), simulation_mode=True, quiet=True, metrics={"calls": count},
            objective=table.objective, objective_higher_is_better=table.maximize,
        )  # fmt: skip
    index = [(name, values.index) for name, values in table.parameters.items()]
    rows = dict.fromkeys(
        table.row_of[tuple(at(result[name]) for name, at in index)] for result in results
    )
    return Trace(
        rows=tuple(rows),
        budget=budget,
        seconds=time.perf_counter() - began,
        stalled=len(rows) < most,
    )


# The list -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A way of searching.

    ``search`` takes the table, the budget and the seed. ``needs`` are modules, by the package to
    install. What is expensive has a ``budget`` of its own and fewer ``seeds``; ``weight`` is what
    an evaluation costs, in ms, to schedule by.
    """

    name: str
    search: Callable[[Table, int, int], Trace]
    needs: Mapping[str, str]
    budget: int = 1000
    seeds: int = 1000
    weight: float = 1.0
    quick: bool = True

    @property
    def missing(self) -> Sequence[str]:
        """The packages that are not installed."""
        return [
            package for module, package in self.needs.items()
            if importlib.util.find_spec(module) is None
        ]  # fmt: skip


def _random(table: Table, budget: int, seed: int) -> Trace:
    return drive(RandomProposer(table, seed), table, budget)


def _tpe(table: Table, budget: int, seed: int) -> Trace:
    from optuna.samplers import TPESampler

    return drive(OptunaProposer(table, TPESampler(seed=seed), seed, snap=False), table, budget)


def _tpe_snapped(table: Table, budget: int, seed: int) -> Trace:
    from optuna.samplers import TPESampler

    return drive(OptunaProposer(table, TPESampler(seed=seed), seed, snap=True), table, budget)


def _reference(table: Table, budget: int, seed: int) -> Trace:
    return drive(ReferenceProposer(table, seed), table, budget)


def _gaussian(table: Table, budget: int, seed: int, *, ordinal: bool) -> Trace:
    """Search with a Gaussian process; whether it does better knowing of order varies by space."""
    import torch
    from optuna.samplers import GPSampler

    torch.set_num_threads(1)
    sampler = GPSampler(seed=seed, deterministic_objective=True)
    proposer = OptunaProposer(table, sampler, seed, snap=True, ordinal=ordinal)
    return drive(proposer, table, budget)


_OPTUNA: Final = {"optuna": "optuna"}
_TORCH: Final = {**_OPTUNA, "torch": "torch", "scipy": "scipy"}
_TUNER: Final = {"kernel_tuner": "kernel-tuner"}
PEERS: Final = (
    Peer(name="random", search=_random, needs={}),
    Peer(name="tpe", search=_tpe, needs=_OPTUNA, weight=30),
    Peer(name="tpe-snapped", search=_tpe_snapped, needs=_OPTUNA, weight=15),
    Peer(name="reference", search=_reference, needs=_OPTUNA, weight=20),
    *(
        Peer(
            name=name,
            search=functools.partial(_gaussian, ordinal=ordinal),
            needs=_TORCH,
            budget=50,
            seeds=8,
            weight=200,
            quick=False,
        )
        for name, ordinal in (("gp", False), ("gp-ordinal", True))
    ),
    *(
        Peer(
            name=name,
            search=functools.partial(_kernel_tuner, strategy),
            needs=_TUNER,
            weight=8,
            quick=strategy == "genetic_algorithm",
        )
        for name, strategy in (
            ("kt-genetic", "genetic_algorithm"),
            ("kt-annealing", "simulated_annealing"),
            ("kt-diff-evo", "diff_evo"),
            ("kt-greedy-ils", "greedy_ils"),
        )
    ),
)
