"""The differences between two studies, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pytest_autotune.scoring.slo import Bound
from pytest_autotune.scoring.wording import limit
from pytest_autotune.text.suggest import shown

_TITLES: Final = {"slo": "SLO", "objective": "objective", "space": "space"}
_ABSENT: Final = object()


def identity_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of parts that differ between two identities, with their entries."""
    changed: list[str] = []
    for part in after:
        old, new = before.get(part), after[part]
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            changed.append(f"{part} ({', '.join(inner)})")
        else:
            changed.append(part)
    return changed


def question_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str]:
    """Return which parts of two questions differ (``SLO and space``), and the differences."""
    found: dict[str, list[str]] = {
        "slo": list(_slo_changes(before.get("slo", {}), after["slo"])),
        "objective": list(_replaced("objective", before.get("objective"), after["objective"])),
        "space": list(_space_changes(before.get("space", {}), after["space"])),
    }
    titles = [_TITLES[part] for part, changes in found.items() if changes]
    return " and ".join(titles), "; ".join(text for texts in found.values() for text in texts)


def _slo_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = _bounds(before), _bounds(after)
    for label in {**old, **new}:
        if old.get(label) == new.get(label):
            continue
        if label not in old:
            yield f"{label} {limit(new[label])} added"
        elif label not in new:
            yield f"{label} {limit(old[label])} removed"
        elif old[label].threshold != new[label].threshold:
            yield f"{label} {limit(old[label])} → {limit(new[label])}"
        else:
            yield f"severity of {label}"
    for name in after:
        if name != "bounds":
            yield from _replaced(name, before.get(name), after[name])


def _bounds(slo: Mapping[str, Any]) -> dict[str, Bound]:
    bounds = [
        Bound(**{**bound, "metrics": tuple(bound["metrics"])}) for bound in slo.get("bounds", ())
    ]
    return {bound.label: bound for bound in bounds}


def _space_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old: Mapping[str, Any] = before.get("parameters", {})
    new: Mapping[str, Any] = after["parameters"]
    for name in {**old, **new}:
        if name not in old:
            yield f"parameter {name} added"
        elif name not in new:
            yield f"parameter {name} removed"
        elif old[name] != new[name]:
            yield from _parameter_changes(name, old[name], new[name])
    for part in after:
        if part != "parameters" and before.get(part) != after[part]:
            yield part


def _parameter_changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    choices = old.get("choices"), new.get("choices")
    if choices[0] is None or choices[1] is None or old.get("when") != new.get("when"):
        yield f"parameter {name} changed"
        return
    added, removed = _without(choices[1], choices[0]), _without(choices[0], choices[1])
    if added:
        yield f"parameter {name}: {', '.join(map(shown, added))} added"
    if removed:
        yield f"parameter {name}: {', '.join(map(shown, removed))} removed"
    if not added and not removed:
        yield f"parameter {name}: order changed"


def _without(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Return the values that are not among others, where 1 and True are different."""
    known = [(type(other), other) for other in others]
    return [value for value in values if (type(value), value) not in known]


def _replaced(name: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"{name} {old} → {new}"
