"""Mask secrets in everything that is shown or stored.

A secret is the value of an environment variable with a telling name (``HF_TOKEN``,
``OPENAI_API_KEY``, ``DB_PASSWORD``), or of one that a spec lists. The value is masked everywhere,
also in the forms that it has in URLs, JSON and Python.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
#: Parts of a name, between underscores, dashes or dots, that make its value a secret.
_SECRET_WORDS: Final = frozenset(
    {
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "keys",
        "pass",
        "passphrase",
        "passwd",
        "password",
        "pat",
        "pwd",
        "secret",
        "secrets",
        "token",
    }
)
#: PWD and OLDPWD are the working directory, the second is a socket's path.
_HARMLESS_NAMES: Final = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK"})
#: Shorter values would mask half of any text. A spec can list their names.
_MIN_LENGTH: Final = 4
_MIN_LINE: Final = 12
#: Nothing but a reference, as a secret may well have braces in it.
_REFERENCE: Final = re.compile(r"^\$?\{[\w.-]+\}$")
#: In a command also one that a shell within it resolves.
_REFERENCE_IN_WORDS: Final = re.compile(rf"{_REFERENCE.pattern}|^\$\w+$")
_URL_PASSWORD: Final = re.compile(r"(://[^/\s:@]*:)([^/\s@]+)@")
#: A flag whose value is the next word of a command.
_FLAG: Final = re.compile(r"^--?([A-Za-z][\w.-]*)$")
#: What one word of a command sets: ``--flag=value``, ``NAME=value``, and in a shell's script
#: ``--flag value``. Lower-case names are no variables, but often arguments in code.
_IN_WORD: Final = re.compile(
    r"(?<![\w.$-])(?P<before>--?[A-Za-z][\w.-]*(?:=|\s+)|[A-Z_][A-Z0-9_]*=)"
    r"(?P<quote>['\"]?)(?P<value>\S+?)(?P=quote)(?=\s|$)"
)
_HARMLESS_VALUES: Final = frozenset({"true", "false", "none", "null", "auto", "test", "empty"})


def is_secret_name(name: str) -> bool:
    """Return whether the value of a variable with this name is a secret."""
    if name in _HARMLESS_NAMES:
        return False
    words = re.split(r"[_\-.]|(?<=[a-z])(?=[A-Z])", name)
    return any(
        word.lower() in _SECRET_WORDS or word.lower().endswith(("password", "passwd"))
        for word in words
    )


def without_secrets(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's ``server`` and ``benchmark`` with the values of secrets masked.

    So secrets are not stored, and a new secret makes no new study. A reference
    (``${HF_TOKEN}``) is no secret.
    """
    listed = _listed(document)

    def masked(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: masked(key, inner) for key, inner in value.items()}
        if _is_secret(name, value, listed):
            return MASK
        return value if _is_plain(value) else _replaced(value, _mask_telling)

    return {name: masked(name, value) for name, value in document.items()}


def secrets_in(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values that :func:`without_secrets` masks."""
    return (value for _, value in _secrets(document, _listed(document)))


def masked_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the secrets in it masked, short ones too."""
    masked: list[str] = _replaced(words, lambda _: MASK)
    return masked


def _secrets(document: Mapping[str, Any], listed: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield each secret of a document with its name, empty for one within a text or a command."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _secrets(value, listed)
        elif _is_secret(name, value, listed):
            yield name, value
        elif not _is_plain(value):
            yield from (("", secret) for secret in _within(value) if is_telling(secret))


def _listed(document: Mapping[str, Any]) -> frozenset[str]:
    server = document.get("server")
    return frozenset(server.get("secrets", ()) if isinstance(server, Mapping) else ())


def _is_secret(name: str, value: Any, listed: frozenset[str]) -> bool:
    named = name in listed or is_secret_name(name)
    return named and isinstance(value, str) and not _REFERENCE.match(value)


def _is_plain(value: Any) -> bool:
    """Return whether ``value`` is neither a text nor a list."""
    return not isinstance(value, str | list | tuple)


def _mask_telling(secret: str) -> str:
    return MASK if is_telling(secret) else secret


def _within(value: Any) -> list[str]:
    found: list[str] = []

    def note(secret: str) -> str:
        found.append(secret)
        return secret

    _replaced(value, note)
    return found


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    """Return a text, or the words of a command, with each secret in it replaced.

    A secret is the password of a URL, and in a command the value of a flag or a variable with a
    telling name.
    """

    def in_url(match: re.Match[str]) -> str:
        return match[1] + of(match[2]) + "@"

    def in_word(match: re.Match[str]) -> str:
        if not is_secret_name(match["before"].strip("-= \t\n")) or match["value"][0] == "-":
            return match[0]
        return match["before"] + match["quote"] + of(match["value"]) + match["quote"]

    def of(secret: str) -> str:
        return secret if _REFERENCE_IN_WORDS.match(secret) else replace(secret)

    if isinstance(value, str):
        return _URL_PASSWORD.sub(in_url, value)
    words: list[Any] = []
    is_next = False
    for word in value:
        if not isinstance(word, str):
            words.append(word)
            is_next = False
        elif is_next and not word.startswith("-"):
            words.append(of(word) if word else word)
            is_next = False
        else:
            words.append(_URL_PASSWORD.sub(in_url, _IN_WORD.sub(in_word, word)))
            flag = _FLAG.match(word)
            is_next = flag is not None and is_secret_name(flag[1])
    return words


class Masker:
    """Replaces known secrets in text. Specs add to them."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, environment: Mapping[str, str], listed: Iterable[str] = ()) -> None:
        """Remember the secrets of ``environment``: by name, and those ``listed`` by name."""
        listed = frozenset(listed)
        self._add(
            value
            for name, value in environment.items()
            if name in listed or (is_secret_name(name) and is_telling(value))
        )

    def learn_document(self, document: Mapping[str, Any]) -> None:
        """Remember the secrets of a spec's ``server`` and ``benchmark``."""
        sections = {name: document.get(name) for name in ("server", "benchmark")}
        listed = _listed(sections)
        self._add(
            value
            for name, value in _secrets(sections, listed)
            if name in listed or is_telling(value)
        )

    def learn_value(self, value: str) -> None:
        """Remember one secret."""
        self._add([value])

    def _add(self, values: Iterable[str]) -> None:
        known = len(self._forms)
        self._forms.update(form for value in values if value.strip() for form in _forms(value))
        # Every trial adds its secrets, and few are new.
        if len(self._forms) > known:
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """Return ``text`` with every known secret replaced by asterisks."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


def is_telling(value: str) -> bool:
    """Return whether a secret is long and odd enough to be masked in any text."""
    return len(value.strip()) >= _MIN_LENGTH and value.strip().lower() not in _HARMLESS_VALUES


def _forms(value: str) -> Iterator[str]:
    for plain in {value, value.strip()}:
        yield plain
        yield quote(_bytes(plain), safe="")
        yield quote_plus(_bytes(plain))
        yield json.dumps(plain)[1:-1]
        yield json.dumps(plain, ensure_ascii=False)[1:-1]
        yield repr(plain)[1:-1]
        if len(plain) >= _MIN_LINE:
            yield from _base64(_bytes(plain))
    lines = value.split("\n")
    if len(lines) > 1:
        # Logs show a key file line by line.
        yield from (line.strip() for line in lines if len(line.strip()) >= _MIN_LINE)


def _bytes(text: str) -> bytes:
    """Return the bytes of a variable's text, which need not have been UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _base64(value: bytes) -> Iterator[str]:
    """Yield the base64 forms of ``value`` within a longer text.

    HTTP's basic authentication has one, behind a user's name. Three bytes become four characters,
    so there are three forms. Characters at the ends that depend on the neighbours are left out.
    """
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value).decode()
        whole = (shift + len(value)) * 8 // 6
        yield encoded[(0, 2, 3)[shift] : whole]
