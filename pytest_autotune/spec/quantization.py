"""The ``quant_config`` of a spec: named presets, and types of parts, which go before a preset's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations, product
from typing import Any

from pytest_autotune.engines.flags import flag_name
from pytest_autotune.engines.presets import (
    MAPPED,
    QUANTIZED,
    FlagStyle,
    Mapped,
    Preset,
    parts_of,
)
from pytest_autotune.errors import SpecError
from pytest_autotune.space.expressions import identifier
from pytest_autotune.text.suggest import did_you_mean

#: The parameter that names a preset.
_PRESET = "quant_config"


def declared_quantization(
    document: Mapping[str, Any],
) -> dict[str, tuple[tuple[str, ...], list[Any]]]:
    """Return the parameters that ``quant_config`` declares: where, and their values.

    A preset may be named alone, in a list, as ``preset`` or in ``presets``.
    """
    block = document.get("quant_config", {})
    if not isinstance(block, Mapping):
        return {_PRESET: (("quant_config",), _as_list(block))}
    return {
        _PRESET if key in {"preset", "presets"} else key: (("quant_config", key), _as_list(value))
        for key, value in block.items()
    }


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def mapped_values(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield place, name and every listed value of what a preset writes in its own way."""
    for name, declared in document.get("parameters", {}).items():
        if identifier(name) not in MAPPED:
            continue
        if isinstance(declared, Mapping):
            values = declared.get("values", declared.get("choices", ()))
            declared = [*values, *(declared[k] for k in ("low", "high") if k in declared)]  # noqa: PLW2901
        for value in _as_list(declared):
            yield ("parameters", name), identifier(name), value
    for name, declared in document.get("parallel_config", {}).items():
        for value in _as_list(declared):
            yield ("parallel_config", name), name, value
    for name, (path, values) in declared_quantization(document).items():
        for value in values:
            yield path, name, value


def quant_conflicts(preset: Preset, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield rules, with reasons, against parts that set one flag to different values."""
    declared: dict[str, list[Any]] = {}
    for _, name, value in mapped_values(document):
        if name in QUANTIZED or name == _PRESET:
            declared.setdefault(name, []).append(value)
    for one, other in combinations(declared, 2):
        for left, right in product(declared[one], declared[other]):
            flag = _shared_flag(
                list(_arguments(preset, one, left, declared)),
                list(_arguments(preset, other, right, declared)),
            )
            if flag:
                yield (
                    f"{one} != {left!r} or {other} != {right!r}",
                    f"{preset.title} has one {flag} for {one} {left} and {other} {right}",
                )


def _arguments(preset: Preset, name: str, value: Any, given: Collection[str]) -> Iterator[Mapped]:
    """Yield the arguments of a part, or of each part of a preset that is not given itself."""
    if name != _PRESET:
        yield preset.quantized(name, value)
        return
    for part, kind in preset.quant_presets.get(value, {}).items():
        if part not in given:
            yield preset.quantized(part, kind)


def outranked(preset: Preset, document: Mapping[str, Any], style: FlagStyle) -> Iterator[str]:
    """Yield a notice for each flag of a quantization that the spec sets by itself, too."""
    given = frozenset(declared_quantization(document))
    flags = {
        flag: path
        for path, name, value in mapped_values(document)
        if name in QUANTIZED or name == _PRESET
        for entry in _arguments(preset, name, value, given)
        for flag, *_ in parts_of(entry.arguments)
    }
    for name in document.get("parameters", {}):
        flag = flag_name(name, style)
        if identifier(name) not in MAPPED and flag in flags:
            yield f"parameters.{name}: goes before {'.'.join(flags[flag])}, which sets {flag} too"


def _shared_flag(one: list[Mapped], other: list[Mapped]) -> str:
    ours, theirs = (
        {flag: values for entry in entries for flag, *values in parts_of(entry.arguments)}
        for entries in (one, other)
    )
    return next((f for f in ours if f in theirs and ours[f] != theirs[f]), "")


def quant_parts(
    preset: Preset, name: str, where: str, given: Collection[str] = ()
) -> Mapping[str, str]:
    """Return the parts of a named quantization without those that are ``given`` themselves.

    Raises :class:`SpecError` if it is unknown, or the engine cannot do it.
    """
    parts = preset.quant_presets.get(name)
    if parts is None:
        raise SpecError(
            f"{where}: unknown quantization {name!r}{did_you_mean(name, preset.quant_presets)}; "
            f"known for {preset.title}: {', '.join(preset.quant_presets)}"
        )
    parts = {part: value for part, value in parts.items() if part not in given}
    for part, value in parts.items():
        entry = preset.quantized(part, value)
        if entry.unsupported:
            raise SpecError(
                f"{where}: {preset.title} cannot do {name!r}: {part} {value}: {entry.unsupported}"
            )
    return parts
