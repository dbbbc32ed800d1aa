"""The rules of a policy: what each allows, what it refuses, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from builders import make_spec

from pytest_autotune.errors import LaunchError, PolicyError
from pytest_autotune.load.loadtest import LoadTest
from pytest_autotune.policy.images import Image
from pytest_autotune.policy.loading import load_policies
from pytest_autotune.policy.policies import Policies
from pytest_autotune.serving.launch import make_launch
from pytest_autotune.spec.model import Spec

NOWHERE = Path("/no/such/policy.yaml")
IMAGE = "ghcr.io/acme/server:1"
DIGEST = f"sha256:{'ab' * 32}"


def policy(folder: Path, text: str, system: Path = NOWHERE) -> Policies:
    """Load a policy that the environment names."""
    path = folder / "policy.yaml"
    path.write_text(text)
    return load_policies(system, str(path), [])


def spec_with(server: dict[str, Any] | None = None, **keys: Any) -> Spec:
    more = {} if server is None else {"server": server}
    return make_spec(**{"parameters": {"a": [1, 2]}, **more, **keys})


def refused(policies: Policies, spec: Spec, *, serves: bool = True, **keys: Any) -> list[str]:
    """Return what is refused of a study, without the place of the policy."""
    try:
        policies.check_study(spec, **{"gpus": None, "serves": serves, **keys})
    except PolicyError as error:
        return re.sub(r"/\S+/policy\.yaml", "P", str(error)).splitlines()
    return []


def container(**keys: Any) -> dict[str, Any]:
    return {"image": IMAGE, **keys}


def no(where: str, what: str, rule: str, place: str, allowed: str) -> str:
    """Return the sentence of a refusal."""
    return (
        f"inline: {where}: {what} is refused by the rule '{rule}' of the policy {place}, which "
        f"allows {allowed}"
    )


ALLOWS_IMAGE = "images: [ghcr.io/acme/server]\n"


@pytest.fixture
def bare(tmp_path: Path) -> Policies:
    """A policy that allows one image, and names nothing else."""
    return policy(tmp_path, ALLOWS_IMAGE)


def test_a_plain_container_of_an_allowed_image_is_allowed(bare: Policies) -> None:
    assert refused(bare, spec_with(container())) == []
    assert refused(bare, spec_with(container(ipc="private", network="bridge", pids=16384))) == []
    assert refused(bare, spec_with()) == []


def test_an_empty_mapping_allows_nothing_beyond_the_defaults(tmp_path: Path) -> None:
    assert refused(policy(tmp_path, "{}"), spec_with(container())) == [
        no("/server/image", IMAGE, "images", "P", "none by default"),
    ]


# What a spec may ask for, and the rule that refuses it. (`${…}` is in other tests.)
REFUSED = [
    ("network", "host", "network host", "networks", "bridge by default"),
    ("network", "container:db", "network container:db", "networks", "bridge by default"),
    ("network", "db", "network db", "networks", "bridge by default"),
    ("ipc", "host", "ipc host", "ipc", "private by default"),
    ("ipc", "container:db", "ipc container:db", "ipc", "private by default"),
    ("user", "0:0", "user 0:0", "users", "image by default"),
    ("user", "root", "user root", "users", "image by default"),
    ("pids", 16385, "16385 processes", "pids", "at most 16384 by default"),
    ("capabilities", ["SYS_ADMIN"], "CAP_SYS_ADMIN", "capabilities", "none by default"),
    ("capabilities", ["ALL"], "ALL", "capabilities", "none by default"),
    ("volumes", ["models:/m"], "models", "volumes", "none by default"),
    ("volumes", ["/:/m"], "/", "volumes", "none by default"),
    ("volumes", ["/var/run:/m:rw"], str(Path("/var/run").resolve()), "volumes", "none by default"),
    ("volumes", [f"{'../' * 20}etc:/m"], "/etc", "volumes", "none by default"),
    ("image", "busybox", "busybox", "images", "ghcr.io/acme/server"),
    ("image", "ghcr.io/acme/server/x", "ghcr.io/acme/server/x", "images", "ghcr.io/acme/server"),
    ("image", "ghcr.io.evil.org/acme/server", None, "images", "ghcr.io/acme/server"),
    ("image", "evil.org/ghcr.io/acme/server", None, "images", "ghcr.io/acme/server"),
    ("image", DIGEST, DIGEST, "images", "ghcr.io/acme/server"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[1]}")
def test_what_a_policy_does_not_name_is_refused(
    bare: Policies, case: tuple[str, Any, str | None, str, str]
) -> None:
    key, value, what, rule, allowed = case
    (line,) = refused(bare, spec_with(container(**{key: value})))
    pointer = f"/server/{key}/0" if key == "volumes" else f"/server/{key}"
    place = "P:1" if rule == "images" else "P"
    assert line == no(pointer, what or value, rule, place, allowed)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("networks: [host]", {"network": "host"}),
        ("networks: ['acme-*']", {"network": "acme-models"}),
        ("ipc: ['*']", {"ipc": "host"}),
        ("users: ['1000:*']", {"user": "1000:1000"}),
        ("pids: 40000", {"pids": 40000}),
        ("capabilities: [DAC_OVERRIDE]", {"capabilities": ["CAP_DAC_OVERRIDE"]}),
        ("capabilities: [ALL]", {"capabilities": ["SYS_ADMIN"]}),
        ("volumes: [models]", {"volumes": ["models:/m"]}),
        ("volumes: ['models:rw']", {"volumes": ["models:/m:rw"]}),
        ("memory: 2g", {"memory": "2048m"}),
        ("shm_size: 1g", {"shm_size": "1024M"}),
        ("gpus: 2", {"gpus": 2}),
        ("gpus: 2", {"gpus": ["0", "1"]}),
        ("gpus: 2", {}),
        ("gpus: 2", {"environment": {"NVIDIA_VISIBLE_DEVICES": "void"}}),
    ],
)
def test_what_a_policy_names_is_allowed(tmp_path: Path, text: str, keys: dict[str, Any]) -> None:
    policies = policy(tmp_path, ALLOWS_IMAGE + text)
    assert refused(policies, spec_with(container(**keys))) == []


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        ("networks: [none]", {}, "network bridge"),
        ("ipc: [none]", {}, "ipc private"),
        ("users: ['1000']", {}, "user image"),
        ("users: ['1000']", {"user": "1000:0"}, "user 1000:0"),
        ("pids: 100", {}, "16384 processes"),
        ("volumes: [models]", {"volumes": ["models:/m:rw"]}, "models:rw"),
        ("volumes: [models]", {"volumes": ["models:/m:z,rw"]}, "models:rw"),
        ("memory: 2g", {"memory": "2.5g"}, "memory 2.5g"),
        ("memory: 2g", {}, "a container without a limit"),
        ("shm_size: 1g", {"shm_size": "1025m"}, "shm_size 1025m"),
        ("gpus: 2", {"gpus": 3}, "3 GPUs"),
        ("gpus: 2", {"gpus": "all"}, "all GPUs"),
        ("gpus: 2", {"gpus": ["0,1", "2"]}, "3 GPUs"),
        ("gpus: 2", {"gpus": ["all"]}, "all GPUs"),
        (
            "gpus: 2",
            {"gpus": 1, "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}},
            "NVIDIA_VISIBLE_DEVICES",
        ),
    ],
)
def test_a_rule_holds_to_what_it_names(
    tmp_path: Path, text: str, keys: dict[str, Any], said: str
) -> None:
    policies = policy(tmp_path, ALLOWS_IMAGE + text)
    (line,) = refused(policies, spec_with(container(**keys)))
    rule = text.partition(":")[0]
    assert f": {said} is refused by the rule '{rule}' of the policy P:2, which allows " in line


# Images


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("python", "python"),
        ("python", "docker.io/library/python:3.12"),
        ("docker.io/library/python", "python"),
        ("python:3.*", "python:3.12"),
        ("python:latest", "python"),
        ("python:*", f"python@{DIGEST}"),
        ("vllm/vllm-openai", f"vllm/vllm-openai:v1@{DIGEST}"),
        ("vllm/vllm-openai@sha256:*", f"vllm/vllm-openai:v1@{DIGEST}"),
        (f"acme.org:5000/a/b@{DIGEST}", f"acme.org:5000/a/b@{DIGEST}"),
        ("localhost/*", "localhost/a"),
        ("*", "python"),
    ],
)
def test_image_patterns_match(pattern: str, name: str) -> None:
    assert Image.parse(pattern).allows(Image.parse(name))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("python", "evil/python"),
        ("python", "evil.org/library/python"),
        ("python", "localhost/library/python"),
        ("python:3.*", "python"),
        # The engine passes over the tag.
        ("python:3.*", f"python:3.12@{DIGEST}"),
        (f"python@{DIGEST}", "python:3.12"),
        (f"python@{DIGEST}", f"python@sha256:{'ac' * 32}"),
        ("vllm/*", "vllm/a/b"),
        ("acme.org/*", "acme.org.evil.org/a"),
        ("acme.org/*", "acme.org:5000/a"),
        ("*", "vllm/vllm-openai"),
        ("*/*", "evil.org/a"),
    ],
)
def test_image_patterns_do_not_match(pattern: str, name: str) -> None:
    assert not Image.parse(pattern).allows(Image.parse(name))


def test_images_must_have_a_digest_where_the_policy_says_so(tmp_path: Path) -> None:
    policies = policy(tmp_path, f"{ALLOWS_IMAGE}require_digest: true")
    assert refused(policies, spec_with(container(image=f"ghcr.io/acme/server:1@{DIGEST}"))) == []
    wanted = "images with a digest, such as NAME@sha256:…"
    for image in (IMAGE, "ghcr.io/acme/server", "ghcr.io/acme/server@sha256:abc"):
        assert refused(policies, spec_with(container(image=image))) == [
            no("/server/image", image, "require_digest", "P:2", wanted),
        ]


def test_the_id_of_an_image_is_no_name_that_a_pattern_allows(tmp_path: Path) -> None:
    policies = policy(tmp_path, "images: ['*']")
    assert refused(policies, spec_with(container(image="python"))) == []
    for image in (DIGEST, "ab" * 6, "beef"):
        assert "rule 'images'" in refused(policies, spec_with(container(image=image)))[0]


def test_the_images_of_presets_are_held_against_the_policy(bare: Policies) -> None:
    spec = spec_with({"preset": "vllm"}, model={"id_or_path": "m"})
    assert spec.server is not None
    assert refused(bare, spec)[0].startswith(f"inline: /server/image: {spec.server.image} is refus")


# Folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("models/llama", "models-of-others", "scratch", "repository"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("models")
    (tmp_path / "models" / "out").symlink_to("/etc")
    (tmp_path / "repository" / "weights").symlink_to(tmp_path / "models-of-others")
    return tmp_path


@pytest.mark.parametrize(
    ("volume", "real"),
    [
        ("models", ""),
        ("models/llama", ""),
        ("link/llama", ""),
        ("scratch:/m:rw", ""),
        ("models:/m:rw", "models:rw"),
        ("models-of-others", "models-of-others"),
        ("models/../models-of-others", "models-of-others"),
        ("models/out", "/etc"),
        ("models/out/ssl/../..", "/"),
        ("repository/weights", "models-of-others"),
        ("", ""),
    ],
)
def test_folders_are_held_against_prefixes_where_links_lead(
    folders: Path, volume: str, real: str
) -> None:
    policies = policy(folders, f"{ALLOWS_IMAGE}volumes: ['{folders}/link', '{folders}/scratch:rw']")
    path, _, rest = volume.partition(":")
    written = f"{folders}/{path}:{rest or '/m'}"
    lines = refused(policies, spec_with(container(volumes=[written])))
    if not path:
        real = str(folders)
    if not real:
        assert lines == []
        return
    shown = real if real.startswith("/") else f"{folders}/{real}"
    assert lines == [
        no("/server/volumes/0", shown, "volumes", "P:2", f"{folders}/link, {folders}/scratch:rw"),
    ]


def test_a_link_that_leads_elsewhere_by_now_is_refused_at_the_launch(folders: Path) -> None:
    policies = policy(folders, f"{ALLOWS_IMAGE}volumes: ['{folders}/models']")
    link = folders / "repository" / "weights"
    link.unlink()
    link.symlink_to(folders / "models")
    spec = spec_with(container(volumes=[f"{link}:/m"]))
    assert refused(policies, spec) == []
    link.unlink()
    link.symlink_to(folders / "models-of-others")
    assert spec.server is not None
    with pytest.raises(PolicyError, match=r"/models-of-others is refused by the rule 'volumes'"):
        make_launch(spec.server, {"a": 1}, spec.layout, policies)


# What parameters make of it


def test_every_value_that_a_parameter_fills_in_is_looked_at(tmp_path: Path) -> None:
    policies = policy(tmp_path, "images: [acme/*]\nvariables: {OK: {environment: true}}")
    spec = spec_with(
        container(image="{image}", environment={"X": "{text}"}),
        parameters={"image": ["acme/a", "evil/b"], "text": ["1", "${OK}", "${SECRET}"]},
    )
    assert refused(policies, spec) == [
        no("/server/environment/X", "${SECRET} for a server", "variables", "P:2", "OK"),
        no("/server/image", "evil/b", "images", "P:1", "acme/*"),
    ]
    assert refused(policies, spec, params={"image": "acme/a", "text": "${OK}"}) == []
    # As a lock file may pin anything.
    assert len(refused(policies, spec, params={"image": "evil/c", "text": "x"})) == 1


def test_a_variable_is_found_however_it_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    policies = policy(tmp_path, "images: [acme/*]")
    spec = spec_with(
        container(image="acme/a", environment={"X": "{a}{b}"}),
        parameters={"a": ["$", "${SEC"], "b": ["{SECRET}", "RET}"]},
    )
    found = refused(policies, spec)
    assert found[0].startswith("inline: /server/environment/X: ${SECRET} for a server is refused")
    assert spec.server is not None
    for a, b in (("$", "{SECRET}"), ("${SEC", "RET}")):
        with pytest.raises(PolicyError, match="SECRET"):
            make_launch(spec.server, {"a": a, "b": b}, spec.layout, policies)
    assert make_launch(spec.server, {"a": "$", "b": "RET}"}, spec.layout, policies).volumes == ()


def test_more_values_than_can_be_looked_at_are_refused(tmp_path: Path) -> None:
    policies = policy(tmp_path, "images: [acme/*]")
    for values in ({"type": "continuous", "low": 0, "high": 1}, list(range(1001))):
        spec = spec_with(container(image="acme/{x}"), parameters={"x": values})
        assert refused(policies, spec) == [
            (
                "inline: /server: image, volumes and environment have more than 1000 values by the "
                "parameters x, too many to hold each against the policy; list fewer values"
            )
        ]
    assert refused(policies, spec_with(container(image="acme/x"), parameters={"x": values})) == []


# Secrets


VARIABLES = """
images: [ghcr.io/acme/server]
command: true
urls: ['*']
variables:
  HF_TOKEN: {environment: true}
  SERVING_KEY: {hosts: [Inference.example.org, '*.acme.org', localhost]}
"""


@pytest.mark.parametrize("backend", [{"image": IMAGE}, {"command": ["serve", "{port}"]}])
def test_only_named_variables_go_into_a_servers_environment(
    tmp_path: Path, backend: dict[str, Any]
) -> None:
    policies = policy(tmp_path, VARIABLES)
    for text in ("${HF_TOKEN}", "Bearer ${HF_TOKEN}"):
        assert refused(policies, spec_with({**backend, "environment": {"T": text}})) == []
    for name in ("AWS_SECRET_ACCESS_KEY", "SERVING_KEY"):
        server = {**backend, "environment": {"T": f"a ${{HF_TOKEN}} ${{{name}}}"}}
        assert refused(policies, spec_with(server)) == [
            no(
                "/server/environment/T", f"${{{name}}} for a server", "variables", "P:5", "HF_TOKEN"
            ),
        ]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://inference.example.org/v1", True),
        ("https://INFERENCE.example.org:8443", True),
        ("http://a.acme.org", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.9:8000", True),
        ("http://[::1]:8000", True),
        ("https://evil.org", False),
        ("https://inference.example.org.evil.org", False),
        ("https://inference.example.org@evil.org", False),
        ("https://acme.org.evil.org", False),
        ("http://192.0.2.1", False),
    ],
)
def test_a_key_goes_to_the_hosts_that_the_policy_names(
    tmp_path: Path, url: str, *, allowed: bool
) -> None:
    policies = policy(tmp_path, VARIABLES)
    for keys in (
        {"server": {"url": url, "api_key": "${SERVING_KEY}"}},
        {"server": {"url": url}, "benchmark": {"api_key": "${SERVING_KEY}"}},
    ):
        lines = refused(policies, spec_with(**keys))
        assert bool(lines) is not allowed
        assert all("rule 'variables' of the policy P:5" in line for line in lines)
        assert all("${SERVING_KEY} for inference.example.org" in line for line in lines)
    assert (
        "${HF_TOKEN} for "
        in refused(policies, spec_with({"url": url, "api_key": "${HF_TOKEN}"}))[0]
    )


def test_a_test_cannot_send_a_key_to_a_host_that_the_policy_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_KEY", "s3cr3t-key")
    policies = policy(tmp_path, VARIABLES.replace(", localhost", ""))
    spec = spec_with(benchmark={"api_key": "${SERVING_KEY}"})
    test = LoadTest(spec.raw, spec.benchmark, spec.slo, policies=policies)
    with closing(test), pytest.raises(PolicyError, match=r"\$\{SERVING_KEY\} for localhost is ref"):
        test("http://127.0.0.1:9")
    with closing(test), pytest.raises(PolicyError, match=r"\$\{HF_TOKEN\} for evil.org is refused"):
        test("http://evil.org", api_key="${HF_TOKEN}")
    with closing(test), pytest.raises(PolicyError, match="'vllm' is refused by the rule 'generato"):
        test("http://127.0.0.1:9", api_key="x", generator="vllm")


# What runs beside containers


def test_processes_urls_generators_and_prepare_are_refused_unless_allowed(tmp_path: Path) -> None:
    bare = policy(tmp_path, "{}")
    for keys, said in (
        ({"server": {"command": ["x"]}}, "/server/command: a server as a process of this machine"),
        ({"server": {"url": "http://10.0.0.1"}}, "/server/url: the host 10.0.0.1"),
        ({"benchmark": {"generator": "aiperf"}}, "/benchmark/generator: 'aiperf'"),
        ({"gate": {"prepare": ["make"]}}, "/gate/prepare: a command"),
    ):
        (line,) = refused(bare, spec_with(**keys))
        rule = {"server": "", "benchmark": "generators", "gate": "prepare"}[next(iter(keys))]
        rule = rule or ("command" if "command" in keys["server"] else "urls")
        assert line.startswith(f"inline: {said} is refused by the rule '{rule}' of the policy P")
    wide = policy(
        tmp_path,
        "command: true\ngenerators: [aiperf]\nprepare: true\n"
        "urls: [10.0.0.0/24, localhost, '*.acme.org']",
    )
    for server in ({"command": ["x"]}, {"url": "http://10.0.0.1"}, {"url": "http://127.0.0.1"}):
        more = {"benchmark": {"generator": "aiperf"}, "gate": {"prepare": ["make"]}}
        assert refused(wide, spec_with(server, **more)) == []
    for host in ("10.0.0.1.evil.org", "10.0.1.1", "acme.org", "xacme.org", "a.acme.org.evil.org"):
        (line,) = refused(wide, spec_with({"url": f"http://{host}"}))
        assert f"the host {host} is refused by the rule 'urls'" in line


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://u:p@db.acme.org:5432/x", ""),
        ("postgresql+psycopg://DB.acme.org/x?sslmode=require&connect_timeout=3", ""),
        ("mysql+pymysql://127.0.0.1/x", ""),
        ("postgresql://evil.org/x", "a database at evil.org"),
        ("postgresql://db.acme.org@evil.org/x", "a database at evil.org"),
        ("postgresql://db.acme.org,evil.org/x", "a database at db.acme.org,evil.org"),
        ("postgresql://evil.org,db.acme.org/x", "a database at evil.org,db.acme.org"),
        ("postgresql://%2Ftmp%2Fx.acme.org/x", "a database at %2ftmp%2fx.acme.org"),
        ("postgresql://db.acme.org/x?host=evil.org", "a database without a plain host"),
        ("postgresql://db.acme.org/x?service=evil", "a database without a plain host"),
        ("postgresql://db.acme.org/x?passfile=/root/.pgpass", "a database without a plain host"),
        ("postgresql:///x", "a database without a plain host"),
        ("sqlite:////etc/cron.d/x", "a database without a plain host"),
        ("no url", "a database without a plain host"),
    ],
)
def test_studies_are_kept_on_named_hosts(tmp_path: Path, url: str, host: str) -> None:
    listed = "storage: ['*.acme.org', localhost]"
    for text, allowed in (("{}", "none by default"), (listed, "*.acme.org, localhost")):
        try:
            policy(tmp_path, text).check_storage(url, "inline: /s")
            refusal = ""
        except PolicyError as error:
            refusal = re.sub(r"/\S+/policy\.yaml", "P", str(error))
        if text == "{}":
            assert "rule 'storage' of the policy P, which allows none by default" in refusal
        else:
            assert refusal == (host and no("/s", host, "storage", "P:1", allowed))
    policy(tmp_path, "storage: ['*']").check_storage(url, "anywhere")


def test_a_server_that_a_task_file_only_implies_matters_where_tests_use_it(tmp_path: Path) -> None:
    spec = make_spec(parameters={"a": [1]}, base_runtime="vllm")
    bare = policy(tmp_path, "{}")
    assert refused(bare, spec, serves=False) == []
    assert len(refused(bare, spec, serves=True)) == 1


def test_a_space_may_not_reach_beyond_the_gpus_of_the_policy(tmp_path: Path) -> None:
    policies = policy(tmp_path, "gpus: 4")
    spec = spec_with(parameters={"tp": [1, 2, 4, 8]})
    assert refused(policies, spec, gpus="tp") == [
        no("/", "up to tp GPUs for a trial", "gpus", "P:1", "at most 4"),
    ]
    assert refused(policies, spec, gpus="tp", params={"tp": 4}) == []
    assert len(refused(policies, spec, gpus="tp", params={"tp": 8})) == 1
    assert refused(policies, spec, gpus="2") == []
    assert len(refused(policies, spec, gpus="5")) == 1
    bounded = spec_with(parameters={"tp": [1, 2, 4, 8]}, constraints=["tp <= 4"])
    assert refused(policies, bounded, gpus="tp") == []
    policies.check_gpus(4, "a trial")
    for most in (5, None):
        with pytest.raises(PolicyError, match=r"a trial: (5|all) GPUs is refused by the rule"):
            policies.check_gpus(most, "a trial")


def test_all_that_is_refused_is_said_at_once_in_a_few_lines(bare: Policies) -> None:
    server = container(
        network="host", ipc="host", user="0", pids=99999, volumes=["/:/m", "/etc:/e"]
    )
    lines = refused(bare, spec_with(server))
    assert len(lines) == 6
    assert lines[-1] == "… and 1 more"


# Where policies come from


def test_without_one_nothing_is_refused() -> None:
    policies = load_policies(NOWHERE, None, [])
    assert not policies
    assert refused(policies, spec_with(container(network="host", ipc="host"))) == []


def test_of_two_policies_each_can_only_refuse_more(tmp_path: Path) -> None:
    system = tmp_path / "system.yaml"
    system.write_text(f"{ALLOWS_IMAGE}networks: [bridge, host]")
    both = policy(tmp_path, f"{ALLOWS_IMAGE}networks: ['*']\nipc: [host, private]", system)
    assert [each.origin.file for each in both.held] == [str(system), f"{tmp_path}/policy.yaml"]
    assert refused(both, spec_with(container(network="host"))) == []
    (line,) = refused(both, spec_with(container(network="db")))
    assert f"rule 'networks' of the policy {system}:2, which allows bridge, host" in line
    (line,) = refused(both, spec_with(container(ipc="host")))
    assert f"rule 'ipc' of the policy {system}, which allows private by default" in line


def test_a_policy_that_both_name_holds_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("{}")
    assert len(load_policies(path, str(path), []).held) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the policy is empty, and says neither"),
        ("# nothing\n", "the policy is empty, and says neither"),
        ("images: [", r"policy\.yaml:1:10: not valid YAML: "),
        ("[]", r"policy\.yaml:1:1: /: \[\] is not a mapping"),
        ("images: acme\n", r"policy\.yaml:1:1: /images: \"acme\" is not a list"),
        (
            "\nimage: []",
            r"policy\.yaml:2:1: /image: unknown key 'image' \(did you mean 'images'\?\)",
        ),
        ("command: yes", r"/command: \"yes\" is not true or false"),
        ("gpus: 0", "/gpus: 0 is below the minimum of 1"),
        ("memory: lots", r"policy\.yaml:1:1: /memory: \"lots\" is not a size such as 512m or 8g"),
        ("volumes: [models/x]", "'models/x' is not an absolute path, nor the name of a volume"),
        ("volumes: [~/models]", "'~/models' is not an absolute path, nor the name of a volume"),
        ("volumes: ['/a:/b']", "'/a:/b' is not /FOLDER, /FOLDER:rw or the name of a volume"),
        ("variables: {TOKEN: {host: [a]}}", r"unknown key 'host' \(did you mean 'hosts'\?\)"),
        ("generators: [vlm]", r"\"vlm\" is not one of .* \(did you mean 'vllm'\?\)"),
        (
            "images: [acme/a:1]\nrequire_digest: true",
            "/images/0: 'acme/a:1' names a tag, which no image with a digest matches",
        ),
        ("images: []\nimages: ['*']", "appears twice"),
        ("urls: ['10.0.0.*']", r"/urls/0: '10\.0\.0\.\*' is not a host; write a name, \*\.example"),
        ("variables: {A: {hosts: [a, 'b*']}}", "/variables/A/hosts/1: 'b\\*' is not a host"),
        ("urls: ['http://a']", "'http://a' is not a host"),
    ],
)
def test_a_policy_that_cannot_be_understood_is_an_error(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(PolicyError, match=said):
        policy(tmp_path, text)


def _unusable(tmp_path: Path) -> Iterator[tuple[str, str]]:
    yield "", "PYTEST_AUTOTUNE_POLICY=: it is empty; name the policy's file, or unset the"
    yield "policy.yaml", "PYTEST_AUTOTUNE_POLICY=policy.yaml: it is not an absolute path"
    yield f"{tmp_path}/absent.yaml", "absent.yaml: no such file"
    yield str(tmp_path), "cannot be read: Is a directory"
    yield "/dev/zero", "cannot be read: it is a device or a pipe"
    yield f"{tmp_path}/a\0b", "the policy cannot be read"


def test_a_policy_that_cannot_be_read_is_an_error_not_none(tmp_path: Path) -> None:
    for given, said in _unusable(tmp_path):
        with pytest.raises(PolicyError) as refusal:
            load_policies(NOWHERE, given, [])
        assert said in str(refusal.value)
    dangling = tmp_path / "system.yaml"
    dangling.symlink_to("nowhere")
    with pytest.raises(PolicyError, match="no such file"):
        load_policies(dangling, None, [])


def test_a_file_needs_no_suffix(tmp_path: Path) -> None:
    """GitLab writes variables of the type 'file' to such."""
    path = tmp_path / "PYTEST_AUTOTUNE_POLICY"
    path.write_text("images: [acme/*]\n")
    assert len(load_policies(NOWHERE, str(path), []).held) == 1


def test_a_policy_in_the_repository_that_it_is_to_hold_for_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    tests = repository / "sub" / "tests"
    tests.mkdir(parents=True)
    inside, outside = repository / "policy.yaml", tmp_path / "outside.yaml"
    link, back = tmp_path / "link.yaml", tests / "link.yaml"
    inside.write_text("{}")
    outside.write_text("{}")
    link.symlink_to(inside)
    back.symlink_to(outside)
    said = f"the policy lies in {repository}, whose tests it is to hold for"
    for path in (inside, link):
        with pytest.raises(PolicyError, match=said):
            load_policies(NOWHERE, str(path), [repository])
        with pytest.raises(PolicyError, match=said):
            load_policies(path, None, [repository])
    # Tests in a folder of a git repository, or of a submodule.
    (repository / ".git").mkdir()
    (repository / "sub" / ".git").write_text("gitdir: ../.git/modules/sub")
    with pytest.raises(PolicyError, match=said):
        load_policies(NOWHERE, str(inside), [tests])
    for path in (outside, back):
        assert load_policies(NOWHERE, str(path), [tests])
    assert load_policies(NOWHERE, str(outside), [Path("/")])


def test_placeholders_without_a_value_are_said_as_without_a_policy(bare: Policies) -> None:
    with pytest.raises(LaunchError, match="is no parameter of this trial"):
        refused(bare, spec_with(container(environment={"X": "{nothing}"})))


def test_the_documented_policy_is_one_and_every_key_is_documented(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert policy(tmp_path, example)
    schema = resources.files("pytest_autotune.policy").joinpath("schema.json").read_text("utf-8")
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == set(json.loads(schema)["properties"])
