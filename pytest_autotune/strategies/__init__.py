"""Search strategies: the protocol, one file each, and how they are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from pytest_autotune.errors import OptionError
from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
from pytest_autotune.system.interrupts import uninterrupted
from pytest_autotune.text.suggest import did_you_mean

__all__ = [
    "BUILT_IN",
    "ExtensionLookup",
    "History",
    "Strategy",
    "StrategyContext",
    "make_strategy",
]

#: Name to ``module:class``; imported when first asked for.
BUILT_IN: Final[Mapping[str, str]] = {
    "auto": "pytest_autotune.strategies.auto:AutoStrategy",
    "bayesian": "pytest_autotune.strategies.bayesian:BayesianStrategy",
    "grid_search": "pytest_autotune.strategies.grid:GridStrategy",
    "random": "pytest_autotune.strategies.random:RandomStrategy",
}

#: Asked for a name that is not built in; returns None where it does not know it either.
ExtensionLookup = Callable[[str, StrategyContext], Strategy | None]


def make_strategy(
    name: str,
    context: StrategyContext,
    extension: ExtensionLookup | None = None,
    *,
    where: str = "",
) -> Strategy:
    """Make the strategy called ``name``, which is given ``where``.

    A plugin's answer wins over a built-in of the same name. Raises :class:`OptionError`
    listing the known names.
    """
    offered = extension(name, context) if extension is not None else None
    if offered is not None:
        return offered
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        # NumPy cannot be loaded again once that was interrupted.
        with uninterrupted():
            strategy: Strategy = getattr(import_module(module), attribute)(context)
        return strategy
    place = f"{where}: " if where else ""
    raise OptionError(
        f"{place}unknown strategy {name!r}{did_you_mean(name, BUILT_IN)}; "
        f"built in: {', '.join(sorted(BUILT_IN))}; no installed plugin offers it either"
    )
