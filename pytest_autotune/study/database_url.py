"""The secrets in a database's URL, which are masked where the URL or an error on it is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

from pytest_autotune.system.masking import MASK, Masker, is_secret_name, is_telling

if TYPE_CHECKING:
    from sqlalchemy import URL

#: Text that is no URL, and no part of one that might hold a password.
_WORD: Final = re.compile(r"[\w.+-]+")
#: What ends a part of a URL.
_PARTS: Final = re.compile(r"[@/]")
_SCHEME: Final = re.compile(r"[\w+]+://")
#: More than names of variables, and misspelt ones, which drivers refuse.
_SECRET_KEY: Final = re.compile(r"pas|pwd|secret|token|credential", re.IGNORECASE)
#: Drivers take the name of a file for some of them, which says where to look.
_HARMLESS_KEYS: Final = frozenset({"passfile", "sslkey", "ssl_key"})


def masked_url(url: str) -> str:
    """Return ``url`` with every secret in it replaced by ``***``.

    Text that SQLAlchemy does not take for a URL is not shown, as a password may be anywhere in it.
    """
    parsed = _parsed(url)
    if parsed is None or "[" in (parsed.host or ""):
        scheme = _SCHEME.match(url) if parsed is None else None
        return url if _WORD.fullmatch(url) else f"{scheme[0] if scheme else ''}{MASK}"
    secret = [key for key in parsed.query if _is_secret_key(key)]
    if parsed.password is None and not secret and not _is_torn(parsed):
        return url
    shown = parsed.update_query_dict(dict.fromkeys(secret, MASK))
    if _is_torn(parsed):
        shown = shown.set(host=MASK, port=None, database=MASK)
    return shown.render_as_string().replace(quote_plus(MASK), MASK)


def url_secrets(url: str) -> Iterator[str]:
    """Yield the secrets in ``url`` that are long enough to be told from other text."""
    parsed = _parsed(url)
    if parsed is None:
        return
    found = [str(parsed.password or "")]
    if _is_torn(parsed):
        found += [
            part for text in (parsed.host, parsed.database) for part in _PARTS.split(text or "")
        ]
    for key, values in parsed.normalized_query.items():
        if _is_secret_key(key):
            found += values
    yield from (secret for secret in found if is_telling(secret))


def without_url_secrets(text: str, url: str) -> str:
    """Return ``text``, such as an error of a driver, without the secrets in ``url``."""
    masker = Masker()
    for secret in url_secrets(url):
        masker.learn_value(secret)
    return masker(text)


def _parsed(url: str) -> URL | None:
    """Return ``url`` as SQLAlchemy reads it, None where it cannot."""
    # Here, as it is large, and needed only where a URL is given.
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The second is for a port that is no number, as of user:password without a host.
        return None


def _is_torn(parsed: URL) -> bool:
    """Return whether the rest of a password may have been taken for the host or the database.

    That is so where an @ is in it, as the first one ends it.
    """
    if parsed.get_backend_name() == "sqlite":
        return False
    return "@" in (parsed.host or "") or "@" in (parsed.database or "")


def _is_secret_key(key: str) -> bool:
    if key in _HARMLESS_KEYS:
        return False
    return is_secret_name(key) or _SECRET_KEY.search(key) is not None
