"""A stranger's pull request under the policy of a machine: each attack, and each way around it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containers import Engine
from gated import Gated
from inner import Runs
from serving import MODULE, Serving, process

from pytest_autotune.plugin import policy_files

VARIABLE = "PYTEST_AUTOTUNE_POLICY"
IMAGE = "ghcr.io/acme/server:1"
STRICT = "images: [ghcr.io/acme/server]\n"
WIDE = """
images: ['*', '*/*', ghcr.io/acme/server]
volumes: ['/:rw', 'data:rw']
networks: ['*']
ipc: ['*']
users: ['*']
capabilities: [ALL]
variables: {ANY_SECRET: {environment: true, hosts: ['*']}}
urls: ['*']
storage: ['*']
generators: [aiperf, guidellm, vllm]
command: true
prepare: true
"""


NOWHERE = Path("/no/such/policy.yaml")


@dataclass(frozen=True)
class Machine:
    """A folder outside of every repository, with the policies of one machine, and runs there."""

    folder: Path
    pytester: pytest.Pytester
    monkeypatch: pytest.MonkeyPatch

    def policy(self, text: str, name: str = "policy.yaml") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(
        self, *args: str, given: str | None = None, system: str | None = None, status: int = 4
    ) -> str:
        """Run pytest in this process, as if it had begun with ``given``."""
        self.monkeypatch.setenv(VARIABLE, given or "")
        self.monkeypatch.setattr(policy_files, "GIVEN", given)
        self.monkeypatch.setattr(policy_files, "SYSTEM", Path(system or NOWHERE))
        result = self.pytester.runpytest_inprocess("--autotune", *args)
        text = f"{result.stdout}\n{result.stderr}"
        assert result.ret == status, text
        assert "INTERNALERROR" not in text
        return text


@pytest.fixture
def machine(
    tmp_path_factory: pytest.TempPathFactory,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"), pytester, monkeypatch)


@pytest.fixture
def serving(pytester: pytest.Pytester) -> Iterator[Serving]:
    """An empty project, for runs in this process and in others."""
    found = Serving(pytester.path)
    yield found
    found.stop()


#: What a spec asks for, the rule that refuses it, and the words.
ATTACKS: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "root": ({"volumes": ["/:/stolen"]}, "volumes", "/"),
    "socket": ({"volumes": ["/var/run:/stolen:rw"]}, "volumes", "/run"),
    "upwards": ({"volumes": [f"{'../' * 24}etc:/stolen"]}, "volumes", "/etc"),
    "link": ({"volumes": ["./weights:/stolen"]}, "volumes", "/etc"),
    "volume": ({"volumes": ["data:/stolen"]}, "volumes", "data"),
    "network": ({"network": "host"}, "networks", "network host"),
    "ipc": ({"ipc": "host"}, "ipc", "ipc host"),
    "user": ({"user": "0:0"}, "users", "user 0:0"),
    "capabilities": ({"capabilities": ["SYS_ADMIN"]}, "capabilities", "CAP_SYS_ADMIN"),
    "image": ({"image": "evil/miner:1"}, "images", "evil/miner:1"),
    "secret": (
        {"environment": {"X": "${ANY_SECRET}"}},
        "variables",
        "${ANY_SECRET} for a server",
    ),
    "key": (
        {"image": None, "url": "http://evil.example", "api_key": "${ANY_SECRET}"},
        "variables",
        "${ANY_SECRET} for evil.example",
    ),
    "url": ({"image": None, "url": "http://evil.example"}, "urls", "the host evil.example"),
    "command": (
        {"image": None, "command": ["sh", "-c", "{port}"]},
        "command",
        "a server as a process of this machine",
    ),
}


def attack(serving: Serving, **more: Any) -> None:
    """Write a project with a study for each attack, and one that prepares checkouts."""
    (serving.path / "weights").unlink(missing_ok=True)
    (serving.path / "weights").symlink_to("/etc")
    specs = {
        name: {
            "parameters": {"a": [1, 2]},
            "optimization": {"objective": "minimize:cost"},
            "server": {k: v for k, v in ({"image": IMAGE} | server).items() if v is not None},
            **more,
        }
        for name, (server, _, _) in ATTACKS.items()
    }
    server = {"server": {"image": IMAGE}}
    specs["prepare"] = {**specs["root"], **server, "gate": {"prepare": ["curl", "evil.example"]}}
    specs["load key"] = {**specs["root"], **server, "benchmark": {"api_key": "${ANY_SECRET}"}}
    specs["generator"] = {**specs["root"], **server, "benchmark": {"generator": "vllm"}}
    (serving.path / "autotune.json").write_text(json.dumps(specs))
    module = "import pytest\n" + "".join(
        textwrap.dedent(f"""
            @pytest.mark.autotune({name!r})
            def test_{name.replace(" ", "_")}(trial, inference_server):
                open("ran", "w").close()
                trial.report({{"cost": 1}})
            """)
        for name in specs
    )
    (serving.path / "test_attacks.py").write_text(module)


def refusals(text: str) -> dict[str, str]:
    """Return the refusals that a run printed, by the name of the spec."""
    lines = (line.removeprefix("ERROR: ") for line in text.splitlines() if "is refused by" in line)
    return {line.split(": /", 1)[1].split("/")[0]: line.split(": ", 2)[2] for line in lines}


def test_each_attack_of_a_spec_ends_the_run_before_anything_starts(
    serving: Serving, machine: Machine
) -> None:
    attack(serving)
    policy = machine.policy(STRICT)
    machine.monkeypatch.setenv("ANY_SECRET", "s3cr3t-value")
    text = machine.run("--autotune-lock", given=policy)
    found = refusals(text)
    for name, (_, rule, what) in ATTACKS.items():
        place = f"{policy}:1" if rule == "images" else policy
        allowed = "ghcr.io/acme/server" if rule == "images" else ""
        line = f"{what} is refused by the rule '{rule}' of the policy {place}, which allows "
        assert found[name].startswith(line + allowed), text
    assert "a command is refused by the rule 'prepare'" in found["prepare"]
    assert "${ANY_SECRET} for localhost is refused by the rule 'variables'" in found["load key"]
    assert "'vllm' is refused by the rule 'generators'" in found["generator"]
    assert not (serving.path / "ran").exists()
    assert not (serving.path / "autotune.lock.json").exists()
    assert "s3cr3t" not in text


def test_workers_hold_studies_against_the_policy_of_their_run(
    serving: Serving, machine: Machine
) -> None:
    """Not against one that xdist is told to give them."""
    attack(serving)
    strict, wide = machine.policy(STRICT), machine.policy(WIDE, "wide.yaml")
    workers = f"--tx=2*popen//env:{VARIABLE}={wide}"
    text = serving.run(workers, "--dist=load", status=4, PYTEST_AUTOTUNE_POLICY=strict)
    assert set(refusals(text)) >= {*ATTACKS, "prepare", "load key", "generator"}
    assert not (serving.path / "ran").exists()


def test_under_a_wide_policy_no_rule_refuses_them(serving: Serving, machine: Machine) -> None:
    attack(serving)
    text = serving.run(
        "--collect-only", "-q", status=0, PYTEST_AUTOTUNE_POLICY=machine.policy(WIDE)
    )
    assert refusals(text) == {}
    assert text.count("::test_") == 2 * (len(ATTACKS) + 3)


def test_what_is_replayed_or_selected_is_held_to_the_policy_too(
    serving: Serving, machine: Machine
) -> None:
    attack(serving, replay={"file": "recorded.csv"})
    (serving.path / "recorded.csv").write_text("a,cost\n1,1\n2,2\n")
    policy = machine.policy(STRICT)
    assert set(refusals(machine.run(given=policy))) >= set(ATTACKS)
    assert set(refusals(machine.run("-k", "ipc", given=policy))) == {"ipc"}


# Ways around a policy

HOST = {"image": IMAGE, "network": "host"}
REFUSED = "network host is refused by the rule 'networks' of the policy"


@pytest.fixture
def project(serving: Serving) -> Serving:
    """A project with one study, whose container wants this machine's network."""
    serving.write(HOST)
    return serving


@pytest.mark.usefixtures("project")
def test_a_variable_can_only_narrow_the_policy_of_the_machine(machine: Machine) -> None:
    strict, wide = machine.policy(STRICT), machine.policy(WIDE, "wide.yaml")
    for given, system in ((wide, strict), (None, strict), (strict, wide), (strict, None)):
        text = machine.run(given=given, system=system)
        assert f"{REFUSED} {strict}, which allows bridge by default" in text
        files = " and ".join(filter(None, (system, given)))
        assert f"autotune: policy {files}\n" in text


def test_a_variable_that_the_repository_sets_is_not_heeded(
    project: Serving, machine: Machine
) -> None:
    """As pytest-env sets some from an ini file, before studies are collected."""
    strict, wide = machine.policy(STRICT), machine.policy(WIDE, "wide.yaml")
    for line, arguments in (
        (f"os.environ[{VARIABLE!r}] = {wide!r}", ()),
        (f"os.environ.pop({VARIABLE!r}, None)", ("-n1",)),
    ):
        (project.path / "conftest.py").write_text(f"import os\n{line}\n")
        text = project.run(*arguments, status=4, PYTEST_AUTOTUNE_POLICY=strict)
        assert f"{REFUSED} {strict}, " in text


def test_neither_options_nor_keys_of_a_spec_set_a_policy(
    project: Serving, machine: Machine
) -> None:
    strict, wide = machine.policy(STRICT), machine.policy(WIDE, "wide.yaml")
    ini = project.path / "pytest.ini"
    ini.write_text(f"[pytest]\nautotune_policy = {wide}\n")
    assert REFUSED in machine.run(given=strict)
    ini.unlink()
    text = machine.run(f"--autotune-policy={wide}", given=strict)
    assert "unrecognized arguments: --autotune-policy" in text
    project.write(HOST, policy={"networks": ["host"]})
    assert "unknown key 'policy'" in machine.run(given=strict)


def test_a_policy_in_the_repository_or_without_sense_ends_the_run(
    project: Serving, machine: Machine
) -> None:
    inside = project.path / "policy.yaml"
    inside.write_text(WIDE)
    text = machine.run(given=str(inside))
    assert f"ERROR: {VARIABLE}={inside}: the policy lies in {project.path}, whose tests" in text
    text = machine.run(system=machine.policy("network: [host]"))
    assert "unknown key 'network' (did you mean 'networks'?); known: " in text
    assert "test session starts" not in text
    for given, said in (
        ("/no/such/file.yaml", "/no/such/file.yaml: no such file (the policy of this machine)"),
        ("", f"{VARIABLE}=: it is empty"),
    ):
        assert said in machine.run(given=given)


def test_a_run_without_studies_asks_for_no_policy(project: Serving) -> None:
    (project.path / "test_other.py").write_text("def test_it(): pass\n")
    plain = Runs(project.path)
    assert "1 passed" in plain.run(status=0, PYTEST_AUTOTUNE_POLICY="/no/such/file.yaml")


def test_what_a_test_asks_for_as_it_runs_is_refused_then(
    serving: Serving, machine: Machine
) -> None:
    """No fixture of it tells that it will."""
    module = """
        import pytest

        @pytest.mark.autotune("served")
        def test_server(trial, request):
            request.getfixturevalue("inference_server")

        @pytest.mark.autotune("served")
        def test_load(trial, load_test):
            load_test("http://127.0.0.1:9", api_key="${ANY_SECRET}")
    """
    spec = {"parameters": {"a": [1]}, "base_runtime": "vllm", "model": {"id_or_path": "m"}}
    (serving.path / "autotune.json").write_text(json.dumps({"served": spec}))
    (serving.path / "test_served.py").write_text(textwrap.dedent(module))
    text = machine.run("-rA", given=machine.policy(STRICT), status=1)
    assert "vllm/vllm-openai:v0.31.0 is refused by the rule 'images'" in text
    assert "${ANY_SECRET} for localhost is refused by the rule 'variables'" in text


def test_studies_are_kept_in_no_database_that_the_policy_does_not_name(
    serving: Serving, machine: Machine
) -> None:
    strict = machine.policy(STRICT)
    url = f"sqlite:///{machine.folder}/made.db"
    said = (
        f"a database without a plain host is refused by the rule 'storage' of the policy {strict}"
    )
    serving.write({"image": IMAGE})
    assert f"--autotune-storage: {said}" in machine.run(f"--autotune-storage={url}", given=strict)
    serving.write({"image": IMAGE}, optimization={"objective": "minimize_ttft", "storage": url})
    assert f"/served/optimization/storage: {said}" in machine.run(given=strict)
    assert not (machine.folder / "made.db").exists()


# The gate


def test_the_gate_prepares_no_checkout_unless_the_policy_allows_it(
    repository: Gated, machine: Machine
) -> None:
    gate = {"alpha": 0.4, "power": 0.6, "max_launches": 4, "prepare": ["touch", "made"]}
    repository.spec(gate)
    repository.pin()
    repository.commit("one")
    repository.commit("two")
    strict = machine.policy("{}")
    text = repository.compare(status=4, PYTEST_AUTOTUNE_POLICY=strict)
    assert f"a command is refused by the rule 'prepare' of the policy {strict}, " in text


def test_of_a_pinned_study_what_is_pinned_is_held_to_the_policy(
    repository: Gated, machine: Machine
) -> None:
    strict = machine.policy(STRICT)
    repository.spec(parameters={"image": [IMAGE, "evil/x:1"]}, server={"image": "{image}"})
    repository.pin(parameters={"image": IMAGE})
    repository.gate("--collect-only", status=0, PYTEST_AUTOTUNE_POLICY=strict)
    repository.pin(parameters={"image": "evil/x:1"})
    text = repository.gate("--collect-only", status=4, PYTEST_AUTOTUNE_POLICY=strict)
    assert f"evil/x:1 is refused by the rule 'images' of the policy {strict}:1, which" in text


@pytest.mark.slow
def test_launches_of_an_old_revision_are_held_to_the_policy(
    repository: Gated, machine: Machine
) -> None:
    """Whatever the environment became meanwhile."""
    strict, wide = machine.policy("{}"), machine.policy(WIDE, "wide.yaml")
    repository.spec(server={"image": IMAGE, "network": "host"})
    repository.commit("a spec that asks for too much")
    repository.write("autotune.json", "{}")
    repository.spec()
    repository.write("conftest.py", f"import os\nos.environ[{VARIABLE!r}] = {wide!r}\n")
    repository.pin()
    repository.commit("one that does not")
    text = repository.compare("HEAD~", "--autotune-strict", status=1, PYTEST_AUTOTUNE_POLICY=strict)
    assert "the old revision gave nothing to compare with: pytest does not start there" in text
    assert f"{REFUSED} {strict}, " in text


# Real servers


def test_a_server_that_the_policy_allows_runs_and_the_header_names_the_policy(
    serving: Serving, machine: Machine
) -> None:
    policy = machine.policy("command: true\nvariables: {ANY_SECRET: {environment: true}}\n")
    serving.write(process(environment={"X": "${ANY_SECRET}"}))
    text = serving.run(status=0, PYTEST_AUTOTUNE_POLICY=policy, ANY_SECRET="s3cr3t-value")
    assert f"autotune: policy {policy}\n" in text


@pytest.fixture
def contained(serving: Serving, engine: Engine, machine: Machine) -> Iterator[str]:
    """A project whose container needs some folders, and a policy that allows just these."""
    block = engine.server(memory="1g", shm_size="64m", pids=200)
    sources = json.dumps([volume.split(":")[0] for volume in block["volumes"]])
    image = engine.image.partition(":")[0]
    policy = f"images: ['{image}']\nvolumes: {sources}\nmemory: 1g\nshm_size: 64m\npids: 200\n"
    serving.write(block, MODULE)
    yield machine.policy(policy)
    assert engine.containers() == []


def test_a_container_that_the_policy_allows_runs(serving: Serving, contained: str) -> None:
    assert "4 passed" in serving.run(status=0, PYTEST_AUTOTUNE_POLICY=contained)
