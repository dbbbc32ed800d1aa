"""The policies that hold in a run: what one of them refuses is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

from pytest_autotune.errors import ExpressionError, PolicyError
from pytest_autotune.policy.hosts import LOCALHOST
from pytest_autotune.policy.model import Policy
from pytest_autotune.policy.rules import Rules
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.space.parameters import Parameter
from pytest_autotune.space.sampling import is_empty
from pytest_autotune.spec.benchmark import BenchmarkSpec
from pytest_autotune.spec.model import Spec
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.spec.templates import Filled, filled, filled_by, values_of
from pytest_autotune.spec.validation import shortened

#: So many ways to fill a server's image, volumes and environment are looked at.
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a run, none or more."""

    held: tuple[Policy, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is one."""
        return bool(self.held)

    def check_study(
        self,
        spec: Spec,
        *,
        gpus: str | None,
        serves: bool,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise :class:`PolicyError` for what the trials of a study may not ask for.

        ``gpus`` is how many each takes, as an expression over parameters. With ``serves`` its tests
        use a server. Only ``params`` are looked at where they are given.
        """
        if not self:
            return
        url = f"http://{LOCALHOST}"
        lines = [line for rules in self._rules() for line in rules.gate(spec.gate, spec.origin)]
        server = spec.server
        if server is not None and (server.explicit or serves):
            if server.backend == "url":
                url = str(server.url)
            lines += self._of_server(spec, server, params)
        lines += [line for r in self._rules() for line in r.benchmark(spec.benchmark, url)]
        if gpus is not None:
            lines += self._of_gpus(spec, gpus, params)
        _raise(lines)

    def check_launch(self, spec: ServerSpec, texts: Filled) -> None:
        """Raise :class:`PolicyError` for a server that may not be started."""
        _raise([line for rules in self._rules() for line in self._lines(rules, spec, texts)])

    def check_load(self, spec: BenchmarkSpec, url: str) -> None:
        """Raise :class:`PolicyError` for a load test that may not go to ``url``."""
        _raise([line for rules in self._rules() for line in rules.benchmark(spec, url)])

    def check_storage(self, url: str, where: str) -> None:
        """Raise :class:`PolicyError` for a database that may not keep studies."""
        _raise([line for rules in self._rules() for line in rules.storage(url, where)])

    def check_gpus(self, most: int | None, where: str) -> None:
        """Raise :class:`PolicyError` for a trial that may not have ``most`` GPUs, None for all."""
        _raise([line for rules in self._rules() for line in rules.gpus(most, where)])

    def _rules(self) -> Iterator[Rules]:
        return map(Rules, self.held)

    @staticmethod
    def _lines(rules: Rules, spec: ServerSpec, texts: Filled) -> Iterator[str]:
        yield from rules.server(spec)
        yield from rules.filled(spec, texts)

    def _of_server(
        self, spec: Spec, server: ServerSpec, params: Mapping[str, Any] | None
    ) -> Iterator[str]:
        points = _fillings(spec, server) if params is None else iter((params,))
        texts = [filled(server, values_of(server, point)) for point in points]
        for rules in self._rules():
            yield from rules.server(server)
            for each in texts:
                yield from rules.filled(server, each)

    def _of_gpus(self, spec: Spec, gpus: str, params: Mapping[str, Any] | None) -> Iterator[str]:
        for rules in self._rules():
            limit = rules.policy.gpus
            if limit is not None and _may_exceed(spec, gpus, limit, params):
                asked = f"{gpus} GPUs for a trial" if params else f"up to {gpus} GPUs for a trial"
                yield from rules.gpus(None, spec.origin.at(), asked)


NO_POLICIES: Final = Policies()


def _fillings(spec: Spec, server: ServerSpec) -> Iterator[Mapping[str, Any]]:
    """Yield parameters for each way to fill what a server asks of its machine."""
    used = filled_by(server)
    parameters = [p for p in spec.space.parameters if identifier(p.name) in used]
    ways = 1
    for parameter in parameters:
        ways *= parameter.size or _MOST + 1
    if ways > _MOST:
        names = ", ".join(parameter.name for parameter in parameters)
        raise PolicyError(
            f"{server.at()}: image, volumes and environment have more than {_MOST} values by the "
            f"parameters {names}, too many to hold each against the policy; list fewer values"
        )
    for values in product(*map(_values, parameters)):
        yield {parameter.name: v for parameter, v in zip(parameters, values, strict=True)}


def _values(parameter: Parameter) -> list[Any]:
    return [parameter.value(index) for index in range(parameter.size or 0)]


def _may_exceed(spec: Spec, gpus: str, limit: int, params: Mapping[str, Any] | None) -> bool:
    """Return whether a trial may take more GPUs than ``limit``."""
    space, expression = spec.space, Expression.parse(f"({gpus}) > {limit}")
    if params is not None or not expression.names:
        given = {identifier(name): value for name, value in (params or {}).items()}
        try:
            return bool(expression.value(given))
        except ExpressionError:
            # It is counted again when the trial gets its GPUs.
            return False
    try:
        return not is_empty(replace(space, constraints=(*space.constraints, expression)))
    except ExpressionError:
        return False


def _raise(lines: list[str]) -> None:
    if lines:
        raise PolicyError("\n".join(shortened(list(dict.fromkeys(lines)))))
