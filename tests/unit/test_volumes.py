"""Which folders of this machine a container gets, and that it may not write to them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pytest_autotune.errors import LaunchError
from pytest_autotune.serving.volumes import volume

DEFAULTS = [
    ("/usr:/usr", "/usr:/usr:ro"),
    ("/usr:/usr:ro", "/usr:/usr:ro"),
    ("/usr:/usr:rw", "/usr:/usr:rw"),
    ("/usr:/usr:z", "/usr:/usr:ro,z"),
    ("/usr:/usr:rw,Z", "/usr:/usr:rw,Z"),
    ("models:/models", "models:/models:ro"),
    ("models:/models:nocopy,rw", "models:/models:nocopy,rw"),
]


@pytest.mark.parametrize(("written", "given"), DEFAULTS)
def test_a_container_may_only_write_where_its_spec_says_so(written: str, given: str) -> None:
    assert volume(written, Path("/"), "here") == given


def refused(written: str, folder: Path = Path("/")) -> str:
    with pytest.raises(LaunchError) as caught:
        volume(written, folder, "spec.yaml:3: /server/volumes/0")
    text = str(caught.value)
    assert text.startswith("spec.yaml:3: /server/volumes/0: ")
    return text.removeprefix("spec.yaml:3: /server/volumes/0: ")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("/usr:/usr:ro,rw", "says both ro and rw"),
        ("/usr:/usr:rshared", "ends with 'rshared'; ro, rw, z, Z and nocopy are known"),
        ("/usr:/usr:RW", "ends with 'RW'"),
        ("/usr:/usr:rw:x", "ends with 'rw:x'"),
        ("/usr:/usr:,", "ends with ''"),
    ],
)
def test_what_follows_the_folder_is_known_or_refused(written: str, said: str) -> None:
    assert said in refused(written)


@pytest.mark.parametrize("source", ["/", "/.", "/usr/..", "//"])
def test_the_whole_machine_is_given_to_no_container(source: str) -> None:
    assert "which is given to no container; name the folder" in refused(f"{source}:/host:ro")


@pytest.mark.parametrize("source", ["~nobody-of-this-name/x", "/usr/\0", "/proc/1/root/x"])
def test_a_path_that_leads_nowhere_is_a_mistake_and_no_crash(source: str) -> None:
    assert refused(f"{source}:/x")


def test_nor_is_a_folder_that_holds_the_engines_socket_or_a_link_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "engine" / "inner" / "docker.sock"
    engine.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(engine.parent)  # A socket's path must be short.
        listening.bind("docker.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine}")
        (tmp_path / "innocent").symlink_to(tmp_path / "engine")
        assert "is the container engine's socket" in refused(f"{engine}:/s")
        for source in (engine.parent, tmp_path / "engine", tmp_path / "innocent", tmp_path):
            assert "holds the container engine's socket" in refused(f"{source}:/s:ro")
        assert "holds the container engine's socket" in refused("./innocent/..:/s", tmp_path)
        # Whose ever it is.
        monkeypatch.delenv("DOCKER_HOST")
        assert "docker.sock is a socket" in refused(f"{engine}:/s")


@pytest.mark.parametrize("source", ["/run", "/var/run", "/var"])
def test_the_places_where_engines_listen_are_known(source: str) -> None:
    assert "given to no container" in refused(f"{source}:/x:ro")


@pytest.mark.parametrize("source", ["/etc", "/etc/passwd", "/proc", "/sys", "/dev", "/dev/null"])
def test_the_systems_own_folders_are_given_to_none(source: str) -> None:
    assert "is or holds a part of" in refused(f"{source}:/x")


def test_a_relative_path_cannot_leave_for_them(tmp_path: Path) -> None:
    up = "../" * len(tmp_path.parts)
    assert "is or holds a part of /etc" in refused(f"{up}etc:/x", tmp_path)
    assert "is this whole machine" in refused(f"{up}:/x", tmp_path)


def test_certificates_and_shared_memory_are_no_secret() -> None:
    for harmless in ("/dev/shm", "/etc/ssl/certs"):  # noqa: S108 - a name only
        if Path(harmless).exists():
            assert volume(f"{harmless}:/x", Path("/"), "").endswith(":/x:ro")


def test_a_users_keys_are_given_to_no_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    given = volume("~/.cache/huggingface:/cache", tmp_path, "")
    assert given == f"{tmp_path}/.cache/huggingface:/cache:ro"
    # Nothing is in the way where there are no keys.
    assert volume("~:/home", tmp_path, "") == f"{tmp_path}:/home:ro"
    (tmp_path / ".ssh").mkdir()
    for source in ("~", "~/.ssh", str(tmp_path), "./.cache/.."):
        assert f"is or holds a part of {tmp_path}/.ssh" in refused(f"{source}:/x", tmp_path)
