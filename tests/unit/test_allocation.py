"""Which devices a trial gets, before and after CUDA has started in the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_autotune.errors import LeaseError, TooFewGpusError
from pytest_autotune.gpu import visible as visible_module
from pytest_autotune.gpu.allocation import NONE, Allocator, Need
from pytest_autotune.gpu.leases import FOLDER_VARIABLE, Desk, Lease
from pytest_autotune.gpu.visible import ORDER, VISIBLE, Device, VisibleGpus, adopt, caller_gpus

DEVICES = tuple(Device(key=f"GPU-{n}", visible=str(n), uuid=f"GPU-{n}") for n in range(4))
ALL = VisibleGpus(devices=DEVICES)
ONE, TWO, THREE, FIVE = (Need(count=count) for count in (1, 2, 3, 5))


class Cuda:
    """Whether CUDA has started in this process, and which devices it tells of."""

    def __init__(self) -> None:
        self.runs = False
        self.uuids: tuple[str, ...] = ()

    def __call__(self) -> bool:
        return self.runs


Make: TypeAlias = Callable[..., Allocator]


def _quiet(why: str) -> None:
    pass


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process with four devices, whose caller said nothing."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "locks"))
    for name in (VISIBLE, ORDER):
        # Set first, so that it is undone in any case.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(visible_module, "_process", visible_module._Process())
    adopt(ALL)
    yield
    adopt(None)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    found = Cuda()
    monkeypatch.setattr("pytest_autotune.gpu.cuda.uuids", lambda: found.uuids)
    return found


@pytest.fixture
def make(cuda: Cuda) -> Iterator[Make]:
    with ExitStack() as stack:

        def make_one(
            share: Sequence[Device] | None = None, told: list[str] | None = None
        ) -> Allocator:
            allocator = Allocator(
                share,
                timeout=0.0,
                on_wait=_quiet if told is None else told.append,
                started=cuda,
            )
            stack.callback(allocator.release)
            return allocator

        yield make_one


def take(allocator: Allocator, need: Need) -> Lease:
    lease = allocator.take(need, "trial 1")
    assert lease is not None
    return lease


def visible(allocator: Allocator, need: Need) -> str:
    lease = take(allocator, need)
    assert os.environ[VISIBLE] == lease.visible
    assert allocator.devices == lease.devices
    return lease.visible


# What is taken


def test_a_worker_takes_its_own_share_first_and_then_others(make: Make) -> None:
    own = make(DEVICES[2:])
    assert visible(own, ONE) == "2"
    assert visible(own, TWO) == "2,3"
    assert visible(own, THREE) == "2,3,0"
    assert visible(own, Need(count=None)) == "2,3,0,1"


def test_a_worker_borrows_what_is_free_where_its_own_is_taken(make: Make) -> None:
    first, second = make(DEVICES[:2]), make(DEVICES[2:])
    assert visible(first, THREE) == "0,1,2"
    assert visible(second, ONE) == "3"
    first.release()
    assert visible(second, TWO) == "2,3"


def test_without_a_share_the_first_free_ones_are_taken(make: Make) -> None:
    assert visible(make(), ONE) == "0"
    assert visible(make(()), TWO) == "1,2"
    assert visible(make(), ONE) == "3"


def test_nothing_is_leased_where_nothing_is_needed(make: Make) -> None:
    allocator = make()
    assert allocator.take(NONE, "x") is None
    assert allocator.take(Need(count=0, required=False), "x") is None
    assert allocator.devices == ()
    assert VISIBLE not in os.environ


def test_need_of_all_is_that_of_as_many_as_there_are(make: Make) -> None:
    adopt(VisibleGpus(devices=DEVICES[1:3]))
    assert visible(make(), Need(count=None)) == "1,2"


def test_devices_can_be_had_by_name_only(make: Make) -> None:
    allocator = make(DEVICES[:1])
    assert visible(allocator, Need(named=("3", "GPU-1"))) == "3,1"
    other = make()
    with pytest.raises(LeaseError, match="GPU 3 is held by"):
        other.take(Need(named=("3",)), "x")
    assert visible(other, Need(named=("2",))) == "2"


def test_a_device_named_twice_is_one(make: Make) -> None:
    # As by number and by UUID. It must not be waited for until the time is up.
    assert visible(make(), Need(named=("1", "GPU-1"))) == "1"


def test_names_that_are_not_there_are_an_error(make: Make) -> None:
    with pytest.raises(LeaseError) as caught:
        make().take(Need(named=("1", "7")), "x")
    assert str(caught.value) == "GPUs 1, 7 are asked for, and there are: 0, 1, 2, 3"


def test_too_large_a_need_says_nothing_of_other_trials(make: Make) -> None:
    allocator = make()
    with pytest.raises(TooFewGpusError) as caught:
        allocator.take(FIVE, "x")
    assert str(caught.value) == "the trial needs 5 GPUs, and there are 4 to use"
    adopt(replace(ALL, left_out="GPU 4 is broken"))
    with pytest.raises(TooFewGpusError, match=r"there are 4 to use \(GPU 4 is broken\)$"):
        allocator.take(FIVE, "x")
    assert allocator.devices == ()
    assert VISIBLE not in os.environ
    assert visible(allocator, TWO) == "0,1"


def models(*names: str) -> tuple[Device, ...]:
    """Return whole cards of these models; one whose name has MIG in it is an instance."""
    return tuple(
        Device(
            key=f"{'MIG' if 'MIG' in name else 'GPU'}-{n}",
            visible=str(n),
            uuid=f"{'MIG' if 'MIG' in name else 'GPU'}-{n}",
            name=name,
            memory=80 * 2**30,
        )
        for n, name in enumerate(names)
    )


@pytest.mark.parametrize("runs", [False, True], ids=["before", "after"])
def test_unlike_gpus_are_refused_before_and_after_cuda_has_started(
    make: Make, cuda: Cuda, *, runs: bool
) -> None:
    # After it has, its first device is the fastest, not the first by bus.
    adopt(VisibleGpus(devices=models("L4", "H100", "H100")))
    cuda.runs = runs
    allocator = make()
    for need in (ONE, TWO):
        for ask in (allocator.check, lambda need: allocator.take(need, "x")):
            with pytest.raises(LeaseError) as caught:
                ask(need)
            assert str(caught.value) == (
                "the GPUs are of different models (L4, 80 GiB: 0; H100, 80 GiB: 1, 2), on which "
                "trials cannot be compared; choose one model, for example "
                "CUDA_VISIBLE_DEVICES=GPU-0"
            )
    # All of them are the same ones in every trial, and names are names.
    for need in (THREE, Need(count=None), Need(named=("1",)), NONE):
        allocator.check(need)
    allocator.check(FIVE)
    assert take(allocator, THREE).count == 3


def test_of_one_name_with_another_memory_is_another_model(make: Make) -> None:
    first, second = models("A2000", "A2000")
    adopt(VisibleGpus(devices=(first, replace(second, memory=12 * 2**30))))
    with pytest.raises(LeaseError, match="A2000, 80 GiB: 0; A2000, 12 GiB: 1"):
        make().check(ONE)


def test_several_gpus_are_whole_cards(make: Make) -> None:
    # CUDA shows nothing beside a MIG instance.
    adopt(VisibleGpus(devices=models("MIG 1g", "H100", "H100")))
    allocator = make(models("MIG 1g", "H100"))
    assert visible(allocator, TWO) == "1,2"
    allocator.release()
    assert visible(allocator, Need(count=None)) == "1,2"
    with pytest.raises(TooFewGpusError) as caught:
        make().take(THREE, "x")
    assert str(caught.value) == "the trial needs 3 GPUs, and CUDA uses one MIG instance a process"


def test_waiting_is_limited_and_told(make: Make) -> None:
    first = make()
    take(first, THREE)
    told: list[str] = []
    with pytest.raises(LeaseError, match=r"^no 2 GPUs came free within 0 s"):
        make(told=told).take(TWO, "x")
    assert told == []  # no time for it
    first.release()


# What is kept


def test_the_same_need_keeps_what_is_held(make: Make) -> None:
    allocator = make()
    assert allocator.fits(ONE)
    lease = take(allocator, TWO)
    assert allocator.fits(Need(count=2))
    assert not allocator.fits(ONE)
    assert not allocator.fits(NONE)
    assert not allocator.fits(Need(count=2, required=True))
    again = take(allocator, Need(count=2))
    assert (again.devices, again.waited) == (lease.devices, 0.0)
    assert visible(allocator, ONE) == "0"
    # What it does not need any more is anybody's.
    assert visible(make(), THREE) == "1,2,3"


def test_another_need_gives_back_what_was_held_before_it_asks(make: Make) -> None:
    first, second = make(), make()
    take(first, TWO)
    take(second, TWO)
    with pytest.raises(LeaseError):
        second.take(THREE, "x")
    # Who waited holding something might wait for somebody who waits for him.
    assert second.devices == ()
    assert VISIBLE not in os.environ or os.environ[VISIBLE] == "0,1"
    assert visible(first, Need(count=None)) == "0,1,2,3"


def test_a_need_of_nothing_gives_back_what_was_held(make: Make) -> None:
    allocator = make()
    take(allocator, Need(count=None))
    assert allocator.take(NONE, "x") is None
    assert VISIBLE not in os.environ
    take(make(), Need(count=None))


# The environment


@pytest.mark.parametrize("before", [None, "0,1,2,3", ""])
def test_only_what_is_leased_is_visible_and_only_meanwhile(
    make: Make, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is not None:
        monkeypatch.setenv(VISIBLE, before)
    adopt(VisibleGpus(devices=DEVICES, order="PCI_BUS_ID"))
    allocator = make(DEVICES[1:2])
    for _ in range(2):
        assert visible(allocator, TWO) == "1,0"
        assert os.environ[ORDER] == "PCI_BUS_ID"
        assert visible(allocator, ONE) == "1"
        allocator.release()
        assert os.environ.get(VISIBLE) == before
        assert ORDER not in os.environ
        allocator.release()
    assert os.environ.get(VISIBLE) == before


def test_a_failure_leaves_the_environment_alone(make: Make) -> None:
    take(make(), Need(count=None))
    visible_module.show_callers()
    with pytest.raises(LeaseError):
        make().take(ONE, "x")
    assert VISIBLE not in os.environ


# Once CUDA has started


def test_once_cuda_has_started_there_is_nothing_but_what_it_saw(make: Make, cuda: Cuda) -> None:
    allocator = make(DEVICES[2:])
    assert visible(allocator, TWO) == "2,3"
    cuda.runs = True
    allocator.release()
    # What is visible is what CUDA knows.
    assert os.environ[VISIBLE] == "2,3"
    assert visible(allocator, TWO) == "2,3"
    allocator.release()
    with pytest.raises(TooFewGpusError) as caught:
        allocator.take(THREE, "x")
    assert str(caught.value) == (
        "the trial needs 3 GPUs, but CUDA was started in this process when 2 were visible "
        "(CUDA_VISIBLE_DEVICES=2,3), which cannot be changed; run such trials alone, or in "
        "processes of their own"
    )


def test_once_cuda_has_started_nothing_is_borrowed(make: Make, cuda: Cuda) -> None:
    allocator = make(DEVICES[:1])
    take(allocator, ONE)
    cuda.runs = True
    allocator.release()
    other = Allocator(None, timeout=0.0, on_wait=_quiet, started=lambda: False)
    # Not through the environment of this process, which says what CUDA saw.
    lease = Desk().acquire(DEVICES[:1], 1, purpose="x", timeout=0)
    with pytest.raises(LeaseError, match="GPU 0 is held by"):
        allocator.take(ONE, "x")
    lease.release()
    assert visible(allocator, ONE) == "0"
    assert other.devices == ()


def test_code_that_uses_the_first_device_it_sees_has_leased_that_one(
    make: Make, cuda: Cuda
) -> None:
    # Its share first, then a borrowed one, so not in the order of the pool.
    allocator = make(DEVICES[2:3])
    assert visible(allocator, TWO) == "2,0"
    cuda.runs = True
    allocator.release()
    # CUDA's device 0 is GPU 2 for the life of the process.
    assert take(allocator, ONE).devices == (DEVICES[2],)


def test_what_cuda_saw_stays_what_it_saw_when_less_is_leased_later(make: Make, cuda: Cuda) -> None:
    allocator = make()
    assert visible(allocator, TWO) == "0,1"
    cuda.runs = True
    allocator.release()
    assert take(allocator, ONE).devices == DEVICES[:1]
    allocator.release()
    # Both are still there.
    assert take(allocator, TWO).devices == DEVICES[:2]


def test_cuda_may_have_started_before_anything_was_leased(
    make: Make, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.runs = True
    assert take(make(DEVICES[2:]), ONE).devices == DEVICES[:1]
    visible_module.show_callers()
    monkeypatch.setenv(VISIBLE, "3,-1,1")
    with pytest.raises(TooFewGpusError, match=r"1 were visible \(CUDA_VISIBLE_DEVICES=3,-1,1\)"):
        make().take(TWO, "x")
    assert take(make(DEVICES[:1]), ONE).devices == (DEVICES[3],)
    visible_module.show_callers()
    # Where numbers and UUIDs were given, UUIDs are shown.
    monkeypatch.setenv(VISIBLE, "GPU-2,GPU-1")
    assert take(make(), TWO).devices == (DEVICES[2], DEVICES[1])


def test_the_devices_that_cuda_tells_of_are_taken_in_its_order(make: Make, cuda: Cuda) -> None:
    cuda.runs = True
    # The fastest first, not the first by bus.
    cuda.uuids = ("2", "0", "1")
    assert take(make(DEVICES[:1]), ONE).devices == DEVICES[2:3]
    visible_module.show_callers()
    with pytest.raises(TooFewGpusError, match="when 3 were visible"):
        make().take(Need(count=4), "x")


def test_behind_a_device_that_is_not_ours_there_is_none_to_use(make: Make, cuda: Cuda) -> None:
    # As where code made others visible before it started CUDA.
    cuda.runs = True
    cuda.uuids = ("9", "0")
    with pytest.raises(TooFewGpusError, match="when 0 were visible"):
        make().take(ONE, "x")


def test_uuids_that_nvml_does_not_know_say_nothing(make: Make, cuda: Cuda) -> None:
    # As on a Jetson.
    cuda.runs = True
    cuda.uuids = ("8", "9")
    assert take(make(), ONE).devices == DEVICES[:1]


# Where there is nothing


def test_without_gpus_a_need_is_refused_only_where_nothing_else_will_do(make: Make) -> None:
    adopt(VisibleGpus(problem="no driver"))
    allocator = make(())
    assert allocator.take(TWO, "x") is None
    assert allocator.take(Need(named=("0",)), "x") is None
    assert allocator.take(Need(count=None), "x") is None
    allocator.check(TWO)
    allocator.check(NONE)
    for ask in (allocator.check, lambda need: allocator.take(need, "x")):
        with pytest.raises(LeaseError) as caught:
            ask(Need(count=1, required=True))
        assert str(caught.value) == "the fixture 'gpu' needs one, and there is no GPU: no driver"
    assert VISIBLE not in os.environ
    assert caller_gpus().devices == ()


def test_with_gpus_nothing_is_refused_beforehand(make: Make) -> None:
    for need in (NONE, ONE, FIVE, Need(count=1, required=True)):
        make().check(need)


def test_a_worker_may_be_without_a_share() -> None:
    def lacks(share: Sequence[Device] | None) -> bool:
        return Allocator(share, timeout=0.0, on_wait=_quiet).has_no_share

    assert lacks(())
    assert not lacks(DEVICES[:1])
    # Nobody shared anything out.
    assert not lacks(None)
    adopt(VisibleGpus(problem="no driver"))
    assert not lacks(())
