"""The example of Triton without a GPU: it is collected, and does not start CUDA for that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

EXAMPLE: Final = Path(__file__).parent.parent.parent / "examples" / "triton_matmul"

#: As PyTorch does it (``_device_count_nvml``): CUDA is started to count MIG instances.
FAKES: Final = """
import os, sys
from unittest.mock import MagicMock

def device_count():
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        raise SystemExit("CUDA was started")
    return int(os.environ["DEVICES"])

torch = MagicMock()
torch.cuda.device_count = device_count
for name in ("torch.nn", "torch.nn.functional", "triton", "triton.language"):
    sys.modules[name] = MagicMock()
sys.modules["torch"] = torch
"""


@pytest.mark.parametrize(
    ("visible", "devices", "skipped"),
    [("MIG-00000000-0000-0000-0000-000000000031", 0, 4), ("0", 1, 4), ("", 0, 1)],
)
def test_collecting_does_not_start_cuda(
    visible: str,
    devices: int,
    skipped: int,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True)
    pytester.makeconftest(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("DEVICES", str(devices))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = pytester.runpytest_subprocess("-rs", "test_matmul.py")
    found.assert_outcomes(skipped=skipped)
    reason = "needs a CUDA device" if not visible else "--autotune"
    found.stdout.fnmatch_lines([f"*SKIPPED*{reason}*"])
