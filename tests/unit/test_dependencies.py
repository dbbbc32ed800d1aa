"""How declared dependencies differ between a commit and a working tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from builders import isolate_git

from pytest_autotune.gate.revision.dependencies import differences
from pytest_autotune.gate.revision.revision import Repository


def git(top: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(top), *arguments], check=True, capture_output=True)


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository without commits, out of reach of this machine's settings."""
    isolate_git(monkeypatch)
    top = (tmp_path / "project").resolve()
    top.mkdir()
    git(top, "init", "--quiet")
    return top


def write(top: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)


def compared(
    top: Path, old: dict[str, str | None], new: dict[str, str | None], *folders: str
) -> list[str]:
    """Commit ``old``, write ``new`` over it (None removes a file), and tell the differences."""
    write(top, old)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--allow-empty", "--message", "old")
    write(top, new)
    repository = Repository.find(top)
    places = [top / folder for folder in folders]
    return differences(repository, repository.resolve("HEAD"), top, places)


def test_the_same_declarations_are_no_difference(top: Path) -> None:
    old: dict[str, str | None] = {
        "pyproject.toml": '[project]\nname = "x"\ndependencies = ["NumPy >=1.26,<3", "a_b"]\n',
        "requirements.txt": "torch==2.5.0 \\\n  --hash=sha256:abc\n",
        "broken.toml": "",
    }
    new: dict[str, str | None] = {
        "pyproject.toml": '[project]\ndependencies = [\n  "a-b",\n  "numpy<3,>=1.26",\n]\n',
        "requirements.txt": "# Pinned.\r\nTorch == 2.5.0  # why\r\n",
        "other.txt": "scipy\n",
        "setup.py": "",
    }
    assert compared(top, old, new) == []
    assert compared(top, {}, {}) == []


def test_pyproject_is_compared_in_all_its_tables(top: Path) -> None:
    old = """
    [build-system]
    requires = ["hatchling>=1.26"]
    [project]
    requires-python = ">=3.10"
    dependencies = ["numpy>=1.26", "gone", "same>=1", "tomli>=2; python_version < '3.11'", "free",
                    "direct @ https://me:secret@example.org/direct-1.zip", "moved>=1"]
    [project.optional-dependencies]
    gpu = ["cupy[all]>=13"]
    [dependency-groups]
    test = ["pytest>=8", { include-group = "gpu" }]
    """
    new = """
    [build-system]
    requires = ["hatchling>=1.27"]
    [project]
    requires-python = ">=3.11"
    dependencies = ["numpy>=2.0", "same>=1", "tomli>=2; python_version < '3.12'", "free>=1",
                    "direct @ https://me:other@example.org/direct-2.zip", "scipy"]
    [project.optional-dependencies]
    gpu = ["cupy[all]>=14", "numpy>=2.1"]
    more = ["moved>=1"]
    [dependency-groups]
    test = ["pytest>=9", { include-group = "more" }]
    """
    assert compared(top, {"pyproject.toml": old}, {"pyproject.toml": new}) == [
        "cupy: [all]>=13 in extra gpu → [all]>=14 in extra gpu (pyproject.toml)",
        (
            "direct: @ https://example.org/direct-1.zip → @ https://example.org/direct-2.zip "
            "(pyproject.toml)"
        ),
        "free: any version → >=1 (pyproject.toml)",
        "removed gone (pyproject.toml)",
        "hatchling: >=1.26 to build → >=1.27 to build (pyproject.toml)",
        "moved: >=1 → >=1 in extra more (pyproject.toml)",
        "numpy: >=1.26 → >=2.0 and >=2.1 in extra gpu (pyproject.toml)",
        "pytest: >=8 in group test → >=9 in group test (pyproject.toml)",
        "python: >=3.10 → >=3.11 (pyproject.toml)",
        "added scipy (pyproject.toml)",
        'tomli: >=2; python_version < "3.11" → >=2; python_version < "3.12" (pyproject.toml)',
    ]


def test_poetrys_own_tables_are_compared(top: Path) -> None:
    old = """
    [tool.poetry.dependencies]
    python = "^3.10"
    Torch = { version = "^2.5", extras = ["opt"] }
    [tool.poetry.dev-dependencies]
    ruff = "0.14"
    [tool.poetry.group.test.dependencies]
    pytest = "^8"
    """
    new = old.replace("2.5", "2.6").replace("3.10", "3.11").replace("0.14", "1").replace("8", "9")
    assert compared(top, {"pyproject.toml": old}, {"pyproject.toml": new}) == [
        "pytest: ^8 in group test → ^9 in group test (pyproject.toml)",
        "python: ^3.10 → ^3.11 (pyproject.toml)",
        "ruff: 0.14 in group dev → 1 in group dev (pyproject.toml)",
        (
            'torch: {"extras": ["opt"], "version": "^2.5"} → '
            '{"extras": ["opt"], "version": "^2.6"} (pyproject.toml)'
        ),
    ]


def test_requirements_and_constraints_are_compared(top: Path) -> None:
    old: dict[str, str | None] = {
        "requirements.txt": (
            "numpy>=1.26\n"
            "--extra-index-url https://me:token@example.org/cu121?a=b\n"
            "-r base.txt\n"
            "./wheels/own.whl\n"
            "git+https://github.com/x/kernels@v1#egg=fast_kernels\n"
            "-e git+ssh://git@github.com/x/tool@v1#egg=tool\n"
            "two==1; python_version < '3.12'\n"
            "two==2; python_version >= '3.12'\n"
        ),
        "requirements-dev.txt": "ruff==0.14\n",
        "requirements/gpu.txt": "triton==3.0\n",
        "requirements/more/deep.txt": "deep==1\n",
        "constraints.txt": "numpy==1.26.4\n",
    }
    new: dict[str, str | None] = {
        "requirements.txt": (
            "numpy>=2.0 --config-settings=x=y\n"
            "--extra-index-url=https://other:token@example.org/cu124?a=b\n"
            "-r common.txt\n"
            "git+https://me:secret@github.com/x/other@v1\n"
            "git+https://github.com/x/kernels@v2#egg=fast_kernels\n"
            "-e git+ssh://git@github.com/x/tool@v2#egg=tool\n"
            "two==1; python_version < '3.12'\n"
            "two==3; python_version >= '3.12'\n"
            "scipy\n"
        ),
        "requirements-dev.txt": "ruff==0.15\n",
        "requirements-new.txt": "brandnew==1\n",
        "requirements/gpu.txt": "triton==3.1\n",
        "requirements/more/deep.txt": "deep==2\n",
        "constraints.txt": None,
    }
    assert compared(top, old, new) == [
        "ruff: ==0.14 → ==0.15 (requirements-dev.txt)",
        "added brandnew (requirements-new.txt)",
        (
            "--extra-index-url: https://example.org/cu121?a=b → https://example.org/cu124?a=b "
            "(requirements.txt)"
        ),
        "removed -r base.txt (requirements.txt)",
        "added -r common.txt (requirements.txt)",
        "removed ./wheels/own.whl (requirements.txt)",
        (
            "fast-kernels: git+https://github.com/x/kernels@v1#egg=fast_kernels → "
            "git+https://github.com/x/kernels@v2#egg=fast_kernels (requirements.txt)"
        ),
        "added git+https://github.com/x/other@v1 (requirements.txt)",
        "numpy: >=1.26 → >=2.0 (requirements.txt)",
        "added scipy (requirements.txt)",
        (
            "tool: -e git+ssh://github.com/x/tool@v1#egg=tool → "
            "-e git+ssh://github.com/x/tool@v2#egg=tool (requirements.txt)"
        ),
        (
            'two: ==1; python_version < "3.12" and ==2; python_version >= "3.12" → '
            '==1; python_version < "3.12" and ==3; python_version >= "3.12" (requirements.txt)'
        ),
        "triton: ==3.0 → ==3.1 (requirements/gpu.txt)",
        "removed numpy (constraints.txt)",
    ]


_UV = """
version = 1
[[package]]
name = "project"
version = "0.1"
source = { editable = "." }
[[package]]
name = "workspace"
version = "0.1"
source = { virtual = "workspace" }
[[package]]
name = "torch"
version = "2.5.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "forked"
version = "1.0"
[[package]]
name = "forked"
version = "2.0"
[[package]]
name = "vllm"
version = "0.10"
source = { git = "https://github.com/x/vllm?rev=main#0123456789abcdef" }
"""
_POETRY = """
[[package]]
name = "torch"
version = "2.5.0"
[[package]]
name = "vllm"
version = "0.10"
[package.source]
type = "git"
resolved_reference = "0123456789abcdef"
"""
_PDM = """
[[package]]
name = "torch"
version = "2.5.0"
[[package]]
name = "torch"
version = "2.5.0"
extras = ["opt"]
[[package]]
name = "vllm"
version = "0.10"
revision = "0123456789abcdef"
"""
_PYLOCK = """
lock-version = "1.0"
[[packages]]
name = "torch"
version = "2.5.0"
[[packages]]
name = "project"
version = "0.1"
directory = { path = ".", editable = true }
[[packages]]
name = "vllm"
version = "0.10"
vcs = { type = "git", commit-id = "0123456789abcdef" }
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("uv.lock", _UV),
        ("poetry.lock", _POETRY),
        ("pdm.lock", _PDM),
        ("pylock.toml", _PYLOCK),
        ("pylock.gpu.toml", _PYLOCK),
    ],
)
def test_lock_files_are_compared(top: Path, file: str, text: str) -> None:
    newer = text.replace("2.5.0", "2.6.0").replace('"2.0"', '"3.0"').replace("0.1\n", "0.2\n")
    newer = newer.replace("0123456789abcdef", "fedcba9876543210").replace('"0.1"', '"0.2"')
    forked = ["forked: 1.0 and 2.0 → 1.0 and 3.0 (uv.lock)"] if file == "uv.lock" else []
    assert compared(top, {file: text}, {file: newer}) == [
        *forked,
        f"torch: 2.5.0 → 2.6.0 ({file})",
        f"vllm: 0.10 at 012345678 → 0.10 at fedcba987 ({file})",
    ]
    shorter = text.partition('[[package]]\nname = "vllm"')[0]
    if shorter != text:
        assert compared(top, {file: text}, {file: shorter}) == [f"removed vllm ({file})"]


def test_a_lock_file_that_came_or_went_is_one_sentence(top: Path) -> None:
    assert compared(top, {"uv.lock": _UV}, {"uv.lock": None, "poetry.lock": _POETRY}) == [
        "removed uv.lock",
        "added poetry.lock",
    ]


def test_a_file_that_git_ignores_is_not_new(top: Path) -> None:
    old: dict[str, str | None] = {".gitignore": "*.lock\nrequirements-*\n"}
    new: dict[str, str | None] = {"uv.lock": _UV, "requirements-me.txt": "x", "pdm.lock": _PDM}
    assert compared(top, old, new) == []
    git(top, "add", "--force", "uv.lock")
    git(top, "commit", "--quiet", "--message", "tracked although ignored")
    assert compared(top, {}, {"uv.lock": _UV.replace("2.5.0", "2.6.0")}) == [
        "torch: 2.5.0 → 2.6.0 (uv.lock)"
    ]


@pytest.mark.parametrize("file", ["environment.yml", "environment.yaml"])
def test_conda_environments_are_compared(top: Path, file: str) -> None:
    old = """
    name: project
    dependencies:
      - python=3.11
      - conda-forge::numpy>=1.26
      - Free
      - gone=1
      - mkl 2024.0 h1
      - pip
      - pip:
        - torch==2.5.0
        - -r requirements.txt
    """
    new = """
    dependencies:
      - pip
      - python=3.12
      - nvidia/label/cuda-12.4.0::numpy>=2
      - free
      - mkl 2025.0 h1
      - scipy
      - pip:
        - torch==2.6.0
        - -r requirements.txt
    """
    assert compared(top, {file: old}, {file: new}) == [
        f"removed gone ({file})",
        f"mkl: 2024.0 h1 → 2025.0 h1 ({file})",
        f"numpy: >=1.26 → >=2 ({file})",
        f"python: =3.11 → =3.12 ({file})",
        f"added scipy ({file})",
        f"torch: ==2.5.0 by pip → ==2.6.0 by pip ({file})",
    ]
    assert compared(top, {file: ""}, {file: "dependencies:\n"}) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "[project"),
        ("pyproject.toml", "project = 1"),
        ("pyproject.toml", '[project]\ndependencies = "numpy"'),
        ("pyproject.toml", "[project]\ndependencies = [1]"),
        ("pyproject.toml", '[project]\ndependencies = ["not a requirement"]'),
        ("pyproject.toml", "[project]\noptional-dependencies = [1]"),
        ("pyproject.toml", "[tool.poetry.dependencies]\nx = 2020-01-01"),
        ("requirements.txt", "<<<<<<< HEAD"),
        ("requirements.txt", "numpy==${VERSION}"),
        ("constraints.txt", "\ufeffnumpy = 1"),
        ("uv.lock", "package = [1]"),
        ("uv.lock", "[[package]]\nversion = '1'"),
        ("environment.yml", "a: [1"),
        ("environment.yml", "- numpy"),
        ("environment.yml", "dependencies: [1]"),
        ("environment.yml", "dependencies: ['=1']"),
        ("environment.yml", "dependencies: {a: 1}\nx: !!python/object:os.system 1"),
    ],
)
def test_a_file_that_cannot_be_understood_differs_or_not(top: Path, file: str, text: str) -> None:
    assert compared(top, {file: text}, {}) == []
    assert compared(top, {file: text}, {file: text + "\n# more"}) == [f"{file} differs"]
    assert compared(top, {file: ""}, {file: text}) == [f"{file} differs"]
    assert compared(top, {file: text}, {file: ""}) == [f"{file} differs"]


def test_files_of_other_folders_are_compared_when_named(top: Path) -> None:
    old: dict[str, str | None] = {
        f"{folder}requirements.txt": "numpy==1" for folder in ("", "a/", "a/b/", "c/")
    }
    new: dict[str, str | None] = dict.fromkeys(old, "numpy==2")
    assert compared(top, old, new) == ["numpy: ==1 → ==2 (requirements.txt)"]
    assert compared(top, old, new, "a/b", ".", "c", "a/../a/b", "..", "absent") == [
        "numpy: ==1 → ==2 (requirements.txt)",
        "numpy: ==1 → ==2 (a/b/requirements.txt)",
        "numpy: ==1 → ==2 (c/requirements.txt)",
    ]


def test_a_folder_that_came_or_went_is_compared(top: Path) -> None:
    old: dict[str, str | None] = {"a/requirements.txt": "numpy"}
    new: dict[str, str | None] = {"a/requirements.txt": None, "b/requirements/x.txt": "scipy"}
    write(top, old)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "old")
    write(top, new)
    (top / "a").rmdir()
    assert compared_now(top, "a", "b") == [
        "removed numpy (a/requirements.txt)",
        "added scipy (b/requirements/x.txt)",
    ]


def compared_now(top: Path, *folders: str) -> list[str]:
    repository = Repository.find(top)
    places = [top / folder for folder in folders]
    return differences(repository, repository.resolve("HEAD"), top, places)
