"""Stand-ins for the drivers' libraries, compiled from the C files in ``tests/``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from required import unavailable

_SOURCES = Path(__file__).parent.parent


def compile_library(source: Path, library: Path) -> bool:
    """Compile ``source`` to ``library``, unless it is there; return False without a C compiler."""
    if not library.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            return False
        library.parent.mkdir(parents=True, exist_ok=True)
        new = library.with_name(f"new-{os.getpid()}.so")
        name = f"-Wl,-soname,{library.name}"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", name]
        subprocess.run([compiler, *flags, "-o", str(new), str(source)], check=True)
        new.replace(library)
    return True


def need_compiled(factory: pytest.TempPathFactory, source: str, name: str) -> Path:
    """Return the library, compiled once per session; without a compiler, skip the test.

    ``AUTOTUNE_REQUIRE=cc`` makes that a failure, as it does for other engines.
    """
    library = factory.getbasetemp() / Path(source).stem / name
    if not compile_library(_SOURCES / source, library):
        unavailable("cc", "no C compiler is installed")
    return library
