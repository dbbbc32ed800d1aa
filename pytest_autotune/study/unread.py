"""Parameters that reached nothing: no test read them, and no server was started with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_autotune.space.expressions import identifier
from pytest_autotune.spec.model import Spec


def no_effect(spec: Spec, reached: Mapping[str, bool]) -> str:
    """Return a warning where no parameter at all reached anything, so that the best is chance."""
    choices = [p.name for p in spec.space.parameters if p.size != 1 and p.name in reached]
    if not choices or any(reached.values()):
        return ""
    return (
        f"no parameter reached anything: no test read trial.params{_server(spec)}; all trials "
        "measured the same, and what is best is chance"
    )


def unread_notes(spec: Spec, reached: Mapping[str, bool]) -> Iterator[str]:
    """Yield a note for each parameter of complete trials that reached nothing.

    ``reached`` is, by name, whether a trial's tests or its server made use of it.
    """
    if no_effect(spec, reached):
        return
    conditions = {
        name for p in spec.space.parameters if p.when is not None for name in p.when.names
    }
    for parameter in spec.space.parameters:
        name = parameter.name
        if reached.get(name, True) or identifier(name) in conditions or parameter.size == 1:
            continue
        yield (
            f"the parameter {name!r} reached nothing: no test read it{_server(spec)}; trials that "
            "differ only in it measured the same"
        )


def _server(spec: Spec) -> str:
    """Return why no parameter reached the server either, empty where there is none."""
    if spec.server is None:
        return ""
    if spec.server.backend == "url":
        return f", and the server at {spec.server.url} was started by somebody else"
    return ", and no flag of the server used it"
