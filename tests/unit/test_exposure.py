"""What a spec gives its container beyond the defaults is said in words."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_spec


def notices(**server: Any) -> tuple[str, ...]:
    return make_spec(parameters={"a": [1]}, server=server).notices


def test_the_defaults_need_no_words() -> None:
    assert notices(image="i:1", volumes=["/usr:/usr", "x:/x:ro"], ipc="private", user="1000") == ()
    assert notices(preset="vllm", image="i:1", command=[]) == ()
    assert notices(command=["serve", "{port}"]) == ()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            {"network": "host"},
            (
                "server.network: host: the container shares this machine's network, and reaches "
                "all that listens there"
            ),
        ),
        (
            {"network": "container:db"},
            (
                "server.network: container:db: the container shares another container's network, "
                "and reaches all that listens there"
            ),
        ),
        (
            {"ipc": "host"},
            (
                "server.ipc: host: the container shares this machine's shared memory and its "
                "processes' messages"
            ),
        ),
        ({"user": "0:0"}, "server.user: 0:0: the container's processes are root's"),
        (
            {"capabilities": ["SYS_ADMIN", "CHOWN"]},
            "server.capabilities: the container's processes have CAP_SYS_ADMIN, CAP_CHOWN",
        ),
        (
            {"volumes": ["/srv/x:/x:z,rw", "/srv/y:/y"]},
            "server.volumes: the container may write to /srv/x (/x)",
        ),
    ],
)
def test_what_a_spec_gives_beyond_them_is_named(server: dict[str, Any], said: str) -> None:
    assert notices(image="i:1", **server) == (said,)
