"""Parameters that reached nothing: no test read them, and no server was started with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_autotune.space.expressions import identifier
from pytest_autotune.spec.model import Spec


def unread_notes(spec: Spec, reached: Mapping[str, bool]) -> Iterator[str]:
    """Yield a note for each parameter of complete trials that reached nothing.

    ``reached`` is, by name, whether a trial's tests or its server made use of it.
    """
    conditions = {
        name for p in spec.space.parameters if p.when is not None for name in p.when.names
    }
    for parameter in spec.space.parameters:
        name = parameter.name
        if reached.get(name, True) or identifier(name) in conditions or parameter.size == 1:
            continue
        also = ""
        if spec.server is not None:
            also = ", and no flag of the server used it"
            if spec.server.backend == "url":
                also = f", and the server at {spec.server.url} was started by somebody else"
        yield (
            f"the parameter {name!r} reached nothing: no test read it{also}; trials that differ "
            "only in it measured the same"
        )
