"""The containers of one project on a real Docker engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import docker
from serving import SCRIPTED

from pytest_autotune.serving.docker import project_digest

PROJECT = "org.pytest-autotune.project"


class Engine:
    """The Docker engine, as one project's tests look at it."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.client = docker.from_env()
        self.label = f"{PROJECT}={project_digest(str(folder))}"

    def containers(self) -> list[Any]:
        return list(self.client.containers.list(all=True, filters={"label": self.label}))

    def server(self, *arguments: str, **keys: Any) -> dict[str, Any]:
        """Return a server block that runs this machine's Python in an empty image."""
        folders = [path for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir()]
        base = sys.base_prefix
        if not base.startswith("/usr"):
            folders.append(base)
        return {
            "image": self.image,
            "volumes": [f"{f}:{f}:ro" for f in folders] + [f"{SCRIPTED.parent}:/scripts:ro"],
            "entrypoint": [f"{base}/bin/python3", "/scripts/scripted_server.py"],
            # Tokens one by one, as what arrives in one piece shows no TTFT.
            "command": ["--host", "{host}", "--port", "{port}", "--itl", "0.004", *arguments],
            "startup_timeout": 20,
            "stop_timeout": 2,
            **keys,
        }
