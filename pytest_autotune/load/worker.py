"""The load generator as a process of its own.

Neither a server's logs, nor a debugger, nor a large test process then disturbs the measurement,
and its CPU time is its own. Jobs come as lines of JSON on the standard input, results go as lines
of JSON to the standard output. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
from dataclasses import asdict, astuple, fields
from typing import Any, Final

from pytest_autotune.load.job import Job
from pytest_autotune.load.prompts import FileTokenizer, Tokenizer
from pytest_autotune.load.runner import run_level
from pytest_autotune.load.statistics import ClientHealth, LevelRun, RequestRecord

#: Gaps between tokens are counted in millions; more than this many are thinned out evenly.
_MAX_GAPS: Final = 200_000


def document(run: LevelRun) -> dict[str, Any]:
    """Return plain JSON types."""
    step = len(run.gaps) // _MAX_GAPS + 1
    return {
        "fields": [field.name for field in fields(RequestRecord)],
        "requests": [astuple(request) for request in run.requests],
        "gaps": [round(gap, 7) for gap in run.gaps[::step]],
        "ended_early": run.ended_early,
        "client": asdict(run.client),
        "lost": run.lost,
    }


def read(document: dict[str, Any]) -> LevelRun:
    """Read the form that :func:`document` returns."""
    names = document["fields"]
    return LevelRun(
        requests=[
            RequestRecord(**dict(zip(names, row, strict=True))) for row in document["requests"]
        ],
        gaps=document["gaps"],
        ended_early=document["ended_early"],
        client=ClientHealth(**document["client"]),
        lost=document["lost"],
    )


def main() -> None:
    """Run jobs until the input ends, then leave at once, whatever is running."""
    jobs: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        # The caller is gone.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    tokenizers: dict[str | None, Tokenizer | None] = {None: None}
    while True:
        job = Job.of(json.loads(jobs.get()))
        try:
            if job.tokenizer is not None and job.tokenizer not in tokenizers:
                tokenizers[job.tokenizer] = FileTokenizer(job.tokenizer)
            answer = document(asyncio.run(run_level(job, tokenizers[job.tokenizer])))
        except ValueError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
