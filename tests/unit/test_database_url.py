"""Database URLs are shown without a secret, wherever it stands in them."""

from __future__ import annotations

import pytest

from pytest_autotune.study.database_url import masked_url, url_secrets, without_url_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("mysql://:pw@host/db?x=1", "mysql://:***@host/db?x=1"),
        ("http://[broken", "***"),
        (
            "postgresql://h/db?user=tuner&password=hunter2",
            "postgresql://h/db?password=***&user=tuner",
        ),
        ("postgresql://h/db?sslpassword=hunter2", "postgresql://h/db?sslpassword=***"),
        ("mysql://h/db?passwd=hunter2", "mysql://h/db?passwd=***"),
        ("postgresql://h/db?password=a&password=b", "postgresql://h/db?password=***"),
        (
            "postgresql://h/db?passfile=/home/me/.pgpass",
            "postgresql://h/db?passfile=/home/me/.pgpass",
        ),
        ("postgresql://me:hun/ter#2?x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:hunter@2@host/db", "postgresql://me:***@***/***"),
        ("postgresql://me:hun@t/er2@host/db", "postgresql://me:***@***/***"),
        ("sqlite:////home/me@work/x.db", "sqlite:////home/me@work/x.db"),
        # No URLs: a password may be anywhere in them.
        ("me:hunter2@host/db", "***"),
        ("postgresql://me:hunter2", "postgresql://***"),
        ("nonsense", "nonsense"),
    ],
)
def test_secrets_are_masked(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://me:hun%2Fter2@host/db", {"hun/ter2"}),
        ("postgresql://me:hun/ter#2?x@host/db", {"hun/ter#2?x"}),
        ("postgresql://h/db?user=tuner&password=hunter2&sslpassword=other", {"hunter2", "other"}),
        ("postgresql://host/db", set()),
        ("nonsense", set()),
    ],
)
def test_secrets_are_found(url: str, secrets: set[str]) -> None:
    assert set(url_secrets(url)) == secrets


def test_what_a_driver_says_of_a_torn_password_is_masked() -> None:
    said = without_url_secrets(
        "failed to resolve host 'nter2@host'", "postgresql://me:hu@nter2@host/db"
    )
    assert "nter2" not in said
