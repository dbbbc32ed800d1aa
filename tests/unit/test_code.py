"""The code of a measurement: digests, imported files, and what changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_autotune.study.code import Code, changed_since, listed
from pytest_autotune.study.digests import digest, digest_of, meaning
from pytest_autotune.study.imports import ImportedFiles
from pytest_autotune.study.parts import part_now, parts_of, scripts_in

KERNEL = "def run(x):\n    return x + 1\n"
MARKED = "SPACE = {space}\npytestmark = pytest.mark.autotune(parameters=SPACE{more})\n"


def of(text: str, name: str = "x.py") -> str:
    return meaning(digest(name, text.encode()))


@pytest.mark.parametrize(
    "other",
    [
        "# a comment\ndef run(x):\n\n    return (x + 1)  # another\n",
        '"""A module."""\n\ndef run(x):\n    """Run it."""\n    return x + 1',
        "def run(x): return x + 1",
        KERNEL.replace("\n", "\r\n"),
    ],
    ids=["comments", "docstrings", "layout", "line-ends"],
)
def test_comments_docstrings_and_layout_do_not_count(other: str) -> None:
    assert of(other) == of(KERNEL)


@pytest.mark.parametrize(
    "other",
    [
        KERNEL.replace("1", "2"),
        KERNEL.replace("x + 1", "x + 1.0"),
        KERNEL.replace("return", "text = 'doc'; return"),
        "import os\n" + KERNEL,
        KERNEL + "def run(",  # no Python at all
    ],
)
def test_everything_else_counts(other: str) -> None:
    assert of(other) != of(KERNEL)
    assert of(KERNEL, "kernel.cu") != of(KERNEL + " ", "kernel.cu")


def test_the_spec_in_a_marker_is_no_code() -> None:
    first = of(MARKED.format(space=[1, 2], more=""))
    assert of(MARKED.format(space=[1, 2, 3], more=", slo={'ttft': 1}")) == first
    assert of(MARKED.format(space=[1, 2], more=", gpus=2")) != first
    used = "print(SPACE)\n"
    assert of(MARKED.format(space=[1], more="") + used) != of(
        MARKED.format(space=[2], more="") + used
    )


def test_an_autotune_of_somebody_else_is_code() -> None:
    kernel = "@triton.autotune(configs=[{}], key=['m'])\ndef kernel(): pass\n"
    assert of(kernel.format(1)) != of(kernel.format(2))


def test_changes_name_changed_missing_and_new_files(tmp_path: Path) -> None:
    for name in ("kernel.py", "gone.py", "csrc/a.cu", "csrc/b.cu"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(KERNEL)

    def code() -> Code:
        files = {name: digest_of(tmp_path / name) for name in ("kernel.py", "gone.py")}
        return Code.of(tmp_path, files, ("csrc/*.cu",))

    before = Code.from_document(tmp_path, code().document())
    assert before == code()
    assert before.changes(code()) == []
    (tmp_path / "kernel.py").write_text("# faster\n" + KERNEL)
    assert before.changes(code()) == []
    pinned = before.digests_now()
    (tmp_path / "kernel.py").write_text(KERNEL + "print()\n")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "csrc/a.cu").write_text("other")
    (tmp_path / "csrc/b.cu").unlink()
    (tmp_path / "csrc/c.cu").write_text("new")
    changes = ["gone.py (gone)", "kernel.py"]
    sources = ["csrc/a.cu", "csrc/b.cu (gone)", "csrc/c.cu (new)"]
    assert before.changes(code()) == [*changes, *sources]
    assert sorted(changed_since(pinned, tmp_path)) == sorted([*changes, *sources[:2]])
    assert listed(changes + sources) == "gone.py (gone), kernel.py, csrc/a.cu and 2 more"


def test_a_glob_that_is_added_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text("a")
    before = Code.of(tmp_path, {}, ())
    assert before.changes(Code.of(tmp_path, {}, ("*.cu",))) == []


PROJECT: Mapping[str, str] = {
    "test_a.py": "import kernel_a\nfrom pkg import shared\n",
    "test_b.py": "import kernel_b\n",
    "conftest.py": "import helpers\n",
    "helpers.py": "",
    "kernel_a.py": "from pkg.deep import inner\n",
    "kernel_b.py": "import only_b\n",
    "only_b.py": "",
    "plugin.py": "",
    "pkg/__init__.py": "",
    "pkg/shared.py": "",
    "pkg/deep/__init__.py": "from . import inner\n",
    "pkg/deep/inner.py": "",
    "env/lib/site-packages/library.py": "",
    "elsewhere/conftest.py": "import only_there\n",
    "only_there.py": "",
    ".cache/generated.py": "",
}
LOOK = """
import importlib, sys
from pathlib import Path
root = Path.cwd()
sys.path[:0] = [str(root), str(root / "env/lib/site-packages"), str(root / ".cache")]
from pytest_autotune.study.imports import ImportedFiles
imported = ImportedFiles(root)
for name in ("conftest", "test_a", "test_b", "plugin", "library", "generated"):
    importlib.import_module(name)
sys.path.insert(0, str(root / "elsewhere"))
sys.modules["root_conftest"] = sys.modules.pop("conftest")
importlib.import_module("conftest")
assert imported.look()
assert not imported.look()
(root / "kernel_a.py").write_text("edited = True")
for module, other in (("test_a.py", "test_b.py"), ("test_b.py", "test_a.py")):
    print(*sorted(imported.used_by(root / module, [root / other])))
print(imported.used_by(root / "test_a.py", [])["kernel_a.py"])
"""


def test_a_study_uses_what_its_module_reaches_and_what_nobody_explains(tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def look() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", LOOK], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.splitlines()

    kernel = digest_of(tmp_path / "kernel_a.py")
    first, second, read = look()
    common = {"conftest.py", "helpers.py", "plugin.py"}
    package = {"pkg/__init__.py", "pkg/deep/__init__.py", "pkg/deep/inner.py", "pkg/shared.py"}
    assert set(first.split()) == {*common, *package, "kernel_a.py", "test_a.py"}
    assert set(second.split()) == {*common, "kernel_b.py", "only_b.py", "test_b.py"}
    # What counts is the file as it was imported.
    assert read == kernel
    (tmp_path / "helpers.py").write_text("from importlib import import_module\n")
    (tmp_path / "kernel_a.py").write_text(PROJECT["kernel_a.py"])
    # Who imports by name may import anything.
    assert "only_b.py" in look()[0].split()


@pytest.mark.parametrize("how", ["pytest.importorskip('only_b')", "pytest_plugins = ['only_b']"])
def test_what_pytest_imports_by_name_counts(tmp_path: Path, how: str) -> None:
    for name, text in {**PROJECT, "test_a.py": f"import pytest\n{how}\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = LOOK.replace('(root / "kernel_a.py").write_text("edited = True")', "").rpartition(
        "print"
    )[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "only_b.py" in done.stdout.splitlines()[0].split()


def test_the_version_of_a_module_that_another_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib/python3.12/site-packages"
    (library / "vllm-0.11.0.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3.12"
    python.touch(mode=0o755)
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]
    name = f"program {python} -m vllm.entrypoints.openai.api_server"
    assert parts_of(None, argv) == {name: "vllm 0.11.0"}


def test_only_files_below_the_root_are_looked_at(tmp_path: Path) -> None:
    imported = ImportedFiles(tmp_path)
    assert not imported.look()


def test_the_parts_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib/python3.12/site-packages/vllm-0.11.0.dist-info"
    library.mkdir(parents=True)
    (library / "entry_points.txt").write_text("[console_scripts]\nvllm = vllm.cli:main\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("vllm", f"#!{programs}/python3.12\n"), ("llama-server", "\x7fELF")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert parts_of(None, ["vllm", "serve"]) == {"program vllm": "vllm 0.11.0"}
    (first,) = parts_of(None, ["llama-server"]).values()
    (programs / "llama-server").write_text("\x7fELF rebuilt")
    assert part_now("program llama-server") not in ("", first)
    # Whatever cannot be told is left out.
    assert parts_of(None, ["absent"]) == parts_of(None, []) == {}
    assert parts_of(None, [sys.executable, "server.py"]) == {}


def test_the_scripts_of_a_server_are_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(KERNEL)
    (tmp_path / "model.bin").write_text("weights")
    argv = [sys.executable, "server.py", "model.bin", "--log", "out.log", "/bin/sh"]
    (script,) = scripts_in(tmp_path, tmp_path, argv).items()
    assert (script[0], meaning(script[1])) == ("server.py", of(KERNEL))


def test_a_file_need_not_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.touch()
    os.truncate(path, 64_000_000)
    tracemalloc.start()
    try:
        assert digest_of(path) == digest(path.name, bytes(64_000_000))
        tracemalloc.reset_peak()
        assert digest_of(tmp_path / "weights.bin")
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_file_whose_bytes_are_known_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL)
    known = digest_of(path)
    monkeypatch.setattr("pytest_autotune.study.digests.source_of", None)
    assert digest_of(path, known) == known
    with pytest.raises(TypeError):
        digest_of(path)
