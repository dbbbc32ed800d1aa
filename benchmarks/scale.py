"""How a study scales: with the processes that share it, and with the trials that it has.

Three tables, each with raw Optuna's ``ask`` and ``tell`` on the same storage in the same run:

1. Throughput: trials of 5 ms a second, by 1, 2, 4 and 8 processes that share one study, on
   PostgreSQL and on the journal, with the strategies ``random`` and ``auto``. Raw Optuna draws by
   its random sampler, in as many processes.
2. Waiting: 64 runners on PostgreSQL whose trials sleep for 2 s. *Lost* is the share of a runner's
   time that was no trial.
3. Claims: the median time of a claim and of a finish, in a study with so many finished trials.

A process is given its trials one by one, as a session gives them to its slots; imports and opening
the study are not counted. The PostgreSQL server is our own, with its default settings: what is
committed is flushed to disk. It runs on this machine, so it takes part of the processors.

::

    python benchmarks/scale.py
    python benchmarks/scale.py --only claims --storage journal

POSIX only. Needs PostgreSQL's programs (Debian: ``postgresql``) and psycopg.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overhead import SPEC, distributions, measure

NODEID: Final = "test_study.py::test_trial"
RAW: Final = "raw optuna"
GOAL_RATE: Final = 60.0
GOAL_LOST: Final = 0.05
GOAL_FLAT: Final = 1.5
_TRIAL_SECONDS: Final = 0.005
_SLEEP_SECONDS: Final = 2.0
#: The step of one parameter, with which the space has some 50,000 points.
_STEPS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a study is stored: a database's URL, or the folder of a journal."""

    name: str
    url: str | None
    folder: Path


def spec(strategy: str) -> dict[str, Any]:
    """Return the spec of a study that no budget ends."""
    parameters = {
        **SPEC["parameters"],
        "max_num_seqs": {"type": "integer", "low": 16, "high": 4096, "step": _STEPS},
    }
    optimization = {**SPEC["optimization"], "strategy": strategy, "max_iterations": 100_000}
    return {
        **SPEC,
        "parameters": parameters,
        "constraints": ["tp_size * max_num_seqs <= 16384", "mem_fraction <= 0.9 or tp_size >= 2"],
        "optimization": optimization,
    }


def open_ours(place: Place, strategy: str) -> Any:
    """Open our study, as a process of its own session."""
    from pytest_autotune.spec.loading import load_inline
    from pytest_autotune.study.plan import Plan
    from pytest_autotune.study.searched import SearchedStudy
    from pytest_autotune.study.settings import Settings

    plan = Plan.make(
        NODEID, load_inline("test_trial", spec(strategy), "benchmark"), Settings(storage=place.url)
    )
    return SearchedStudy(plan, place.folder, session=uuid.uuid4().hex, started=time.monotonic())


class Ours:
    """One process's part of our study."""

    def __init__(self, place: Place, strategy: str) -> None:
        self.study = open_ours(place, strategy)

    def claim(self) -> Any:
        """Take a trial."""
        from pytest_autotune.study.protocol import SlotRequest

        return self.study.claim(SlotRequest(id="trial"))

    def finish(self, record: Any) -> None:
        """Report, judge, store."""
        from dataclasses import replace

        from pytest_autotune.errors import SLOViolation
        from pytest_autotune.scoring.judgement import Ending, judge
        from pytest_autotune.study.trial import Trial

        trial = Trial(record, self.study.plan)
        with contextlib.suppress(SLOViolation):
            trial.report(measure(trial.params))
        measurement = trial.measurement(Ending.COMPLETE)
        judgement = judge(measurement, self.study.plan.question)
        self.study.finish(replace(record, measurement=measurement, judgement=judgement))

    def close(self) -> None:
        """Leave the study."""
        self.study.close()


class Raw:
    """One process's part of a study of Optuna alone."""

    def __init__(self, place: Place, strategy: str) -> None:
        del strategy
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = place.url or optuna.storages.JournalStorage(
            JournalFileBackend(str(place.folder / "raw.journal"))
        )
        sampler = optuna.samplers.RandomSampler()
        self.study = optuna.create_study(
            study_name="raw", storage=storage, sampler=sampler, load_if_exists=True
        )
        self._distributions = distributions()

    def claim(self) -> Any:
        """Ask."""
        return self.study.ask(self._distributions)

    def finish(self, trial: Any) -> None:
        """Tell."""
        self.study.tell(trial, measure(trial.params)["mean_e2e_latency"])

    def close(self) -> None:
        """Nothing has to be left."""


def peer(place: Place, strategy: str) -> Ours | Raw:
    """Return a process's part in the study of ``strategy``, or of raw Optuna."""
    return (Raw if strategy == RAW else Ours)(place, strategy)


# Processes


def work(place: Place, strategy: str, trials: int, seconds: float, threads: int) -> None:
    """Run trials in this process when told to, and print how long that took.

    Each of ``threads`` runs so many trials, as a runner of its own.
    """
    peers = [peer(place, strategy) for _ in range(threads)]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    lost: list[float] = []

    def run(own: Ours | Raw) -> None:
        started = time.perf_counter()
        for _ in range(trials):
            record = own.claim()
            time.sleep(seconds)
            own.finish(record)
        taken = time.perf_counter() - started
        lost.append(1 - trials * seconds / taken)

    workers = [threading.Thread(target=run, args=(own,)) for own in peers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds_taken = time.perf_counter() - began
    print(json.dumps({"seconds": seconds_taken, "lost": lost}), flush=True)
    for own in peers:
        own.close()


def together(  # noqa: PLR0913 - one for each thing that a table varies
    place: Place, strategy: str, *, processes: int, trials: int, seconds: float, threads: int = 1
) -> list[dict[str, Any]]:
    """Start processes that share one study, let them begin at once, and return what they print."""
    command = [
        sys.executable, __file__, "--work",
        json.dumps([place.name, place.url, str(place.folder), strategy, trials, seconds, threads]),
    ]  # fmt: skip
    # Creating a database's tables is not safe against others that do.
    peer(place, strategy).close()
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                sys.exit("a process of the benchmark could not open its study")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=600)[0]) for process in started]
    finally:
        for process in started:
            process.kill()


# Tables


def throughput(
    make: Sequence[Callable[[], contextlib.AbstractContextManager[Place]]],
    counts: Sequence[int],
    searches: Sequence[str],
    trials: int,
) -> None:
    """Print trials a second by storage, strategy and number of processes."""
    print(f"\nTrials of {1e3 * _TRIAL_SECONDS:g} ms a second, {trials} trials by so many processes")
    print(f"{'storage':<12} {'search':<11}" + "".join(f"{count:>8}" for count in counts))
    for each in make:
        for strategy in searches:
            cells = []
            for count in counts:
                with each() as place:
                    found = together(
                        place, strategy, processes=count, trials=trials // count,
                        seconds=_TRIAL_SECONDS,
                    )  # fmt: skip
                done = trials // count * count
                cells.append(done / max(part["seconds"] for part in found))
            met = ""
            if place.url and strategy == "random":
                good = cells[-1] >= max(GOAL_RATE, cells[0])
                met = f"   goal ≥ {GOAL_RATE:g} and ≥ one process: {'met' if good else 'MISSED'}"
            print(
                f"{place.name:<12} {strategy:<11}" + "".join(f"{c:8.1f}" for c in cells) + met,
                flush=True,
            )


def waiting(
    make: Callable[[], contextlib.AbstractContextManager[Place]], runners: int, trials: int
) -> None:
    """Print the share of their time that sleeping runners lose."""
    print(f"\n{runners} runners, trials of {_SLEEP_SECONDS:g} s: time that was no trial")
    processes = 8
    for strategy in ("random", "auto", RAW):
        with make() as place:
            found = together(
                place, strategy, processes=processes, trials=trials, seconds=_SLEEP_SECONDS,
                threads=runners // processes,
            )  # fmt: skip
        lost = [share for part in found for share in part["lost"]]
        met = (
            ""
            if strategy == RAW
            else f"goal < {GOAL_LOST:.0%}: "
            + ("met" if statistics.fmean(lost) < GOAL_LOST else "MISSED")
        )
        print(
            f"{place.name:<12} {strategy:<11} mean {statistics.fmean(lost):6.1%}"
            f"   worst {max(lost):6.1%}   {met}"
        )


def claims(
    make: Sequence[Callable[[], contextlib.AbstractContextManager[Place]]], sizes: Sequence[int]
) -> None:
    """Print the time of a claim and of a finish by the number of finished trials."""
    print("\nOne trial in a study of so many: median claim + finish (ms)")
    print(f"{'storage':<12} {'search':<11}" + "".join(f"{size:>16,}" for size in sizes))
    for each in make:
        for strategy in ("random", RAW):
            with each() as place:
                cells = [_claim_cost(place, strategy, size) for size in sizes]
            ratio = cells[-1][0] / cells[0][0]
            met = (
                ""
                if strategy == RAW
                else f" goal ≤ {GOAL_FLAT}: " + ("met" if ratio <= GOAL_FLAT else "MISSED")
            )
            row = "".join(f"{f'{1e3 * c:.1f} + {1e3 * f:.1f}':>16}" for c, f in cells)
            print(f"{place.name:<12} {strategy:<11}{row}   claim ×{ratio:.2f}{met}", flush=True)


def _claim_cost(place: Place, strategy: str, size: int) -> tuple[float, float]:
    """Return the median seconds of a claim and of a finish after ``size`` finished trials."""
    own = peer(place, strategy)
    missing = size - len(own.study.trials if isinstance(own, Raw) else own.study.records())
    fill(own, missing)
    own.close()
    # As a process that comes to the study as it is.
    own = peer(place, strategy)
    own.finish(own.claim())
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        record = own.claim()
        middle = time.perf_counter()
        own.finish(record)
        times.append((middle - begin, time.perf_counter() - middle))
    own.close()
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def fill(own: Ours | Raw, count: int) -> None:
    """Add finished trials by the storage's own way to add a trial that is finished."""
    import optuna

    if isinstance(own, Raw):
        for number in range(count):
            params = {"tp_size": 1, "chunk": "small", "max_num_seqs": 16, "mem_fraction": 0.7}
            own.study.add_trial(
                optuna.trial.create_trial(
                    value=1.0 + number,
                    params=params,
                    distributions=own._distributions,  # noqa: SLF001
                )
            )
        return
    from pytest_autotune.scoring.judgement import Ending
    from pytest_autotune.scoring.records import Owner
    from pytest_autotune.study.documents import MEASUREMENT, measurement_document, new_trial
    from pytest_autotune.study.trial import Trial

    study = own.study
    known = study.records()
    pool = study.plan.spec.space.pool
    seen = {record.key for record in known}
    taken = len(known)
    row = 0
    for number in range(taken, taken + count):
        while True:
            # Spread over the space, as a prime's multiples are.
            point = pool.point(7919 * row % len(pool))
            row += 1
            from pytest_autotune.space.parameters import point_key

            if point_key(point) not in seen:
                break
        owner = Owner(process="", session="earlier", slot=f"trial-{number:03d}", started=1.0)
        template = new_trial(study.plan, number, point, owner)
        from pytest_autotune.scoring.records import TrialRecord

        trial = Trial(TrialRecord(number=number, params=point, owner=owner), study.plan)
        with contextlib.suppress(Exception):
            trial.report(measure(point))
        document = measurement_document(trial.measurement(Ending.COMPLETE))
        template.set_user_attr(MEASUREMENT, document)
        template.state = optuna.trial.TrialState.COMPLETE
        template.values = [1.0]
        import datetime as dt

        template.datetime_complete = dt.datetime.now()  # noqa: DTZ005 - as Optuna's
        study._storage.create_new_trial(study.id, template_trial=template)  # noqa: SLF001


# Storages


@contextlib.contextmanager
def journal(root: Path) -> Iterator[Place]:
    """Give a folder for a journal."""
    folder = Path(tempfile.mkdtemp(dir=root))
    yield Place(name="journal", url=None, folder=folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgres(root: Path) -> Iterator[Callable[[], contextlib.AbstractContextManager[Place]]]:
    """Run a server; give what makes a fresh database on it."""
    import psycopg

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    where = shutil.which("initdb")
    binaries = Path(where).parent if where else found[0] if found else None
    if binaries is None:
        sys.exit("PostgreSQL's programs are not installed; run with --storage journal")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str) -> None:
        subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    data = folder / "data"
    run("initdb", "-D", str(data), "-U", "tester", "--auth=trust")
    options = f"-k {folder} -c listen_addresses= -c max_connections=300"
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")

    @contextlib.contextmanager
    def database() -> Iterator[Place]:
        name = f"study_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(
            host=str(folder), user="tester", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = f"postgresql+psycopg://tester@/{name}?host={folder}"
        yield Place(name="postgresql", url=url, folder=root)

    try:
        yield database
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["throughput", "waiting", "claims"])
    parser.add_argument("--storage", choices=["postgresql", "journal"])
    parser.add_argument("--processes", default="1,2,4,8")
    parser.add_argument("--search", default=f"random,auto,{RAW}")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--runners", type=int, default=64)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, url, folder, strategy, trials, seconds, threads = json.loads(options.work)
        place = Place(name=name, url=url, folder=Path(folder))
        work(place, strategy, trials, seconds, threads)
        return
    counts = [int(each) for each in options.processes.split(",")]
    sizes = [int(each) for each in options.sizes.split(",")]
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make: list[Callable[[], contextlib.AbstractContextManager[Place]]] = []
        if options.storage != "journal":
            make.append(stack.enter_context(postgres(root)))
        if options.storage != "postgresql":
            make.append(lambda: journal(root))
        if options.only in (None, "throughput"):
            throughput(make, counts, options.search.split(","), options.trials)
        if options.only in (None, "waiting") and options.storage != "journal":
            waiting(make[0], options.runners, 10)
        if options.only in (None, "claims"):
            claims(make, sizes)


if __name__ == "__main__":
    main()
