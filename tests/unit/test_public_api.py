"""The public names of the package: few, there, and loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_autotune


def test_every_public_name_is_there_and_documented() -> None:
    names = pytest_autotune.__all__
    assert names == sorted(names, key=lambda name: (name.islower(), name))
    assert len(names) <= 60
    for name in names:
        assert getattr(pytest_autotune, name).__doc__, name
        assert name in dir(pytest_autotune)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pytest_autotune.nothing


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("__version__", "pytest_autotune.errors"),
        ("TrialPruned", "pytest_autotune.scoring"),
        ("read_lock", "pytest"),
        ("Strategy", "optuna"),
    ],
)
def test_a_name_loads_only_its_own_place(name: str, absent: str) -> None:
    code = (
        f"import sys, pytest_autotune; pytest_autotune.{name}; assert {absent!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
