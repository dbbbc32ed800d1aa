"""Secrets are known by their names, and hidden in whatever form they turn up."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_autotune.system.masking import (
    MASK,
    Masker,
    is_secret_name,
    masked_words,
    secrets_in,
    without_secrets,
)

TOKEN = "hf_AbCdEf0123456789"
#: With something that every notation has to escape.
AWKWARD = "p@ss/w+rd \"q'\\é☃%&=?#\t"


def knowing(*values: str) -> Masker:
    masker = Masker()
    for value in values:
        masker.learn_value(value)
    return masker


# Names


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD", "AWS_SESSION_TOKEN",
        "AWS_SECRET_ACCESS_KEY", "GITHUB_PAT", "MYSQL_PWD", "SSH_PASSPHRASE", "REDISCLI_AUTH",
        "api_key", "api-key", "apiKey", "accessToken", "APIKEY", "NGC_API_KEY", "spring.password",
        "AZURE_CLIENT_SECRET", "GOOGLE_CREDENTIALS", "Token", "key", "TOKEN2_SECRET",
        "POSTGRES_PASSWD", "PGPASSWORD", "DB_PASS", "API_KEYS",
    ],
)  # fmt: skip
def test_a_name_that_says_so_names_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "MAX_TOKENS", "max_tokens", "maxTokens", "TOKENIZERS_PARALLELISM", "TOKENIZER", "KEYBOARD",
        "MONKEY", "PWD", "OLDPWD", "SSH_AUTH_SOCK", "PATH", "HOME", "HF_HOME", "KEYRING", "AUTHOR",
        "CUDA_VISIBLE_DEVICES", "PASSENGER", "SECRETARY", "TURKEY", "PATTERN", "model_tokenizer",
        "NUM_TOKENS", "max_new_tokens", "OMP_NUM_THREADS", "XDG_SESSION_PATH", "COMPASS", "",
    ],
)  # fmt: skip
def test_a_name_that_only_looks_alike_names_none(name: str) -> None:
    assert not is_secret_name(name)


# What an environment teaches


def test_secrets_are_learnt_by_name_and_by_being_listed() -> None:
    masker = Masker()
    masker.learn({"HF_TOKEN": TOKEN, "PLAIN": "visible", "LISTED": "hidden"}, ["LISTED", "ABSENT"])
    assert masker(f"{TOKEN} visible hidden") == f"{MASK} visible {MASK}"


@pytest.mark.parametrize(
    "value", ["", " ", "abc", "1", "true", "FALSE", "none", "null", "auto", "test", " empty ", "\n"]
)
def test_a_value_that_tells_nothing_is_no_secret_by_its_name(value: str) -> None:
    masker = Masker()
    masker.learn({"API_KEY": value})
    text = f"a {value} b, abc 1 true none null auto test empty"
    assert masker(text) == text


def test_a_short_value_is_a_secret_if_a_spec_lists_it() -> None:
    masker = Masker()
    masker.learn({"PIN": "17"}, ["PIN"])
    assert masker("pin 17!") == f"pin {MASK}!"


@pytest.mark.parametrize("value", ["", " ", "\n\n"])
def test_a_listed_value_of_nothing_masks_nothing(value: str) -> None:
    masker = Masker()
    masker.learn({"PIN": value}, ["PIN"])
    assert masker("a b\n\nc") == "a b\n\nc"


def test_without_secrets_a_text_is_itself() -> None:
    assert Masker()("HF_TOKEN=x") == "HF_TOKEN=x"


def test_secrets_add_up() -> None:
    masker = knowing("first-one")
    assert masker("first-one second-one") == f"{MASK} second-one"
    masker.learn_value("second-one")
    assert masker("first-one second-one") == f"{MASK} {MASK}"


def test_the_longest_secret_is_masked_as_a_whole() -> None:
    for values in (("secret", "secret-longer"), ("secret-longer", "secret")):
        assert knowing(*values)("secret-longer secret") == f"{MASK} {MASK}"


def test_what_a_pattern_would_read_otherwise_is_text() -> None:
    assert knowing("a.c*(x)[$^|")("abc a.c*(x)[$^|") == f"abc {MASK}"


def test_white_space_around_a_secret_is_none_of_it() -> None:
    assert knowing(f"  {TOKEN}\n")(f"token={TOKEN};") == f"token={MASK};"


# Forms


FORMS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda value: quote(value, safe=""),
    "form": quote_plus,
    "json": json.dumps,
    "json-utf8": lambda value: json.dumps(value, ensure_ascii=False),
    "repr": repr,
    "in-url": lambda value: f"https://user:{quote(value, safe='')}@host/path",
    "in-json": lambda value: json.dumps({"env": {"X": value}}),
    "in-repr": lambda value: str({"env": [value]}),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64-bare": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize(
    "secret", [TOKEN, AWKWARD, "ünïcödé-pässwörd", "a/b+c==0123456", "multi\nline secret"]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_every_notation(form: str, secret: str) -> None:
    shown = FORMS[form](secret)
    masked = knowing(secret)(f"before {shown} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert MASK in masked
    assert shown not in masked
    assert secret.strip() not in masked
    if "=" not in secret:
        # Nothing of it is left but quotes and padding.
        rest = masked.removeprefix("before ").removesuffix(" after")
        assert len(rest) <= len(MASK) + 30


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "user", "user@x"])
@pytest.mark.parametrize("secret", [TOKEN, TOKEN + "x", TOKEN + "xy"])
def test_a_secret_is_hidden_in_http_basic_authentication(user: str, secret: str) -> None:
    for pair in (f"{user}:{secret}", f"{secret}:"):
        header = base64.b64encode(pair.encode()).decode()
        masked = knowing(secret)(f"Authorization: Basic {header}")
        leaked = re.sub(re.escape(MASK), "", masked.removeprefix("Authorization: Basic "))
        # At most the ends, where its bits are mixed with its neighbours'.
        assert len(leaked) <= len(base64.b64encode(f"{user}:".encode())) + 8


def test_lines_of_a_key_file_are_hidden_one_by_one() -> None:
    lines = [
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
        "  BKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
        "-----END PRIVATE KEY-----",
    ]
    masker = knowing("\r\n".join(lines))
    for line in lines[1:3]:
        assert masker(f"read: {line.strip()}") == f"read: {MASK}"
    assert masker("\r\n".join(lines)) == MASK


def test_short_lines_of_a_secret_do_not_mask_half_the_text() -> None:
    masker = knowing("{\n  token: 0123456789abcdef\n}\n\n")
    assert masker("a { b } c\n\nd") == "a { b } c\n\nd"
    assert "0123456789abcdef" not in masker("token: 0123456789abcdef")


@given(st.text(min_size=4, max_size=30).filter(lambda text: len(text.strip()) >= 4), st.text())
@example("0000", "0")
@settings(derandomize=True, max_examples=300, deadline=None)
def test_no_text_shows_a_secret_that_is_known(secret: str, around: str) -> None:
    masker = knowing(secret)
    for shown in (secret, quote(secret, safe="") if secret.isascii() else secret, repr(secret)):
        text = f"{around}{shown}{around}"
        masked = masker(text)
        assert secret not in masked or secret in MASK
        assert masker(masked).count(secret) == masked.count(secret)


@given(st.text(alphabet="abc \n", max_size=40))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert knowing(TOKEN)(text) == text


@pytest.mark.parametrize("secret", ["abcd\udcff-efgh", "\ud800\udc00xyz1"])
def test_bytes_that_are_no_text_do_no_harm(secret: str) -> None:
    # An environment may hold any bytes; Python reads them as surrogates.
    masker = Masker()
    masker.learn({"API_KEY": secret, "HF_TOKEN": TOKEN})
    assert masker(f"{secret} {TOKEN}") == f"{MASK} {MASK}"


# Documents


DOCUMENT = {
    "server": {
        "command": ["serve", "--port", "{port}"],
        "environment": {
            "HF_TOKEN": TOKEN,
            "REFERRED_TOKEN": "${HF_TOKEN}",
            "FILLED_TOKEN": "{token_name}",
            "MODE": "fast",
            "PIN": "17",
            "OLD_TOKEN": None,
            "RETRY_KEY": 3,
        },
        "secrets": ["PIN"],
        "api_key": "sk-plain",
    },
    "benchmark": {
        "api_key": "${OTHER}",
        "additional_params": {"max_tokens": 5, "user_token": "u1"},
    },
    "parameters": {"max_tokens": [1, 2], "tokenizer_mode": ["auto"]},
}


def test_a_document_is_stored_without_its_secrets() -> None:
    before = json.dumps(DOCUMENT)
    masked = without_secrets(DOCUMENT)
    assert masked["server"]["environment"] == {
        "HF_TOKEN": MASK,
        "REFERRED_TOKEN": "${HF_TOKEN}",
        "FILLED_TOKEN": "{token_name}",
        "MODE": "fast",
        "PIN": MASK,
        "OLD_TOKEN": None,
        "RETRY_KEY": 3,
    }
    assert masked["server"]["api_key"] == MASK
    assert masked["server"]["secrets"] == ["PIN"]
    assert masked["benchmark"] == {
        "api_key": "${OTHER}",
        "additional_params": {"max_tokens": 5, "user_token": MASK},
    }
    assert masked["parameters"] == DOCUMENT["parameters"]
    assert json.dumps(DOCUMENT) == before


def test_the_secrets_of_a_document_are_what_is_masked_in_it() -> None:
    assert sorted(secrets_in(DOCUMENT)) == sorted([TOKEN, "17", "sk-plain", "u1"])


def test_a_new_secret_makes_no_new_document() -> None:
    renewed = json.loads(json.dumps(DOCUMENT).replace(TOKEN, "hf_new").replace("sk-plain", "sk-2"))
    assert without_secrets(renewed) == without_secrets(DOCUMENT)


@pytest.mark.parametrize("document", [{}, {"server": None}, {"server": {}}, {"parameters": {}}])
def test_a_document_without_secrets_stays_as_it_is(document: dict[str, object]) -> None:
    assert without_secrets(document) == document
    assert list(secrets_in(document)) == []


@pytest.mark.parametrize("value", ["sk-${", "prefix-${HF_TOKEN}-secretsuffix0123", "{}-secret"])
def test_a_reference_is_no_secret_but_what_merely_holds_braces_is_one(value: str) -> None:
    masked = without_secrets({"server": {"api_key": value}})["server"]["api_key"]
    if value.startswith("prefix"):
        assert masked in {value, MASK}
    else:
        assert masked == MASK


COMMAND: Final = [
    "sh", "--api-key", "sk-abc", "--hf-token=literal", "http://u:passw0rd@h/", "API_KEY=in-env",
    "--host", "127.0.0.1", "--tokenizer=auto", "--use-token", "--model", "m", "--api-key",
    "${API_KEY}", "--hf-token=$HF_TOKEN", "run --api-key 'in-script' --port 1",
    "--override-kv", "add_bos_token=bool:false", "print(max('ab', key=str.lower))",
]  # fmt: skip
HIDDEN: Final = [
    "sh", "--api-key", MASK, f"--hf-token={MASK}", f"http://u:{MASK}@h/", f"API_KEY={MASK}",
    "--host", "127.0.0.1", "--tokenizer=auto", "--use-token", "--model", "m", "--api-key",
    "${API_KEY}", "--hf-token=$HF_TOKEN", f"run --api-key '{MASK}' --port 1",
    "--override-kv", "add_bos_token=bool:false", "print(max('ab', key=str.lower))",
]  # fmt: skip


def test_secrets_in_a_command_are_neither_shown_nor_stored() -> None:
    assert masked_words(COMMAND) == HIDDEN
    for name in ("command", "entrypoint"):
        document = {"server": {name: COMMAND}}
        assert without_secrets(document) == {"server": {name: HIDDEN}}
        found = ["sk-abc", "literal", "passw0rd", "in-env", "in-script"]
        assert sorted(secrets_in(document)) == sorted(found)
    address = {"server": {"url": "http://u:passw0rd@h:1/"}}
    assert without_secrets(address) == {"server": {"url": f"http://u:{MASK}@h:1/"}}


def test_a_short_value_in_a_document_is_masked_in_its_place_only() -> None:
    masker = Masker()
    environment = {"DISABLE_TOKEN": "1", "HF_TOKEN": TOKEN, "PIN": "17"}
    masker.learn_document({"server": {"environment": environment, "secrets": ["PIN"]}})
    assert masker(f"127.0.0.1 {TOKEN}") == f"127.0.0.1 {MASK}"
    assert masker("17") == MASK
    assert masked_words(["--token", "1", "--port", "1"]) == ["--token", MASK, "--port", "1"]
    # It may be a setting, so it belongs to a study.
    setting = {"server": {"command": ["--token", "1"]}}
    assert without_secrets(setting) == setting
