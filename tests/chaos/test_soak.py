"""A long study: its processes need no more memory, and no more descriptors, at its end."""

from __future__ import annotations

import pytest
from sizes import size
from soak import soak

TRIALS = size(300, 5000)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_descriptors_do_not_grow(workers: int) -> None:
    found, _ = soak(TRIALS, workers, "random")
    assert len(found) == 1 + workers
    for each in found:
        print(each)  # noqa: T201 - the campaign's figures
        assert each.descriptors[1] <= each.descriptors[0] + 2, each
        # The trials themselves, their reports, and the proposals' memory.
        assert each.kib_per_test < 40, each
