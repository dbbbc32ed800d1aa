"""The parallel layout and the quantization of a spec, checked against its engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from pytest_autotune.engines.presets import (
    MAPPED,
    PARALLEL,
    QUANTIZED,
    WORLD_SIZE,
    Mapped,
    Preset,
    Rule,
    names,
    parts_of,
)
from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.text.suggest import did_you_mean, shown


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
    for block, name, value in _mapped_values(document):
        if name == "quant_config":
            where = ("parameters", name) if block == "parameters" else (name,)
            quant_parts(preset, value, spec.origin.at(*where))
            continue
        entry = preset.mapped(name, value)
        if entry.unsupported:
            raise SpecError(
                f"{spec.origin.at(block, name)}: {preset.title} cannot do {name} = "
                f"{shown(value)}: {entry.unsupported}"
            )


def _mapped_values(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield block, name and every listed value of what a preset writes in its own way."""
    quantized = document.get("quant_config", {})
    blocks: dict[str, Mapping[str, Any]] = {
        "parameters": {
            identifier(name): declared
            for name, declared in document.get("parameters", {}).items()
            if identifier(name) in MAPPED
        },
        "parallel_config": document.get("parallel_config", {}),
        "quant_config": quantized
        if isinstance(quantized, Mapping)
        else {"quant_config": quantized},
    }
    for block, entries in blocks.items():
        for name, declared in entries.items():
            if isinstance(declared, Mapping):
                values = declared.get("values", declared.get("choices", ()))
                declared = [*values, *(declared[k] for k in ("low", "high") if k in declared)]  # noqa: PLW2901
            for value in declared if isinstance(declared, list | tuple) else [declared]:
                yield block, name, value


def quant_conflicts(
    spec: ServerSpec | None, document: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield rules, with reasons, against parts that set one flag to different values."""
    if spec is None or spec.preset is None or spec.backend == "url":
        return
    preset = spec.preset
    declared: dict[str, list[Any]] = {}
    for _, name, value in _mapped_values(document):
        if name in QUANTIZED:
            declared.setdefault(name, []).append(value)
    for one, other in combinations(declared, 2):
        for left, right in product(declared[one], declared[other]):
            flag = _shared_flag(preset.quantized(one, left), preset.quantized(other, right))
            if flag:
                yield (
                    f"{one} != {left!r} or {other} != {right!r}",
                    f"{preset.title} has one {flag} for {one} {left} and {other} {right}",
                )


def _shared_flag(one: Mapped, other: Mapped) -> str:
    ours, theirs = (
        {flag: values for flag, *values in parts_of(entry.arguments)} for entry in (one, other)
    )
    return next((f for f in ours if f in theirs and ours[f] != theirs[f]), "")


def quant_parts(preset: Preset, name: str, where: str) -> Mapping[str, str]:
    """Return the parts of a named quantization; raise :class:`SpecError` if it is unknown."""
    parts = preset.quant_presets.get(name)
    if parts is None:
        raise SpecError(
            f"{where}: unknown quantization {name!r}{did_you_mean(name, preset.quant_presets)}; "
            f"known for {preset.title}: {', '.join(preset.quant_presets)}"
        )
    for part, value in parts.items():
        entry = preset.quantized(part, value)
        if entry.unsupported:
            raise SpecError(
                f"{where}: {preset.title} cannot do {name!r}: {part} {value}: {entry.unsupported}"
            )
    return parts
