"""Git commands, run so that neither the user's settings nor a hook's environment change them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from pytest_autotune.errors import UserError

OPTION: Final = "--autotune-against"
#: Variables that a git hook sets, or that would send git to another repository.
_ASTRAY: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_SETTINGS: Final = (
    f"core.hooksPath={os.devnull}",
    "core.disambiguate=committish",
    "core.warnAmbiguousRefs=true",
    "i18n.logOutputEncoding=UTF-8",
    "log.showSignature=false",
)


class RevisionError(UserError):
    """The old revision is not available; the message says why, and what to do."""


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in ``folder``; raise OSError if it cannot be run."""
    environment = {name: value for name, value in os.environ.items() if name not in _ASTRAY}
    # In English, as its messages are read; without questions or locks.
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    return subprocess.run(  # noqa: S603 - argv, no shell
        ["git", "-C", str(folder), *settings, *arguments],  # noqa: S607 - the user's git
        input=stdin,
        capture_output=True,
        check=False,
        env=environment,
    )


def run(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in ``folder``; raise :class:`RevisionError` if it cannot be run."""
    try:
        return git(folder, *arguments, stdin=stdin)
    except OSError as error:
        raise RevisionError(
            f"{OPTION} needs git, which cannot be run here ({error.strerror}); install it"
        ) from None


def lines(folder: Path, *arguments: str) -> list[str]:
    """Return the lines that git prints."""
    return run(folder, *arguments).stdout.decode("utf-8", "replace").splitlines()


def message(result: subprocess.CompletedProcess[bytes]) -> str:
    """Return the error message of git on one line."""
    text = " ".join(result.stderr.decode("utf-8", "replace").split())
    return text.removeprefix("fatal: ") or f"nothing, but ended with status {result.returncode}"
