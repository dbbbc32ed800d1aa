"""The devices of a machine: from NVML, else from nvidia-smi, else none and why."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_nvml import Asked, FakeNvml

from pytest_autotune.gpu import inventory as module
from pytest_autotune.gpu.inventory import Inventory, driver_version, inventory
from pytest_autotune.gpu.readings import Gpu, Mig

PACKAGE = "nvidia-ml-py is not installed; pip install 'pytest-autotune[gpu]'"
MISMATCH = (
    "the NVIDIA driver and its library are of different versions (driver was updated?); "
    "reboot or reload the kernel module"
)
QUERY = """\
0, GPU-4c0a1f5e-0000-0000-0000-000000000000, NVIDIA A100-SXM4-40GB, 40960
1, GPU-4c0a1f5e-0000-0000-0000-000000000001, NVIDIA A100-SXM4-40GB, 40960
"""
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-4c0a1f5e-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-4c0a1f5e-0000-0000-0000-000000000001)
"""
MIG_LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-4c0a1f5e-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-4c0a1f5e-0000-0000-0000-000000000001)
  MIG 3g.20gb     Device  0: (UUID: MIG-11c29e81-e611-50b5-b5ef-609c0a0fe58b)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-GPU-4c0a1f5e-0000-0000-0000-000000000001/7/0)
"""
MISMATCH_OUTPUT = """\
Failed to initialize NVML: Driver/library version mismatch
NVML library version: 570.86
"""

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """Neither what other tests found here, nor here what they will find."""
    inventory.cache_clear()
    driver_version.cache_clear()
    yield
    inventory.cache_clear()
    driver_version.cache_clear()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with no tool in it yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def install(tools: Path) -> Install:
    """Install an nvidia-smi: ``install(query, listing)``, or with shell lines of its own."""

    def install(
        query: str = QUERY,
        listing: str = LISTING,
        *,
        driver: str = "550.54.15\n",
        modes: str = "",
        body: str = "",
    ) -> None:
        tool = tools / "nvidia-smi"
        tool.write_text(f"""#!/bin/sh
PATH=/usr/bin:/bin
{body}
case "$*" in
-L) printf %s {shlex.quote(listing)} ;;
"--query-gpu=driver_version --format=csv,noheader") printf %s {shlex.quote(driver)} ;;
"--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits")
    printf %s {shlex.quote(query)} ;;
"--query-gpu=uuid,mig.mode.current --format=csv,noheader") printf %s {shlex.quote(modes)} ;;
*) echo "Invalid combination of input arguments."; exit 2 ;;
esac
""")
        tool.chmod(0o755)

    return install


def ask(fake: FakeNvml) -> Inventory:
    with Asked(fake.environment) as asked:
        found = asked.ask("inventory()")
    assert isinstance(found, Inventory)
    return found


def test_nvml_tells_if_it_can(fake: FakeNvml, install: Install) -> None:
    install(body="exit 1")
    with Asked(fake.environment) as asked:
        found = asked.ask("inventory()")
        assert asked.ask("driver_version()") == "570.86.15"
    assert found.source == "nvml"
    assert len(found.gpus) == 8
    assert found.problem == ""


def test_mig_instances_come_along(fake: FakeNvml, tools: Path) -> None:
    fake.set("devices", 2)
    fake.set("0.mig", 3)
    assert [len(gpu.mig) for gpu in ask(fake).gpus] == [3, 0]


def test_a_working_driver_without_devices_is_a_problem(fake: FakeNvml, install: Install) -> None:
    install()
    fake.set("devices", 0)
    assert ask(fake) == Inventory(
        gpus=(),
        source="nvml",
        problem="the NVIDIA driver works, but there is no device it could use",
    )


def test_nvml_is_asked_once(fake: FakeNvml, tools: Path) -> None:
    with Asked(fake.environment) as asked:
        assert len(asked.ask("inventory()").gpus) == 8
        fake.set("devices", 1)
        assert len(asked.ask("inventory()").gpus) == 8
        asked.do("inventory.cache_clear()")
        assert len(asked.ask("inventory()").gpus) == 1


def test_an_updated_driver_is_a_clear_problem_said_once(fake: FakeNvml, install: Install) -> None:
    fake.set("init_error", 18)
    install(body=f"printf %s {shlex.quote(MISMATCH_OUTPUT)}; exit 18")
    assert ask(fake) == Inventory(gpus=(), source="none", problem=MISMATCH)


def test_where_nvml_fails_the_tool_tells_and_the_problem_says_why(
    fake: FakeNvml, install: Install
) -> None:
    fake.set("init_error", 4)
    install()
    found = ask(fake)
    assert found.source == "nvidia-smi"
    assert len(found.gpus) == 2
    assert found.problem.startswith("this user may not use the NVIDIA driver")


@pytest.mark.usefixtures("tools", "without_package")
def test_with_neither_package_nor_tool_there_is_nothing_and_both_are_named() -> None:
    assert inventory() == Inventory(
        gpus=(), source="none", problem=f"{PACKAGE} (and there is no nvidia-smi either)"
    )
    assert driver_version() is None


@pytest.mark.usefixtures("without_package")
def test_the_tool_tells_of_devices_without_the_package(install: Install) -> None:
    install()
    assert inventory() == Inventory(
        gpus=(
            Gpu(
                index=0,
                uuid="GPU-4c0a1f5e-0000-0000-0000-000000000000",
                name="NVIDIA A100-SXM4-40GB",
                memory=40 * 2**30,
            ),
            Gpu(
                index=1,
                uuid="GPU-4c0a1f5e-0000-0000-0000-000000000001",
                name="NVIDIA A100-SXM4-40GB",
                memory=40 * 2**30,
            ),
        ),
        source="nvidia-smi",
        problem=PACKAGE,
    )
    assert driver_version() == "550.54.15"


@pytest.mark.usefixtures("without_package")
def test_the_tool_tells_of_mig_instances(install: Install) -> None:
    install(QUERY, MIG_LISTING)
    first, second = inventory().gpus
    assert first.mig == ()
    assert second.mig == (
        Mig(
            uuid="MIG-11c29e81-e611-50b5-b5ef-609c0a0fe58b",
            name="NVIDIA A100-SXM4-40GB MIG 3g.20gb",
            memory=0,
        ),
        Mig(
            uuid="MIG-GPU-4c0a1f5e-0000-0000-0000-000000000001/7/0",
            name="NVIDIA A100-SXM4-40GB MIG 1g.5gb+me",
            memory=0,
        ),
    )


@pytest.mark.usefixtures("without_package")
def test_the_tool_tells_of_mig_mode_without_instances(install: Install) -> None:
    names = [line.split(",")[1].strip() for line in QUERY.splitlines()]
    install(modes=f"{names[0]}, Enabled\n{names[1]}, [N/A]\n")
    assert [gpu.mig_mode for gpu in inventory().gpus] == [True, False]


@pytest.mark.usefixtures("without_package")
def test_devices_are_known_even_if_their_instances_are_not(install: Install) -> None:
    install(body='[ "$1" = -L ] && exit 9')
    assert [gpu.mig for gpu in inventory().gpus] == [(), ()]


@pytest.mark.usefixtures("without_package")
def test_warnings_among_the_devices_are_passed_over(install: Install) -> None:
    install(f"{QUERY}WARNING: infoROM is corrupted at gpu 0000:07:00.0\n")
    assert len(inventory().gpus) == 2


@pytest.mark.usefixtures("without_package")
def test_a_device_that_shares_the_memory_of_the_host_has_none(install: Install) -> None:
    install("0, GPU-1, NVIDIA GB10, [N/A]\n")
    (gpu,) = inventory().gpus
    assert gpu.memory == 0


@pytest.mark.usefixtures("without_package")
def test_a_jetson_has_a_uuid_of_another_form(install: Install) -> None:
    install("0, 54dcf7d7-d4ba-5c82-8f0e-9b5d9f2ad2a8, Orin (nvgpu), [N/A]\n")
    (gpu,) = inventory().gpus
    assert (gpu.name, gpu.uuid) == ("Orin (nvgpu)", "54dcf7d7-d4ba-5c82-8f0e-9b5d9f2ad2a8")


@pytest.mark.usefixtures("tools", "without_package")
def test_a_jetson_without_nvml_is_told_how_to_name_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TEGRA", tmp_path / "nv_tegra_release")
    assert "Jetson" not in inventory().problem
    (tmp_path / "nv_tegra_release").write_text("# R35 (release)\n")
    inventory.cache_clear()
    assert "on a Jetson before JetPack 6 set CUDA_VISIBLE_DEVICES=0" in inventory().problem


@pytest.mark.usefixtures("without_package")
def test_the_tool_of_wsl_is_found_where_path_does_not_name_it(
    install: Install, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert inventory().gpus == ()
    monkeypatch.setattr(module, "_WSL", tools)
    inventory.cache_clear()
    assert len(inventory().gpus) == 2
    assert driver_version() == "550.54.15"


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize("status", [0, 6])
def test_the_tool_may_find_no_device(install: Install, status: int) -> None:
    install(body=f"echo No devices were found; exit {status}")
    assert inventory() == Inventory(
        gpus=(), source="nvidia-smi", problem=f"nvidia-smi finds no device (and NVML: {PACKAGE})"
    )
    assert driver_version() is None


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize("status", [18, 255])
def test_an_updated_driver_is_told_from_what_the_tool_says(install: Install, status: int) -> None:
    install(body=f"printf %s {shlex.quote(MISMATCH_OUTPUT)}; exit {status}")
    assert inventory().source == "none"
    assert inventory().problem == f"{MISMATCH} (and NVML: {PACKAGE})"
    assert driver_version() is None


@pytest.mark.usefixtures("without_package")
def test_a_driver_that_is_not_loaded_is_told_from_the_status(install: Install) -> None:
    install(body="echo NVIDIA-SMI has failed because it couldn\\'t communicate; exit 9")
    assert inventory().problem.startswith("the NVIDIA driver is not loaded")


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            "echo Unable to determine the device handle; exit 255",
            "nvidia-smi failed (status 255): Unable to determine the device handle",
        ),
        ("echo broken pipe >&2; exit 3", "nvidia-smi failed (status 3): broken pipe"),
        ("exit 1", "nvidia-smi failed (status 1)"),
        (
            "echo '<html>404</html>'; exit 0",
            "nvidia-smi did not answer with a list of devices: '<html>404</html>'",
        ),
        (
            "printf 'a, b, c, d, e\\n0, x, y, 1, z\\n'; exit 0",
            "nvidia-smi did not answer with a list of devices: 'a, b, c, d, e'",
        ),
        (
            "printf '\\377\\n'; exit 0",
            "nvidia-smi did not answer with a list of devices: '\N{REPLACEMENT CHARACTER}'",
        ),
    ],
)
def test_an_answer_that_is_none_is_quoted(install: Install, body: str, problem: str) -> None:
    install(body=body)
    assert inventory() == Inventory(
        gpus=(), source="none", problem=f"{problem} (and NVML: {PACKAGE})"
    )
    assert driver_version() is None


@pytest.mark.usefixtures("without_package")
def test_a_tool_that_hangs_is_given_up(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    install(body="exec sleep 60")
    assert inventory().source == "none"
    assert inventory().problem == (f"nvidia-smi did not answer within 0.2 s (and NVML: {PACKAGE})")


@pytest.mark.usefixtures("without_package")
def test_a_tool_that_cannot_be_run_is_a_problem(tools: Path) -> None:
    tool = tools / "nvidia-smi"
    tool.write_text("#!/no/such/interpreter\n")
    tool.chmod(0o755)
    assert inventory().problem == (
        f"nvidia-smi cannot be run (No such file or directory) (and NVML: {PACKAGE})"
    )
