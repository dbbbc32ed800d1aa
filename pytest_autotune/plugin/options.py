"""Command line options and ini values become one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest

from pytest_autotune.errors import OptionError
from pytest_autotune.study.settings import DEFAULT_GPU_TIMEOUT, GivenFile, Settings
from pytest_autotune.text.durations import parse_duration

#: As a spec's ``max_iterations``: pytest makes a test of each, and collects them all.
_MAX_TRIALS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting: ``--autotune-NAME`` on the command line, ``autotune_name`` in an ini file.

    ``value`` is what a file with types may give: text, a whole number, or a time, which is a
    number of seconds or text.
    """

    name: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    flag: bool = False
    value: Literal["text", "whole", "time"] = "text"

    @property
    def ini_type(self) -> Any:
        """The type for ``parser.addini``, as precise as this version of pytest can say it."""
        if self.flag:
            return "bool"
        if pytest.version_tuple >= (9, 2):
            # An ini file has no types: text that is no number is refused with a reason, by us.
            return {"text": str, "whole": int | str, "time": int | float | str}[self.value]
        # Before pytest 9 all values are text. 9.0 and 9.1 know no more than one type.
        return "int" if self.value == "whole" and pytest.version_tuple >= (9,) else None

    @property
    def ini_default(self) -> Any:
        """The value that stands for none in an ini file."""
        return False if self.flag else None if self.ini_type == "int" else ""

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
    Option(
        name="trials",
        metavar="N",
        value="whole",
        help="budget in finished trials (spec: max_iterations)",
    ),
    Option(
        name="timeout",
        metavar="DURATION",
        value="time",
        help="start no trial after this much wall-clock time, e.g. 90s, 30m, 2h",
    ),
    Option(
        name="strategy",
        metavar="NAME",
        help="search strategy: auto (default), bayesian, grid_search, random, or one that a "
        "plugin adds",
    ),
    Option(name="seed", metavar="N", value="whole", help="seed of the search (default 0)"),
    Option(
        name="storage",
        metavar="URL",
        help="keep studies in this database instead of pytest's cache, e.g. postgresql://…",
    ),
    Option(name="fresh", flag=True, help="start studies anew instead of resuming them"),
    Option(
        name="keep",
        flag=True,
        help="go on with trials that were measured before the code changed, and mark them",
    ),
    Option(
        name="gpu_timeout",
        metavar="DURATION",
        value="time",
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
    if not tune and not gate:
        _refuse_idle_options(config)
    if getattr(config.option, "autotune_against", None) == "":
        # As of a variable that CI did not set: nobody asked for the stored baseline.
        raise OptionError("--autotune-against: '' is no revision; give a branch, a tag or a commit")
    force = _flag(config, "autotune_lock_force")
    lock = tune and (_flag(config, "autotune_lock") or force)
    record = _file(config, "autotune_record") if tune else None
    replay = _file(config, "autotune_replay") if tune or gate else None
    _refuse_replay(replay, gate=gate, lock=lock, record=record)
    _refuse_fresh_and_keep(config)
    return Settings(
        enabled=tune,
        gate=gate,
        against=_text(config, "autotune_against"),
        strict=_flag(config, "autotune_strict"),
        lock=lock,
        lock_force=force,
        trials=_whole_number(config, "autotune_trials", minimum=1, maximum=_MAX_TRIALS),
        timeout=_duration(config, "autotune_timeout"),
        strategy=_text(config, "autotune_strategy"),
        seed=_whole_number(config, "autotune_seed", minimum=0),
        storage=_text(config, "autotune_storage"),
        fresh=_flag(config, "autotune_fresh"),
        keep=_flag(config, "autotune_keep"),
        gpu_timeout=_duration(config, "autotune_gpu_timeout") or DEFAULT_GPU_TIMEOUT,
        infeasible=_infeasible(config),
        record=record,
        replay=replay,
    )


def _refuse_idle_options(config: pytest.Config) -> None:
    """Refuse options of a search on the command line of a run that searches nothing.

    What addopts or PYTEST_ADDOPTS hold is for the runs that it concerns, as in an ini file.
    """
    arguments = getattr(config.invocation_params, "args", ())
    given = {str(argument).partition("=")[0] for argument in arguments}
    idle = next((option.cli for option in OPTIONS if option.name and option.cli in given), None)
    if idle is not None:
        raise OptionError(f"{idle} needs --autotune: without it, studies are skipped")


def _refuse_fresh_and_keep(config: pytest.Config) -> None:
    if _flag(config, "autotune_fresh") and _flag(config, "autotune_keep"):
        where = [_raw(config, f"autotune_{name}")[0] for name in ("fresh", "keep")]
        raise OptionError(
            f"{where[0]} starts anew, {where[1]} goes on with earlier trials: give one of them"
        )


def _raw(config: pytest.Config, dest: str) -> tuple[str, Any]:
    """Return where a value was given and the value; the command line wins over the ini file."""
    value = getattr(config.option, dest, None)
    if value is not None:
        return f"--{dest.replace('_', '-')}", value
    where = f"{dest} ({_ini_file(config, dest)})"
    try:
        return where, config.getini(dest)
    except (TypeError, ValueError, pytest.UsageError) as error:
        # pytest names the option where the type is wrong, but not where text cannot be converted.
        said = str(error)
        raise OptionError(said if dest in said else f"{where}: {said}") from None


def _ini_file(config: pytest.Config, dest: str) -> str:
    """Return the name of the file that an ini value is from, ``-o`` for the command line."""
    overridden = getattr(config.option, "override_ini", None) or ()
    if any(text.partition("=")[0].strip() == dest for text in overridden):
        return "-o"
    return "ini" if config.inipath is None else config.inipath.name


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
            f"{_raw(config, 'autotune')[0]} and {_raw(config, 'autotune_gate')[0]} exclude each "
            "other: set one of them"
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
    if not where.startswith("--"):
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


def _whole_number(
    config: pytest.Config, dest: str, *, minimum: int, maximum: int | None = None
) -> int | None:
    where, value = _raw(config, dest)
    if value in (None, ""):
        return None
    try:
        number = minimum - 1 if isinstance(value, bool) else int(value)
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise OptionError(f"{where}: {value!r} is not a whole number of at least {minimum}")
    if maximum is not None and number > maximum:
        raise OptionError(f"{where}: {value!r} is more than {maximum}, the most that a study takes")
    return number


def _duration(config: pytest.Config, dest: str) -> float | None:
    where, value = _raw(config, dest)
    if value in (None, ""):
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
