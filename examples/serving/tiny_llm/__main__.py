"""Run the server: ``python -m tiny_llm --port 8000``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import TextIO

from .tokenizer import MAX_VOCAB, Tokenizer

#: Each BLAS that NumPy may be built with has a variable of its own.
THREADS = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def main() -> int:
    """Serve until a signal comes; return the exit status."""
    options = parse()
    # Read once, when NumPy is first imported, which is why nothing here imports it earlier.
    os.environ.update(dict.fromkeys(THREADS, str(options.threads)))
    return asyncio.run(serve(options))


async def serve(options: argparse.Namespace) -> int:
    """Listen, load the model, and then answer until a signal comes."""
    from .api import API
    from .engine import Engine, Event, Policy
    from .model import Model, Shape
    from .wire import Server

    loop = asyncio.get_running_loop()
    stopped, signalled = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        signalled.set()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)

    def dispatch(events: list[Event]) -> None:
        for event in events:
            event.sequence.receive(event)

    def load() -> Engine:
        shape = Shape(
            layers=options.layers,
            hidden=options.hidden,
            heads=options.heads,
            vocab=options.vocab,
            max_length=options.max_model_len,
        )
        policy = Policy(
            max_batch_size=options.max_batch_size,
            max_wait=options.max_wait_ms / 1000,
            prefill_chunk=options.prefill_chunk,
            kv_tokens=options.kv_tokens,
            scheduler=options.scheduler,
        )
        return Engine(
            Model(shape),
            policy,
            # One wake-up of the event loop per step, not per token.
            deliver=lambda events: loop.call_soon_threadsafe(dispatch, events),
            on_exit=lambda: loop.call_soon_threadsafe(stopped.set),
        )

    api = API(Tokenizer(options.vocab))
    server = Server(api.handle)
    try:
        port = await server.listen(options.host, options.port)
    except OSError as error:
        say(f"tiny_llm: cannot listen on {options.host}:{options.port}: {error}", sys.stderr)
        return 1
    api.engine = await asyncio.to_thread(load)
    say(f"tiny_llm: serving on http://{options.host}:{port}", sys.stdout)
    await stopped.wait()
    await server.close()
    api.engine.stop()
    # Without a signal it is the engine that has failed. Its thread has already said why.
    return 0 if signalled.is_set() else 1


def parse() -> argparse.Namespace:
    """Return the options of the command line, if they make sense together."""
    parser = argparse.ArgumentParser(
        prog="python -m tiny_llm",
        description="Serve a small language model with random weights through the OpenAI API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")

    def number(name: str, default: int, text: str, *, least: int = 1) -> None:
        def check(value: str) -> int:
            if int(value) < least:
                raise argparse.ArgumentTypeError(f"must be at least {least}")
            return int(value)

        group.add_argument(name, type=check, default=default, metavar="N", help=text)

    group = parser.add_argument_group("the model")
    number("--layers", 8, "layers")
    number("--hidden", 384, "components of a token's state, in all heads together")
    number("--heads", 6, "attention heads")
    number("--vocab", 1024, "words it knows", least=2)
    number("--max-model-len", 1024, "tokens of a prompt and its completion together, at most")
    group = parser.add_argument_group("what may be tuned")
    number("--max-batch-size", 8, "sequences that run at the same time, at most")
    number("--max-wait-ms", 0, "milliseconds to wait for company when idle", least=0)
    number("--prefill-chunk", 128, "tokens of prompts that are processed per step, at most")
    number("--kv-tokens", 8192, "tokens that there is room for in the key-value caches")
    number("--threads", 1, "threads of the BLAS")
    group.add_argument(
        "--scheduler",
        choices=["fcfs", "shortest"],
        default="fcfs",
        help="who is next: first come, first served, or the shortest job",
    )
    options = parser.parse_args()
    if options.hidden % (2 * options.heads):
        parser.error("--hidden must be an even multiple of --heads")
    if options.vocab > MAX_VOCAB:
        parser.error(f"--vocab must be at most {MAX_VOCAB}")
    if options.kv_tokens < options.max_model_len:
        parser.error("--kv-tokens must be at least --max-model-len")
    return options


def say(line: str, stream: TextIO) -> None:
    """Print a line now, even into a pipe."""
    print(line, file=stream, flush=True)


if __name__ == "__main__":
    sys.exit(main())
