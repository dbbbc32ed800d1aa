"""Small matrices are faster on one thread, and much faster where the cores are busy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Let NumPy compute on one thread for a while, and so also in one order everywhere.

    Threads that wait for each other turn an ask of 25 ms into one of 250 ms next to a server
    that keeps all cores busy.
    """
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit


@cache
def _controller() -> ThreadpoolController:
    # Only when first asked: it finds no more than what is loaded by then.
    return ThreadpoolController()
