"""Command line options and ini values become one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_autotune.errors import OptionError
from pytest_autotune.study.settings import DEFAULT_GPU_TIMEOUT, GivenFile, Settings
from pytest_autotune.text.durations import parse_duration

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting: ``--autotune-NAME`` on the command line, ``autotune_name`` in an ini file."""

    name: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    flag: bool = False

    @property
    def cli(self) -> str:
        """The command line spelling."""
        return f"--{self.dest.replace('_', '-')}"

    @property
    def dest(self) -> str:
        """The ini spelling, also the attribute of ``config.option``."""
        return f"autotune_{self.name}" if self.name else "autotune"


OPTIONS: Final = (
    Option(name="", flag=True, help="run the tuning studies of tests marked 'autotune'"),
    Option(
        name="gate",
        flag=True,
        help="run the configurations pinned in autotune.lock.json, and fail where they break "
        "their SLO or got slower",
    ),
    Option(
        name="against",
        metavar="REV",
        help="with --autotune-gate: compare with this git revision, measured here and now, "
        "instead of with the stored baseline",
    ),
    Option(
        name="strict",
        flag=True,
        help="with --autotune-gate: fail where nothing can be concluded, too",
    ),
    Option(
        name="lock",
        flag=True,
        help="with --autotune: measure the best configurations again, and pin the best of them "
        "in autotune.lock.json",
    ),
    Option(
        name="lock_force",
        flag=True,
        help="as --autotune-lock, and replace entries that are better or of other hardware, too",
    ),
    Option(name="trials", metavar="N", help="budget in finished trials (spec: max_iterations)"),
    Option(
        name="timeout",
        metavar="DURATION",
        help="start no trial after this much wall-clock time, e.g. 90s, 30m, 2h",
    ),
    Option(
        name="strategy",
        metavar="NAME",
        help="search strategy: auto (default), bayesian, grid_search, random, or one that a "
        "plugin adds",
    ),
    Option(name="seed", metavar="N", help="seed of the search (default 0)"),
    Option(
        name="storage",
        metavar="URL",
        help="keep studies in this database instead of pytest's cache, e.g. postgresql://…",
    ),
    Option(name="fresh", flag=True, help="start studies anew instead of resuming them"),
    Option(
        name="gpu_timeout",
        metavar="DURATION",
        help="how long a trial may wait for GPUs that others have leased (default 10m)",
    ),
    Option(
        name="infeasible",
        choices=("fail", "xfail"),
        help="whether a trial that breaks a hard SLO fails its test (default) or is only "
        "reported as infeasible",
    ),
    Option(
        name="record",
        metavar="FILE",
        help="write the trials of the run's study to this CSV file (.gz: compressed), to be "
        "replayed",
    ),
    Option(
        name="replay",
        metavar="FILE",
        help="measure nothing and run no test: take the results of trials from this CSV file",
    ),
)  # fmt: skip


def read_settings(config: pytest.Config) -> Settings:
    """Read the options of a pytest run; raise :class:`OptionError` for an unusable one."""
    tune, gate = _modes(config)
    for dest, needs, on in (
        ("autotune_against", "--autotune-gate", gate),
        ("autotune_strict", "--autotune-gate", gate),
        ("autotune_lock", "--autotune", tune),
        ("autotune_lock_force", "--autotune", tune),
        ("autotune_record", "--autotune", tune),
        ("autotune_replay", "--autotune", tune or gate),
    ):
        # An ini file may say so for the runs that it concerns.
        if getattr(config.option, dest, None) and not on:
            raise OptionError(f"--{dest.replace('_', '-')} needs {needs}")
    if getattr(config.option, "autotune_against", None) == "":
        # As of a variable that CI did not set: nobody asked for the stored baseline.
        raise OptionError("--autotune-against: '' is no revision; give a branch, a tag or a commit")
    force = _flag(config, "autotune_lock_force")
    lock = tune and (_flag(config, "autotune_lock") or force)
    record = _file(config, "autotune_record") if tune else None
    replay = _file(config, "autotune_replay") if tune or gate else None
    _refuse_replay(replay, gate=gate, lock=lock, record=record)
    return Settings(
        enabled=tune,
        gate=gate,
        against=_text(config, "autotune_against"),
        strict=_flag(config, "autotune_strict"),
        lock=lock,
        lock_force=force,
        trials=_whole_number(config, "autotune_trials", minimum=1),
        timeout=_duration(config, "autotune_timeout"),
        strategy=_text(config, "autotune_strategy"),
        seed=_whole_number(config, "autotune_seed", minimum=0),
        storage=_text(config, "autotune_storage"),
        fresh=_flag(config, "autotune_fresh"),
        gpu_timeout=_duration(config, "autotune_gpu_timeout") or DEFAULT_GPU_TIMEOUT,
        infeasible=_infeasible(config),
        record=record,
        replay=replay,
    )


def _raw(config: pytest.Config, dest: str) -> tuple[str, Any]:
    """Return where a value was given and the value; the command line wins over the ini file."""
    value = getattr(config.option, dest, None)
    if value is not None:
        return f"--{dest.replace('_', '-')}", value
    return f"{dest} (ini)", config.getini(dest)


def _flag(config: pytest.Config, dest: str) -> bool:
    return bool(_raw(config, dest)[1])


def _modes(config: pytest.Config) -> tuple[bool, bool]:
    """Return whether to tune and whether to gate; what the command line says wins."""
    given = [getattr(config.option, dest, None) for dest in ("autotune", "autotune_gate")]
    if all(given):
        raise OptionError(
            "--autotune searches, --autotune-gate compares what was found: give one of them"
        )
    if any(given):
        return bool(given[0]), bool(given[1])
    tune, gate = _flag(config, "autotune"), _flag(config, "autotune_gate")
    if tune and gate:
        raise OptionError(
            "autotune (ini) and autotune_gate (ini) exclude each other: set one of them"
        )
    return tune, gate


def _text(config: pytest.Config, dest: str) -> str | None:
    return _raw(config, dest)[1] or None


def _file(config: pytest.Config, dest: str) -> GivenFile | None:
    """Read a path: relative to where pytest was called, or, in an ini file, to that file."""
    where, written = _raw(config, dest)
    if not written:
        return None
    folder = config.invocation_params.dir
    if where.endswith("(ini)"):
        folder = config.rootpath if config.inipath is None else config.inipath.parent
    return GivenFile(where=where, written=written, path=folder / written)


def _refuse_replay(
    replay: GivenFile | None, *, gate: bool, lock: bool, record: GivenFile | None
) -> None:
    """Refuse what would take replayed results for measured ones."""
    if replay is None:
        return
    if gate or lock:
        other = "--autotune-gate" if gate else "--autotune-lock"
        raise OptionError(
            f"{replay.where} and {other} exclude each other: results that are replayed can "
            "neither be pinned nor held against what is pinned; leave one of them out"
        )
    if record is not None:
        raise OptionError(
            f"{replay.where} and {record.where} exclude each other: results that are replayed "
            "are recorded already; leave one of them out"
        )


def _whole_number(config: pytest.Config, dest: str, *, minimum: int) -> int | None:
    where, value = _raw(config, dest)
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise OptionError(f"{where}: {value!r} is not a whole number of at least {minimum}")
    return number


def _duration(config: pytest.Config, dest: str) -> float | None:
    where, value = _raw(config, dest)
    if not value:
        return None
    try:
        return parse_duration(value)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def _infeasible(config: pytest.Config) -> Literal["fail", "xfail"] | None:
    where, value = _raw(config, "autotune_infeasible")
    match value:
        case "fail" | "xfail":
            return value  # type: ignore[no-any-return]
        case None | "":
            return None
    raise OptionError(f"{where}: {value!r} is not 'fail' or 'xfail'")
