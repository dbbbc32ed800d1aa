"""Tune inference servers and GPU kernels with pytest, and gate their performance in CI."""

from __future__ import annotations

__version__ = "0.1.0"
