"""Search strategies: the protocol, one file each, and how they are found by name."""

from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
from pytest_autotune.strategies.registry import BUILT_IN, ExtensionLookup, make_strategy

__all__ = [
    "BUILT_IN",
    "ExtensionLookup",
    "History",
    "Strategy",
    "StrategyContext",
    "make_strategy",
]
