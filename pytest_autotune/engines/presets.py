"""Inference engines as data: their images, commands, flags and rules.

A preset is a JSON file; those of this folder are built in, and a spec may name a file of its
own. To add an engine, copy the closest file: the keys are those of :class:`Preset`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from pytest_autotune.errors import ExpressionError
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.system.files import read_regular

#: How parameters are written as flags: their names, one that is false, and lists.
FlagStyle = Literal["as_given", "dashes", "underscores"]
FalseStyle = Literal["omit", "no-"]
ListStyle = Literal["spaces", "commas", "repeat", "json"]
#: The dimensions of ``parallel_config``; one that is absent counts as 1.
PARALLEL: Final = ("tp", "pp", "dp", "dcp", "cp", "moe_tp", "moe_ep")
#: The parts of ``quant_config``.
QUANTIZED: Final = ("gemm_dtype", "kvcache_dtype", "attention_dtype", "moe_dtype")
#: Parameters that a preset writes in its own way, wherever they are declared.
MAPPED: Final = frozenset({*PARALLEL, *QUANTIZED, "quant_config"})
#: No preset is as long.
_MAX_BYTES: Final = 1_000_000
#: GPUs that a server uses where no preset says otherwise.
WORLD_SIZE: Final = "tp * pp * max(dp, dcp, cp)"
#: What ``base_runtime`` of a task file may call an engine.
_ALIASES: Final[Mapping[str, str]] = {
    "trtllm": "tensorrt-llm",
    "tensorrt_llm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "llama-server": "llama.cpp",
}


class PresetError(ValueError):
    """A preset is unknown, unreadable or incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of the engine for its parallel dimensions."""

    require: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """The arguments for one value; ``unsupported`` is the reason if there are none."""

    arguments: tuple[str, ...] = ()
    when: str | None = None
    unsupported: str = ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One engine. ``flags``, ``false`` and ``lists`` say how parameters are written.

    ``world_size`` and the rules are expressions over :data:`PARALLEL`; ``gpus`` says whether
    the engine can do without. With ``reads_gpu_numbers`` its process expects numbers in
    ``CUDA_VISIBLE_DEVICES``. ``mig`` says why its process cannot use a MIG instance, if it cannot.
    """

    name: str
    title: str
    command: Mapping[str, Sequence[str]]
    port: int
    health: str
    image: str | None = None
    tag: str | None = None
    entrypoint: Sequence[str] | None = None
    flags: FlagStyle = "as_given"
    false: FalseStyle = "omit"
    lists: ListStyle = "spaces"
    gpus: Literal["required", "optional"] = "optional"
    reads_gpu_numbers: bool = False
    mig: str = ""
    shm_size: str | None = None
    ipc: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    world_size: str = WORLD_SIZE
    constraints: tuple[Rule, ...] = ()
    parallel_config: Mapping[str, Mapped] = field(default_factory=dict)
    quant_presets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    quant_config: Mapping[str, Mapping[str, Mapped] | str] = field(default_factory=dict)
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    documentation: Sequence[str] = ()
    checked: str = ""

    @classmethod
    def read(cls, document: Mapping[str, Any], where: str) -> Preset:
        """Read a preset; raise :class:`PresetError` naming the key that is wrong."""
        if not isinstance(document, Mapping):
            raise PresetError(f"{where}: not a preset: it is no mapping")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(document) - known)
        if unknown:
            raise PresetError(
                f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )
        values = dict(document)
        try:
            values["constraints"] = tuple(Rule(**rule) for rule in document.get("constraints", ()))
            values["parallel_config"] = {
                name: _mapped(entry) for name, entry in document.get("parallel_config", {}).items()
            }
            values["quant_config"] = {
                part: mapping["unsupported"]
                if "unsupported" in mapping
                else {value: _mapped(entry) for value, entry in mapping.items()}
                for part, mapping in document.get("quant_config", {}).items()
            }
            preset = cls(**values)
            preset.check()
        except (TypeError, AttributeError, KeyError, ValueError, ExpressionError) as error:
            raise PresetError(f"{where}: not a preset: {error}") from None
        return preset

    def check(self) -> None:
        """Raise an error about the first part that is wrong."""
        for name in ("command", "quant_presets", "aliases", "environment"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} is no mapping")
        for backend, arguments in self.command.items():
            if not isinstance(arguments, list):
                raise TypeError(f"command.{backend} is no list of arguments")
        if not all(isinstance(parts, Mapping) for parts in self.quant_presets.values()):
            raise TypeError("quant_presets maps names to mappings")
        expressions: list[tuple[str, tuple[str, ...]]] = [(self.world_size, PARALLEL)]
        expressions += [(rule.require, PARALLEL) for rule in self.constraints]
        expressions += [
            (entry.when, (name,)) for name, entry in self.parallel_config.items() if entry.when
        ]
        for source, allowed in expressions:
            foreign = Expression.parse(source).names.difference(allowed)
            if foreign:
                raise ValueError(f"{source!r} uses {min(foreign)!r}; known: {', '.join(allowed)}")

    def parallel(self, name: str, value: int) -> Mapped:
        """Return the arguments for a parallel dimension.

        A size of 1 need not be told where the engine has no flag for it.
        """
        entry = self.parallel_config.get(name)
        if entry is None:
            entry = Mapped(unsupported="the preset has no flag for it")
        return Mapped() if entry.unsupported and value == 1 else entry

    def quantized(self, part: str, value: str) -> Mapped:
        """Return the arguments for the type of one part."""
        mapping = self.quant_config.get(part, "the preset has no flag for it")
        if isinstance(mapping, str):
            return Mapped(unsupported=mapping)
        return mapping.get(value, Mapped(unsupported=f"known: {', '.join(mapping)}"))

    def mapped(self, name: str, value: Any) -> Mapped:
        """Return the arguments for one of ``PARALLEL`` or ``QUANTIZED``."""
        return (self.parallel if name in PARALLEL else self.quantized)(name, value)

    def dimension(self, name: str) -> str | None:
        """Return the parallel dimension that the engine's flag ``name`` sets, if any."""
        key = identifier(name)
        return next((d for d, flags in self.aliases.items() if key in map(identifier, flags)), None)


def _mapped(entry: Any) -> Mapped:
    if isinstance(entry, list):
        return Mapped(arguments=tuple(entry))
    return Mapped(**{**entry, "arguments": tuple(entry.get("arguments", ()))})


def parts_of(group: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield each flag of a preset's arguments together with what follows it."""
    part: list[str] = []
    for token in group:
        if token.startswith("-") and part:
            yield tuple(part)
            part = []
        part.append(token)
    if part:
        yield tuple(part)


def names() -> tuple[str, ...]:
    """Return the names of the built-in presets."""
    files = (item.name for item in resources.files("pytest_autotune.engines").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def canonical_name(name: str) -> str:
    """Return our name for a built-in preset."""
    return _ALIASES.get(name.lower(), name.lower())


@cache
def load(name: str, base: Path | None = None) -> Preset:
    """Return the built-in preset ``name``, or the one in the file of that path.

    Paths are relative to ``base``. Raises :class:`PresetError`.
    """
    known = canonical_name(name)
    if known in names():
        text = resources.files("pytest_autotune.engines").joinpath(f"{known}.json").read_text()
        return Preset.read(json.loads(text), f"{known}.json")
    if not name.endswith(".json"):
        listed = ", ".join(names())
        raise PresetError(f"unknown preset {name!r}; known: {listed}, or the path of a .json file")
    path = (base or Path()) / name
    try:
        document = json.loads(read_regular(path, _MAX_BYTES))
    except OSError as error:
        raise PresetError(f"cannot read the preset {name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PresetError(f"the preset {name} is not JSON: {error}") from None
    return Preset.read(document, name)
