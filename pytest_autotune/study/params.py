"""The parameters of a trial as its tests see them: a dictionary that knows what was read of it."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn

from pytest_autotune.text.suggest import nearest


class Params(dict[str, Any]):
    """A copy of a trial's parameters. Names that are read are added to ``read``.

    ``known`` are all parameters of the spec. Copies, and what is unpickled, are plain dictionaries.
    """

    def __init__(self, values: Mapping[str, Any], read: set[str], known: tuple[str, ...]) -> None:
        super().__init__(values)
        self._read = read
        self._known = known

    def __missing__(self, name: str) -> NoReturn:
        """Raise a KeyError that says which parameter was meant."""
        __tracebackhide__ = True
        if name in self._known:
            raise KeyError(f"the parameter {name!r} is not active in this trial (see its 'when')")
        raise KeyError(f"the spec has no parameter {name!r}{nearest(str(name), self._known)}")

    def __getitem__(self, name: str) -> Any:
        """Return the value of a parameter."""
        __tracebackhide__ = True
        self._read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        """Return whether a parameter is active, which tells something of it."""
        self._read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a parameter, ``default`` where it is not active."""
        self._read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Take a parameter out of this copy."""
        self._read.add(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a parameter; give it one where it is not active."""
        self._read.add(name)
        return super().setdefault(name, default)

    def _whole(self) -> dict[str, Any]:
        """Return a plain copy, as somebody reads all of it."""
        self._read.update(super().keys())
        return dict(super().items())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names. With this method, ``**params`` asks for each value."""
        return iter(self._whole())

    def __reversed__(self) -> Iterator[str]:
        """Iterate over the names, last one first."""
        return reversed(self._whole())

    def __repr__(self) -> str:
        """Show it as a plain dictionary."""
        return repr(self._whole())

    def __eq__(self, other: object) -> bool:
        """Compare as a plain dictionary does."""
        return self._whole() == other

    def __ne__(self, other: object) -> bool:
        """Compare as a plain dictionary does."""
        return self._whole() != other

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        """Return a plain copy with other entries besides."""
        return self._whole() | other

    def __ror__(self, other: Any) -> Any:
        """Return a plain copy of ``other`` with these entries besides."""
        return other | self._whole()

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Become a plain dictionary in pickles and copies."""
        return dict, (self._whole(),)

    def copy(self) -> dict[str, Any]:
        """Return a plain copy."""
        return self._whole()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return the names."""
        return self._whole().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return the values."""
        return self._whole().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return names and values."""
        return self._whole().items()
