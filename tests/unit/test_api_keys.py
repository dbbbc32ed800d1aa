"""API keys go where the spec says, and nowhere else."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from builders import make_spec
from scripted import Scripted

from pytest_autotune.errors import LoadTestError, SpecError
from pytest_autotune.load import loadtest
from pytest_autotune.load.loadtest import LoadTest
from pytest_autotune.serving.launch import make_launch

KEY = "s3cr3t-key"
LOAD = {
    "traffic_scenarios": ["D(8,4)"],
    "num_concurrency": [1],
    "max_requests_per_iteration": 2,
    "warmup_requests": 0,
    "api_key": "${SOME_KEY}",
}


def make_test(**keys: Any) -> LoadTest:
    spec = make_spec(parameters={"a": [1]}, benchmark=LOAD, **keys)
    return LoadTest(spec.raw, spec.benchmark, spec.slo)


def test_a_key_does_not_go_to_a_host_that_only_a_test_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    for keys in ({}, {"server": {"url": "http://192.0.2.7:8000"}}):
        with closing(make_test(**keys)) as test, pytest.raises(LoadTestError) as refused:
            test("http://192.0.2.1:8000/v1")
        assert str(refused.value) == (
            "inline: /benchmark/api_key: the key would be sent to 192.0.2.1, and only this machine "
            "and the host of the spec's server.url get it; give that address as 'url' of 'server'"
        )


def test_a_key_goes_to_the_host_that_the_spec_names(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    # As if the server were elsewhere.
    monkeypatch.setattr(loadtest, "is_local", lambda url: False)
    with closing(make_test(server={"url": f"{server.url}/v1"})) as test:
        test(server.url)
    assert server.last()["headers"]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["k\n", "k\r\nX-Admin: 1", "k\0", "", " ", "schlüssel", "k\x1b"])
def test_a_key_that_fits_in_no_header_is_refused_by_its_place(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("os.environ", {"SOME_KEY": key})
    said = "/api_key: an API key is one line of ASCII characters, and this one is not; check the"
    with closing(make_test()) as test, pytest.raises(SpecError, match=f"/benchmark{said}"):
        test("http://127.0.0.1:9")
    spec = make_spec(
        parameters={"a": [1]}, server={"url": "http://127.0.0.1:9", "api_key": "${SOME_KEY}"}
    )
    assert spec.server is not None
    with pytest.raises(SpecError, match=f"/server{said}"):
        make_launch(spec.server, {"a": 1}, spec.layout)
