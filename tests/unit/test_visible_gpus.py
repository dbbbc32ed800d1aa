"""Which GPUs a run may use, as CUDA reads what its caller left visible."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.gpu import visible as module
from pytest_autotune.gpu.inventory import Inventory
from pytest_autotune.gpu.readings import Gpu, Mig
from pytest_autotune.gpu.visible import (
    ORDER,
    VISIBLE,
    Device,
    VisibleGpus,
    adopt,
    caller_gpus,
    entries,
    read_visible,
    share,
    show,
    show_callers,
)

PROBLEM = "there is no library of the NVIDIA driver"
NOTHING = Inventory(gpus=(), source="none", problem=PROBLEM)


def gpu(index: int, uuid: str, *instances: str) -> Gpu:
    return Gpu(
        index=index,
        uuid=uuid,
        name=f"card {index}",
        memory=80,
        mig=tuple(Mig(uuid=each, name="slice", memory=10) for each in instances),
    )


#: Two whose UUIDs begin alike, and one that is cut into two instances.
CARDS = Inventory(
    gpus=(
        gpu(0, "GPU-aa00"),
        gpu(1, "GPU-ab11"),
        gpu(2, "GPU-cc22", "MIG-c0", "MIG-d1"),
        gpu(3, "GPU-dd33"),
    ),
    source="nvml",
)


#: The cards are of different models, so that numbers mean something in this order only.
PCI = "PCI_BUS_ID"


def keys(visible: str | None, inventory: Inventory = CARDS, order: str | None = PCI) -> list[str]:
    return [device.key for device in read_visible(visible, order, inventory).devices]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process whose caller said nothing, on a machine with the cards above."""
    for name in (VISIBLE, ORDER):
        # Set first, so that it is undone in any case.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    alike = replace(CARDS, gpus=tuple(replace(card, name="card") for card in CARDS.gpus))
    monkeypatch.setattr("pytest_autotune.gpu.visible.inventory", lambda: alike)
    monkeypatch.setattr(module, "_process", module._Process())
    module._visible_gpus.cache_clear()
    yield monkeypatch
    module._visible_gpus.cache_clear()


# What is visible


def test_all_devices_and_instances_are_visible_to_who_was_told_nothing() -> None:
    assert keys(None) == ["GPU-aa00", "GPU-ab11", "MIG-c0", "MIG-d1", "GPU-dd33"]
    visible = [device.visible for device in read_visible(None, None, CARDS).devices]
    assert visible == ["0", "1", "MIG-c0", "MIG-d1", "3"]


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("0", ["GPU-aa00"]),
        ("3,0,1", ["GPU-dd33", "GPU-aa00", "GPU-ab11"]),
        (" 1 , 0 ", ["GPU-ab11", "GPU-aa00"]),
        ("GPU-aa00", ["GPU-aa00"]),
        ("GPU-d,GPU-ab", ["GPU-dd33", "GPU-ab11"]),
        ("MIG-d1,MIG-c0", ["MIG-d1", "MIG-c0"]),
        ("MIG-c,0", ["MIG-c0", "GPU-aa00"]),
        # A card in MIG mode shows its first instance.
        ("2", ["MIG-c0"]),
        ("2,MIG-d1", ["MIG-c0", "MIG-d1"]),
        # What cannot be a device hides itself and all that follow.
        ("0,-1,1", ["GPU-aa00"]),
        ("1,,0", ["GPU-ab11"]),
        ("0,4,1", ["GPU-aa00"]),
        ("0,GPU-ee,1", ["GPU-aa00"]),
        ("0,GPU-a,1", ["GPU-aa00"]),
        ("0,gpu,1", ["GPU-aa00"]),
        ("0,MIG-e,1", ["GPU-aa00"]),
        ("GPU-", []),
        ("-1", []),
        ("", []),
        (",", []),
        (" ", []),
        ("7", []),
        ("none", []),
        ("NoDevFiles", []),
        # Of what begins with a number CUDA reads the number.
        ("01", ["GPU-ab11"]),
        ("+3", ["GPU-dd33"]),
        ("1;0", ["GPU-ab11"]),
        ("0x1,1", ["GPU-aa00", "GPU-ab11"]),
        ("1\n3", ["GPU-ab11"]),
        ("00", ["GPU-aa00"]),
        ("\N{ARABIC-INDIC DIGIT ONE}", []),
        ("99999999999999999999", []),
        # No device is had twice.
        ("0,0,1", ["GPU-aa00", "GPU-ab11"]),
        ("0,GPU-aa00,1", ["GPU-aa00", "GPU-ab11"]),
        ("2,MIG-c0", ["MIG-c0"]),
    ],
)
def test_entries_are_indices_or_beginnings_of_uuids(visible: str, found: list[str]) -> None:
    assert keys(visible) == found


def test_a_card_in_mig_mode_is_one_device_however_it_is_named() -> None:
    # Else two sessions, one by index and one by UUID, would lease the same hardware.
    assert keys("GPU-cc22") == keys("2") == ["MIG-c0"]
    assert keys("GPU-cc22,2,MIG-c0") == ["MIG-c0"]


#: The second of four cards alike is in MIG mode and was given no instance.
EMPTY = Inventory(
    gpus=tuple(
        Gpu(index=n, uuid=f"GPU-{n}", name="card", memory=80, mig_mode=n == 1) for n in range(4)
    ),
    source="nvml",
)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["GPU-0", "GPU-2", "GPU-3"]),
        ("0,2", ["GPU-0", "GPU-2"]),
        # To CUDA it is no device, and hides what follows.
        ("0,1,2", ["GPU-0"]),
        ("2,GPU-1,0", ["GPU-2"]),
        ("1", []),
        ("GPU-1", []),
    ],
)
def test_a_card_in_mig_mode_without_instances_is_none(
    visible: str | None, found: list[str]
) -> None:
    assert keys(visible, EMPTY) == found


def test_a_card_that_cuda_cannot_use_is_named_with_what_to_do() -> None:
    said = (
        "GPU 1 is in MIG mode without an instance, so CUDA cannot use it; make instances "
        "(nvidia-smi mig -cgi PROFILE -C), or turn the mode off (nvidia-smi -mig 0)"
    )
    assert read_visible(None, None, EMPTY).left_out == said
    assert read_visible(None, None, EMPTY).problem == ""
    assert read_visible("0", None, EMPTY).left_out == said
    assert said in read_visible("1", None, EMPTY).problem
    alone = Inventory(gpus=EMPTY.gpus[1:2], source="nvml")
    assert read_visible(None, None, alone).problem == said
    assert read_visible(None, None, CARDS).left_out == ""


def test_devices_go_by_the_names_that_their_caller_uses() -> None:
    first, second, third = read_visible("3,GPU-a,MIG-c", PCI, CARDS).devices[:1] + (
        read_visible("GPU-aa,MIG-c", PCI, CARDS).devices
    )
    assert (first.visible, first.uuid, first.name) == ("3", "GPU-dd33", "card 3")
    assert (second.visible, second.uuid, second.memory) == ("GPU-aa", "GPU-aa00", 80)
    assert (third.visible, third.uuid, third.memory) == ("MIG-c", "MIG-c0", 10)
    assert str(second) == "GPU GPU-aa"
    assert str(first) == "GPU 3"


def test_where_the_machine_is_not_known_every_entry_is_taken_at_its_word() -> None:
    found = read_visible("5,GPU-x,MIG-y,0", None, NOTHING)
    assert found.problem == ""
    assert [(d.key, d.visible, d.uuid) for d in found.devices] == [
        ("index-5", "5", None),
        ("GPU-x", "GPU-x", "GPU-x"),
        ("MIG-y", "MIG-y", "MIG-y"),
        ("index-0", "0", None),
    ]
    assert keys("1,1,-1,2", NOTHING) == ["index-1"]
    assert keys(None, NOTHING) == []


def test_the_order_of_numbers_is_ours_only_where_nobody_asked_for_another() -> None:
    assert read_visible(None, None, CARDS).order == "PCI_BUS_ID"
    assert read_visible(None, "FASTEST_FIRST", CARDS).order is None
    assert read_visible("0", PCI, CARDS).order is None


def test_numbers_that_cuda_may_mean_otherwise_are_refused() -> None:
    for order in (None, "FASTEST_FIRST"):
        pool = read_visible("GPU-aa00,1", order, CARDS)
        assert pool.devices == ()
        assert pool.refusal == (
            "CUDA_VISIBLE_DEVICES='GPU-aa00,1' numbers GPUs of different models, and CUDA counts "
            "those in an order of its own; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID"
        )
        assert keys("GPU-aa00,GPU-dd", order=order) == ["GPU-aa00", "GPU-dd33"]
    alike = Inventory(gpus=(CARDS.gpus[0], replace(CARDS.gpus[1], name="card 0")), source="nvml")
    assert keys("1", alike, None) == ["GPU-ab11"]
    # Of one name, with half of the memory.
    larger = replace(alike.gpus[1], memory=2**34)
    unlike = Inventory(gpus=(replace(alike.gpus[0], memory=2**33), larger), source="nvml")
    assert read_visible("1", None, unlike).refusal


def test_where_cuda_counts_otherwise_devices_are_shown_by_their_uuids() -> None:
    visible = [device.visible for device in read_visible(None, "FASTEST_FIRST", CARDS).devices]
    assert visible == ["GPU-aa00", "GPU-ab11", "MIG-c0", "MIG-d1", "GPU-dd33"]


def test_it_is_said_why_there_is_no_device() -> None:
    assert read_visible(None, None, NOTHING).problem == PROBLEM
    assert read_visible("", None, NOTHING).problem == "CUDA_VISIBLE_DEVICES='' leaves none visible"
    assert read_visible("-1", PCI, CARDS).problem == (
        "CUDA_VISIBLE_DEVICES='-1' leaves none visible (this machine has: 0 GPU-aa00, "
        "1 GPU-ab11, 2 GPU-cc22, 3 GPU-dd33)"
    )
    none = Inventory(gpus=(), source="nvidia-smi", problem="nvidia-smi finds no device")
    assert read_visible("0", None, none).problem == (
        "CUDA_VISIBLE_DEVICES='0' leaves none visible (nvidia-smi finds no device)"
    )
    assert read_visible("0", PCI, CARDS).problem == ""
    # It works, and the tool told; that NVML did not is nobody's problem.
    other = Inventory(gpus=CARDS.gpus, source="nvidia-smi", problem="no nvidia-ml-py")
    assert read_visible(None, None, other).problem == ""


@given(st.lists(st.sampled_from(["0", "1", "x", "-1", "", " ", "GPU-a"]), max_size=6))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_entries_end_before_the_first_that_is_none(parts: list[str]) -> None:
    found = entries(",".join(parts))
    assert found == parts[: len(found)]
    assert all(entry.strip() and entry != "-1" for entry in found)
    assert len(found) == len(parts) or parts[len(found)] in {"-1", "", " "}


def test_entries_are_numbers_as_cuda_reads_them() -> None:
    assert entries("01, +2,3x,GPU-a,x4") == ["1", "2", "3", "GPU-a", "x4"]
    assert entries("0,-1") == entries("000,-0") == ["0"]
    assert [device.visible for device in read_visible("01", PCI, CARDS).devices] == ["1"]


# A pool


def test_the_environment_names_the_devices_and_their_order() -> None:
    pool = read_visible(None, None, CARDS)
    some = (pool.devices[4], pool.devices[0], pool.devices[2])
    assert pool.environment(some) == {VISIBLE: "3,0,MIG-c0", ORDER: "PCI_BUS_ID"}
    assert pool.environment(()) == {VISIBLE: ""}
    caller = read_visible("1,0", PCI, CARDS)
    assert caller.environment(caller.devices[:1]) == {VISIBLE: "1"}


@pytest.mark.parametrize(
    ("visible", "most"), [(None, 3), ("0,3", 2), ("MIG-c0,MIG-d1", 1), ("MIG-c0,0", 1), ("", 0)]
)
def test_a_trial_can_use_whole_cards_or_one_instance(visible: str | None, most: int) -> None:
    assert read_visible(visible, PCI, CARDS).most == most


def test_numbers_and_uuids_are_shown_as_uuids() -> None:
    # CUDA ignores the second kind: one of two leased GPUs would be missing.
    pool = read_visible("1,GPU-d,3", PCI, CARDS)
    assert pool.environment(pool.devices[:2]) == {VISIBLE: "GPU-ab11,GPU-dd33"}
    assert pool.environment(pool.devices[:1]) == {VISIBLE: "1"}
    assert pool.environment(pool.devices[1:]) == {VISIBLE: "GPU-d"}


@pytest.mark.parametrize(
    ("visible", "order"), [(None, None), ("1,GPU-d,MIG-c", None), ("", None), ("9", "PCI_BUS_ID")]
)
@pytest.mark.parametrize("inventory", [CARDS, NOTHING])
def test_a_pool_survives_being_sent(
    visible: str | None, order: str | None, inventory: Inventory
) -> None:
    pool = read_visible(visible, order, inventory)
    assert VisibleGpus.from_document(json.loads(json.dumps(asdict(pool)))) == pool


def test_devices_can_be_asked_for_by_number_or_uuid() -> None:
    pool = read_visible("3,1,GPU-aa", PCI, CARDS)
    assert pool.named(["1", "GPU-dd33"]) == (pool.devices[1], pool.devices[0])
    # Whoever names one twice has one.
    assert pool.named(["GPU-aa", "GPU-aa00"]) == (pool.devices[2],)
    assert pool.named([]) == ()
    assert pool.named(["1", "2"]) is None
    assert pool.named(["GPU-cc22"]) is None
    # Also by the beginning, as everywhere else, if it is that of one.
    assert pool.named(["GPU-d"]) == (pool.devices[0],)
    assert pool.named(["GPU-a"]) is None
    assert read_visible(None, PCI, CARDS).named(["MIG-d", "GPU-aa"]) == (
        Device(key="MIG-d1", visible="MIG-d1", uuid="MIG-d1", name="slice", memory=10),
        Device(key="GPU-aa00", visible="0", uuid="GPU-aa00", name="card 0", memory=80, index=0),
    )
    assert read_visible("4", None, NOTHING).named(["None"]) is None


# Shares


@given(st.integers(0, 17), st.integers(1, 17))
@settings(derandomize=True, max_examples=400, deadline=None)
def test_shares_are_disjoint_complete_and_fair(count: int, workers: int) -> None:
    devices = [Device(key=f"{n}", visible=f"{n}") for n in range(count)]
    shares = [share(devices, workers, worker) for worker in range(workers)]
    # In order, and so contiguous.
    assert [device for part in shares for device in part] == devices
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


# This process


def test_the_callers_pool_stays_the_same_while_something_else_is_shown(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv(VISIBLE, "3,1,0")
    before = caller_gpus()
    assert [device.visible for device in before.devices] == ["3", "1", "0"]
    show(before.environment(before.devices[1:2]))
    assert os.environ[VISIBLE] == "1"
    assert caller_gpus() == before
    show(before.environment(before.devices[2:]))
    assert os.environ[VISIBLE] == "0"
    assert caller_gpus() == before
    show_callers()
    assert os.environ[VISIBLE] == "3,1,0"
    # From then on what the caller changes counts again.
    environment.setenv(VISIBLE, "0")
    assert [device.visible for device in caller_gpus().devices] == ["0"]


@pytest.mark.parametrize("visible", [None, "", "1,0", "-1"])
@pytest.mark.parametrize("order", [None, "FASTEST_FIRST"])
def test_what_was_shown_leaves_no_trace(
    environment: pytest.MonkeyPatch, visible: str | None, order: str | None
) -> None:
    for name, value in ((VISIBLE, visible), (ORDER, order)):
        if value is not None:
            environment.setenv(name, value)
    before = dict(os.environ)
    show({VISIBLE: "1", ORDER: "PCI_BUS_ID"})
    show({VISIBLE: "0"})
    assert (os.environ[VISIBLE], os.environ[ORDER]) == ("0", "PCI_BUS_ID")
    show_callers()
    assert dict(os.environ) == before
    show_callers()
    assert dict(os.environ) == before


def test_a_caller_who_said_nothing_is_remembered_as_such(environment: pytest.MonkeyPatch) -> None:
    show({VISIBLE: "1", ORDER: "PCI_BUS_ID"})
    assert len(caller_gpus().devices) == 5
    show_callers()
    assert VISIBLE not in os.environ
    assert ORDER not in os.environ


def test_a_worker_has_the_pool_of_its_controller(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(VISIBLE, "0")
    theirs = read_visible("3,1", PCI, CARDS)
    adopt(theirs)
    assert caller_gpus() is theirs
    show({VISIBLE: "1"})
    assert caller_gpus() is theirs
    show_callers()
    adopt(None)
    assert [device.visible for device in caller_gpus().devices] == ["0"]


def test_nobody_asks_the_driver_where_no_device_is_wanted(
    environment: pytest.MonkeyPatch,
) -> None:
    def inventory() -> Inventory:
        pytest.fail("asked")

    environment.setattr("pytest_autotune.gpu.visible.inventory", inventory)
    for visible in ("", "-1", ","):
        environment.setenv(VISIBLE, visible)
        assert caller_gpus().devices == ()
        assert caller_gpus().problem == f"CUDA_VISIBLE_DEVICES={visible!r} leaves none visible"


def test_the_driver_is_asked_once(environment: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def inventory() -> Inventory:
        asked.append(None)
        return CARDS

    environment.setattr("pytest_autotune.gpu.visible.inventory", inventory)
    for _ in range(3):
        assert len(caller_gpus().devices) == 5
    assert len(asked) == 1
