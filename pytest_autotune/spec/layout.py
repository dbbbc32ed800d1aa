"""The parallel layout of a spec, and whether its engine can do what the spec asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_autotune.engines.presets import (
    PARALLEL,
    WORLD_SIZE,
    Preset,
    Rule,
    names,
)
from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.spec.quantization import declared_quantization, mapped_values, quant_parts
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.text.suggest import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The rules for a server's parallel layout.

    ``world_size`` and ``rules`` are over dimensions. ``names`` maps these to their parameters,
    as identifiers, and ``fixed`` to the sizes that the spec fixes. Any other size is 1.
    """

    names: Mapping[str, str]
    world_size: str = WORLD_SIZE
    fixed: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def gpus(self, params: Mapping[str, Any]) -> int:
        """Return the number of GPUs that a trial uses, at least 1."""
        given = {identifier(name): value for name, value in params.items()}
        sizes = {
            name: given.get(self.names.get(name, ""), self.fixed.get(name, 1)) for name in PARALLEL
        }
        try:
            return max(1, int(Expression.parse(self.world_size).value(sizes)))
        except ExpressionError:
            return 1

    def expression(self) -> str:
        """Return the number of GPUs that a trial uses, as an expression over parameters."""
        return self._in_parameters(self.world_size)

    def constraints(self) -> Iterator[tuple[str, str]]:
        """Yield the engine's rules in terms of parameters, each with the reason in words."""
        for rule in self.rules:
            if self._varies(rule.require):
                yield self._in_parameters(rule.require), rule.message

    def within(self, gpus: int) -> str | None:
        """Return the rule that no more than ``gpus`` are used, None where no parameter matters."""
        known = self._varies(self.world_size)
        return f"({self.expression()}) <= {gpus}" if known else None

    def _varies(self, source: str) -> bool:
        return not Expression.parse(source).names.isdisjoint(self.names)

    def _in_parameters(self, source: str) -> str:
        """Write a rule over dimensions as one over parameters, sizes for what there is none of."""
        pattern = re.compile(rf"\b({'|'.join(PARALLEL)})\b")
        sizes = {name: str(self.fixed.get(name, 1)) for name in PARALLEL}
        return pattern.sub(lambda match: self.names.get(match[1], sizes[match[1]]), source)


def layout(spec: ServerSpec | None, document: Mapping[str, Any]) -> Layout:
    """Return the layout that the spec's engine allows.

    Dimensions are in ``parallel_config``, or plain parameters with the name of the engine's flag.
    """
    parallel = {name: name for name in document.get("parallel_config", {}) if name in PARALLEL}
    if spec is None:
        return Layout(names=parallel)
    preset = spec.preset
    for name in document.get("parameters", {}):
        dimension = _dimension(preset, name)
        if dimension is not None:
            parallel.setdefault(dimension, identifier(name))
    fixed = {
        dimension: value
        for name, value in spec.arguments.items()
        if isinstance(value, int) and (dimension := _dimension(preset, name)) is not None
    }
    if preset is None:
        return Layout(names=parallel, fixed=fixed)
    return Layout(
        names=parallel, fixed=fixed, world_size=preset.world_size, rules=preset.constraints
    )


def _dimension(preset: Preset | None, name: str) -> str | None:
    """Return the parallel dimension that a flag sets, by our name for it or the engine's."""
    key = identifier(name)
    if key in PARALLEL:
        return key
    return preset.dimension(name) if preset is not None else None


def check_engine(spec: ServerSpec | None, document: Mapping[str, Any]) -> None:
    """Refuse values of ``parallel_config`` and ``quant_config`` that the engine cannot do."""
    if spec is None or spec.backend == "url":
        return
    preset = spec.preset
    if preset is None:
        if document.get("quant_config"):
            raise SpecError(
                f"{spec.origin.at('quant_config')}: what it means depends on the engine; "
                f"name it by server.preset ({', '.join(names())})"
            )
        return
    given = frozenset(declared_quantization(document))
    for path, name, value in mapped_values(document):
        where = spec.origin.at(*path)
        if name == "quant_config":
            quant_parts(preset, value, where, given)
            continue
        entry = preset.mapped(name, value)
        if entry.unsupported:
            raise SpecError(
                f"{where}: {preset.title} cannot do {name} = {shown(value)}: {entry.unsupported}"
            )
